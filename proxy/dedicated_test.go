package proxy

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/textproto"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	hostD = "team-d." + base // dedicated, auth: upstream
	hostG = "team-g." + base // dedicated, auth: gateway
	keyD  = "key-of-team-d"
	keyG  = "key-of-team-g"
	keyGV = "viewer-of-team-g"
)

// withUpstream adds team-d and team-g, which relay to h.
func (f *front) withUpstream(h http.Handler) *httptest.Server {
	f.t.Helper()
	up := httptest.NewServer(h)
	f.t.Cleanup(up.Close)
	f.relayTo(up.URL)
	return up
}

func (f *front) relayTo(url string) {
	f.put(dedicated("team-d", url, tenant.AuthUpstream, key("d", keyD, tenant.Editor)))
	f.put(dedicated("team-g", url, tenant.AuthGateway, key("g", keyG, tenant.Editor), key("gv", keyGV, tenant.Viewer)))
}

// seen is a request as an upstream saw it.
type seen struct {
	Method, URI, Host, Proto, Body string
	Header, Trailer                http.Header
}

// echo answers with the request that it gets.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	_ = json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, r.Proto, string(b), r.Header, r.Trailer})
}

func (a answer) seen(t testing.TB) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(a.body), &s); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return s
}

// auth: upstream passes everything on, but for what proxies say among themselves.
func TestDedicatedUpstreamAuth(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	for _, proto := range []string{"", "h2"} {
		c := f.client(proto)
		got := f.do(c, "POST", "https://"+hostD+"/tenant/team-a/any%2Fpath?q=%zz;x", strings.NewReader("body"), "Authorization: Basic whatever",
			"Cookie: session=1", "X-Api-Key: theirs", "X-Custom: kept", "X-Forwarded-User: root", "X-Tenant-ID: team-d", "X-Polygate-Role: admin", "X-Request-Id: mine").seen(t)
		if got.Method != "POST" || got.URI != "/tenant/team-a/any%2Fpath?q=%zz;x" || got.Body != "body" || got.Host != hostD {
			t.Errorf("%s: %+v", proto, got)
		}
		for name, want := range map[string]string{"Authorization": "Basic whatever", "Cookie": "session=1", "X-Api-Key": "theirs", "X-Custom": "kept",
			"X-Forwarded-User": "", "X-Tenant-Id": "", "X-Polygate-Role": "", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https",
			"X-Forwarded-Host": hostD, "Forwarded": `for=127.0.0.1;host="` + hostD + `";proto=https`} {
			if strings.Join(got.Header[name], "|") != want {
				t.Errorf("%s: %s = %q, want %q", proto, name, got.Header[name], want)
			}
		}
		if id := got.Header.Get("X-Request-Id"); id == "" || id == "mine" {
			t.Errorf("X-Request-Id = %q", id)
		}
	}
	check(t, "/healthz is theirs", f.do(f.client(), "GET", "https://"+hostD+"/healthz", nil).status, 200)
	check(t, "X-Tenant-ID of another", f.do(f.client(), "GET", "https://"+hostD+"/x", nil, "X-Tenant-ID: team-a").status, 401)
	check(t, "X-Tenant-ID of another, valid key", f.do(f.client(), "GET", "https://"+hostD+"/x", nil, "X-Tenant-ID: team-a", bearer(keyA)).status, 403)
	got := f.do(f.client(), "GET", "https://"+base+"/tenant/team-d/x", nil, bearer(keyD))
	if !strings.HasPrefix(got.body, "tenant=team-d path=/x ") {
		t.Errorf("on the shared host: %+v", got)
	}
}

