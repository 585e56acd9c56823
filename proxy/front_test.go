package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

// X01: the second request of a kept connection names another tenant's host.
func TestX01HostOfAnotherTenantOnTheConnection(t *testing.T) {
	f := newFront(t)
	c := f.raw(hostA)
	c.send("GET /x HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\n\n")
	check(t, "first", c.answer().status, 200)
	c.send("GET /x HTTP/1.1\nHost: " + hostB + "\n" + bearer(keyB) + "\n\n")
	second := c.answer()
	check(t, "second", second.status, 421)
	if !c.closed() {
		t.Error("the connection stays open")
	}
	if n := f.gateways.entered("team-b"); n != 0 {
		t.Errorf("team-b was entered %d times", n)
	}
	if a := f.recorder.all(); len(a) != 1 || a[0].Chain() != audit.PlatformChain || a[0].Decision != audit.Deny || a[0].Resource != "host/"+hostB {
		t.Errorf("audited: %+v, want the misdirected request in the platform's chain", a)
	}
}

// TestMisdirectedFloodIsBounded holds that a flood of misdirected requests is answered, and does not fill the audit log.
func TestMisdirectedFloodIsBounded(t *testing.T) {
	f := newFront(t)
	for range 200 {
		c := f.raw(hostA)
		c.send("GET /x HTTP/1.1\nHost: " + hostB + "\n\n")
		check(t, "status", c.answer().status, 421)
	}
	if n := len(f.recorder.all()); n < 50 || n > 150 {
		t.Errorf("%d of 200 were recorded, want about the burst of 50", n)
	}
}

// X02: one HTTP/2 connection, a certificate for both hosts, streams with either authority.
func TestX02TwoAuthoritiesOnOneConnection(t *testing.T) {
	f := newFront(t)
	f.issuer.also = []string{hostA, hostB}
	release := make(chan struct{})
	f.gateways.decide = func(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
		if r.Path == "/slow" {
			<-release
		}
		return describe(ctx, e, r)
	}
	tr := f.transport("h2")
	tr.TLSClientConfig.ServerName = hostA
	var dials int
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return dial(ctx, network, addr)
	}
	c := &http.Client{Transport: tr}
	slow := make(chan answer)
	go func() { slow <- f.do(c, "GET", "https://"+hostA+"/slow", nil, bearer(keyA)) }()
	eventually(t, "team-a is entered", func() bool { return f.gateways.entered("team-a") == 1 })
	check(t, "A", f.do(c, "GET", "https://"+hostA+"/x", nil, bearer(keyA)).status, 200)
	check(t, "B on A's connection", f.do(c, "GET", "https://"+hostA+"/x", nil, "Host: "+hostB, bearer(keyB)).status, 421)
	close(release)
	check(t, "A's other stream", (<-slow).status, 200)
	if dials != 1 {
		t.Errorf("%d connections, want 1: nothing was proven", dials)
	}
	check(t, "B on its own", f.do(f.client("h2"), "GET", "https://"+hostB+"/x", nil, bearer(keyB)).status, 200)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// X03: however the host is spelled, it is the tenant of the connection or nobody.
func TestX03HostSpellings(t *testing.T) {
	f := newFront(t)
	for _, tc := range []struct {
		name, uri, host string
		want            int
	}{
		{"plain", "/x", hostA, 200},
		{"case", "/x", "TEAM-A.Gw.Test", 200},
		{"final dot", "/x", hostA + ".", 200},
		{"port", "/x", hostA + ":8443", 200},
		{"all three", "/x", "Team-A.gw.test.:1", 200},
		{"absolute form", "https://" + hostA + "/x", hostA, 200},
		{"absolute form overrides Host", "https://" + hostB + "/x", hostA, 421},
		{"absolute form of http", "http://" + hostA + "/x", hostA, 400},
		{"absolute form with user", "https://u@" + hostA + "/x", hostA, 400},
		{"two final dots", "/x", hostA + "..", 400},
		{"bad port", "/x", hostA + ":https", 400},
		{"port out of range", "/x", hostA + ":65536", 400},
		{"empty", "/x", "", 400},
		{"address", "/x", "127.0.0.1", 421},
		{"address in brackets", "/x", "[::1]:443", 421},
		{"user", "/x", "x@" + hostA, 400},
		{"list", "/x", hostA + "," + hostB, 400},
		{"punycode that ends in a hyphen", "/x", "xn--team-a-.gw.test", 400},
		{"punycode of nothing", "/x", "xn--team-a.gw.test", 421},
		{"kelvin sign and friends", "/x", "te\u0430m-a.gw.test", 400},
		{"another tenant's", "/x", hostB, 421},
		{"the shared one", "/x", base, 421},
		{"a name below", "/x", "x." + hostA, 421},
		{"nobody's", "/x", "example.com", 421},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := f.ask(hostA, "GET "+tc.uri+" HTTP/1.1\nHost: "+tc.host+"\n"+bearer(keyA)+"\n\n")
			check(t, tc.host, got.status, tc.want)
			if got.status == 200 && !strings.HasPrefix(got.body, "tenant=team-a path=/x ") {
				t.Errorf("body = %s", got.body)
			}
		})
	}
	if n := f.gateways.entered("team-b"); n != 0 {
		t.Errorf("team-b was entered %d times", n)
	}
}

