package guard

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeEngine decides as it is told, and counts what happens after it is closed.
type fakeEngine struct {
	digest string
	decide func(*policy.Input) policy.Decision
	closed atomic.Int64
	late   atomic.Int64 // decisions on a closed engine
	asked  atomic.Int64
}

func (f *fakeEngine) Decide(_ context.Context, in *policy.Input) policy.Decision {
	f.asked.Add(1)
	if f.closed.Load() > 0 {
		f.late.Add(1)
	}
	return f.decide(in)
}

func (f *fakeEngine) Explain(ctx context.Context, in *policy.Input) (*policy.Explanation, error) {
	return &policy.Explanation{Decision: f.Decide(ctx, in), Input: "{}", Notes: []string{"a note"}, Source: "v1"}, nil
}

func (f *fakeEngine) Close() { f.closed.Add(1) }

// policies opens fake engines by digest, and keeps all that it opened.
type policies struct {
	decide map[string]func(*policy.Input) policy.Decision // by digest; a digest that is not here fails to open
	opens  atomic.Int64
	mu     sync.Mutex
	all    []*fakeEngine // guarded by mu
}

func (p *policies) open(_ context.Context, _ tenant.Scope, digest string) (engine, error) {
	p.opens.Add(1)
	d, ok := p.decide[digest]
	if !ok {
		return nil, errors.New("no such bundle")
	}
	e := &fakeEngine{digest: digest, decide: d}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, e)
	return e, nil
}

func yes(*policy.Input) policy.Decision { return policy.Decision{Allow: true} }

func no(*policy.Input) policy.Decision {
	return policy.Decision{Reason: "not on Fridays", Rule: "data.polygate.authz.deny"}
}

func failing(f policy.Failure) func(*policy.Input) policy.Decision {
	return func(*policy.Input) policy.Decision { return policy.Decision{Reason: "it went wrong", Failure: f} }
}

// withPolicy returns an entry with that policy in force.
func withPolicy(id tenant.ID, rev int64, digest string) *tenant.Entry {
	e := tenantEntry(id, "u", rev, tenant.Quotas{})
	if digest != "" {
		e.Record.Policy = &tenant.PolicyRef{Digest: digest}
	}
	return e
}

// policyWorld is a world whose policies are allow, deny, and one for each failure.
func policyWorld() (*world, *policies) {
	w := newWorld(Limits{})
	p := &policies{decide: map[string]func(*policy.Input) policy.Decision{"allow": yes, "deny": no}}
	for _, f := range []policy.Failure{policy.FailNone, policy.FailBusy, policy.FailTimeout, policy.FailMemory, policy.FailUndef, policy.FailType, policy.FailError, policy.FailPanic, policy.FailCancel} {
		p.decide[string(f)] = failing(f)
	}
	w.open = p.open
	return w, p
}

// TestPolicyOnlyNarrows: what the policy allows needs the role as well, and what it does not allow is refused in the shape of
// the action, with its reason on a mutation alone.
func TestPolicyOnlyNarrows(t *testing.T) {
	unavailable := []policy.Failure{policy.FailNone, policy.FailBusy, policy.FailTimeout, policy.FailMemory, policy.FailType, policy.FailError, policy.FailPanic, policy.FailCancel}
	type want struct {
		kind   fault.Kind
		reason string
		rule   string
		bundle string
	}
	type test struct {
		digest string
		role   tenant.Role
		action authz.Action
		want   *want // nil = allowed
	}
	tests := []test{
		{"allow", tenant.Editor, authz.MCPCall, nil},
		{"allow", tenant.Viewer, authz.MCPCall, &want{fault.Forbidden, "", "role viewer", ""}},
		{"deny", tenant.Editor, authz.MCPCall, &want{fault.Forbidden, "not on Fridays", "data.polygate.authz.deny", "deny"}},
		{"deny", tenant.Editor, authz.ServerRead, &want{fault.NotFound, "", "data.polygate.authz.deny", "deny"}},
		{"deny", tenant.Editor, authz.ServerList, &want{fault.NotFound, "", "data.polygate.authz.deny", "deny"}},
		{"deny", tenant.Editor, authz.SessionDelete, nil}, // no policy keeps anybody logged in
		{string(policy.FailUndef), tenant.Admin, authz.MCPCall, &want{fault.Forbidden, "it went wrong", "policy deny", "undefined"}},
		{"missing", tenant.Admin, authz.ServerRead, &want{fault.Unavailable, "", "policy not loaded", "missing"}},
		{"missing", tenant.Admin, authz.PolicyUpdate, nil}, // what fails does not keep admins from replacing it
		{"deny", tenant.Admin, authz.PolicyUpdate, &want{fault.Forbidden, "not on Fridays", "data.polygate.authz.deny", "deny"}},
	}
	for _, f := range unavailable {
		tests = append(tests, test{string(f), tenant.Admin, authz.ServerRead, &want{fault.Unavailable, "", "policy " + string(f), string(f)}},
			test{string(f), tenant.Admin, authz.PolicyRead, nil})
	}
	for _, c := range tests {
		w, _ := policyWorld()
		v := w.visit(t, withPolicy("team-a", 1, c.digest), member("team-a", c.role))
		p, err := v.Admit(Effect{Action: c.action, Resource: "server/x"})
		name := c.digest + " " + c.role.String() + " " + string(c.action)
		if may := v.MayDo(Effect{Action: c.action, Resource: "server/x"}); may != (c.want == nil) {
			t.Errorf("%s: MayDo says %t", name, may)
		}
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if e := p.Entry(audit.OutcomeOK); c.action != authz.SessionDelete && (e.Bundle != c.digest || !strings.HasPrefix(e.Rule, "role "+c.role.String())) {
				t.Errorf("%s: the record says bundle %q, rule %q", name, e.Bundle, e.Rule)
			}
			continue
		}
		e := fault.From(err)
		if p != nil || e == nil || e.Kind != c.want.kind || e.Reason != c.want.reason {
			t.Errorf("%s: %v, %+v; want %+v", name, p, e, c.want)
			continue
		}
		if shown := e.Problem("r").Detail; strings.Contains(shown, "Fridays") != (c.want.reason == "not on Fridays") {
			t.Errorf("%s: shows %q", name, shown)
		}
		all := w.rec.take()
		if len(all) != 1 || all[0].Decision != audit.Deny || all[0].Outcome != c.want.kind.String() || all[0].Rule != c.want.rule || all[0].Bundle != c.want.bundle {
			t.Errorf("%s: records %+v", name, all)
		}
	}
}

