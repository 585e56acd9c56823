package guard

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// divided is a world whose replica has a part of the limits only.
type divided struct {
	*world
	mu   sync.Mutex
	part Part // guarded by mu
	told int  // how often a limit refused
}

func newDivided(p Part) *divided {
	d := &divided{world: newWorld(Limits{}), part: p}
	d.cfg.Part = func(tenant.Scope) Part { d.mu.Lock(); defer d.mu.Unlock(); return d.part }
	d.cfg.Patience = -1
	d.cfg.Wanting = func(tenant.Scope) { d.told++ }
	return d
}

func (d *divided) set(e *tenant.Entry, p Part) {
	d.mu.Lock()
	d.part = p
	d.mu.Unlock()
	d.PartChanged(e.Scope.ID(), e.Scope.UID())
}

// enter lets requests in until one is refused, and returns how many.
func (d *divided) enter(t *testing.T, e *tenant.Entry, p tenant.Principal, most int) (n int) {
	t.Helper()
	for n < most {
		v, err := d.For(e).Enter(p, Request{})
		if err != nil {
			if fault.KindOf(err) != fault.RateLimited {
				t.Fatal(err)
			}
			return n
		}
		v.Leave()
		n++
	}
	return n
}

func TestPartOfTheRate(t *testing.T) {
	d := newDivided(Part{Share: 0.3})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 10, Burst: 100})
	if n := d.enter(t, e, user(1), 1000); n != 30 || d.told != 1 {
		t.Errorf("%d of 100 with a share of 0.3, wanting told %d times", n, d.told)
	}
	_, err := d.For(e).Enter(user(1), Request{})
	if f := fault.From(err); f == nil || f.Detail != "over the quota of 10 requests per second" {
		t.Errorf("the refusal names the tenant's limit: %v", err)
	}
	d.set(e, Part{Share: 0.9}) // what it grows by is spent
	if n := d.enter(t, e, user(1), 1000); n != 0 {
		t.Errorf("%d at once after the share grew", n)
	}
	d.now = d.now.Add(time.Second)
	if n := d.enter(t, e, user(1), 1000); n != 9 {
		t.Errorf("%d in a second with a share of 0.9 of 10", n)
	}
	u := d.For(e).Usage()
	if u.Limits.Rate != (quota.Limit{PerSecond: 10, Burst: 100}) || u.Part != 0.9 {
		t.Errorf("usage shows %+v, part %v", u.Limits.Rate, u.Part)
	}
}

// TestPartEnds by itself, on the path of a request: a replica that was frozen does not spend what is another's by now.
func TestPartEnds(t *testing.T) {
	d := newDivided(Part{})
	d.part = Part{Share: 0.9, Odd: true, Until: d.now.Add(time.Second), After: 0.1}
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 100, Burst: 100, MaxConcurrentRequests: 10, BytesPerSecond: 1000})
	if got := d.For(e).limits(); got.Rate.Burst != 90 || got.MaxConcurrent != 9 {
		t.Errorf("limits %+v", got)
	}
	d.now = d.now.Add(time.Second)
	if got := d.For(e).limits(); got.Rate.Burst != 10 || got.MaxConcurrent != 1 || got.Bytes.PerSecond != 100 {
		t.Errorf("limits after the end %+v", got)
	}
	v := d.visit(t, e, user(1))
	if _, err := d.For(e).Enter(user(2), Request{}); err == nil {
		t.Error("a second one in flight")
	}
	v.Leave()
}

// TestPartOfNothing: where the parts round to nothing, all is refused, and nothing is without limit.
func TestPartOfNothing(t *testing.T) {
	for _, p := range []Part{{}, {Share: 0.05}} {
		for name, q := range map[string]tenant.Quotas{"rate": {RequestsPerSecond: 5, Burst: 5}, "concurrency": {MaxConcurrentRequests: 5}} {
			d := newDivided(p)
			if n := d.enter(t, tenantEntry("team-a", "u", 1, q), user(1), 10); n != 0 {
				t.Errorf("%s with a share of %v: %d let in", name, p.Share, n)
			}
		}
		d := newDivided(p)
		e := tenantEntry("team-a", "u", 1, tenant.Quotas{MaxStreams: 5})
		if err := d.visit(t, e, user(1)).Stream(); fault.KindOf(err) != fault.RateLimited {
			t.Errorf("a stream with a share of %v: %v", p.Share, err)
		}
	}
	d := newDivided(Part{Share: 0.05, Odd: true})
	if n := d.enter(t, tenantEntry("team-a", "u", 1, tenant.Quotas{MaxConcurrentRequests: 1}), user(1), 1); n != 1 {
		t.Error("the replica that rounds up has no place")
	}
}

