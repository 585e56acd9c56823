package proxy

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

// Whatever parseHost accepts is in one spelling, and is a name that is safe to compare, log and send.
func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"team-a.gw.test", "TEAM-A.gw.test.:443", "[::1]:80", "127.0.0.1", "", "a..b", "x@y", "xn--a-.b", "a:b:c", "[::1%25x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := parseHost(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(host, "/\\@?#% ,;\"\x00\r\n") || host != strings.ToLower(host) || strings.HasSuffix(host, ".") {
			t.Errorf("%q is %q", s, host)
		}
		again, p, err := parseHost(withPort(host, port))
		if err != nil || again != host || p != port {
			t.Errorf("%q is %q, %q, and then %q, %q, %v", s, host, port, again, p, err)
		}
		if u, err := url.Parse("https://" + withPort(host, port) + "/"); err != nil || u.Host != withPort(host, port) {
			t.Errorf("%q: net/url reads %v, %v", s, u, err)
		}
	})
}

// Whatever judge accepts, no number of decodings makes another path of, and net/http sends as it is.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/a%2fb?x=y", "/a/../b", "/%2e%2e/", "/%252e%252e/", "/..;x/", "//a", "/a%00", "/a\\b", "/%c0%ae/", "https://h/x", "/a?#", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tg, err := splitTarget(s, "h")
		if err != nil || tg.judge() != nil {
			return
		}
		for p, i := tg.path, 0; i < 8; i++ {
			for seg := range strings.SplitSeq(strings.ReplaceAll(p, "\\", "/"), "/") {
				if name, _, _ := strings.Cut(seg, ";"); name == ".." || name == "." {
					t.Fatalf("%q has a dot segment after %d decodings: %q", s, i, p)
				}
			}
			if strings.ContainsAny(p, "\x00\r\n\\") {
				t.Fatalf("%q holds a control byte or backslash after %d decodings: %q", s, i, p)
			}
			next, err := url.PathUnescape(p)
			if err != nil {
				break
			}
			p = next
		}
		if strings.TrimSuffix(path.Clean(tg.path), "/") != strings.TrimSuffix(tg.path, "/") {
			t.Errorf("%q: path.Clean makes %q of %q", s, path.Clean(tg.path), tg.path)
		}
		r := http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: "h", Opaque: tg.path, RawQuery: tg.query}}
		want := tg.path
		if tg.query != "" {
			want += "?" + tg.query
		}
		if got := r.URL.RequestURI(); got != want {
			t.Errorf("%q: sent as %q, judged as %q", s, got, want)
		}
	})
}

// cutTenant takes nothing but a prefix, and leaves a path.
func FuzzCutTenant(f *testing.F) {
	f.Add("/tenant/team-a/x")
	f.Add("/tenant/")
	f.Fuzz(func(t *testing.T, s string) {
		id, rest, ok := cutTenant(s)
		if !ok {
			if rest != s || strings.HasPrefix(s, "/tenant/") {
				t.Errorf("%q: %q", s, rest)
			}
			return
		}
		if strings.Contains(id, "/") || rest[0] != '/' || "/tenant/"+id+rest != s && "/tenant/"+id != s {
			t.Errorf("%q: %q %q", s, id, rest)
		}
	})
}

// After scrub, a header holds no name that a proxy or an authenticator speaks through, in any spelling.
func FuzzScrub(f *testing.F) {
	for _, s := range []string{"X-Forwarded-For", "x_real_ip", "Remote-User", "X.Forwarded.User", "Connection", "Te", "X-A"} {
		f.Add(s, "x, "+s, "v")
	}
	f.Fuzz(func(t *testing.T, name, connection, value string) {
		h := http.Header{}
		h.Add(name, value)
		h.Add("Connection", connection)
		scrub(h)
		for n := range h {
			folded := strings.ToLower(strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(n))
			for _, p := range []string{"x-forwarded", "forwarded", "x-real-ip", "remote-", "x-polygate-", "connection", "upgrade", "host", "transfer-encoding", "x-tenant-id"} {
				if folded == p || strings.HasSuffix(p, "-") && strings.HasPrefix(folded, p) {
					t.Errorf("%q is left of %q", n, name)
				}
			}
		}
	})
}
