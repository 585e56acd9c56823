package catalog_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/catalog"
)

func TestParseURL(t *testing.T) {
	for raw, want := range map[string]catalog.Endpoint{
		"https://x.test":                   {Scheme: "https", Authority: "x.test:443", Host: "x.test", Path: "/"},
		"http://X.test:8080/a%2fb/?q=1&r":  {Scheme: "http", Authority: "x.test:8080", Host: "x.test:8080", Path: "/a%2fb/", Query: "q=1&r"},
		"http://[2001:DB8::1]/mcp":         {Scheme: "http", Authority: "[2001:db8::1]:80", Host: "[2001:db8::1]", Path: "/mcp"},
		"http://127.0.0.1:3000/mcp":        {Scheme: "http", Authority: "127.0.0.1:3000", Host: "127.0.0.1:3000", Path: "/mcp"},
		"https://my_server.svc.cluster/a;": {Scheme: "https", Authority: "my_server.svc.cluster:443", Host: "my_server.svc.cluster", Path: "/a;"},
	} {
		if got, err := catalog.ParseURL(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v\nwant %+v", raw, got, err, want)
		}
	}
}

func TestCheckNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a-b": true, "0": true, "a--b": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, "a-": false, "A": false, "a.b": false, "a/b": false, "a_b": false, "é": false, strings.Repeat("a", 65): false,
	} {
		if err := catalog.CheckName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestHeadersThatCannotBeConfigured(t *testing.T) {
	for _, name := range []string{
		"Host", "CONNECTION", "Transfer-Encoding", "content-type", "Mcp-Method", "mcp-session-id", "Cookie", "Proxy-Authorization", "X-Forwarded-For",
		"Forwarded", "Upgrade", "TE", "Expect", "a b", "a:b", "a\r\nb", "", "X_Key", "naïve", strings.Repeat("a", 65),
	} {
		s := catalog.Server{Name: "s", URL: "https://x.test/", Headers: map[string]string{name: "v"}}
		if err := s.Check(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	ok := catalog.Server{Name: "s", URL: "https://x.test/", Headers: map[string]string{"Authorization": "Bearer é", "X-Api-Key": "k", "x-team": "a b"}}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
}

// No error of a declaration shows a header's value, as errors reach logs and callers.
func TestErrorsHideValues(t *testing.T) {
	for _, value := range []string{"hush\x00", " hush", "hush\r\nX: y", strings.Repeat("hush", 2000)} {
		s := catalog.Server{Name: "s", URL: "https://x.test/", Headers: map[string]string{"X-Key": value}}
		if err := s.Check(); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%.20q: %v", value, err)
		}
	}
}

// FuzzParseURL: what is accepted, other parsers read alike: the host that is dialled is the host that they see.
func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"https://x.test/mcp?a=b", "http://[::1]:80/", "http://a@b/", "http://x.test:99999/", "https://x.test\\@y.test/", "http://1.2.3.4:1/%2e%2e/", "//x", "http:x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		e, err := catalog.ParseURL(raw)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("unclassified: %v", err)
			}
			return
		}
		again := e.Scheme + "://" + e.Host + e.Path
		if e.Query != "" {
			again += "?" + e.Query
		}
		u, err := url.Parse(again)
		if err != nil || u.User != nil || u.Fragment != "" || u.EscapedPath() != e.Path {
			t.Fatalf("%q became %q: %v", raw, again, err)
		}
		host, port, err := net.SplitHostPort(e.Authority)
		if err != nil || host != u.Hostname() || u.Port() != "" && u.Port() != port || !strings.HasPrefix(e.Path, "/") {
			t.Fatalf("%q is dialled at %q, named %q: %v", raw, e.Authority, e.Host, err)
		}
	})
}
