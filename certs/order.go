package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

const (
	orderTimeout = 12 * time.Minute // of one order; the engine has a shorter one
	saveTimeout  = 10 * time.Minute // while a certificate that was obtained cannot be stored
	maxError     = 512              // bytes of an error in a status
)

// errNoAccount is for a tenant with the platform's source while the platform has no account.
func errNoAccount() error {
	return &acme.Error{Code: acme.CodeAccount, Permanent: true, Detail: "no ACME account is configured: set certificates.acme"}
}

// order orders a certificate and stores what came of it.
func (l *look) order(ctx context.Context) error {
	now := l.m.cfg.Now()
	if wait := l.m.board.left(l.key, l.plan.directory, now); wait > 0 {
		return l.save(ctx, now.Add(wait), nil)
	}
	if !l.m.board.take(l.due.Owner, l.plan, now) {
		l.m.board.hold(l.key, now, lostLock)
		return nil
	}
	done, err := l.m.entry(l.entry, authz.CertificateIssue, l.host, audit.OutcomeOK)
	if err != nil {
		return err // what cannot be recorded is not begun
	}
	got, err := l.obtain(ctx)
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx) // a shutdown is no failure of the order, and the mark stays
	}
	var why *acme.Error
	if err != nil {
		why = explain(err)
	}
	l.m.board.ended(l.plan.directory, why != nil && blamesIssuer(why.Code))
	l.m.observe(why)
	if why != nil {
		return l.failed(ctx, why)
	}
	return l.succeeded(ctx, got, done)
}

func (m *Manager) observe(why *acme.Error) {
	if m.cfg.Observer == nil {
		return
	}
	code := ""
	if why != nil {
		code = why.Code
	}
	m.cfg.Observer.CertificateOrdered(tenant.SourceACME, code)
}

// obtain has the engine get a certificate for a new key, and checks it. A panic of the engine is its error.
func (l *look) obtain(ctx context.Context) (got *pair, err error) {
	defer caught(&err)
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	account, owner, err := l.m.account(l.entry)
	if err != nil {
		return nil, err
	}
	files := l.m.cfg.Keeper.Storage(l.plan.owner)
	open, err := l.m.findOrder(ctx, files, l.host, l.plan.directory)
	if err != nil {
		return nil, err
	}
	order := acme.Order{
		Account: account, Accounts: l.m.cfg.Keeper.Storage(owner), Tokens: files, Names: []string{l.host}, Replaces: l.replaces(),
		Key: open.key, Resume: open.URL,
		Begun: func(ctx context.Context, url string) error { return l.m.keepOrder(ctx, files, l.host, open, url) },
	}
	chain, err := l.m.cfg.ACME.Obtain(ctx, order)
	if err != nil {
		return nil, err
	}
	got, err = l.m.checkObtained(chain, open.key, l.host)
	if err == nil && open.URL != "" && l.h.Fingerprint == fingerprint(got.chain[0].Raw) { // it was stored, and then forgotten to be forgotten
		l.m.dropOrder(ctx, files, l.host)
		return nil, &acme.Error{Code: acme.CodeInternal, Detail: "what was left of an earlier order is cleared away: the next attempt places a new one"}
	}
	return got, err
}

// replaces is the certificate that the new one follows, if the same server issued it.
func (l *look) replaces() *x509.Certificate {
	if l.h.Source != tenant.SourceACME || !usable(l.h, l.m.cfg.Now()) || l.h.Directory != l.plan.directory {
		return nil
	}
	leaf, _ := leafOf(l.h.Chain)
	return leaf
}

// checkObtained refuses what an issuer should not have sent: to replace a good certificate by it would end the host.
func (m *Manager) checkObtained(chain []byte, key *ecdsa.PrivateKey, host string) (*pair, error) {
	bad := func(format string, args ...any) error {
		return &acme.Error{Code: acme.CodeDirectoryInvalid, Detail: "the issuer sent an unusable certificate: " + fmt.Sprintf(format, args...)}
	}
	certs, err := parseChain(chain)
	if err != nil {
		return nil, bad("%s", fault.From(err).Detail)
	}
	leaf, now := certs[0], m.cfg.Now()
	switch {
	case !samePublic(key.Public(), leaf.PublicKey):
		return nil, bad("it is for another key")
	case !covers(leaf, host):
		return nil, bad("it is for %s", names(leaf))
	case now.Before(leaf.NotBefore) || !now.Before(leaf.NotAfter):
		return nil, &acme.Error{Code: acme.CodeClock, Detail: fmt.Sprintf("the new certificate is valid from %s to %s, and it is %s here: check the clock", day(leaf.NotBefore), day(leaf.NotAfter), day(now))}
	}
	return &pair{certs, key}, nil
}

