package certs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// turns is how often a change is tried again when others were faster.
const turns = 5

// owned returns the plan of a host that is the tenant's, or the platform's for nil, by the index. Any other looks absent.
func (m *Manager) owned(e *tenant.Entry, host string) (string, plan, error) {
	host = strings.ToLower(host)
	if m.cfg.Keeper == nil {
		return "", plan{}, fault.New(fault.NotImplemented, "no certificates are kept here but the local authority's")
	}
	if e == nil && (m.extra[host] || host == m.wildHost && host != "") {
		return host, m.cfg.planFor(host, nil), nil
	}
	if e != nil {
		if now, ok := m.lookup(host); ok && now != nil && now.Scope == e.Scope {
			return host, m.cfg.planFor(host, now), nil
		}
	}
	return "", plan{}, fault.New(fault.NotFound, "there is no host %q here", host)
}

// List returns the certificates of a tenant's hosts, or of the platform's own for nil.
func (m *Manager) List(ctx context.Context, e *tenant.Entry) ([]tenant.Certificate, error) {
	if m.cfg.Keeper == nil {
		return nil, nil
	}
	owner := vault.Owner{}
	if e != nil {
		owner = vault.Of(e.Scope)
	}
	kept := make(map[string]*keep.Host)
	for after, more := "", true; more; {
		page, rest, err := m.cfg.Keeper.List(ctx, owner, after, 0)
		if err != nil {
			return nil, err
		}
		for _, h := range page {
			kept[h.Host], after = h, h.Host
		}
		more = rest && len(page) > 0
	}
	return m.listed(ctx, e, kept), nil
}

// listed makes the list of hosts, stored or not. A tenant whose TLS does not end here has only what is stored.
func (m *Manager) listed(ctx context.Context, e *tenant.Entry, kept map[string]*keep.Host) []tenant.Certificate {
	hosts := m.hostsOf(e)
	if e == nil && !m.cfg.Wildcard && kept[m.wildHost] != nil {
		hosts = append(hosts, m.wildHost)
	}
	list := make([]tenant.Certificate, 0, len(hosts))
	for _, host := range hosts {
		if e != nil && e.Record.Mode == tenant.ModePassthrough && kept[host] == nil {
			continue
		}
		c := m.status(ctx, host, m.cfg.planFor(host, e), kept[host])
		c.Chain = ""
		list = append(list, c)
	}
	return list
}

// Get returns one of them, with its chain.
func (m *Manager) Get(ctx context.Context, e *tenant.Entry, host string) (tenant.Certificate, error) {
	host, p, err := m.owned(e, host)
	if err != nil {
		return tenant.Certificate{}, err
	}
	h, err := m.cfg.Keeper.Load(ctx, p.owner, host)
	switch {
	case isNotFound(err):
		h = nil
	case isDamaged(err):
		h = &keep.Host{Host: host, Order: keep.Order{Code: keep.CodeDamaged, Error: "the record is damaged: import, renew or remove it"}}
	case err != nil:
		return tenant.Certificate{}, err
	}
	return m.status(ctx, host, p, h), nil
}

// Import provides a certificate for a host. It is served there as long as it is valid, whatever the source. ifRevision 0 =
// whatever is there.
func (m *Manager) Import(ctx context.Context, e *tenant.Entry, host string, chain, key []byte, ifRevision int64, entry audit.Entry) (tenant.Certificate, error) {
	host, p, err := m.owned(e, host)
	if err != nil {
		return tenant.Certificate{}, err
	}
	given, err := parsePair(chain, key, m.cfg.Now())
	if err != nil {
		return tenant.Certificate{}, err
	}
	if err := checkHost(given.chain[0], host); err != nil {
		return tenant.Certificate{}, err
	}
	return m.change(ctx, host, p, ifRevision, entry, func(h *keep.Host, now time.Time) error {
		if err := given.fill(h); err != nil {
			return err
		}
		h.Source = tenant.SourceProvided
		if m.cfg.OCSP && offersOCSP(given.chain) {
			h.OCSPAt = now
		}
		return nil
	})
}

