package authn

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/oauth2"

	"github.com/polygate/polygate/internal/tenant"
)

// provider is what an issuer says about itself.
type provider struct {
	Endpoint   oauth2.Endpoint // authorization and token
	EndSession string          // RP-initiated logout; "" = the issuer has none
	Methods    []string        // code challenge methods it supports; none = unsaid
	JWKS       string
	Client     *http.Client // with which to ask it: bounded, its dials guarded, its roots those of the authenticator
}

// provider returns what the issuer of an authenticator says about itself, from memory or by asking. Where it cannot be
// asked the error is a fault.Unavailable.
func (s *Service) provider(ctx context.Context, trusted bool, o *tenant.OIDC) (*provider, error) {
	return nil, errors.New("not built")
}

// verifyLogin verifies the id token that a code exchange of the authenticator's Login returned: aud is its client, the nonce
// the login's. Its scopes are not judged.
func (s *Service) verifyLogin(ctx context.Context, a *tenant.Authenticator, token, nonce string) (*user, error) {
	return nil, errors.New("not built")
}

// VerifyOIDC verifies a token by settings that belong to no tenant, such as those of platform operators. Errors are those of
// Authenticate.
func (s *Service) VerifyOIDC(ctx context.Context, trusted bool, o *tenant.OIDC, base, token string) (c *tenant.Claims, username string, expires time.Time, err error) {
	return nil, "", time.Time{}, errors.New("not built")
}

type issuers struct{}

func newIssuers(s *Service) *issuers { return &issuers{} }
