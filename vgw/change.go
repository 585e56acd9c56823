package vgw

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// records is the right of one principal to change one tenant's routing record.
type records struct {
	all   Records
	scope tenant.Scope
	who   tenant.Principal
	now   func() time.Time
	// judged is the revision of the record by which the principal has its role; 0 = it has it of itself, as the system has.
	judged int64
}

// update changes the record, and goes on when the caller leaves. edit may be called several times: what it finds out, it
// has to set anew each time.
func (r records) update(ctx context.Context, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitIn)
	defer cancel()
	return r.all.UpdateTenant(ctx, r.scope.ID(), 0, func(rec *tenant.Record) error {
		if rec.UID != r.scope.UID() { // deleted and made again meanwhile: another tenant
			return fault.New(fault.NotFound, "the tenant was deleted")
		}
		if !r.holds(rec) {
			return fault.New(fault.Unauthenticated, "the credential was revoked or changed while the request ran")
		}
		admins := rec.Admins(r.now())
		if err := edit(rec); err != nil {
			return err
		}
		if admins > 0 && rec.Admins(r.now()) == 0 && r.who.Kind != tenant.KindSystem {
			return fault.New(fault.Conflict, "that is the tenant's last admin: make another one first, or ask a platform operator")
		}
		return nil
	}, e)
}

// holds says whether the record that is about to be replaced still grants the principal its role. Nothing else orders the
// two: a key whose revocation is acknowledged could otherwise leave another behind.
func (r records) holds(rec *tenant.Record) bool {
	if r.who.Kind == tenant.KindSystem {
		return true
	}
	role, ok := rec.Standing(r.who, r.now())
	return ok && role == r.who.Role
}

// bound has write write to the tenant's state on the condition that the record is still the one by which the principal was
// judged. If it is another, the principal is judged by that one, and write called anew: so a revocation that was acknowledged
// by any replica is before every write of the revoked, wherever it comes from. e is the record of the write, for form's sake.
func (r records) bound(ctx context.Context, e audit.Entry, write func(judged int64) error) error {
	for range maxJudged {
		err := write(r.judged)
		if r.judged == 0 || !fault.Is(err, fault.PreconditionFailed) {
			return err
		}
		now, err := r.update(ctx, func(*tenant.Record) error { return nil }, e) // as it is stored, not as the index knows it
		if err != nil {
			return err
		}
		if now.Record.State == tenant.StateSuspended {
			return suspended(now.Record)
		}
		r.judged = now.Record.Revision
	}
	return fault.New(fault.Unavailable, "the tenant's record changes all the time: try again").After(time.Second)
}

// maxJudged is how often a principal is judged for one write.
const maxJudged = 4

// change makes an admitted change of the routing record, with the permit's record in the same transaction.
func (c *call) change(ctx context.Context, permit *guard.Permit, edit func(*tenant.Record) error) (*tenant.Entry, error) {
	e, err := c.records.update(ctx, edit, permit.Entry(audit.OutcomeOK))
	return e, permit.Settle(err)
}

// mayGrant refuses a role that the caller may not give anybody.
func (c *call) mayGrant(role tenant.Role) error {
	who := c.r.Visit.Principal()
	if authz.MayGrant(who, role) {
		return nil
	}
	e := fault.New(fault.Forbidden, "role %s may give roles below its own only: ask a platform operator for a role of %s", who.Role, role)
	e.Reason = e.Detail
	return e
}

// grantable reads a role that the caller is about to give somebody.
func (c *call) grantable(name string) (tenant.Role, error) {
	role, err := tenant.ParseRole(name)
	if err != nil {
		return tenant.NoRole, err
	}
	return role, c.mayGrant(role)
}

// declared refuses to change what a file declares.
func declared(r *tenant.Record, source tenant.Source, what, name string) error {
	if source != tenant.SourceFile {
		return nil
	}
	return fault.New(fault.Conflict, "%s %q is declared in the file %s: change it there", what, name, r.File)
}

// term is how a body says when something ends: in so many seconds, or at a moment.
type term struct {
	In   *int64
	At   *time.Time
	name string // of At's field
}

// span bounds a term.
type span struct{ least, most time.Duration }

// A key ends between a minute and a year after it was made.
func keySpan() span { return span{time.Minute, 365 * 24 * time.Hour} }

// end returns the moment, which is zero if the body says none.
func (t term) end(now time.Time, s span) (time.Time, error) {
	switch {
	case t.In == nil && t.At == nil:
		return time.Time{}, nil
	case t.In != nil && t.At != nil:
		return time.Time{}, fault.New(fault.Invalid, "expires_in_seconds and %s are both given: use one", t.name)
	case t.In != nil:
		least, most := int64(s.least/time.Second), int64(s.most/time.Second)
		if *t.In < least || *t.In > most {
			return time.Time{}, fault.New(fault.Invalid, "expires_in_seconds must be %d to %d", least, most)
		}
		return now.Add(time.Duration(*t.In) * time.Second).UTC(), nil
	}
	if d := t.At.Sub(now); d < s.least || d > s.most {
		return time.Time{}, fault.New(fault.Invalid, "%s must be %s to %s from now", t.name, s.least, s.most)
	}
	return t.At.UTC(), nil
}

// remove answers a DELETE of something in the routing record: admitted as a, it is what drop takes out.
func (c *call) remove(ctx context.Context, a authz.Action, resource string, drop func(name string, pre precondition) func(*tenant.Record) error) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: a, Resource: resource + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	if _, err := c.change(ctx, permit, drop(c.params[0], pre)); err != nil {
		return nil, err
	}
	return noContent(), nil
}
