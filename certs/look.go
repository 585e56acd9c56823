package certs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

const (
	goneGrace   = time.Hour        // a host that its tenant does not have any more keeps its record for so long: this index may be behind
	infoEvery   = 24 * time.Hour   // between questions to an issuer for the window of renewal
	infoLeast   = time.Hour        //
	infoTimeout = time.Minute      // of one such question
	lookTimeout = 15 * time.Minute // of a whole look, with its order
)

// codeNotOwned is the Order.Code of a host that its tenant does not have any more.
const codeNotOwned = "not_owned"

// look is one look at a host that is due, under its lock.
type look struct {
	m      *Manager
	due    vault.Due
	key    string // owner/host
	host   string
	entry  *tenant.Entry // the tenant; nil is the platform
	owns   bool          // the host is the tenant's by the index
	exists bool          // there is such a tenant by the index
	plan   plan
	lock   vault.Lock
	h      *keep.Host
	rev    *int64 // of the record as it was read; nil = it is damaged, and replaced
}

// guarded runs the look. A panic in it ends it alone.
func (l *look) guarded(ctx context.Context) {
	err := func() (err error) {
		defer caught(&err)
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		defer cancel()
		return l.run(ctx)
	}()
	if err == nil || ctx.Err() != nil {
		return
	}
	l.m.board.hold(l.key, l.m.cfg.Now(), badLook)
	l.cannot(err)
	l.m.cfg.Logger.Warn("a certificate that is due cannot be looked at; it is tried again", "host", l.host, "tenant", l.due.Owner, "in", badLook, "error", err)
}

// cannot puts into the host's status that the store lets nobody do what is due: it cannot be written down there. The next looks
// say it again; without, it is over, be it that another replica did it.
func (l *look) cannot(err error) {
	if !l.exists || !fault.Is(err, fault.Unavailable) {
		return
	}
	t, _ := l.m.troubles.Peek(l.key)
	code, text := storeTrouble(err)
	t.owner, t.code, t.text, t.until = l.plan.owner, code, "what is due of the certificate cannot be done: "+text, l.m.cfg.Now().Add(2*badLook)
	l.m.troubles.Add(l.key, t)
}

func (l *look) run(ctx context.Context) error {
	if !l.exists {
		return l.forget(ctx)
	}
	lock, ok, err := l.m.cfg.Vault.TryLock(ctx, lockName(l.plan.owner, l.host))
	if err != nil {
		return fmt.Errorf("take the lock of the order: %w", err)
	}
	if !ok {
		l.m.board.hold(l.key, l.m.cfg.Now(), lostLock)
		return nil
	}
	l.lock = lock
	defer func() { l.m.unlock(ctx, l.lock) }() // which may be another holding by then
	return l.locked(ctx)
}

func lockName(o vault.Owner, host string) string { return "issue/" + name(o, host) }

// unlock gives a lock back, at a shutdown too.
func (m *Manager) unlock(ctx context.Context, l vault.Lock) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
	defer cancel()
	if err := m.cfg.Vault.Unlock(ctx, l); err != nil {
		m.cfg.Logger.Warn("a lock cannot be given back; it ends with this replica's session", "lock", l.Name, "error", err)
	}
}

