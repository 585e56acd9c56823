package authn

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Evidence is what one request shows of who sent it. API keys are not among it: they are resolved before, in memory.
type Evidence struct {
	Bearer    string              // the token of an Authorization: Bearer, as Credential read it
	HasBearer bool                // a Bearer was sent; a malformed one is refused, whatever else was sent
	Cookie    string              // the value of the session cookie; "" = none
	Peer      []*x509.Certificate // the client's certificates as presented: TLS proved possession of the first one's key, nothing else
	Header    map[string][]string // the request's header with canonical names, for the identity headers of upstreams
	Remote    netip.Addr          // the peer's address
	Host      string              // as judged: lower case, without port
	Base      string              // the tenant's base URL here: https://host[:port][/tenant/x], no final '/'
}

// Config is what a Service is made with.
type Config struct {
	// Dial returns the dial function for issuers: guarded for those that a tenant's admins named, free for those that an
	// operator declared in a file (trusted). Required.
	Dial func(trusted bool) func(ctx context.Context, network, addr string) (net.Conn, error)
	// Reviewer asks the platform's Kubernetes API server about tokens. nil = authenticators of that type answer 503.
	Reviewer Reviewer
	// Secret is the platform's secret, from which each tenant's keys for cookies are derived. nil = no browser login.
	Secret []byte
	// Once keeps what may be used one time only, such as the hand-over of a login to another host. nil = in memory.
	Once OnceStore
	// CacheBytes bounds the cache of verified tokens; 0 = 64 MiB. One tenant gets at most an eighth of it.
	CacheBytes int64
	Now        func() time.Time // nil = time.Now
	Logger     *slog.Logger     // nil = none
}

// Service says who sent a request. It is safe for concurrent use, and holds no goroutine while nothing is asked of it.
type Service struct {
	cfg     Config
	issuers *issuers
	cache   *cache
	reviews *reviews
	turns   *turns
	certs   *certs
	browser *browser

	fetches sync.WaitGroup // of issuers' documents, which outlive the request that began them by 5 s at most
}

// New returns a service.
func New(cfg Config) (*Service, error) {
	if cfg.Dial == nil {
		return nil, fault.New(fault.Internal, "authn.Config.Dial is missing: pass egress.Guard.DialContext")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 64 << 20
	}
	s := &Service{cfg: cfg, turns: newTurns(), cache: newCache(cfg.CacheBytes), certs: newCerts()}
	s.issuers, s.reviews = newIssuers(s), newReviews(s)
	var err error
	if s.browser, err = newBrowser(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Close waits for the fetches that are under way. Nothing may be asked of the service afterwards.
func (s *Service) Close() { s.fetches.Wait() }

// Authenticate returns who sent a request to a tenant. The principal's role is what the tenant's record grants it now;
// NoRole is somebody whom an authenticator vouches for and who is no member.
//
// The error is a fault.Unauthenticated where there is no credential or one that is not good, and does not tell which; a
// fault.Invalid for an identity header from anybody but the tenant's trusted upstream (X25); a fault.Forbidden that wraps a
// *ScopeError for a good token without the scopes that its authenticator requires; a fault.Unavailable where it cannot be
// known now, because an issuer or the API server cannot be reached.
//
// Every credential of the request is judged. Those of two principals in one request are refused: a hop before us may have
// judged the other one.
func (s *Service) Authenticate(ctx context.Context, e *tenant.Entry, ev Evidence) (tenant.Principal, error) {
	who, upstream, err := s.fromUpstream(e, ev)
	if err != nil {
		return tenant.Principal{}, err
	}
	if ev.HasBearer {
		p, err := s.fromToken(ctx, e, ev)
		if err != nil {
			return tenant.Principal{}, err
		}
		if who, err = same(who, p); err != nil {
			return tenant.Principal{}, err
		}
	}
	if ev.Cookie != "" {
		p, ok, err := s.cookiePrincipal(e, ev)
		if err != nil {
			return tenant.Principal{}, err
		}
		if ok {
			if who, err = same(who, p); err != nil {
				return tenant.Principal{}, err
			}
		}
	}
	if len(ev.Peer) > 0 && !upstream { // the certificate of a trusted upstream is its own, and not its user's
		if who, err = s.fromCertificate(e, ev, who); err != nil {
			return tenant.Principal{}, err
		}
	}
	if who.Kind == "" {
		return tenant.Principal{}, unauthenticated("no credential")
	}
	return who, nil
}

// same returns the principal of two credentials; the first may be none yet.
func same(a, b tenant.Principal) (tenant.Principal, error) {
	if a.Kind == "" {
		return b, nil
	}
	if a.Ref() != b.Ref() {
		return tenant.Principal{}, unauthenticated("two credentials of two principals")
	}
	return a, nil
}

// unauthenticated is the one refusal. Why is for the log alone.
func unauthenticated(why string) error {
	return fault.Wrap(fault.Unauthenticated, refusal(why), "authentication required")
}

// refusal says, for the log, why a credential was refused.
type refusal string

// Error implements error.
func (r refusal) Error() string { return string(r) }

func (s *Service) fromUpstream(e *tenant.Entry, ev Evidence) (p tenant.Principal, ok bool, err error) {
	for i := range e.Record.Authenticators {
		a := &e.Record.Authenticators[i]
		if a.Type != tenant.AuthnUpstream {
			continue
		}
		return s.upstreamPrincipal(e, a, ev) // there is one at most (tenant.Record.Validate)
	}
	return tenant.Principal{}, false, nil
}

func (s *Service) fromCertificate(e *tenant.Entry, ev Evidence, who tenant.Principal) (tenant.Principal, error) {
	for i := range e.Record.Authenticators {
		a := &e.Record.Authenticators[i]
		if a.Type != tenant.AuthnMTLS {
			continue
		}
		p, ok, err := s.certPrincipal(e, a, ev)
		if err != nil {
			return tenant.Principal{}, err
		}
		if ok {
			return same(who, p)
		}
	}
	return who, nil
}

// Changed tells of a change of a tenant's routing record; a nil entry means that the tenant is gone.
func (s *Service) Changed(id tenant.ID, e *tenant.Entry) {
	s.cache.changed(id, e)
	s.reviews.changed(id, e)
}

// user is what one credential proves.
type user struct {
	claims   *tenant.Claims
	username string
	expires  time.Time
}

// principal returns the user as the entry's record sees it now; ok is false where the record no longer trusts the credential.
func (u *user) principal(e *tenant.Entry, via tenant.Via, now time.Time) (p tenant.Principal, ok bool) {
	p = tenant.Principal{
		Tenant: e.Record.ID, Kind: tenant.KindUser, ID: tenant.UserID(u.claims.Authenticator, u.claims.Subject),
		Name: u.username, Via: via, Expires: u.expires, Claims: u.claims,
	}
	p.Role, ok = e.Record.Standing(p, now)
	if via == tenant.ViaKubernetes {
		ok = ok && admits(e.Record, u.claims)
	}
	return p, ok
}