// TestPolicyIsNotForAll: operators and the system are not judged by a tenant's policy; everybody of the tenant is. A reason is
// not shown to somebody who is not known.
func TestPolicyIsNotForAll(t *testing.T) {
	for _, c := range []struct {
		p      tenant.Principal
		action authz.Action
		asked  int64
		reason string
	}{
		{tenant.System("reload"), authz.ServerCreate, 0, ""},
		{tenant.Principal{Kind: tenant.KindOperator, ID: "op"}, authz.MemberCreate, 0, ""},
		{tenant.Principal{Kind: tenant.KindAuditor, ID: "au"}, authz.MemberList, 0, ""},
		{tenant.Principal{Tenant: "team-a", Kind: tenant.KindAnonymous}, authz.RelayWrite, 1, ""},
		{tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: "corp/ann"}, authz.SessionCreate, 1, "not on Fridays"},
		{tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: "corp/ann"}, authz.SessionDelete, 0, ""},
		{tenant.Principal{Tenant: "team-b", Kind: tenant.KindKey, ID: "k", Role: tenant.Admin}, authz.MCPCall, 0, ""},
	} {
		w, p := policyWorld()
		v := w.visit(t, withPolicy("team-a", 1, "deny"), c.p)
		_, err := v.Admit(Effect{Action: c.action})
		asked := int64(0)
		for _, e := range p.all {
			asked += e.asked.Load()
		}
		if asked != c.asked || c.asked > 0 && err == nil {
			t.Errorf("%s, %s: asked %d times, %v", c.p.Ref(), c.action, asked, err)
		}
		if e := fault.From(err); e != nil && e.Reason != c.reason {
			t.Errorf("%s, %s: reason %q", c.p.Ref(), c.action, e.Reason)
		}
	}
}

// TestNoOpenerFailsClosed: a replica that cannot load policies refuses the tenants that have one, and serves the others.
func TestNoOpenerFailsClosed(t *testing.T) {
	w := newWorld(Limits{})
	if _, err := w.visit(t, withPolicy("team-a", 1, "x"), member("team-a", tenant.Admin)).Admit(Effect{Action: authz.ServerRead}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with a policy: %v", err)
	}
	if _, err := w.visit(t, withPolicy("team-b", 1, ""), member("team-b", tenant.Admin)).Admit(Effect{Action: authz.ServerRead}); err != nil {
		t.Errorf("without one: %v", err)
	}
	none := NewSet(Config{Recorder: w.rec, OpenPolicy: func(context.Context, tenant.Scope, string) (*policy.Engine, error) { return nil, nil }})
	v, _ := none.For(withPolicy("team-a", 1, "x")).Enter(member("team-a", tenant.Admin), Request{})
	if _, err := v.Admit(Effect{Action: authz.ServerRead}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("with an opener that returns nothing: %v", err)
	}
}

