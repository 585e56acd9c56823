package authn_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func TestBrowserLogin(t *testing.T) {
	s := newSite(t, nil)
	s.change(hostA, func(r *tenant.Record) {
		r.Members = []tenant.Member{{Kind: tenant.MemberGroup, Authenticator: "dex", Name: "dev", Role: tenant.Editor}}
	})
	b := s.browser()
	if status, body, _ := b.get(s.base(hostA) + "/whoami"); status != http.StatusUnauthorized {
		t.Fatalf("before the login: got %d %s", status, body)
	}
	status, body, at := b.get(s.base(hostA) + authn.LoginPath + "?return_to=" + url.QueryEscape("/whoami?x=1&y=2"))
	if status != http.StatusOK || at.RequestURI() != "/whoami?x=1&y=2" || at.Hostname() != hostA {
		t.Fatalf("login: got %d at %s: %s", status, at, body)
	}
	var p tenant.Principal
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatal(err)
	}
	c := p.Claims
	if p.ID != "dex/alice" || p.Name != "Alice" || p.Via != tenant.ViaCookie || p.Role != tenant.Editor || p.Kind != tenant.KindUser || p.Tenant != "team-a" {
		t.Errorf("got %+v", p)
	}
	if c.Issuer != s.idp.srv.URL || c.Session == "" || !slices.Equal(c.Groups, []string{"dev", "ops"}) || c.Authenticator != "dex" || c.Generation != "g1" {
		t.Errorf("got claims %+v", c)
	}
	if life := p.Expires.Sub(c.Issued); life != time.Hour {
		t.Errorf("the session lives %v, want 1h", life)
	}
	if got := b.cookies(hostA); len(got) != 1 || got[authn.SessionCookie] == "" {
		t.Errorf("cookies after the login: %v, want the session alone", got)
	}
	for _, host := range []string{hostA2, hostB, "gw.test"} {
		if got := b.cookies(host); len(got) > 0 {
			t.Errorf("%s gets %v", host, got)
		}
	}
	s.wait(time.Hour)
	if status, _, _ := b.get(s.base(hostA) + "/whoami"); status != http.StatusUnauthorized {
		t.Errorf("after an hour: got %d", status)
	}
}

// TestC7Cookies holds the traits of every cookie that is set: host-only, and kept from scripts (C-7, OC-14).
func TestC7Cookies(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	resp, authorize := b.step(s.base(hostA) + authn.LoginPath)
	set := resp.Header["Set-Cookie"]
	_, callback := b.step(authorize)
	resp, _ = b.step(callback)
	set = append(set, resp.Header["Set-Cookie"]...)
	resp, handover := b.step(s.base(hostA2) + "/whoami")
	set = append(set, resp.Header["Set-Cookie"]...)
	_, accept := b.step(handover)
	resp, _ = b.step(accept)
	set = append(set, resp.Header["Set-Cookie"]...)
	if len(set) != 6 {
		t.Errorf("%d cookies are set: %q", len(set), set)
	}
	for _, line := range set {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Name, authn.CookiePrefix) || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge == 0 {
			t.Errorf("cookie %q has other traits", line)
		}
	}
}

