package shares_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/shares"
	"github.com/polygate/polygate/internal/tenant"
)

// world is a platform of replicas in one process, joined by a network of memory. It lives in a synctest bubble.
type world struct {
	t        *testing.T
	quotas   tenant.Quotas
	latency  time.Duration
	patience time.Duration // see guard.Config; below 0 = none

	mu     sync.Mutex
	nodes  map[string]*node // guarded by mu, as all below
	live   []string
	keeper string
	cut    map[string]bool // replicas that no other reaches
	calls  int
}

type node struct {
	name   string
	guards *guard.Set
	shares *shares.Shares
	stop   func()

	admitted int
	flying   []*flight
}

type flight struct {
	visit *guard.Visit
	end   time.Time
}

type nobody struct{}

func (nobody) Record(audit.Entry) {}

func newWorld(t *testing.T, n int, q tenant.Quotas) *world {
	w := &world{t: t, quotas: q, latency: time.Millisecond, patience: -1, nodes: map[string]*node{}, cut: map[string]bool{}, keeper: "r0"}
	for i := range n {
		w.start(fmt.Sprint("r", i))
	}
	return w
}

func (w *world) start(name string) *node {
	w.mu.Lock()
	w.live = append(w.live, name)
	w.mu.Unlock()
	n := &node{name: name}
	n.shares = shares.New(shares.Config{
		Replica: name, Caller: caller{w, name},
		Replicas: func() []string { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.live) },
		Keeper:   func(tenant.ID) string { w.mu.Lock(); defer w.mu.Unlock(); return w.keeper },
	})
	n.guards = guard.NewSet(guard.Config{Recorder: nobody{}, Part: n.shares.Part, Wanting: n.shares.Wanting, Patience: w.patience})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.shares.Run(ctx, n.guards); err != nil {
			w.t.Error(err)
		}
	}()
	n.stop = func() { cancel(); <-done }
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[name] = n
	return n
}

// kill ends a replica at once. Its name goes from the others' view ttl later.
func (w *world) kill(name string, ttl time.Duration) {
	w.mu.Lock()
	n := w.nodes[name]
	delete(w.nodes, name)
	w.mu.Unlock()
	n.stop()
	time.AfterFunc(ttl, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.live = slices.DeleteFunc(w.live, func(l string) bool { return l == name })
		if w.keeper != "" {
			w.keeper = w.live[0]
		}
	})
}

func (w *world) stop() {
	for _, n := range w.all() {
		for _, f := range n.flying {
			f.visit.Leave()
		}
		n.stop()
	}
}

func (w *world) all() (all []*node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return cmpNames(a.name, b.name) })
	return all
}

func cmpNames(a, b string) int { return slices.Compare([]string{a}, []string{b}) }

// called returns how many calls there were between replicas.
func (w *world) called() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

// caller is the network as one replica has it.
type caller struct {
	w    *world
	from string
}

func (c caller) Call(ctx context.Context, replica, _ string, body []byte) ([]byte, error) {
	time.Sleep(c.w.latency)
	c.w.mu.Lock()
	c.w.calls++
	n, cut := c.w.nodes[replica], c.w.cut[replica] || c.w.cut[c.from]
	c.w.mu.Unlock()
	if n == nil {
		return nil, fault.New(fault.Unavailable, "%s is dead: connection refused", replica)
	}
	if cut {
		<-ctx.Done()
		return nil, fault.New(fault.Unavailable, "no way to %s: %v", replica, io.ErrUnexpectedEOF)
	}
	reply, err := n.shares.Handle(ctx, c.from, body)
	time.Sleep(c.w.latency)
	return reply, err
}

func (w *world) entry() *tenant.Entry {
	return &tenant.Entry{Record: &tenant.Record{ID: "team-a", UID: "u", Quotas: w.quotas, Revision: 1}, Scope: tenant.Confine("team-a", "u")}
}

// try has a request come to n that takes so long.
func (w *world) try(n *node, takes time.Duration) bool {
	v, err := n.guards.For(w.entry()).Enter(tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: "u1"}, guard.Request{})
	if err != nil {
		if fault.KindOf(err) != fault.RateLimited {
			w.t.Fatal(err)
		}
		return false
	}
	n.admitted++
	if takes == 0 {
		v.Leave()
		return true
	}
	n.flying = append(n.flying, &flight{v, time.Now().Add(takes)})
	return true
}

