package scenario

import (
	"fmt"
	"strings"
	"time"
)

// What a scenario that does not say has. The limits of concurrency are those that two cores and a laptop's ports can take.
const (
	defaultTenants     = 8
	defaultAnswer      = 520
	defaultTimeout     = 10 * time.Second
	closedCallers      = 32
	openCallers        = 256
	defaultMessage     = 64
	defaultMessages    = 10
	defaultStall       = time.Second
	defaultActive      = 1000
	defaultConnections = 1000
)

// complete fills in what the file did not set.
func (s *Scenario) complete(c *collector) {
	s.About = strings.Join(strings.Fields(s.About), " ")
	fill(c, "site.tenants", &s.Site.Tenants, defaultTenants)
	fill(c, "site.answer_bytes", &s.Site.AnswerBytes, defaultAnswer)
	fill(c, "site.replicas", &s.Site.Replicas, 1)
	fill(c, "site.cores", &s.Site.Cores, 1)
	for i := range s.Loads {
		s.Loads[i].complete(c, fmt.Sprintf("loads[%d].", i))
	}
	for i := range s.Phases {
		s.Phases[i].complete(c, fmt.Sprintf("phases[%d].", i), s)
	}
	if s.Capacity != nil {
		s.Capacity.complete(c)
	}
}

// fill sets what the file does not.
func fill[T any](c *collector, path string, v *T, to T) {
	if !c.set(path) {
		*v = to
	}
}

func (l *Load) complete(c *collector, path string) {
	fill(c, path+"protocol", &l.Protocol, HTTP1)
	fill(c, path+"loop", &l.Loop, Closed)
	fill(c, path+"connections", &l.Connections, Kept)
	fill(c, path+"credential", &l.Credential, NoCredential)
	fill(c, path+"timeout", &l.Timeout, defaultTimeout)
	fill(c, path+"concurrency", &l.Concurrency, closedCallers)
	if l.Loop == Open {
		fill(c, path+"concurrency", &l.Concurrency, openCallers)
	}
	if l.Protocol == WebSocket {
		fill(c, path+"body_bytes", &l.BodyBytes, defaultMessage)
	}
	if l.countsMessages() {
		fill(c, path+"messages", &l.Messages, defaultMessages)
	}
	if l.http() {
		fill(c, path+"method", &l.Method, methodFor(l.BodyBytes))
	}
	fill(c, path+"tenants.draw", &l.Tenants.Draw, Uniform)
	if l.Tenants.Draw == Zipf {
		fill(c, path+"tenants.skew", &l.Tenants.Skew, 1)
	}
}

func methodFor(body int) string {
	if body > 0 {
		return "POST"
	}
	return "GET"
}

// http tells whether the load's requests are of a method that may be chosen.
func (l *Load) http() bool { return l.Protocol == HTTP1 || l.Protocol == HTTP2 }

// countsMessages tells whether Messages has a meaning for the load.
func (l *Load) countsMessages() bool {
	return l.Protocol == SSE || l.Protocol == WebSocket && l.Connections == New
}

func (p *Phase) complete(c *collector, path string, s *Scenario) {
	if !c.set(path + "loads") {
		for _, l := range s.Loads {
			p.Loads = append(p.Loads, PhaseLoad{Load: l.Name})
		}
	}
	for i := range p.Loads {
		of := &p.Loads[i]
		l, ok := s.LoadNamed(of.Load)
		if !ok {
			continue // Validate says so
		}
		if of.Rate == 0 {
			of.Rate = l.Rate
		}
		if of.Concurrency == 0 {
			of.Concurrency = l.Concurrency
		}
	}
	for i := range p.Events {
		if e := &p.Events[i]; e.Do == Stall {
			fill(c, fmt.Sprintf("%sevents[%d].for", path, i), &e.For, defaultStall)
		}
	}
}

func (y *Capacity) complete(c *collector) {
	most := 0
	for _, n := range y.Registered {
		most = max(most, n)
	}
	fill(c, "capacity.active", &y.Active, min(defaultActive, most))
	fill(c, "capacity.connected", &y.Connected, defaultConnections)
}
