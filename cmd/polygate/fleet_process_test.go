package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

// fleetEtcd runs an etcd of n members as processes and returns the settings of replicas on it.
func fleetEtcd(t *testing.T, n int) (*etcdtest.Cluster, string) {
	t.Helper()
	c := etcdtest.Start(t, n, etcdtest.Options{Heartbeat: 50 * time.Millisecond})
	return c, onEtcd(t, c.Endpoints())
}

// onEtcd returns the settings of replicas on an etcd, with one key-encryption key.
func onEtcd(t *testing.T, endpoints []string) string {
	t.Helper()
	kek := filepath.Join(t.TempDir(), "kek")
	if err := os.WriteFile(kek, []byte("polygate-kek-v1:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("etcd: {endpoints: %s}\nkek_file: %s\n", list, kek)
}

// wantOK fails unless an answer has one of the statuses.
func (f *fleet) want(what string, got answer, status int) answer {
	f.t.Helper()
	if got.Err != nil || got.Status != status {
		f.t.Fatalf("%s: %d %s %v, want %d\n%s", what, got.Status, got.Body, got.Err, status, f.logs())
	}
	return got
}

func aServer(name string) map[string]string {
	return map[string]string{"name": name, "url": "https://mcp.example.com/mcp"}
}

// TestFleet is the story of three replicas: a tenant is the same through each, moves without a failed request, and the
// numbers are of all together.
func TestFleet(t *testing.T) {
	_, etcd := fleetEtcd(t, 1)
	f := newFleet(t, 3, etcd, fleetTenants(12), "quotas: {requests_per_second: 10000, burst: 10000}\n")
	for i := range f.gs {
		c := f.to(i)
		f.want("create", f.ask(c, "t0", "POST", "/api/v1/servers", aServer(fmt.Sprintf("s%d", i))), 201)
		for j := range f.gs {
			got := f.want("list", f.ask(f.to(j), "t0", "GET", "/api/v1/servers", nil), 200)
			for k := range i + 1 {
				if !bytes.Contains(got.Body, fmt.Appendf(nil, `"s%d"`, k)) {
					t.Errorf("r%d does not show server s%d: %s", j, k, got.Body)
				}
			}
		}
	}
	t.Run("spread", f.spread)
	t.Run("fresh keys", f.freshKeys)
	t.Run("moves under load", f.movesUnderLoad)
	t.Run("drain and resume", f.drainAndResume)
	t.Run("numbers", f.numbers)
	t.Run("foreign hop", f.foreignHop)
}

// spread uses every tenant once: more than one replica serves some.
func (f *fleet) spread(t *testing.T) {
	owners := map[int]int{}
	for i := range 12 {
		id := fmt.Sprintf("t%d", i)
		f.want("list", f.ask(f.balanced(), id, "GET", "/api/v1/servers", nil), 200)
		owners[f.owner(id)]++
	}
	if len(owners) < 2 || owners[-1] > 0 {
		t.Errorf("owners %v: want several replicas", owners)
	}
}

// freshKeys uses keys the moment that they were made, at the replica that made them, whoever owns their tenant: a replica keeps
// its word although others learn of it later.
func (f *fleet) freshKeys(t *testing.T) {
	for n := range 60 {
		i, id := n%len(f.gs), fmt.Sprintf("t%d", n%12)
		c, g := f.to(i), f.gs[i]
		made := f.want("make a key", g.operator(g.client(), "POST", "/api/v1/tenants/"+id+"/keys", map[string]string{"name": "fresh", "role": "viewer"}), 201)
		var k struct{ ID, Key string }
		if err := json.Unmarshal(made.Body, &k); err != nil {
			t.Fatal(err)
		}
		if got := do(c, "GET", f.host(id)+"/api/v1/servers", nil, bearer(k.Key)...); got.Status != 200 {
			t.Errorf("a key of %s that r%d made, at r%d: %d %s, want 200", id, i, i, got.Status, got.Body)
		}
		f.want("revoke it", g.operator(g.client(), "DELETE", "/api/v1/tenants/"+id+"/keys/"+k.ID, nil), 204)
	}
}

// load sends requests of tenants without pause until stop is called, which returns how many were answered and the slowest.
func (f *fleet) load(clients int, request func(n int) answer) (stop func() (done int64, failed []string, slowest time.Duration)) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []string
	var done atomic.Int64
	var slowest time.Duration
	for w := range clients {
		wg.Go(func() {
			for n := w; ; n += clients {
				select {
				case <-end:
					return
				default:
				}
				began := time.Now()
				got := request(n)
				took := time.Since(began)
				done.Add(1)
				mu.Lock()
				slowest = max(slowest, took)
				if got.Err != nil || got.Status >= 300 {
					failed = append(failed, fmt.Sprintf("%s after %s: %d %.300s %v", began.Format("05.000"), took, got.Status, got.Body, got.Err))
				}
				mu.Unlock()
			}
		})
	}
	return func() (int64, []string, time.Duration) {
		close(end)
		wg.Wait()
		return done.Load(), failed, slowest
	}
}

func (f *fleet) movesUnderLoad(t *testing.T) {
	clients := []*http.Client{f.to(0), f.to(1), f.to(2)}
	f.adminKey("t1")
	stop := f.load(6, func(n int) answer {
		time.Sleep(5 * time.Millisecond)
		return f.ask(clients[n%3], "t1", "GET", "/api/v1/servers", nil)
	})
	moves := 0
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); moves++ {
		f.move("t1", moves%3)
		time.Sleep(50 * time.Millisecond)
	}
	done, failed, slowest := stop()
	var bad []string
	for _, s := range failed {
		if !strings.Contains(s, "429") {
			bad = append(bad, s)
		}
	}
	if len(bad) > 0 {
		t.Errorf("%d of %d requests failed in %d moves, the first: %s\n%s", len(bad), done, moves, bad[0], f.logs())
	}
	t.Logf("%d moves, %d requests, %d over the rate, slowest %s", moves, done, len(failed)-len(bad), slowest)
}