// load has requests come for a while: every so often one to each replica that the function names, and returns how many were
// served. check is asked in between.
func (w *world) load(d, every, takes time.Duration, to func(n *node) bool, check func()) (served int) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(every) {
		for _, n := range w.all() {
			n.flying = slices.DeleteFunc(n.flying, func(f *flight) bool {
				if done := !time.Now().Before(f.end); done {
					f.visit.Leave()
					return true
				}
				return false
			})
		}
		for _, n := range w.all() {
			if to(n) && w.try(n, takes) {
				served++
			}
		}
		if check != nil {
			check()
		}
	}
	return served
}

func everybody(*node) bool { return true }

func only(name string) func(*node) bool { return func(n *node) bool { return n.name == name } }

// flying returns the tenant's requests in flight everywhere.
func (w *world) flying() (n int) {
	for _, r := range w.all() {
		n += len(r.flying)
	}
	return n
}

func (w *world) parts() string {
	text := ""
	for _, n := range w.all() {
		text += fmt.Sprintf(" %s %.3f", n.name, n.guards.For(w.entry()).Usage().Part)
	}
	return text
}

func within(t *testing.T, what string, got, want int, tolerance float64) {
	t.Helper()
	if float64(got) < float64(want)*(1-tolerance) || float64(got) > float64(want)*(1+tolerance) {
		t.Errorf("%s: %d, want %d +- %.0f %%", what, got, want, tolerance*100)
	}
}

// inBubble runs a story about n replicas that have agreed on their parts.
func inBubble(t *testing.T, n int, q tenant.Quotas, story func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n, q)
		defer w.stop()
		time.Sleep(10 * time.Second)
		story(w)
	})
}

// TestRateOfAllReplicas: a tenant with 100 requests a second gets them, however its load is spread, and never more.
func TestRateOfAllReplicas(t *testing.T) {
	for _, c := range []struct {
		name string
		to   func(n *node) bool
		from float64 // the least share of the rate that is served
	}{
		{"evenly", everybody, 0.9},
		{"at one alone", only("r1"), 0.85},
		{"at two", func(n *node) bool { return n.name != "r0" }, 0.9},
		{"one after the other", func(n *node) bool { return n.name == fmt.Sprint("r", time.Now().Unix()/3%3) }, 0.6},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, 3, tenant.Quotas{RequestsPerSecond: 100, Burst: 100}, func(w *world) {
				began := time.Now()
				total := w.load(3*time.Second, 5*time.Millisecond, 0, c.to, nil)
				steady := w.load(12*time.Second, 5*time.Millisecond, 0, c.to, nil)
				total += steady
				if most := 100 + int(100*time.Since(began).Seconds()) + 3; total > most {
					t.Errorf("%d served, the limit lets %d pass in that time", total, most)
				}
				if steady < int(c.from*1200) || steady > 1320 {
					t.Errorf("%d served in 12 s, want 1200, at least %.0f:%s", steady, c.from*1200, w.parts())
				}
			})
		})
	}
}

// TestBurstMovesNotTwice: a burst that was spent at one replica is not there again at the one that takes over its share.
func TestBurstMovesNotTwice(t *testing.T) {
	inBubble(t, 3, tenant.Quotas{RequestsPerSecond: 10, Burst: 300}, func(w *world) {
		began, total := time.Now(), 0
		for i := range 6 {
			total += w.load(2*time.Second, time.Millisecond, 0, only(fmt.Sprint("r", i%3)), nil)
		}
		if most := 300 + int(10*time.Since(began).Seconds()) + 3; total > most {
			t.Errorf("%d served, the limit lets %d pass in that time:%s", total, most, w.parts())
		}
		if total < 200 {
			t.Errorf("%d served of a burst of 300", total)
		}
	})
}

// TestConcurrencyOfAllReplicas is never exceeded, not for a moment, whoever dies or is cut off.
func TestConcurrencyOfAllReplicas(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit int
		fault func(w *world)
		least float64 // mean of the places in use
	}{
		{"ten places", 10, func(*world) {}, 0.75},
		{"one place", 1, func(*world) {}, 0.5},
		{"the keeper is killed", 10, func(w *world) { w.kill("r0", 5*time.Second) }, 0.5},
		{"another is killed", 10, func(w *world) { w.kill("r2", 5*time.Second) }, 0.5},
		{"the keeper is cut off", 10, func(w *world) { w.sever("r0") }, 0.6},
		{"another is cut off", 10, func(w *world) { w.sever("r2") }, 0.6},
		{"one more comes", 10, func(w *world) { w.start("r3") }, 0.7},
		{"another becomes the keeper", 10, func(w *world) { w.elect("r1") }, 0.7},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, 3, tenant.Quotas{MaxConcurrentRequests: c.limit}, func(w *world) {
				steps, sum, over := 0, 0, 0
				check := func() {
					n := w.flying()
					steps, sum = steps+1, sum+n
					if n > c.limit && over == 0 {
						over = n
						t.Errorf("%d in flight at once, %d allowed:%s", n, c.limit, w.parts())
					}
				}
				load := func(d time.Duration, to func(*node) bool) {
					w.load(d, 3*time.Millisecond, 70*time.Millisecond, to, check)
				}
				load(2*time.Second, everybody)
				load(2*time.Second, only("r1"))
				c.fault(w)
				load(4*time.Second, everybody)
				load(4*time.Second, only("r1"))
				load(4*time.Second, everybody)
				if mean := float64(sum) / float64(steps); mean < c.least*float64(c.limit) {
					t.Errorf("%.1f places of %d in use, want %.1f at least:%s", mean, c.limit, c.least*float64(c.limit), w.parts())
				}
			})
		})
	}
}

