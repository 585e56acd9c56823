package authn_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// idp is an OpenID provider with a client of its own, which logs alice in without asking.
type idp struct {
	t   testing.TB
	srv *httptest.Server
	key jose.JSONWebKey
	now func() time.Time

	mu        sync.Mutex // guards all below
	codes     map[string]url.Values
	secret    string
	redirects []string                       // registered redirect URIs
	document  map[string]any                 // changes of the discovery document
	claims    func(map[string]any)           // changes of the ID token
	response  func(url.Values)               // changes of the authorization response
	token     func(http.ResponseWriter) bool // answers instead of the token endpoint
	reply     func(map[string]any)           // changes of the token endpoint's answer
	exchanges int
}

const clientID = "polygate"

func newIDP(t testing.TB, now func() time.Time) *idp {
	t.Helper()
	p := &idp{t: t, now: now, codes: make(map[string]url.Values), key: jose.JSONWebKey{Key: newKey(t), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{p.key.Public()}})
	})
	mux.HandleFunc("/authorize", p.authorize)
	mux.HandleFunc("/token", p.exchange)
	p.srv = httptest.NewUnstartedServer(mux)
	p.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.srv.StartTLS()
	t.Cleanup(p.srv.Close)
	return p
}

// edit changes the provider's settings.
func (p *idp) edit(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *idp) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.srv.Certificate().Raw}))
}

func (p *idp) discovery(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	doc := map[string]any{
		"issuer": p.srv.URL, "jwks_uri": p.srv.URL + "/jwks", "authorization_endpoint": p.srv.URL + "/authorize",
		"token_endpoint": p.srv.URL + "/token", "end_session_endpoint": p.srv.URL + "/logout?from=polygate",
		"code_challenge_methods_supported": []string{"plain", "S256"}, "id_token_signing_alg_values_supported": []string{"ES256"},
	}
	maps.Copy(doc, p.document)
	json.NewEncoder(w).Encode(doc)
}

