package guard

import (
	"context"
	"fmt"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// Explanation says why an effect would be admitted or refused.
type Explanation struct {
	Allow     bool
	Principal string              // Ref of whom it is about
	Role      tenant.Role         // whom it is about has it
	Needs     tenant.Role         // the smallest role that may do it; NoRole where none suffices
	Rule      string              // that decided, as the record of it would say
	Authz     string              // the rule of the authorization
	Bundle    string              // digest of the policy in force; "" = none
	Policy    *policy.Explanation // nil without a policy, where the authorization refuses already, and where it cannot be asked
	Reason    string              // in a sentence
	Shown     string              // the name of the fault.Kind that the caller would see; "" if allowed
}

// Explain says what Admit would decide on e, and why, without doing or recording anything. about is whom it is about; nil =
// the visitor itself. Only an admin may ask about somebody else, and only an admin sees how the policy came to its
// decision: its text and its data are not for everybody whom it judges.
func (v *Visit) Explain(ctx context.Context, e Effect, about *tenant.Principal) (*Explanation, error) {
	who, err := v.described(about)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Principal: who.Ref(), Role: who.Role, Needs: authz.Needs(e.Action)}
	a := authz.Decide(authz.Question{
		Principal: who, Action: e.Action, In: v.subject(e).ID(), Object: e.Object, Grants: e.Grants, Now: v.guard.set.cfg.Now(),
	})
	x.Authz, x.Rule, x.Allow = a.Rule, a.Rule, a.Allow
	x.Bundle = v.guard.settings.Load().digest
	switch {
	case !a.Allow:
		x.Reason, x.Shown = reasonOf(&who, e.Action, x.Needs), refusalKind(e.Action).String()
	case !v.guard.policed(who.Kind, e.Action):
		x.Reason = fmt.Sprintf("%s is allowed by %s", e.Action, a.Rule)
	default:
		v.explainPolicy(ctx, x, &who, e)
	}
	return x, nil
}

// described returns whom an explanation is about.
func (v *Visit) described(about *tenant.Principal) (tenant.Principal, error) {
	if about == nil {
		return v.principal, nil
	}
	who := *about
	who.Tenant = v.guard.scope.ID()
	if v.principal.Tenant != who.Tenant || v.principal.Role < tenant.Admin {
		return who, fault.New(fault.Forbidden, "only an admin may ask about somebody else")
	}
	switch who.Kind {
	case tenant.KindKey, tenant.KindBot, tenant.KindUser, tenant.KindAnonymous:
		return who, nil
	}
	return who, fault.New(fault.Invalid, "principal kind %q cannot be asked about: use key, bot, user or anonymous", who.Kind)
}

func reasonOf(who *tenant.Principal, a authz.Action, needs tenant.Role) string {
	switch {
	case needs == tenant.NoRole:
		return fmt.Sprintf("no role may %s", a)
	case who.Role < needs:
		return fmt.Sprintf("%s needs the role %s; this principal has %s, and no delegation for it", a, needs, who.Role)
	}
	return fmt.Sprintf("%s is for the owner of the object and for admins", a)
}

// explainPolicy adds what the policy says of what the authorization allows.
func (v *Visit) explainPolicy(ctx context.Context, x *Explanation, who *tenant.Principal, e Effect) {
	cannot := func(rule string, err error) {
		x.Allow, x.Rule, x.Reason, x.Shown = false, rulePolicy+rule, "the policy cannot be asked: "+err.Error(), fault.Unavailable.String()
	}
	l := v.guard.holdPolicy()
	if l == nil {
		x.Bundle = ""
		return
	}
	defer l.release()
	x.Bundle = l.digest
	eng, err := l.wait()
	if err != nil {
		cannot("not loaded", err)
		return
	}
	p, err := eng.Explain(ctx, v.input(who, e))
	if err != nil {
		cannot("not explained", err)
		return
	}
	r := v.ruling(e, x.Authz, l.digest, &p.Decision)
	x.Allow, x.Rule, x.Reason, x.Policy = r.err == nil, r.rule, p.Reason, p
	if r.err != nil {
		x.Shown = fault.KindOf(r.err).String()
	}
	if v.principal.Role < tenant.Admin {
		x.Policy = &policy.Explanation{Decision: p.Decision, Source: p.Source}
	}
}