// X03 in HTTP/2, which may carry a Host beside :authority.
func TestX03HostBesideAuthority(t *testing.T) {
	f := newFront(t)
	c := newH2(t, f, hostA)
	check(t, "same", c.request([]string{":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x", "host", hostA, "authorization", "Bearer " + keyA}), 200)
	check(t, "another", c.request([]string{":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x", "host", hostB, "authorization", "Bearer " + keyA}), 400)
	check(t, "a space in the path", c.request([]string{":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x HTTP/1.1", "authorization", "Bearer " + keyA}), 400)
	check(t, "a space in the query", c.request([]string{":method", "GET", ":scheme", "https", ":authority", hostA, ":path", "/x?a b", "authorization", "Bearer " + keyA}), 400)
}

// X04: no certificate is shown to a client that does not name a host of ours.
func TestX04UnknownServerName(t *testing.T) {
	f := newFront(t)
	for _, sni := range []string{"", "nobody." + base, "example.com", "x." + hostA} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			var shown bool
			cfg := &tls.Config{ServerName: sni, InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
				VerifyConnection: func(tls.ConnectionState) error { shown = true; return nil }}
			c, err := tls.Dial("tcp", f.addr, cfg)
			if err == nil {
				c.Close()
			}
			if err == nil || shown || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("SNI %q: err = %v, certificate shown = %v; want the alert unrecognized_name", sni, err, shown)
			}
		}
	}
	if len(f.issuer.asked) != 0 {
		t.Errorf("certificates were asked for: %q", f.issuer.asked)
	}
	c := f.raw("TEAM-A." + base)
	c.send("GET /x HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\n\n")
	check(t, "a server name in another case", c.answer().status, 200)
}

// X07: a ticket is good for the host that it was issued on, while the tenant is the same.
func TestX07TicketOfAnotherHost(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		f := newFront(t)
		cache := &oneTicket{}
		resumed := func(sni string) bool {
			t.Helper()
			c, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.issuer.pool(), ServerName: sni, ClientSessionCache: cache,
				MinVersion: version, MaxVersion: version, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			rc := &rawConn{c, t, nil}
			rc.send("GET /healthz HTTP/1.1\nHost: " + sni + "\n\n")
			_, _ = c.Read(make([]byte, 1)) // TLS 1.3 sends tickets after the handshake
			return c.ConnectionState().DidResume
		}
		if resumed(hostA) {
			t.Fatal("the first connection is resumed")
		}
		cache.keep = true
		if !resumed(hostA) {
			t.Error("no resumption on the same host: nothing was proven")
		}
		if resumed(hostB) {
			t.Errorf("TLS %x: a ticket of team-a resumes on team-b", version)
		}
		f.change("team-a", func(r *tenant.Record) { r.UID = "another" })
		if resumed(hostA) {
			t.Errorf("TLS %x: a ticket of the tenant of that name before resumes", version)
		}
	}
}

// oneTicket gives the same ticket to every host.
type oneTicket struct {
	s    *tls.ClientSessionState
	keep bool
}

func (o *oneTicket) Get(string) (*tls.ClientSessionState, bool) { return o.s, o.s != nil }
func (o *oneTicket) Put(_ string, s *tls.ClientSessionState) {
	if !o.keep && s != nil {
		o.s = s
	}
}

