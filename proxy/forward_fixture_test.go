package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
)

// Owner implements Owners: what lies under /any is served anywhere.
func (g *gateways) Owner(_ *tenant.Entry, _, path string) exchange.Owner {
	if strings.HasPrefix(path, "/any") {
		return exchange.OwnerAny
	}
	return exchange.OwnerRequired
}

// authority vouches for replicas.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	i := newIssuer(t)
	a := &authority{t: t, cert: i.cert, key: i.key, pool: x509.NewCertPool()}
	a.pool.AddCert(a.cert)
	return a
}

// issue makes the certificate of a replica; each edit changes it.
func (a *authority) issue(name string, edits ...func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		URIs: []*url.URL{peer.URI(name)}, DNSNames: []string{peer.ServerName(name)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, edit := range edits {
		edit(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// identity is a PeerIdentity that tests change.
type identity struct {
	mu      sync.Mutex
	cert    *tls.Certificate
	roots   *x509.CertPool
	changed chan struct{}
}

func (i *identity) Certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.cert, nil
}

func (i *identity) Roots() *x509.CertPool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.roots
}

func (i *identity) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changed
}

func (i *identity) set(cert *tls.Certificate, roots *x509.CertPool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert, i.roots = cert, roots
	close(i.changed)
	i.changed = make(chan struct{})
}

// owners says where each tenant is, to all replicas alike.
type owners struct {
	mu      sync.Mutex
	of      map[tenant.ID]string // "" = it is moving
	changed chan struct{}
	address map[string]string
}

func (o *owners) set(id tenant.ID, replica string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of[id] = replica
	close(o.changed)
	o.changed = make(chan struct{})
}

// at says where a replica listens.
func (o *owners) at(replica, address string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.address[replica] = address
}

// gone says that a replica is not live any more.
func (o *owners) gone(replica string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.address, replica)
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *owners) change() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

func (o *owners) addressOf(replica string) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.address[replica]
	return a, ok
}

func (o *owners) owner(id tenant.ID) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.of[id]
}

// locator is a replica's view of owners; believes overrides it.
type locator struct {
	*owners
	self string

	bm       sync.Mutex
	believes map[tenant.ID]string
}

func (l *locator) believe(id tenant.ID, replica string) {
	l.bm.Lock()
	defer l.bm.Unlock()
	l.believes[id] = replica
}

func (l *locator) Locate(s tenant.Scope) Location {
	l.bm.Lock()
	r, ok := l.believes[s.ID()]
	l.bm.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok {
		r = l.of[s.ID()]
	}
	return Location{Self: r == l.self, Replica: r, Address: l.address[r], Moving: r == "", Changed: l.changed}
}

// replica is a front among others.
type replica struct {
	*front
	name     string
	locator  *locator
	identity *identity
	peerAddr string
}

// cluster is some fronts that know each other. team-a is at r0, team-b at r1.
type cluster struct {
	owners    *owners
	authority *authority
	r         []*replica
}

func newCluster(t testing.TB, n int, edits ...func(*Config)) *cluster {
	t.Helper()
	c := &cluster{authority: newAuthority(t), owners: &owners{of: map[tenant.ID]string{"team-a": "r0", "team-b": "r1"},
		changed: make(chan struct{}), address: map[string]string{}}}
	for i := range n {
		r := &replica{name: fmt.Sprintf("r%d", i)}
		r.locator = &locator{owners: c.owners, self: r.name, believes: map[tenant.ID]string{}}
		r.identity = &identity{cert: c.authority.issue(r.name), roots: c.authority.pool, changed: make(chan struct{})}
		l := listen(t)
		r.peerAddr = l.Addr().String()
		c.owners.at(r.name, r.peerAddr)
		among := func(cfg *Config) {
			cfg.Replica = r.name
			cfg.Peers = &PeerConfig{Listener: l, Identity: r.identity, Locate: r.locator, Handlers: map[string]peer.Handler{},
				Address: c.owners.addressOf, Changed: c.owners.change}
		}
		r.front = newFront(t, append([]func(*Config){among}, edits...)...)
		r.gateways.decide = r.owned(c.owners, describe)
		c.r = append(c.r, r)
	}
	return c
}

type decider = func(context.Context, *tenant.Entry, *exchange.Request) (exchange.Decision, error)

// owned refuses, as a Mux does, what is another replica's. Its answers say who gave them.
func (r *replica) owned(o *owners, d decider) decider {
	return func(ctx context.Context, e *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
		if owner := o.owner(e.Record.ID); owner != r.name && r.gateways.Owner(e, req.Method, req.Path) == exchange.OwnerRequired {
			return nil, fault.Wrap(fault.Unavailable, &exchange.Elsewhere{Replica: owner}, "this tenant is elsewhere: try again").After(time.Second)
		}
		got, err := d(ctx, e, req)
		if reply, ok := got.(*exchange.Reply); ok {
			reply.Header = exchange.Header{"X-Served-By": {r.name}, "Content-Type": {"text/plain"}}
		}
		return got, err
	}
}
