package guard

import (
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Effect is what is about to happen. Its Resource is the very value that will be executed.
type Effect struct {
	Action   authz.Action
	Resource string       // such as "server/everything" or "server/everything/tool/echo"
	Subject  tenant.Scope // with the platform's guard only: the tenant that an operator acts on, whose chain records it
	Object   authz.Object // the object, where ownership or delegations count; the zero Object has none
	// Grants are the tenant's delegations. They may be a snapshot that is shared: they are read only.
	Grants []authz.Grant
}

// verdict is the outcome of a judgement.
type verdict struct {
	rule   string // which rule decided
	digest string // of the policy that took part; "" = none
	err    error  // nil = allowed
}

// Admit authorizes e, asks the tenant's policy if it has one, and begins the record. A policy can only narrow what the
// authorization allows. A refusal is recorded, and its error shaped by the action's class: Forbidden for a mutation,
// NotFound for the rest. Where the policy cannot be asked, the error is fault.Unavailable, and that is recorded as a denial
// too. It may wait for a policy that is being loaded, 2 s at most, and for its evaluation.
func (v *Visit) Admit(e Effect) (*Permit, error) {
	began := v.guard.set.cfg.Now()
	verdict := v.judge(e, began)
	p := v.permit()
	*p = Permit{visit: v, effect: e, scope: v.subject(e), rule: verdict.rule, digest: verdict.digest, began: began}
	if verdict.err == nil {
		return p, nil
	}
	entry := p.Entry(fault.KindOf(verdict.err).String())
	entry.Decision = audit.Deny
	v.guard.set.cfg.Recorder.Record(entry)
	return nil, verdict.err
}

// permit returns the memory for a permit: the first effect's is a part of the visit.
func (v *Visit) permit() *Permit {
	if v.firstUsed.CompareAndSwap(false, true) {
		return &v.first
	}
	return new(Permit)
}

// subject returns the tenant in which e happens.
func (v *Visit) subject(e Effect) tenant.Scope {
	if v.guard.scope.ID() == "" {
		return e.Subject
	}
	return v.guard.scope
}

// judge decides, and records nothing.
func (v *Visit) judge(e Effect, now time.Time) verdict {
	a := authz.Decide(authz.Question{
		Principal: v.principal, Action: e.Action, In: v.subject(e).ID(), Object: e.Object, Grants: e.Grants, Now: now,
	})
	if !a.Allow {
		return verdict{rule: a.Rule, err: fault.New(refusalKind(e.Action), "role %s may not %s", v.principal.Role, e.Action)}
	}
	if !v.guard.policed(v.principal.Kind, e.Action) {
		return verdict{rule: a.Rule}
	}
	return v.askPolicy(e, a.Rule)
}

// refusalKind returns how a refusal of a is shown.
func refusalKind(a authz.Action) fault.Kind {
	if authz.ClassOf(a) == authz.Mutate {
		return fault.Forbidden
	}
	return fault.NotFound
}

// Permit is the leave to carry out one effect. It is settled exactly once: by Done for traffic, or, for a change, by
// committing Entry in the change's own transaction.
type Permit struct {
	visit  *Visit
	effect Effect
	scope  tenant.Scope
	rule   string
	digest string
	began  time.Time
}

// Entry returns the record of the effect with the given outcome, to be written in the transaction that makes the change.
func (p *Permit) Entry(outcome string) audit.Entry {
	v := p.visit
	cfg, who := &v.guard.set.cfg, &v.principal
	e := audit.Entry{
		ID: audit.NewID(), Time: p.began.UTC(), Tenant: p.scope.ID(), TenantUID: p.scope.UID(), Replica: cfg.Replica,
		Principal: v.ref(), Name: who.Name, Action: string(p.effect.Action), Resource: p.effect.Resource,
		Decision: audit.Allow, Rule: p.rule, Outcome: outcome, RequestID: v.request.ID,
		Millis: cfg.Now().Sub(p.began).Milliseconds(),
		KeyID:  who.KeyID, Via: string(who.Via), Bundle: p.digest, Remote: v.remote(),
	}
	if who.Claims != nil {
		e.Issuer = who.Claims.Issuer
	}
	if who.Role != tenant.NoRole {
		e.Role = who.Role.String()
	}
	return e
}

// ref returns the name of the principal. The table of callers has it made already.
func (v *Visit) ref() string {
	if v.ticket.ref != "" {
		return v.ticket.ref
	}
	return v.principal.Ref()
}

func (v *Visit) remote() string {
	if v.ticket.addrText != "" {
		return v.ticket.addrText
	}
	return addrText(v.request.Remote)
}

// Done records how traffic ended: err is nil or says why it failed.
func (p *Permit) Done(err error) {
	outcome := audit.OutcomeOK
	if err != nil {
		outcome = fault.KindOf(err).String()
	}
	p.visit.guard.set.cfg.Recorder.Record(p.Entry(outcome))
}

// Settle ends a change: if the commit failed, the attempt is recorded; if it succeeded, its record is in the commit.
// It returns err.
func (p *Permit) Settle(err error) error {
	if err != nil {
		p.Done(err)
	}
	return err
}
