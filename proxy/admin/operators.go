package admin

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Token is a bearer token of platform operators, by its hash.
type Token struct {
	Name string               // for audit records; unique, without '/'
	Kind tenant.PrincipalKind // KindOperator or KindAuditor
	Hash tenant.Hash          // tenant.HashKey of the token; the zero hash admits nobody
}

// Match names users and groups of one issuer. They are compared byte for byte.
type Match struct {
	Users  []string // subjects, not user names, which their owners may be able to change
	Groups []string
}

func (m Match) has(c *tenant.Claims) bool {
	if slices.Contains(m.Users, c.Subject) && c.Subject != "" {
		return true
	}
	return slices.ContainsFunc(c.Groups, func(g string) bool { return g != "" && slices.Contains(m.Groups, g) })
}

// OperatorRules say which users of an issuer are platform operators. Whoever is not named is nobody.
type OperatorRules struct {
	Operators Match // may do everything here
	Auditors  Match // may look and change nothing
}

// Kind returns what somebody is by the rules; false for nobody, which is the default. Who is named as both is an operator,
// as with every membership the greater counts.
func (r OperatorRules) Kind(c *tenant.Claims) (tenant.PrincipalKind, bool) {
	switch {
	case c == nil:
		return "", false
	case r.Operators.has(c):
		return tenant.KindOperator, true
	case r.Auditors.has(c):
		return tenant.KindAuditor, true
	}
	return "", false
}

// Issuer is an OpenID Connect issuer of operators' tokens.
type Issuer struct {
	Name  string       // a part of each of its users' identity: <name>/<subject>; as an authenticator's
	OIDC  *tenant.OIDC // with audiences: a token that was made for anything else is not good here
	Rules OperatorRules
}

// Verifier verifies tokens. *authn.Service implements it.
type Verifier interface {
	// VerifyOIDC verifies a token by o. The error is fault.Unavailable if that cannot be done now.
	VerifyOIDC(ctx context.Context, trusted bool, o *tenant.OIDC, base, token string) (c *tenant.Claims, username string, expires time.Time, err error)
}

// OperatorsConfig says who platform operators are. Without tokens and issuers, nobody is.
type OperatorsConfig struct {
	Tokens   func() []Token // those that hold now; optional
	Issuers  []Issuer
	Verifier Verifier // required with Issuers
}

// Operators knows platform operators by their tokens. Its Authenticate is for Config.Authenticate.
type Operators struct {
	cfg OperatorsConfig
}

// NewOperators checks cfg.
func NewOperators(cfg OperatorsConfig) (*Operators, error) {
	if len(cfg.Issuers) > 0 && cfg.Verifier == nil {
		return nil, errors.New("admin: issuers of operators' tokens need a Verifier")
	}
	seen := make(map[string]bool, len(cfg.Issuers))
	for i := range cfg.Issuers {
		is := &cfg.Issuers[i]
		if err := is.check(); err != nil {
			return nil, err
		}
		if seen[is.Name] {
			return nil, fmt.Errorf("admin: issuer %q is there twice", is.Name)
		}
		seen[is.Name] = true
	}
	return &Operators{cfg: cfg}, nil
}

func (is *Issuer) check() error {
	a := tenant.Authenticator{Name: is.Name, Type: tenant.AuthnOIDC, OIDC: is.OIDC}
	if err := a.Validate(); err != nil {
		return fmt.Errorf("admin: issuer of operators' tokens: %w", err)
	}
	if len(is.OIDC.Audiences) == 0 {
		return fmt.Errorf("admin: issuer %q has no audiences: a token for any other service would be good here", is.Name)
	}
	return nil
}

// nobody is the one refusal.
func nobody() error { return fault.New(fault.Unauthenticated, "no valid operator token") }

// Authenticate returns whom a bearer token stands for: a principal of the kind operator or auditor. The error is
// fault.Unauthenticated for nobody, and fault.Unavailable where its issuer cannot be asked now.
func (o *Operators) Authenticate(ctx context.Context, token string) (tenant.Principal, error) {
	if o.cfg.Tokens != nil {
		if p, ok := holder(o.cfg.Tokens(), token); ok {
			return p, nil
		}
	}
	refusal := nobody()
	for i := range o.cfg.Issuers {
		p, err := o.fromIssuer(ctx, &o.cfg.Issuers[i], token)
		switch {
		case err == nil:
			return p, nil
		case fault.Is(err, fault.Unavailable):
			refusal = err
		}
	}
	return tenant.Principal{}, refusal
}

// holder finds the token of a hash. All are compared, each in constant time, so that the time tells nothing of which one
// came near. One that is there as an operator's and an auditor's is an auditor's.
func holder(tokens []Token, token string) (p tenant.Principal, ok bool) {
	hash := tenant.HashKey(token)
	for _, t := range tokens {
		valid := t.Hash != (tenant.Hash{}) && t.Name != "" && !strings.Contains(t.Name, "/") &&
			(t.Kind == tenant.KindOperator || t.Kind == tenant.KindAuditor)
		if subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 || !valid || ok && t.Kind == tenant.KindOperator {
			continue
		}
		p, ok = tenant.Principal{Kind: t.Kind, ID: t.Name, Name: t.Name, Via: tenant.ViaToken}, true
	}
	return p, ok
}

func (o *Operators) fromIssuer(ctx context.Context, is *Issuer, token string) (tenant.Principal, error) {
	said, username, expires, err := o.cfg.Verifier.VerifyOIDC(ctx, true, is.OIDC, "", token)
	if err != nil {
		return tenant.Principal{}, err
	}
	kind, ok := is.Rules.Kind(said)
	if !ok || said.Subject == "" {
		return tenant.Principal{}, nobody()
	}
	claims := *said // it may be shared
	claims.Authenticator = is.Name
	return tenant.Principal{
		Kind: kind, ID: tenant.UserID(is.Name, claims.Subject), Name: username, Via: tenant.ViaOIDC, Expires: expires, Claims: &claims,
	}, nil
}

// admissible says whether a principal is one that this listener lets in, whoever vouched for it: an operator or an auditor,
// of no tenant, whose credential has not ended.
func admissible(p tenant.Principal, now time.Time) bool {
	kind := p.Kind == tenant.KindOperator || p.Kind == tenant.KindAuditor
	return kind && p.ID != "" && p.Tenant == "" && p.Role == tenant.NoRole && (p.Expires.IsZero() || now.Before(p.Expires))
}
