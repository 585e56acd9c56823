// Package certs answers a TLS handshake with the certificate of the server name that it asks for: from memory, else from what
// is kept for all replicas, else from the platform's local authority, and has missing ones ordered meanwhile, never inside a
// handshake. It gives out nothing for a name that no tenant has. How an ACME server is spoken to is left to package acme, how
// keys are sealed and kept to package keep, and who owns which name to the registry's index.
package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/polygate/polygate/internal/vault"
)

// The reasons for which a handshake is refused.
var (
	ErrNoName      = errors.New("certs: the handshake names no host (SNI), or an address")
	ErrUnknownHost = errors.New("certs: no tenant has this host")
	ErrNotOpen     = errors.New("certs: Open has not succeeded yet")
	ErrPending     = errors.New("certs: the host has no certificate yet: it is being ordered, see its status")
	ErrNone        = errors.New("certs: nobody provided a certificate for the host, or it is over: import one")
	errWildcard    = errors.New("certs: the wildcard certificate cannot be read")
	ErrNoChallenge = errors.New("certs: no ACME challenge is open for the host")
)

// Manager holds the certificates. It is safe for concurrent use, and runs nothing but in Run.
type Manager struct {
	cfg        Config
	extra      map[string]bool
	extraHosts []string
	wildHost   string                    // *.<base domain>; "" = none
	ca         atomic.Pointer[authority] // nil until Open
	admin      atomic.Pointer[resident]  // certificate of the operators' listener
	cache      *lru.Cache[string, *resident]
	group      singleflight.Group         // one read or issuance per host at a time
	issuers    *lru.Cache[string, []byte] // intermediates, which certificates share

	seed     maphash.Seed
	changes  *[slots]atomic.Uint32 // of records, by the hash of their host
	wildSlot *atomic.Uint32        // of changes: the wildcard's
	epoch    atomic.Uint32         // counts times at which anything may have changed

	board      *board
	seen       *lru.Cache[string, plan] // hosts that were enqueued since their plan changed
	unsaved    sync.Map                 // host -> pending
	troubles   *lru.Cache[string, trouble]
	files      *lru.Cache[vault.Owner, string] // what is wrong with certificate files
	challenges chan struct{}                   // bounds answers to challenges in progress
	clients    *lru.Cache[string, client]
	ocsp       *http.Client
	ticketWake chan struct{}
}

const (
	sharedIssuers = 128  // intermediates that are shared
	maxTroubles   = 1024 // hosts with a trouble that is told of
	maxSeen       = 16384
	maxChallenges = 64
)

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
	m := &Manager{
		cfg: cfg, extra: make(map[string]bool), wildHost: cfg.wildcardHost(), cache: cache, seed: maphash.MakeSeed(), changes: new([slots]atomic.Uint32),
		board: newBoard(&cfg), challenges: make(chan struct{}, maxChallenges), ocsp: newOCSPClient(&cfg), ticketWake: make(chan struct{}, 1),
	}
	m.wildSlot = m.slot(m.wildHost)
	m.issuers, _ = lru.New[string, []byte](sharedIssuers) // these fail only for a size of 0
	m.seen, _ = lru.New[string, plan](maxSeen)
	m.troubles, _ = lru.New[string, trouble](maxTroubles)
	m.files, _ = lru.New[vault.Owner, string](maxTroubles)
	m.clients, _ = lru.New[string, client](residentClients)
	for _, h := range cfg.ExtraHosts {
		if h = strings.ToLower(h); !m.extra[h] {
			m.extra[h] = true
			m.extraHosts = append(m.extraHosts, h)
		}
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

// Run puts the platform's own hosts on the queue, orders and renews what is due, and hands out ticket keys, until ctx ends. It
// returns when everything that it started has ended.
func (m *Manager) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	if m.cfg.Keeper != nil {
		for _, host := range m.hostsOf(nil) {
			m.enqueue(host, nil, m.cfg.planFor(host, nil))
		}
		for range kickers {
			parts.Go(func() { m.kick(ctx) })
		}
		parts.Go(func() { m.poll(ctx) })
		if m.cfg.TicketKeys != nil {
			parts.Go(func() { m.tickets(ctx) })
		}
	}
	<-ctx.Done()
	parts.Wait()
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

// issue makes a certificate of the local authority.
func (m *Manager) issue(names []string, addrs []netip.Addr) (*tls.Certificate, error) {
	ca := m.ca.Load()
	if ca == nil {
		return nil, ErrNotOpen
	}
	return ca.issue(names, addrs, m.cfg.LeafLife, m.cfg.Now())
}

// AdminCertificate is for the tls.Config of the operators' listener. That is reached under its address as often as by name,
// so one certificate has all of them, and no server name is asked for.
func (m *Manager) AdminCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if r := m.admin.Load(); r != nil && m.cfg.Now().Before(r.check) {
		return r.cert, nil
	}
	r, err := m.once(hello, "", nil, func() (*resident, error) { // no host is empty
		cert, err := m.issue(m.adminNames())
		if err != nil {
			return nil, err
		}
		s := ownServed(cert)
		r := &resident{served: s, check: warnAt(s.notBefore, s.notAfter)}
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
