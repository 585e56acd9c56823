package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// The defaults of Config.
const (
	DefaultLeafLife       = 7 * 24 * time.Hour
	DefaultResident       = 10_000
	DefaultTicketRotation = 24 * time.Hour
)

// The defaults of Limits.
const (
	DefaultOrdersPerMinute        = 60
	DefaultOrdersPerTenantPerHour = 30
	DefaultConcurrent             = 16
)

// Store keeps the authority for all replicas. *registry.Platform is one.
type Store interface {
	// Get returns a value; the error is a fault.NotFound if there is none.
	Get(ctx context.Context, key string) (value []byte, revision int64, err error)
	// Create stores a value durably; the error is a fault.Conflict if there is one already.
	Create(ctx context.Context, key string, value []byte) error
}

// Wrapper seals the authority's private key. *seal.KEK is one.
type Wrapper interface {
	Wrap(secret []byte, context ...string) (envelope []byte, err error)
	Unwrap(envelope []byte, context ...string) (secret []byte, err error)
}

// Vault is what the queue of orders needs of the registry. *registry.Vault is one.
type Vault interface {
	// TryLock takes a lock of all replicas; false = somebody has it, maybe this replica.
	TryLock(ctx context.Context, name string) (vault.Lock, bool, error)
	Unlock(ctx context.Context, l vault.Lock) error
	// Due returns what is due until then, oldest first; next is where to go on, "" = there is no more.
	Due(ctx context.Context, until time.Time, after string, limit int) (list []vault.Due, next string, err error)
	// Forget removes a mark of a tenant that is gone; fault.Conflict if there is one.
	Forget(ctx context.Context, d vault.Due) error
	// Commit is used to move marks alone; everything else is changed through the Keeper.
	Commit(ctx context.Context, o vault.Owner, b vault.Batch) (rev int64, err error)
}

// Issuer obtains certificates from ACME servers. *acme.Engine is one; see there.
type Issuer interface {
	Obtain(ctx context.Context, o acme.Order) (chainPEM []byte, err error)
	Revoke(ctx context.Context, account tenant.ACME, accounts certmagic.Storage, chainPEM []byte, reason int) error
	RenewalInfo(ctx context.Context, account tenant.ACME, leaf *x509.Certificate) (start, end, pollAgain time.Time, err error)
	ChallengeCertificate(ctx context.Context, tokens certmagic.Storage, host string) (*tls.Certificate, error)
	HTTPChallenge(tokens func(host string) (certmagic.Storage, bool), w http.ResponseWriter, r *http.Request)
}

// Observer counts. *telemetry.Metrics is one.
type Observer interface {
	// CertificateOrdered is called at the end of each order; code is "" or one of the words of a status.
	CertificateOrdered(source tenant.CertificateSource, code string)
}

// Limits bound what is ordered. Zero fields are the defaults.
type Limits struct {
	OrdersPerMinute        int // of this replica; divided by Config.Replicas
	OrdersPerTenantPerHour int // divided likewise, and never less than one
	Concurrent             int // orders in progress on this replica
	PerIssuer              int // of those, at one directory; 0 = half of Concurrent
}

