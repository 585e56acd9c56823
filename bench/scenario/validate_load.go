package scenario

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

func (l *Load) check(c *collector, path string) {
	checkName(c, path+"name", l.Name)
	checkOneOf(c, path+"protocol", l.Protocol, HTTP1, HTTP2, WebSocket, SSE, MCP, GRPC)
	checkOneOf(c, path+"credential", l.Credential, NoCredential, Key, JWT, OIDC)
	l.checkLoop(c, path)
	l.checkConnections(c, path)
	l.checkRequest(c, path)
	l.checkStream(c, path)
	l.Tenants.check(c, path+"tenants")
	if l.Timeout <= 0 || l.Timeout > longestTimeout {
		c.at(path+"timeout", "%v is out of range: use more than 0, and at most %v", l.Timeout, longestTimeout)
	}
}

func (l *Load) checkLoop(c *collector, path string) {
	checkOneOf(c, path+"loop", l.Loop, Open, Closed)
	checkRange(c, path+"concurrency", l.Concurrency, 1, mostCallers)
	if l.Loop == Closed && l.Rate != 0 {
		c.at(path+"rate", "a closed loop has none, as it sends when an answer comes: write loop: open, or take rate away and set concurrency")
		return
	}
	checkRate(c, path+"rate", l.Rate)
}

// checkRate lets 0 pass, which stands for another's rate.
func checkRate(c *collector, path string, r float64) {
	if !(r >= 0 && r <= mostRate) { // NaN is neither
		c.at(path, "%v requests a second is out of range: use more than 0, and at most %d", r, mostRate)
	}
}

func (l *Load) checkConnections(c *collector, path string) {
	checkOneOf(c, path+"connections", l.Connections, Kept, New)
	if l.Resume && l.Connections == Kept {
		c.at(path+"resume", "kept connections make no handshakes to resume: write connections: new, or take resume away")
	}
}

func (l *Load) checkRequest(c *collector, path string) {
	checkRange(c, path+"body_bytes", l.BodyBytes, 0, mostAnswerBytes)
	if l.Path != "" && (!strings.HasPrefix(l.Path, "/") || strings.ContainsFunc(l.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' })) {
		c.at(path+"path", "%s is no path: begin with /, and write other than plain characters as %%XX", quote(l.Path))
	}
	switch {
	case l.Protocol == SSE && l.BodyBytes > 0:
		c.at(path+"body_bytes", "an event stream is asked for by a GET, which has no body: take it away")
	case !l.http() && l.Method != "":
		c.at(path+"method", "%s has a method of its own: take it away", l.Protocol)
	case l.http():
		l.checkMethod(c, path)
	}
}

func (l *Load) checkMethod(c *collector, path string) {
	if l.Method == "HEAD" {
		c.at(path+"method", "the answer to a HEAD has no body, so it cannot be seen to be right: use GET")
		return
	}
	checkOneOf(c, path+"method", l.Method, "GET", "POST", "PUT", "PATCH", "DELETE")
	if l.Method == "GET" && l.BodyBytes > 0 {
		c.at(path+"method", "a GET has no body: write method: POST, or take body_bytes away")
	}
}

// checkStream checks what only streams have.
func (l *Load) checkStream(c *collector, path string) {
	switch {
	case l.countsMessages():
		checkRange(c, path+"messages", l.Messages, 1, mostMessages)
	case l.Messages != 0 && l.Protocol == WebSocket:
		c.at(path+"messages", "a kept WebSocket is not closed after so many: write connections: new, or take messages away")
	case l.Messages != 0:
		c.at(path+"messages", "%s has one answer to a request: take it away, or use sse or websocket", l.Protocol)
	}
	if l.Protocol != SSE && l.Interval != 0 {
		c.at(path+"interval", "is between the events of a stream: take it away, or write protocol: sse")
	}
	if l.Protocol == SSE {
		l.checkInterval(c, path)
	}
}

func (l *Load) checkInterval(c *collector, path string) {
	if l.Interval < 0 || l.Interval > longestTimeout {
		c.at(path+"interval", "%v is out of range: use 0 to %v", l.Interval, longestTimeout)
		return
	}
	lasts := time.Duration(math.Min(float64(l.Messages)*float64(l.Interval), math.MaxInt64/2))
	if l.Timeout > 0 && lasts >= l.Timeout {
		c.at(path+"interval", "%d events with %v between them last %v, but a stream may last only for the timeout of %v: set a longer timeout, or fewer messages", l.Messages, l.Interval, lasts, l.Timeout)
	}
}

func (d *Draw) check(c *collector, path string) {
	checkOneOf(c, path+".draw", d.Draw, Uniform, Zipf, List, Each)
	switch {
	case d.Draw != Zipf && d.Skew != 0:
		c.at(path+".skew", "belongs to draw: zipf")
	case d.Draw == Zipf && !(d.Skew > 0 && d.Skew <= mostSkew):
		c.at(path+".skew", "%v is out of range: use more than 0, and at most %d", d.Skew, mostSkew)
	}
	if d.Draw == List {
		d.checkList(c, path)
	} else if len(d.List) > 0 {
		c.at(path+".list", "belongs to draw: list")
	}
}

func (d *Draw) checkList(c *collector, path string) {
	if d.First != 0 || d.Count != 0 {
		c.at(path, "a list names its tenants: take first and count away")
	}
	if len(d.List) == 0 || len(d.List) > mostTenants {
		c.at(path+".list", "names %d tenants: name 1 to %d", len(d.List), mostTenants)
		return
	}
	seen := make(map[string]bool, len(d.List))
	for i, name := range d.List {
		at := fmt.Sprintf("%s.list[%d]", path, i)
		switch {
		case !namePattern.MatchString(name):
			c.at(at, "%s is no tenant's name", quote(name))
		case seen[name]:
			c.at(at, "%s is there twice: take one away", quote(name))
		}
		seen[name] = true
	}
}

// checkWithin checks the numbers of tenants against those that a lab makes.
func (d *Draw) checkWithin(c *collector, path string, tenants int) {
	if d.Draw == List || tenants < 1 {
		return
	}
	if d.First < 0 || d.First >= tenants {
		c.at(path+".first", "%d is no number of the site's %d tenants: they are numbered from 0", d.First, tenants)
		return
	}
	if d.Count < 0 || d.Count > tenants-d.First {
		c.at(path+".count", "%d tenants from number %d on are more than the site's %d: use fewer, or set site.tenants", d.Count, d.First, tenants)
	}
}

// ends tells whether the load draws each tenant once, and so ends by itself.
func (l *Load) ends() bool { return l.Tenants.Draw == Each }

// anyLoad tells whether one of the phase's loads is such.
func (s *Scenario) anyLoad(p *Phase, is func(*Load) bool) bool {
	return slices.ContainsFunc(p.Loads, func(of PhaseLoad) bool {
		l, ok := s.LoadNamed(of.Load)
		return ok && is(&l)
	})
}
