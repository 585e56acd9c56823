package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// recorder keeps what it is given.
type recorder struct {
	mu  sync.Mutex
	all []audit.Entry // guarded by mu
}

func (r *recorder) Record(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, e)
}

func (r *recorder) take() []audit.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// world is a set of guards with a clock and a recorder of its own.
type world struct {
	*Set
	rec      *recorder
	now      time.Time
	revision int64
}

func newWorld(d Defaults) *world {
	w := &world{rec: new(recorder), now: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)}
	w.Set = NewSet(Config{Recorder: w.rec, Replica: "r1", Defaults: d,
		Now: func() time.Time { return w.now }, Jitter: func() float64 { return 0 }})
	return w
}

func tenantEntry(id tenant.ID, uid string, rev int64, q tenant.Quotas) *tenant.Entry {
	return &tenant.Entry{Record: &tenant.Record{ID: id, UID: uid, Quotas: q, Revision: rev}, Scope: tenant.Confine(id, uid)}
}

func member(id tenant.ID, r tenant.Role) tenant.Principal {
	return tenant.Principal{Tenant: id, Kind: tenant.KindKey, ID: "k1", Name: "ci", Role: r}
}

func (w *world) visit(t *testing.T, e *tenant.Entry, p tenant.Principal) *Visit {
	t.Helper()
	v, err := w.For(e).Enter(p, Request{ID: "req-1"})
	if err != nil {
		t.Fatalf("Enter: %v", err)
	}
	return v
}

func TestEnterOverTheRate(t *testing.T) {
	w := newWorld(Defaults{})
	g := w.For(tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 10, Burst: 2}))
	for range 2 {
		v, err := g.Enter(member("team-a", tenant.Editor), Request{ID: "r"})
		if err != nil {
			t.Fatal(err)
		}
		v.Leave()
	}
	_, err := g.Enter(member("team-a", tenant.Editor), Request{ID: "r"})
	if e := fault.From(err); e == nil || e.Kind != fault.RateLimited || e.RetryAfter != 100*time.Millisecond {
		t.Errorf("Enter = %v, want rate-limited, to be tried after 100ms", err)
	}
	if n := g.InFlight(); n != 0 {
		t.Errorf("%d in flight after a refusal, want the place given back", n)
	}
	w.now = w.now.Add(100 * time.Millisecond)
	if _, err := g.Enter(member("team-a", tenant.Editor), Request{ID: "r"}); err != nil {
		t.Errorf("after RetryAfter: %v", err)
	}
}

func TestEnterOverTheConcurrency(t *testing.T) {
	w := newWorld(Defaults{MaxConcurrent: 2})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	first := w.visit(t, e, member("team-a", tenant.Editor))
	w.visit(t, e, member("team-a", tenant.Editor))
	_, err := w.For(e).Enter(member("team-a", tenant.Editor), Request{ID: "r"})
	if f := fault.From(err); f == nil || f.Kind != fault.RateLimited || f.RetryAfter <= 0 {
		t.Fatalf("Enter = %v, want rate-limited with a time to retry", err)
	}
	if v := w.visit(t, tenantEntry("team-b", "u2", 1, tenant.Quotas{}), member("team-b", tenant.Editor)); v.Scope().ID() != "team-b" {
		t.Error("one tenant's requests take another's places")
	}
	first.Leave()
	w.visit(t, e, member("team-a", tenant.Editor))
}

