package authn

import "github.com/polygate/polygate/internal/tenant"

// upstreamPrincipal judges the request's identity headers. ok is false where there are none; they are a fault.Invalid where
// the peer is not the trusted upstream.
func (s *Service) upstreamPrincipal(e *tenant.Entry, a *tenant.Authenticator, ev Evidence) (p tenant.Principal, ok bool, err error) {
	return tenant.Principal{}, false, nil
}