// explain makes a failure an acme.Error, whose code and detail people see.
func explain(err error) *acme.Error {
	var e *acme.Error
	if errors.As(err, &e) {
		return e
	}
	return &acme.Error{Code: acme.CodeInternal, Detail: "the order failed inside the gateway: see its log", Err: err}
}

// blamesIssuer says whether a failure is the issuer's own and not one host's.
func blamesIssuer(code string) bool {
	switch code {
	case acme.CodeDirectoryUnreachable, acme.CodeDirectoryInvalid, acme.CodeServer, acme.CodeRateLimited, acme.CodeAccount,
		acme.CodeEABRequired, acme.CodeTimeout:
		return true
	}
	return false
}

// faultOf is the outcome of a failed order in the audit.
func faultOf(code string) fault.Kind {
	switch code {
	case acme.CodeRateLimited:
		return fault.RateLimited
	case acme.CodeInternal:
		return fault.Internal
	case acme.CodeStorage, acme.CodeStorageFull, acme.CodeTimeout, acme.CodeDirectoryUnreachable:
		return fault.Unavailable
	}
	return fault.BadUpstream
}

// failed writes down why there is no new certificate, and when it is tried again, so that back-off outlives a restart. The
// certificate there is stays.
func (l *look) failed(ctx context.Context, why *acme.Error) error {
	now := l.m.cfg.Now()
	o := &l.h.Order
	o.Attempts++
	o.Code, o.Error, o.Last, o.Under = why.Code, cut(why.Detail), now, l.plan.under()
	wait := retryIn(o.Attempts, why.Permanent, why.RetryAfter, chance())
	l.m.cfg.Logger.Warn("a certificate was not obtained", "host", l.host, "tenant", l.due.Owner, "directory", l.plan.directory,
		"code", why.Code, "attempts", o.Attempts, "again_in", wait, "error", why)
	if why.Code == acme.CodeRateLimited {
		l.m.board.asked.Add(l.key, request{l.plan.directory, now.Add(wait)})
	}
	l.m.board.hold(l.key, now, wait) // also if it cannot be written down
	entry, err := l.m.entry(l.entry, authz.CertificateIssue, l.host, faultOf(why.Code).String())
	if err != nil {
		return err
	}
	err = l.save(ctx, now.Add(wait), entry)
	l.m.board.hold(l.key, now, wait)
	return err
}

// cut bounds a text that a server or a certificate chose, without a part of a character at its end.
func cut(s string) string { return cutAt(s, maxError) }

func cutAt(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// fill takes over what a chain says.
func (p *pair) fill(h *keep.Host) error {
	leaf := p.chain[0]
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	h.Chain, h.Key = encodeChain(p.chain), der
	h.NotBefore, h.NotAfter, h.Revoked = leaf.NotBefore.UTC(), leaf.NotAfter.UTC(), time.Time{}
	h.Issuer, h.Serial, h.KeyType, h.Names = cut(leaf.Issuer.CommonName), leaf.SerialNumber.Text(16), keyType(leaf.PublicKey), leaf.DNSNames
	h.Fingerprint = fingerprint(leaf.Raw)
	h.RenewAt, h.InfoAt, h.Directory = time.Time{}, time.Time{}, ""
	h.OCSP, h.OCSPAt, h.OCSPUntil = nil, time.Time{}, time.Time{}
	h.Order = keep.Order{}
	return nil
}

// succeeded stores a certificate.
func (l *look) succeeded(ctx context.Context, got *pair, entry *audit.Entry) error {
	now := l.m.cfg.Now()
	h := *l.h
	if err := got.fill(&h); err != nil {
		return err
	}
	h.Source, h.Directory, h.InfoAt = tenant.SourceACME, l.plan.directory, now.Add(infoLeast)
	h.RenewAt = renewAt(h.NotBefore, h.NotAfter, chance())
	h.Order.Last = now
	if l.m.cfg.OCSP && offersOCSP(got.chain) {
		h.OCSPAt = now
	}
	h.Order.Next = mark(nextLook(&h, l.plan, now))
	l.h = &h
	if err := l.store(ctx, entry); err != nil {
		return err
	}
	l.m.troubles.Remove(l.key)
	l.m.dropOrder(ctx, l.m.cfg.Keeper.Storage(l.plan.owner), l.host)
	l.m.cfg.Logger.Info("a certificate was obtained", "host", l.host, "tenant", l.due.Owner, "directory", l.plan.directory,
		"serial", h.Serial, "not_after", h.NotAfter)
	return nil
}

// store saves the certificate. While the store is away or full it is served from memory, and saving is tried again.
func (l *look) store(ctx context.Context, entry *audit.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	defer l.m.unsaved.Delete(l.host)
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 15*time.Second) {
		again, err := l.storeOnce(ctx, entry)
		for turn := 1; again && err == nil && turn < turns; turn++ { // somebody changed the record meanwhile
			again, err = l.storeOnce(ctx, entry)
		}
		if !again {
			l.m.slot(l.host).Add(1)
			return err
		}
		if err == nil {
			err = fault.New(fault.Unavailable, "others change the record all the time")
		}
		l.m.holdUnsaved(l, err)
		if !pause(ctx, wait) {
			return fmt.Errorf("the certificate of %s was obtained but could not be stored: %w", l.host, err)
		}
	}
}