// change edits a host's record, sets its mark and records it. With ifRevision 0, who was overtaken edits anew.
func (m *Manager) change(ctx context.Context, host string, p plan, ifRevision int64, entry audit.Entry, edit func(h *keep.Host, now time.Time) error, fences ...vault.Lock) (tenant.Certificate, error) {
	for turn := 1; ; turn++ {
		h, err := m.changeOnce(ctx, host, p, ifRevision, entry, edit, fences)
		if ifRevision == 0 && fault.Is(err, fault.PreconditionFailed) && turn < turns {
			continue
		}
		if err != nil {
			return tenant.Certificate{}, err
		}
		m.changed(host, p)
		return m.status(ctx, host, p, h), nil
	}
}

// changed makes a change of this replica's be seen at its next handshake.
func (m *Manager) changed(host string, p plan) {
	m.slot(host).Add(1)
	m.troubles.Remove(name(p.owner, host))
	m.board.release(name(p.owner, host))
	poke(m.board.wake)
}

func (m *Manager) changeOnce(ctx context.Context, host string, p plan, ifRevision int64, entry audit.Entry, edit func(h *keep.Host, now time.Time) error, fences []vault.Lock) (*keep.Host, error) {
	h, rev, err := m.loadOrNew(ctx, host, p)
	if err != nil {
		return nil, err
	}
	if h.Revision == 0 && rev != nil {
		if err := m.room(ctx, p); err != nil {
			return nil, err
		}
	}
	if ifRevision != 0 {
		if rev != nil && *rev != ifRevision {
			return nil, fault.New(fault.PreconditionFailed, "the certificate of %s was changed meanwhile: read it again", host)
		}
		rev = &ifRevision
	}
	now, was := m.cfg.Now(), h.Order.Next
	if err := edit(h, now); err != nil {
		return nil, err
	}
	h.Order.Next = mark(nextLook(h, p, now))
	err = m.cfg.Keeper.Save(ctx, p.owner, h, keep.SaveOptions{IfRevision: rev, Fences: fences, WasDue: was, Due: h.Order.Next, Audit: &entry})
	return h, err
}

// ImportFile provides a certificate for each host of the tenant, or of the platform, that its leaf covers, and returns them.
// entry is of certificates as such; the record of each host names it. A host whose certificate was revoked does not get the
// same one again, by files that still hold it.
// Where it is there already nothing is changed, so that every replica may do it.
func (m *Manager) ImportFile(ctx context.Context, e *tenant.Entry, chain, key []byte, entry audit.Entry) (hosts []string, err error) {
	given, err := parsePair(chain, key, m.cfg.Now())
	if err != nil {
		return nil, err
	}
	of := m.hostsOf(e)
	if e == nil && m.wildHost != "" && !m.cfg.Wildcard {
		of = append(of, m.wildHost)
	}
	var failed []error
	covered := false
	for _, host := range of {
		if !covers(given.chain[0], host) {
			continue
		}
		covered = true
		taken, err := m.importOne(ctx, e, host, given, chain, key, entry)
		switch {
		case err != nil:
			failed = append(failed, fmt.Errorf("%s: %w", host, err))
		case taken:
			hosts = append(hosts, host)
		default:
			m.cfg.Logger.Warn("a certificate file still holds the certificate that was revoked: it is not served", "host", host)
		}
	}
	if !covered {
		return nil, fault.New(fault.Invalid, "the certificate is for %s: none of that is a host of this tenant", names(given.chain[0]))
	}
	return hosts, errors.Join(failed...)
}

