package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/tracing"
)

// Directory answers, from memory, what the platform knows of tenants. The entries that it returns are immutable; a change
// shows in the next answer, and before Server.Revalidate is called for it.
type Directory interface {
	ByHost(host string) (*tenant.Entry, bool)
	ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool)
	ByID(id tenant.ID) (*tenant.Entry, bool)
}

// Gateways decides on requests to virtual tenants and, on the shared host, on those to our own surface of dedicated ones.
// An error is rendered as a problem; a gateway that has to render an error otherwise, as JSON-RPC, replies with it.
type Gateways interface {
	Decide(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error)
}

// Guards hands out the guard of a tenant, with the limits of the entry, and that of what belongs to no tenant.
type Guards interface {
	Platform() *guard.Guard
	For(e *tenant.Entry) *guard.Guard
}

// Engine carries out a relay: it answers w with what the upstream answers to d, and calls d.Done once. r is the client's
// request, for its context, its address and its host alone; what is sent upstream is all in d. w has the request id in its
// header already. Relay may panic with http.ErrAbortHandler to break off a response that has begun.
type Engine interface {
	Relay(w http.ResponseWriter, r *http.Request, d *exchange.Relay)
}

// Certificates finds the certificate for a server name. Without one it returns nil and no error, or an error: either way
// the handshake is refused.
type Certificates interface {
	GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Authenticator says who asks, where that is not said by a key of the tenant.
type Authenticator interface {
	// Authenticate judges what came with a request to the tenant of e. The principal is one of that tenant, with the role
	// that its record grants. Errors: Unauthenticated, which tells nothing; Unavailable if who could say so is away; Invalid
	// for identity headers of somebody who is not trusted to send them; Forbidden for a token without the scopes that are
	// required.
	Authenticate(ctx context.Context, e *tenant.Entry, ev authn.Evidence) (tenant.Principal, error)
	// JudgeHeaders refuses identity headers of somebody who is not trusted to send them.
	JudgeHeaders(e *tenant.Entry, ev authn.Evidence) error
	// The steps of a browser's login and logout, and of the hand-over of a login to another host of the tenant.
	LoginStart(ctx context.Context, e *tenant.Entry, r authn.LoginRequest) (authn.LoginReply, error)
	LoginFinish(ctx context.Context, e *tenant.Entry, r authn.LoginRequest) (authn.LoginReply, error)
	Logout(ctx context.Context, e *tenant.Entry, r authn.LoginRequest) (authn.LogoutReply, error)
	HandoverStart(e *tenant.Entry, r authn.LoginRequest, main string) (authn.LoginReply, error)
	Handover(e *tenant.Entry, r authn.LoginRequest, hosts func(host string) bool) (authn.LoginReply, error)
	HandoverAccept(ctx context.Context, e *tenant.Entry, r authn.LoginRequest) (authn.LoginReply, error)
}

// Records changes routing records, by compare-and-swap and together with the audit entry.
type Records interface {
	UpdateTenant(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error)
}

// Config is what a Server is made with.
type Config struct {
	// Public is the listener for TLS. Required. Run closes it.
	Public net.Listener
	// Plain is the listener that redirects to https; nil = none. Run closes it.
	Plain net.Listener
	// PublicPort is the port that redirects name; 0 = that of Public.
	PublicPort int
	// SharedHosts are the hosts on which tenants are named by path, header or credential, in lower case. At least one.
	SharedHosts []string

	Directory    Directory    // required
	Gateways     Gateways     // required
	Guards       Guards       // required
	Engine       Engine       // required
	Certificates Certificates // required

	// MinVersion is the lowest version of TLS, for hosts of tenants that demand no higher one; 0 = tls.VersionTLS12, which is
	// the lowest there is.
	MinVersion         uint16
	ClientCertificates ClientCertificates // ours, for dedicated upstreams that want one; nil = relays that need one fail
	Authenticator      Authenticator      // nil = keys alone let anybody in
	Records            Records            // keeps the ends of browser sessions; nil = nobody can log out
	BaseDomain         string             // each tenant's own host is <id>.<BaseDomain>: where logins end. "" = each host has logins of its own
	Challenge          http.Handler       // answers /.well-known/acme-challenge/ on Plain; nil = nothing is there
	Limits             Limits             // a zero field is its default
	Passthrough        Passthrough        // a zero field is its default; without Dial, such tenants are not served
	Peers              *PeerConfig        // the other replicas; nil = there are none
	Replica            string             // this replica's name, for the log
	// ProxyProtocolFrom are the load balancers in front of Public and Plain whose PROXY protocol header, v1 or v2, says who the
	// client is. They must send one. From anybody else it is bytes that are neither TLS nor HTTP.
	ProxyProtocolFrom []netip.Prefix
	// DrainStreams is how long streams go on after Drain was called, before they are told to come again. 0 = 5s.
	DrainStreams time.Duration
	// Fresh says whether this replica may still serve tenants: nil while it sees their changes. needsClaim is false for what
	// needs no claim, a dedicated tenant's own host and spliced connections, for which the operator may allow longer. It is
	// asked per request, and answers from memory. nil = always.
	Fresh   func(needsClaim bool) error
	Metrics *telemetry.Metrics // nil = none are kept
	Tracer  *tracing.Tracer    // nil = no traces
	// Used is told of each use of a key, by the key's id. nil = nobody is.
	Used   func(s tenant.Scope, key string, now time.Time)
	Logger *slog.Logger // nil = slog.Default()
}

// Limits bound what one client can hold of the gateway. The zero value of a field stands for its default.
type Limits struct {
	Connections int // open connections of the public listener; others wait to be accepted. Default 20000
	// ConnectionsPerAddress is how many of them may come from one client address, IPv6 by its /64; more are reset. Default nine
	// tenths of Connections: nobody shuts out everybody else.
	ConnectionsPerAddress int
	Streams               int           // concurrent requests on an HTTP/2 connection. Default 100
	HeaderBytes           int           // bytes of a request's header. Default 65536
	HeaderFields          int           // fields of a request's header, each repetition counted. Default 128
	Cookies               int           // cookies of a request. Default 180
	URI                   int           // bytes of a request target. Default 8192
	QueryParameters       int           // parameters of a query. Default 1000
	Body                  int64         // bytes of a request's body. Default 33554432 (32 MiB)
	HeaderTime            time.Duration // for the TLS handshake, and for a request's header. Default 10s
	// IdleTime is how long a connection is kept without a request. Default 60s, and never more: net/http holds the memory of
	// dead HTTP/2 connections until it is over.
	IdleTime time.Duration
	// BodyIdle is how long a request's body may stand still before the response begins, after which the exchange is a stream
	// and may pause for as long as it likes. Default 30s.
	BodyIdle time.Duration
	// WriteIdle is how long a client may leave a part of the response unread. Default 60s.
	WriteIdle time.Duration
	// ShutdownGrace is how long Run waits for requests when it ends. Streams are ended at once. Default 10s.
	ShutdownGrace time.Duration
}

// DefaultLimits returns the limits of a Server whose Config names none.
func DefaultLimits() Limits {
	return Limits{
		Connections: 20000,

		ConnectionsPerAddress: 18000,

		Streams:         100,
		HeaderBytes:     64 << 10,
		HeaderFields:    128,
		Cookies:         180,
		URI:             8 << 10,
		QueryParameters: 1000,
		Body:            32 << 20,
		HeaderTime:      10 * time.Second,
		IdleTime:        60 * time.Second,
		BodyIdle:        30 * time.Second,
		WriteIdle:       60 * time.Second,
		ShutdownGrace:   10 * time.Second,
	}
}

// withDefaults fills in the fields that are zero.
func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	or(&l.Connections, d.Connections)
	or(&l.ConnectionsPerAddress, max(l.Connections-l.Connections/10, 1))
	or(&l.Streams, d.Streams)
	or(&l.HeaderBytes, d.HeaderBytes)
	or(&l.HeaderFields, d.HeaderFields)
	or(&l.Cookies, d.Cookies)
	or(&l.URI, d.URI)
	or(&l.QueryParameters, d.QueryParameters)
	or(&l.Body, d.Body)
	or(&l.HeaderTime, d.HeaderTime)
	or(&l.IdleTime, d.IdleTime)
	or(&l.BodyIdle, d.BodyIdle)
	or(&l.WriteIdle, d.WriteIdle)
	or(&l.ShutdownGrace, d.ShutdownGrace)
	return l
}

