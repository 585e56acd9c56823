package authn_test

import (
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
)

// TestX21Origin holds which web origins may make a browser change something or open a WebSocket (X21, mcp.md B1).
func TestX21Origin(t *testing.T) {
	const base = "https://team-a.example.com:8443"
	allowed := []string{"https://app.example.org", "http://localhost:3000"}
	for _, c := range []struct {
		name    string
		method  string
		upgrade string
		origin  []string
		site    []string
		cookie  bool
		want    bool
	}{
		{name: "no browser", method: "POST", want: true},
		{name: "own", method: "POST", origin: []string{"https://team-a.example.com:8443"}, want: true},
		{name: "own, cookie", method: "DELETE", origin: []string{"https://team-a.example.com:8443"}, cookie: true, want: true},
		{name: "own, cookie, same-origin", method: "PUT", origin: []string{"https://team-a.example.com:8443"}, site: []string{"same-origin"}, cookie: true, want: true},
		{name: "own in mixed case", method: "POST", origin: []string{"HTTPS://Team-A.Example.com:8443"}, want: true},
		{name: "own with final dot", method: "POST", origin: []string{"https://team-a.example.com.:8443"}, want: true},
		{name: "own with zeros before the port", method: "POST", origin: []string{"https://team-a.example.com:08443"}, want: true},
		{name: "allowed", method: "PATCH", origin: []string{"https://app.example.org"}, want: true},
		{name: "allowed, with its default port", method: "POST", origin: []string{"https://app.example.org:443"}, want: true},
		{name: "allowed, cookie", method: "POST", origin: []string{"https://app.example.org"}, site: []string{"cross-site"}, cookie: true, want: true},
		{name: "allowed, http", method: "POST", origin: []string{"http://localhost:3000"}, want: true},
		{name: "no Origin, cookie, same-origin", method: "POST", site: []string{"same-origin"}, cookie: true, want: true},
		{name: "foreign reads", method: "GET", origin: []string{"https://evil.example"}, want: true},
		{name: "foreign reads with cookie", method: "GET", origin: []string{"https://evil.example"}, cookie: true, want: true},
		{name: "foreign preflight", method: "OPTIONS", origin: []string{"https://evil.example"}, want: true},
		{name: "websocket without Origin", method: "GET", upgrade: "websocket", want: true},
		{name: "websocket, own", method: "GET", upgrade: "websocket", origin: []string{"https://team-a.example.com:8443"}, cookie: true, want: true},

		{name: "foreign", method: "POST", origin: []string{"https://evil.example"}},
		{name: "foreign, cookie", method: "POST", origin: []string{"https://evil.example"}, cookie: true},
		{name: "another tenant", method: "POST", origin: []string{"https://team-b.example.com:8443"}, cookie: true},
		{name: "a sandbox of the tenant", method: "POST", origin: []string{"https://s1--team-a.example.com:8443"}, site: []string{"same-site"}, cookie: true},
		{name: "the domain above", method: "POST", origin: []string{"https://example.com:8443"}},
		{name: "own host, another port", method: "POST", origin: []string{"https://team-a.example.com"}},
		{name: "own host, http", method: "POST", origin: []string{"http://team-a.example.com:8443"}},
		{name: "own as a prefix", method: "POST", origin: []string{"https://team-a.example.com:8443.evil.example"}},
		{name: "own as a user", method: "POST", origin: []string{"https://team-a.example.com:8443@evil.example"}},
		{name: "own with a path", method: "POST", origin: []string{"https://team-a.example.com:8443/"}},
		{name: "null", method: "POST", origin: []string{"null"}},
		{name: "null, cookie", method: "POST", origin: []string{"null"}, site: []string{"same-origin"}, cookie: true},
		{name: "empty", method: "POST", origin: []string{""}},
		{name: "two, both own", method: "POST", origin: []string{"https://team-a.example.com:8443", "https://team-a.example.com:8443"}},
		{name: "two in one", method: "POST", origin: []string{"https://team-a.example.com:8443, https://evil.example"}},
		{name: "another scheme", method: "POST", origin: []string{"chrome-extension://team-a.example.com:8443"}},
		{name: "wildcard", method: "POST", origin: []string{"*"}},
		{name: "no host", method: "POST", origin: []string{"https://"}},
		{name: "empty port", method: "POST", origin: []string{"https://team-a.example.com:"}},
		{name: "long", method: "POST", origin: []string{"https://" + strings.Repeat("a", 400)}},
		{name: "cookie without Origin", method: "POST", cookie: true},
		{name: "cookie without Origin, cross-site", method: "POST", site: []string{"cross-site"}, cookie: true},
		{name: "cookie without Origin, from the address bar", method: "POST", site: []string{"none"}, cookie: true},
		{name: "cookie, own, but another site", method: "POST", origin: []string{"https://team-a.example.com:8443"}, site: []string{"same-site"}, cookie: true},
		{name: "certificate without Origin, cross-site", method: "POST", site: []string{"cross-site"}},
		{name: "certificate without Origin, same-site", method: "POST", site: []string{"same-site"}},
		{name: "two Sec-Fetch-Site", method: "POST", site: []string{"same-origin", "cross-site"}, cookie: true},
		{name: "unknown method", method: "BREW", origin: []string{"https://evil.example"}},
		{name: "websocket, foreign", method: "GET", upgrade: "websocket", origin: []string{"https://evil.example"}},
		{name: "websocket, null", method: "GET", upgrade: "websocket", origin: []string{"null"}},
		{name: "websocket, cookie without Origin", method: "GET", upgrade: "websocket", cookie: true},
	} {
		h := map[string][]string{}
		if c.origin != nil {
			h["Origin"] = c.origin
		}
		if c.site != nil {
			h["Sec-Fetch-Site"] = c.site
		}
		err := authn.CheckOrigin(authn.OriginRequest{Method: c.method, Upgrade: c.upgrade, Header: h, Base: base, Allowed: allowed, ViaCookie: c.cookie})
		if (err == nil) != c.want || err != nil && !fault.Is(err, fault.Forbidden) {
			t.Errorf("%s: got %v, want allowed=%v", c.name, err, c.want)
		}
	}
}

