package guard

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// TestX41DeletedTenantLeavesNothing: wherever between the steps of a deletion a late request comes, no guard, table or engine of
// the tenant is kept, and no metrics are asked for.
func TestX41DeletedTenantLeavesNothing(t *testing.T) {
	w, p := policyWorld()
	alive, asked, metered := true, func() {}, 0
	w.cfg.Alive = func(tenant.Scope) bool { defer asked(); return alive }
	w.cfg.Meter = func(tenant.Scope) Meter { metered++; return new(meter) }
	e := withPolicy("team-a", 1, "allow")
	late := func() {
		t.Helper()
		v := w.visit(t, e, member("team-a", tenant.Admin))
		if _, err := v.Admit(Effect{Action: authz.MCPCall}); err != nil {
			t.Error(err)
		}
		v.Leave()
		if s := w.Stats(); s.Guards != 0 || s.TableBytes != 0 || s.ActiveRequests != 0 || len(w.of) != 0 {
			t.Errorf("kept: %+v", s)
		}
		for _, e := range p.all {
			if e.closed.Load() != 1 {
				t.Errorf("an engine was closed %d times", e.closed.Load())
			}
		}
	}
	w.For(e)
	alive = false
	w.Changed("team-a", nil)
	metered = 0
	late() // after the deletion
	alive = true
	asked = func() { alive = false; w.Forget("team-a") }
	late() // while it is asked whether the tenant is alive
	if metered != 0 {
		t.Errorf("metrics were asked for %d times", metered)
	}
}

// TestX41RecreatedUnderLoad: tenants are deleted and made again while requests of the old and the new come in; at the end
// nothing of the old ones is left, and nobody was let into another's guard.
func TestX41RecreatedUnderLoad(t *testing.T) {
	w, p := policyWorld()
	var current atomic.Pointer[tenant.Entry]
	w.cfg.Alive = func(s tenant.Scope) bool { e := current.Load(); return e != nil && e.Scope == s }
	w.cfg.Meter = func(tenant.Scope) Meter { return new(meter) }
	record := func(n int) *tenant.Entry {
		e := tenantEntry("team-a", fmt.Sprintf("uid-%d", n), int64(n), tenant.Quotas{MaxConcurrentRequests: 1 + n%5, RequestsPerSecond: float64(1000 + n)})
		e.Record.Policy = &tenant.PolicyRef{Digest: []string{"allow", "deny"}[n%2]}
		return e
	}
	current.Store(record(0))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				e := current.Load()
				if e == nil {
					continue
				}
				v, err := w.For(e).Enter(member("team-a", tenant.Admin), Request{})
				if err != nil {
					continue
				}
				if v.Scope() != e.Scope {
					t.Errorf("entered %s, not %s", v.Scope().UID(), e.Scope.UID())
				}
				_ = v.Stream()
				v.Bytes(10, 10)
				if _, err := v.Admit(Effect{Action: authz.MCPCall}); err != nil && !fault.Is(err, fault.Forbidden) {
					t.Errorf("Admit = %v", err)
				}
				v.Leave()
				w.rec.take()
			}
		})
	}
	for n := 1; n <= 300; n++ {
		current.Store(nil)
		w.Changed("team-a", nil)
		e := record(n)
		current.Store(e)
		w.Changed("team-a", e)
		w.For(e)
		w.Sweep()
	}
	current.Store(nil)
	w.Forget("team-a")
	stop.Store(true)
	wg.Wait()
	if s := w.Stats(); s != (Stats{}) {
		t.Errorf("left: %+v", s)
	}
	for i, e := range p.all {
		if e.closed.Load() != 1 || e.late.Load() != 0 {
			t.Errorf("engine %d was closed %d times, asked %d times after it", i, e.closed.Load(), e.late.Load())
		}
	}
}
