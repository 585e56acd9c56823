// Package admin is the operators' listener: tenants, their API keys, members and certificates over HTTPS, for platform operators and
// auditors. Who they are, a token or their issuer says; being one, they are members of no tenant. It decides nothing about
// tenants' traffic and keeps no state: every change is one transaction of the registry together with its
// audit record, and every answer is made from the index. It is a separate listener, so that nothing of it can be
// reached through a tenant's host.
package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of the listener. They are fixed: operators are few, and nothing here is worth tuning.
const (
	maxBody        = 1 << 20          // bytes of a request body
	maxHeader      = 16 << 10         // bytes of a request header
	maxConnections = 256              // open at once; more wait in the accept queue
	headerTimeout  = 5 * time.Second  // to read a request header
	readTimeout    = 20 * time.Second // to read a whole request
	requestTimeout = 30 * time.Second // to carry out a request
	writeTimeout   = 45 * time.Second // to write the answer, counted from the end of the header
	idleTimeout    = 60 * time.Second // between the requests of a connection
	drainTimeout   = 5 * time.Second  // for requests in flight at the end of Run
)

// Tenants changes tenants. Each call is one transaction that holds the change and its audit record; it returns after
// the index has seen it. *registry.Store implements it.
type Tenants interface {
	// CreateTenant fails with fault.Conflict if the id, a host or a key hash is in use.
	CreateTenant(ctx context.Context, r *tenant.Record, e audit.Entry) (*tenant.Entry, error)
	// UpdateTenant edits the current record; with an ifRevision other than 0 it fails with fault.PreconditionFailed if the
	// record has moved on. An error of edit is returned and nothing written. An edit that changes nothing writes nothing.
	UpdateTenant(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error)
	// DeleteTenant erases the tenant with all its state.
	DeleteTenant(ctx context.Context, id tenant.ID, ifRevision int64, e audit.Entry) error
}

// Index answers from memory. *registry.Index implements it.
type Index interface {
	ByID(id tenant.ID) (*tenant.Entry, bool)
	List(after tenant.ID, limit int) []*tenant.Entry // sorted by id
}

// Guards is the door to every effect. *guard.Set implements it.
type Guards interface {
	Platform() *guard.Guard
	For(e *tenant.Entry) *guard.Guard // which knows what the tenant uses
}

// Counts tells how much of its quota a tenant uses now.
type Counts interface {
	ServerCount(ctx context.Context, e *tenant.Entry) (int, error)
}

// Heads reads the anchored heads of all audit chains, by chain name. The registry's outbox implements it.
type Heads interface {
	Heads(ctx context.Context) (map[string]audit.Head, error)
}

// KeyUse knows when keys were last used, by their ids. *registry.Store implements it.
type KeyUse interface {
	LastUsed(ctx context.Context, s tenant.Scope) (map[string]time.Time, error)
}

// Audits answers queries of the audit log. *audit.Reader and *audit.Drain together implement it.
type Audits interface {
	Query(ctx context.Context, q audit.Query) (*audit.Page, error)
	// Flush returns when what was recorded before can be found.
	Flush(ctx context.Context) error
}

