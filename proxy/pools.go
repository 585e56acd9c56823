package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/internal/exchange"
)

// poolKey names connections that may be shared. trusted is in it because the two are dialed differently; upgrade, because
// a connection on which an upgrade was tried is not used again; secure, so that a change of it takes new connections at once,
// and none that was opened with one certificate is used with another (case X38).
type poolKey struct {
	pool    string
	trusted bool
	upgrade bool
	secure  secureKey
}

// upstream is the connections of a pool.
type upstream struct {
	*http.Transport
	asked    atomic.Bool // it asked for a client certificate
	answered atomic.Bool // and a request was answered: what goes wrong from then on is something else
}

// pools holds the connections to upstreams: an http.Transport per pool, the longest unused of which is closed where there
// are too many. It is safe for concurrent use.
type pools struct {
	dial  func(trusted bool) func(ctx context.Context, network, addr string) (net.Conn, error)
	roots *x509.CertPool

	mu  sync.Mutex // makes "get or add" one step
	lru *lru.Cache[poolKey, *upstream]
}

func newPools(size int, cfg EngineConfig) (*pools, error) {
	p := &pools{dial: cfg.DialContext, roots: cfg.RootCAs}
	var err error
	p.lru, err = lru.NewWithEvict(size, func(_ poolKey, u *upstream) { u.CloseIdleConnections() })
	return p, err
}

// get returns the connections of a target's pool. Requests on a transport that was evicted meanwhile finish; their connections are
// closed after them.
func (p *pools) get(t *exchange.Target, upgrade bool) (*upstream, error) {
	k := poolKey{pool: t.Pool, trusted: t.Trusted, upgrade: upgrade, secure: secureKeyOf(t)}
	if u, ok := p.lru.Get(k); ok {
		return u, nil
	}
	u := &upstream{}
	secure, err := p.secure(t, &u.asked)
	if err != nil {
		return nil, err
	}
	u.Transport = p.transport(k, secure)
	p.mu.Lock()
	defer p.mu.Unlock()
	if u, ok := p.lru.Get(k); ok {
		return u, nil
	}
	p.lru.Add(k, u)
	return u, nil
}

// transport makes the transport of a pool. It takes no proxy from the environment, follows no redirect (an http.Client
// would), and asks for no compression of its own, so that bodies pass as they are.
func (p *pools) transport(k poolKey, secure *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:            p.dial(k.trusted),
		TLSClientConfig:        secure,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      !k.upgrade,
		DisableKeepAlives:      k.upgrade, // an upstream that answers an upgrade otherwise may have more to say on it (case X20)
		DisableCompression:     true,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second},
	}
}

// close closes every idle connection.
func (p *pools) close() { p.lru.Purge() }

// buffers is the httputil.BufferPool of all relays.
type buffers struct{ pool sync.Pool }

// bufferSize is the size of a copy buffer: two TLS records.
const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return p[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) {
	if len(p) == bufferSize {
		b.pool.Put((*[bufferSize]byte)(p))
	}
}
