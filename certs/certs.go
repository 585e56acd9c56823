// Package certs answers a TLS handshake with the certificate of the server name that it asks for: from memory, else from the
// sources in turn, the last of which is the platform's local authority. It gives out nothing for a name that no tenant has.
// ACME comes through certmagic as one more Source in the same place; who owns which name is decided by the registry's index.
package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

// The reasons for which a handshake is refused.
var (
	ErrNoName      = errors.New("certs: the handshake names no host (SNI), or an address")
	ErrUnknownHost = errors.New("certs: no tenant has this host")
	ErrNotOpen     = errors.New("certs: Open has not succeeded yet")
)

// ErrNotMine is a Source's answer for a host that it does not serve: the next one is asked.
var ErrNotMine = errors.New("certs: not a host of this source")

// Source provides the certificates of some hosts, such as those that an ACME account may ask for.
type Source interface {
	// Certificate returns a valid certificate for host, which is known and in lower case, or ErrNotMine. It is asked
	// once for all handshakes that wait, and again when a third of the certificate's life is left. ctx ends with the
	// time that one handshake may take, not with that handshake.
	Certificate(ctx context.Context, host string) (*tls.Certificate, error)
}

// Manager holds the certificates. It is safe for concurrent use and runs nothing of its own.
type Manager struct {
	cfg   Config
	extra map[string]bool
	ca    atomic.Pointer[authority] // nil until Open
	admin atomic.Pointer[resident]  // certificate of the operators' listener
	cache *lru.Cache[string, *resident]
	group singleflight.Group // one issuance per host at a time
}

// resident is a certificate in memory.
type resident struct {
	cert  *tls.Certificate
	renew time.Time // from when on a handshake gets a new one
}

// sourceTimeout bounds what a source may take for one certificate.
const sourceTimeout = time.Minute

// New checks cfg and returns a Manager, which serves once Open has succeeded.
func New(cfg Config) (*Manager, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cache, err := lru.New[string, *resident](cfg.Resident)
	if err != nil {
		return nil, fmt.Errorf("certs: %w", err)
	}
	m := &Manager{cfg: cfg, extra: make(map[string]bool), cache: cache}
	for _, h := range cfg.ExtraHosts {
		m.extra[strings.ToLower(h)] = true
	}
	return m, nil
}

// Open reads the local authority from the store, or makes it at the platform's first start. Replicas that start at once
// agree on one.
func (m *Manager) Open(ctx context.Context) error {
	ca, err := openAuthority(ctx, m.cfg.Store, m.cfg.Wrapper, m.cfg.Now())
	if err != nil {
		return err
	}
	m.ca.Store(ca)
	return nil
}

// RootPEM returns the certificate of the local authority, for clients to trust; nil before Open.
func (m *Manager) RootPEM() []byte {
	ca := m.ca.Load()
	if ca == nil {
		return nil
	}
	return ca.pem()
}

// GetCertificate is for tls.Config. Known is asked first, for what is in memory too: a host that was taken from a tenant
// ends with the next handshake. An unknown name costs no issuance, or anyone could have the gateway sign without end.
func (m *Manager) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := strings.ToLower(hello.ServerName) // DNS names are compared without case (RFC 6066 §3)
	if host == "" || len(host) > 253 || isAddress(host) {
		return nil, ErrNoName
	}
	if !m.extra[host] && !m.known(host) {
		m.cache.Remove(host)
		return nil, ErrUnknownHost
	}
	if r, ok := m.cache.Get(host); ok && m.cfg.Now().Before(r.renew) {
		return r.cert, nil
	}
	r, err := m.once(hello, host, func() (*resident, error) { return m.obtain(host) })
	if err != nil {
		return nil, err
	}
	return r.cert, nil
}

func (m *Manager) known(host string) bool { _, ok := m.cfg.Lookup(host); return ok }

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

// once runs make for all handshakes of one key that wait, and lets each wait only as long as its own context. make runs in a
// goroutine of its own, where a panic would end the process: it becomes an error.
func (m *Manager) once(hello *tls.ClientHelloInfo, key string, make func() (*resident, error)) (*resident, error) {
	ch := m.group.DoChan(key, func() (_ any, err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("certs: panic: %v", r)
			}
		}()
		return make()
	})
	var gone <-chan struct{}
	if ctx := hello.Context(); ctx != nil { // nil outside a handshake
		gone = ctx.Done()
	}
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*resident), nil
	case <-gone:
		return nil, context.Cause(hello.Context())
	}
}

// obtain asks the sources for a host's certificate, then the local authority, and keeps what it gets. If a renewal fails
// while the certificate in memory is still good, that one stays.
func (m *Manager) obtain(host string) (*resident, error) {
	old, ok := m.cache.Get(host)
	if ok && m.cfg.Now().Before(old.renew) {
		return old, nil // another handshake was quicker
	}
	ctx, cancel := context.WithTimeout(context.Background(), sourceTimeout) // not of the handshake: others wait too
	defer cancel()
	cert, err := m.ask(ctx, host)
	if err != nil {
		if ok && m.cfg.Now().Before(old.cert.Leaf.NotAfter) {
			return old, nil
		}
		return nil, fmt.Errorf("certs: certificate of %s: %w", host, err)
	}
	r := newResident(cert)
	m.cache.Add(host, r)
	return r, nil
}

func (m *Manager) ask(ctx context.Context, host string) (*tls.Certificate, error) {
	for _, s := range []Source{} {
		cert, err := s.Certificate(ctx, host)
		if errors.Is(err, ErrNotMine) {
			continue
		}
		if err == nil && cert.Leaf == nil {
			err = errors.New("the source gave no parsed leaf")
		}
		return cert, err
	}
	return m.issue([]string{host}, nil)
}

// issue makes a certificate of the local authority.
func (m *Manager) issue(names []string, addrs []netip.Addr) (*tls.Certificate, error) {
	ca := m.ca.Load()
	if ca == nil {
		return nil, ErrNotOpen
	}
	return ca.issue(names, addrs, m.cfg.LeafLife, m.cfg.Now())
}

// newResident is renewed when a third of its life is left.
func newResident(cert *tls.Certificate) *resident {
	life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	return &resident{cert: cert, renew: cert.Leaf.NotAfter.Add(-life / 3)}
}

// AdminCertificate is for the tls.Config of the operators' listener. That is reached under its address as often as by name,
// so one certificate has all of them, and no server name is asked for.
func (m *Manager) AdminCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if r := m.admin.Load(); r != nil && m.cfg.Now().Before(r.renew) {
		return r.cert, nil
	}
	r, err := m.once(hello, "", func() (*resident, error) { // no host is empty
		cert, err := m.issue(m.adminNames())
		if err != nil {
			return nil, err
		}
		r := newResident(cert)
		m.admin.Store(r)
		return r, nil
	})
	if err != nil {
		return nil, err
	}
	return r.cert, nil
}

func (m *Manager) adminNames() (names []string, addrs []netip.Addr) {
	names = []string{"localhost"}
	addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, h := range m.cfg.AdminHosts {
		if a, err := netip.ParseAddr(h); err == nil {
			addrs = append(addrs, a.Unmap())
		} else {
			names = append(names, strings.ToLower(h))
		}
	}
	return names, addrs
}