func TestOriginOfBases(t *testing.T) {
	for _, c := range []struct {
		base, origin string
		want         bool
	}{
		{"https://team-a.example.com", "https://team-a.example.com", true},
		{"https://team-a.example.com", "https://team-a.example.com:443", true},
		{"https://team-a.example.com:443", "https://team-a.example.com", true},
		{"https://shared.example.com/tenant/team-a", "https://shared.example.com", true},
		{"https://custom.example.org:8443", "https://custom.example.org:8443", true},
		{"https://custom.example.org:8443", "https://team-a.example.com:8443", false}, // its other hosts are named in allowed_origins
		{"https://[::1]:8443", "https://[::1]:8443", true},
		{"https://[::1]", "https://[::1]", true},
		{"", "https://", false},
		{"", "null", false},
		{"team-a.example.com", "https://team-a.example.com", false},
	} {
		err := authn.CheckOrigin(authn.OriginRequest{Method: "POST", Header: map[string][]string{"Origin": {c.origin}}, Base: c.base})
		if (err == nil) != c.want {
			t.Errorf("%s at %q: got %v, want allowed=%v", c.origin, c.base, err, c.want)
		}
	}
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://team-a.example.com")
	f.Add("https://team-a.example.com.:443")
	f.Add("null")
	f.Fuzz(func(t *testing.T, origin string) {
		err := authn.CheckOrigin(authn.OriginRequest{Method: "POST", Header: map[string][]string{"Origin": {origin}}, Base: "https://team-a.example.com", ViaCookie: true})
		if err != nil {
			return
		}
		plain := strings.ToLower(origin)
		host, ok := strings.CutPrefix(plain, "https://team-a.example.com")
		if host = strings.TrimPrefix(host, "."); !ok || host != "" && strings.TrimLeft(host, ":0") != "443" {
			t.Errorf("%q is taken for the tenant's own", origin)
		}
	})
}