func TestOperatorsHaveNoQuota(t *testing.T) {
	w := newWorld(Defaults{Rate: quota.Limit{PerSecond: 1, Burst: 1}, MaxConcurrent: 1})
	for range 5 {
		if _, err := w.Platform().Enter(tenant.Principal{Kind: tenant.KindOperator, ID: "op"}, Request{ID: "r"}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLimitsFollowTheRecord: the newest revision counts, whichever request brings it; own limits go before the defaults.
func TestLimitsFollowTheRecord(t *testing.T) {
	w := newWorld(Defaults{MaxServers: 5, MaxConcurrent: 7, Rate: quota.Limit{PerSecond: 3}})
	want := func(e *tenant.Entry, servers, concurrent int, rate float64) {
		t.Helper()
		g := w.For(e)
		if l := g.limits(); g.MaxServers() != servers || l.MaxConcurrent != concurrent || l.Rate.PerSecond != rate {
			t.Errorf("limits %+v, want %d, %d, %v", l, servers, concurrent, rate)
		}
	}
	want(tenantEntry("team-a", "u", 1, tenant.Quotas{}), 5, 7, 3)
	want(tenantEntry("team-a", "u", 3, tenant.Quotas{MaxServers: 9, MaxConcurrentRequests: 8, RequestsPerSecond: 4}), 9, 8, 4)
	want(tenantEntry("team-a", "u", 2, tenant.Quotas{MaxServers: 1}), 9, 8, 4) // late
	want(tenantEntry("team-a", "u", 4, tenant.Quotas{}), 5, 7, 3)
}

// TestRecreatedTenantStartsAnew: a tenant deleted and made again has neither the old one's limits nor its places.
func TestRecreatedTenantStartsAnew(t *testing.T) {
	w := newWorld(Defaults{})
	old := tenantEntry("team-a", "uid-1", 100, tenant.Quotas{MaxConcurrentRequests: 1})
	w.visit(t, old, member("team-a", tenant.Editor))
	again := tenantEntry("team-a", "uid-2", 5, tenant.Quotas{MaxConcurrentRequests: 1})
	v := w.visit(t, again, member("team-a", tenant.Editor))
	if v.Scope() != again.Scope {
		t.Errorf("scope %v, want the new tenant's", v.Scope())
	}
	w.Forget("team-a")
	if n := w.For(again).InFlight(); n != 0 {
		t.Errorf("%d in flight after Forget", n)
	}
}

// TestRefusalsAreShapedByClass: a mutation is forbidden; what would be read is absent.
func TestRefusalsAreShapedByClass(t *testing.T) {
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	for _, c := range []struct {
		who  tenant.Principal
		a    authz.Action
		want fault.Kind
	}{
		{member("team-a", tenant.Viewer), authz.ServerCreate, fault.Forbidden},
		{member("team-a", tenant.Viewer), authz.MCPCall, fault.Forbidden},
		{member("team-a", tenant.Editor), authz.KeyList, fault.NotFound},
		{member("team-a", tenant.Admin), authz.TenantRead, fault.NotFound},
		{member("team-a", tenant.Admin), authz.TenantDelete, fault.Forbidden},
		{member("team-b", tenant.Admin), authz.ServerRead, fault.NotFound},
		{member("team-b", tenant.Admin), authz.ServerList, fault.NotFound},
		{member("team-b", tenant.Admin), authz.MCPCall, fault.Forbidden},
		{tenant.Principal{Kind: tenant.KindOperator, ID: "op"}, authz.ServerRead, fault.NotFound},
		{tenant.Principal{}, authz.Whoami, fault.NotFound},
	} {
		w := newWorld(Defaults{})
		v := w.visit(t, e, c.who)
		p, err := v.Admit(Effect{Action: c.a, Resource: "server/x"})
		if p != nil || !fault.Is(err, c.want) {
			t.Errorf("%s, %s: %v, %v; want %s", c.who.Ref(), c.a, p, err, c.want)
		}
		if v.May(c.a) {
			t.Errorf("%s, %s: May says yes", c.who.Ref(), c.a)
		}
		all := w.rec.take()
		if len(all) != 1 || all[0].Decision != audit.Deny || all[0].Outcome != c.want.String() || all[0].Tenant != "team-a" || all[0].Resource != "server/x" {
			t.Errorf("%s, %s: records %+v, want one of a denial, in team-a's chain", c.who.Ref(), c.a, all)
		}
	}
}

// TestEachPermitMakesOneRecord: traffic is recorded by Done, a change by its own transaction, a failed one by Settle.
func TestEachPermitMakesOneRecord(t *testing.T) {
	e := tenantEntry("team-a", "uid-1", 1, tenant.Quotas{})
	admit := func(w *world) *Permit {
		t.Helper()
		p, err := w.visit(t, e, member("team-a", tenant.Admin)).Admit(Effect{Action: authz.ServerCreate, Resource: "server/x"})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(w.rec.take()); n != 0 {
			t.Fatalf("%d records before the effect", n)
		}
		return p
	}
	for _, c := range []struct {
		name string
		end  func(*Permit) error
		want []string // outcomes
	}{
		{"traffic", func(p *Permit) error { p.Done(nil); return nil }, []string{audit.OutcomeOK}},
		{"failed traffic", func(p *Permit) error { p.Done(fmt.Errorf("x: %w", fault.New(fault.BadUpstream, "y"))); return nil }, []string{"bad-upstream"}},
		{"unclassified", func(p *Permit) error { p.Done(errors.New("x")); return nil }, []string{"internal"}},
		{"change", func(p *Permit) error { return p.Settle(nil) }, nil},
		{"failed change", func(p *Permit) error { return p.Settle(fault.New(fault.Conflict, "x")) }, []string{"conflict"}},
	} {
		w := newWorld(Defaults{})
		p := admit(w)
		w.now = w.now.Add(1500 * time.Millisecond)
		err := c.end(p)
		if (err != nil) != (c.name == "failed change") {
			t.Errorf("%s: returned %v", c.name, err)
		}
		var got []string
		for _, r := range w.rec.take() {
			got = append(got, r.Outcome)
			if r.Millis != 1500 || r.Decision != audit.Allow || r.ID == "" {
				t.Errorf("%s: record %+v, want an allowed one of 1500 ms", c.name, r)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: outcomes %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEntryNamesAll(t *testing.T) {
	w := newWorld(Defaults{})
	p, err := w.visit(t, tenantEntry("team-a", "uid-1", 1, tenant.Quotas{}), member("team-a", tenant.Admin)).
		Admit(Effect{Action: authz.KeyCreate, Resource: "key/ci"})
	if err != nil {
		t.Fatal(err)
	}
	got := p.Entry(audit.OutcomeOK)
	want := audit.Entry{ID: got.ID, Time: w.now, Tenant: "team-a", TenantUID: "uid-1", Replica: "r1", Principal: "key:k1", Name: "ci", Role: "admin",
		Action: "key.create", Resource: "key/ci", Decision: audit.Allow, Rule: "role admin", Outcome: audit.OutcomeOK, RequestID: "req-1"}
	if got != want {
		t.Errorf("entry\n got %+v\nwant %+v", got, want)
	}
	if again := p.Entry(audit.OutcomeOK); again.ID == got.ID {
		t.Error("two entries share an id")
	}
}

// TestOperatorsActInTheTenantsChain: what an operator does to a tenant is in that tenant's chain, what it does to none in
// the platform's.
func TestOperatorsActInTheTenantsChain(t *testing.T) {
	w := newWorld(Defaults{})
	v, err := w.Platform().Enter(tenant.Principal{Kind: tenant.KindOperator, ID: "op"}, Request{ID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Admit(Effect{Action: authz.TenantSuspend, Subject: tenant.Confine("team-a", "u")})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Entry(audit.OutcomeOK); e.Chain() != "team-a" || e.TenantUID != "u" || e.Role != "" {
		t.Errorf("entry %+v, want it in team-a's chain, without a role", e)
	}
	p, err = v.Admit(Effect{Action: authz.TenantList})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Entry(audit.OutcomeOK); e.Chain() != audit.PlatformChain {
		t.Errorf("entry %+v, want it in the platform's chain", e)
	}
}

// TestSubjectIsForThePlatformOnly: inside a tenant no subject can name another.
func TestSubjectIsForThePlatformOnly(t *testing.T) {
	w := newWorld(Defaults{})
	v := w.visit(t, tenantEntry("team-a", "u", 1, tenant.Quotas{}), member("team-a", tenant.Admin))
	p, err := v.Admit(Effect{Action: authz.ServerCreate, Subject: tenant.Confine("team-b", "u2")})
	if err != nil {
		t.Fatal(err)
	}
	if e := p.Entry(audit.OutcomeOK); e.Tenant != "team-a" {
		t.Errorf("entry %+v, want team-a", e)
	}
}

func TestConcurrentVisits(t *testing.T) {
	w := newWorld(Defaults{MaxConcurrent: 4})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				id := tenant.ID(fmt.Sprintf("team-%d", j%3))
				e := tenantEntry(id, "u", int64(i*200+j), tenant.Quotas{MaxConcurrentRequests: 1 + j%4})
				v, err := w.For(e).Enter(member(id, tenant.Admin), Request{ID: "r"})
				if err != nil {
					if !fault.Is(err, fault.RateLimited) || !strings.Contains(err.Error(), "concurrent") {
						t.Errorf("Enter = %v", err)
					}
					continue
				}
				if p, err := v.Admit(Effect{Action: authz.MCPCall}); err != nil {
					t.Errorf("Admit = %v", err)
				} else {
					p.Done(nil)
				}
				v.Leave()
				if j%50 == 0 {
					w.Forget(id)
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		id := tenant.ID(fmt.Sprintf("team-%d", i))
		if n := w.For(tenantEntry(id, "u", 1e6, tenant.Quotas{})).InFlight(); n != 0 {
			t.Errorf("%s: %d in flight at the end", id, n)
		}
	}
}

// A request that was resolved before its tenant was deleted does not displace the guard of the tenant made anew.
func TestLateEntryKeepsSuccessor(t *testing.T) {
	s := NewSet(Config{Recorder: &recorder{}})
	entry := func(uid string, revision int64) *tenant.Entry {
		return &tenant.Entry{Record: &tenant.Record{ID: "team-a", UID: uid, Revision: revision}, Scope: tenant.Confine("team-a", uid)}
	}
	was, is := entry("u1", 1), entry("u2", 2)
	s.For(was)
	g := s.For(is)
	if late := s.For(was); late == g || late.scope != was.Scope {
		t.Error("the late entry got its successor's guard")
	}
	if s.For(is) != g {
		t.Error("the late entry took the successor's place")
	}
}