// X13, as far as net/http goes.
func TestX13NoHost(t *testing.T) {
	f := newFront(t)
	for _, request := range []string{
		"GET /healthz HTTP/1.0\n\n",
		"GET /healthz HTTP/1.1\n\n",
		"GET /healthz HTTP/1.1\nHost: " + hostA + "\nHost: " + hostA + "\n\n",
	} {
		check(t, request, f.ask(hostA, request).status, 400)
	}
	check(t, "HTTP/1.0 with Host", f.ask(hostA, "GET /healthz HTTP/1.0\nHost: "+hostA+"\n\n").status, 200)
}

// The table of refusals: design, step 3.
func TestResolution(t *testing.T) {
	f := newFront(t)
	f.change("team-a", func(r *tenant.Record) { r.Hosts = []string{"gateway.a.example"} })
	const unknown = "nobody"
	for _, tc := range []struct {
		name, host, path string
		lines            []string
		want             int
		who              string
	}{
		{"own host", hostA, "/x", []string{bearer(keyA)}, 200, "tenant=team-a path=/x query= base=https://team-a.gw.test host=team-a.gw.test principal=key:a role=editor"},
		{"custom host", "gateway.a.example", "/x?q=1", []string{bearer(keyA)}, 200, "tenant=team-a path=/x query=q=1 base=https://gateway.a.example "},
		{"X-Api-Key", hostA, "/x", []string{"X-Api-Key: " + keyA2}, 200, "role=viewer"},
		{"everything agrees", hostA, "/tenant/team-a/x", []string{bearer(keyA), "X-Tenant-ID: team-a"}, 200, "path=/x query= base=https://team-a.gw.test/tenant/team-a "},
		{"path on the shared host", base, "/tenant/team-a/x", []string{bearer(keyA)}, 200, "tenant=team-a path=/x query= base=https://gw.test/tenant/team-a "},
		{"path without an end", base, "/tenant/team-a", []string{bearer(keyA)}, 200, "path=/ "},
		{"raw bytes stay", base, "/tenant/team-a/%61%2Fb", []string{bearer(keyA)}, 200, "path=/%61%2Fb "},
		{"header on the shared host", base, "/x", []string{bearer(keyA), "X-Tenant-ID: team-a"}, 200, "tenant=team-a path=/x query= base=https://gw.test "},
		{"key alone on the shared host", base, "/x", []string{bearer(keyB)}, 200, "tenant=team-b path=/x query= base=https://gw.test "},

		{"no credential", hostA, "/x", nil, 401, ""},
		{"unknown credential", hostA, "/x", []string{bearer(unknown)}, 401, ""},
		{"foreign credential", hostA, "/x", []string{bearer(keyB)}, 401, ""},
		{"malformed credential", hostA, "/x", []string{"Authorization: Basic " + keyA}, 401, ""},
		{"two credentials", hostA, "/x", []string{bearer(keyA), "X-Api-Key: " + keyB}, 401, ""},
		{"key in the query", hostA, "/x?access_token=" + keyA, nil, 401, ""},
		{"unknown tenant by path, no credential", base, "/tenant/nobody/x", nil, 401, ""},
		{"unknown tenant by path", base, "/tenant/nobody/x", []string{bearer(keyA)}, 401, ""},
		{"known tenant by path, foreign key", base, "/tenant/team-b/x", []string{bearer(keyA)}, 401, ""},
		{"known tenant by path, no credential", base, "/tenant/team-b/x", nil, 401, ""},
		{"unknown tenant by header", base, "/x", []string{bearer(keyA), "X-Tenant-ID: nobody"}, 401, ""},
		{"known tenant by header, foreign key", base, "/x", []string{bearer(keyA), "X-Tenant-ID: team-b"}, 401, ""},
		{"header without a value", base, "/x", []string{bearer(keyA), "X-Tenant-ID: "}, 401, ""},
		{"tenant id of no grammar", base, "/tenant/TEAM-A/x", []string{bearer(keyA)}, 401, ""},
		{"encoded tenant id", base, "/tenant/team%2da/x", []string{bearer(keyA)}, 401, ""},
		{"nothing on the shared host", base, "/x", nil, 401, ""},
		{"disagreement without a credential", hostA, "/x", []string{"X-Tenant-ID: team-b"}, 401, ""},
		{"disagreement with an unknown one", base, "/tenant/team-a/x", []string{bearer(unknown), "X-Tenant-ID: team-b"}, 401, ""},

		{"host and header disagree", hostA, "/x", []string{bearer(keyA), "X-Tenant-ID: team-b"}, 403, ""},
		{"host and header disagree, absent", hostA, "/x", []string{bearer(keyA), "X-Tenant-ID: nobody"}, 403, ""},
		{"host and path disagree", hostA, "/tenant/team-b/x", []string{bearer(keyA)}, 403, ""},
		{"host and path disagree, absent", hostA, "/tenant/nobody/x", []string{bearer(keyA)}, 403, ""},
		{"path and header disagree", base, "/tenant/team-a/x", []string{bearer(keyA), "X-Tenant-ID: team-b"}, 403, ""},
		{"path and header disagree, foreign key", base, "/tenant/team-a/x", []string{bearer(keyB), "X-Tenant-ID: nobody"}, 403, ""},

		{"two tenant headers", hostA, "/x", []string{bearer(keyA), "X-Tenant-ID: team-a", "X-Tenant-ID: team-a"}, 400, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := len(f.recorder.all())
			lines := strings.Join(append([]string{"Host: " + tc.host}, tc.lines...), "\n")
			got := f.ask(tc.host, "GET "+tc.path+" HTTP/1.1\n"+lines+"\n\n")
			check(t, tc.name, got.status, tc.want)
			if !strings.Contains(got.body, tc.who) {
				t.Errorf("body = %s, want in it: %s", got.body, tc.who)
			}
			if got.header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
			audited := f.recorder.all()[before:]
			if (len(audited) == 1) != (tc.want == 403) {
				t.Fatalf("audited: %v", audited)
			}
			if tc.want == 403 && (audited[0].Action != "tenant.conflict" || audited[0].Decision != audit.Deny || audited[0].Principal == "") {
				t.Errorf("audited: %+v", audited[0])
			}
		})
	}
}

