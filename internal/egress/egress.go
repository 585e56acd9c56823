// Package egress is the dial guard: every connection to an upstream that a tenant names goes through it, and it looks at
// the address that is really dialed, after name resolution, so that neither a DNS answer that changes (rebinding) nor a
// redirect leads into the platform's own network. It does not judge URLs or names; those prove nothing.
package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a control-plane fetch (Client).
const (
	MaxRedirects  = 3
	MaxFetchBytes = 1 << 20 // of a response body
)

// Config is what a Guard is made with. The zero value refuses whatever is not the public internet.
type Config struct {
	Allow     []netip.Prefix // exceptions for tenant-declared upstreams
	Timeout   time.Duration  // of name resolution and connecting together; 0 = 5 s
	KeepAlive time.Duration  // between TCP keep-alive probes; 0 = 15 s
	Fetch     time.Duration  // of a whole fetch by Client; 0 = 5 s
	Resolver  *net.Resolver  // nil = net.DefaultResolver
}

// Guard dials upstreams. It is immutable, and safe for concurrent use.
type Guard struct {
	cfg Config
}

// New returns a guard.
func New(cfg Config) *Guard {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.KeepAlive <= 0 {
		cfg.KeepAlive = 15 * time.Second
	}
	if cfg.Fetch <= 0 {
		cfg.Fetch = 5 * time.Second
	}
	return &Guard{cfg: cfg}
}

// DialContext returns a dial function for one kind of upstream. Trusted ones, which an operator declared in a file, may be
// anywhere; any other only where Judge allows it. A refusal is a fault.BadUpstream that wraps ErrRefused: its detail does
// not tell the tenant what a name resolved to. Every other error is the dialer's own.
func (g *Guard) DialContext(trusted bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := g.dialer(trusted)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if network != "tcp" && network != "tcp4" && network != "tcp6" {
			return nil, refused(fmt.Errorf("%w: network %q", ErrRefused, network))
		}
		c, err := d.DialContext(ctx, network, addr)
		if errors.Is(err, ErrRefused) {
			return nil, refused(err)
		}
		return c, err
	}
}

func refused(err error) error {
	return fault.Wrap(fault.BadUpstream, err, "this upstream may not be reached: its address is not a public one, and egress.allow does not open it")
}

func (g *Guard) dialer(trusted bool) *net.Dialer {
	d := &net.Dialer{Timeout: g.cfg.Timeout, KeepAlive: g.cfg.KeepAlive, Resolver: g.cfg.Resolver}
	if !trusted {
		d.Control = func(network, addr string, _ syscall.RawConn) error { return g.check(network, addr) }
	}
	return d
}

// check runs between socket(2) and connect(2), for each address that is tried: what it sees is what is connected to.
func (g *Guard) check(network, addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%w: %s %q", ErrRefused, network, addr)
	}
	return Judge(ap.Addr(), g.cfg.Allow)
}

// Client returns a client for small documents, such as an issuer's keys: it follows at most MaxRedirects redirects, each
// dialed through the guard again, never from https to http, and reads at most MaxFetchBytes of a body, uncompressed,
// within Config.Fetch. It keeps no connection and takes no proxy from the environment, which would dial past the guard.
func (g *Guard) Client(trusted bool) *http.Client {
	t := &http.Transport{
		DialContext:            g.DialContext(trusted),
		DisableKeepAlives:      true,
		DisableCompression:     true, // a bomb stays small, and what is read is what is counted
		TLSHandshakeTimeout:    g.cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
	}
	return &http.Client{Transport: bounded{t}, CheckRedirect: checkRedirect, Timeout: g.cfg.Fetch}
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > MaxRedirects {
		return fault.New(fault.BadUpstream, "more than %d redirects", MaxRedirects)
	}
	was, is := via[len(via)-1].URL.Scheme, r.URL.Scheme
	if is != "https" && (is != "http" || was == "https") {
		return fault.New(fault.BadUpstream, "a redirect from %s to %s", was, is)
	}
	return nil
}

// bounded bounds the bodies of the responses of a round tripper.
type bounded struct {
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Content-Encoding") != "" {
		resp.Body.Close()
		return nil, fault.New(fault.BadUpstream, "a compressed answer that was not asked for")
	}
	resp.Body = &body{ReadCloser: resp.Body, left: MaxFetchBytes}
	return resp, nil
}

// body fails once more than left bytes were read.
type body struct {
	io.ReadCloser
	left int
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(p) > b.left+1 { // one more than is left tells an exact fit from too much
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		n, b.left = b.left, 0
		return n, fault.New(fault.BadUpstream, "an answer of more than %d bytes", MaxFetchBytes)
	}
	b.left -= n
	return n, err
}
