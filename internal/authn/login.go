package authn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// The paths of browser logins on a tenant's hosts. What they stand for is mounted by the front.
const (
	LoginPath    = "/.polygate/login"
	CallbackPath = "/.polygate/callback"
	LogoutPath   = "/.polygate/logout"
	HandoverPath = "/.polygate/handover"
	AcceptPath   = "/.polygate/accept"
)

// PagePolicy is the Content-Security-Policy of a LoginReply's page, which has neither script nor style.
const PagePolicy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Bounds of logins.
const (
	loginLife     = 10 * time.Minute // from the start of a login to its end
	keptLogins    = 4                // logins under way in one browser, each in a tab of its own: the oldest make way
	maxReturn     = 512              // bytes of return_to
	maxCode       = 2048             // bytes of an authorization code
	exchangeBound = 10 * time.Second // of asking the issuer for tokens
	maxExchanges  = 16               // of one tenant at a time
	logoutBound   = 2 * time.Second  // of finding the issuer's own logout
)

// LoginRequest is a request to one of the paths, as judged, on a tenant's own host.
type LoginRequest struct {
	Method  string
	Host    string   // lower case, without port
	Base    string   // https://host[:port]: never the shared host, whose cookies would be those of all tenants
	Query   string   // raw, without '?'
	Cookies []string // the Cookie fields, as received
}

// LoginReply is the answer: a redirect (303), or a page with PagePolicy.
type LoginReply struct {
	Redirect   string
	SetCookies []string
	Page       []byte           // HTML; set where Redirect is ""
	Principal  tenant.Principal // who logged in (LoginFinish) or was handed over (HandoverAccept)
}

// LoginStart begins a login at an issuer: authorization code with PKCE (RFC 7636), state and nonce. Where several
// authenticators have a login and the query names none (authenticator=), the reply is a page with a link to each. It asks
// the issuer for nothing that is not remembered and gated, and keeps nothing here.
func (s *Service) LoginStart(ctx context.Context, e *tenant.Entry, r LoginRequest) (LoginReply, error) {
	q, key, err := s.begin(e, r, http.MethodGet)
	if err != nil {
		return LoginReply{}, err
	}
	back, err := returnTo(q)
	if err != nil {
		return LoginReply{}, err
	}
	a, page, err := chooseLogin(e.Record, q, back)
	if err != nil || page != nil {
		return LoginReply{Page: page}, err
	}
	p, err := s.provider(ctx, isTrusted(a), a.OIDC)
	if err != nil {
		return LoginReply{}, fmt.Errorf("begin a login: %w", err)
	}
	now := s.cfg.Now()
	f := flow{
		Authenticator: a.Name, Generation: a.Generation, Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Return: back, Began: now.UnixMilli(),
	}
	state := newFlowID(now)
	to, err := authorizeURL(a.OIDC, p, r.Base, state, f)
	if err != nil {
		return LoginReply{}, err
	}
	set, err := keepFlow(key, loginCookie, state, r, f)
	return LoginReply{Redirect: to, SetCookies: set}, err
}

// begin checks what all the paths need.
func (s *Service) begin(e *tenant.Entry, r LoginRequest, method string) (url.Values, *seal.DataKey, error) {
	if r.Method != method { // a HEAD would use up what a GET is for
		return nil, nil, &fault.Error{Kind: fault.MethodNotAllowed, Detail: "use " + method, Allow: method}
	}
	if !ownBase(r.Base) {
		return nil, nil, fault.New(fault.Invalid, "browser login is on a tenant's own host only: open https://<tenant>.<base domain>%s", LoginPath)
	}
	key := s.browser.key(e.Scope.UID())
	if key == nil {
		return nil, nil, fault.New(fault.NotImplemented, "browser login is off: the platform has no secret to seal cookies with")
	}
	q, err := url.ParseQuery(r.Query)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "the query is malformed")
	}
	for name, values := range q {
		if len(values) > 1 {
			return nil, nil, fault.New(fault.Invalid, "query parameter %q is there twice", name)
		}
	}
	return q, key, nil
}

