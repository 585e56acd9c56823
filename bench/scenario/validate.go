package scenario

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds. They are what a single machine can do with room to spare: a number beyond them is a slip, or would exhaust ports or memory
// before it measured anything.
const (
	mostTenants     = 100_000
	mostRegistered  = 1_000_000
	mostPoints      = 16
	mostConnections = 50_000
	smallestAnswer  = 64 // a canary and its frame
	mostAnswerBytes = 16 << 20
	mostReplicas    = 9
	mostCores       = 1024
	mostRate        = 1_000_000
	mostCallers     = 65_536
	mostMessages    = 1_000_000
	mostSkew        = 10
	mostLoads       = 32
	mostPhases      = 100
	mostEvents      = 100
	longestPhase    = 24 * time.Hour
	longestTimeout  = 10 * time.Minute
	longestAbout    = 500
)

// namePattern is that of names here, and of tenants.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate checks a complete scenario, such as one that was changed after it was read. An error is Problems, which say where by the
// path of the field.
func (s *Scenario) Validate() error {
	c := &collector{}
	s.check(c)
	return c.err()
}

// check adds what is wrong.
func (s *Scenario) check(c *collector) {
	checkName(c, "name", s.Name)
	if len(s.About) > longestAbout || strings.ContainsFunc(s.About, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		c.at("about", "is a sentence of at most %d characters", longestAbout)
	}
	s.Site.check(c)
	if s.Capacity != nil {
		s.checkCapacityAlone(c)
		s.Capacity.check(c)
		return
	}
	if len(s.Loads) == 0 || len(s.Loads) > mostLoads {
		c.at("loads", "there are %d: describe 1 to %d, or capacity: in their place", len(s.Loads), mostLoads)
	}
	if len(s.Phases) == 0 || len(s.Phases) > mostPhases {
		c.at("phases", "there are %d: describe 1 to %d, such as - {name: all, duration: 10s}", len(s.Phases), mostPhases)
	}
	s.checkLoads(c)
	s.checkPhases(c)
}

func (s *Scenario) checkCapacityAlone(c *collector) {
	if len(s.Loads) > 0 || len(s.Phases) > 0 {
		c.at("capacity", "is measured alone: take loads and phases away, or make two scenarios")
	}
}

func (s *Site) check(c *collector) {
	checkRange(c, "site.tenants", s.Tenants, 1, mostTenants)
	checkRange(c, "site.answer_bytes", s.AnswerBytes, smallestAnswer, mostAnswerBytes)
	checkRange(c, "site.replicas", s.Replicas, 1, mostReplicas)
	checkRange(c, "site.cores", s.Cores, 1, mostCores)
}

func (y *Capacity) check(c *collector) {
	if len(y.Registered) == 0 || len(y.Registered) > mostPoints {
		c.at("capacity.registered", "has %d numbers of tenants: list 1 to %d, such as [0, 1000]", len(y.Registered), mostPoints)
		return
	}
	for i, n := range y.Registered {
		path := fmt.Sprintf("capacity.registered[%d]", i)
		checkRange(c, path, n, 0, mostRegistered)
		if slices.Contains(y.Registered[:i], n) {
			c.at(path, "%d is there twice: take one away", n)
		}
	}
	most := slices.Max(y.Registered)
	checkRange(c, "capacity.active", y.Active, 0, mostRegistered)
	if y.Active > most {
		c.at("capacity.active", "%d of at most %d registered tenants cannot be active: use fewer, or register more", y.Active, most)
	}
	checkRange(c, "capacity.connected", y.Connected, 0, mostConnections)
	checkRange(c, "capacity.streams", y.Streams, 0, mostConnections)
}

func (s *Scenario) checkLoads(c *collector) {
	seen := map[string]bool{}
	for i := range s.Loads {
		l, path := &s.Loads[i], fmt.Sprintf("loads[%d]", i)
		l.check(c, path+".")
		if seen[l.Name] {
			c.at(path+".name", "%s is another load's: give it a name of its own", quote(l.Name))
		}
		seen[l.Name] = true
		l.Tenants.checkWithin(c, path+".tenants", s.Site.Tenants)
		if !s.called(l.Name) {
			c.at(path, "no phase has it: add it to the loads of a phase, or take it away")
		}
	}
}

// called tells whether a phase has the load.
func (s *Scenario) called(name string) bool {
	return slices.ContainsFunc(s.Phases, func(p Phase) bool {
		return len(p.Loads) == 0 || slices.ContainsFunc(p.Loads, func(l PhaseLoad) bool { return l.Load == name })
	})
}

func checkName(c *collector, path, name string) {
	switch {
	case name == "":
		c.at(path, "is missing: name it with a-z, 0-9 and -")
	case !namePattern.MatchString(name):
		c.at(path, "%s is no name: use a-z, 0-9 and -, at most 63 of them", quote(name))
	}
}

func checkRange(c *collector, path string, n, least, most int) {
	if n < least || n > most {
		c.at(path, "%d is out of range: use %d to %d", n, least, most)
	}
}

// checkOneOf adds a problem unless v is one of known.
func checkOneOf[T ~string](c *collector, path string, v T, known ...T) {
	if slices.Contains(known, v) {
		return
	}
	words := make([]string, len(known))
	for i, k := range known {
		words[i] = string(k)
	}
	c.at(path, "%s is unknown here: known are %s", quote(string(v)), strings.Join(words, ", "))
}

func quote(s string) string { return strconv.Quote(clip(s)) }