// TestPolicyFollowsTheRecord: a change is enforced at the next Admit, also within a visit that began before it; an engine is
// opened once for all, kept while its digest is in force, and closed after its last use.
func TestPolicyFollowsTheRecord(t *testing.T) {
	w, p := policyWorld()
	v := w.visit(t, withPolicy("team-a", 1, "allow"), member("team-a", tenant.Admin)) // a WebSocket, say
	admit := func() error { _, err := v.Admit(Effect{Action: authz.MCPCall}); return err }
	expect := func(step string, kind fault.Kind, allowed bool, opens int64) {
		t.Helper()
		if err := admit(); allowed != (err == nil) || err != nil && !fault.Is(err, kind) {
			t.Errorf("%s: %v", step, err)
		}
		if n := p.opens.Load(); n != opens {
			t.Errorf("%s: opened %d times, want %d", step, n, opens)
		}
	}
	expect("first", 0, true, 1)
	expect("again", 0, true, 1)
	w.Changed("team-a", withPolicy("team-a", 2, "deny"))
	expect("changed", fault.Forbidden, false, 2)
	w.Changed("team-a", withPolicy("team-a", 1, "allow")) // late
	expect("a late record", fault.Forbidden, false, 2)
	w.For(withPolicy("team-a", 3, "missing")) // as another request brings it
	expect("a bundle that cannot be loaded", fault.Unavailable, false, 3)
	expect("again at once", fault.Unavailable, false, 3)
	w.now = w.now.Add(openAgain)
	expect("again later", fault.Unavailable, false, 4)
	w.Changed("team-a", withPolicy("team-a", 4, ""))
	expect("without a policy", 0, true, 4)
	w.Changed("team-a", withPolicy("team-a", 5, "allow"))
	expect("anew", 0, true, 5)
	if u := w.For(withPolicy("team-a", 5, "allow")).Usage(); u.Policy != "allow" {
		t.Errorf("usage names the policy %q", u.Policy)
	}
	w.Forget("team-a")
	expect("after its end", 0, true, 6)
	for _, e := range p.all {
		if e.closed.Load() != 1 || e.late.Load() != 0 {
			t.Errorf("engine %s was closed %d times, asked %d times after it", e.digest, e.closed.Load(), e.late.Load())
		}
	}
}

// TestSweepClosesIdleEngines: an engine that nobody asks is closed, and opened again when somebody does.
func TestSweepClosesIdleEngines(t *testing.T) {
	w, p := policyWorld()
	v := w.visit(t, withPolicy("team-a", 1, "allow"), member("team-a", tenant.Admin))
	for _, c := range []struct {
		after  time.Duration
		opens  int64
		closed int64
	}{{0, 1, 0}, {idleAfter - 1, 1, 0}, {idleAfter, 2, 1}} {
		w.now = w.now.Add(c.after)
		w.Sweep()
		if _, err := v.Admit(Effect{Action: authz.MCPCall}); err != nil {
			t.Fatal(err)
		}
		if p.opens.Load() != c.opens || p.all[0].closed.Load() != c.closed {
			t.Errorf("after %v: opened %d times, the first closed %d times", c.after, p.opens.Load(), p.all[0].closed.Load())
		}
	}
	w.Changed("team-a", withPolicy("team-a", 2, ""))
	w.Sweep()
	if p.all[1].closed.Load() != 1 {
		t.Error("an engine that is not in force stays open")
	}
}

// TestX39LoaderThatHangsOrPanics: neither reaches another tenant, and one load is under way at most, however many wait.
func TestX39LoaderThatHangsOrPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := policyWorld()
		var opens atomic.Int64
		w.open = func(ctx context.Context, s tenant.Scope, digest string) (engine, error) {
			opens.Add(1)
			switch digest {
			case "panic":
				panic("a defect in the compiler")
			case "hang":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Minute) // heeds nothing
			return &fakeEngine{decide: yes}, nil
		}
		for _, digest := range []string{"panic", "hang", "deaf"} {
			opens.Store(0)
			id := tenant.ID("team-" + digest)
			began := time.Now()
			var wg sync.WaitGroup
			for range 50 {
				v := w.visit(t, withPolicy(id, 1, digest), member(id, tenant.Admin))
				wg.Go(func() {
					if _, err := v.Admit(Effect{Action: authz.MCPCall}); !fault.Is(err, fault.Unavailable) || fault.From(err).RetryAfter <= 0 {
						t.Errorf("%s: %v", digest, err)
					}
				})
			}
			other := w.visit(t, withPolicy("team-b", 1, ""), member("team-b", tenant.Admin))
			if _, err := other.Admit(Effect{Action: authz.MCPCall}); err != nil || time.Since(began) > 0 {
				t.Errorf("%s: another tenant: %v, after %v", digest, err, time.Since(began))
			}
			other.Leave()
			wg.Wait()
			if took := time.Since(began); took > openTime || opens.Load() != 1 {
				t.Errorf("%s: refused after %v, %d loads", digest, took, opens.Load())
			}
			again := time.Now()
			v := w.visit(t, withPolicy(id, 1, digest), member(id, tenant.Admin))
			if _, err := v.Admit(Effect{Action: authz.MCPCall}); !fault.Is(err, fault.Unavailable) || time.Since(again) > 0 {
				t.Errorf("%s: the next is refused after %v: %v", digest, time.Since(again), err)
			}
		}
		time.Sleep(time.Minute) // the deaf one ends
	})
}

