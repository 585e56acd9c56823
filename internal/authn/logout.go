package authn

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// LogoutReply is the answer to a logout. Revocation is to be committed to the tenant's record before the answer is sent; nil if there
// was no good session. Redirect is the issuer's own logout, where it has one.
type LogoutReply struct {
	SetCookies []string
	Revocation *tenant.Revocation
	Principal  tenant.Principal // whose session it was; zero with a nil Revocation
	Redirect   string
}

// Logout ends the request's session on all hosts of the tenant: they share its id. It takes POST alone, whose Origin the
// caller has checked (CheckOrigin), so that no foreign page logs anybody out.
func (s *Service) Logout(ctx context.Context, e *tenant.Entry, r LoginRequest) (LogoutReply, error) {
	if _, _, err := s.begin(e, r, http.MethodPost); err != nil {
		return LogoutReply{}, err
	}
	var reply LogoutReply
	for _, c := range cookiesNamed(r.Cookies, func(name string) bool { return strings.HasPrefix(name, cookiePrefix) && tokenName(name) }) {
		reply.SetCookies = append(reply.SetCookies, clearCookie(c.name))
	}
	v, p, ok := s.session(e, r.Host, sessionValue(r.Cookies))
	if !ok {
		return reply, nil
	}
	reply.Principal = p
	before := s.cfg.Now()
	if begun := time.UnixMilli(v.Issued); !before.After(begun) {
		before = begun.Add(time.Millisecond) // by another replica's clock, which is ahead
	}
	reply.Revocation = &tenant.Revocation{Principal: p.Ref(), Session: v.ID, Before: before, Until: time.UnixMilli(v.Expires)}
	reply.Redirect = s.endSession(ctx, e, v)
	return reply, nil
}

// endSession returns the issuer's logout (OpenID Connect RP-Initiated Logout §2); "" if it has none, or is not known now.
func (s *Service) endSession(ctx context.Context, e *tenant.Entry, v *session) string {
	a, ok := e.Record.AuthenticatorByName(v.Authenticator)
	if !ok || a.OIDC == nil || a.OIDC.Login == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, logoutBound)
	defer cancel()
	p, err := s.provider(ctx, isTrusted(a), a.OIDC)
	if err != nil || !httpsURL(p.EndSession) {
		return ""
	}
	u, err := url.Parse(p.EndSession)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", a.OIDC.Login.ClientID)
	u.RawQuery = q.Encode()
	return u.String()
}
