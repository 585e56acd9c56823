// Package client makes the requests of a load: each in its own protocol, inside TLS with the tenant's host as server name, with the
// tenant's credential, and checks each answer by the canary that only that tenant's upstream gives. It leaves when and to whom a request
// goes to bench/load, and where tokens come from to bench/credential.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// Tenant is one to whom requests go.
type Tenant struct {
	Name   string // in messages
	Host   string // server name, and Host of each request
	Addr   string // host:port that is dialled
	Canary string // what each right answer holds: once, if all canaries begin with "canary="; no other tenant's may be in it; "" = answers are judged by their status, and searched for those of others
	Key    string // its API key, for loads with the credential "key" when Config.Credential is nil
}

// Config is what a client is made of.
type Config struct {
	Load       scenario.Load       // as scenario.Parse returns it; what it leaves empty is filled in the same way
	Tenants    []Tenant            // by number
	Roots      *x509.CertPool      // that the tenants' certificates are checked against; nil = the system's. There is no way around the check
	Credential credential.Source   // if set, each request shows its token; nil: the tenants' keys where the load's credential is "key", else nothing
	Handshake  func(time.Duration) // told the time of each TCP connect and TLS handshake together; nil = nobody; must be safe for concurrent use
	Groups     []tls.CurveID       // key exchanges that are offered; nil = Go's own, X25519MLKEM768 first, as browsers do. Servers are compared by one that all have
	Own        bool                // whoever runs this owns the target: addresses may be public. Else the dialler refuses them
}

// Client makes the requests of one load. It is safe for concurrent use.
type Client struct {
	load       scenario.Load
	targets    []target
	credential credential.Source
	handshake  func(time.Duration)
	dialer     net.Dialer
	tls        *tls.Config // without a server name
	payload    []byte      // of each request or message
	path       *url.URL
	canaries   canaries
	bytesIn    atomic.Int64
	retried    atomic.Int64
	endless    atomic.Bool    // the last stream went on behind what was wanted of it, so others will
	farewells  sync.WaitGroup // WebSockets that are being closed
	readers    sync.WaitGroup // of HTTP/2 connections

	mu     sync.Mutex // guards what follows
	open   map[net.Conn]struct{}
	closed bool
}

// target is a tenant with what is kept for it between requests.
type target struct {
	Tenant
	number   int
	shown    atomic.Pointer[shown]
	prepared atomic.Pointer[prepared]
	wires    pool[*wire]    // HTTP/1.1
	sockets  pool[*socket]  // WebSocket
	sessions pool[*session] // MCP
	streams  multiplexed    // HTTP/2 and gRPC
}

// New checks a configuration and returns a client. It connects to nothing yet.
func New(c Config) (*Client, error) {
	withDefaults(&c.Load)
	if err := validate(c); err != nil {
		return nil, err
	}
	canaries, err := newCanaries(c.Tenants)
	if err != nil {
		return nil, err
	}
	path, err := url.ParseRequestURI(c.Load.Path)
	if err != nil {
		return nil, fmt.Errorf("load %s: path %q: %w", c.Load.Name, c.Load.Path, err)
	}
	client := &Client{
		load: c.Load, credential: c.Credential, handshake: c.Handshake,
		targets: make([]target, len(c.Tenants)), open: make(map[net.Conn]struct{}),
		payload:  bytes.Repeat([]byte("x"), c.Load.BodyBytes),
		dialer:   net.Dialer{KeepAlive: -1, ControlContext: credential.Guard(c.Own)}, // probes are of no use in runs of minutes, and cost system calls
		tls:      tlsConfig(c),
		path:     path,
		canaries: canaries,
	}
	for i, t := range c.Tenants {
		client.targets[i].Tenant, client.targets[i].number = t, i
	}
	return client, nil
}

// withDefaults fills in what a load that no file described leaves empty.
func withDefaults(l *scenario.Load) {
	if l.Protocol == "" {
		l.Protocol = scenario.HTTP1
	}
	if l.Connections == "" {
		l.Connections = scenario.Kept
	}
	if l.Concurrency == 0 {
		l.Concurrency = 32
	}
	if l.Messages == 0 {
		l.Messages = 10
	}
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	if l.Method == "" {
		l.Method = http.MethodGet
		if l.BodyBytes > 0 {
			l.Method = http.MethodPost
		}
	}
	if l.Path == "" {
		l.Path = defaultPath(l)
	}
}

// defaultPath is that of a protocol at the lab's upstream, or, for MCP, at a gateway before it.
func defaultPath(l *scenario.Load) string {
	switch l.Protocol {
	case scenario.WebSocket:
		return "/ws"
	case scenario.SSE:
		return fmt.Sprintf("/events?n=%d&interval=%s", l.Messages, l.Interval)
	case scenario.MCP:
		return "/servers/bench/mcp"
	case scenario.GRPC:
		return "/polybench.Echo/Call"
	default:
		return "/"
	}
}