func (f *fleet) drainAndResume(t *testing.T) {
	g := f.gs[0]
	c := g.client()
	f.want("drain", g.operator(c, "POST", "/api/v1/replicas/r1/drain", nil), 200)
	await(t, 15*time.Second, "r1 to be empty", func() error {
		var r struct {
			State   string
			Tenants int
		}
		got := g.operator(c, "GET", "/api/v1/replicas/r1", nil)
		if err := json.Unmarshal(got.Body, &r); err != nil || r.State != "draining" || r.Tenants != 0 {
			return fmt.Errorf("%s", got.Body)
		}
		return nil
	})
	for i := range 12 {
		id := fmt.Sprintf("t%d", i)
		f.want("through the drained one", f.ask(f.to(1), id, "GET", "/api/v1/servers", nil), 200)
		if f.owner(id) == 1 {
			t.Errorf("%s is on the drained replica", id)
		}
	}
	f.want("resume", g.operator(c, "POST", "/api/v1/replicas/r1/resume", nil), 200)
}

func (f *fleet) numbers(t *testing.T) {
	for _, g := range f.gs {
		got := f.want("status", g.operator(g.client(), "GET", "/api/v1/status", nil), 200)
		for _, name := range []string{"r0", "r1", "r2"} {
			if !bytes.Contains(got.Body, []byte(`"`+name+`"`)) {
				t.Errorf("status without %s: %s", name, got.Body)
			}
		}
	}
}

// foreignHop claims to be a replica, on the public listener and with a certificate of nobody's.
func (f *fleet) foreignHop(t *testing.T) {
	for _, name := range []string{"Polygate-Passport", "Polygate-Forwarded-For", "Polygate-Hop"} {
		got := do(f.to(0), "GET", f.host("t2")+"/api/v1/whoami", nil, append(bearer(f.adminKey("t2")), name, "x")...)
		if got.Err != nil || got.Status != 200 && got.Status != 400 {
			t.Errorf("%s: %d %s %v", name, got.Status, got.Body, got.Err)
		}
	}
}

