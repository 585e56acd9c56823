package authn

import (
	"context"
	"fmt"
	"strings"

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

func (s *Service) fromToken(ctx context.Context, e *tenant.Entry, ev Evidence) (tenant.Principal, error) {
	return tenant.Principal{}, unauthenticated("not built")
}
