package authn

import "github.com/polygate/polygate/internal/tenant"

// certPrincipal judges the request's client certificate by one authenticator. ok is false where it is none of that
// authenticator's.
func (s *Service) certPrincipal(e *tenant.Entry, a *tenant.Authenticator, ev Evidence) (p tenant.Principal, ok bool, err error) {
	return tenant.Principal{}, false, nil
}