// TestC7SessionElsewhere shows A's session wherever it is worth nothing.
func TestC7SessionElsewhere(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	b.login(hostA)
	_, authorize := b.step(s.base(hostA) + authn.LoginPath)
	cookie := b.cookies(hostA)[authn.SessionCookie]
	if got := s.ask(hostA, cookie); got != "dex/alice" {
		t.Fatalf("at its host: got %q", got)
	}
	if got := s.ask(hostB, cookie); got != "" {
		t.Errorf("another tenant: got %s", got)
	}
	if got := s.ask(hostA2, cookie); got != "" {
		t.Errorf("another host of the tenant: got %s", got)
	}
	for name, value := range b.cookies(hostA) {
		if strings.HasPrefix(name, "__Host-polygate-login-") {
			if got := s.ask(hostA, value); got != "" {
				t.Errorf("a login's cookie as a session's: got %s", got)
			}
			b.plant(hostA, name, cookie)
		}
	}
	_, callback := b.step(authorize)
	if resp, body := b.step(callback); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a session's cookie as a login's: got %d %s", resp.StatusCode, body)
	}
	for i := range cookie {
		if got := s.ask(hostA, cookie[:i]+string(cookie[i]^1)+cookie[i+1:]); got != "" {
			t.Errorf("byte %d changed: got %s", i, got)
		}
		if got := s.ask(hostA, cookie[:i]); got != "" {
			t.Errorf("cut at %d: got %s", i, got)
		}
	}
	for _, other := range []string{cookie + "A", cookie + "=", " " + cookie, cookie + "\n", strings.Repeat("A", 5000)} {
		if got := s.ask(hostA, other); got != "" {
			t.Errorf("%.20q…: got %s", other, got)
		}
	}
	stranger := newSite(t, func(c *authn.Config) { c.Secret = []byte("another platform's secret (32 b)") })
	if got := stranger.ask(hostA, cookie); got != "" {
		t.Errorf("another platform: got %s", got)
	}
	s.change(hostA, func(r *tenant.Record) { r.UID = "uid-a2" })
	if got := s.ask(hostA, cookie); got != "" {
		t.Errorf("the tenant deleted and made again (X41): got %s", got)
	}
}

func TestSessionEndsWithItsRecord(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(r *tenant.Record, p tenant.Principal, now time.Time)
	}{
		{"the authenticator changed", func(r *tenant.Record, _ tenant.Principal, _ time.Time) { r.Authenticators[0].Generation = "g2" }},
		{"the authenticator is gone", func(r *tenant.Record, _ tenant.Principal, _ time.Time) { r.Authenticators = nil }},
		{"the session is revoked", func(r *tenant.Record, p tenant.Principal, now time.Time) {
			r.Revoke(tenant.Revocation{Session: p.Claims.Session, Before: now, Until: p.Expires}, now)
		}},
		{"the user is revoked", func(r *tenant.Record, p tenant.Principal, now time.Time) {
			r.Revoke(tenant.Revocation{Principal: p.Ref(), Before: now, Until: p.Expires}, now)
		}},
		{"all are revoked", func(r *tenant.Record, _ tenant.Principal, now time.Time) { r.NotBefore = now }},
	} {
		s := newSite(t, nil)
		b := s.browser()
		b.login(hostA)
		cookie := b.cookies(hostA)[authn.SessionCookie]
		p, err := s.auth.Authenticate(context.Background(), s.entry(hostA), authn.Evidence{Cookie: cookie, Host: hostA})
		if err != nil {
			t.Fatal(err)
		}
		s.wait(time.Second)
		now := s.now()
		s.change(hostA, func(r *tenant.Record) { c.edit(r, p, now) })
		if got := s.ask(hostA, cookie); got != "" {
			t.Errorf("%s: got %s", c.name, got)
		}
	}
}

func TestSessionLife(t *testing.T) {
	s := newSite(t, nil)
	s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].OIDC.Login.SessionLife = 60 })
	b := s.browser()
	b.login(hostA)
	cookie := b.cookies(hostA)[authn.SessionCookie]
	s.wait(55 * time.Second)
	if s.ask(hostA, cookie) == "" {
		t.Error("ended before its time")
	}
	s.wait(6 * time.Second)
	if got := s.ask(hostA, cookie); got != "" {
		t.Errorf("after its time: got %s", got)
	}
}

