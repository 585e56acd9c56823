package certs

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// acmeALPN is the protocol of the tls-alpn-01 challenge (RFC 8737).
const acmeALPN = "acme-tls/1"

// wildKey is where the wildcard is in memory: no name that a client can send, which could drop it from there.
const wildKey = "\x00*"

const (
	loadTimeout  = 5 * time.Second        // of one read, for all handshakes that wait
	patience     = 250 * time.Millisecond // of a handshake that could be served what is in memory
	retryLoad    = 5 * time.Second        // after a read that failed, while what is in memory is served
	recheckNone  = 30 * time.Second       // of a host without a certificate; a change that is seen makes it earlier
	recheckError = time.Second            // of a host whose read failed, with nothing to serve meanwhile
	slots        = 1 << 14                // of change counters; a power of two
)

// served is a certificate in memory. It holds no parsed leaf: a server needs none for a handshake, and it is most of what a
// certificate would cost.
type served struct {
	cert                *tls.Certificate
	notBefore, notAfter time.Time
	serial              string
	provided            bool // and not ordered, or signed here
}

// resident is what is in memory of a host: a certificate, or that there is none. It is immutable.
type resident struct {
	*served                // nil = there is none
	why     error          // why there is none
	entry   *tenant.Entry  // as of which it was chosen
	plan    plan           //
	local   bool           // signed by the local authority here
	shared  bool           // the wildcard's
	rev     int64          // of the record by which it was signed, if local
	slot    *atomic.Uint32 // counts changes of the host's record
	gen     uint32         // what slot was before the record was read
	wildGen uint32         // the same of the wildcard's record
	epoch   uint32         // the same of all records
	check   time.Time      // until when nothing is asked
}

// slot returns a host's change counter. Hosts that share one cause each other a needless read.
func (m *Manager) slot(host string) *atomic.Uint32 {
	return &m.changes[maphash.String(m.seed, host)&(slots-1)]
}

// GetCertificate is for tls.Config. Who owns the host is asked first, for what is in memory too: a host that was taken from a
// tenant ends with the next handshake. An unknown name costs no read and no signature. No handshake waits for an issuer.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName) // DNS names are compared without case (RFC 6066 §3)
	if host == "" || len(host) > 253 || isAddress(host) {
		return nil, ErrNoName
	}
	e, ok := m.lookup(host)
	if !ok {
		m.cache.Remove(host)
		return nil, ErrUnknownHost
	}
	if isChallenge(hello) {
		return m.challenge(hello, host, e)
	}
	now := m.cfg.Now()
	r, ok := m.cache.Get(host)
	if ok && r.entry == e && m.fresh(r, now) {
		return r.answer()
	}
	return m.refresh(hello, host, e, r, now)
}

// lookup returns the owner of a host; nil is the platform.
func (m *Manager) lookup(host string) (*tenant.Entry, bool) {
	if m.extra[host] {
		return nil, true
	}
	return m.cfg.Lookup(host)
}

// isAddress says whether a name is an IP address, which SNI must not hold (RFC 6066 §3): it has a colon, or its last label
// is a number.
func isAddress(host string) bool {
	if strings.Contains(host, ":") {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	for i := range len(last) {
		if last[i] < '0' || last[i] > '9' {
			return false
		}
	}
	return true
}

func isChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeALPN
}

// fresh says whether nothing that the resident was chosen by has changed, but for its entry.
func (m *Manager) fresh(r *resident, now time.Time) bool {
	return now.Before(r.check) && r.slot.Load() == r.gen && m.epoch.Load() == r.epoch && (!r.plan.wild || m.wildSlot.Load() == r.wildGen)
}

func (r *resident) answer() (*tls.Certificate, error) {
	if r.served == nil {
		return nil, r.why
	}
	return r.cert, nil
}

// serves says whether the resident may be served to a host of an owner, though something may have changed since.
func (r *resident) serves(p plan, now time.Time) bool {
	return r != nil && r.served != nil && r.plan.owner == p.owner && now.Before(r.notAfter)
}

