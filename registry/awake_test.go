package registry

import (
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// TestAwake: the index knows who has work without requests, through changes, deletions and snapshots.
func TestAwake(t *testing.T) {
	ix := NewIndex("gw.test")
	awake := func(r *tenant.Record) { r.Awake = true }
	want := func(when string, n int) {
		t.Helper()
		if got := ix.Awake(); len(got) != n {
			t.Errorf("%s: %d are awake, want %d", when, len(got), n)
		}
	}
	ix.Upsert(testEntry(t, 1, 1, awake))
	ix.Upsert(testEntry(t, 2, 2))
	want("one of two", 1)
	if e := ix.Awake()[0]; e.Scope.ID() != "tenant-00001" || !e.Record.Awake {
		t.Errorf("awake is %s", e.Scope)
	}
	ix.Upsert(testEntry(t, 2, 3, awake))
	want("both", 2)
	ix.Upsert(testEntry(t, 1, 4))
	want("one fell asleep", 1)
	ix.Delete("tenant-00002")
	want("the other is gone", 0)
	ix.Upsert(testEntry(t, 3, 5, awake))
	ix.retain(&snapshotNames{tenants: map[tenant.ID]bool{}})
	want("after a snapshot without it", 0)
}
