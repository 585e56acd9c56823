package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
)

// PeerConfig is what a Server among others is made with.
type PeerConfig struct {
	// Listener takes the connections of the other replicas. Required. Run closes it.
	Listener net.Listener
	Identity PeerIdentity // required
	Locate   Locator      // required
	// Address returns where a live replica listens for the others; for calls. Required.
	Address func(replica string) (address string, ok bool)
	// Changed is closed when Address may answer otherwise: what is forwarded to a replica that is not live any more ends then.
	// nil = it ends when the connection does.
	Changed func() <-chan struct{}
	// Handlers answer calls of other replicas, by the names of package peer. A name that is not there is not known.
	Handlers map[string]peer.Handler
	// AwaitRecords returns once the Directory holds every change of records up to a revision of theirs, after a bounded time or
	// when ctx ends: what the replica that forwards a request knew of its tenant is known here before it is judged again.
	// nil = nobody waits.
	AwaitRecords func(ctx context.Context, revision int64)
	// Wait is how long a request waits while its tenant is on its way from one replica to another. 0 = 2s.
	Wait time.Duration
	// Dial connects to other replicas; nil = a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// PeerIdentity is who this replica is among the others. It is safe for concurrent use; each answer is immutable.
type PeerIdentity interface {
	// Certificate returns the replica's own, which names it by peer.URI and peer.ServerName. It is asked for each handshake.
	Certificate() (*tls.Certificate, error)
	// Roots returns who vouches for replicas.
	Roots() *x509.CertPool
	// Changed is closed when Certificate or Roots answer otherwise.
	Changed() <-chan struct{}
}

// Locator says where a tenant is served, from memory. It is safe for concurrent use and must not block.
type Locator interface {
	Locate(s tenant.Scope) Location
}

// Location is where a tenant is served.
type Location struct {
	Self    bool   // here: by claim, or since it is this replica's to claim
	Replica string // else by this one
	Address string // at which it listens for peers
	Moving  bool   // nobody can be asked at the moment
	// Changed is closed when it may be worth while to ask again; nil = never.
	Changed <-chan struct{}
}

// Owners says on which replica a path of a tenant's surface can be served. The Gateways of a Server among others implement
// it. Paths that it does not know are exchange.OwnerAny: they are refused alike everywhere.
type Owners interface {
	Owner(e *tenant.Entry, method, path string) exchange.Owner
}

// defaultPeerWait is PeerConfig.Wait where it is not set.
const defaultPeerWait = 2 * time.Second

// check says what a PeerConfig lacks.
func (p *PeerConfig) check(c *Config) error {
	switch {
	case p.Listener == nil:
		return errors.New("proxy: PeerConfig.Listener is missing")
	case p.Identity == nil:
		return errors.New("proxy: PeerConfig.Identity is missing")
	case p.Locate == nil:
		return errors.New("proxy: PeerConfig.Locate is missing")
	case p.Address == nil:
		return errors.New("proxy: PeerConfig.Address is missing")
	case p.Wait < 0 || p.Wait > time.Minute:
		return errors.New("proxy: PeerConfig.Wait is to be 0 to 1m")
	case c.Replica == "":
		return errors.New("proxy: Config.Replica is missing: a replica among others needs its name")
	}
	if _, ok := c.Gateways.(Owners); !ok {
		return errors.New("proxy: Config.Gateways does not say where routes are served (Owners)")
	}
	return nil
}
