package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
)

// How a connection between replicas is used.
const (
	// peerStreams is how many requests one connection carries. With peerStreams windows of peerWindow fitting into that of the
	// connection, nobody who does not read, or whose handler does not, holds up another tenant's bytes.
	peerStreams = 256
	peerWindow  = 256 << 10
	// peerPing is how long a connection may be silent before it is pinged, and peerPong how long the answer may take: a replica
	// that is frozen keeps its connections open, and one that is merely busy answers late.
	peerPing = 2 * time.Second
	peerPong = 3 * time.Second
	// peerConnect is for a connection with its handshake.
	peerConnect = 2 * time.Second
	// peerWrite is how long a replica may take nothing of what is sent to it.
	peerWrite = 5 * time.Second
	peerIdle  = 45 * time.Second // less than the other side keeps it
	// linkUnused is when what is kept of a replica is dropped: names of replicas come and go.
	linkUnused = 10 * time.Minute
)

// links are the ways to the other replicas. They are safe for concurrent use.
type links struct {
	self     string
	identity PeerIdentity
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)

	mu sync.RWMutex
	of map[string]*link // guarded by mu; by replica

	wires map[site]*wires // guarded by mu: the connections, those of earlier links too
}

func newLinks(self string, p *PeerConfig) *links {
	l := &links{self: self, identity: p.Identity, dial: p.Dial, of: make(map[string]*link), wires: make(map[site]*wires)}
	if l.dial == nil {
		l.dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	return l
}

// link is the way to one replica at one address, with one certificate of our own: passports are signed with the key of the
// certificate that its connections show. What changes takes another link; requests on the old one end on it.
type link struct {
	replica, address string
	cert             *tls.Certificate
	changed          <-chan struct{} // closed when our certificate, or who vouches for others, has changed
	streams          *http.Transport // HTTP/2
	upgrades         *http.Transport // HTTP/1.1, a connection for each
	used             atomic.Int64    // Unix seconds
	wires            *wires
}

// unreachable is the error of a connection that could not be made: nothing was sent.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return u.err.Error() }
func (u *unreachable) Unwrap() error { return u.err }

// to returns the link to a replica.
func (l *links) to(replica, address string) (*link, error) {
	l.mu.RLock()
	k := l.of[replica]
	l.mu.RUnlock()
	if k.fits(address) {
		k.used.Store(time.Now().Unix())
		return k, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k = l.of[replica]; k.fits(address) {
		return k, nil
	}
	next, err := l.make(replica, address)
	if err != nil {
		return nil, &unreachable{err}
	}
	l.drop(k)
	l.of[replica] = next
	old := time.Now().Add(-linkUnused).Unix()
	for name, k := range l.of {
		if k.used.Load() < old {
			l.drop(k)
			delete(l.of, name)
		}
	}
	return next, nil
}

// fits says whether k still leads to address, with what we are now.
func (k *link) fits(address string) bool {
	if k == nil || k.address != address {
		return false
	}
	select {
	case <-k.changed:
		return false
	default:
		return true
	}
}

func (l *links) make(replica, address string) (*link, error) {
	if replica == l.self || address == "" {
		return nil, fmt.Errorf("replica %s at %q cannot be asked from here", replica, address)
	}
	changed := l.identity.Changed() // before what it tells of: a change between the two is seen by the next request
	cert, err := l.identity.Certificate()
	if err != nil {
		return nil, fmt.Errorf("this replica has no certificate to show to others: %w", err)
	}
	k := &link{replica: replica, address: address, cert: cert, changed: changed, wires: l.wiresOf(replica, address)}
	k.used.Store(time.Now().Unix())
	k.streams, k.upgrades = l.transport(k, "h2"), l.transport(k, "http/1.1")
	return k, nil
}

// transport makes the connections of a link, for one protocol.
func (l *links) transport(k *link, proto string) *http.Transport {
	config := k.tls(l.identity.Roots(), proto)
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return l.connect(ctx, network, k, config)
		},
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		DisableKeepAlives:      proto != "h2", // a connection that was to be upgraded is not used again (X20)
		IdleConnTimeout:        peerIdle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 512 << 10,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: peerWindow, MaxReceiveBufferPerConnection: peerStreams * peerWindow,
			SendPingTimeout: peerPing, PingTimeout: peerPong, WriteByteTimeout: peerWrite,
		},
	}
	t.Protocols.SetHTTP2(proto == "h2")
	t.Protocols.SetHTTP1(proto != "h2")
	return t
}

// connect makes a connection, whole with its handshake, so that an error of it is known to be one before any request.
func (l *links) connect(ctx context.Context, network string, k *link, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, peerConnect)
	defer cancel()
	c, err := l.dial(ctx, network, k.address)
	if err != nil {
		return nil, &unreachable{err}
	}
	c = k.wires.add(c)
	t := tls.Client(c, config)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, &unreachable{fmt.Errorf("handshake with %s: %w", config.ServerName, err)}
	}
	if got := t.ConnectionState().NegotiatedProtocol; got != config.NextProtos[0] {
		_ = c.Close()
		return nil, &unreachable{fmt.Errorf("%s speaks %q and not %s", config.ServerName, got, config.NextProtos[0])}
	}
	return t, nil
}

// tls is how a link's connections know the other replica, and show this one.
func (k *link) tls(roots *x509.CertPool, proto string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{proto},
		RootCAs: roots, ServerName: peer.ServerName(k.replica),
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := replicaOf(cs.PeerCertificates[0])
			if err == nil && name != k.replica {
				err = fmt.Errorf("at the address of replica %s is %q", k.replica, name)
			}
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return k.cert, nil },
	}
}

func (l *links) drop(k *link) {
	if k != nil {
		k.streams.CloseIdleConnections()
		k.upgrades.CloseIdleConnections()
	}
}

// close closes the connections that are idle.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, k := range l.of {
		l.drop(k)
		delete(l.of, name)
	}
}

// replicaOf returns whom a certificate names.
func replicaOf(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) == 1 {
		if name, ok := peer.FromURI(cert.URIs[0]); ok {
			return name, nil
		}
	}
	return "", fault.New(fault.Forbidden, "the certificate names no replica: its one URI is to be like %s", peer.URI("name"))
}

// verifyReplica returns which replica showed certs, if roots vouch for it by themselves. Intermediates are none of ours: a
// stranger would have us try them in every order.
func verifyReplica(roots *x509.CertPool, certs []*x509.Certificate, now time.Time) (string, error) {
	if len(certs) == 0 {
		return "", fault.New(fault.Forbidden, "no certificate of a replica")
	}
	_, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return "", fault.Wrap(fault.Forbidden, err, "the certificate is not a replica's")
	}
	return replicaOf(certs[0])
}