// authorize is the authorization endpoint (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 9207).
func (p *idp) authorize(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	if q.Get("client_id") != clientID || q.Get("response_type") != "code" || !slices.Contains(p.redirects, q.Get("redirect_uri")) ||
		!strings.Contains(" "+q.Get("scope")+" ", " openid ") || q.Get("code_challenge_method") != "S256" ||
		len(q.Get("code_challenge")) != 43 || q.Get("state") == "" || q.Get("nonce") == "" {
		http.Error(w, "bad authorization request: "+r.URL.RawQuery, http.StatusBadRequest)
		return
	}
	code := "code-" + q.Get("state")
	p.codes[code] = q
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.srv.URL}}
	if p.response != nil {
		p.response(back)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// exchange is the token endpoint: a code is good once, for its client, redirect URI and verifier.
func (p *idp) exchange(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchanges++
	if p.token != nil && p.token(w) {
		return
	}
	refuse := func(code string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": "secret text"})
	}
	id, secret, ok := r.BasicAuth()
	if ok {
		secret, _ = url.QueryUnescape(secret) // RFC 6749 §2.3.1
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if id != clientID || secret != p.secret || ok != (p.secret != "" && p.document["token_endpoint_auth_methods_supported"] == nil) {
		refuse("invalid_client")
		return
	}
	q := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if q == nil || r.PostFormValue("grant_type") != "authorization_code" || r.PostFormValue("redirect_uri") != q.Get("redirect_uri") ||
		base64.RawURLEncoding.EncodeToString(sum[:]) != q.Get("code_challenge") {
		refuse("invalid_grant")
		return
	}
	answer := map[string]any{"access_token": "opaque", "token_type": "Bearer", "id_token": p.idToken(q.Get("nonce"))}
	if p.reply != nil {
		p.reply(answer)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}

func (p *idp) idToken(nonce string) string {
	claims := map[string]any{
		"iss": p.srv.URL, "sub": "alice", "aud": clientID, "nonce": nonce, "iat": p.now().Unix(), "exp": p.now().Add(5 * time.Minute).Unix(),
		"preferred_username": "Alice", "groups": []string{"dev", "ops"},
	}
	if p.claims != nil {
		p.claims(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.key}, nil)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	payload, _ := json.Marshal(claims)
	signed, err := signer.Sign(payload)
	if err != nil {
		p.t.Error(err)
		return ""
	}
	s, _ := signed.CompactSerialize()
	return s
}

// site is a front with the tenants' hosts, as the proxy mounts the service, and an issuer.
type site struct {
	t    testing.TB
	auth *authn.Service
	idp  *idp
	srv  *httptest.Server
	port string

	mu    sync.Mutex // guards all below
	hosts map[string]*tenant.Entry
	later time.Duration // what the clock is ahead by
}

const (
	hostA  = "team-a.gw.test"
	hostA2 = "www.custom.test" // a custom host of team-a
	hostB  = "team-b.gw.test"
)

func newSite(t testing.TB, edit func(*authn.Config)) *site {
	t.Helper()
	s := &site{t: t}
	s.idp = newIDP(t, s.now)
	s.auth = newTestService(t, func(c *authn.Config) {
		c.Now = s.now
		c.Dial = func(bool) func(context.Context, string, string) (net.Conn, error) { return (&net.Dialer{}).DialContext }
		c.Secret = []byte("a platform's secret of 32 bytes.")
		if edit != nil {
			edit(c)
		}
	})
	s.srv = httptest.NewUnstartedServer(s)
	s.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.srv.StartTLS()
	t.Cleanup(s.srv.Close)
	_, s.port, _ = net.SplitHostPort(s.srv.Listener.Addr().String())
	a, b := entryOf("team-a", "uid-a", s.oidc("dex")), entryOf("team-b", "uid-b", s.oidc("dex"))
	s.hosts = map[string]*tenant.Entry{hostA: a, hostA2: a, hostB: b}
	for _, h := range []string{hostA, hostA2, hostB} {
		s.idp.redirects = append(s.idp.redirects, s.base(h)+authn.CallbackPath)
	}
	return s
}

func (s *site) oidc(name string) tenant.Authenticator {
	return tenant.Authenticator{Name: name, Type: tenant.AuthnOIDC, Generation: "g1", DefaultRole: tenant.Viewer, OIDC: &tenant.OIDC{
		Issuer: s.idp.srv.URL, CA: s.idp.ca(), Login: &tenant.Login{ClientID: clientID},
	}}
}

func (s *site) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.later)
}

func (s *site) wait(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.later += d
}

func (s *site) base(host string) string { return "https://" + host + ":" + s.port }

func (s *site) entry(host string) *tenant.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[host]
}

// change edits the record behind a host, for all hosts of its tenant. The scope is that of the edited uid.
func (s *site) change(host string, edit func(*tenant.Record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.hosts[host]
	r := old.Record.Clone()
	edit(r)
	e := &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
	for h, was := range s.hosts {
		if was == old {
			s.hosts[h] = e
		}
	}
}

// request makes the LoginRequest of an HTTP request.
func (s *site) request(r *http.Request) authn.LoginRequest {
	host, _, _ := strings.Cut(r.Host, ":")
	return authn.LoginRequest{Method: r.Method, Host: host, Base: "https://" + r.Host, Query: r.URL.RawQuery, Cookies: r.Header["Cookie"]}
}

// ServeHTTP mounts the service as the proxy does. A page of the custom host needs a login and fetches it from the main host.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := s.request(r)
	e := s.entry(q.Host)
	if e == nil {
		http.Error(w, "no such host", http.StatusMisdirectedRequest)
		return
	}
	var reply authn.LoginReply
	var err error
	switch r.URL.Path {
	case authn.LoginPath:
		reply, err = s.auth.LoginStart(r.Context(), e, q)
	case authn.CallbackPath:
		reply, err = s.auth.LoginFinish(r.Context(), e, q)
	case authn.HandoverPath:
		reply, err = s.auth.Handover(e, q, func(h string) bool { other := s.entry(h); return other != nil && other.Scope == e.Scope })
	case authn.AcceptPath:
		reply, err = s.auth.HandoverAccept(r.Context(), e, q)
	case authn.LogoutPath:
		s.logout(w, r, e, q)
		return
	default:
		p, perr := s.whoami(e, q)
		if perr != nil && q.Host == hostA2 {
			q.Query = url.Values{"return_to": {r.URL.RequestURI()}}.Encode()
			reply, err = s.auth.HandoverStart(e, q, s.base(hostA))
			break
		}
		if perr != nil {
			s.fail(w, perr)
			return
		}
		json.NewEncoder(w).Encode(p)
		return
	}
	for _, c := range reply.SetCookies {
		w.Header().Add("Set-Cookie", c)
	}
	switch {
	case err != nil:
		s.fail(w, err)
	case reply.Redirect != "":
		http.Redirect(w, r, reply.Redirect, http.StatusSeeOther)
	default:
		w.Header().Set("Content-Security-Policy", authn.PagePolicy)
		w.Write(reply.Page)
	}
}