// TestFirstNeedIsShared: those who come while a policy is loaded wait for it, and are judged by it.
func TestFirstNeedIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := policyWorld()
		w.open = func(ctx context.Context, s tenant.Scope, digest string) (engine, error) {
			time.Sleep(time.Second)
			return p.open(ctx, s, digest)
		}
		var wg sync.WaitGroup
		for range 20 {
			v := w.visit(t, withPolicy("team-a", 1, "deny"), member("team-a", tenant.Admin))
			wg.Go(func() {
				if _, err := v.Admit(Effect{Action: authz.MCPCall}); !fault.Is(err, fault.Forbidden) {
					t.Errorf("Admit = %v", err)
				}
			})
		}
		wg.Wait()
		if n := p.opens.Load(); n != 1 {
			t.Errorf("opened %d times", n)
		}
	})
}

// TestRowsAreFiltered: a list asks the policy about each row, repeats cost nothing, and there is an end to it.
func TestRowsAreFiltered(t *testing.T) {
	w, p := policyWorld()
	p.decide["odd"] = func(in *policy.Input) policy.Decision {
		return policy.Decision{Allow: in.Resource.Type == "server" && in.Resource.Name == "a", Reason: "no"}
	}
	v := w.visit(t, withPolicy("team-a", 1, "odd"), member("team-a", tenant.Admin))
	for name, want := range map[string]bool{"a": true, "b": false} {
		if got := v.MayDo(Effect{Action: authz.ServerRead, Resource: "server/" + name}); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	asked := p.all[0].asked.Load()
	for range 10 * maxAsked {
		if v.May(authz.ServerCreate) {
			t.Fatal("may")
		}
	}
	if n := p.all[0].asked.Load() - asked; n != 1 {
		t.Errorf("the same question was asked %d times", n)
	}
	for range 2 * maxAsked {
		v.MayDo(Effect{Action: authz.ServerRead, Resource: "server/b"})
		v.MayDo(Effect{Action: authz.ServerRead, Resource: "server/a"})
	}
	if n := p.all[0].asked.Load(); n != maxAsked {
		t.Errorf("asked %d times, want %d", n, maxAsked)
	}
	if v.MayDo(Effect{Action: authz.ServerRead, Resource: "server/b"}) {
		t.Error("past the bound the answer is yes")
	}
	if len(w.rec.take()) != 0 {
		t.Error("filtering is recorded")
	}
}

// TestEnginesSwappedUnderLoad: while the policy in force changes as fast as it can, no decision is asked of a closed engine,
// each is of one that was in force, and all but the last are closed in the end.
func TestEnginesSwappedUnderLoad(t *testing.T) {
	w, p := policyWorld()
	var rev atomic.Int64
	rev.Store(1)
	var stop atomic.Bool
	var wg sync.WaitGroup
	e := withPolicy("team-a", 1, "allow")
	w.For(e)
	for range 3 {
		v := w.visit(t, e, member("team-a", tenant.Admin))
		wg.Go(func() {
			for !stop.Load() {
				if _, err := v.Admit(Effect{Action: authz.MCPCall}); err != nil && !fault.Is(err, fault.Forbidden) {
					t.Errorf("Admit = %v", err)
					return
				}
				w.rec.take()
			}
		})
	}
	v := w.visit(t, e, member("team-a", tenant.Admin))
	for i := range 300 {
		digest := []string{"allow", "deny"}[i%2]
		w.Changed("team-a", withPolicy("team-a", rev.Add(1), digest))
		_, err := v.Admit(Effect{Action: authz.MCPCall})
		if (err == nil) != (digest == "allow") {
			t.Errorf("change %d to %s is not in force at the next Admit: %v", i, digest, err)
		}
		if i%50 == 0 {
			w.Sweep()
		}
	}
	stop.Store(true)
	wg.Wait()
	w.Forget("team-a")
	if n := p.opens.Load(); n > 301 { // more means that somebody put an older policy back in the place of a newer one
		t.Errorf("opened %d engines for 300 changes", n)
	}
	for i, e := range p.all {
		if e.closed.Load() != 1 || e.late.Load() != 0 {
			t.Errorf("engine %d was closed %d times, asked %d times after it", i, e.closed.Load(), e.late.Load())
		}
	}
}
