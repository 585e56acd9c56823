package registrytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// testX37 is that no tenant's keys are among another's, and that a backend which leaves out the '/' would be noticed.
func testX37(t *testing.T, b Backend) {
	for _, c := range []struct {
		name    string
		backend registry.Backend
		bleeds  bool
	}{
		{"honest", b, false},
		{"planted", Bleeding{b}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Start(t, c.backend, "r1")
			defer r.Stop()
			for _, id := range []string{"t1", "t10"} {
				claim := Claim(t, r, Create(t, r, id).Scope)
				Write(t, claim, "server", "s", "{}")
				Write(t, claim, "servers", "s", "{}")
				if got := len(Objects(t, claim, "server")); got != 1 && !c.bleeds {
					t.Errorf("%s has %d servers", id, got)
				}
			}
			if err := r.DeleteTenant(t.Context(), "t1", 0, Entry("t1", "tenant.delete")); err != nil {
				t.Fatalf("DeleteTenant: %v", err)
			}
			if bled := Dump(t, b)["t/t10/server/s"].Key == ""; bled != c.bleeds {
				t.Errorf("t10 lost state with t1: got %v, want %v", bled, c.bleeds)
			}
		})
		mustTxn(t, b, &registry.Txn{DeletePrefixes: []string{"x/", "t/", "a/", "o/"}})
	}
}

// acks is what writers were told is stored.
type acks struct {
	mu  sync.Mutex // guards ids
	ids []string
}

func (a *acks) add(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = append(a.ids, id)
}

func (a *acks) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.ids)
}

// writeUntilLost commits one object after another until the claim is lost.
func writeUntilLost(c *registry.Claim, name string, into *acks) {
	for n := 0; c.Context().Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d", name, n)
		err := c.Commit(context.Background(), Entry(c.Scope().ID(), "server.create"), tenant.Write{Kind: "server", ID: id, Value: []byte("{}")})
		if err != nil {
			return
		}
		into.add(id)
	}
}

// testX43: an owner is killed while it writes, again and again. Another replica serves within TTL + 1 s, and of what was
// acknowledged nothing is missing. A store that forgets is found out.
func testX43(t *testing.T, b Backend) {
	const ttl = time.Second
	honest := Start(t, b, "survivor", TTL(ttl))
	t.Run("killed", func(t *testing.T) {
		e := Create(t, honest, "alpha")
		var all acks
		for round := range 3 {
			c, took := killOwner(t, b, honest, e.Scope, fmt.Sprint("r", round), ttl, &all)
			if took > ttl+time.Second {
				t.Errorf("round %d: served again after %v, want at most the TTL of %v and 1s", round, took, ttl)
			}
			if lost := missing(t, c, &all); len(lost) != 0 {
				t.Errorf("round %d: %d of %d acknowledged writes are lost: %v", round, len(lost), all.len(), lost)
			}
			if err := c.Release(t.Context()); err != nil {
				t.Fatalf("Release: %v", err)
			}
		}
		t.Logf("%d acknowledged writes, 3 kills", all.len())
	})
	t.Run("planted", func(t *testing.T) {
		e := Create(t, honest, "beta")
		var all acks
		c, _ := killOwner(t, &Forgetful{Backend: b}, honest, e.Scope, "forgetful", ttl, &all)
		if lost := missing(t, c, &all); len(lost) == 0 {
			t.Errorf("of %d acknowledged writes to a store that forgets none is missed", all.len())
		}
	})
}

// killOwner starts an owner whose commits run side by side, kills it, and returns the survivor's claim and how long after
// the kill it was to be had.
func killOwner(t *testing.T, b registry.Backend, survivor *Replica, scope tenant.Scope, name string, ttl time.Duration, all *acks) (*registry.Claim, time.Duration) {
	process := NewProcess(b)
	owner := Start(t, process, name, TTL(ttl))
	mustByID(t, owner, scope.ID())
	c := Claim(t, owner, scope)
	var writers sync.WaitGroup
	defer owner.Stop()
	defer writers.Wait()
	for i := range 3 {
		writers.Go(func() { writeUntilLost(c, fmt.Sprintf("%s-%d", name, i), all) })
	}
	enough := all.len() + 30 + rand.IntN(10) //nolint:gosec // not a secret
	Eventually(t, "the owner has written", func() bool { return all.len() >= enough })
	process.Kill()
	killed := time.Now()
	var next *registry.Claim
	Eventually(t, "the survivor has the tenant", func() bool {
		var err error
		next, err = survivor.Claim(t.Context(), scope)
		return err == nil
	})
	return next, time.Since(killed)
}

// missing returns what was acknowledged and is not there.
func missing(t *testing.T, c *registry.Claim, all *acks) (lost []string) {
	stored := map[string]bool{}
	for _, o := range Objects(t, c, "server") {
		stored[o] = true
	}
	for _, id := range all.ids {
		if !stored[id+"={}"] {
			lost = append(lost, id)
		}
	}
	return lost
}

