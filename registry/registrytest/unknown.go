package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

var errAnswerLost = fault.New(fault.Unavailable, "the answer was lost")

// Ambush is a backend that lets one transaction that touches a key run into something.
type Ambush struct {
	registry.Backend
	mu  sync.Mutex // guards what follows
	key string
	run func(ctx context.Context, do func() error) error
}

// Lay has the next transaction that puts or deletes a key beginning with prefix handed to run, which may apply it with do
// and may replace its answer by an error.
func (a *Ambush) Lay(prefix string, run func(ctx context.Context, do func() error) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key, a.run = prefix, run
}

func (a *Ambush) spring(t *registry.Txn) func(context.Context, func() error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	hit := func(key string) bool { return strings.HasPrefix(key, a.key) }
	if a.run == nil || !slices.ContainsFunc(t.Puts, func(p registry.Put) bool { return hit(p.Key) }) && !slices.ContainsFunc(t.Deletes, hit) {
		return nil
	}
	run := a.run
	a.run = nil
	return run
}

// Txn implements registry.Backend.
func (a *Ambush) Txn(ctx context.Context, t *registry.Txn) (res *registry.TxnResult, err error) {
	run := a.spring(t)
	if run == nil {
		return a.Backend.Txn(ctx, t)
	}
	do := func() (err error) {
		res, err = a.Backend.Txn(ctx, t)
		return err
	}
	if err := run(ctx, do); err != nil {
		return nil, err
	}
	return res, nil
}

// drainAll takes everything out of the outbox, as a drain does.
func drainAll(t *testing.T, b Backend) {
	t.Helper()
	mustTxn(t, b, &registry.Txn{DeletePrefixes: []string{"a/"}})
}

// testRefusedLater: where the first attempt may have been applied, a refusal of the second says nothing of the outcome.
func testRefusedLater(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r := Start(t, trap, "r1")
	c := Claim(t, r, Create(t, r, "alpha").Scope)
	then := func(prefix string) {
		trap.Lay(prefix, func(_ context.Context, do func() error) error {
			if err := do(); err != nil {
				return err
			}
			trap.Lay(prefix, func(context.Context, func() error) error {
				return fault.Wrap(fault.Unavailable, registry.ErrRejected, "it is full")
			})
			return errAnswerLost
		})
	}
	then("t/alpha/server/")
	err := c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
	if WantKind(t, "the commit", err, fault.Unavailable); errors.Is(err, registry.ErrRejected) && !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("a commit that was applied is said to be refused for sure: %v", err)
	}
	WaitLost(t, c) // or memory would differ from the store
	if got := Objects(t, Claim(t, r, c.Scope()), "server"); len(got) != 1 {
		t.Errorf("objects: %v", got)
	}
	then("x/alpha")
	_, err = r.UpdateTenant(t.Context(), "alpha", 0, setName("x"), Entry("alpha", "tenant.update"))
	if !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("an update that was applied: %v", err)
	}
}

// testBrokenOff: a commit that is under way when its claim ends may be stored, and its error does not deny that.
func testBrokenOff(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r := Start(t, trap, "r1")
	c := Claim(t, r, Create(t, r, "alpha").Scope)
	var wg sync.WaitGroup
	trap.Lay("t/alpha/server/", func(ctx context.Context, do func() error) error {
		if err := do(); err != nil {
			return err
		}
		wg.Go(func() {
			if err := c.Release(context.Background()); err != nil {
				t.Errorf("Release: %v", err)
			}
		})
		<-ctx.Done()
		return fault.Wrap(fault.Unavailable, ctx.Err(), "broken off")
	})
	err := c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
	wg.Wait()
	if WantKind(t, "the commit", err, fault.Unavailable); !errors.Is(err, registry.ErrUnknown) || errors.Is(err, registry.ErrClaimLost) {
		t.Errorf("a commit that is stored is said not to be: %v", err)
	}
	c2 := Claim(t, r, c.Scope())
	if got := Objects(t, c2, "server"); len(got) != 1 {
		t.Errorf("objects: %v", got)
	}
	trap.Lay("t/alpha/server/", func(_ context.Context, do func() error) error {
		if err := do(); err != nil {
			return err
		}
		if err := c2.Release(context.Background()); err != nil {
			t.Errorf("Release: %v", err)
		}
		Claim(t, r, c.Scope()) // takes the markers away
		return errAnswerLost
	})
	err = c2.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s2", Value: []byte("{}")})
	if WantKind(t, "the commit", err, fault.Unavailable); !errors.Is(err, registry.ErrUnknown) || errors.Is(err, registry.ErrClaimLost) {
		t.Errorf("a commit that is stored, of a claim that is over, is said not to be: %v", err)
	}
}