func (w *world) sever(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[name] = true
}

func (w *world) elect(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keeper = name
}

// TestCutOffReplica: one that no other reaches has its even part again within a loan, and so have the others.
func TestCutOffReplica(t *testing.T) {
	inBubble(t, 3, tenant.Quotas{RequestsPerSecond: 90, Burst: 90}, func(w *world) {
		w.load(3*time.Second, 5*time.Millisecond, 0, only("r1"), nil)
		w.sever("r2")
		w.load(3*time.Second, 5*time.Millisecond, 0, everybody, nil)
		var before = map[string]int{}
		for _, n := range w.all() {
			before[n.name] = n.admitted
		}
		total := w.load(10*time.Second, 5*time.Millisecond, 0, everybody, nil)
		within(t, "all together", total, 900, 0.1)
		for _, n := range w.all() {
			if n.name == "r2" {
				within(t, "the one that is cut off", n.admitted-before[n.name], 300, 0.1)
			}
		}
	})
}

// TestKeeperKilled: the others serve by their own parts, and have all of the limit when it is gone from the index.
func TestKeeperKilled(t *testing.T) {
	inBubble(t, 3, tenant.Quotas{RequestsPerSecond: 90, Burst: 90}, func(w *world) {
		w.load(3*time.Second, 5*time.Millisecond, 0, only("r1"), nil)
		w.kill("r0", 5*time.Second)
		time.Sleep(2100 * time.Millisecond)
		within(t, "two of three parts", w.load(2500*time.Millisecond, 5*time.Millisecond, 0, everybody, nil)-30, 150, 0.25)
		time.Sleep(8 * time.Second)
		w.load(2*time.Second, 5*time.Millisecond, 0, everybody, nil)
		within(t, "all of the limit", w.load(10*time.Second, 5*time.Millisecond, 0, everybody, nil), 900, 0.1)
	})
}

// TestAlone: a lone replica has everything, asks nobody, and gives way when another comes.
func TestAlone(t *testing.T) {
	inBubble(t, 1, tenant.Quotas{RequestsPerSecond: 100, Burst: 100}, func(w *world) {
		if got := w.load(5*time.Second, 2*time.Millisecond, 0, everybody, nil); got < 590 || got > 603 {
			t.Errorf("%d served in 5 s, want 600", got)
		}
		if err := w.all()[0].shares.Ready(); err != nil || w.called() != 0 {
			t.Errorf("%d calls, Ready = %v", w.called(), err)
		}
		idle := &tenant.Entry{Record: &tenant.Record{ID: "team-b", UID: "u", Revision: 1}, Scope: tenant.Confine("team-b", "u")}
		guards := w.all()[0].guards
		guards.For(idle)
		n := w.start("r1")
		if n.shares.Ready() == nil {
			t.Error("a new replica has a part of its own before the others have made room")
		}
		began := time.Now()
		total := w.load(15*time.Second, 5*time.Millisecond, 0, everybody, nil)
		if most := 100 + int(100*time.Since(began).Seconds()); total > most || total < most*8/10 || n.admitted < total/4 {
			t.Errorf("%d served, %d of them by the new one; the limit lets %d pass", total, n.admitted, most)
		}
		if err := n.shares.Ready(); err != nil {
			t.Error(err)
		}
		if part := guards.For(idle).Usage().Part; part > 0.5 {
			t.Errorf("a tenant that nobody uses keeps %v of its limits", part)
		}
	})
}

// TestIdleCostsNothing: who is far from its limits causes no messages.
func TestIdleCostsNothing(t *testing.T) {
	inBubble(t, 3, tenant.Quotas{RequestsPerSecond: 1000, Burst: 1000, MaxConcurrentRequests: 100}, func(w *world) {
		before := w.called()
		w.load(5*time.Second, 50*time.Millisecond, 0, everybody, nil)
		if n := w.called() - before; n != 0 {
			t.Errorf("%d calls", n)
		}
	})
}
