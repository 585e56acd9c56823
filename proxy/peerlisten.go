package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/tenant"
)

// peers is a Server's part among others.
type peers struct {
	PeerConfig
	self    string
	links   *links
	buffers buffers
	owners  Owners
	log     *log.Logger
}

func newPeers(c *Config, l *slog.Logger) *peers {
	if c.Peers == nil {
		return nil
	}
	p := &peers{PeerConfig: *c.Peers, self: c.Replica, owners: c.Gateways.(Owners),
		log: slog.NewLogLogger(l.Handler(), slog.LevelDebug)}
	or(&p.Wait, defaultPeerWait)
	p.links = newLinks(p.self, &p.PeerConfig)
	return p
}

// peerServer is the listener of the other replicas. Nobody gets beyond the handshake without a certificate of one.
func (s *Server) peerServer(base context.Context) *http.Server {
	srv := s.httpServer(base, http.HandlerFunc(s.servePeer))
	srv.TLSConfig = s.peers.listenTLS()
	// What was let in fits, and what we add: net/http lets in 4 KiB more over HTTP/1.1, and over HTTP/2 each field counts for 32
	// more bytes, and each cookie is a field.
	srv.MaxHeaderBytes = s.limits.HeaderBytes + 4<<10 + 36*(s.limits.HeaderFields+s.limits.Cookies) + maxPassport
	srv.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          peerStreams,
		MaxReadFrameSize:              frameSize,
		MaxReceiveBufferPerConnection: peerStreams * peerWindow,
		MaxReceiveBufferPerStream:     peerWindow,
		SendPingTimeout:               peerPing,
		PingTimeout:                   peerPong,
		WriteByteTimeout:              peerWrite,
	}
	inherited := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(inherited(ctx, c), peerConnKey{}, &peerConn{})
	}
	return srv
}

// listenTLS demands a certificate and verifies it at each handshake. There are no tickets: a session that is resumed would
// not show its certificate again.
func (p *peers) listenTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Identity.Certificate() },
		ClientAuth:     tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := verifyReplica(p.Identity.Roots(), cs.PeerCertificates, time.Now())
			return err
		},
	}
}

// peerConnKey is the context key of a *peerConn.
type peerConnKey struct{}

// keptPassports bounds the passports of a connection that are not verified again, each of keptPassport bytes at most. Those
// of clients with long chains of certificates are verified with each request.
const (
	keptPassports = 4096
	keptPassport  = 4 << 10
)

// peerConn is a connection of another replica. What was verified on it holds on no other.
type peerConn struct {
	mu      sync.Mutex
	replica string                       // guarded by mu; "" = not judged yet
	roots   *x509.CertPool               // guarded by mu; that vouched for it
	seen    *lru.Cache[string, *visitor] // made once, with replica
}

// judge returns whose connection it is. A certificate that has expired, or whose roots are gone, was good at the handshake
// and is no more.
func (c *peerConn) judge(p *peers, certs []*x509.Certificate, now time.Time) (string, error) {
	if len(certs) == 0 || now.After(certs[0].NotAfter) {
		return "", fault.New(fault.Forbidden, "the certificate of the replica has expired")
	}
	roots := p.Identity.Roots()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replica != "" && (c.roots == roots || c.roots.Equal(roots)) {
		return c.replica, nil
	}
	name, err := verifyReplica(roots, certs, now)
	if err != nil {
		return "", err
	}
	if c.seen == nil {
		if c.seen, err = lru.New[string, *visitor](keptPassports); err != nil {
			return "", err
		}
	}
	c.replica, c.roots = name, roots
	return name, nil
}

// visitor returns what a passport says, once it is known to be good.
func (c *peerConn) visitor(p *peers, text, from string, by *x509.Certificate, now time.Time) (*visitor, error) {
	v, ok := c.seen.Get(text)
	if !ok {
		var err error
		if v, err = readPassport(text, by, from, p.self); err != nil {
			return nil, err
		}
		if len(text) <= keptPassport {
			c.seen.Add(text, v)
		}
	}
	return v, v.current(now)
}

// servePeer takes what another replica sends: a client's request, which has a passport, or a call.
func (s *Server) servePeer(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(peerConnKey{}).(*peerConn)
	if !ok || r.TLS == nil {
		s.refusePeer(w, r, "", errors.New("no connection of a replica"))
		return
	}
	now, certs := time.Now(), r.TLS.PeerCertificates
	from, err := c.judge(s.peers, certs, now)
	if err != nil {
		s.refusePeer(w, r, from, err)
		return
	}
	passports := r.Header[passportHeader]
	if len(passports) == 0 {
		s.serveCall(w, r, from)
		return
	}
	if len(passports) > 1 {
		s.refusePeer(w, r, from, errors.New("two passports: a request is forwarded once"))
		return
	}
	v, err := c.visitor(s.peers, passports[0], from, certs[0], now)
	if err != nil {
		s.refusePeer(w, r, from, err)
		return
	}
	s.serveForwarded(w, r, v)
}