// testOvertaken: a change whose answer was lost, and which others have changed and the drain has drained before it is
// repeated, is not made a second time.
func testOvertaken(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r, other := Start(t, trap, "r1"), Start(t, b, "r2")
	overtaken := func(prefix string, by func()) {
		trap.Lay(prefix, func(_ context.Context, do func() error) error {
			if err := do(); err != nil {
				return err
			}
			by()
			drainAll(t, b)
			return errAnswerLost
		})
	}
	add := func(s string) func(*tenant.Record) error {
		return func(rec *tenant.Record) error { rec.DisplayName += s; return nil }
	}
	update := func(r *Replica, rev int64, s string) (*tenant.Entry, error) {
		return r.UpdateTenant(t.Context(), "alpha", rev, add(s), Entry("alpha", "tenant.update"))
	}
	otherAdds := func() {
		if _, err := update(other, 0, "y"); err != nil {
			t.Errorf("the other update: %v", err)
		}
	}
	overtaken("x/alpha", otherAdds)
	if e, err := r.CreateTenant(t.Context(), Record("alpha"), Entry("", "tenant.create")); err != nil || e.Record.DisplayName != "y" {
		t.Errorf("a tenant that was created: %+v, %v", e, err)
	}
	overtaken("x/alpha", otherAdds)
	if _, err := update(r, 0, "x"); err != nil && !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("an update that was made: %v", err)
	}
	rev := Dump(t, b)["x/alpha"].ModRevision
	overtaken("x/alpha", otherAdds)
	if _, err := update(r, rev, "z"); err != nil && !errors.Is(err, registry.ErrUnknown) {
		t.Errorf("an update of a revision that was made: %v", err)
	}
	Eventually(t, "each edit is there once", func() bool { return mustByID(t, r, "alpha").Record.DisplayName == "yxyzy" })
	overtaken("x/alpha", func() { Create(t, other, "alpha") })
	if err := r.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")); err != nil {
		t.Errorf("a deletion that was made: %v", err)
	}
	if _, ok := Dump(t, b)["x/alpha"]; !ok {
		t.Error("the deletion erased the tenant that was made after it")
	}
}

// testOneTenant: a change that was meant for a tenant does not meet the one made after it under the same id (X41).
func testOneTenant(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r, other := Start(t, trap, "r1"), Start(t, b, "r2")
	old := Create(t, r, "phoenix")
	again := func() {
		if err := other.DeleteTenant(t.Context(), "phoenix", 0, Entry("", "tenant.delete")); err != nil {
			t.Errorf("DeleteTenant: %v", err)
		}
		Create(t, other, "phoenix")
	}
	again()
	stale := Entry("phoenix", "tenant.update")
	stale.TenantUID = old.Record.UID
	_, err := r.UpdateTenant(t.Context(), "phoenix", 0, setName("old"), stale)
	WantKind(t, "an update recorded for the old tenant", err, fault.NotFound)
	WantKind(t, "a deletion recorded for the old tenant", r.DeleteTenant(t.Context(), "phoenix", 0, stale), fault.NotFound)

	trap.Lay("x/phoenix", func(_ context.Context, do func() error) error { again(); return do() })
	_, err = r.UpdateTenant(t.Context(), "phoenix", 0, setName("old"), Entry("", "tenant.update"))
	WantKind(t, "an update in a race with its tenant's end", err, fault.NotFound)
	trap.Lay("x/phoenix", func(_ context.Context, do func() error) error { again(); return do() })
	WantKind(t, "a deletion in a race with another", r.DeleteTenant(t.Context(), "phoenix", 0, Entry("", "tenant.delete")), fault.NotFound)
	if rec := string(Dump(t, b)["x/phoenix"].Value); rec == "" || strings.Contains(rec, `"old"`) {
		t.Errorf("the new tenant: %s", rec)
	}
}

