package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// provider is what an issuer says about itself.
type provider struct {
	Endpoint   oauth2.Endpoint // authorization and token; "" = the issuer has none
	EndSession string          // RP-initiated logout; "" = the issuer has none
	Methods    []string        // code challenge methods it supports; none = unsaid
	SaysIssuer bool            // it names itself in each authorization response (RFC 9207)
	JWKS       string
	Client     *http.Client // with which to ask it: bounded, its dials guarded, its roots those of the authenticator
}

// provider returns what the issuer of an authenticator says about itself, from memory or by asking. Where it cannot be
// asked the error is a fault.Unavailable.
func (s *Service) provider(ctx context.Context, trusted bool, o *tenant.OIDC) (*provider, error) {
	i, err := s.issuers.of(trusted, o)
	if err != nil {
		return nil, err
	}
	return i.known(ctx)
}

// terms is what a token is judged by, beside its signature.
type terms struct {
	o             *tenant.OIDC
	tenant        string // its uid; "" = the platform, for its operators
	authenticator string // its name
	generation    string
	base          string // the tenant's base URL: the audience where none is configured
	now           time.Time
	login         bool   // the token is the id token of a browser login
	nonce         string // of that login
}

// judge decides everything about a token but its signature and its scopes, and so before anybody is asked for a key: a token
// that is no good anyhow causes no fetch. It is a pure function.
func (t *terms) judge(h *joseHeader, c claims) (*user, error) {
	if !slices.Contains(t.algorithms(), h.Alg) {
		return nil, errors.New("an algorithm that is not allowed")
	}
	if t.login && !h.isID() || !h.isAccess() {
		return nil, errors.New("a token for another purpose")
	}
	if iss, ok := c["iss"].(string); !ok || iss != t.o.Issuer {
		return nil, errors.New("another issuer")
	}
	if err := t.checkParties(c); err != nil {
		return nil, err
	}
	issued, expires, err := c.moments(t.now)
	if err != nil {
		return nil, err
	}
	for path, want := range t.o.RequiredClaims {
		if !c.holds(path, want) {
			return nil, fmt.Errorf("the claim %s is not as required", path)
		}
	}
	who, name, err := c.mapped(&t.o.Claims)
	if err != nil {
		return nil, err
	}
	who.Authenticator, who.Generation, who.Issuer, who.Issued = t.authenticator, t.generation, t.o.Issuer, issued
	return &user{claims: who, username: name, expires: expires}, nil
}

func (t *terms) algorithms() []string {
	if len(t.o.Algorithms) == 0 {
		return tenant.DefaultAlgorithms()
	}
	return t.o.Algorithms
}

// checkParties checks for whom the token was made, and by whom it may be used.
func (t *terms) checkParties(c claims) error {
	audiences, ok := c.list("aud")
	if text, is := c["aud"].(string); is {
		audiences = []string{text} // one audience, whatever blanks it has
	}
	if !ok || len(audiences) == 0 {
		return errors.New("no aud")
	}
	if t.login {
		return t.checkLogin(c, audiences)
	}
	if !slices.ContainsFunc(audiences, t.isAudience) {
		return errors.New("another audience")
	}
	if len(t.o.ClientIDs) == 0 {
		return nil
	}
	said := false
	for _, name := range []string{"azp", "client_id"} {
		v, there := c[name]
		if !there {
			continue
		}
		id, _ := v.(string)
		if said = true; !slices.Contains(t.o.ClientIDs, id) {
			return errors.New("a client that is not allowed")
		}
	}
	if !said {
		return errors.New("neither azp nor client_id")
	}
	return nil
}

// checkLogin is what OpenID Connect Core §3.1.3.7 asks of an id token's parties and nonce.
func (t *terms) checkLogin(c claims, audiences []string) error {
	client := t.o.Login.ClientID
	azp, there := c["azp"]
	switch {
	case !slices.Contains(audiences, client):
		return errors.New("an id token of another client")
	case there && azp != client, !there && len(audiences) > 1:
		return errors.New("an id token for another client")
	case t.nonce == "" || c["nonce"] != t.nonce:
		return errors.New("an id token of another login")
	}
	return nil
}

