package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/etcd/etcdtest"
	"github.com/polygate/polygate/registry/registrytest"
)

// connect returns a backend on members at some endpoints.
func connect(t *testing.T, endpoints []string) *etcd.Backend {
	t.Helper()
	cfg := etcd.Config{Endpoints: endpoints}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	b, err := etcd.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Check(t.Context()); err != nil {
		t.Fatalf("Check: %v", err)
	}
	return b
}

func commit(t *testing.T, c *registry.Claim, n int) error {
	t.Helper()
	w := tenant.Write{Kind: "server", ID: "s", Value: fmt.Appendf(nil, "%d", n)}
	return c.Commit(t.Context(), registrytest.Entry(c.Scope().ID(), "server.update"), w)
}

// writer commits without a pause and keeps the longest time between two commits that succeeded.
type writer struct {
	t    *testing.T
	r    *registrytest.Replica
	id   tenant.Scope
	stop context.CancelFunc
	done chan struct{}
	gaps chan time.Duration
}

func startWriter(t *testing.T, r *registrytest.Replica, scope tenant.Scope) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{t: t, r: r, id: scope, stop: cancel, done: make(chan struct{}), gaps: make(chan time.Duration, 1000)}
	go w.run(ctx)
	t.Cleanup(func() { cancel(); <-w.done })
	return w
}

func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		c, err := w.r.Claim(ctx, w.id)
		if err == nil {
			err = commit(w.t, c, n)
		}
		if err != nil {
			<-time.After(20 * time.Millisecond)
			continue
		}
		if gap := time.Since(last); gap > 300*time.Millisecond {
			w.gaps <- gap
		}
		last = time.Now()
		<-time.After(5 * time.Millisecond)
	}
}

// longest waits for a gap to end and returns the longest of those that follow closely; 0 = there was none.
func (w *writer) longest() time.Duration {
	w.t.Helper()
	var most time.Duration
	wait := 30 * time.Second
	for {
		select {
		case g := <-w.gaps:
			most, wait = max(most, g), time.Second
		case <-time.After(wait):
			return most
		}
	}
}

// TestX46MembersDie: one of three members dies, the leader at that: the claim stays and writes go on within 2 s. All three
// die and come back: within 5 s of it. Four times as long is allowed here, as the processors may be shared.
func TestX46MembersDie(t *testing.T) {
	t.Parallel()
	cl := etcdtest.Start(t, 3, etcdtest.Options{})
	r := registrytest.Start(t, connect(t, cl.Endpoints()), "r1")
	e := registrytest.Create(t, r, "alpha")
	claim := registrytest.Claim(t, r, e.Scope)
	w := startWriter(t, r, e.Scope)
	leader := cl.Leader()
	cl.Kill9(leader)
	gap := w.longest()
	t.Logf("the leader died: no commit for %v", gap)
	if gap == 0 || gap > 8*time.Second || claim.Context().Err() != nil {
		t.Errorf("the leader died: no commit for %v; claim: %v", gap, context.Cause(claim.Context()))
	}
	cl.Restart(leader)
	for i := range 3 {
		cl.Kill9(i)
	}
	for i := range 3 {
		cl.Launch(i)
	}
	gap = w.longest()
	t.Logf("all died and came back: no commit for %v", gap)
	if gap == 0 || gap > 20*time.Second {
		t.Errorf("all died and came back: no commit for %v", gap)
	}
	registrytest.Eventually(t, "the replica is well without a restart", func() bool { return r.Healthy() == nil })
}

// TestX45Cut: a replica whose packets to etcd are dropped stops before its lease ends, says so, and is well again without a
// restart when they pass again. No other replica notices.
func TestX45Cut(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	cl := etcdtest.Start(t, 3, etcdtest.Options{})
	p := cl.Proxy()
	r1 := registrytest.Start(t, connect(t, p.Endpoints()), "r1", registrytest.TTL(ttl))
	r2 := registrytest.Start(t, connect(t, cl.Endpoints()), "r2", registrytest.TTL(ttl))
	e := registrytest.Create(t, r1, "alpha")
	c := registrytest.Claim(t, r1, e.Scope)
	p.Hole()
	start := time.Now()
	select {
	case <-c.Context().Done():
	case <-time.After(2 * ttl):
	}
	if took := time.Since(start); took > ttl {
		t.Errorf("the claim ended %v after the cut, the lease lasts %v", took, ttl)
	}
	err := commit(t, c, 1)
	if registrytest.WantKind(t, "a commit", err, fault.Unavailable); fault.From(err).RetryAfter <= 0 || !errors.Is(err, registry.ErrClaimLost) {
		t.Errorf("a commit of one who is cut off: %v", err)
	}
	registrytest.Eventually(t, "the other replica takes over", func() bool {
		_, err := r2.Claim(t.Context(), e.Scope)
		return err == nil
	})
	if took := time.Since(start); took > 2*ttl+time.Second {
		t.Errorf("taken over %v after the cut", took)
	}
	registrytest.WantKind(t, "Healthy", r1.Healthy(), fault.Unavailable)
	p.Heal()
	registrytest.Eventually(t, "the first is well again", func() bool { return r1.Healthy() == nil })
}