// pause waits, and says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// storeOnce tries to save; again says whether to try again, without an error at once. Who changed the record meanwhile goes first.
func (l *look) storeOnce(ctx context.Context, entry *audit.Entry) (again bool, err error) {
	err = l.m.cfg.Keeper.Save(ctx, l.plan.owner, l.h, keep.SaveOptions{
		IfRevision: l.rev, Fences: []vault.Lock{l.lock}, WasDue: l.due.At, Due: l.h.Order.Next, Audit: entry,
	})
	switch {
	case err == nil || isNotFound(err) || fault.Is(err, fault.TooLarge) || fault.Is(err, fault.Invalid):
		return false, err
	case !fault.Is(err, fault.PreconditionFailed) && !errors.Is(err, vault.ErrFenced):
		return true, err
	}
	fenced := errors.Is(err, vault.ErrFenced)
	now := l.m.cfg.Now()
	var loaded *keep.Host
	if loaded, l.rev, err = l.m.loadOrNew(ctx, l.host, l.plan); err != nil {
		return true, err
	}
	if bytes.Equal(loaded.Chain, l.h.Chain) {
		return false, nil // it was saved, and the answer was lost
	}
	if usable(loaded, now) && !due(orderAt(loaded, l.plan, now), now) {
		l.m.cfg.Logger.Info("a certificate was obtained and dropped: another one came meanwhile", "host", l.host, "tenant", l.due.Owner)
		return false, nil
	}
	if fenced {
		return l.relock(ctx)
	}
	return true, nil
}

// relock takes the lock again if it was lost. If another replica has it, that one's certificate is as good.
func (l *look) relock(ctx context.Context) (again bool, err error) {
	l.m.unlock(ctx, l.lock)
	lock, ok, err := l.m.cfg.Vault.TryLock(ctx, l.lock.Name)
	if err != nil {
		return true, err
	}
	if !ok {
		return false, nil
	}
	l.lock = lock
	return true, nil
}

// pending is a certificate that is not stored yet.
type pending struct {
	plan plan
	*served
}

// holdUnsaved serves a certificate that cannot be stored from memory, and says so in the host's status.
func (m *Manager) holdUnsaved(l *look, err error) {
	code, text := storeTrouble(err)
	if _, ok := m.unsaved.Load(l.host); !ok {
		if s, err := m.decode(l.h); err == nil {
			m.unsaved.Store(l.host, pending{l.plan, s})
			m.slot(l.host).Add(1)
		}
	}
	m.troubles.Add(l.key, trouble{owner: l.plan.owner, code: code, text: "the certificate was obtained and is served from memory by one replica, but it cannot be stored: " + text, notAfter: l.h.NotAfter})
	m.cfg.Logger.Warn("a certificate that was obtained cannot be stored", "host", l.host, "tenant", l.due.Owner, "error", err)
}

// unsavedFor returns a certificate of the owner's that is not stored yet.
func (m *Manager) unsavedFor(host string, p plan, now time.Time) *served {
	v, ok := m.unsaved.Load(host)
	if !ok {
		return nil
	}
	u := v.(pending)
	if u.plan.owner != p.owner || !now.Before(u.notAfter) {
		return nil
	}
	return u.served
}