// TestX43KillTheOwner kills replicas with SIGKILL while tenants write. Nothing that was acknowledged is lost, and each tenant is
// served elsewhere within the TTL and a second.
func TestX43KillTheOwner(t *testing.T) {
	_, etcd := fleetEtcd(t, 1)
	f := newFleet(t, 3, etcd, fleetTenants(6), "")
	var mu sync.Mutex
	acked := map[string]bool{}
	c := f.balanced()
	for i := range 6 {
		f.adminKey(fmt.Sprintf("t%d", i))
	}
	var gaps []time.Duration
	for round := range 4 {
		stop := f.load(6, func(n int) answer {
			id, name := fmt.Sprintf("t%d", n%6), fmt.Sprintf("k%d-%d", round, n)
			time.Sleep(20 * time.Millisecond)
			got := f.ask(c, id, "POST", "/api/v1/bots", map[string]string{"name": name, "role": "viewer"})
			if got.Status == 201 {
				mu.Lock()
				acked[id+"/"+name] = true
				mu.Unlock()
			}
			return answer{Status: 200}
		})
		time.Sleep(500 * time.Millisecond)
		victim := max(f.owner("t0"), 0)
		f.gs[victim].kill()
		began := time.Now()
		await(t, 20*time.Second, "t0 to be served again", func() error {
			if got := f.ask(c, "t0", "GET", "/api/v1/servers", nil); got.Status != 200 {
				return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
			}
			return nil
		})
		gaps = append(gaps, time.Since(began))
		stop()
		f.gs[victim].launch()
		f.gs[victim].waitReady(30 * time.Second)
	}
	f.checkAcked(t, acked)
	for _, g := range gaps {
		if g > fleetTTL+time.Second {
			t.Errorf("a tenant was away for %s, want at most %s: %v", g, fleetTTL+time.Second, gaps)
		}
	}
	t.Logf("4 kills, %d acknowledged writes, all there; away for %v", len(acked), gaps)
}

// checkAcked looks for every acknowledged bot.
func (f *fleet) checkAcked(t *testing.T, acked map[string]bool) {
	t.Helper()
	have := map[string]bool{}
	for i := range 6 {
		id := fmt.Sprintf("t%d", i)
		for cursor := ""; ; {
			got := f.want("list bots", f.ask(f.balanced(), id, "GET", "/api/v1/bots?limit=100"+cursor, nil), 200)
			var page struct {
				Items []struct{ Name string }
				Next  string `json:"next_cursor"`
			}
			if err := json.Unmarshal(got.Body, &page); err != nil {
				t.Fatal(err)
			}
			for _, b := range page.Items {
				have[id+"/"+b.Name] = true
			}
			if page.Next == "" {
				break
			}
			cursor = "&cursor=" + page.Next
		}
	}
	var lost []string
	for name := range acked {
		if !have[name] {
			lost = append(lost, name)
		}
	}
	sort.Strings(lost)
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), len(acked), lost)
	}
}