// testContended: many that change one record at once all get their turn, each edit is there once, and so is its record.
func testContended(t *testing.T, b Backend) {
	replicas := []*Replica{Start(t, b, "r1"), Start(t, b, "r2")}
	Create(t, replicas[0], "hot")
	drainAll(t, b)
	const writers, each = 48, 6
	var made atomic.Int32
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				_, err := replicas[i%2].UpdateTenant(t.Context(), "hot", 0, func(rec *tenant.Record) error {
					n, _ := strconv.Atoi(rec.DisplayName)
					rec.DisplayName = strconv.Itoa(n + 1)
					return nil
				}, Entry("hot", "tenant.update"))
				if err != nil {
					t.Errorf("writer %d: %v", i, err)
					continue
				}
				made.Add(1)
			}
		})
	}
	wg.Wait()
	entries := 0
	d := Dump(t, b)
	for k := range d {
		if strings.HasPrefix(k, "a/hot/") {
			entries++
		}
	}
	if want := fmt.Sprintf(`"display_name":"%d"`, made.Load()); entries != int(made.Load()) || !strings.Contains(string(d["x/hot"].Value), want) {
		t.Errorf("%d updates were acknowledged: %d entries, record %s", made.Load(), entries, d["x/hot"].Value)
	}
}

// testLargest: a record with all the hosts and keys that it may have can exchange them all in one change.
func testLargest(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	fill := func(gen string) func(*tenant.Record) {
		return func(rec *tenant.Record) {
			rec.Hosts, rec.Keys = nil, nil
			for i := range tenant.MaxHosts {
				Host(fmt.Sprintf("%s%d.%s.example.com", gen, i, strings.Repeat("a", 60)))(rec)
			}
			for i := range tenant.MaxKeys {
				Key(fmt.Sprintf("%s%d%s", gen, i, strings.Repeat("k", tenant.MaxNameLen-8)))(rec)
			}
		}
	}
	Create(t, r, "large", fill("one"))
	if _, err := r.UpdateTenant(t.Context(), "large", 0, func(rec *tenant.Record) error { fill("two")(rec); return nil }, Entry("large", "tenant.update")); err != nil {
		t.Fatalf("UpdateTenant: %v", err)
	}
	Create(t, r, "other", fill("one")) // all free again
	if err := r.DeleteTenant(t.Context(), "large", 0, Entry("large", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	Create(t, r, "third", fill("two"))
}

// testFull: an admin fills the tenant's record with what authenticators may hold. There is room all the
// same for what must not fail: to suspend the tenant, to revoke a user, and to take something out.
func testFull(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Create(t, r, "full")
	update := func(edit func(rec *tenant.Record)) error {
		_, err := r.UpdateTenant(t.Context(), "full", 0, func(rec *tenant.Record) error { edit(rec); return nil }, Entry("full", "tenant.update"))
		return err
	}
	refused := 0
	for i := range tenant.MaxAuthenticators {
		for n := 32 << 10; n > 2<<10; n /= 4 {
			err := update(func(rec *tenant.Record) {
				if len(rec.Authenticators) == i {
					rec.Authenticators = append(rec.Authenticators, tenant.Authenticator{Name: fmt.Sprint("a", i), Type: tenant.AuthnOIDC,
						OIDC: &tenant.OIDC{Issuer: "https://issuer.example"}})
				}
				rec.Authenticators[i].OIDC.CA += strings.Repeat("<", n) // six bytes each, as JSON
			})
			if err == nil && n == 32<<10 {
				break
			}
			if err != nil {
				WantKind(t, "a record that is full", err, fault.TooLarge)
				refused++
			}
		}
		if refused > 0 {
			break
		}
	}
	if refused == 0 {
		t.Error("a record may be of any size")
	}
	now := time.Now()
	for i := range 3 { // they are bounded in bytes, and reach that
		if err := update(func(rec *tenant.Record) {
			for j := range tenant.MaxRevoked / 3 {
				rec.Revoke(tenant.Revocation{Principal: fmt.Sprint("user:a0/", strings.Repeat("<", 240), i, "-", j), Before: now, Until: now.Add(time.Hour)}, now)
			}
		}); err != nil {
			t.Fatalf("revoke a user in a full record: %v", err)
		}
	}
	if err := update(func(rec *tenant.Record) {
		rec.State, rec.SuspendReason = tenant.StateSuspended, strings.Repeat("<", tenant.MaxNameLen)
		rec.Policy = &tenant.PolicyRef{Digest: "sha256:" + strings.Repeat("0", 64), File: strings.Repeat("<", 255)}
	}); err != nil {
		t.Errorf("suspend a tenant with a full record: %v", err)
	}
	if err := update(func(rec *tenant.Record) { rec.Authenticators = rec.Authenticators[1:] }); err != nil {
		t.Errorf("remove an authenticator from a full record: %v", err)
	}
}

// lagging is a backend like a cluster of which one member has compacted and another not yet: a watch that met the
// first and was told so is opened at the second, and delivers what is long past.
type lagging struct {
	registry.Backend
	compacted atomic.Bool  // the next watch falls behind a compaction
	fails     atomic.Int32 // so many listings of owners fail
}

func (l *lagging) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	if l.compacted.Swap(false) {
		return registry.ErrCompacted
	}
	return l.Backend.Watch(ctx, from, prefixes, deliver)
}

func (l *lagging) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if q.Prefix == "o/" && l.fails.Load() > 0 {
		l.fails.Add(-1)
		return nil, fault.New(fault.Unavailable, "no answer")
	}
	return l.Backend.Range(ctx, q)
}

