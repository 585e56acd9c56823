// Package acme obtains certificates from ACME servers (RFC 8555): it keeps one account at each server, proves hosts by
// tls-alpn-01, http-01 or dns-01, and says in plain words what went wrong. When to order, for whom, and where certificates
// are kept is its caller's business; accounts and open challenges lie in the storage that each call brings, so that any
// replica answers a challenge that another one began.
package acme

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of what an ACME server may cost.
const (
	defaultRequestTime = 30 * time.Second
	defaultOrderTime   = 10 * time.Minute
	maxNames           = 100              // of one order: what public authorities take
	maxBody            = 1 << 20          // bytes of one answer
	maxChain           = 64 << 10         // bytes of a certificate chain: what the keeper takes too
	cleanUpTime        = 15 * time.Second // for taking one challenge back, whatever became of the order
)

// Config is what an Engine is made of.
type Config struct {
	// DialContext opens every connection to ACME servers and to the DNS webhook. Directories are named by people, so it is the
	// place to refuse addresses inside. nil = the network as it is.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// DNS is how TXT records are set for dns-01; nil = not at all, then no wildcard can be ordered.
	DNS *DNS
	// HTTP01 and TLSALPN01 say which of these challenges may be used for names that are no wildcards. Without any, such an
	// order fails and says so.
	HTTP01, TLSALPN01 bool
	// Resolvers are the DNS servers, as host:port, that are asked for the zone of a name and whether a TXT record has arrived.
	// Empty = the system's, and then the zone's own servers.
	Resolvers []string
	// Logger takes a line for each order; nil = none.
	Logger *slog.Logger
	// UserAgent goes before the library's own (RFC 8555 §6.1 asks for it).
	UserAgent string
	// Now is the clock; nil = time.Now. Certificates of servers and those that are issued are judged by it.
	Now func() time.Time
	// RequestTime bounds one request to a server with its answer; 0 = 30 s.
	RequestTime time.Duration
	// OrderTime bounds one order from the first request to the chain; 0 = 10 min.
	OrderTime time.Duration
}

// Engine talks to ACME servers. It keeps nothing between calls but what the storages hold, runs nothing in the background,
// and is safe for concurrent use.
type Engine struct {
	cfg Config
	dns *certmagic.DNS01Solver // nil = no dns-01
}

// New returns an engine, or says which of the settings is wrong.
func New(cfg Config) (*Engine, error) {
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.RequestTime == 0 {
		cfg.RequestTime = defaultRequestTime
	}
	if cfg.OrderTime == 0 {
		cfg.OrderTime = defaultOrderTime
	}
	e := &Engine{cfg: cfg}
	if cfg.DNS != nil {
		var err error
		if e.dns, err = newDNSSolver(&cfg); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Order is a certificate that is wanted.
type Order struct {
	// Account says at which server and as whom. Its EABKey is in the clear here; it appears in no error and no log.
	Account tenant.ACME
	// Accounts keeps the account's key and its URL. Those who share it share the account.
	Accounts certmagic.Storage
	// Tokens keeps open challenges, where ChallengeCertificate and HTTPChallenge of any replica find them.
	Tokens certmagic.Storage
	// Names are DNS names in lower case; a wildcard begins with "*.".
	Names []string
	// Key is the certificate's.
	Key crypto.Signer
	// Replaces is the certificate that this one follows (RFC 9773 §5), which spares rate limits at servers that know of it;
	// nil = none.
	Replaces *x509.Certificate
	// Resume is the URL of an order that was begun with Key, of which nobody knows what became; "" = none. It is finished, if the
	// server still has it, so that nothing is issued twice for a process that ended in between.
	Resume string
	// Begun is told the URL of the order before the server is asked to issue. Its error ends the order. nil = nobody is told.
	Begun func(ctx context.Context, order string) error
}

func (o *Order) validate(e *Engine) error {
	switch {
	case o.Accounts == nil || o.Tokens == nil || o.Key == nil:
		return &Error{Code: CodeInternal, Permanent: true, Detail: "the order names no storage or no key", Err: errors.New("incomplete order")}
	case len(o.Names) == 0 || len(o.Names) > maxNames:
		return &Error{Code: CodeRejectedIdentifier, Permanent: true, Detail: "an order is for 1 to 100 names"}
	}
	for i, name := range o.Names {
		base, wild := strings.CutPrefix(name, "*.")
		if tenant.CheckHost(base) != nil || slices.Contains(o.Names[:i], name) {
			return &Error{Code: CodeRejectedIdentifier, Permanent: true, Detail: "the name " + quote(name) + " is not a DNS name in lower case, or given twice"}
		}
		if wild && e.dns == nil {
			return &Error{Code: CodeDNS, Permanent: true, Detail: "a certificate for " + quote(name) + " is proven by dns-01: set certificates.acme.dns"}
		}
		if !wild && !e.cfg.HTTP01 && !e.cfg.TLSALPN01 {
			return &Error{Code: CodeChallengeFailed, Permanent: true, Detail: "no challenge is allowed that proves " + quote(name) + ": allow tls-alpn-01, or http-01 with listen.plain, in certificates.acme.challenges"}
		}
	}
	return nil
}
