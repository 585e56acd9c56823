package client

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// TestEveryProtocolGetsItsTenantsAnswer calls two tenants in turn, on connections that are kept and that are new, and counts handshakes.
func TestEveryProtocolGetsItsTenantsAnswer(t *testing.T) {
	l := newLab(t)
	tenants := upstream(t, l, 2)
	for _, p := range protocols() {
		for _, connections := range []scenario.Connections{scenario.Kept, scenario.New} {
			t.Run(string(p)+" "+string(connections), func(t *testing.T) {
				var handshakes atomic.Int64
				conf := loadOf(p)
				conf.Connections, conf.Messages = connections, 3
				c := newClient(t, Config{Load: conf, Tenants: tenants, Roots: l.roots, Handshake: func(d time.Duration) {
					if d <= 0 || d > 5*time.Second {
						t.Errorf("a handshake took %s", d)
					}
					handshakes.Add(1)
				}})
				caller := newCaller(t, c)
				const rounds = 6
				for range rounds {
					for n := range tenants {
						if err := call(t, caller, n); err != nil {
							t.Fatal(err)
						}
					}
				}
				if got, want := handshakes.Load(), wantHandshakes(p, connections, rounds); got != want {
					t.Errorf("got %d handshakes, want %d", got, want)
				}
				if c.BytesIn() == 0 {
					t.Error("no bytes were counted")
				}
			})
		}
	}
}

// wantHandshakes is how many two tenants' calls need.
func wantHandshakes(p scenario.Protocol, c scenario.Connections, rounds int64) int64 {
	switch {
	case c == scenario.Kept:
		return 2
	case p == scenario.WebSocket:
		return 2 * rounds / 3 // three messages each
	case p == scenario.MCP:
		return 2*rounds + 2*2 // initialize and its notification
	default:
		return 2 * rounds
	}
}

// TestCallersShareConnections has many callers of one client call at once, with bodies.
func TestCallersShareConnections(t *testing.T) {
	l := newLab(t)
	tenants := upstream(t, l, 3)
	for _, p := range protocols() {
		t.Run(string(p), func(t *testing.T) {
			var handshakes atomic.Int64
			conf := loadOf(p)
			conf.Concurrency, conf.BodyBytes = 8, 100
			if p == scenario.SSE {
				conf.BodyBytes = 0
			}
			c := newClient(t, Config{Load: conf, Tenants: tenants, Roots: l.roots, Handshake: func(time.Duration) { handshakes.Add(1) }})
			var all sync.WaitGroup
			for range conf.Concurrency {
				caller := newCaller(t, c)
				all.Go(func() {
					for i := range 20 {
						if err := call(t, caller, i%len(tenants)); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			most := int64(conf.Concurrency * len(tenants))
			if p == scenario.HTTP2 || p == scenario.GRPC {
				most = int64(len(tenants))
			}
			if got := handshakes.Load(); got > most {
				t.Errorf("got %d handshakes, want at most %d", got, most)
			}
		})
	}
}

// TestAnEngineDrivesCallers has the engine use a client as a lab does.
func TestAnEngineDrivesCallers(t *testing.T) {
	l := newLab(t)
	tenants := upstream(t, l, 2)
	conf := scenario.Load{Name: "test", Protocol: scenario.HTTP1, Loop: scenario.Closed, Concurrency: 4, Timeout: time.Second, Tenants: scenario.Draw{Draw: scenario.Uniform}}
	c := newClient(t, Config{Load: conf, Tenants: tenants, Roots: l.roots})
	g, err := load.New(load.Config{Load: conf, Tenants: []string{"t0", "t1"}, New: c.Caller, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	f, err := g.Run(t.Context(), load.Span{Duration: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if f.Requests == 0 || len(f.Errors) > 0 {
		t.Errorf("got %d requests and errors %v, want some and none", f.Requests, f.Errors)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Tenant{Name: "a", Host: "a.test", Addr: "127.0.0.1:1", Canary: "canary=a;"}
	for name, c := range map[string]Config{
		"no tenant":    {},
		"no host":      {Tenants: []Tenant{{Name: "a", Addr: "127.0.0.1:1"}}},
		"split host":   {Tenants: []Tenant{{Name: "a", Host: "a\r\nx: y", Addr: "127.0.0.1:1"}}},
		"no port":      {Tenants: []Tenant{{Name: "a", Host: "a.test", Addr: "127.0.0.1"}}},
		"HEAD":         {Tenants: []Tenant{good}, Load: scenario.Load{Method: "HEAD"}},
		"split method": {Tenants: []Tenant{good}, Load: scenario.Load{Method: "GET /"}},
		"no slash":     {Tenants: []Tenant{good}, Load: scenario.Load{Path: "x"}},
		"split path":   {Tenants: []Tenant{good}, Load: scenario.Load{Path: "/ HTTP/1.1\r\nx: y"}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := newClient(t, Config{Tenants: []Tenant{good}, Load: scenario.Load{Protocol: "gopher"}})
	if _, err := c.Caller(); err == nil {
		t.Error("an unknown protocol: no error")
	}
	if err := newCaller(t, newClient(t, Config{Tenants: []Tenant{good}})).Call(t.Context(), 1); err == nil {
		t.Error("a tenant that is not there: no error")
	}
}