// Config is what a Server is made with. All fields but those that say otherwise are required.
type Config struct {
	Listen         string       // address to listen on, such as 127.0.0.1:9443; unused if Listener is set
	Listener       net.Listener // optional: a bound TCP listener, which Run closes
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// Token returns the SHA-256 of the operator token that holds now (tenant.HashKey); its holder is operator:token. The zero
	// hash admits nobody. One of Token and Authenticate is required.
	Token func() tenant.Hash
	// Authenticate says who holds a bearer token that is not Token's: a principal of the kind operator or auditor, and no
	// other is let in. Its errors are fault.Unauthenticated and, where it cannot be known now, fault.Unavailable. See Operators.
	Authenticate func(ctx context.Context, token string) (tenant.Principal, error)
	// Hosts are the names, without port, under which operators may reach the listener. A request for any other is refused:
	// a page whose name was rebound to our address sends its own name (X58).
	Hosts []string

	Tenants Tenants
	Index   Index
	Guards  Guards
	Counts  Counts
	Heads   Heads

	// Declared says whether the tenants.yaml in force declares a tenant; it matters for those with Source file alone, which
	// may be deleted here once it does not. Optional: without it, a tenant has vanished if it is suspended for ReasonRemoved,
	// so that one which an operator had suspended before cannot be told.
	Declared func(id tenant.ID) bool

	// StateDeclared says whether that file declares the tenant's state, which is then changed in the file alone: an operator's
	// suspension would end unseen with the next reload. Optional: without it, no file does.
	StateDeclared func(id tenant.ID) bool
	// Reserved are hosts of the platform's own, such as the shared ones, that no tenant may be given. Optional.
	Reserved []string

	// Ceilings are quotas that no tenant may be given more than; a zero field is none. A quota above is refused, not cut: who
	// asks for it should know. Ceilings bind where quotas are enforced too, so one that is lowered needs no change here.
	Ceilings tenant.Quotas

	// BaseDomain is that of tenants' own hosts, which are listed with the others. Optional: without it, they are not.
	BaseDomain string
	// Seal seals a secret of a tenant for its record: the same again gives the same text. Optional: without it, tenants cannot be
	// given secrets here.
	Seal func(id tenant.ID, name, plain string) (string, error)
	// Numbers adds up what all replicas count. Optional: without it, numbers are of this replica alone.
	Numbers Numbers
	// Cluster is the replicas. Optional: without it, they cannot be seen or told anything here (503).
	Cluster Cluster
	// Archives writes backups and tenants' archives, and makes tenants of these. Optional: without it, there are none (503).
	Archives Archives
	// Secrets changes the key-encryption key. Optional: without it, it stays as it is (503).
	Secrets Secrets
	// Storage is the etcd under the registry. Optional: without it, it is not looked after here (503).
	Storage Storage
	// Certificates keeps the certificates of hosts. Optional: without it, they cannot be seen or changed here (503).
	Certificates Certificates

	KeyUse  KeyUse // optional: without it, keys are listed without last_used
	Audits  Audits // optional: without it, GET /api/v1/audit is 404
	OpenAPI []byte // optional: a JSON document; without it, GET /api/v1/openapi.json is 404

	NewKey func() (key string, hash tenant.Hash) // optional: authn.NewKey
	Now    func() time.Time                      // optional: time.Now
	Logger *slog.Logger                          // optional: slog.Default
}

// Server is the operators' listener.
type Server struct {
	cfg    Config
	hosts  map[string]bool
	routes []Route
	failed failureLog
}

// New checks cfg and returns a Server that listens nowhere yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	if cfg.NewKey == nil {
		cfg.NewKey = authn.NewKey
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	s := &Server{cfg: cfg, hosts: make(map[string]bool, len(cfg.Hosts))}
	for _, h := range cfg.Hosts {
		s.hosts[hostName(h)] = true
	}
	s.routes = s.table()
	return s, nil
}

func (c *Config) check() error {
	switch {
	case c.Listen == "" && c.Listener == nil:
		return errors.New("no address to listen on")
	case c.GetCertificate == nil:
		return errors.New("no certificate")
	case c.Token == nil && c.Authenticate == nil:
		return errors.New("no operator token, nor anything else that says who is one")
	case len(c.Hosts) == 0:
		return errors.New("no host under which it may be reached")
	case c.Tenants == nil || c.Index == nil || c.Guards == nil || c.Counts == nil || c.Heads == nil:
		return errors.New("a part is missing: tenants, index, guards, counts and heads are all needed")
	}
	return nil
}

// Run listens and serves until ctx ends, then lets requests in flight finish for a bounded time. It returns nil after
// an end by ctx.
func (s *Server) Run(ctx context.Context) error {
	ln := s.cfg.Listener
	if ln == nil {
		var lc net.ListenConfig
		var err error
		if ln, err = lc.Listen(ctx, "tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("admin: listen: %w", err)
		}
	}
	srv := s.httpServer()
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(netutil.LimitListener(ln, maxConnections), "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("admin: serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		_ = srv.Close() // what would not end is cut: the process is on its way out
	}
	<-served
	return nil
}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cfg.GetCertificate},
		// A handshake or a request that net/http refuses by itself: worth nothing above debug, since anyone can cause it.
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// hostName returns a Host value in lower case, without its port and the brackets of an address.
func hostName(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}