// TestPartOfCallers: a caller's budget is divided, moves without a second burst, also for those who come new, and is never
// less than one request.
func TestPartOfCallers(t *testing.T) {
	d := newDivided(Part{Share: 0.5})
	q := tenant.Quotas{PerPrincipal: tenant.Share{RequestsPerSecond: 10, Burst: 40, MaxConcurrentRequests: 1}}
	e := tenantEntry("team-a", "u", 1, q)
	if n := d.enter(t, e, user(1), 100); n != 20 {
		t.Errorf("%d of 40 with half of it", n)
	}
	d.set(e, Part{Share: 0.1})
	d.set(e, Part{Share: 1})
	if n := d.enter(t, e, user(1), 100); n != 0 {
		t.Errorf("%d at once for one who had spent all", n)
	}
	if n := d.enter(t, e, user(2), 100); n != 4 {
		t.Errorf("%d at once for a newcomer, want a tenth of the burst", n)
	}
	d.now = d.now.Add(time.Hour)
	if n := d.enter(t, e, user(3), 100); n != 40 {
		t.Errorf("%d for a newcomer an hour later", n)
	}
	d.set(e, Part{Share: 0.001})
	d.now = d.now.Add(time.Hour)
	if n := d.enter(t, e, user(4), 100); n != 1 {
		t.Errorf("%d with next to nothing, want 1", n)
	}
}

// TestPartAndRecord change at the same time, and neither is lost.
func TestPartAndRecord(t *testing.T) {
	d := newDivided(Part{Share: 0.5})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{MaxConcurrentRequests: 10})
	g := d.For(e)
	var work sync.WaitGroup
	for i := range 100 {
		work.Go(func() { d.set(e, Part{Share: float64(i%10+1) / 10}) })
		work.Go(func() { d.For(tenantEntry("team-a", "u", int64(i+2), tenant.Quotas{MaxConcurrentRequests: 100 + i})) })
	}
	work.Wait()
	d.set(e, Part{Share: 0.5})
	if got := g.limits().MaxConcurrent; got != 99 {
		t.Errorf("half of 199 is %d", got)
	}
}

func TestDemands(t *testing.T) {
	d := newDivided(Part{Share: 0.25})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 100, Burst: 100, MaxConcurrentRequests: 10, MaxStreams: 4})
	free := tenantEntry("team-b", "u", 1, tenant.Quotas{})
	demand := func(wait time.Duration) Demand {
		d.now = d.now.Add(wait)
		all := d.Demands(nil)
		if len(all) > 1 {
			t.Fatalf("demands %+v", all)
		}
		if len(all) == 0 {
			return Demand{}
		}
		return all[0]
	}
	d.For(e)
	if got := d.enter(t, free, tenant.Principal{Tenant: "team-b", Kind: tenant.KindUser, ID: "x"}, 10); got != 10 {
		t.Fatal("a tenant without limits is refused")
	}
	if got := demand(0); got != (Demand{}) {
		t.Errorf("nobody came: %+v", got)
	}
	d.enter(t, e, user(1), 10)
	if got, want := demand(time.Second), (Demand{Scope: e.Scope, Need: 0.1, Smallest: 4}); got != want {
		t.Errorf("ten in a second: %+v, want %+v", got, want)
	}
	d.enter(t, e, user(1), 1000)
	if got := demand(time.Second); math.Abs(got.Need-0.375) > 1e-9 {
		t.Errorf("refused at a quarter: %+v, want half as much again", got)
	}
	v := d.visit(t, e, user(1))
	if err := v.Stream(); err != nil {
		t.Fatal(err)
	}
	if got := demand(time.Second); got.InUse != 0.25 || got.Need != 0.25 || d.InUse("team-a", "u") != 0.25 || d.InUse("team-a", "other") != 0 {
		t.Errorf("one of four streams: %+v", got)
	}
	v.Leave()
	if got := demand(time.Second); got != (Demand{}) {
		t.Errorf("nobody came: %+v", got)
	}
}

