// Package peer starts the programs that are measured side by side: for the same tenants, with the same certificates, in front of the
// same upstream. Each subject is a Peer. It leaves the load to bench/load and the product to bench/gateway, which is a Peer too.
package peer

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
)

// Site is the work that every subject is configured for. Paths are absolute; the files exist before Start.
type Site struct {
	Dir      string // for the subject's configuration, logs and state: empty, its own
	Domain   string // tenants are <name>.<domain>
	Tenants  []Tenant
	CAFile   string // PEM of the authority that signed the tenants' certificates
	CA       *x509.CertPool
	Auth     Auth
	JWT      JWT   // with Auth JWTAuth
	Cores    []int // that the subject's processes may run on; nil = all
	Upstream Upstream
}

// Tenant is one of them.
type Tenant struct {
	Name     string
	Host     string // <name>.<domain>
	CertFile string // PEM chain, ECDSA P-256
	KeyFile  string
	Upstream string // host:port of its own upstream: each tenant has a loopback address, so that an answer's canary proves the route
	Key      string // its API key
	Canary   string // what each right answer holds, and no other tenant's does
}

// Upstream says what the tenants' upstreams speak: plain HTTP/1.1, and with H2C cleartext HTTP/2 (for gRPC).
type Upstream struct{ H2C bool }

// Auth is what a subject checks before it relays.
type Auth string

// The checks. A subject that cannot do one says so by ErrCannot.
const (
	NoAuth  Auth = "none"
	KeyAuth Auth = "key" // Authorization: Bearer <the tenant's key>, and no other tenant's
	JWTAuth Auth = "jwt" // an ES256 token of the issuer for the tenant
)

// JWT is who signs tokens. A token has iss, aud (the tenant's name), sub, iat and exp.
type JWT struct {
	Issuer  string // https URL that serves discovery and keys
	CAFile  string // PEM roots of the issuer's own certificate
	Key     *ecdsa.PublicKey
	KeyFile string // the same as PEM (PKIX)
}

// Peer is a subject. Implementations hold no state between starts; they may be used by one goroutine.
type Peer interface {
	// Name of the subject in reports, such as "nginx".
	Name() string
	// Version says which it is. An error that is ErrMissing means that it is not on this machine: it is skipped with that note.
	Version(ctx context.Context) (string, error)
	// Start starts it for a site and returns when every tenant's port accepts. ErrCannot = it has no means for what the site asks.
	// The processes end when Stop is called; ctx bounds the start only.
	Start(ctx context.Context, s *Site) (Running, error)
}

// Running is a started subject.
type Running interface {
	Addr(tenant int) string // host:port of its TLS listener for the tenant
	PIDs() []int            // of its processes, without their children
	Stop() error
}
