package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestX45CutFromEtcd: a replica that cannot reach etcd stops serving virtual tenants when its lease may be over, and says so; it
// serves dedicated ones for replica.serve_stale longer. Another replica takes over. When etcd is back, so is it.
func TestX45CutFromEtcd(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "upstream") }))
	defer up.Close()
	c, direct := fleetEtcd(t, 1)
	wires := c.Proxy()
	tenants := fleetTenants(1) + fmt.Sprintf("  - {id: d0, mode: dedicated, dedicated: {upstream: %q, auth: upstream}}\n", up.URL)
	f := &fleet{t: t, ttl: fleetTTL, key: make(map[string]string)}
	f.gs = []*gateway{f.layOut("r0", onEtcd(t, wires.Endpoints()), tenants, ""), f.layOut("r1", direct, tenants, "")}
	f.gs[0].edit("polygate.yaml", func(s string) string { return strings.Replace(s, "ttl: 2s}", "ttl: 2s, serve_stale: 20s}", 1) })
	for _, g := range f.gs {
		g.launch()
	}
	for _, g := range f.gs {
		g.waitReady(30 * time.Second)
		g.env = readEnv(t, filepath.Join(g.dir, "demo", "env"))
	}
	f.want("write", f.ask(f.to(0), "t0", "POST", "/api/v1/servers", aServer("before")), 201)
	f.move("t0", 0)
	cut, other := f.to(0), f.to(1)
	cut.Timeout = 4 * time.Second
	f.want("dedicated", do(cut, "GET", f.host("d0")+"/x", nil), 200)
	wires.Hole()
	began := time.Now()
	var stopped time.Duration
	await(t, 10*time.Second, "the cut replica to stop", func() error {
		got := f.ask(cut, "t0", "GET", "/api/v1/servers", nil)
		if got.Status != 503 {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		if got.Header.Get("Retry-After") == "" || bytes.Contains(got.Body, []byte("context")) {
			t.Errorf("no plain word: %v %s", got.Header, got.Body)
		}
		stopped = time.Since(began)
		return nil
	})
	await(t, 10*time.Second, "the other to serve", func() error {
		if got := f.ask(other, "t0", "POST", "/api/v1/servers", aServer("meanwhile")); got.Status != 201 && got.Status != 409 {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		return nil
	})
	taken := time.Since(began)
	if stopped > fleetTTL+500*time.Millisecond || taken > fleetTTL+time.Second {
		t.Errorf("the cut replica stopped after %s, the other took over after %s; TTL %s", stopped, taken, fleetTTL)
	}
	f.want("dedicated while cut", do(cut, "GET", f.host("d0")+"/x", nil), 200)
	wires.Heal()
	await(t, 15*time.Second, "the cut replica to be well", func() error {
		if got := f.ask(cut, "t0", "GET", "/api/v1/servers", nil); got.Status != 200 || !bytes.Contains(got.Body, []byte("meanwhile")) {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		return nil
	})
	t.Logf("stopped after %s, taken over after %s, well again after %s", stopped, taken, time.Since(began))
	for _, g := range f.gs {
		g.kill() // how they stop is another test's
	}
}

// TestX46QuorumLost: two of three members of etcd die. Changes are refused at once or within the time of the lease, in words;
// then everything is. When a member is back, so is the replica.
func TestX46QuorumLost(t *testing.T) {
	c, etcd := fleetEtcd(t, 3)
	f := newFleet(t, 1, etcd, fleetTenants(1), "")
	cl := f.to(0)
	f.want("write", f.ask(cl, "t0", "POST", "/api/v1/servers", aServer("before")), 201)
	lead := c.Leader()
	c.Kill9((lead + 1) % 3)
	f.want("with two of three", f.ask(cl, "t0", "POST", "/api/v1/servers", aServer("two")), 201)
	c.Kill9(lead)
	began := time.Now()
	f.want("read without a majority", f.ask(cl, "t0", "GET", "/api/v1/servers", nil), 200)
	got := f.want("write without a majority", f.ask(cl, "t0", "POST", "/api/v1/servers", aServer("late")), 503)
	if took := time.Since(began); took > 2*fleetTTL+time.Second || bytes.Contains(got.Body, []byte("context deadline")) || got.Header.Get("Retry-After") == "" {
		t.Errorf("after %s: %v %s", took, got.Header, got.Body)
	}
	made := f.gs[0].operator(f.gs[0].client(), "POST", "/api/v1/tenants", map[string]string{"id": "late"})
	if took := time.Since(began); made.Status != 503 || took > 20*time.Second {
		t.Errorf("a tenant without a majority, after %s: %d %s %v", took, made.Status, made.Body, made.Err)
	}
	t.Logf("write: %s; tenant, after %s: %s", got.Body, time.Since(began), made.Body)
	c.Restart(lead)
	began = time.Now()
	await(t, 20*time.Second, "the replica to be well", func() error {
		if got := f.ask(cl, "t0", "POST", "/api/v1/servers", aServer("after")); got.Status != 201 && got.Status != 409 {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		return nil
	})
	t.Logf("well %s after a member was back", time.Since(began))
}
