// Package exchange is what the front and the virtual gateways say to each other about one request: the judged Request
// going in, and the Decision coming out. A decision is data (Reply, Relay) or a handler (Serve) and names no HTTP
// library, so the engine that carries it out can change and no decision moves.
package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Header holds header fields by canonical name (textproto.CanonicalMIMEHeaderKey).
type Header map[string][]string

// Get returns the first value of a canonical name, or "".
func (h Header) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set replaces the values of a canonical name.
func (h Header) Set(name, value string) { h[name] = []string{value} }

// Clone returns a copy that shares no slice header with h.
func (h Header) Clone() Header {
	c := make(Header, len(h))
	for k, v := range h {
		c[k] = append([]string(nil), v...)
	}
	return c
}

// Request is a request of an authenticated principal to one tenant, after the edge judged it.
type Request struct {
	ID     string // the request id
	Method string // upper case; never CONNECT or TRACE
	Path   string // within the tenant: any /tenant/<id> prefix is gone; escaped bytes as received, free of dot segments
	Query  string // raw, without '?'
	// Header is free of forwarding and reserved headers. Unless the tenant's own gateway authenticates, it holds no
	// credential either: no Authorization, X-Api-Key or Cookie.
	Header  Header
	Body    io.Reader    // bounded: reading past the limit fails with fault.TooLarge; never nil
	Length  int64        // of Body in bytes; -1 = unknown
	Host    string       // as the client named it: lower case, with port if it sent one
	Base    string       // the URL under which this tenant's paths lie, such as https://team-a.localhost:8443, no final '/'
	Remote  netip.Addr   // the client's address
	Upgrade string       // "websocket" or ""
	Visit   *guard.Visit // who asks, and the only way to an effect
}

// Decision is how a request is answered: a Reply, a Relay or a Serve.
type Decision interface{ decision() }

// Reply answers with bytes that are ready.
type Reply struct {
	Status int
	Header Header
	Body   []byte
	// Err says why, where the reply is an error that a handler rendered itself (JSON-RPC). It is for the log, the metrics
	// and nobody else; nil for a success.
	Err error
}

// Relay answers with what an upstream answers.
type Relay struct {
	Target Target
	Method string
	Path   string // escaped bytes, written as they are; begins with one '/'
	Query  string // raw bytes, written as they are
	Host   string // Host sent upstream; "" = Target.Authority
	Header Header // all headers to send, less hop-by-hop and forwarding ones, which the engine sees to

	Prefix []byte    // the part of the request body that was judged
	Rest   io.Reader // the rest of it; may be nil
	Length int64     // of Prefix and Rest together; -1 = unknown

	Upgrade       bool          // the request may become a WebSocket
	HeaderTimeout time.Duration // how long to wait for the response header; 0 = the engine's default

	// EditResponse may change the response header in place. If it returns an error the upstream's response is dropped and
	// the error answered instead. It sees no interim (1xx) responses but 101. May be nil.
	EditResponse func(status int, h Header) error
	// Interim lets interim (1xx) responses pass, unjudged: EditResponse is not asked. 101 is not one of them.
	Interim bool
	// RenderError makes the reply to an error that arises while the relay is carried out, before a response began: an
	// upstream that is down or slow, or what EditResponse returned. A JSON-RPC caller gets JSON-RPC this way. The engine
	// calls it where set, and renders problem+json where it is nil.
	RenderError func(e *fault.Error, requestID string) *Reply
	// Live ends the relay, with its cause, before its time: the tenant's claim was lost, or its gateway closed. The engine
	// cancels the exchange when Live is done. May be nil.
	Live context.Context
	// Done is called exactly once, when the relay has ended in whatever way. May be nil.
	Done func(Outcome)
}

// Target is where to relay to.
type Target struct {
	Scheme    string // http or https
	Authority string // host:port
	// Pool keys the connections that may be shared: tenant and upstream (and, with it, its credential). Connections of
	// different pools are never mixed.
	Pool string
	// Trusted is true for an upstream that an operator declared in a file: it is exempt from the dial guard.
	Trusted bool
	// Secure says how an https upstream is known and how we show ourselves to it; nil = by the engine's roots and the name in
	// Authority, and not at all. It is ignored for http: nothing of it goes out in the clear.
	Secure *Security
}

// Security is the TLS of an upstream. All its fields but Client key the connections beside Pool: a change of any of them is
// in force for the next request.
type Security struct {
	CA         string // PEM roots of the upstream's certificate; "" = the engine's
	ServerName string // the name in it; "" = the host of Authority
	// Identity says which certificate Client returns: two that differ in it share no connection. The zero value is none, and
	// Client is not called then.
	Identity tenant.ClientCertificate
	// Client returns our certificate, for each new connection whose upstream asks for one. ctx ends with its handshake. An
	// error fails the connection: it is not tried without.
	Client func(ctx context.Context) (*tls.Certificate, error)
}

// Outcome is how a Relay ended.
type Outcome struct {
	Status   int   // as answered to the client; 101 for an upgrade
	BytesIn  int64 // of the request body
	BytesOut int64 // of the response body; for an upgrade, not counted
	Err      error // nil if the response was relayed whole
}

// Serve answers by running a handler that admits each message itself: WebSocket endpoints, gRPC, aggregate MCP.
type Serve struct {
	// Handle owns the exchange until it returns. ctx ends with the request, the principal's credential and the claim.
	Handle func(ctx context.Context, s Stream) error
	// WebSocket, where set, is in place of Handle: the request, whose Upgrade is "websocket", becomes one.
	WebSocket *WebSocket
}

// Stream is the open exchange of a Serve.
type Stream interface {
	io.Reader // the request body
	// Start sends the response header; it may be called once.
	Start(status int, h Header)
	// Write sends and flushes a part of the response body.
	Write(p []byte) (int, error)
}

func (*Reply) decision() {}
func (*Relay) decision() {}
func (*Serve) decision() {}

// Owner says on which replica a route can be served.
type Owner uint8

// The owners.
const (
	OwnerRequired Owner = iota // only on the replica that holds the tenant's claim
	OwnerAny                   // on every replica, from the routing record
)

// Route declares one path of a tenant's surface. Routes are data, so that tests and documents are made from them.
type Route struct {
	Method  string       // "" = every method that the handler names itself
	Pattern string       // segments; {name} stands for exactly one
	Owner   Owner        // where it can be served
	Action  authz.Action // the action that it admits, or the greatest of them
	Summary string       // one line for people
}