// chooseLogin returns the authenticator to log in with, or a page on which to choose one.
func chooseLogin(r *tenant.Record, q url.Values, back string) (*tenant.Authenticator, []byte, error) {
	var all []*tenant.Authenticator
	for i := range r.Authenticators {
		if a := &r.Authenticators[i]; a.OIDC != nil && a.OIDC.Login != nil {
			if a.Name == q.Get("authenticator") {
				return a, nil, nil
			}
			all = append(all, a)
		}
	}
	switch {
	case q.Get("authenticator") != "" || len(all) == 0:
		return nil, nil, fault.New(fault.NotFound, "no such login")
	case len(all) == 1:
		return all[0], nil, nil
	}
	page, err := choicePage(r, all, back)
	return nil, page, err
}

const choiceTemplate = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Log in to {{.Tenant}}</title></head>
<body><h1>Log in to {{.Tenant}}</h1><ul>
{{range .Choices}}<li><a href="{{.Link}}" rel="nofollow">{{.Name}}</a></li>
{{end}}</ul></body></html>
`

func choicePage(r *tenant.Record, all []*tenant.Authenticator, back string) ([]byte, error) {
	type choice struct{ Name, Link string }
	data := struct {
		Tenant  string
		Choices []choice
	}{Tenant: r.ID.String()}
	for _, a := range all {
		link := LoginPath + "?" + url.Values{"authenticator": {a.Name}, "return_to": {back}}.Encode()
		data.Choices = append(data.Choices, choice{a.Name, link})
	}
	t, err := template.New("login").Parse(choiceTemplate)
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	err = t.Execute(&page, data)
	return page.Bytes(), err
}

// authorizeURL returns where the browser is sent to log in.
func authorizeURL(o *tenant.OIDC, p *provider, base, state string, f flow) (string, error) {
	if len(p.Methods) > 0 && !slices.Contains(p.Methods, "S256") {
		return "", fault.New(fault.BadUpstream, "issuer %s does not support PKCE with S256, without which a stolen code could be used: enable it for this client", o.Issuer)
	}
	if !httpsURL(p.Endpoint.AuthURL) || !httpsURL(p.Endpoint.TokenURL) {
		return "", fault.New(fault.BadUpstream, "issuer %s names no https authorization and token endpoint: it cannot log browsers in", o.Issuer)
	}
	c := oauth2.Config{ClientID: o.Login.ClientID, Endpoint: p.Endpoint, RedirectURL: base + CallbackPath, Scopes: loginScopes(o)}
	return c.AuthCodeURL(state, oauth2.S256ChallengeOption(f.Verifier), oauth2.SetAuthURLParam("nonce", f.Nonce)), nil
}

// loginScopes returns what is asked of the issuer: the configured scopes, those that tokens need, and openid, without which
// there is no ID token.
func loginScopes(o *tenant.OIDC) []string {
	scopes := slices.Clone(o.Login.Scopes)
	if len(scopes) == 0 {
		scopes = []string{"openid", "profile", "email"}
	}
	for _, s := range append([]string{"openid"}, o.RequiredScopes...) {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func httpsURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil
}

// LoginFinish ends a login: the browser comes back from the issuer. The reply's cookies are to be set with an error, too.
func (s *Service) LoginFinish(ctx context.Context, e *tenant.Entry, r LoginRequest) (LoginReply, error) {
	q, key, err := s.begin(e, r, http.MethodGet)
	if err != nil {
		return LoginReply{}, err
	}
	now := s.cfg.Now()
	state := q.Get("state")
	var f flow
	if !takeFlow(key, loginCookie, state, r, &f) || !recent(f.Began, now) {
		return LoginReply{}, fault.New(fault.Invalid, "this login was not begun in this browser, or more than %d minutes ago: begin again at %s", int(loginLife/time.Minute), LoginPath)
	}
	reply := LoginReply{SetCookies: []string{clearCookie(loginCookie + state)}}
	a, ok := e.Record.AuthenticatorByName(f.Authenticator)
	if !ok || a.Generation != f.Generation || a.OIDC == nil || a.OIDC.Login == nil {
		return reply, fault.New(fault.Invalid, "the settings of this login have changed meanwhile: begin again at %s", LoginPath)
	}
	p, err := s.provider(ctx, isTrusted(a), a.OIDC)
	if err != nil {
		return reply, fmt.Errorf("finish a login: %w", err)
	}
	if err := checkCallback(q, a.OIDC.Issuer, p.SaysIssuer); err != nil {
		return reply, err
	}
	if !s.browser.exchanging.enter(e.Scope.UID()) { // the cookie stays, so that the page can be loaded again
		return LoginReply{}, fault.New(fault.Unavailable, "too many logins of this tenant are being finished: load this page again").After(time.Second)
	}
	defer s.browser.exchanging.leave(e.Scope.UID())
	u, scopes, err := s.redeem(ctx, e, a, p, r.Base, q.Get("code"), f)
	if err != nil {
		return reply, err
	}
	life := time.Duration(a.OIDC.Login.SessionLife) * time.Second
	if life == 0 {
		life = defaultSession
	}
	set, who, err := s.openSession(e, r.Host, newSession(u, scopes, now, life), now)
	if err != nil {
		return reply, err
	}
	reply.SetCookies = append(reply.SetCookies, set)
	reply.Principal, reply.Redirect = who, r.Base+f.Return
	return reply, nil
}

// openSession returns the cookie of a session on a host, and its principal as the record sees it now.
func (s *Service) openSession(e *tenant.Entry, host string, v *session, now time.Time) (string, tenant.Principal, error) {
	p, ok := v.user().principal(e, tenant.ViaCookie, now)
	if !ok {
		return "", tenant.Principal{}, fault.New(fault.Invalid, "this login has just been ended: begin again at %s", LoginPath)
	}
	set, err := s.setSession(e, host, v, now)
	return set, p, err
}

// checkCallback judges what came back with the browser. It may be forged as a whole, so that nothing of it is shown: an
// error's code is one of those that are known, its description goes nowhere. iss is compared where it is sent, and required of
// an issuer that always sends it (RFC 9207), or a code of one issuer could be made to be redeemed at another.
func checkCallback(q url.Values, issuer string, saysIssuer bool) error {
	if iss, ok := q["iss"]; ok && iss[0] != issuer || !ok && saysIssuer {
		return fault.New(fault.Invalid, "this login came back from another issuer than it was begun with: begin again at %s", LoginPath)
	}
	switch code := q.Get("error"); code {
	case "":
	case "access_denied":
		return fault.New(fault.Invalid, "the issuer did not log you in (access_denied): you refused, or it does not let you use this application. Begin again at %s", LoginPath)
	case "server_error", "temporarily_unavailable":
		return fault.New(fault.Unavailable, "the issuer cannot log anybody in now (%s)", code).After(10 * time.Second)
	case "invalid_request", "unauthorized_client", "unsupported_response_type", "invalid_scope", "interaction_required", "login_required",
		"account_selection_required", "consent_required":
		return fault.New(fault.BadUpstream, "the issuer refused the login (%s): check client_id, scopes and the redirect URI at the issuer", code)
	default:
		return fault.New(fault.BadUpstream, "the issuer refused the login with an unknown error")
	}
	if code := q.Get("code"); code == "" || len(code) > maxCode {
		return fault.New(fault.Invalid, "the issuer sent no code, or one that is too long: begin again at %s", LoginPath)
	}
	return nil
}

// redeem exchanges a code for an ID token and verifies that. The access token is forgotten: nothing is asked with it.
func (s *Service) redeem(ctx context.Context, e *tenant.Entry, a *tenant.Authenticator, p *provider, base, code string, f flow) (*user, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeBound)
	defer cancel()
	l := a.OIDC.Login
	secret, err := s.browser.secrets.Open(e.Record.ID, a.Name, l.ClientSecret)
	if err != nil {
		return nil, nil, err
	}
	c := oauth2.Config{ClientID: l.ClientID, ClientSecret: secret, Endpoint: p.Endpoint, RedirectURL: base + CallbackPath}
	if secret == "" {
		c.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client only says its id
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, unredirected(p.Client))
	token, err := c.Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return nil, nil, exchangeError(a, err)
	}
	id, ok := token.Extra("id_token").(string)
	if !ok || id == "" {
		return nil, nil, fault.New(fault.BadUpstream, "issuer %s sent no ID token: is this client one for OpenID Connect?", a.OIDC.Issuer)
	}
	u, err := s.verifyLogin(ctx, e, a, id, f.Nonce)
	if fault.Is(err, fault.Unauthenticated) {
		return nil, nil, fault.Wrap(fault.Invalid, err, "the issuer knows you, but its ID token does not meet what authenticator %q asks for; the gateway's log says what is missing", a.Name)
	}
	if err != nil {
		return nil, nil, err
	}
	scopes, err := grantedScopes(a.OIDC, token)
	return u, scopes, err
}

// grantedScopes returns the scopes that the issuer granted, which are those asked for where it does not say (RFC 6749
// §5.1). Those that the tenant requires of tokens are required of a login as well.
func grantedScopes(o *tenant.OIDC, token *oauth2.Token) ([]string, error) {
	scopes := loginScopes(o)
	if said, ok := token.Extra("scope").(string); ok && said != "" {
		scopes = strings.Fields(said)
	}
	for _, need := range o.RequiredScopes {
		if !slices.Contains(scopes, need) {
			return nil, fault.Wrap(fault.Invalid, &ScopeError{Scopes: o.RequiredScopes}, "the issuer knows you, but did not grant the scope %s, which this tenant requires", need)
		}
	}
	return scopes, nil
}

// tokenStyle says how the token endpoint takes a client's secret, by the methods that the issuer's discovery document names.
// Where it names none, it is Basic (OpenID Connect Discovery §3). oauth2 would try one after the other, with the code.
func tokenStyle(methods []string) oauth2.AuthStyle {
	if len(methods) == 0 || slices.Contains(methods, "client_secret_basic") {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// unredirected returns a client that follows no redirect: code, verifier and secret are for the token endpoint alone.
func unredirected(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// exchangeError classifies what the token endpoint answered. Its body is not kept: it could hold anything.
func exchangeError(a *tenant.Authenticator, err error) error {
	answer, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return fault.Wrap(fault.Unavailable, err, "issuer %s cannot be asked now: try again", a.OIDC.Issuer).After(5 * time.Second)
	}
	cause := fmt.Errorf("token endpoint: status %d, error %.64q", answer.Response.StatusCode, answer.ErrorCode)
	switch {
	case answer.ErrorCode == "invalid_grant":
		return fault.Wrap(fault.Invalid, cause, "the issuer does not take this login's code any more: begin again at %s", LoginPath)
	case answer.ErrorCode == "invalid_client" || answer.ErrorCode == "unauthorized_client":
		return fault.Wrap(fault.BadUpstream, cause, "issuer %s does not accept this client: an admin of the tenant has to correct client_id or client_secret of authenticator %q", a.OIDC.Issuer, a.Name)
	case answer.Response.StatusCode >= 500 || answer.Response.StatusCode == http.StatusTooManyRequests:
		return fault.Wrap(fault.Unavailable, cause, "issuer %s cannot answer now: try again", a.OIDC.Issuer).After(5 * time.Second)
	}
	return fault.Wrap(fault.BadUpstream, cause, "issuer %s refused to exchange the login's code", a.OIDC.Issuer)
}
