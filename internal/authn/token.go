package authn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// ScopeError says which scopes an authenticator requires that a token does not have: all that it requires, so that a client
// can ask for them at once (RFC 6750 §3.1). It is the cause of a fault.Forbidden.
type ScopeError struct {
	Scopes []string
}

// Code is the error code of the WWW-Authenticate challenge.
func (*ScopeError) Code() string { return "insufficient_scope" }

// Error implements error.
func (e *ScopeError) Error() string {
	return fmt.Sprintf("insufficient scope: %s required", strings.Join(e.Scopes, " "))
}

// parseToken takes a token and its claims apart, and believes nothing yet.
func parseToken(token string) (*compact, claims, error) {
	c, err := parseCompact(token)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Unauthenticated, err, "authentication required")
	}
	said, err := parseClaims(c.payload)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Unauthenticated, err, "authentication required")
	}
	return c, said, nil
}

// fromToken says whose token a request carries. The cache is asked first; what it does not hold is proven, and kept.
func (s *Service) fromToken(ctx context.Context, e *tenant.Entry, ev Evidence) (tenant.Principal, error) {
	if ev.Bearer == "" || len(ev.Bearer) > MaxCredential {
		return tenant.Principal{}, unauthenticated("a malformed token")
	}
	k := cacheKey(e.Scope.UID(), ev.Base, ev.Bearer)
	if p, ok, err := s.remembered(ctx, e, k); ok || err != nil {
		return p, err
	}
	v, err := s.prove(ctx, e, ev, k)
	if err != nil {
		return tenant.Principal{}, err
	}
	p, ok := s.cache.put(e, k, v, s.cfg.Now())
	if !ok {
		return tenant.Principal{}, unauthenticated("revoked, or not admitted")
	}
	return p, nil
}

// remembered asks the cache. Not ok means that the token must be proven anew.
func (s *Service) remembered(ctx context.Context, e *tenant.Entry, k tokenKey) (tenant.Principal, bool, error) {
	v, p, ok := s.cache.get(e, k, s.cfg.Now())
	switch {
	case v == nil:
		return tenant.Principal{}, false, nil
	case v.user == nil:
		return tenant.Principal{}, false, unauthenticated(serverRefused)
	case !ok:
		s.cache.drop(e, k)
		return tenant.Principal{}, false, nil
	}
	if i := v.proof.issuer; i != nil && !v.current(s.cfg.Now()) {
		// The key must still be the issuer's: what it took back is refused although the token has not expired.
		thumb := v.proof.key.thumb
		set, err := i.keys(ctx, func(ks *keySet) bool { return ks.has(thumb) })
		if err != nil || i.dropped.Load() {
			s.cache.drop(e, k)
			if fault.Is(err, fault.Unauthenticated) {
				err = nil // proven anew, it may fit another key
			}
			return tenant.Principal{}, false, err
		}
		v.set.Store(set)
	}
	return p, true, nil
}

// prove proves a token that is not remembered. Its issuer decides which authenticators judge it: those of this tenant that
// have its iss, byte for byte, else those for Kubernetes, whose tokens need not be JWTs at all.
func (s *Service) prove(ctx context.Context, e *tenant.Entry, ev Evidence, k tokenKey) (*verified, error) {
	c, said, err := parseToken(ev.Bearer)
	if err == nil {
		if v, mine, err := s.proveOIDC(ctx, e, ev.Base, c, said); mine {
			return v, err
		}
		err = unauthenticated("an issuer that this tenant does not have")
	}
	return s.proveByReview(ctx, e, ev.Bearer, said, k, err)
}

// proveByReview proves a token by the authenticators for Kubernetes, the first that lets its bearer in. Without any, the error
// is the one given.
func (s *Service) proveByReview(ctx context.Context, e *tenant.Entry, token string, said claims, k tokenKey, err error) (*verified, error) {
	if strings.HasPrefix(token, KeyPrefix) {
		return nil, unauthenticated("an API key that is none of this tenant's") // and no business of an API server
	}
	asked := false
	for i := range e.Record.Authenticators {
		if a := &e.Record.Authenticators[i]; a.Type == tenant.AuthnKubernetes {
			v, rerr := s.review(ctx, e, a, token, said)
			if rerr == nil {
				return v, nil
			}
			asked, err = asked || errors.Is(rerr, refusal(serverRefused)), worse(err, rerr)
		}
	}
	if now := s.cfg.Now(); asked && fault.Is(err, fault.Unauthenticated) {
		// A client that tries again and again must not use up what its tenant may ask. Refusals are no more than reviews, which
		// are bounded; those of issuers' tokens cost no question and are not kept.
		s.cache.put(e, k, &verified{until: now.Add(refusalLife), refused: e.Record.Revision}, now)
	}
	return nil, err
}

// proveOIDC proves a token by the authenticators that have its issuer, the first that it satisfies. Not mine means that none
// has it.
func (s *Service) proveOIDC(ctx context.Context, e *tenant.Entry, base string, c *compact, said claims) (v *verified, mine bool, err error) {
	iss, _ := said["iss"].(string)
	for i := range e.Record.Authenticators {
		a := &e.Record.Authenticators[i]
		if a.Type != tenant.AuthnOIDC || a.OIDC.Issuer != iss {
			continue
		}
		mine = true
		v, aerr := s.proveBy(ctx, e, a, base, c, said)
		if aerr == nil {
			return v, true, nil
		}
		err = worse(err, aerr)
	}
	return nil, mine, err
}

func (s *Service) proveBy(ctx context.Context, e *tenant.Entry, a *tenant.Authenticator, base string, c *compact, said claims) (*verified, error) {
	now := s.cfg.Now()
	t := &terms{o: a.OIDC, tenant: e.Scope.UID(), authenticator: a.Name, generation: a.Generation, base: base, now: now}
	u, err := t.judged(&c.header, said)
	if err != nil {
		return nil, err
	}
	if _, ok := u.principal(e, tenant.ViaOIDC, now); !ok {
		return nil, unauthenticated("revoked") // and that costs no signature check
	}
	p, err := s.verify(ctx, isTrusted(a), t, c)
	if err != nil {
		return nil, err
	}
	if err := checkScopes(a.OIDC, u); err != nil {
		return nil, err
	}
	v := &verified{user: u, via: tenant.ViaOIDC, until: u.expires, proof: p}
	v.set.Store(p.set)
	return v, nil
}

// worse returns the error that tells more: a missing scope proves the rest, and "cannot be known now" must not become "no".
func worse(a, b error) error {
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case fault.Is(err, fault.Unauthenticated):
			return 1
		case fault.Is(err, fault.Forbidden):
			return 3
		}
		return 2
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}