// TestTransit: a request that is passed on takes a place of the replica's, and nothing of the tenant's.
func TestTransit(t *testing.T) {
	w := newWorld(Limits{})
	w.Set = NewSet(Config{Recorder: w.rec, MaxInFlight: 32, MaxStreams: 32})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 0.001, Burst: 1, MaxConcurrentRequests: 1, MaxStreams: 1})
	var all []*Transit
	for {
		tr, err := w.For(e).Transit(user(1))
		if err != nil {
			if fault.KindOf(err) != fault.RateLimited {
				t.Fatal(err)
			}
			break
		}
		all = append(all, tr)
	}
	if len(all) < 10 || len(all) >= 32 {
		t.Errorf("%d of 32 places for one tenant", len(all))
	}
	for _, tr := range all[:4] {
		if err := tr.Stream(); err != nil || tr.Stream() != nil || tr.Bytes(5, 5) != 0 {
			t.Fatal(err)
		}
	}
	if st := w.Stats(); st.ActiveStreams != 1 {
		t.Errorf("stats %+v", st)
	}
	for _, tr := range all {
		tr.Leave()
	}
	if st := w.Stats(); st.ActiveRequests != 0 || st.ActiveStreams != 0 || st.LentRequests != 0 || st.LentStreams != 0 {
		t.Errorf("something stays: %+v", st)
	}
	if u := w.For(e).Usage(); u.Requests != 0 || u.RateLeft != 1 {
		t.Errorf("usage %+v", u)
	}
}

// TestCarryLimits: what was spent at one replica is spent at the next.
func TestCarryLimits(t *testing.T) {
	q := tenant.Quotas{RequestsPerSecond: 10, Burst: 100, BytesPerSecond: 1000, BytesBurst: 1000,
		PerPrincipal: tenant.Share{RequestsPerSecond: 1, Burst: 20}}
	e := tenantEntry("team-a", "u", 1, q)
	a, b := newDivided(Whole()), newDivided(Whole())
	b.now = b.now.Add(time.Hour) // clocks differ
	a.enter(t, e, user(1), 15)
	v := a.visit(t, e, user(2))
	v.Bytes(3000, 0)
	v.Leave()
	state := a.Export(e.Scope)
	if len(state) == 0 || len(state) > MaxState {
		t.Fatalf("%d bytes of state", len(state))
	}
	for range 2 { // twice is as once
		b.Import(e, state)
	}
	u := b.For(e).Usage()
	if u.BytesOwed != 2*time.Second || math.Abs(u.RateLeft-84) > 0.01 {
		t.Errorf("owed %v, rate left %v", u.BytesOwed, u.RateLeft)
	}
	b.now = b.now.Add(2 * time.Second)
	if n := b.enter(t, e, user(1), 100); n != 7 {
		t.Errorf("the caller that had spent 15 of 20 gets %d, want 5 and two seconds' worth", n)
	}
	if got := a.Export(tenant.Confine("team-a", "other")); got != nil {
		t.Errorf("state of a tenant that is not here: %s", got)
	}
	for _, bad := range []string{"", "{", `{"v":0,"rate":1}`, `[]`, `{"v":1,"callers":[{"k":"system","i":"x","u":1}]}`} {
		c := newDivided(Whole())
		c.Import(e, []byte(bad))
		if got := c.For(e).Usage(); got.RateLeft != 100 || got.Known != 0 {
			t.Errorf("Import(%q): %+v", bad, got)
		}
	}
}

// TestCarriedStateIsBounded: those first that have spent most.
func TestCarriedStateIsBounded(t *testing.T) {
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{PerPrincipal: tenant.Share{RequestsPerSecond: 0.001, Burst: 10}})
	a, b := newDivided(Whole()), newDivided(Whole())
	for i := range 2000 {
		a.enter(t, e, tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: fmt.Sprintf("corp/somebody-%04d", i)}, 1)
	}
	a.enter(t, e, tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: "zz-busy"}, 9)
	state := a.Export(e.Scope)
	if len(state) > MaxState || len(state) < MaxState/2 {
		t.Fatalf("%d bytes", len(state))
	}
	b.Import(e, state)
	if n := b.enter(t, e, tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: "zz-busy"}, 10); n != 1 {
		t.Errorf("the busiest gets %d, want 1", n)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(`{"v":1,"rate":0.5,"bytes":2,"callers":[{"k":"user","i":"u1","u":0.5},{"k":"apikey","i":"k","u":1}]}`))
	f.Add([]byte(`{"v":1,"rate":-1e300,"bytes":1e300}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		d := newDivided(Part{Share: 0.5})
		e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 10, Burst: 10, BytesPerSecond: 10,
			PerPrincipal: tenant.Share{RequestsPerSecond: 10}, PerKey: tenant.Share{RequestsPerSecond: 10}})
		d.Import(e, state)
		d.now = d.now.Add(time.Hour)
		if n := d.enter(t, e, user(1), 100); n != 5 {
			t.Errorf("%d of a burst of 5, an hour later", n)
		}
	})
}
