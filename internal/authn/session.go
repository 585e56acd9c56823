package authn

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// OnceStore remembers what was used, for all replicas.
type OnceStore interface {
	// First says whether id is used for the first time in a tenant. It may be forgotten after until.
	First(ctx context.Context, scope tenant.Scope, id string, until time.Time) (bool, error)
}

// cookiePrincipal judges the request's session cookie. ok is false where it is no good any more: browsers send stale cookies.
func (s *Service) cookiePrincipal(e *tenant.Entry, ev Evidence) (p tenant.Principal, ok bool, err error) {
	return tenant.Principal{}, false, nil
}