func TestLoginWithSecret(t *testing.T) {
	for _, c := range []struct {
		name    string
		methods []string
		sealed  bool
		want    int
	}{
		{"basic", nil, true, http.StatusOK},
		{"post", []string{"client_secret_post"}, true, http.StatusOK},
		{"not sealed here", nil, false, http.StatusInternalServerError},
	} {
		s := newSite(t, nil)
		s.idp.edit(func() {
			s.idp.secret = "p&ss wörd"
			if c.methods != nil {
				s.idp.document = map[string]any{"token_endpoint_auth_methods_supported": c.methods}
			}
		})
		secrets, _ := authn.NewSecrets([]byte("a platform's secret of 32 bytes."))
		s.change(hostA, func(r *tenant.Record) {
			l := r.Authenticators[0].OIDC.Login
			if l.ClientSecret = "p&ss wörd"; c.sealed {
				l.ClientSecret = secrets.Seal("team-a", "dex", l.ClientSecret)
			}
		})
		if status, body, _ := s.browser().get(s.base(hostA) + authn.LoginPath + "?return_to=/whoami"); status != c.want || strings.Contains(body, "p&ss") {
			t.Errorf("%s: got %d %s", c.name, status, body)
		}
	}
}

// TestLoginInSeveralTabs begins logins side by side and ends them in another order.
func TestLoginInSeveralTabs(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	var callbacks []string
	for i := range 4 {
		_, authorize := b.step(fmt.Sprintf("%s%s?return_to=/tab%d", s.base(hostA), authn.LoginPath, i))
		_, callback := b.step(authorize)
		callbacks = append(callbacks, callback)
		s.wait(time.Second)
	}
	for i := 3; i >= 0; i-- {
		if resp, to := b.step(callbacks[i]); resp.StatusCode != http.StatusSeeOther || to != fmt.Sprintf("%s/tab%d", s.base(hostA), i) {
			t.Errorf("tab %d: got %d %s", i, resp.StatusCode, to)
		}
	}
}

func TestLoginsUnderWayAreBounded(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	var first, last string
	for i := range 20 {
		_, authorize := b.step(s.base(hostA) + authn.LoginPath)
		_, last = b.step(authorize)
		if i == 0 {
			first = last
		}
		s.wait(time.Second)
	}
	if n := len(b.cookies(hostA)); n != 4 {
		t.Errorf("%d logins are kept, want 4", n)
	}
	if resp, _ := b.step(first); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("the oldest: got %d", resp.StatusCode)
	}
	if resp, body := b.step(last); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("the newest: got %d %s", resp.StatusCode, body)
	}
}