// importOne reports false for a certificate that was revoked.
func (m *Manager) importOne(ctx context.Context, e *tenant.Entry, host string, given *pair, chain, key []byte, entry audit.Entry) (bool, error) {
	host, p, err := m.owned(e, host)
	if err != nil {
		return false, err
	}
	h, _, err := m.loadOrNew(ctx, host, p)
	if err != nil {
		return false, err
	}
	if h.Source == tenant.SourceProvided && h.Fingerprint == fingerprint(given.chain[0].Raw) {
		return h.Revoked.IsZero(), nil
	}
	entry.ID = audit.NewID() // each is a change of its own
	entry.Resource += "/" + host
	_, err = m.Import(ctx, e, host, chain, key, 0, entry)
	return true, err
}

// Renew has a new certificate made as soon as may be. Where the issuer asked for patience, so does the error.
func (m *Manager) Renew(ctx context.Context, e *tenant.Entry, host string, entry audit.Entry) (tenant.Certificate, error) {
	host, p, err := m.owned(e, host)
	if err != nil {
		return tenant.Certificate{}, err
	}
	return m.change(ctx, host, p, 0, entry, func(h *keep.Host, now time.Time) error {
		switch {
		case p.passed:
			return fault.New(fault.Conflict, "TLS of %s ends at the tenant's own gateway: have the certificate renewed there", host)
		case usable(h, now) && h.Source == tenant.SourceProvided:
			return fault.New(fault.Conflict, "the certificate of %s was provided: provide a newer one, or remove it", host)
		case p.ordered:
			return force(h, now)
		case m.wildcardFor(ctx, p, now) != nil:
			return sharedWildcard(host, "renew")
		case p.source == tenant.SourceLocalCA:
			h.Order.Last = now // a change of the record is what replicas make a new one by
			return nil
		}
		return notOrdered(host, p)
	})
}

func force(h *keep.Host, now time.Time) error {
	if leftAlone(h, now) {
		return fault.New(fault.RateLimited, "the issuer asked to be left alone until %s", day(h.Order.Next)).After(h.Order.Next.Sub(now))
	}
	h.Order.Forced, h.Order.Next = true, now
	return nil
}

// sharedWildcard refuses to renew or to revoke for one host what is served to all tenants.
func sharedWildcard(host, verb string) error {
	return fault.New(fault.Conflict, "%s is served with the platform's wildcard certificate, which operators %s", host, verb)
}

func notOrdered(host string, p plan) error {
	switch {
	case p.wild && p.source == tenant.SourceACME:
		return sharedWildcard(host, "renew")
	case p.source == tenant.SourceProvided:
		return fault.New(fault.Conflict, "certificates of %s are provided: provide a newer one", host)
	}
	return fault.New(fault.Conflict, "no certificate is ordered for %s here", host)
}

// Remove takes back a certificate that was provided; then the source's is served. ifRevision 0 = whatever is there.
func (m *Manager) Remove(ctx context.Context, e *tenant.Entry, host string, ifRevision int64, entry audit.Entry) error {
	host, p, err := m.owned(e, host)
	if err != nil {
		return err
	}
	for turn := 1; ; turn++ {
		err := m.removeOnce(ctx, host, p, ifRevision, entry)
		if ifRevision == 0 && fault.Is(err, fault.PreconditionFailed) && turn < turns {
			continue
		}
		if err != nil {
			return err
		}
		m.changed(host, p)
		m.enqueue(host, e, p)
		return nil
	}
}

func (m *Manager) removeOnce(ctx context.Context, host string, p plan, ifRevision int64, entry audit.Entry) error {
	h, err := m.cfg.Keeper.Load(ctx, p.owner, host)
	rev := ifRevision
	switch {
	case isDamaged(err): // whose it was cannot be read any more
	case err != nil:
		return err
	case len(h.Chain) == 0:
		return fault.New(fault.NotFound, "no certificate was provided for %s", host)
	case h.Source != tenant.SourceProvided:
		return fault.New(fault.Conflict, "the certificate of %s was ordered by the gateway, not provided: renew or revoke it", host)
	case rev == 0:
		rev = h.Revision
	}
	return m.cfg.Keeper.Remove(ctx, p.owner, host, rev, &entry)
}