// refresh answers a handshake for which memory has nothing that is known to be current; r is what it has, or nil.
func (m *Manager) refresh(hello *tls.ClientHelloInfo, host string, e *tenant.Entry, r *resident, now time.Time) (*tls.Certificate, error) {
	p := m.cfg.planFor(host, e)
	if r != nil && r.plan == p && m.fresh(r, now) { // the record changed in something else
		c := *r
		c.entry = e
		m.cache.Add(host, &c)
		return c.answer()
	}
	if !r.serves(p, now) {
		r = nil
	}
	got, err := m.once(hello, host+"\x00"+p.owner.Scope().UID(), r, func() (*resident, error) { return m.obtain(host, e, p) })
	if err != nil {
		return nil, err
	}
	return got.answer()
}

// once runs get for all handshakes of one key that wait, and lets each wait only as long as its own context, or as its
// patience if it has an old certificate to go with. get runs in a goroutine of its own, where a panic would end the process:
// it becomes an error.
func (m *Manager) once(hello *tls.ClientHelloInfo, key string, old *resident, get func() (*resident, error)) (*resident, error) {
	ch := m.group.DoChan(key, func() (_ any, err error) {
		defer caught(&err)
		return get()
	})
	var gone <-chan struct{}
	if ctx := hello.Context(); ctx != nil { // nil outside a handshake
		gone = ctx.Done()
	}
	var tired <-chan time.Time
	if old != nil {
		t := time.NewTimer(patience)
		defer t.Stop()
		tired = t.C
	}
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*resident), nil
	case <-tired:
		return old, nil
	case <-gone:
		return nil, context.Cause(hello.Context())
	}
}

// caught makes a panic an error.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("certs: panic: %v", r)
	}
}

// obtain chooses a host's certificate and keeps it in memory. If what is stored cannot be read while the certificate in memory
// is good, that one stays.
func (m *Manager) obtain(host string, e *tenant.Entry, p plan) (*resident, error) {
	old, _ := m.cache.Peek(host)
	now := m.cfg.Now()
	if old != nil && old.entry == e && m.fresh(old, now) {
		return old, nil // another handshake was quicker
	}
	if !old.serves(p, now) {
		old = nil
	}
	r := &resident{entry: e, plan: p, slot: m.slot(host), epoch: m.epoch.Load(), wildGen: m.wildSlot.Load()}
	r.gen = r.slot.Load()
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout) // not of the handshake: others wait too
	defer cancel()
	if err := m.choose(ctx, host, r, old, now); err != nil {
		m.cfg.Logger.Warn("a certificate cannot be read", "host", host, "tenant", p.owner.Segment(), "error", err, "served", old != nil)
		r.check = now.Add(recheckError)
		r.why = fmt.Errorf("certs: certificate of %s: %w", host, err)
		if old != nil {
			r.served, r.local, r.shared, r.rev, r.check = old.served, old.local, old.shared, old.rev, now.Add(retryLoad)
		}
	}
	m.cache.Add(host, r)
	return r, nil
}

// choose fills in r: what is stored for the host, else the wildcard, else what the source gives. The error is that of a read;
// where the local authority is the source, it signs in spite of it.
func (m *Manager) choose(ctx context.Context, host string, r, old *resident, now time.Time) error {
	if s := m.unsavedFor(host, r.plan, now); s != nil {
		return r.take(s, now.Add(retryLoad))
	}
	h, err := m.stored(ctx, host, r.plan)
	if h != nil && overdue(h, r.plan, now) {
		m.enqueue(host, r.entry, r.plan)
	}
	if h != nil && usable(h, now) && (h.Source == tenant.SourceProvided || h.Source == r.plan.source) {
		return m.takeStored(r, h, now)
	}
	if r.plan.wild {
		w := m.wildcard(ctx)
		if w.serves(plan{}, now) {
			r.shared = true
			return r.take(w.served, w.check)
		}
		if err == nil && (w == nil || !errors.Is(w.why, ErrNone)) {
			err = errWildcard // there may be one
		}
	}
	switch {
	case r.plan.source == tenant.SourceLocalCA:
		return m.sign(host, r, old, h, err, now)
	case err != nil:
		m.heal(host, r, err)
		return err
	case h != nil && usable(h, now): // of a source that was given up for one that has none
		return m.takeStored(r, h, now)
	}
	r.why, r.check = m.absent(host, r), now.Add(recheckNone)
	return nil
}