// auth: gateway authenticates, and says who asks.
func TestDedicatedGatewayAuth(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	c := f.client()
	url := "https://" + hostG + "/x"
	check(t, "nobody", f.do(c, "GET", url, nil).status, 401)
	check(t, "foreign key", f.do(c, "GET", url, nil, bearer(keyA)).status, 401)
	check(t, "viewer reads", f.do(c, "GET", url, nil, bearer(keyGV)).status, 200)
	check(t, "viewer writes", f.do(c, "POST", url, nil, bearer(keyGV)).status, 403)
	check(t, "liveness is ours", len(f.do(c, "GET", "https://"+hostG+"/healthz", nil).body), len("ok\n"))
	got := f.do(c, "GET", url, nil, "X-Api-Key: "+keyG, "Cookie: theirs=1", "X-Http-Method-Override: DELETE").seen(t)
	for name, want := range map[string]string{"X-Forwarded-User": "name of g", "Authorization": "", "X-Api-Key": "", "Cookie": "theirs=1", "X-Http-Method-Override": ""} {
		if strings.Join(got.Header[name], "|") != want {
			t.Errorf("%s = %q, want %q", name, got.Header[name], want)
		}
	}
	var actions []string
	for _, e := range f.recorder.all() {
		actions = append(actions, e.Action+" "+e.Principal+" "+e.Decision)
	}
	if got, want := strings.Join(actions, ", "), "relay.read key:gv allow, relay.write key:gv deny, relay.read key:g allow"; got != want {
		t.Errorf("audited %s, want %s", got, want)
	}
}

