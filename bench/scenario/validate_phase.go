package scenario

import (
	"fmt"
	"time"
)

// Events that come faster than these would not be over before they come again.
const (
	shortestEvery   = 100 * time.Millisecond
	shortestRestart = 5 * time.Second // a crashed replica is started again after 2 s
)

func (s *Scenario) checkPhases(c *collector) {
	seen := map[string]bool{}
	for i := range s.Phases {
		p, path := &s.Phases[i], fmt.Sprintf("phases[%d].", i)
		checkName(c, path+"name", p.Name)
		if seen[p.Name] {
			c.at(path+"name", "%s is another phase's: give it a name of its own", quote(p.Name))
		}
		seen[p.Name] = true
		s.checkPhaseLoads(c, path, p)
		s.checkTimes(c, path, p)
		p.checkEvents(c, path)
	}
}

func (s *Scenario) checkPhaseLoads(c *collector, path string, p *Phase) {
	if len(p.Loads) == 0 {
		c.at(path+"loads", "names none: name one, or take it away for all")
	}
	seen := map[string]bool{}
	for i := range p.Loads {
		of, at := &p.Loads[i], fmt.Sprintf("%sloads[%d]", path, i)
		l, ok := s.LoadNamed(of.Load)
		switch {
		case !ok:
			c.at(at+".load", "there is no load %s", quote(of.Load))
		case seen[of.Load]:
			c.at(at+".load", "%s is in the phase twice: describe a second load", quote(of.Load))
		default:
			of.check(c, at, &l)
		}
		seen[of.Load] = true
	}
}

func (of *PhaseLoad) check(c *collector, path string, l *Load) {
	checkRange(c, path+".concurrency", of.Concurrency, 1, mostCallers)
	switch {
	case l.Loop == Closed && of.Rate != 0 && l.Rate == 0:
		c.at(path+".rate", "load %s is a closed loop, which has none: write loop: open there, or concurrency here", quote(l.Name))
	case l.Loop == Open && of.Rate == 0:
		c.at(path+".rate", "load %s is an open loop, and has no rate in this phase: set one here or at the load", quote(l.Name))
	default:
		checkRate(c, path+".rate", of.Rate)
	}
}

func (s *Scenario) checkTimes(c *collector, path string, p *Phase) {
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"ramp", p.Ramp}, {"warmup", p.Warmup}, {"duration", p.Duration}} {
		if t.d < 0 || t.d > longestPhase {
			c.at(path+t.name, "%v is out of range: use 0 to %v", t.d, longestPhase)
		}
	}
	if len(p.Loads) == 0 {
		return
	}
	if p.Duration == 0 && s.anyLoad(p, func(l *Load) bool { return !l.ends() }) {
		c.at(path+"duration", "is missing: only a phase whose loads all draw each tenant once ends by itself")
	}
	if p.Ramp > 0 && !s.anyLoad(p, func(l *Load) bool { return l.Loop == Open }) {
		c.at(path+"ramp", "goes from one rate to another, and no load of the phase has a rate: use warmup, or loop: open")
	}
	if p.Ramp+p.Warmup > 0 && s.anyLoad(p, (*Load).ends) {
		c.at(path+"warmup", "a load that draws each tenant once would draw those that are left out of the figures: take ramp and warmup away, or give the load a phase of its own")
	}
}

func (p *Phase) checkEvents(c *collector, path string) {
	if len(p.Events) > mostEvents {
		c.at(path+"events", "there are %d: use at most %d, or every:", len(p.Events), mostEvents)
	}
	for i := range p.Events {
		p.Events[i].check(c, fmt.Sprintf("%sevents[%d].", path, i), p.Duration)
	}
}

func (e *Event) check(c *collector, path string, phase time.Duration) {
	checkOneOf(c, path+"do", e.Do, Reload, Crash, Drain, Stall)
	if e.At < 0 || phase > 0 && e.At >= phase {
		c.at(path+"at", "%v is not within the phase, which lasts %v from the end of its warm-up", e.At, phase)
	}
	if e.Every != 0 && e.Every < e.shortest() {
		c.at(path+"every", "%v is too short for %s to be over: use %v at least", e.Every, e.Do, e.shortest())
	}
	switch {
	case e.Do == Stall && (e.For <= 0 || e.For > longestTimeout):
		c.at(path+"for", "%v is out of range: use more than 0, and at most %v", e.For, longestTimeout)
	case e.Do != Stall && e.For != 0:
		c.at(path+"for", "belongs to do: stall")
	}
}

// shortest is the least time between two of them.
func (e *Event) shortest() time.Duration {
	switch e.Do {
	case Crash, Drain:
		return shortestRestart
	case Stall:
		return e.For + shortestEvery
	}
	return shortestEvery
}