// refusePeer says that nothing was done. Replicas believe each other no more than they have to.
func (s *Server) refusePeer(w http.ResponseWriter, r *http.Request, from string, err error) {
	s.log.Warn("a request of another replica was refused", slog.String("from", from), slog.String("address", r.RemoteAddr), slog.Any("error", err))
	w.Header()[refusalHeader] = []string{refusedPassport}
	problem.Write(w, fault.Wrap(fault.Forbidden, err, ""), "")
}

// serveForwarded serves a client's request that another replica got. From here on it looks as if the client's connection
// were our own: the whole way of a request is gone again, and nothing but the connection is taken from the other replica.
func (s *Server) serveForwarded(w http.ResponseWriter, r *http.Request, v *visitor) {
	id := newRequestID()
	if ids := r.Header[requestIDHeader]; len(ids) == 1 && plainID(ids[0]) {
		id = ids[0]
	}
	if r.Header[expectHeader] != nil {
		delete(r.Header, "Expect")
	}
	s.catchUp(r)
	for name := range r.Header {
		if strings.HasPrefix(name, ownPrefix) {
			delete(r.Header, name)
		}
	}
	there := r.WithContext(r.Context()) // a copy
	there.TLS, there.RemoteAddr = v.state, v.Remote
	s.serveFlight(w, there, id, v)
}

// catchUp waits until this replica knows of the tenant what the one that forwards the request does. Replicas learn of a change
// some milliseconds apart: a key that was acknowledged would be refused here, though it was good there.
func (s *Server) catchUp(r *http.Request) {
	if revs := r.Header[recordHeader]; len(revs) == 1 && s.peers.AwaitRecords != nil {
		if rev, err := strconv.ParseInt(revs[0], 10, 64); err == nil {
			s.peers.AwaitRecords(r.Context(), rev)
		}
	}
}

// plainID says whether s has the form of a request id: it goes into logs and answers.
func plainID(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return len(s) == 36
}

// notOwner tells the replica that forwarded f to ask elsewhere, if that is why f failed.
func (f *flight) notOwner(err error) {
	if f.hop.from == nil || !f.untouched(err) {
		return
	}
	f.w.Header()[refusalHeader] = []string{refusedOwner}
}

// passport describes the client's connection, for one other replica.
func (f *flight) passport(to string, now time.Time) (*passport, error) {
	p := &passport{V: passportVersion, From: f.s.peers.self, To: to, Expires: now.Add(passportLife).Unix(), Remote: f.r.RemoteAddr}
	if f.r.TLS == nil {
		return nil, fault.New(fault.Internal, "a request without TLS is not forwarded")
	}
	p.SNI, p.TLS = strings.ToLower(f.r.TLS.ServerName), f.r.TLS.Version
	for _, c := range f.r.TLS.PeerCertificates {
		p.Chain = append(p.Chain, c.Raw)
	}
	if a := f.admission; a != nil {
		p.Admitted = &passportAdmission{passportTenant{a.scope.ID(), a.scope.UID()}, a.sum()}
	}
	if c := f.helloOf(); c != nil && c.entry != nil && c.entry.Record.Mode == tenant.ModeVirtual {
		p.Host = &passportTenant{c.entry.Record.ID, c.entry.Scope.UID()}
	}
	return p, nil
}

// judgeChain refuses what no passport has room for, at the owner too: whether a request is served does not depend on where it
// lands.
func (f *flight) judgeChain() error {
	if f.r.TLS == nil {
		return nil
	}
	size := 0
	for _, c := range f.r.TLS.PeerCertificates {
		size += len(c.Raw)
	}
	if size > maxChain {
		return fault.New(fault.HeaderTooLarge, "the client's certificates have more than %d bytes: send fewer intermediates", maxChain)
	}
	return nil
}

// passportsKey is the context key of a client connection's *passports.
type passportsKey struct{}

// passports keeps what was signed for a client's connection: one for each replica that its requests go to.
type passports struct {
	mu  sync.Mutex
	all []issued // guarded by mu
}

type issued struct {
	link  *link
	text  string
	until time.Time
}

// get returns the passport for a link, a new one where there is none that lasts.
func (p *passports) get(f *flight, k *link) (string, error) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = slices.DeleteFunc(p.all, func(i issued) bool { return now.After(i.until) })
	if i := slices.IndexFunc(p.all, func(i issued) bool { return i.link == k }); i >= 0 {
		return p.all[i].text, nil
	}
	pass, err := f.passport(k.replica, now)
	if err != nil {
		return "", err
	}
	text, err := pass.sign(k.cert)
	if err != nil {
		return "", fmt.Errorf("sign a passport: %w", err)
	}
	p.all = append(p.all, issued{k, text, now.Add(passportUse)})
	return text, nil
}

// forget drops those for a link, which it did not take.
func (p *passports) forget(k *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = slices.DeleteFunc(p.all, func(i issued) bool { return i.link == k })
}