func (s *site) logout(w http.ResponseWriter, r *http.Request, e *tenant.Entry, q authn.LoginRequest) {
	reply, err := s.auth.Logout(r.Context(), e, q)
	if err != nil {
		s.fail(w, err)
		return
	}
	if reply.Revocation != nil {
		now := s.now()
		s.change(q.Host, func(rec *tenant.Record) { rec.Revoke(*reply.Revocation, now) })
	}
	for _, c := range reply.SetCookies {
		w.Header().Add("Set-Cookie", c)
	}
	io.WriteString(w, reply.Redirect)
}

func (s *site) whoami(e *tenant.Entry, q authn.LoginRequest) (tenant.Principal, error) {
	r := http.Request{Header: http.Header{"Cookie": q.Cookies}}
	value := ""
	if c := r.CookiesNamed(authn.SessionCookie); len(c) == 1 {
		value = c[0].Value
	}
	return s.auth.Authenticate(context.Background(), e, authn.Evidence{Cookie: value, Host: q.Host, Base: q.Base})
}

func (s *site) fail(w http.ResponseWriter, err error) {
	f := fault.From(err)
	w.WriteHeader(f.Kind.Status())
	json.NewEncoder(w).Encode(f.Problem("r1"))
}

// browser is a client with cookies, whose names all lead to the site.
type browser struct {
	*http.Client
	s *site
}

func (s *site) browser() *browser {
	jar, _ := cookiejar.New(nil)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if host, port, _ := net.SplitHostPort(addr); strings.HasSuffix(host, ".test") {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	t := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	s.t.Cleanup(t.CloseIdleConnections)
	return &browser{&http.Client{Jar: jar, Transport: t}, s}
}

// get follows redirects to the end.
func (b *browser) get(u string) (status int, body string, at *url.URL) {
	b.s.t.Helper()
	resp, err := b.Get(u)
	if err != nil {
		b.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Request.URL
}

// step follows no redirect, and returns where it leads.
func (b *browser) step(u string) (*http.Response, string) {
	b.s.t.Helper()
	one := *b.Client
	one.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := one.Get(u)
	if err != nil {
		b.s.t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if at := resp.Header.Get("Location"); at != "" {
		return resp, at
	}
	return resp, string(text)
}

// login logs in at a host and fails the test if that does not work.
func (b *browser) login(host string) {
	b.s.t.Helper()
	if status, body, _ := b.get(b.s.base(host) + authn.LoginPath + "?return_to=/whoami"); status != http.StatusOK {
		b.s.t.Fatalf("login at %s: got %d %s", host, status, body)
	}
}

// cookies returns those that the browser would send to a host, by name.
func (b *browser) cookies(host string) map[string]string {
	u, _ := url.Parse(b.s.base(host))
	all := make(map[string]string)
	for _, c := range b.Jar.Cookies(u) {
		all[c.Name] = c.Value
	}
	return all
}

// plant sets a cookie of a host.
func (b *browser) plant(host, name, value string) {
	u, _ := url.Parse(b.s.base(host))
	b.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
}

// ask asks who a session cookie stands for at a host; "" = nobody.
func (s *site) ask(host, cookie string) string {
	p, err := s.auth.Authenticate(context.Background(), s.entry(host), authn.Evidence{Cookie: cookie, Host: host, Base: s.base(host)})
	if err != nil {
		if !fault.Is(err, fault.Unauthenticated) {
			s.t.Errorf("cookie at %s: got %v, want the one refusal", host, err)
		}
		return ""
	}
	return p.ID
}
