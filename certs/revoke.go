package certs

import (
	"context"
	"slices"
	"time"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

const (
	revokeTimeout = 45 * time.Second
	revokeGrace   = 5 * time.Minute // after a revocation that the issuer did not take, in which it can be repeated before a new certificate replaces the old
)

// Revoke stops serving a certificate at once and revokes it at its issuer; the source gives another one. reason is that of
// RFC 5280 §5.3.1. A failure of the issuer is an error although the certificate is not served any more; Revoke can be repeated
// for a few minutes then. The local authority keeps no list of what is revoked: its certificates are short-lived, and replaced.
func (m *Manager) Revoke(ctx context.Context, e *tenant.Entry, host string, reason int, entry audit.Entry) (tenant.Certificate, error) {
	none := tenant.Certificate{}
	host, p, err := m.owned(e, host)
	if err != nil {
		return none, err
	}
	if !slices.Contains([]int{0, 1, 3, 4, 5}, reason) {
		return none, fault.New(fault.Invalid, "reason %d: use 0 (unspecified), 1 (key compromised), 3 (affiliation changed), 4 (superseded) or 5 (operation ceased)", reason)
	}
	lock, err := m.lockHost(ctx, p, host)
	if err != nil {
		return none, err
	}
	defer m.unlock(ctx, lock)
	var old keep.Host
	c, err := m.change(ctx, host, p, 0, entry, func(h *keep.Host, now time.Time) error {
		old = *h
		if len(h.Chain) == 0 && m.wildcardFor(ctx, p, now) != nil {
			return sharedWildcard(host, "revoke")
		}
		return revoked(h, p, now)
	}, lock)
	if err != nil || old.Source != tenant.SourceACME || len(old.Chain) == 0 {
		return c, err
	}
	if !old.Revoked.IsZero() && !m.board.take(p.owner.Segment(), p, m.cfg.Now()) { // a first one follows an order, which was counted
		return none, fault.New(fault.RateLimited, "%s is not served with the certificate any more, but too much is asked of its issuer: repeat the revocation later", host).After(time.Minute)
	}
	if err := m.revokeAt(ctx, e, &old, reason); err != nil {
		return none, fault.Wrap(fault.BadUpstream, err, "%s is not served with the certificate any more, but its issuer did not take the revocation (%s): repeat it within %s",
			host, explain(err).Detail, revokeGrace)
	}
	return m.orderNow(ctx, host, p, c, lock)
}

// revoked marks a record. A new certificate waits until the issuer has answered.
func revoked(h *keep.Host, p plan, now time.Time) error {
	if len(h.Chain) == 0 {
		if p.source == tenant.SourceLocalCA {
			h.Order.Last = now
			return nil
		}
		return fault.New(fault.NotFound, "%s has no certificate", h.Host)
	}
	if h.Revoked.IsZero() {
		h.Revoked = now.UTC()
	}
	h.OCSP, h.OCSPAt, h.OCSPUntil = nil, time.Time{}, time.Time{}
	if leftAlone(h, now) { // a revocation is no way around what the issuer asked for
		return nil
	}
	h.Order = keep.Order{Last: now}
	if h.Source == tenant.SourceACME {
		h.Order.Next = now.Add(revokeGrace)
	}
	return nil
}

// leftAlone says whether the issuer asked for patience that is not over.
func leftAlone(h *keep.Host, now time.Time) bool {
	return h.Order.Code == acme.CodeRateLimited && h.Order.Next.After(now)
}

func (m *Manager) revokeAt(ctx context.Context, e *tenant.Entry, h *keep.Host, reason int) (err error) {
	defer caught(&err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	account, owner, err := m.account(e)
	if err != nil {
		return err
	}
	if h.Directory != "" && account.Directory != h.Directory {
		return fault.New(fault.Conflict, "it was issued by %s, and the directory that is configured is %s", h.Directory, account.Directory)
	}
	if m.cfg.ACME == nil {
		return errNoAccount()
	}
	return m.cfg.ACME.Revoke(ctx, account, m.cfg.Keeper.Storage(owner), h.Chain, reason)
}

// orderNow ends the wait for the issuer's answer. If that cannot be written the new certificate comes a few minutes later.
func (m *Manager) orderNow(ctx context.Context, host string, p plan, c tenant.Certificate, lock vault.Lock) (tenant.Certificate, error) {
	h, rev, err := m.loadOrNew(ctx, host, p)
	now := m.cfg.Now()
	if err != nil || rev == nil || h.Revoked.IsZero() || !p.ordered || leftAlone(h, now) {
		return c, nil
	}
	was := h.Order.Next
	h.Order.Next = mark(now)
	err = m.cfg.Keeper.Save(ctx, p.owner, h, keep.SaveOptions{IfRevision: rev, Fences: []vault.Lock{lock}, WasDue: was, Due: h.Order.Next})
	if err != nil {
		return c, nil
	}
	m.changed(host, p)
	c.Revision = h.Revision
	return c, nil
}

// revokePatience is how long a revocation waits for an order of the host that is about to end.
const revokePatience = 3 * time.Second

// lockHost takes the lock under which a host's certificate is ordered.
func (m *Manager) lockHost(ctx context.Context, p plan, host string) (vault.Lock, error) {
	deadline := time.Now().Add(revokePatience)
	for wait := 50 * time.Millisecond; ; wait *= 2 { // each look may cost the store a read, and callers choose how many wait
		lock, ok, err := m.cfg.Vault.TryLock(ctx, lockName(p.owner, host))
		if err != nil || ok {
			return lock, err
		}
		if time.Now().After(deadline) {
			return lock, fault.New(fault.Conflict, "a certificate is being ordered for %s at this moment: try again", host).After(5 * time.Second)
		}
		if !pause(ctx, wait) {
			return lock, fault.From(ctx.Err())
		}
	}
}
