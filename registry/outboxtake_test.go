package registry_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// committed makes a change at a replica, and returns its entry's id.
func committed(t *testing.T, r *registrytest.Replica, as string, n int) string {
	t.Helper()
	e := registrytest.Entry("", "tenant.create")
	e.Replica = as
	if _, err := r.CreateTenant(t.Context(), registrytest.Record(fmt.Sprintf("t%s%d", as, n)), e); err != nil {
		t.Fatalf("CreateTenant: %v", err)
	}
	return e.ID
}

func pendingIDs(t *testing.T, o *registry.Outbox) (ids []string) {
	t.Helper()
	ps, err := o.Pending(t.Context(), 100)
	if err != nil {
		t.Fatalf("Pending: %v", err)
	}
	for _, p := range ps {
		ids = append(ids, p.Entry.ID)
	}
	return ids
}

// TestOutboxPerReplica: each replica sees its own entries alone, also where names begin alike; heads too.
func TestOutboxPerReplica(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r1, r10 := registrytest.Start(t, b, "r1"), registrytest.Start(t, b, "r10")
	first, second := committed(t, r1, "r1", 0), committed(t, r10, "r10", 0)
	o1, o10 := r1.ReplicaOutbox(), r10.ReplicaOutbox()
	if a, b := pendingIDs(t, o1), pendingIDs(t, o10); len(a) != 1 || a[0] != first || len(b) != 1 || b[0] != second {
		t.Errorf("r1 has %v, r10 has %v; want %s and %s", a, b, first, second)
	}
	h := audit.Head{Seq: 1, Hash: [32]byte{1}}
	for o, chain := range map[*registry.Outbox]string{o1: "_platform@r1", o10: "_platform@r10"} {
		if err := o.Settle(t.Context(), map[string]audit.Head{chain: h}, nil); err != nil {
			t.Fatalf("Settle: %v", err)
		}
	}
	if got, err := o1.OwnHeads(t.Context()); err != nil || len(got) != 1 || got["_platform@r1"] != h {
		t.Errorf("OwnHeads of r1: %v, %v", got, err)
	}
	if got, err := o1.Heads(t.Context()); err != nil || len(got) != 2 {
		t.Errorf("Heads: %v, %v; want both", got, err)
	}
	if got, err := o1.Writers(t.Context(), "_platform"); err != nil || len(got) != 2 {
		t.Errorf("Writers: %v, %v; want both", got, err)
	}
	if n, err := o10.TakeOver(t.Context(), -1); n != 0 || err != nil {
		t.Errorf("TakeOver of a replica that lives: %d, %v", n, err)
	}
}

// TestOutboxTakeOver: the entries of a dead replica move to one other, once; the dead one cannot settle them any more, and learns
// which they were.
func TestOutboxTakeOver(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	dead := registrytest.Start(t, b, "dead")
	r2, r3 := registrytest.Start(t, b, "r2"), registrytest.Start(t, b, "r3")
	var want []string
	for i := range 60 { // more than fit one transaction
		want = append(want, committed(t, dead, "dead", i))
	}
	unnamed := committed(t, r2, "", 0)
	o, o2, o3 := dead.ReplicaOutbox(), r2.ReplicaOutbox(), r3.ReplicaOutbox()
	written, err := o.Pending(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	dead.Stop()
	registrytest.Eventually(t, "the session is over", func() bool { _, live := r2.Index().Replica("dead"); return !live })
	if got, err := o2.Writers(t.Context(), "_platform"); err != nil || !slices.Equal(got, []string{"dead"}) {
		t.Errorf("Writers while its entries are in no log: %v, %v; want the dead one", got, err)
	}
	if n, err := o2.TakeOver(t.Context(), time.Hour); err != nil || n != 1 {
		t.Errorf("TakeOver with patience: %d, %v; want the one that names no replica", n, err)
	}
	n3, err3 := o3.TakeOver(t.Context(), -1) // r2 holds the lock
	n2, err2 := o2.TakeOver(t.Context(), -1)
	if n2 != 60 || n3 != 0 || err2 != nil || err3 != nil {
		t.Errorf("r2 took %d (%v), r3 %d (%v); want 60 and 0", n2, err2, n3, err3)
	}
	if got := pendingIDs(t, o2); len(got) != 61 || got[0] != unnamed || got[60] != want[59] {
		t.Errorf("r2 has %d entries, want 61 in the order in which they were committed", len(got))
	}
	if got, err := o2.Writers(t.Context(), "_platform"); err != nil || len(got) != 0 {
		t.Errorf("Writers once all was taken over: %v, %v; want none", got, err)
	}
	if got := pendingIDs(t, o); len(got) != 0 {
		t.Errorf("the dead one still has %v", got)
	}
	again := registrytest.Start(t, b, "dead").ReplicaOutbox()
	err = again.Settle(t.Context(), map[string]audit.Head{"_platform@dead": {Seq: 60}}, written[:1])
	if !errors.Is(err, audit.ErrTaken) || fault.KindOf(err) != fault.Conflict {
		t.Errorf("Settle of what was taken: %v, want ErrTaken", err)
	}
	if heads, _ := again.OwnHeads(t.Context()); len(heads) != 0 {
		t.Errorf("it anchored %v all the same", heads)
	}
	taken, err := again.Taken(t.Context())
	if err != nil || len(taken) != 61 || !taken[want[0]] {
		t.Errorf("Taken: %d, %v; want its 60 and the one that named none", len(taken), err)
	}
	if mine, err := o2.Taken(t.Context()); err != nil || len(mine) != 0 {
		t.Errorf("Taken of who took them: %v, %v", mine, err)
	}
	if err := again.Forget(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	if taken, err = again.Taken(t.Context()); err != nil || len(taken) != 1 {
		t.Errorf("after Forget: %v, %v; want the one that names none to stay for whoever may have it", taken, err)
	}
}

// TestOutboxFormerVersion: what a version for one replica left is drained by a platform of one as before.
func TestOutboxFormerVersion(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "r1")
	old, own := committed(t, r, "", 0), committed(t, r, "r1", 0)
	o := r.Outbox()
	if got := pendingIDs(t, o); len(got) != 2 || got[0] != old || got[1] != own {
		t.Errorf("pending %v, want %s and %s", got, old, own)
	}
	ps, err := o.Pending(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Settle(t.Context(), map[string]audit.Head{"_platform": {Seq: 2}}, ps); err != nil {
		t.Fatalf("Settle: %v", err)
	}
	if got := pendingIDs(t, o); len(got) != 0 {
		t.Errorf("%v are left", got)
	}
	if keys := registrytest.Dump(t, b); len(keys["c/audit/_platform"].Value) == 0 {
		t.Error("the head is not where the former version looks for it")
	}
}