// TestX45HalfOpen: of three connections one after the other stands but lets nothing through. Whichever the watch uses, it goes
// on over another one: mostly after its own silence of 3 s, else once keepalive has found out, which takes 9 s.
func TestX45HalfOpen(t *testing.T) {
	t.Parallel()
	cl := etcdtest.Start(t, 3, etcdtest.Options{})
	p := cl.Proxy()
	r1 := registrytest.Start(t, connect(t, p.Endpoints()), "r1")
	r2 := registrytest.Start(t, connect(t, cl.Endpoints()), "r2")
	for i, id := range []tenant.ID{"alpha", "beta", "gamma"} {
		p.Hole(i)
		start := time.Now()
		registrytest.Create(t, r2, string(id))
		registrytest.Eventually(t, "the watch hears of it", func() bool { _, ok := r1.Index().ByID(id); return ok })
		if took := time.Since(start); took > 16*time.Second {
			t.Errorf("without member %d the watch hears of a change after %v", i, took)
		}
		p.Heal()
	}
}

// TestX47Full: a tenant is refused by its own budget long before etcd is full. When etcd is full all the same, reads and
// claims go on, the alarm is seen with the way out, and Recover is the way out.
func TestX47Full(t *testing.T) {
	t.Parallel()
	cl := etcdtest.Start(t, 1, etcdtest.Options{Quota: 16 << 20})
	b := connect(t, cl.Endpoints())
	r := registrytest.Start(t, b, "r1", func(c *registry.Config) {
		c.Budgets = registry.Budgets{Stored: func(tenant.Quotas) int64 { return 1 << 20 }, Sample: 50 * time.Millisecond, Window: time.Minute, Reserve: 20}
	})
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		w := tenant.Write{Kind: "server", ID: fmt.Sprint("s", i), Value: fmt.Appendf(nil, "%q", strings.Repeat("x", 100<<10))}
		err = c.Commit(t.Context(), registrytest.Entry("alpha", "server.create"), w)
	}
	if !errors.Is(err, registry.ErrStored) {
		t.Fatalf("one tenant fills the store: %v, want its budget", err)
	}
	if st, err := b.Status(t.Context()); err != nil || st.Quota != 16<<20 || st.DBSize > 8<<20 || len(st.Alarms) > 0 {
		t.Errorf("by then the store is at %+v, %v", st, err)
	}
	err = nil
	for i := 0; err == nil && i < 100; i++ {
		err = r.Platform().Create(t.Context(), fmt.Sprint("filler/", i), make([]byte, 1<<19))
	}
	registrytest.WantKind(t, "the platform fills it", err, fault.Unavailable)
	registrytest.Eventually(t, "the alarm is seen", func() bool {
		return strings.Contains(strings.Join(r.Storage().Problems, ""), "alarm NOSPACE")
	})
	if got := registrytest.Objects(t, c, "server"); len(got) == 0 || r.Healthy() != nil || c.Context().Err() != nil {
		t.Errorf("in a full store: %d objects, %v, claim %v", len(got), r.Healthy(), c.Context().Err())
	}
	if err := commit(t, c, 1); !errors.Is(err, registry.ErrStoreFull) {
		t.Errorf("a commit in a full store: %v", err)
	}
	testRecover(t, b, r, c)
}

func testRecover(t *testing.T, b *etcd.Backend, r *registrytest.Replica, c *registry.Claim) {
	t.Helper()
	if _, err := b.Txn(t.Context(), &registry.Txn{DeletePrefixes: []string{"c/filler/"}}); err != nil {
		t.Fatalf("delete in a full store: %v", err)
	}
	if err := b.Recover(t.Context()); err != nil {
		t.Fatalf("Recover: %v", err)
	}
	registrytest.Eventually(t, "tenants write again", func() bool { return commit(t, c, 2) == nil })
	if p := r.Storage().Problems; len(p) > 0 {
		t.Errorf("problems after it was recovered: %q", p)
	}
}