// TestLoginCallbackForged comes back with what an attacker may send or a broken issuer does.
func TestLoginCallbackForged(t *testing.T) {
	param := func(name, value string) func(url.Values) { return func(v url.Values) { v.Set(name, value) } }
	claim := func(name string, value any) func(*site) {
		return func(s *site) { s.idp.claims = func(c map[string]any) { c[name] = value } }
	}
	for _, c := range []struct {
		name     string
		idp      func(*site)
		callback func(url.Values)
		between  func(*site, *browser)
		want     int
		says     string
	}{
		{name: "good", want: 303},
		{name: "no state", callback: func(v url.Values) { v.Del("state") }, want: 400, says: "not begun in this browser"},
		{name: "another state", callback: param("state", "000000000aaaaaaaaaaaaaaaaaaaaaaaaaa"), want: 400, says: "not begun in this browser"},
		{name: "two states", callback: func(v url.Values) { v.Add("state", "x") }, want: 400, says: "there twice"},
		{name: "another browser", between: func(s *site, b *browser) { b.Jar = s.browser().Jar }, want: 400, says: "not begun in this browser"},
		{name: "too late", between: func(s *site, _ *browser) { s.wait(10 * time.Minute) }, want: 400, says: "10 minutes"},
		{name: "settings changed", between: func(s *site, _ *browser) {
			s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].Generation = "g2" })
		}, want: 400, says: "have changed"},
		{name: "login taken away", between: func(s *site, _ *browser) {
			s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].OIDC.Login = nil })
		}, want: 400, says: "have changed"},
		{name: "no code", callback: func(v url.Values) { v.Del("code") }, want: 400, says: "no code"},
		{name: "long code", callback: param("code", strings.Repeat("x", 3000)), want: 400, says: "too long"},
		{name: "another code", callback: param("code", "x"), want: 400, says: "does not take this login's code"},
		{name: "another issuer", callback: param("iss", "https://evil.example"), want: 400, says: "another issuer"},
		{name: "issuer unsaid", callback: func(v url.Values) { v.Del("iss") }, want: 303},
		{name: "issuer unsaid though promised", idp: func(s *site) {
			s.idp.document = map[string]any{"authorization_response_iss_parameter_supported": true}
		}, callback: func(v url.Values) { v.Del("iss") }, want: 400, says: "another issuer"},
		{name: "access denied", callback: func(v url.Values) {
			v.Del("code")
			v.Set("error", "access_denied")
			v.Set("error_description", "<script>call +1 555")
		}, want: 400, says: "access_denied"},
		{name: "unknown error", callback: param("error", "<script>evil"), want: 502, says: "unknown error"},
		{name: "issuer busy", callback: param("error", "temporarily_unavailable"), want: 503, says: "temporarily_unavailable"},
		{name: "bad client", callback: param("error", "unauthorized_client"), want: 502, says: "client_id"},

		{name: "another nonce", idp: claim("nonce", "x"), want: 400, says: "does not meet"},
		{name: "no nonce", idp: func(s *site) { s.idp.claims = func(c map[string]any) { delete(c, "nonce") } }, want: 400, says: "does not meet"},
		{name: "another audience", idp: claim("aud", "other"), want: 400, says: "does not meet"},
		{name: "two audiences, no azp", idp: claim("aud", []string{clientID, "other"}), want: 400, says: "does not meet"},
		{name: "another azp", idp: claim("azp", "other"), want: 400, says: "does not meet"},
		{name: "another iss", idp: claim("iss", "https://evil.example"), want: 400, says: "does not meet"},
		{name: "expired token", idp: claim("exp", 1), want: 400, says: "does not meet"},
		{name: "no subject", idp: claim("sub", ""), want: 400, says: "does not meet"},
		{name: "no ID token", idp: func(s *site) { s.idp.reply = func(a map[string]any) { delete(a, "id_token") } }, want: 502, says: "no ID token"},
		{name: "ID token is no text", idp: func(s *site) { s.idp.reply = func(a map[string]any) { a["id_token"] = 7 } }, want: 502, says: "no ID token"},
		{name: "wrong secret", idp: func(s *site) { s.idp.secret = "x" }, want: 502, says: "correct client_id or client_secret"},
		{name: "token endpoint fails", idp: func(s *site) {
			s.idp.token = func(w http.ResponseWriter) bool { http.Error(w, "<b>boom", 500); return true }
		}, want: 503, says: "cannot answer now"},
		{name: "token endpoint answers nonsense", idp: func(s *site) {
			s.idp.token = func(w http.ResponseWriter) bool { w.Write([]byte("nonsense")); return true }
		}, want: 503, says: "cannot be asked"},
		{name: "too many groups", idp: func(s *site) {
			s.idp.claims = func(c map[string]any) {
				var groups []string
				for i := range 200 {
					groups = append(groups, fmt.Sprintf("/organization/department/team-%03d", i))
				}
				c["groups"] = groups
			}
		}, want: 502, says: "fewer groups"},
	} {
		s := newSite(t, nil)
		if c.idp != nil {
			s.idp.edit(func() { c.idp(s) })
		}
		b := s.browser()
		_, authorize := b.step(s.base(hostA) + authn.LoginPath)
		_, callback := b.step(authorize)
		if c.callback != nil {
			u, _ := url.Parse(callback)
			q := u.Query()
			c.callback(q)
			u.RawQuery = q.Encode()
			callback = u.String()
		}
		if c.between != nil {
			c.between(s, b)
		}
		resp, body := b.step(callback)
		if resp.StatusCode != c.want || !strings.Contains(body, c.says) {
			t.Errorf("%s: got %d %s; want %d with %q", c.name, resp.StatusCode, body, c.want, c.says)
		}
		if got := b.cookies(hostA)[authn.SessionCookie]; (got != "") != (c.want == 303) {
			t.Errorf("%s: session cookie %q", c.name, got)
		}
		for _, foreign := range []string{"script", "+1 555", "boom", "secret text", "nonsense"} {
			if strings.Contains(body, foreign) {
				t.Errorf("%s: the answer repeats %q", c.name, foreign)
			}
		}
	}
}