// TestX44FrozenOwner freezes an owner for three times its TTL. Others serve its tenants meanwhile; when it wakes, it writes
// nothing under its old claim and serves what the others have.
func TestX44FrozenOwner(t *testing.T) {
	_, etcd := fleetEtcd(t, 1)
	f := newFleet(t, 2, etcd, fleetTenants(1), "")
	f.want("use", f.ask(f.to(0), "t0", "POST", "/api/v1/servers", aServer("before")), 201)
	at := f.owner("t0")
	frozen, other := f.gs[at], f.to(1-at)
	// Requests that the frozen one has taken and not carried out: they must not be carried out when it wakes.
	late := make(chan answer, 8)
	direct := f.to(at)
	f.want("warm", f.ask(direct, "t0", "GET", "/api/v1/servers", nil), 200)
	freeze(t, frozen.cmd.Process)
	for i := range 8 {
		go func() { late <- f.ask(direct, "t0", "POST", "/api/v1/servers", aServer(fmt.Sprintf("late%d", i))) }()
	}
	began := time.Now()
	await(t, 20*time.Second, "the other replica to serve", func() error {
		if got := f.ask(other, "t0", "POST", "/api/v1/servers", aServer("meanwhile")); got.Status != 201 && got.Status != 409 {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		return nil
	})
	away := time.Since(began)
	if away > fleetTTL+time.Second {
		t.Errorf("t0 was away for %s, want at most %s", away, fleetTTL+time.Second)
	}
	time.Sleep(max(0, 3*fleetTTL-time.Since(began)))
	f.want("delete", f.ask(other, "t0", "DELETE", "/api/v1/servers/before", nil), 204)
	if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	accepted := map[string]bool{}
	for i := range 8 {
		if got := <-late; got.Status == 201 {
			accepted[fmt.Sprint(i)] = true // it was passed on to the new owner
		}
	}
	await(t, 15*time.Second, "the woken replica to be well", func() error {
		if got := f.ask(direct, "t0", "GET", "/api/v1/servers", nil); got.Status != 200 {
			return fmt.Errorf("%d %s: %w", got.Status, got.Body, got.Err)
		}
		return nil
	})
	one := f.want("through the woken one", f.ask(direct, "t0", "GET", "/api/v1/servers", nil), 200)
	two := f.want("through the other", f.ask(other, "t0", "GET", "/api/v1/servers", nil), 200)
	if !bytes.Equal(one.Body, two.Body) || bytes.Contains(one.Body, []byte(`"before"`)) || !bytes.Contains(one.Body, []byte(`"meanwhile"`)) {
		t.Errorf("the woken replica shows\n%s\nthe other\n%s", one.Body, two.Body)
	}
	if f.owner("t0") == at {
		t.Error("the woken replica has the tenant: nobody gave it")
	}
	for i := range 8 {
		// One that was not acknowledged may have been served by the new owner, with its answer lost.
		if name := fmt.Sprintf(`"late%d"`, i); accepted[fmt.Sprint(i)] && !bytes.Contains(two.Body, []byte(name)) {
			t.Errorf("%s was acknowledged, and is not in the store", name)
		}
	}
	t.Logf("away for %s; %d of 8 late requests were served by the new owner", away, len(accepted))
	for i, g := range f.gs { // nothing keeps them from handing over what they have
		began := time.Now()
		if code := g.stop(syscall.SIGTERM); code != 0 || time.Since(began) > 15*time.Second {
			t.Errorf("r%d ended with %d after %s\n%s", i, code, time.Since(began), g.log)
		}
	}
	if f.gs[at].serversMade()["before"] != fmt.Sprintf("r%d", at) || f.gs[1-at].serversMade()["meanwhile"] != fmt.Sprintf("r%d", 1-at) {
		t.Errorf("the logs do not tell who made what: %v, %v", f.gs[0].serversMade(), f.gs[1].serversMade())
	}
	for i, g := range f.gs {
		for name, by := range g.serversMade() {
			if strings.HasPrefix(name, "late") && by == fmt.Sprintf("r%d", at) {
				t.Errorf("%s was made by the frozen replica, after its claim (in the log of r%d)", name, i)
			}
		}
	}
}

// serversMade returns the servers whose creation is in the replica's audit log, with the replica that committed it.
func (g *gateway) serversMade() map[string]string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "data", "audit.jsonl"))
	if err != nil {
		g.t.Fatal(err)
	}
	made := map[string]string{}
	for line := range strings.Lines(string(b)) {
		var l struct {
			Entry struct{ Action, Outcome, Resource, Replica string }
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Entry.Action == "server.create" && l.Entry.Outcome == "ok" {
			made[strings.TrimPrefix(l.Entry.Resource, "server/")] = l.Entry.Replica
		}
	}
	return made
}

// TestX59RollingRestart restarts three replicas, one after the other, under load. No request fails.
func TestX59RollingRestart(t *testing.T) {
	_, etcd := fleetEtcd(t, 1)
	f := newFleetOf(t, 3, 10*time.Second, etcd, fleetTenants(6), "drain: {delay: 300ms, streams: 500ms, timeout: 15s}\nquotas: {requests_per_second: 10000, burst: 10000}\n")
	for i := range 6 {
		f.want("warm", f.ask(f.balanced(), fmt.Sprintf("t%d", i), "POST", "/api/v1/servers", aServer("s")), 201)
	}
	clients := []*http.Client{f.balanced(), f.balanced(), f.balanced(), f.balanced()}
	stop := f.load(4, func(n int) answer {
		time.Sleep(2 * time.Millisecond)
		c, id := clients[n%4], fmt.Sprintf("t%d", n%6)
		if n%50 == 0 { // a write: nobody may send it twice
			got := f.ask(c, id, "POST", "/api/v1/bots", map[string]string{"name": fmt.Sprintf("b%d", n), "role": "viewer"})
			if got.Status == http.StatusConflict && bytes.Contains(got.Body, []byte("the most that")) {
				got.Status = http.StatusOK // as many as it may have
			}
			return got
		}
		return f.ask(c, id, "GET", "/api/v1/servers", nil)
	})
	for i, g := range f.gs {
		began := time.Now()
		if code := g.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("r%d ended with %d\n%s", i, code, g.log)
		}
		t.Logf("r%d drained and ended in %s", i, time.Since(began).Round(time.Millisecond))
		g.launch()
		g.waitReady(30 * time.Second)
	}
	done, failed, slowest := stop()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %s\n%s", len(failed), done, failed[0], f.logs())
	}
	t.Logf("3 restarts, %d requests, %d failed, slowest %s", done, len(failed), slowest)
}