// withAuthn adds the real authenticators, and one of a trusted upstream to team-d and team-g.
func withAuthn(t *testing.T, sources string) (func(*Config), func(*tenant.Record)) {
	t.Helper()
	service, err := authn.New(authn.Config{Secret: make([]byte, 32), Dial: func(bool) func(context.Context, string, string) (net.Conn, error) {
		return new(net.Dialer).DialContext
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	return func(c *Config) { c.Authenticator = service }, func(r *tenant.Record) {
		r.Authenticators = []tenant.Authenticator{{Name: "sso", Type: tenant.AuthnUpstream, DefaultRole: tenant.Editor, Generation: "1",
			Upstream: &tenant.UpstreamUsers{Header: "X-User", Sources: []netip.Prefix{netip.MustParsePrefix(sources)}}}}
	}
}

// X25: headers that name users come from the trusted upstream alone, also where the tenant's own gateway authenticates: it
// would believe in them, as we are its only peer.
func TestX25DedicatedUpstreamAuth(t *testing.T) {
	for sources, want := range map[string]int{"10.0.0.0/8": 400, "127.0.0.0/8": 200} {
		with, set := withAuthn(t, sources)
		f := newFront(t, with)
		f.withUpstream(http.HandlerFunc(echo))
		f.change("team-d", set)
		url := "https://" + hostD + "/x"
		check(t, "without", f.do(f.client(), "GET", url, nil).status, 200)
		check(t, "with X-User, trusting "+sources, f.do(f.client(), "GET", url, nil, "X-User: alice").status, want)
		check(t, "with X_User", f.do(f.client(), "GET", url, nil, "X_User: alice").status, 400)
	}
}

// A dedicated gateway learns who asks by a header that no two principals share, and gets none of our sessions, whoever
// authenticates.
func TestDedicatedPrincipal(t *testing.T) {
	with, set := withAuthn(t, "127.0.0.0/8")
	f := newFront(t, with)
	f.withUpstream(http.HandlerFunc(echo))
	f.change("team-g", set)
	session := "Cookie: theirs=1; " + authn.SessionCookie + "=x"
	for _, tc := range []struct{ host, line, name, principal string }{
		{hostG, bearer(keyG), "name of g", "key:g"},
		{hostG, "X-User: name of g", "sso/name of g", "user:sso/name of g"},
		{hostD, "Accept: */*", "", ""},
	} {
		got := f.do(f.client(), "GET", "https://"+tc.host+"/x", nil, tc.line, session, "X-Polygate-Principal: key:root").seen(t).Header
		if got.Get("X-Forwarded-User") != tc.name || strings.Join(got["X-Polygate-Principal"], "|") != tc.principal || got.Get("X-User") != "" {
			t.Errorf("%s %s: got %v", tc.host, tc.line, got)
		}
		if c := strings.Join(got["Cookie"], "|"); c != "theirs=1" {
			t.Errorf("%s %s: Cookie %q", tc.host, tc.line, c)
		}
	}
}

// X22, X23: the identity header, in every spelling and place, is ours and there once.
func TestX22X23IdentityHeader(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	for _, identity := range []string{"", "X-Gw-User", "x-gw-user", "Remote-User"} {
		f.change("team-g", func(r *tenant.Record) { r.Dedicated.Identity = identity })
		name := identity
		if name == "" {
			name = "X-Forwarded-User"
		}
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		for _, tc := range []struct{ what, lines string }{
			{"absent", ""},
			{"as configured", name + ": root\n"},
			{"canonical", canonical + ": root\n"},
			{"upper case", strings.ToUpper(name) + ": root\n"},
			{"lower case", strings.ToLower(name) + ": root\n"},
			{"underscores", strings.ReplaceAll(name, "-", "_") + ": root\n"},
			{"one underscore", strings.Replace(name, "-", "_", 1) + ": root\n"},
			{"dots", strings.ReplaceAll(name, "-", ".") + ": root\n"},
			{"twice", name + ": root\n" + name + ": root2\n"},
			{"empty", name + ":\n"},
			{"listed in Connection", "Connection: close, " + name + "\n" + name + ": root\n"},
			{"listed in Connection in another case", "Connection: " + strings.ToUpper(name) + "\n"},
			{"trailer", "Transfer-Encoding: chunked\nTrailer: " + name + "\n\n2\nhi\n0\n" + name + ": root\n"},
		} {
			got := f.ask(hostG, "POST /x HTTP/1.1\nHost: "+hostG+"\n"+bearer(keyG)+"\n"+tc.lines+"\n")
			if got.status == 400 && tc.what == "listed" {
				continue
			}
			up := got.seen(t)
			n := 0
			for h, v := range up.Header {
				plain := strings.NewReplacer("_", "-", ".", "-").Replace(h)
				if strings.EqualFold(plain, name) {
					n += len(v)
				}
			}
			if n != 1 || up.Header.Get(canonical) != "name of g" || len(up.Trailer) != 0 {
				t.Errorf("%s, %s: header %v trailer %v", identity, tc.what, up.Header, up.Trailer)
			}
		}
	}
}

// X24: no client says where it comes from.
func TestX24ForwardingHeaders(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	var lines []string
	names := []string{"X-Forwarded", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl",
		"X-Real-IP", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Client-IP", "True-Client-IP", "X-Remote-User", "X-Remote-Addr", "Remote-User",
		"X-Auth-Request-User", "X-Auth-Request-Email", "X-Polygate-Tenant", "X-Sandbox-Id", "X-LLM-D-Inference-Fairness-Id", "X-Gateway-Inference-Fairness-Id",
		"X-MaaS-Group", "X-Envoy-Original-Path", "X-Envoy-External-Address", "X_Forwarded_For", "x_real_ip", "Proxy-Authorization", "Proxy-Connection"}
	for _, n := range append(names, "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded") {
		lines = append(lines, n+": 6.6.6.6")
	}
	for _, tc := range []struct{ host, key string }{{hostD, ""}, {hostG, keyG}} {
		got := f.do(f.client("h2"), "GET", "https://"+tc.host+"/x", nil, append(lines, bearer(tc.key))...).seen(t)
		for h, v := range got.Header {
			if strings.Contains(strings.Join(v, " "), "6.6.6.6") {
				t.Errorf("%s: %s: %q", tc.host, h, v)
			}
		}
		if got.Header.Get("X-Forwarded-For") != "127.0.0.1" {
			t.Errorf("X-Forwarded-For = %q", got.Header["X-Forwarded-For"])
		}
	}
}
