package registrytest

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// names returns the names of live replicas as an index has them, with a '-' behind those that drain.
func names(r *Replica) (out []string) {
	for _, n := range r.Index().Replicas() {
		name := n.Name
		if n.Draining {
			name += "-"
		}
		out = append(out, name)
	}
	return out
}

// testReplicas: each replica knows what the others say of themselves, and of newer versions' what it can.
func testReplicas(t *testing.T, b Backend) {
	begun := time.Now()
	var load atomic.Pointer[registry.Load]
	load.Store(&registry.Load{Tenants: 3, Requests: 7, Streams: 2, CPU: 0.5, Memory: 1 << 30})
	r2 := Start(t, b, "r2", func(c *registry.Config) {
		c.Version, c.Capacity, c.Load = "1.2.3", 50, func() registry.Load { return *load.Load() }
	})
	r1 := Start(t, b, "r1")
	Eventually(t, "both know both", func() bool { return len(names(r1)) == 2 && len(names(r2)) == 2 })
	if got := names(r2); !slices.Equal(got, []string{"r1", "r2"}) || r2.Index().ReplicaCount() != 2 {
		t.Errorf("replicas: %v, %d", got, r2.Index().ReplicaCount())
	}
	n, _ := r1.Index().Replica("r2")
	if n.Version != "1.2.3" || n.Capacity != 50 || n.Load != *load.Load() || n.Address != "r2:7443" || n.Draining ||
		n.Started.Before(begun.Add(-time.Minute)) || n.Started.After(time.Now().Add(time.Minute)) {
		t.Errorf("what r2 says of itself: %+v", n)
	}
	if n, _ := r1.Index().Replica("r1"); n.Capacity != registry.DefaultCapacity || n.Load != (registry.Load{}) {
		t.Errorf("what r1 says of itself: %+v", n)
	}
	for name, value := range map[string]string{
		"old":    `{"v":1,"name":"old","address":"old:7443","lease":5}`,
		"newer":  `{"v":2,"name":"newer","address":"newer:7443","capacity":30,"draining":true,"mood":{"good":true}}`,
		"beyond": `{"v":3,"address":"beyond:7443"}`,
		"broken": `{`,
	} {
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "n/" + name, Value: []byte(value)}}})
	}
	Eventually(t, "all are known", func() bool { return r1.Index().ReplicaCount() == 6 })
	if got, want := fmt.Sprint(names(r1)), "[beyond- broken- newer- old r1 r2]"; got != want {
		t.Errorf("replicas: got %s, want %s", got, want)
	}
	for name, want := range map[string]registry.Replica{
		"old":    {V: 1, Name: "old", Address: "old:7443", Capacity: registry.DefaultCapacity},
		"newer":  {V: 2, Name: "newer", Address: "newer:7443", Capacity: 30, Draining: true},
		"beyond": {V: 3, Name: "beyond", Capacity: registry.DefaultCapacity, Draining: true},
		"broken": {Name: "broken", Capacity: registry.DefaultCapacity, Draining: true},
	} {
		if got, _ := r1.Index().Replica(name); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// testDraining: a replica says that it drains, also where the answer is lost, and goes on to say so in a new session.
func testDraining(t *testing.T, b Backend) {
	lossy := &Faulty{Backend: b}
	r1, r2 := Start(t, lossy, "r1"), Start(t, b, "r2")
	for _, on := range []bool{true, false, true, true} {
		lossy.LoseAnswers(1)
		if err := r1.SetDraining(t.Context(), on); err != nil {
			t.Fatalf("SetDraining(%v): %v", on, err)
		}
		if n, _ := r1.Index().Replica("r1"); n.Draining != on {
			t.Errorf("after SetDraining(%v) its own index says %v", on, n.Draining)
		}
	}
	lossy.LoseAnswers(0)
	Eventually(t, "the other knows", func() bool { n, _ := r2.Index().Replica("r1"); return n.Draining })
	old, _ := r2.Index().Replica("r1")
	if err := b.Revoke(t.Context(), old.Lease); err != nil {
		t.Fatalf("Revoke: %v", err)
	}
	Eventually(t, "it drains in its new session", func() bool {
		n, ok := r2.Index().Replica("r1")
		return ok && n.Lease != old.Lease && n.Draining && n.Started.Equal(old.Started)
	})
	if kv := Dump(t, b)["n/r1"]; kv.CreateRevision != kv.ModRevision {
		t.Error("it did not drain from the first moment of its session")
	}
}

// testOwned: an index knows what each replica owns, and wakes whoever waits for a change.
func testOwned(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	ix := r2.Index()
	owned := func(replica string) string {
		ids := ix.OwnedBy(replica)
		if len(ids) != ix.OwnedCount(replica) {
			t.Errorf("%s owns %v, counted %d", replica, ids, ix.OwnedCount(replica))
		}
		return fmt.Sprint(ids)
	}
	wait := func(what string, f func() bool) {
		t.Helper()
		for timeout := time.After(15 * time.Second); ; {
			changed := ix.Changed()
			if f() {
				return
			}
			select {
			case <-changed:
			case <-timeout:
				t.Fatalf("still not so: %s", what)
			}
		}
	}
	var claims []*registry.Claim
	for _, id := range []string{"c", "a", "b"} {
		claims = append(claims, Claim(t, r1, Create(t, r1, id).Scope))
	}
	wait("r1 owns three", func() bool { return owned("r1") == "[a b c]" && owned("r2") == "[]" })
	if err := claims[0].Handoff(t.Context(), "r2", nil); err != nil {
		t.Fatalf("Handoff: %v", err)
	}
	wait("r2 owns one of them", func() bool { return owned("r1") == "[a b]" && owned("r2") == "[c]" })
	if err := claims[1].Release(t.Context()); err != nil {
		t.Fatalf("Release: %v", err)
	}
	if err := r1.DeleteTenant(t.Context(), "b", 0, Entry("b", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	wait("r1 owns none", func() bool { return owned("r1") == "[]" })
	r1.Stop()
	wait("r1 is gone", func() bool { return ix.ReplicaCount() == 1 })
	if err := r1.SetDraining(t.Context(), true); !fault.Is(err, fault.Unavailable) {
		t.Errorf("SetDraining of a replica that has stopped: %v", err)
	}
	if _, ok := ix.Owner(tenant.ID("a")); ok {
		t.Error("a still has an owner")
	}
}