// Refusals of one status are one sequence of bytes, but for the request id and the date.
func TestRefusalsAreIdentical(t *testing.T) {
	f := newFront(t)
	refusal := func(host, path string, lines ...string) string {
		c := f.raw(host)
		c.send("GET " + path + " HTTP/1.1\n" + strings.Join(append([]string{"Host: " + host}, lines...), "\n") + "\n\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Del("X-Request-Id")
		res.Header.Del("Date")
		var b bytes.Buffer
		if err := res.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for status, all := range map[string][]string{
		"401": {
			refusal(hostA, "/x"), refusal(hostA, "/x", bearer("unknown")), refusal(hostA, "/x", bearer(keyB)), refusal(hostA, "/x", "Authorization: nonsense"),
			refusal(base, "/x"), refusal(base, "/tenant/team-b/x", bearer(keyA)), refusal(base, "/tenant/nobody/x", bearer(keyA)), refusal(base, "/tenant/nobody/x"),
			refusal(base, "/healthz"), refusal(base, "/tenant/team-a/healthz"),
		},
		"403": {
			refusal(hostA, "/x", bearer(keyA), "X-Tenant-ID: team-b"), refusal(hostA, "/x", bearer(keyA), "X-Tenant-ID: nobody"),
			refusal(base, "/tenant/team-b/x", bearer(keyA), "X-Tenant-ID: team-a"), refusal(base, "/tenant/nobody/x", bearer(keyA), "X-Tenant-ID: team-a"),
		},
	} {
		for _, one := range all {
			if one != all[0] || !strings.HasPrefix(one, "HTTP/1.1 "+status) {
				t.Errorf("%s is not one refusal:\n%s\n%s", status, all[0], one)
			}
		}
	}
}

// A host whose tenant is deleted while a connection to it is open is a host of nobody's: 401, like a foreign key.
func TestDeletedUnderAnOpenConnection(t *testing.T) {
	f := newFront(t)
	c := f.raw(hostA)
	request := func(lines string) answer {
		c.send("GET /x HTTP/1.1\nHost: " + hostA + "\n" + lines + "\n")
		return c.answer()
	}
	foreign := request(bearer(keyB) + "\n")
	f.drop("team-a")
	for _, lines := range []string{"", bearer(keyA) + "\n", bearer(keyB) + "\n"} {
		if got := request(lines); got.status != 401 || got.body != foreign.body {
			t.Errorf("%q: %d %s", lines, got.status, got.body)
		}
	}
	check(t, "contradiction", request(bearer(keyB)+"\nX-Tenant-ID: team-b\n").status, 403)
}