// forget takes away the mark of a tenant that is gone. The registry refuses if this index is only behind.
func (l *look) forget(ctx context.Context) error {
	err := l.m.cfg.Vault.Forget(ctx, l.due)
	if err != nil {
		l.m.board.hold(l.key, l.m.cfg.Now(), badLook)
	}
	if fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// locked reads the record, which another replica may have changed since, and does what is due.
func (l *look) locked(ctx context.Context) (err error) {
	l.h, err = l.m.cfg.Keeper.Load(ctx, l.plan.owner, l.host)
	switch {
	case isNotFound(err):
		return l.move(ctx, time.Time{})
	case isDamaged(err) && l.owns && l.plan.ordered:
		l.h = &keep.Host{Host: l.host, Source: l.plan.source}
	case isDamaged(err):
		l.m.cfg.Logger.Error("the record of a certificate is damaged: import, renew or remove it", "host", l.host, "tenant", l.due.Owner, "error", err)
		return l.move(ctx, l.m.cfg.Now().Add(infoEvery))
	case err != nil:
		return err
	default:
		rev := l.h.Revision
		l.rev = &rev
	}
	if next := mark(l.h.Order.Next); l.rev != nil && next.After(l.m.cfg.Now()) { // the mark was left behind by a change
		return l.move(ctx, next)
	}
	if !l.owns {
		return l.gone(ctx)
	}
	return l.act(ctx)
}

// move sets another mark in place of this one, without a change of the record.
func (l *look) move(ctx context.Context, to time.Time) error {
	_, err := l.m.cfg.Vault.Commit(ctx, l.plan.owner, vault.Batch{
		Moves: []vault.Move{{Name: l.host, From: l.due.At, To: mark(to)}}, Fences: []vault.Lock{l.lock},
	})
	return err
}

// gone removes the record of a host that its tenant does not have any more, at the second look: at the first, this replica's
// index may be behind.
func (l *look) gone(ctx context.Context) error {
	now := l.m.cfg.Now()
	if o := &l.h.Order; o.Code != codeNotOwned {
		o.Code, o.Error, o.Last = codeNotOwned, "the host is not the tenant's any more", now
		return l.save(ctx, now.Add(goneGrace), nil)
	}
	entry, err := l.m.entry(l.entry, authz.CertificateDelete, l.host, audit.OutcomeOK)
	if err != nil {
		return err
	}
	if err := l.m.cfg.Keeper.Remove(ctx, l.plan.owner, l.host, l.h.Revision, entry); err != nil && !isNotFound(err) {
		return err
	}
	return l.move(ctx, time.Time{})
}

// act does what is due of a host that is its owner's.
func (l *look) act(ctx context.Context) error {
	now := l.m.cfg.Now()
	if l.h.Order.Code == codeNotOwned {
		l.h.Order = keep.Order{}
	}
	l.warn(now)
	if due(infoAt(l.h, l.plan, now), now) {
		l.askInfo(ctx, now)
	}
	if at := orderAt(l.h, l.plan, now); due(at, now) {
		return l.order(ctx)
	}
	if l.m.cfg.OCSP && usable(l.h, now) && due(l.h.OCSPAt, now) {
		if !l.m.board.aside(l.key, l.due.Owner, l.plan.directory, l.m.cfg.Limits.Concurrent) {
			l.m.board.hold(l.key, now, ocspTimeout)
			return nil
		}
		l.m.staple(ctx, l.h, now)
	}
	return l.save(ctx, nextLook(l.h, l.plan, now), nil)
}

// warn tells of a certificate of which a third of the life is left, or less. That a renewal is on its way helps nobody if it
// fails.
func (l *look) warn(now time.Time) {
	if len(l.h.Chain) == 0 || !l.h.Revoked.IsZero() || now.Before(warnAt(l.h.NotBefore, l.h.NotAfter)) {
		l.m.troubles.Remove(l.key)
		return
	}
	l.m.troubles.Add(l.key, trouble{owner: l.plan.owner, notAfter: l.h.NotAfter})
	l.m.cfg.Logger.Warn("a certificate ends soon and no other has come", "host", l.host, "tenant", l.due.Owner, "source", l.h.Source,
		"not_after", l.h.NotAfter, "over", !now.Before(l.h.NotAfter), "attempts", l.h.Order.Attempts, "last_error", l.h.Order.Error)
}

// save stores the record under the lock and sets the next mark.
func (l *look) save(ctx context.Context, next time.Time, entry *audit.Entry) error {
	l.h.Order.Next = mark(next)
	err := l.m.cfg.Keeper.Save(ctx, l.plan.owner, l.h, keep.SaveOptions{
		IfRevision: l.rev, Fences: []vault.Lock{l.lock}, WasDue: l.due.At, Due: l.h.Order.Next, Audit: entry,
	})
	if fault.Is(err, fault.PreconditionFailed) || errors.Is(err, vault.ErrFenced) || isNotFound(err) {
		l.m.board.hold(l.key, l.m.cfg.Now(), lostLock) // somebody changed it meanwhile, and has set a mark of their own
		return nil
	}
	return err
}

// askInfo asks the issuer when the certificate should be renewed (RFC 9773). Without an answer it is renewed as planned.
func (l *look) askInfo(ctx context.Context, now time.Time) {
	l.h.InfoAt = now.Add(infoEvery)
	account, _, err := l.m.account(l.entry)
	if err != nil {
		return
	}
	leaf, err := leafOf(l.h.Chain)
	if err != nil {
		return
	}
	start, end, again, err := l.m.renewalInfo(ctx, account, leaf)
	if err != nil {
		l.m.cfg.Logger.Debug("the issuer says nothing of renewal", "host", l.host, "error", err)
		return
	}
	if again.After(now) {
		l.h.InfoAt = now.Add(min(max(again.Sub(now), infoLeast), infoEvery))
	}
	if l.h.RenewAt.Before(start) || l.h.RenewAt.After(end) { // else it was picked from this window already
		l.h.RenewAt = pickWindow(start, end, l.h.NotBefore, l.h.NotAfter, chance())
	}
}

// renewalInfo asks, for a while only: what is due of the host waits, and is done whatever comes of it, a panic too.
func (m *Manager) renewalInfo(ctx context.Context, account tenant.ACME, leaf *x509.Certificate) (start, end, again time.Time, err error) {
	defer caught(&err)
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	return m.cfg.ACME.RenewalInfo(ctx, account, leaf)
}

func leafOf(chain []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(chain)
	if b == nil {
		return nil, errors.New("certs: a chain without a certificate")
	}
	return x509.ParseCertificate(b.Bytes)
}

// entry makes the audit record of what happens without anybody asking; nil if nothing is recorded.
func (m *Manager) entry(e *tenant.Entry, a authz.Action, host, outcome string) (*audit.Entry, error) {
	if m.cfg.Entry == nil {
		return nil, nil
	}
	entry, err := m.cfg.Entry(e, a, "certificate/"+host, outcome)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", a, err)
	}
	return &entry, nil
}

// account returns the ACME account that a tenant's certificates are ordered with, and whose it is.
func (m *Manager) account(e *tenant.Entry) (tenant.ACME, vault.Owner, error) {
	if e != nil {
		if c := e.Record.Certificates; c != nil && c.Source == tenant.SourceACME && c.ACME != nil {
			a, err := m.openAccount(e, *c.ACME)
			return a, vault.Of(e.Scope), err
		}
	}
	if m.cfg.Default.ACME == nil {
		return tenant.ACME{}, vault.Owner{}, errNoAccount()
	}
	return *m.cfg.Default.ACME, vault.Owner{}, nil
}

func (m *Manager) openAccount(e *tenant.Entry, a tenant.ACME) (tenant.ACME, error) {
	if a.EABKey == "" {
		return a, nil
	}
	if m.cfg.OpenSecret == nil {
		return a, errors.New("certs: OpenSecret is not set")
	}
	var err error
	a.EABKey, err = m.cfg.OpenSecret(e.Scope.ID(), "certificates.acme", a.EABKey)
	return a, err
}

func isNotFound(err error) bool { return fault.Is(err, fault.NotFound) }
func isDamaged(err error) bool  { return errors.Is(err, vault.ErrDamaged) }