// TestLoginCallbackReplayed sends a callback again, with the cookie that the first one took away.
func TestLoginCallbackReplayed(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	_, authorize := b.step(s.base(hostA) + authn.LoginPath)
	_, callback := b.step(authorize)
	before := b.cookies(hostA)
	if resp, _ := b.step(callback); resp.StatusCode != http.StatusSeeOther {
		t.Fatal("the login does not work")
	}
	if resp, _ := b.step(callback); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("again: got %d", resp.StatusCode)
	}
	for name, value := range before {
		b.plant(hostA, name, value)
	}
	if resp, _ := b.step(callback); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("again with the cookie: got %d", resp.StatusCode)
	}
}

// TestC1ExchangesOfOneTenantAreBounded: one login's callback is sent many times at once to a token endpoint that does not
// answer. Few of them hold a connection to it, another tenant's login goes on, and so does the tenant's own afterwards.
func TestC1ExchangesOfOneTenantAreBounded(t *testing.T) {
	var asked, refused atomic.Int64
	open := make(chan struct{})
	hung := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body) // or the context would not end
		select {
		case <-open:
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer hung.Close()
	s := newSite(t, nil)
	own := s.entry(hostA).Record.Authenticators[0].OIDC.CA
	roots := own + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hung.Certificate().Raw}))
	s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].OIDC.CA = roots })
	s.idp.edit(func() { s.idp.document = map[string]any{"token_endpoint": hung.URL} })
	b := s.browser()
	_, authorize := b.step(s.base(hostA) + authn.LoginPath)
	s.idp.edit(func() { s.idp.document = nil })
	_, callback := b.step(authorize)
	u, err := url.Parse(callback)
	if err != nil {
		t.Fatal(err)
	}
	q := authn.LoginRequest{Method: http.MethodGet, Host: hostA, Base: s.base(hostA), Query: u.RawQuery}
	for name, value := range b.cookies(hostA) {
		q.Cookies = append(q.Cookies, name+"="+value)
	}
	const sent, places = 100, 16
	var wg sync.WaitGroup
	for range sent {
		wg.Go(func() {
			reply, err := s.auth.LoginFinish(t.Context(), s.entry(hostA), q)
			if fault.Is(err, fault.Unavailable) && len(reply.SetCookies) == 0 {
				if refused.Add(1) == sent-places {
					s.browser().login(hostB)
					close(open)
				}
			}
		})
	}
	wg.Wait()
	if asked.Load() != places || refused.Load() != sent-places {
		t.Errorf("the token endpoint was asked %d times, %d callbacks were refused at once, want %d and %d", asked.Load(), refused.Load(), places, sent-places)
	}
	s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].OIDC.CA = own })
	s.browser().login(hostA)
}

// TestLoginAtAnotherHost takes a login of A to the callback of B and of A's other host.
func TestLoginAtAnotherHost(t *testing.T) {
	s := newSite(t, nil)
	for _, host := range []string{hostB, hostA2} {
		b := s.browser()
		_, authorize := b.step(s.base(hostA) + authn.LoginPath)
		_, callback := b.step(authorize)
		for name, value := range b.cookies(hostA) {
			b.plant(host, name, value)
		}
		resp, body := b.step(strings.Replace(callback, hostA, host, 1))
		if resp.StatusCode != http.StatusBadRequest || s.idp.exchanges > 0 {
			t.Errorf("%s: got %d %s", host, resp.StatusCode, body)
		}
	}
}

