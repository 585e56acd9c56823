package report

import (
	"slices"
	"testing"

	"github.com/polygate/polygate/bench/result"
)

// TestAims holds that RSS and heap of a tenant are each held against its aim, in the aim's unit.
func TestAims(t *testing.T) {
	p := result.CapacityPoint{Subject: ours, Registered: 1000, PerRegistered: 4096, HeapPerRegistered: 1024, PerActive: 2 << 20, HeapPerActive: 17 << 10, PerStream: 2 << 20}
	s := capacitySection([]result.CapacityPoint{{Subject: ours}, p})
	each := s.parts[len(s.parts)-1]
	if len(each.table.rows) != 1 {
		t.Fatalf("got %+v, want the point alone that adds something", each.table.rows)
	}
	for title, want := range map[string]string{"RSS per registered": "4.00 KiB ✗", "heap per registered": "1.00 KiB", "RSS per active": "2,048 KiB ✗",
		"heap per active": "17.0 KiB ✗", "RSS per stream": "2,048 KiB"} {
		if got := cellOf(t, each.table, ours, title); got != want {
			t.Errorf("%s: got %q, want %q", title, got, want)
		}
	}
	want := []string{"✗ over the aim of 2 KiB for a registered tenant: polygate with 1,000 registered (RSS).",
		"✗ over the aim of 16 KiB for an active one: polygate with 1,000 registered (RSS and heap)."}
	if !slices.Equal(each.notes, want) {
		t.Errorf("got %q, want %q", each.notes, want)
	}
}

// TestTenantsErrors holds that errors of a tenants point are shown, and that none are not.
func TestTenantsErrors(t *testing.T) {
	points := []result.TenantsPoint{{Subject: ours, Tenants: 1, Processes: 1}, {Subject: "nginx", Tenants: 1, Processes: 2, Errors: 1234}}
	if got := cellOf(t, tenantsSection(points).parts[0].table, "nginx", "errors"); got != "1,234" {
		t.Errorf("errors: got %q", got)
	}
	if got := cellOf(t, tenantsSection(points[:1]).parts[0].table, ours, "errors"); got != "" {
		t.Errorf("no errors: got a column with %q", got)
	}
}