// Config is what a Manager is made with.
type Config struct {
	Store   Store   // required
	Wrapper Wrapper // required

	// Lookup returns the tenant of a host (lower case), by the index. It is asked on every handshake, for what is in memory
	// too, so it answers from memory. A nil entry is the platform. Required.
	Lookup func(host string) (*tenant.Entry, bool)

	BaseDomain string   // under which every tenant has a host
	ExtraHosts []string // hosts of the platform itself: the shared hosts
	AdminHosts []string // names and addresses of AdminCertificate, beside localhost, 127.0.0.1 and ::1

	// Keeper and Vault keep certificates and the queue of orders for all replicas. nil = there are none but those of the local
	// authority.
	Keeper *keep.Keeper
	Vault  Vault

	// ACME orders certificates; nil = none are.
	ACME Issuer
	// Default is where certificates come from when a tenant does not say. The zero value is the local authority. The EABKey of
	// its account is in the clear, other than in a tenant's record.
	Default tenant.Certificates
	// Means describes what else an order depends on, such as the challenges that can be answered. Once it is another, what
	// failed before is not waited for any more.
	Means string
	// Wildcard orders one certificate for *.BaseDomain, in place of one for each tenant that has the platform's source. One that
	// operators provided for *.BaseDomain is used without it too.
	Wildcard bool
	// OpenSecret opens a sealed value of a tenant's record. Required for tenants' own ACME accounts and client certificates.
	OpenSecret func(id tenant.ID, name, sealed string) (string, error)
	// Entry makes the audit record of what the Manager does by itself; e is nil for the platform. nil = nothing is recorded.
	Entry func(e *tenant.Entry, a authz.Action, resource, outcome string) (audit.Entry, error)

	Limits   Limits
	Replicas func() int // how many replicas there are, among which rates are divided; nil = 1

	OCSP        bool                                                              // staple OCSP answers where the issuer offers them
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error) // for OCSP: responders are named by certificates that people bring; nil = the network as it is

	TicketKeys     func(keys [][32]byte) // gets the session ticket keys that all replicas share, whenever they change; nil = they are not shared
	TicketRotation time.Duration         // 0 = DefaultTicketRotation

	Observer Observer         // nil = nothing is counted
	Logger   *slog.Logger     // nil = nothing is logged
	LeafLife time.Duration    // of the local authority's certificates; 0 = DefaultLeafLife
	Resident int              // certificates kept in memory; 0 = DefaultResident
	Now      func() time.Time // nil = time.Now
}

// withDefaults fills in what cfg leaves out.
func (cfg Config) withDefaults() Config {
	orElse(&cfg.LeafLife, DefaultLeafLife)
	orElse(&cfg.Resident, DefaultResident)
	orElse(&cfg.TicketRotation, DefaultTicketRotation)
	orElse(&cfg.Limits.OrdersPerMinute, DefaultOrdersPerMinute)
	orElse(&cfg.Limits.OrdersPerTenantPerHour, DefaultOrdersPerTenantPerHour)
	orElse(&cfg.Limits.Concurrent, DefaultConcurrent)
	orElse(&cfg.Limits.PerIssuer, max(1, cfg.Limits.Concurrent/2))
	orElse(&cfg.Default.Source, tenant.SourceLocalCA)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Replicas == nil {
		cfg.Replicas = func() int { return 1 }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	}
	if e, ok := cfg.ACME.(*acme.Engine); ok && e == nil {
		cfg.ACME = nil // an interface that holds a nil pointer is not nil
	}
	return cfg
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate checks a Config that has its defaults.
func (cfg *Config) validate() error {
	switch l := cfg.Limits; {
	case cfg.Store == nil || cfg.Wrapper == nil || cfg.Lookup == nil:
		return errors.New("certs: Store, Wrapper and Lookup are required")
	case (cfg.Keeper == nil) != (cfg.Vault == nil):
		return errors.New("certs: Keeper and Vault belong together")
	case cfg.LeafLife < backdate || cfg.LeafLife > rootLife:
		return fmt.Errorf("certs: a leaf life of %s: %s to %s are allowed", cfg.LeafLife, backdate, rootLife)
	case l.OrdersPerMinute < 0 || l.OrdersPerTenantPerHour < 0 || l.Concurrent < 0 || l.PerIssuer < 0:
		return errors.New("certs: a negative limit of orders")
	case cfg.TicketRotation < 0:
		return errors.New("certs: a negative ticket rotation")
	}
	return nil
}

// wildcardHost returns the platform's wildcard, or "".
func (cfg *Config) wildcardHost() string {
	if cfg.BaseDomain == "" {
		return ""
	}
	return "*." + strings.ToLower(cfg.BaseDomain)
}
