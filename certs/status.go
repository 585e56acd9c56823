package certs

import (
	"cmp"
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// trouble is what this replica knows of a host beyond its record: a certificate that ends soon, or one that cannot be stored.
type trouble struct {
	owner      vault.Owner
	notAfter   time.Time // zero = not known
	code, text string
	until      time.Time // when it is not known any more, unless it is said again; zero = it is
}

// storeTrouble says in a word and a sentence why the store did not take a change.
func storeTrouble(err error) (code, text string) {
	if code = acme.CodeStorage; acme.StoreFull(err) {
		code = acme.CodeStorageFull
	}
	if text = fault.From(err).Detail; text == "" {
		text = "see the log of the gateway"
	}
	return code, text
}

// status says what a host's certificate is doing; h is its record, or nil. A host that is served is ready, even while a renewal
// fails: Error, Attempts and Warning tell of that.
func (m *Manager) status(ctx context.Context, host string, p plan, h *keep.Host) tenant.Certificate {
	now := m.cfg.Now()
	c := tenant.Certificate{Host: host, Source: p.source, State: tenant.CertificatePending}
	if h != nil {
		c.Revision = h.Revision
		fillOrder(&c, h, p, now)
		fillStored(&c, h, p, now)
	}
	if c.State != tenant.CertificateReady {
		m.fillOther(ctx, &c, host, p, h, now)
	}
	if c.State == tenant.CertificatePending && c.Error == "" {
		c.Code, c.Error = m.whyNone(p)
	}
	if t, ok := m.troubles.Peek(name(p.owner, host)); ok && t.code != "" && (t.until.IsZero() || now.Before(t.until)) {
		c.Code, c.Error = t.code, t.text
	}
	if why, ok := m.files.Peek(p.owner); ok {
		c.Warning = strings.TrimPrefix(c.Warning+"; "+why, "; ")
	}
	return c
}

// FilesWrong has the status of the hosts of a tenant, or of the platform for nil, warn that certificate files are not taken
// in. Tenants read it: it names no path. "" = nothing is wrong any more.
func (m *Manager) FilesWrong(e *tenant.Entry, why string) {
	var o vault.Owner
	if e != nil {
		o = vault.Of(e.Scope)
	}
	if why == "" {
		m.files.Remove(o)
		return
	}
	m.files.Add(o, cut("a certificate file that operators declare is not taken in: "+why))
}

// fillOrder tells of attempts, unless they are of a source that was given up.
func fillOrder(c *tenant.Certificate, h *keep.Host, p plan, now time.Time) {
	o := h.Order
	if !p.ordered && o.Code != keep.CodeDamaged {
		return
	}
	c.Attempts, c.Code, c.Error = o.Attempts, o.Code, o.Error
	if o.Attempts > 0 || p.ordered && !usable(h, now) {
		c.NextAttempt = o.Next
	}
	if o.Attempts > 0 || o.Code == keep.CodeDamaged {
		c.State = tenant.CertificateFailing
	}
}

// fillStored tells of the stored certificate.
func fillStored(c *tenant.Certificate, h *keep.Host, p plan, now time.Time) {
	if len(h.Chain) == 0 {
		return
	}
	c.Source, c.Names, c.Issuer, c.Serial = h.Source, h.Names, h.Issuer, h.Serial
	c.Fingerprint, c.KeyType, c.NotBefore, c.NotAfter, c.Chain = h.Fingerprint, h.KeyType, h.NotBefore, h.NotAfter, string(h.Chain)
	if at := orderAt(h, p, now); !at.IsZero() {
		c.RenewAt = at
	}
	switch {
	case !h.Revoked.IsZero():
		c.State = tenant.CertificateRevoked
	case !now.Before(h.NotAfter):
		c.State = tenant.CertificateExpired
	case now.Before(h.NotBefore):
		c.State, c.Code, c.Error = tenant.CertificateFailing, "clock", "the certificate is valid from "+day(h.NotBefore)+", and it is "+day(now)+" here: check the clock"
	default:
		c.State = tenant.CertificateReady
		c.Warning = warning(h, p, now)
	}
}

// warning tells of a certificate of which a third of the life is left, or less.
func warning(h *keep.Host, p plan, now time.Time) string {
	if now.Before(warnAt(h.NotBefore, h.NotAfter)) {
		return ""
	}
	w := "it ends on " + day(h.NotAfter)
	switch {
	case h.Source == tenant.SourceProvided && p.ordered:
		return w + ": provide a newer one, or the issuer's replaces it on " + day(takeover(h))
	case h.Source == tenant.SourceProvided && p.source == tenant.SourceLocalCA:
		return w + ": provide a newer one, or the local authority's is served from then on"
	case h.Source == tenant.SourceProvided:
		return w + ": provide a newer one"
	case h.Order.Error != "":
		return w + ", and no other could be obtained: " + h.Order.Error
	}
	return w + ", and no other has come yet"
}

// fillOther tells of what is served in place of a stored certificate: the wildcard's, or the local authority's. The latter is
// made with the first handshake, by each replica for itself, and again with the first after somebody asked for a new one.
func (m *Manager) fillOther(ctx context.Context, c *tenant.Certificate, host string, p plan, h *keep.Host, now time.Time) {
	if p.passed {
		return
	}
	if w := m.wildcardFor(ctx, p, now); w != nil {
		fillServed(c, w, tenant.SourceACME)
		return
	}
	if p.source != tenant.SourceLocalCA || strings.HasPrefix(host, "*.") { // the local authority signs for each host
		return
	}
	if r, ok := m.cache.Peek(host); ok && r.local && r.rev == revision(h) && r.serves(p, now) {
		fillServed(c, r.served, tenant.SourceLocalCA)
	} else if c.State != tenant.CertificateFailing { // what is stored is over, or revoked: the next handshake shows another
		*c = tenant.Certificate{Host: c.Host, Source: tenant.SourceLocalCA, State: tenant.CertificatePending, Warning: c.Warning, Revision: c.Revision}
	}
}

// fillServed tells of a certificate in memory; source is of one that nobody provided.
func fillServed(c *tenant.Certificate, s *served, source tenant.CertificateSource) {
	leaf, err := x509.ParseCertificate(s.cert.Certificate[0])
	if err != nil {
		return
	}
	c.State, c.Source, c.RenewAt = tenant.CertificateReady, source, warnAt(s.notBefore, s.notAfter)
	if s.provided { // the gateway does not renew it
		c.Source, c.RenewAt = tenant.SourceProvided, time.Time{}
	}
	c.Names, c.Issuer, c.Serial, c.KeyType = leaf.DNSNames, leaf.Issuer.CommonName, s.serial, keyType(leaf.PublicKey)
	c.Fingerprint, c.NotBefore, c.NotAfter = fingerprint(leaf.Raw), leaf.NotBefore.UTC(), leaf.NotAfter.UTC()
	c.Chain = chainPEM(s.cert.Certificate)
}

// whyNone says why a host has no certificate, if nothing else does.
func (m *Manager) whyNone(p plan) (code, text string) {
	switch {
	case p.passed:
		return "passthrough", "TLS of this host ends at the tenant's own gateway, which has the certificate"
	case p.source == tenant.SourceProvided:
		return "none_provided", "nobody provided a certificate for this host: import one"
	case p.source == tenant.SourceACME && m.cfg.ACME == nil:
		return "account", "no ACME account is configured: set certificates.acme"
	}
	return "", ""
}

// Len returns how many certificates are in memory.
func (m *Manager) Len() int { return m.cache.Len() }

// Stats are counts at one moment.
type Stats struct {
	Resident int // certificates in memory
	Ordering int // looks at what is due, orders among them, in progress on this replica
	Waiting  int // hosts that wait to be put on the queue
	Clients  int // client certificates in memory
}

// Stats returns counts.
func (m *Manager) Stats() Stats {
	m.board.mu.Lock()
	defer m.board.mu.Unlock()
	return Stats{Resident: m.cache.Len(), Ordering: len(m.board.busy), Waiting: len(m.board.waits), Clients: m.clients.Len()}
}

// Expiries returns when the first certificate of each tenant ends, of those in memory and those that end soon, for at most
// limit tenants: those that end first. The platform's own are under "".
func (m *Manager) Expiries(limit int) map[tenant.ID]time.Time {
	first := make(map[tenant.ID]time.Time)
	note := func(o vault.Owner, at time.Time) {
		id := o.Scope().ID()
		if !m.alive(o) {
			return
		}
		if have, ok := first[id]; !ok || at.Before(have) {
			first[id] = at
		}
	}
	for _, r := range m.cache.Values() {
		if r.served != nil && !r.shared {
			note(r.plan.owner, r.notAfter)
		}
	}
	for _, t := range m.troubles.Values() {
		if !t.notAfter.IsZero() {
			note(t.owner, t.notAfter)
		}
	}
	return soonest(first, limit)
}

// alive says whether an owner is still there, by the index.
func (m *Manager) alive(o vault.Owner) bool {
	if o.Platform() || m.cfg.BaseDomain == "" {
		return true
	}
	e, ok := m.lookup(tenant.OwnHost(o.Scope().ID(), m.cfg.BaseDomain))
	return ok && e != nil && e.Scope == o.Scope()
}

// soonest keeps the limit earliest.
func soonest(all map[tenant.ID]time.Time, limit int) map[tenant.ID]time.Time {
	if len(all) <= limit {
		return all
	}
	ids := make([]tenant.ID, 0, len(all))
	for id := range all {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b tenant.ID) int { return cmp.Or(all[a].Compare(all[b]), cmp.Compare(a, b)) })
	for _, id := range ids[max(0, limit):] {
		delete(all, id)
	}
	return all
}