// isAudience says whether aud means this tenant here: one of the configured audiences or, where there are none, the tenant's own
// URL or one under it (RFC 8707). "Under" ends at a '/', or team-a would take the tokens of team-ab.
func (t *terms) isAudience(aud string) bool {
	if len(t.o.Audiences) > 0 {
		return slices.Contains(t.o.Audiences, aud)
	}
	return t.base != "" && (aud == t.base || strings.HasPrefix(aud, t.base+"/"))
}

// judged is judge with the error that callers see.
func (t *terms) judged(h *joseHeader, c claims) (*user, error) {
	u, err := t.judge(h, c)
	if err != nil {
		return nil, fault.Wrap(fault.Unauthenticated, err, "authentication required")
	}
	return u, nil
}

// verify checks a token's signature by the keys of the issuer of some settings.
func (s *Service) verify(ctx context.Context, trusted bool, t *terms, c *compact) (proof, error) {
	i, err := s.issuers.of(trusted, t.o)
	if err != nil {
		return proof{}, err
	}
	return i.verify(ctx, c, t.algorithms(), func() (func(), error) { return s.turns.enter(ctx, t.tenant) })
}

// proof is the key that a token was verified with.
type proof struct {
	issuer *issuer
	set    *keySet
	key    *key
}

// verify checks a token's signature by the issuer's keys.
func (i *issuer) verify(ctx context.Context, c *compact, algorithms []string, turn func() (leave func(), err error)) (proof, error) {
	set, err := i.keys(ctx, func(s *keySet) bool { _, known := s.find(&c.header); return known })
	if err != nil {
		return proof{}, err
	}
	for newer := true; newer; set, newer = i.newer(ctx, set) {
		k, _ := set.find(&c.header)
		if k == nil {
			return proof{}, unauthenticated("a key that does not fit the token, or two that do")
		}
		leave, busy := turn() // for the check alone: waiting for keys takes nobody's place
		if busy != nil {
			return proof{}, busy
		}
		err = k.verify(c, algorithms)
		leave()
		if err == nil {
			return proof{i, set, k}, nil
		}
	}
	return proof{}, fault.Wrap(fault.Unauthenticated, err, "authentication required")
}

// checkScopes says whether the token has the scopes that are required. It is asked last: that a scope is missing is told to
// those alone whose token is good.
func checkScopes(o *tenant.OIDC, u *user) error {
	for _, scope := range o.RequiredScopes {
		if !slices.Contains(u.claims.Scopes, scope) {
			return fault.Wrap(fault.Forbidden, &ScopeError{Scopes: o.RequiredScopes}, "this token lacks a scope: ask for %s", strings.Join(o.RequiredScopes, " "))
		}
	}
	return nil
}

// VerifyOIDC verifies a token by settings that belong to no tenant, such as those of platform operators. Errors are those of
// Authenticate.
func (s *Service) VerifyOIDC(ctx context.Context, trusted bool, o *tenant.OIDC, base, token string) (c *tenant.Claims, username string, expires time.Time, err error) {
	parsed, said, err := parseToken(token)
	if err != nil {
		return nil, "", time.Time{}, err
	}
	t := &terms{o: o, base: base, now: s.cfg.Now()}
	u, err := t.judged(&parsed.header, said)
	if err != nil {
		return nil, "", time.Time{}, err
	}
	if _, err = s.verify(ctx, trusted, t, parsed); err == nil {
		err = checkScopes(o, u)
	}
	if err != nil {
		return nil, "", time.Time{}, err
	}
	return u.claims, u.username, u.expires, nil
}

// verifyLogin verifies the id token that a code exchange of the authenticator's Login returned: aud is its client, the nonce
// the login's. Its scopes are not judged.
func (s *Service) verifyLogin(ctx context.Context, e *tenant.Entry, a *tenant.Authenticator, token, nonce string) (*user, error) {
	parsed, said, err := parseToken(token)
	if err != nil {
		return nil, err
	}
	t := &terms{o: a.OIDC, tenant: e.Scope.UID(), authenticator: a.Name, generation: a.Generation, now: s.cfg.Now(), login: true, nonce: nonce}
	u, err := t.judged(&parsed.header, said)
	if err != nil {
		return nil, err
	}
	if _, err := s.verify(ctx, isTrusted(a), t, parsed); err != nil {
		return nil, err
	}
	return u, nil
}

// isTrusted says whether an operator declared the authenticator, so that its issuer may be anywhere.
func isTrusted(a *tenant.Authenticator) bool { return a.Source == tenant.SourceFile }
