package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestC1FaultsOfOneTenant keeps team-b busy while team-a does everything that could hurt a neighbour: an endless policy, huge
// bundles, an upstream that never answers, and a hundred times its share of requests. Not one request of team-b fails or is
// refused. Panics are staged within the packages, where one can be planted.
func TestC1FaultsOfOneTenant(t *testing.T) {
	g := newGateway(t, "")
	endpoint := startMCP(t)
	g.write("tenants.yaml", `
tenants:
  - {id: team-a, catalog_file: a.yaml, quotas: {max_concurrent_requests: 100, requests_per_second: 500, burst: 500}}
  - {id: team-b, catalog_file: b.yaml, quotas: {max_concurrent_requests: 100, requests_per_second: 5000, burst: 5000}}
`)
	g.write("a.yaml", fmt.Sprintf("servers:\n  - {name: hung, url: %q, timeout: 5s}\n  - {name: good, url: %q}\n", hungServer(t), endpoint))
	g.write("b.yaml", fmt.Sprintf("servers:\n  - {name: good, url: %q}\n", endpoint))
	g.start()
	b := &victim{t: t, g: g, c: g.client()}
	quiet := b.measure("quiet", 2*time.Second, nil)
	for _, f := range []struct {
		name string
		do   func(a *aggressor) func(ctx context.Context)
	}{
		{"endless policy", func(a *aggressor) func(context.Context) { return a.endlessPolicy }},
		{"huge bundles", func(a *aggressor) func(context.Context) { return a.hugeBundles }},
		{"hung upstream", func(a *aggressor) func(context.Context) { return a.hungUpstream }},
		{"a hundred times its share", func(a *aggressor) func(context.Context) { return a.flood }},
	} {
		t.Run(f.name, func(t *testing.T) {
			a := &aggressor{t: t, g: g, c: g.client()}
			loud := b.measure(f.name, 4*time.Second, f.do(a))
			t.Logf("team-b: %d requests, p50 %s (quiet %s), p99 %s (quiet %s); team-a: %s", loud.n, loud.p(50), quiet.p(50), loud.p(99), quiet.p(99), a.told())
		})
	}
}

// hungServer takes connections and answers nothing.
func hungServer(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for _, c := range open {
			c.Close()
		}
	})
	return "http://" + ln.Addr().String() + "/mcp"
}

// victim is team-b, which does what it always does.
type victim struct {
	t *testing.T
	g *gateway
	c *http.Client
}

type took struct {
	n   int
	all []time.Duration
}

func (s took) p(percent int) time.Duration {
	if len(s.all) == 0 {
		return 0
	}
	return s.all[min(len(s.all)-1, len(s.all)*percent/100)].Round(10 * time.Microsecond)
}

// measure runs team-b's requests for a while, beside what a fault does, and fails the test for each that is not answered well.
func (v *victim) measure(what string, d time.Duration, fault func(ctx context.Context)) took {
	ctx, stop := context.WithTimeout(context.Background(), d)
	defer stop()
	var wg sync.WaitGroup
	if fault != nil {
		wg.Go(func() { fault(ctx) })
	}
	var mu sync.Mutex
	var s took
	failed := 0
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := v.ask()
				mu.Lock()
				s.n++
				s.all = append(s.all, time.Since(began))
				if err != nil && failed < 5 {
					v.t.Errorf("%s: team-b: %v", what, err)
					failed++
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond) // its own rate: this is no test of how much the machine can do
			}
		})
	}
	wg.Wait()
	sort.Slice(s.all, func(i, j int) bool { return s.all[i] < s.all[j] })
	return s
}

// ask lists team-b's servers and calls one.
func (v *victim) ask() error {
	head := append(bearer(v.g.env["TEAM_B_KEY"]), "Accept", "application/json, text/event-stream")
	if got := do(v.c, "GET", v.g.env["TEAM_B_URL"]+"/servers", nil, head...); got.Err != nil || got.Status != 200 {
		return fmt.Errorf("list: %d %s %w", got.Status, got.Body, got.Err)
	}
	got := do(v.c, "POST", v.g.env["TEAM_B_URL"]+"/servers/good/mcp", initialize, head...)
	if got.Err != nil || got.Status != 200 || got.Header.Get("Mcp-Session-Id") == "" {
		return fmt.Errorf("initialize: %d %s %w", got.Status, got.Body, got.Err)
	}
	return nil
}

// aggressor is team-a.
type aggressor struct {
	t       *testing.T
	g       *gateway
	c       *http.Client
	answers sync.Map // status -> *atomic.Int64
}

func (a *aggressor) ask(method, path string, body any) answer {
	got := do(a.c, method, a.g.env["TEAM_A_URL"]+path, body, append(bearer(a.g.env["TEAM_A_KEY"]), "Accept", "application/json, text/event-stream")...)
	n, _ := a.answers.LoadOrStore(got.Status, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	return got
}

func (a *aggressor) told() string {
	var list []string
	a.answers.Range(func(k, v any) bool {
		list = append(list, fmt.Sprintf("%d times %d", v.(*atomic.Int64).Load(), k))
		return true
	})
	sort.Strings(list)
	return strings.Join(list, ", ")
}

// many asks from so many callers at once until ctx ends.
func (a *aggressor) many(ctx context.Context, callers int, ask func()) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				ask()
			}
		})
	}
	wg.Wait()
}

// endless searches for a product that is not there, within what a policy may hold at a time.
const endless = `package polygate.authz

import rego.v1

default allow := false

allow if startswith(input.action, "policy.")

allow if {
	not startswith(input.action, "policy.")
	some i in numbers.range(1, 5000)
	some j in numbers.range(1, 5000)
	some k in numbers.range(1, 5000)
	i * j * k == -1
}
`

func (a *aggressor) endlessPolicy(ctx context.Context) {
	if got := a.ask("POST", "/api/v1/policies", map[string]any{"modules": map[string]string{"endless.rego": endless}}); got.Status != 201 {
		a.t.Errorf("upload: %d %s", got.Status, got.Body)
		return
	}
	a.many(ctx, 20, func() {
		if got := a.ask("POST", "/servers/good/mcp", initialize); got.Status == 200 {
			a.t.Error("a policy that never says yes let a request pass")
		}
	})
	if got := a.ask("DELETE", "/api/v1/policies/active", nil); got.Status != 204 {
		a.t.Errorf("take it out of force: %d %s", got.Status, got.Body)
	}
}

func (a *aggressor) hugeBundles(ctx context.Context) {
	big := "package polygate.authz\n\nimport rego.v1\n\n" + strings.Repeat("allow if { input.action == \"x\" }\n", 40_000)
	deep := "package polygate.authz\n\nimport rego.v1\n\nallow if { x := " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + " }\n"
	a.many(ctx, 4, func() {
		for _, m := range []string{big, deep} {
			if got := a.ask("POST", "/api/v1/policies/check", map[string]any{"modules": map[string]string{"m.rego": m}}); got.Status == 201 {
				a.t.Error("a huge bundle was taken")
			}
		}
	})
}

func (a *aggressor) hungUpstream(ctx context.Context) {
	a.many(ctx, 150, func() { a.ask("POST", "/servers/hung/mcp", initialize) })
}

func (a *aggressor) flood(ctx context.Context) {
	a.many(ctx, 64, func() { a.ask("GET", "/servers", nil) })
}
