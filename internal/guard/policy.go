package guard

import (
	"context"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// rulePolicy begins the rule of a decision that the policy took, or that was taken for want of it.
const rulePolicy = "policy "

// policed says whether the tenant's policy has a say. Operators and the system are not the tenant's; and whoever ends its own
// login only gives rights up, which no policy can forbid.
func (g *Guard) policed(kind tenant.PrincipalKind, a authz.Action) bool {
	if g.scope.ID() == "" || g.settings.Load().digest == "" || a == authz.SessionDelete {
		return false
	}
	switch kind {
	case tenant.KindSystem, tenant.KindOperator, tenant.KindAuditor:
		return false
	}
	return true
}

// askPolicy judges what the authorization allowed under the rule allowed.
func (v *Visit) askPolicy(e Effect, allowed string) verdict {
	l := v.guard.holdPolicy()
	if l == nil { // taken out of force at this very moment
		return verdict{rule: allowed}
	}
	defer l.release()
	asked := time.Now()
	eng, err := l.wait()
	if err != nil {
		v.guard.meter().Policy(time.Since(asked), true, true)
		if v.mends(e.Action) {
			return verdict{rule: allowed + ", policy not loaded", digest: l.digest}
		}
		return verdict{rule: rulePolicy + "not loaded", digest: l.digest, err: unavailable(err)}
	}
	d := eng.Decide(context.Background(), v.input(&v.principal, e)) // it bounds itself
	v.guard.meter().Policy(d.Duration, !d.Allow, broken(d.Failure))
	return v.ruling(e, allowed, l.digest, &d)
}

// ruling makes a verdict of a policy's decision.
func (v *Visit) ruling(e Effect, allowed, digest string, d *policy.Decision) verdict {
	switch {
	case d.Allow:
		return verdict{rule: allowed, digest: digest}
	case broken(d.Failure) && v.mends(e.Action):
		return verdict{rule: allowed + ", " + rulePolicy + string(d.Failure), digest: digest}
	case broken(d.Failure):
		return verdict{rule: rulePolicy + string(d.Failure), digest: digest, err: unavailable(fault.New(fault.Internal, "policy: %s: %s", d.Failure, d.Reason))}
	}
	rule := d.Rule
	if rule == "" {
		rule = rulePolicy + "deny"
	}
	return verdict{rule: rule, digest: digest, err: v.denial(e.Action, d.Reason)}
}

// mends says whether an action is what a tenant's admin needs in order to replace a policy. One that cannot be loaded, or
// fails, does not keep its own admins from it; what a policy denies by its word, it denies.
func (v *Visit) mends(a authz.Action) bool {
	switch a {
	case authz.PolicyList, authz.PolicyRead, authz.PolicyUpdate, authz.PolicyCheck, authz.PolicyExplain:
		return v.principal.Role >= tenant.Admin
	}
	return false
}

// broken says whether a decision is not the policy's word: it took too long, or failed. Nobody is told that a thing is
// absent because something broke. That `allow` has no value is a word: it is how policies say no.
func broken(f policy.Failure) bool { return f != policy.Decided && f != policy.FailUndef }

// denial is the error of a policy's denial. Its reason is shown to the tenant's own principals on a mutation, which they know
// to exist; whoever may not read a thing does not learn from the reason that it is there.
func (v *Visit) denial(a authz.Action, reason string) error {
	err := fault.New(refusalKind(a), "the tenant's policy does not allow %s: %s", a, reason)
	if err.Kind == fault.Forbidden && v.principal.Kind != tenant.KindAnonymous {
		err.Reason = reason
	}
	return err
}

// The bounds of what leaving rows out of lists may cost in one visit.
const (
	maxAsked     = 1000
	maxAskedTime = time.Second
)

// filter counts what MayDo has cost, and keeps the last answer: lists ask the same of each row.
type filter struct {
	mu     sync.Mutex
	asked  int           // guarded by mu, as all below
	took   time.Duration // in the policy
	last   Effect        // its Grants are not compared
	answer bool
}

// May is MayDo without an object.
func (v *Visit) May(a authz.Action) bool { return v.MayDo(Effect{Action: a}) }

// MayDo says whether Admit would admit e, and records nothing: it is for leaving rows out of a list, never for an effect.
// The tenant's policy is asked too. One visit may ask 1,000 times and spend a second on it; past that the answer is no,
// and the list is shorter than it could be. A page of a list has at most some hundred rows, so that is for a policy that
// is slow, and it is its own tenant who waits.
func (v *Visit) MayDo(e Effect) bool {
	if v.guard.scope.ID() == "" {
		return v.judge(e, v.guard.set.cfg.Now()).err == nil
	}
	if !v.guard.policed(v.principal.Kind, e.Action) {
		return v.judge(e, v.guard.set.cfg.Now()).err == nil
	}
	f := v.filter.Load()
	if f == nil {
		v.filter.CompareAndSwap(nil, new(filter))
		f = v.filter.Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked > 0 && len(e.Grants) == 0 && len(f.last.Grants) == 0 && f.last.Action == e.Action && f.last.Resource == e.Resource &&
		f.last.Object == e.Object {
		return f.answer
	}
	if f.asked >= maxAsked || f.took >= maxAskedTime {
		return false
	}
	began := time.Now()
	f.answer = v.judge(e, v.guard.set.cfg.Now()).err == nil
	f.took += time.Since(began)
	f.asked, f.last = f.asked+1, e
	return f.answer
}
