package authn

import "github.com/polygate/polygate/internal/tenant"

// JudgeHeaders judges the identity headers of a request whose sender is known by other means, such as an API key. From
// anybody but the tenant's trusted upstream they are a fault.Invalid (X25); beside another credential they name a second
// principal, and the request is refused.
func (s *Service) JudgeHeaders(e *tenant.Entry, ev Evidence) error {
	_, named, err := s.fromUpstream(e, ev)
	if err == nil && named {
		err = unauthenticated("identity headers beside another credential")
	}
	return err
}