// take serves s until it is looked at again.
func (r *resident) take(s *served, check time.Time) error {
	r.served, r.check = s, check
	return nil
}

// stored returns the host's record, nil if there is none.
func (m *Manager) stored(ctx context.Context, host string, p plan) (*keep.Host, error) {
	if m.cfg.Keeper == nil {
		return nil, nil
	}
	h, err := m.cfg.Keeper.Load(ctx, p.owner, host)
	if isNotFound(err) {
		return nil, nil
	}
	return h, err
}

// takeStored serves what is stored.
func (m *Manager) takeStored(r *resident, h *keep.Host, now time.Time) error {
	s, err := m.decode(h)
	if err != nil {
		return err
	}
	check := h.NotAfter
	if now.Before(h.OCSPUntil) {
		s.cert.OCSPStaple = h.OCSP
		check = earliest(check, h.OCSPUntil)
	}
	return r.take(s, check)
}

// decode makes a stored certificate ready to be served. Intermediates are shared: ten thousand certificates have a handful.
func (m *Manager) decode(h *keep.Host) (*served, error) {
	list, err := blocks("the stored chain", h.Chain)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(list[0].Bytes)
	if err != nil {
		return nil, fmt.Errorf("the stored leaf: %w: %w", vault.ErrDamaged, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(h.Key)
	if err != nil {
		return nil, fmt.Errorf("the stored key: %w", vault.ErrDamaged)
	}
	cert := &tls.Certificate{PrivateKey: key, Certificate: make([][]byte, len(list))}
	for i, b := range list {
		cert.Certificate[i] = b.Bytes
		if i > 0 {
			cert.Certificate[i] = m.shared(b.Bytes)
		}
	}
	if k, ok := key.(crypto.Signer); !ok || !samePublic(k.Public(), leaf.PublicKey) {
		return nil, fmt.Errorf("chain and key do not belong together: %w", vault.ErrDamaged)
	}
	return &served{cert: cert, notBefore: h.NotBefore, notAfter: h.NotAfter, serial: leaf.SerialNumber.Text(16), provided: h.Source == tenant.SourceProvided}, nil
}

// shared returns the one copy of an intermediate.
func (m *Manager) shared(der []byte) []byte {
	if known, ok, _ := m.issuers.PeekOrAdd(string(der), der); ok {
		return known
	}
	return der
}

// sign has the local authority make a certificate, which is kept in memory alone. The one in memory stays until its time, or
// until somebody asked for a new one. failed is why it is not known whether something is stored: then that is looked at soon.
func (m *Manager) sign(host string, r, old *resident, h *keep.Host, failed error, now time.Time) error {
	fresh := old != nil && old.local && now.Before(warnAt(old.notBefore, old.notAfter)) && (failed != nil || old.rev == revision(h))
	if failed != nil && old != nil && !fresh && !old.local {
		return failed // the old one is a stored one: better than another issuer's
	}
	if fresh {
		r.served, r.rev = old.served, old.rev
	} else {
		cert, err := m.issue([]string{host}, nil)
		if err != nil {
			return err
		}
		r.served, r.rev = ownServed(cert), revision(h)
	}
	r.local, r.check = true, warnAt(r.notBefore, r.notAfter)
	if failed != nil {
		m.cfg.Logger.Warn("a certificate cannot be read, so the local authority's is served", "host", host, "error", failed)
		r.check = earliest(r.check, now.Add(retryLoad))
	}
	return nil
}

// revision of a record; 0 = there is none.
func revision(h *keep.Host) int64 {
	if h == nil {
		return 0
	}
	return h.Revision
}

// ownServed takes over a certificate that was made here.
func ownServed(cert *tls.Certificate) *served {
	leaf := cert.Leaf
	cert.Leaf = nil
	return &served{cert: cert, notBefore: leaf.NotBefore, notAfter: leaf.NotAfter, serial: leaf.SerialNumber.Text(16)}
}

// absent says why a host has no certificate, and puts it on the queue if one is to be ordered.
func (m *Manager) absent(host string, r *resident) error {
	switch {
	case r.plan.ordered:
		m.enqueue(host, r.entry, r.plan)
		return ErrPending
	case r.plan.source == tenant.SourceACME && r.plan.wild && m.cfg.Wildcard && m.cfg.ACME != nil:
		m.enqueue(m.wildHost, nil, m.cfg.planFor(m.wildHost, nil))
		return ErrPending
	}
	return ErrNone
}

// wildcardFor returns the platform's wildcard if it is good for a host of the plan; nil = it is not, or there is none.
func (m *Manager) wildcardFor(ctx context.Context, p plan, now time.Time) *served {
	if !p.wild {
		return nil
	}
	if w := m.wildcard(ctx); w.serves(plan{}, now) {
		return w.served
	}
	return nil
}

// wildcard returns the platform's certificate for the hosts under the base domain; one without a certificate if there is none.
func (m *Manager) wildcard(ctx context.Context) *resident {
	now := m.cfg.Now()
	if r, ok := m.cache.Get(wildKey); ok && m.fresh(r, now) {
		return r
	}
	ch := m.group.DoChan(wildKey, func() (_ any, err error) {
		defer caught(&err)
		return m.loadWildcard(now)
	})
	select {
	case res := <-ch:
		if r, ok := res.Val.(*resident); ok {
			return r
		}
	case <-ctx.Done():
	}
	return nil
}

func (m *Manager) loadWildcard(now time.Time) (*resident, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	old, _ := m.cache.Peek(wildKey)
	p := m.cfg.planFor(m.wildHost, nil)
	r := &resident{plan: p, slot: m.wildSlot, gen: m.wildSlot.Load(), epoch: m.epoch.Load(), check: now.Add(recheckNone), why: ErrNone}
	h, err := m.stored(ctx, m.wildHost, p)
	if s := m.unsavedFor(m.wildHost, p, now); s != nil {
		_ = r.take(s, now.Add(retryLoad))
		h, err = nil, nil
	}
	if h != nil && usable(h, now) {
		err = m.takeStored(r, h, now)
	}
	if err != nil {
		r.check, r.why = now.Add(recheckError), errWildcard
		if old.serves(p, now) {
			r.served, r.check = old.served, now.Add(retryLoad)
		}
		m.cfg.Logger.Warn("the wildcard certificate cannot be read", "host", m.wildHost, "error", err, "served", r.served != nil)
	}
	m.cache.Add(wildKey, r)
	return r, nil
}

// heal has a certificate ordered anew whose record is damaged.
func (m *Manager) heal(host string, r *resident, err error) {
	if r.plan.ordered && errors.Is(err, vault.ErrDamaged) {
		m.enqueue(host, r.entry, r.plan)
	}
}

// Changed is to be called with each change of what is kept, of this replica and of others; owner "" = anything may have
// changed. What is in memory of it is read again with the next handshake. It does not block.
func (m *Manager) Changed(owner, key string) {
	if owner == "" {
		m.epoch.Add(1)
		m.ticketsChanged()
		return
	}
	if host, ok := keep.HostOf(key); ok {
		m.slot(host).Add(1)
	}
	if keep.IsTickets(owner, key) {
		m.ticketsChanged()
	}
}