// testX45: a replica that is cut off from the store has stopped before another can have its tenants. One whose lease
// lasts for less than it believes has not, and is found out.
func testX45(t *testing.T, b Backend) {
	for _, c := range []struct {
		name    string
		backend registry.Backend
		ttl     time.Duration
		inTime  bool
	}{
		{"honest", b, time.Second, true},
		{"planted", Generous{b}, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			process := NewProcess(c.backend)
			owner, other := Start(t, process, "cut-"+c.name, TTL(c.ttl)), Start(t, b, "other-"+c.name)
			defer owner.Stop()
			claim := Claim(t, owner, Create(t, other, c.name).Scope)
			process.Kill() // as far as others see: nothing comes out of it any more
			stopped := false
			Eventually(t, "another has the tenant", func() bool {
				// Asked first: what stops a moment after the other has begun is too late.
				stopped = claim.Context().Err() != nil
				_, err := other.Claim(t.Context(), claim.Scope())
				return err == nil
			})
			if stopped != c.inTime {
				t.Errorf("the owner had stopped when another began: got %v, want %v", stopped, c.inTime)
			}
			if !c.inTime {
				return
			}
			if err := contextCause(claim); !errors.Is(err, registry.ErrSessionLost) {
				t.Errorf("the cause: %v", err)
			}
			err := claim.Commit(t.Context(), Entry(claim.Scope().ID(), "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
			if WantKind(t, "a commit of who is cut off", err, fault.Unavailable); fault.From(err).RetryAfter <= 0 {
				t.Errorf("no advice when to retry: %v", err)
			}
		})
	}
}

// testHalfOpen: a replica that hears nothing more of the watch, while all else works, is not fresh after a while, and is
// again when it hears (X45).
func testHalfOpen(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1", TTL(time.Second))
	if err := r.Fresh(0); err != nil {
		t.Fatalf("Fresh: %v", err)
	}
	faulty.Deafen(true)
	deaf := time.Now()
	Eventually(t, "the silence is noticed", func() bool { return r.Fresh(0) != nil })
	if took := time.Since(deaf); took < time.Second || took > 7*time.Second {
		t.Errorf("the silence was noticed after %v", took)
	}
	WantKind(t, "Fresh", r.Fresh(0), fault.Unavailable)
	if err := r.Fresh(time.Minute); err != nil {
		t.Errorf("Fresh with a grace of a minute: %v", err)
	}
	faulty.Deafen(false)
	Eventually(t, "it is fresh again", func() bool { return r.Fresh(0) == nil })
}

// placed is what an index says of tenants and owners, in a form that can be compared.
func placed(r *Replica) map[string]string {
	out := view(r.Index(), nil, nil)
	for _, n := range r.Index().Replicas() {
		owned := r.Index().OwnedBy(n.Name)
		out[n.Name] = fmt.Sprint(owned)
		for _, id := range owned {
			if o, ok := r.Index().Owner(id); !ok || o.Replica != n.Name {
				out[n.Name] += fmt.Sprintf(" but %s is owned by %v", id, o)
			}
		}
	}
	return out
}

// testX48: a replica whose watch is late, and breaks, over compactions too, ends with the index that all others have: no
// deletion, release or hand-off is missed. One that is not told of deletions is found out.
func testX48(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	late := &Faulty{Backend: Lagging{b, 30 * time.Millisecond}}
	far := Start(t, late, "far")
	deaf := Start(t, NoDeletes{b}, "deaf")
	mustKnow := func() bool { return len(names(r1)) == 4 && len(names(far)) == 4 && len(names(deaf)) == 4 }
	Eventually(t, "all know all", mustKnow)
	for n := range 25 {
		churn(t, r1, r2, n)
		if n%4 == 1 {
			late.CutWatch()
		}
		if n%8 == 5 {
			if err := b.Compact(t.Context(), revision(t, b)); err != nil && !strings.Contains(err.Error(), "compacted") {
				t.Fatalf("compact: %v", err)
			}
		}
	}
	Eventually(t, "the late replica has what the others have", func() bool { return maps.Equal(placed(far), placed(r1)) && maps.Equal(placed(r1), placed(r2)) })
	if c := r1.Index().Len(); c == 0 || c == 25 {
		t.Errorf("%d tenants are left: the test deletes none, or all", c)
	}
	last := Create(t, r1, "last") // no compaction comes behind it, so nobody gets a fresh snapshot
	Eventually(t, "the deaf replica has the last tenant", func() bool { return has(deaf, "last") })
	if err := r2.DeleteTenant(t.Context(), last.Record.ID, 0, Entry(last.Record.ID, "tenant.delete")); err != nil {
		t.Fatal(err)
	}
	Eventually(t, "the others hear that it is gone", func() bool { return maps.Equal(placed(far), placed(r1)) && !has(far, "last") })
	if !has(deaf, "last") {
		t.Error("a replica that is told of no deletion has what the others have: the test proves nothing")
	}
}

func has(r *Replica, id tenant.ID) bool {
	_, ok := r.Index().ByID(id)
	return ok
}

// churn makes a tenant and moves it about; of three, one is deleted, one released and one kept.
func churn(t *testing.T, r1, r2 *Replica, n int) {
	e := Create(t, r1, fmt.Sprint("t", n))
	c := Claim(t, r1, e.Scope)
	if n%2 == 0 {
		if err := c.Handoff(t.Context(), "r2", nil); err != nil {
			t.Fatalf("Handoff: %v", err)
		}
		c = Claim(t, r2, e.Scope)
	}
	var err error
	switch n % 3 {
	case 0:
		err = r2.DeleteTenant(t.Context(), e.Record.ID, 0, Entry(e.Record.ID, "tenant.delete"))
	case 1:
		err = c.Release(t.Context())
	}
	if err != nil {
		t.Fatalf("the end of %s: %v", e.Record.ID, err)
	}
}