// validate refuses what cannot work.
func validate(c Config) error {
	if len(c.Tenants) == 0 {
		return errors.New("a load needs a tenant: name one at least")
	}
	if c.Load.Method == http.MethodHead {
		return fmt.Errorf("load %s: method HEAD: its answers have no body, and so no canary to check: use GET", c.Load.Name)
	}
	if c.Load.Path[0] != '/' || !printable(c.Load.Path) {
		return fmt.Errorf("load %s: path %q: begin it with /, and escape what is not visible ASCII", c.Load.Name, c.Load.Path)
	}
	if !printable(c.Load.Method) {
		return fmt.Errorf("load %s: method %q: write it in one word", c.Load.Name, c.Load.Method)
	}
	for _, t := range c.Tenants {
		if err := validateTenant(t); err != nil {
			return err
		}
	}
	return nil
}

// validateTenant refuses a tenant that cannot be called.
func validateTenant(t Tenant) error {
	if !printable(t.Host) {
		return fmt.Errorf("tenant %s: host %q: give the one that its certificate is for", t.Name, t.Host)
	}
	if _, _, err := net.SplitHostPort(t.Addr); err != nil {
		return fmt.Errorf("tenant %s: address %q: write it as host:port: %w", t.Name, t.Addr, err)
	}
	return nil
}

// Caller returns a caller for one goroutine. Callers share the client's connections.
func (c *Client) Caller() (load.Caller, error) {
	switch c.load.Protocol {
	case scenario.HTTP1:
		return &http1Caller{client: c}, nil
	case scenario.SSE:
		return &sseCaller{client: c}, nil
	case scenario.MCP:
		return newMCPCaller(c), nil
	case scenario.WebSocket:
		return &socketCaller{client: c}, nil
	case scenario.HTTP2:
		return newHTTP2Caller(c), nil
	case scenario.GRPC:
		return newGRPCCaller(c), nil
	default:
		return nil, fmt.Errorf("load %s: protocol %q is none of http1, http2, websocket, sse, mcp, grpc", c.load.Name, c.load.Protocol)
	}
}

// target returns the tenant with that number.
func (c *Client) target(n int) (*target, error) {
	if n < 0 || n >= len(c.targets) {
		return nil, fmt.Errorf("there is no tenant number %d, only %d tenants", n, len(c.targets))
	}
	return &c.targets[n], nil
}

// fresh says whether connections are to be new.
func (c *Client) fresh() bool { return c.load.Connections == scenario.New }

// token returns the bearer token of a tenant; "" = none.
func (c *Client) token(ctx context.Context, t *target) (token string, err error) {
	switch {
	case c.credential != nil:
		token, err = c.credential.Token(ctx, t.number)
	case c.load.Credential == scenario.Key:
		token = t.Key
	default:
		return "", nil
	}
	if err == nil && !printable(token) { // it would break the header that it stands in
		err = errors.New("its token is empty, or not of visible ASCII")
	}
	if err != nil {
		return "", &failure{class: "credential", tenant: t, what: "there is no credential for it", err: err}
	}
	t.show(token)
	return token, nil
}

// shown are the tokens that a tenant's requests hold: the last, and the one before it, which answers may still echo.
type shown struct{ last, before string }

// show remembers a token, to keep it out of messages.
func (t *target) show(token string) {
	was := t.shown.Load()
	switch {
	case was == nil:
		t.shown.Store(&shown{last: token})
	case was.last != token:
		t.shown.Store(&shown{last: token, before: was.last})
	}
}

// mask takes the tenant's tokens out of a text that the target wrote or that quotes it: a server that echoes headers would else have them
// printed.
func (t *target) mask(text string) string {
	if s := t.shown.Load(); s != nil {
		return credential.Mask(text, s.last, s.before)
	}
	return text
}

// excerpt is the beginning of what the target wrote, for messages.
func (t *target) excerpt(b []byte) string { return t.mask(string(b[:min(len(b), 200)])) }

// BytesIn returns how many bytes have been read from connections, TLS included.
func (c *Client) BytesIn() int64 { return c.bytesIn.Load() }

// Retried returns how many requests have been sent a second time, as their protocol allows: idempotent ones over HTTP/1.1 whose kept
// connection ended before a byte of the answer, messages on a WebSocket that the server took leave of, and requests over HTTP/2 that the
// server had not looked at. They count as right answers if the second time went well, so a target that cuts connections shows here.
func (c *Client) Retried() int64 { return c.retried.Load() }

// Close ends all connections. Requests that are under way fail, and so do later ones.
func (c *Client) Close() error {
	c.endSessions()
	c.farewells.Wait()
	c.mu.Lock()
	c.closed = true
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for conn := range open {
		_ = conn.Close() // it is being thrown away
	}
	c.readers.Wait()
	return nil
}

// opened keeps a connection for Close. It returns false if the client has been closed.
func (c *Client) opened(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.open[conn] = struct{}{}
	}
	return !c.closed
}

// ended forgets a connection.
func (c *Client) ended(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}