// TestTokenEndpointRedirects: code, verifier and secret go nowhere but to the token endpoint.
func TestTokenEndpointRedirects(t *testing.T) {
	s := newSite(t, nil)
	stolen := 0
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen++ }))
	defer thief.Close()
	s.idp.edit(func() {
		s.idp.token = func(w http.ResponseWriter) bool {
			w.Header().Set("Location", thief.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
	})
	if status, body, _ := s.browser().get(s.base(hostA) + authn.LoginPath); status != http.StatusBadGateway || stolen > 0 {
		t.Errorf("got %d %s, and %d requests elsewhere", status, body, stolen)
	}
}

func TestLoginScopes(t *testing.T) {
	s := newSite(t, nil)
	s.change(hostA, func(r *tenant.Record) {
		r.Authenticators[0].OIDC.RequiredScopes = []string{"mcp"}
		r.Authenticators[0].OIDC.Login.Scopes = []string{"profile"}
	})
	b := s.browser()
	_, authorize := b.step(s.base(hostA) + authn.LoginPath)
	u, _ := url.Parse(authorize)
	if got := u.Query().Get("scope"); got != "profile openid mcp" {
		t.Errorf("asks for %q", got)
	}
	b.login(hostA)
	s.idp.edit(func() { s.idp.reply = func(a map[string]any) { a["scope"] = "openid profile" } })
	if status, body, _ := s.browser().get(s.base(hostA) + authn.LoginPath); status != http.StatusBadRequest || !strings.Contains(body, "scope mcp") {
		t.Errorf("a scope that was not granted: got %d %s", status, body)
	}
}

func TestLoginDiscoveryRefused(t *testing.T) {
	for name, doc := range map[string]map[string]any{
		"no S256":         {"code_challenge_methods_supported": []string{"plain"}},
		"no endpoints":    {"authorization_endpoint": ""},
		"plain endpoint":  {"token_endpoint": "http://127.0.0.1/token"},
		"script endpoint": {"authorization_endpoint": "javascript:alert(1)"},
	} {
		s := newSite(t, nil)
		s.idp.edit(func() { s.idp.document = doc })
		if resp, body := s.browser().step(s.base(hostA) + authn.LoginPath); resp.StatusCode < 500 || resp.Header["Set-Cookie"] != nil {
			t.Errorf("%s: got %d %s", name, resp.StatusCode, body)
		}
	}
}

func TestLoginReturn(t *testing.T) {
	s := newSite(t, nil)
	for _, c := range []struct {
		to   string
		good bool
	}{
		{"/", true}, {"/servers", true}, {"/a/b?x=//y&z=1", true}, {"/%2F/evil.example", true}, {"/a%5Cb", true}, {"", true}, {"/a.b/..c", true},
		{"//evil.example", false}, {"///evil.example", false}, {"/\\evil.example", false}, {"\\\\evil.example", false}, {"/\t/evil.example", false},
		{"/\n/evil", false}, {"https://evil.example", false}, {"https:evil.example", false}, {"evil.example", false}, {"javascript:alert(1)", false},
		{"/a//b", false}, {"/..//evil.example", false}, {"/%2e%2E/evil", false}, {"/.", false}, {"/a#b", false}, {"/a b", false}, {"/\u00e9", false},
		{"/\x00", false}, {"?x", false}, {"/%zz", false}, {"/" + strings.Repeat("a", 512), false}, {"@evil.example", false}, {" /a", false},
	} {
		resp, body := s.browser().step(s.base(hostA) + authn.LoginPath + "?return_to=" + url.QueryEscape(c.to))
		if (resp.StatusCode == http.StatusSeeOther) != c.good {
			t.Errorf("%q: got %d %s", c.to, resp.StatusCode, body)
		}
	}
}

func TestLoginChoice(t *testing.T) {
	s := newSite(t, nil)
	s.change(hostA, func(r *tenant.Record) {
		keys := s.oidc("tokens-only")
		keys.OIDC.Login = nil
		r.Authenticators = append(r.Authenticators, s.oidc("okta"), keys)
	})
	b := s.browser()
	resp, page := b.step(s.base(hostA) + authn.LoginPath + "?return_to=" + url.QueryEscape(`/x?a=<b>"`+"'&c=1"))
	if resp.StatusCode != http.StatusOK || strings.Contains(page, "<b>") || strings.Contains(page, "<script") || strings.Contains(page, "tokens-only") {
		t.Fatalf("got %d %s", resp.StatusCode, page)
	}
	if resp.Header.Get("Content-Security-Policy") != authn.PagePolicy || resp.Header["Set-Cookie"] != nil {
		t.Errorf("got header %v", resp.Header)
	}
	for _, name := range []string{"dex", "okta"} {
		_, rest, ok := strings.Cut(page, `<a href="`+authn.LoginPath+"?authenticator="+name)
		link, _, _ := strings.Cut(rest, `"`)
		if !ok {
			t.Fatalf("no link to %s in %s", name, page)
		}
		status, body, at := b.get(s.base(hostA) + authn.LoginPath + "?authenticator=" + name + html.UnescapeString(link))
		if status != http.StatusOK || !strings.Contains(body, name+"/alice") || at.Query().Get("c") != "1" {
			t.Errorf("%s: got %d at %s: %s", name, status, at, body)
		}
	}
	for _, name := range []string{"tokens-only", "none", "<script>"} {
		if resp, body := b.step(s.base(hostA) + authn.LoginPath + "?authenticator=" + url.QueryEscape(name)); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: got %d %s", name, resp.StatusCode, body)
		}
	}
}

