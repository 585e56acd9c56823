package certs

import (
	"context"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// maxKept is how many records a tenant may have: of its hosts, and of those that it had a while ago.
const maxKept = 3 * tenant.MaxHosts

// room says whether a tenant may have a record more, and has those looked at of hosts that are not its own any more: their own
// marks may be years away. Else one that takes up and gives back hosts in turns, with a certificate for each, fills the store.
func (m *Manager) room(ctx context.Context, p plan) error {
	if p.owner.Platform() {
		return nil
	}
	kept, _, err := m.cfg.Keeper.List(ctx, p.owner, "", maxKept)
	if err != nil || len(kept) <= tenant.MaxHosts {
		return err
	}
	for _, h := range kept {
		if !m.owns(p.owner, h.Host) && h.Order.Code != codeNotOwned {
			m.discard(ctx, p.owner, h)
		}
	}
	if len(kept) < maxKept {
		return nil
	}
	return fault.New(fault.RateLimited, "%d certificates are kept, the most that may be, most of them of hosts that the tenant had: these are removed after %s", len(kept), goneGrace).After(goneGrace)
}

// owns says whether a host is an owner's, by the index.
func (m *Manager) owns(o vault.Owner, host string) bool {
	e, ok := m.lookup(host)
	return ok && e != nil && e.Scope == o.Scope()
}

// discard has a record looked at now. If that fails, the next that needs room tries again.
func (m *Manager) discard(ctx context.Context, o vault.Owner, listed *keep.Host) {
	now := m.cfg.Now()
	h, err := m.cfg.Keeper.Load(ctx, o, listed.Host)
	if err == nil && h.Order.Code != codeNotOwned && !due(h.Order.Next, now) {
		was, rev := h.Order.Next, h.Revision
		h.Order.Next = mark(now)
		err = m.cfg.Keeper.Save(ctx, o, h, keep.SaveOptions{IfRevision: &rev, WasDue: was, Due: h.Order.Next})
	}
	if err != nil && !isNotFound(err) && !fault.Is(err, fault.PreconditionFailed) {
		m.cfg.Logger.Warn("the certificate of a host that its tenant does not have any more is not removed yet", "host", listed.Host, "tenant", o.Segment(), "error", err)
	}
}