func or[T comparable](field *T, fallback T) {
	var zero T
	if *field == zero {
		*field = fallback
	}
}

// Validate checks limits that are whole. The error names the field.
func (l Limits) Validate() error {
	for _, f := range []struct {
		name     string
		v        int64
		min, max int64
	}{
		{"connections", int64(l.Connections), 1, 1 << 20},
		{"connections_per_address", int64(l.ConnectionsPerAddress), 1, 1 << 20},
		{"streams", int64(l.Streams), 1, 10000},
		{"header_bytes", int64(l.HeaderBytes), 1 << 10, 1 << 20},
		{"header_fields", int64(l.HeaderFields), 8, 10000},
		{"cookies", int64(l.Cookies), 1, 3000},
		{"uri", int64(l.URI), 64, 1 << 20},
		{"query_parameters", int64(l.QueryParameters), 1, 10000},
		{"body", l.Body, 1, 1 << 40},
		{"header_time", int64(l.HeaderTime), int64(time.Millisecond), int64(5 * time.Minute)},
		{"idle_time", int64(l.IdleTime), int64(time.Millisecond), int64(time.Minute)},
		{"body_idle", int64(l.BodyIdle), int64(time.Millisecond), int64(time.Hour)},
		{"write_idle", int64(l.WriteIdle), int64(time.Millisecond), int64(time.Hour)},
		{"shutdown_grace", int64(l.ShutdownGrace), int64(time.Millisecond), int64(time.Hour)},
	} {
		if f.v < f.min || f.v > f.max {
			return fmt.Errorf("limits: %s is %d: %d to %d are allowed", f.name, f.v, f.min, f.max)
		}
	}
	return nil
}

// shared says whether tenants are named by path, header or credential on host.
func (c *Config) shared(host string) bool { return slices.Contains(c.SharedHosts, host) }

// check says what a Config lacks.
func (c *Config) check() error {
	for name, missing := range map[string]bool{
		"Public": c.Public == nil, "Directory": c.Directory == nil, "Gateways": c.Gateways == nil, "Guards": c.Guards == nil,
		"Engine": c.Engine == nil, "Certificates": c.Certificates == nil,
	} {
		if missing {
			return errors.New("proxy: Config." + name + " is missing")
		}
	}
	if err := checkVersion(c.MinVersion); err != nil {
		return err
	}
	if c.Peers != nil {
		if err := c.Peers.check(c); err != nil {
			return err
		}
	}
	if len(c.SharedHosts) == 0 {
		return errors.New("proxy: Config.SharedHosts is empty")
	}
	for _, h := range c.SharedHosts {
		host, port, err := parseHost(h)
		if err != nil || port != "" || host != h {
			return fmt.Errorf("proxy: %q in Config.SharedHosts is not a DNS name in lower case", h)
		}
	}
	return nil
}