func TestLoginRefusedElsewhere(t *testing.T) {
	s := newSite(t, nil)
	e := s.entry(hostA)
	good := authn.LoginRequest{Method: "GET", Host: hostA, Base: s.base(hostA)}
	off := newTestService(t, func(c *authn.Config) { c.Secret = nil })
	for _, c := range []struct {
		name string
		auth *authn.Service
		edit func(*authn.LoginRequest)
		want fault.Kind
	}{
		{"shared host", s.auth, func(r *authn.LoginRequest) { r.Host, r.Base = "gw.test", "https://gw.test/tenant/team-a" }, fault.Invalid},
		{"plain", s.auth, func(r *authn.LoginRequest) { r.Base = "http://" + hostA }, fault.Invalid},
		{"HEAD", s.auth, func(r *authn.LoginRequest) { r.Method = "HEAD" }, fault.MethodNotAllowed},
		{"POST", s.auth, func(r *authn.LoginRequest) { r.Method = "POST" }, fault.MethodNotAllowed},
		{"query twice", s.auth, func(r *authn.LoginRequest) { r.Query = "return_to=/a&return_to=/b" }, fault.Invalid},
		{"query malformed", s.auth, func(r *authn.LoginRequest) { r.Query = "return_to=%zz" }, fault.Invalid},
		{"no platform secret", off, func(*authn.LoginRequest) {}, fault.NotImplemented},
	} {
		r := good
		c.edit(&r)
		if reply, err := c.auth.LoginStart(context.Background(), e, r); !fault.Is(err, c.want) || reply.SetCookies != nil {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := s.auth.LoginStart(context.Background(), entryOf("team-c", "uid-c"), good); !fault.Is(err, fault.NotFound) {
		t.Errorf("a tenant without login: %v", err)
	}
	if _, err := authn.New(authn.Config{Dial: nil}); err == nil {
		t.Error("no dial function is accepted")
	}
}

// TestLoginStartIsNoAmplifier begins many logins: the issuer is asked once.
func TestLoginStartIsNoAmplifier(t *testing.T) {
	s := newSite(t, nil)
	s.idp.srv.Close()
	for range 50 {
		_, err := s.auth.LoginStart(context.Background(), s.entry(hostA), authn.LoginRequest{Method: "GET", Host: hostA, Base: s.base(hostA)})
		if !fault.Is(err, fault.Unavailable) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestLogout(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	b.login(hostA)
	if status, body, _ := b.get(s.base(hostA2) + "/whoami"); status != http.StatusOK {
		t.Fatalf("hand-over: got %d %s", status, body)
	}
	cookie, other := b.cookies(hostA)[authn.SessionCookie], b.cookies(hostA2)[authn.SessionCookie]
	b.step(s.base(hostA) + authn.LoginPath)
	if resp, _ := b.step(s.base(hostA) + authn.LogoutPath); resp.StatusCode != http.StatusMethodNotAllowed || s.ask(hostA, cookie) == "" {
		t.Errorf("GET: got %d", resp.StatusCode)
	}
	resp, err := b.Post(s.base(hostA)+authn.LogoutPath, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	end := make([]byte, 1000)
	n, _ := resp.Body.Read(end)
	if want := s.idp.srv.URL + "/logout?client_id=polygate&from=polygate"; resp.StatusCode != http.StatusOK || string(end[:n]) != want {
		t.Errorf("got %d, the issuer's logout at %s; want %s", resp.StatusCode, end[:n], want)
	}
	if got := b.cookies(hostA); len(got) > 0 {
		t.Errorf("cookies after the logout: %v", got)
	}
	if got := s.ask(hostA, cookie); got != "" {
		t.Errorf("the old cookie: got %s", got)
	}
	if got := s.ask(hostA2, other); got != "" {
		t.Errorf("the session on the other host goes on: got %s", got)
	}
	if r := s.entry(hostA).Record.Revoked; len(r) != 1 || r[0].Session == "" || r[0].Until.Before(s.now().Add(50*time.Minute)) {
		t.Errorf("revocations: %+v", r)
	}
	b.login(hostA)
}

func TestLogoutWithoutSession(t *testing.T) {
	s := newSite(t, nil)
	r := authn.LoginRequest{Method: "POST", Host: hostA, Base: s.base(hostA), Cookies: []string{"__Host-polygate=stale; app=1; __Host-polygate-login-<x>=1"}}
	reply, err := s.auth.Logout(context.Background(), s.entry(hostA), r)
	if err != nil || reply.Revocation != nil || reply.Redirect != "" || len(reply.SetCookies) != 1 || !strings.HasPrefix(reply.SetCookies[0], "__Host-polygate=;") {
		t.Errorf("got %+v, %v", reply, err)
	}
}

func FuzzLoginReturn(f *testing.F) {
	for _, seed := range []string{"/", "//evil", "/\\evil", "/a?b=c", "/%2e%2e//x"} {
		f.Add(seed)
	}
	s := newTestService(f, nil)
	e := entryOf("team-a", "uid-a", tenant.Authenticator{Name: "dex", Type: tenant.AuthnOIDC, OIDC: &tenant.OIDC{Issuer: "https://idp.test", Login: &tenant.Login{ClientID: "x"}}})
	base, _ := url.Parse("https://" + hostA)
	f.Fuzz(func(t *testing.T, to string) {
		_, err := s.LoginStart(context.Background(), e, authn.LoginRequest{Method: "GET", Host: hostA, Base: base.String(), Query: url.Values{"return_to": {to}}.Encode()})
		if !fault.Is(err, fault.Unavailable) { // the issuer is down: whatever gets that far was accepted
			return
		}
		u, err := base.Parse(to)
		if err != nil || u.Host != hostA || u.Scheme != "https" || strings.HasPrefix(u.EscapedPath(), "//") || strings.ContainsAny(to, "\\\r\n\t\x00 ") {
			t.Errorf("%q leads to %v", to, u)
		}
	})
}

func FuzzSessionCookie(f *testing.F) {
	s := newSite(f, nil)
	b := s.browser()
	b.login(hostB)
	f.Add(b.cookies(hostB)[authn.SessionCookie])
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, cookie string) {
		if got := s.ask(hostA, cookie); got != "" {
			t.Errorf("%q opens as %s", cookie, got)
		}
	})
}

func BenchmarkSession(b *testing.B) {
	s := newSite(b, nil)
	br := s.browser()
	br.login(hostA)
	e, ev := s.entry(hostA), authn.Evidence{Cookie: br.cookies(hostA)[authn.SessionCookie], Host: hostA}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.auth.Authenticate(context.Background(), e, ev); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLoginLink(t *testing.T) {
	for back, want := range map[string]string{
		"/page?x=1": authn.LoginPath + "?return_to=%2Fpage%3Fx%3D1", "//evil": authn.LoginPath, "/" + strings.Repeat("a", 600): authn.LoginPath, "": authn.LoginPath,
	} {
		if got := authn.LoginLink(back); got != want {
			t.Errorf("%.20q: got %q, want %q", back, got, want)
		}
	}
}