// testHalfSnapshot: a snapshot that breaks off half-way is taken anew: the watch does not go on where it was, and set
// back what the snapshot brought.
func testHalfSnapshot(t *testing.T, b Backend) {
	far := &lagging{Backend: b}
	trap := &Faulty{Backend: far}
	r, late := Start(t, b, "r1"), Start(t, trap, "r2")
	Create(t, r, "alpha")
	mustByID(t, late, "alpha")
	var mu sync.Mutex
	var last int64
	defer late.Index().Subscribe(func(id tenant.ID, e *tenant.Entry) {
		mu.Lock()
		defer mu.Unlock()
		if e != nil && e.Record.Revision < last {
			t.Errorf("the index went back from revision %d of %s to %d", last, id, e.Record.Revision)
		}
		if e != nil {
			last = e.Record.Revision
		}
	})()
	trap.Deafen(true)
	var want *tenant.Entry
	for i := range 5 {
		e, err := r.UpdateTenant(t.Context(), "alpha", 0, setName(fmt.Sprint(i)), Entry("alpha", "tenant.update"))
		if err != nil {
			t.Fatalf("UpdateTenant: %v", err)
		}
		want = e
	}
	far.compacted.Store(true)
	far.fails.Store(1)
	trap.CutWatch()
	trap.Deafen(false)
	Eventually(t, "the index has caught up", func() bool {
		return mustByID(t, late, "alpha").Record.Revision == want.Record.Revision && late.Healthy() == nil
	})
	e := Create(t, r, "beta")
	Eventually(t, "it goes on", func() bool {
		got, ok := late.Index().ByID("beta")
		return ok && got.Scope == e.Scope
	})
}
