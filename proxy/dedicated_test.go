package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/telemetry"
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

// rawUpstream answers each request on a connection by a function, and keeps the request lines.
type rawUpstream struct {
	net.Listener
	mu    sync.Mutex
	lines []string
	conns []net.Conn
	wg    sync.WaitGroup
}

func newRawUpstream(t testing.TB, serve func(c net.Conn, r *http.Request)) *rawUpstream {
	t.Helper()
	u := &rawUpstream{Listener: listen(t)}
	u.wg.Go(func() {
		for {
			c, err := u.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, c)
			u.mu.Unlock()
			u.wg.Go(func() { u.conn(c, serve) })
		}
	})
	t.Cleanup(u.end)
	return u
}

// end closes everything and waits.
func (u *rawUpstream) end() {
	u.Close()
	u.mu.Lock()
	for _, c := range u.conns {
		c.Close()
	}
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *rawUpstream) conn(c net.Conn, serve func(net.Conn, *http.Request)) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(c)
	for {
		head, err := br.Peek(1)
		if err != nil || len(head) == 0 {
			return
		}
		var whole bytes.Buffer
		r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(oneByte{br}, &whole)))
		if err != nil {
			return
		}
		line, _, _ := strings.Cut(whole.String(), "\r\n")
		u.mu.Lock()
		u.lines = append(u.lines, line)
		u.mu.Unlock()
		serve(c, r)
	}
}

// oneByte keeps a bufio.Reader behind it from reading ahead.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

func (u *rawUpstream) take() ([]string, int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	l := u.lines
	u.lines = nil
	return l, len(u.conns)
}

func ok(c net.Conn, _ *http.Request) {
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// X26: the bytes that were judged are the bytes that arrive, or nothing arrives.
func TestX26PathBytes(t *testing.T) {
	f := newFront(t)
	up := newRawUpstream(t, ok)
	f.relayTo("http://" + up.Addr().String())
	for target, pass := range map[string]bool{
		"/": true, "/a": true, "/a/": true, "/a%2Fb": true, "/a%2fb": true, "/%41": true, "/a;x=1/b": true, "/a%20b": true, "/100%25": true, "/.well-known/x": true,
		"/...": true, "/a..b": true, "/..a": true, "/{x}|^": true, "/a%23b": true, "/a?": true, "/a?b": true, "/a?b=%zz&c;d=/../e": true, "/?//": true, "/a%2f%2fb": true,
		"/%e2%82%ac": true, "/a:b@c": true, "/%3f?x": true, "/'\"<>": true,
		"/..": false, "/.": false, "/a/..": false, "/a/../b": false, "/a/./b": false, "/%2e%2e/b": false, "/%2E%2e": false, "/.%2e/": false, "/%2e/": false,
		"/a%2f..%2fb": false, "/a%2F%2e%2e%2Fb": false, "/a/..;/b": false, "/a/..;x=1/b": false, "/a/.;/b": false, "/..%3bx/b": false, "//a": false, "/a//b": false,
		"/a\\b": false, "/a%5cb": false, "/a%5C..%5cb": false, "/%00": false, "/a%00.txt": false, "/%0a": false, "/%0D%0ax": false, "/%7f": false, "/a#b": false,
		"/a%": false, "/a%2": false, "/a%zz": false, "/%252e%252e/a": false, "/%25%32%65./a": false, "/a%252fb/%252e%252e%252f": false, "/%25252e%25252e/": false,
		"/a%255cb": false, "/%2500": false, "/%2525252525252525": false, "/%c0%ae%c0%ae/": false, "/%c0%af": false, "/a?b#c": false, "*": false, "a": false, "/\u20ac": false,
	} {
		got := f.ask(hostD, "GET "+target+" HTTP/1.1\nHost: "+hostD+"\n\n")
		lines, _ := up.take()
		switch {
		case pass && (got.status != 200 || len(lines) != 1 || lines[0] != "GET "+target+" HTTP/1.1"):
			t.Errorf("%s: %d, upstream got %q", target, got.status, lines)
		case !pass && (got.status != 400 || len(lines) != 0):
			t.Errorf("%s: %d, upstream got %q; want 400 and nothing", target, got.status, lines)
		}
	}
}

// X15: a client's broken body is the client's fault, to everybody who counts.
func TestX15BrokenBody(t *testing.T) {
	m, err := telemetry.NewMetrics(prometheus.NewRegistry(), 10)
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(t, func(c *Config) { c.Metrics = m; c.Limits.Body = 1000; c.Limits.BodyIdle = 100 * time.Millisecond })
	f.withUpstream(http.HandlerFunc(echo))
	head := "POST /x HTTP/1.1\nHost: " + hostD + "\n"
	for _, tc := range []struct {
		name, request string
		want          int
	}{
		{"bad chunk size", head + "Transfer-Encoding: chunked\n\n5\nhello\nZZ\nx\n0\n\n", 400},
		{"bad chunk end", head + "Transfer-Encoding: chunked\n\n5\nhelloXX\n0\n\n", 400},
		{"body that stops", head + "Content-Length: 10\n\nhello", 400},
		{"chunks that stop", head + "Transfer-Encoding: chunked\n\n5\nhello\n", 400},
		{"body over the limit in chunks", head + "Transfer-Encoding: chunked\n\n400\n" + strings.Repeat("a", 1024) + "\n0\n\n", 413},
		{"whole body", head + "Transfer-Encoding: chunked\n\n5\nhello\n0\n\n", 200},
	} {
		c := f.raw(hostD)
		c.send(tc.request)
		got := c.answer()
		check(t, tc.name, got.status, tc.want)
		if tc.want != 200 && !c.closed() {
			t.Errorf("%s: the connection stays open", tc.name)
		}
	}
	eventually(t, "all are counted", func() bool { return strings.Contains(string(m.TenantText("team-d")), `{code="2xx",tenant="team-d"} 1`) })
	if text := string(m.TenantText("team-d")); !strings.Contains(text, `polygate_tenant_upstream_errors_total{tenant="team-d"} 0`) {
		t.Errorf("counted against the upstream:\n%s", text)
	}
}

// X20: no tunnel but to a WebSocket that was asked for, and no second use of a connection on which one was refused.
func TestX20NoTunnel(t *testing.T) {
	f := newFront(t)
	smuggled := "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
	up := newRawUpstream(t, func(c net.Conn, r *http.Request) {
		switch r.URL.Path {
		case "/refuse":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"+smuggled)
		case "/switch":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+smuggled)
		case "/h2c":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"+smuggled)
		case "/bare":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n"+smuggled)
		default:
			ok(c, r)
		}
	})
	f.relayTo("http://" + up.Addr().String())
	const upgrade = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n"
	for _, tc := range []struct {
		path, lines string
		want        int
		body        string
	}{
		{"/refuse", upgrade, 200, "no"},
		{"/h2c", upgrade, 502, ""},
		{"/bare", upgrade, 502, ""},
		{"/switch", "", 502, ""},
		{"/bare", "", 502, ""},
	} {
		_, before := up.take()
		c := f.raw(hostD)
		c.send("GET " + tc.path + " HTTP/1.1\nHost: " + hostD + "\n" + tc.lines + "\n")
		got := c.answer()
		check(t, tc.path, got.status, tc.want)
		if tc.body != "" && got.body != tc.body || strings.Contains(got.body, "smuggled") {
			t.Errorf("%s: body %q", tc.path, got.body)
		}
		c.send("GET /next HTTP/1.1\nHost: " + hostD + "\n\n")
		if got := c.answer(); got.body != "ok" {
			t.Errorf("%s: the next answer is %q", tc.path, got.body)
		}
		if _, after := up.take(); after-before < 1 && tc.lines != "" {
			t.Errorf("%s: the connection of an upgrade was shared", tc.path)
		}
	}
	_, before := up.take()
	for range 3 {
		check(t, "upgrade that is ignored", f.ask(hostD, "GET /ignore HTTP/1.1\nHost: "+hostD+"\n"+upgrade+"\n").status, 200)
	}
	if _, after := up.take(); after-before != 3 {
		t.Errorf("%d connections for three upgrades that were refused", after-before)
	}
}

// wsEcho echoes WebSocket messages of up to 32 MiB.
func wsEcho(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(32 << 20)
	for {
		typ, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), typ, b); err != nil {
			return
		}
	}
}

func (f *front) websocket(host string, lines ...string) *websocket.Conn {
	f.t.Helper()
	h := http.Header{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.Add(name, value)
	}
	c, res, err := websocket.Dial(f.t.Context(), "wss://"+host+"/ws", &websocket.DialOptions{HTTPClient: f.client(), HTTPHeader: h})
	if err != nil {
		f.t.Fatal(err)
	}
	if id := res.Header["X-Request-Id"]; len(id) != 1 {
		f.t.Errorf("X-Request-Id = %q", id)
	}
	f.t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(32 << 20)
	return c
}

func TestWebSocket(t *testing.T) {
	f := newFront(t)
	up := httptest.NewUnstartedServer(http.HandlerFunc(wsEcho))
	cert, err := f.issuer.issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	up.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	plain := f.withUpstream(http.HandlerFunc(wsEcho))
	for _, url := range []string{plain.URL, up.URL} {
		f.relayTo(url)
		for _, tc := range []struct{ host, key string }{{hostD, "theirs"}, {hostG, keyG}} {
			c := f.websocket(tc.host, bearer(tc.key), "Origin: https://"+tc.host)
			big := bytes.Repeat([]byte("0123456789abcdef"), 25<<20/16)
			for _, msg := range [][]byte{[]byte("hello"), big} {
				if err := c.Write(t.Context(), websocket.MessageBinary, msg); err != nil {
					t.Fatal(err)
				}
				if _, got, err := c.Read(t.Context()); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("%s to %s: %d bytes came back as %d: %v", tc.host, url, len(msg), len(got), err)
				}
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	}
	check(t, "viewer", f.do(f.client(), "GET", "https://"+hostG+"/ws", nil, bearer(keyGV), "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==").status, 403)
}

// Bodies pass as they are, both ways, over every pair of protocols.
func TestBodiesPassUnchanged(t *testing.T) {
	f := newFront(t)
	mirror := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("Content-Encoding", r.Header.Get("Content-Encoding"))
		_, _ = w.Write(b)
	})
	secure := httptest.NewUnstartedServer(mirror)
	cert, err := f.issuer.issue("localhost")
	if err != nil {
		t.Fatal(err)
	}
	secure.TLS, secure.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{*cert}}, true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := f.withUpstream(mirror)
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 1000, 40000, 3 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(rnd.Uint32())
		}
		for url, proto := range map[string]string{plain.URL: "HTTP/1.1", secure.URL: "HTTP/2.0"} {
			f.relayTo(url)
			for _, client := range []string{"", "h2"} {
				for _, r := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} {
					got := f.do(f.client(client), "POST", "https://"+hostD+"/x", r, "Content-Encoding: gzip")
					if got.status != 200 || got.body != string(body) || got.header.Get("X-Proto") != proto {
						t.Errorf("%d bytes, %q to %s: %d, %d bytes over %s", size, client, proto, got.status, len(got.body), got.header.Get("X-Proto"))
					}
				}
			}
		}
	}
}

// The corners of HTTP that a proxy has to get right.
func TestHTTPCorners(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/head":
			w.Header().Set("Content-Length", "12345")
			w.Header().Set("Server", "theirs")
		case "/redirect":
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(302)
		case "/hints":
			w.Header().Set("Link", "</x.css>")
			w.WriteHeader(103)
			w.WriteHeader(200)
		case "/trailers":
			w.Header().Set("Trailer", "Grpc-Status")
			w.Header().Set("X-Te", r.Header.Get("Te"))
			_, _ = io.WriteString(w, "message")
			w.Header().Set("Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
		case "/hygiene":
			w.Header().Set("X-Request-Id", "theirs")
			w.Header().Set("X-Polygate-Tenant", "theirs")
			w.Header().Set("Alt-Svc", `h3="evil.example:443"`)
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.Header().Add("Set-Cookie", "a=domain; Path=/; Domain=.gw.test; Secure")
			w.Header().Add("Set-Cookie", "b=1; domain = gw.test")
		case "/nocontent":
			w.WriteHeader(204)
		case "/expect":
			if r.ContentLength > 100 {
				w.WriteHeader(417)
				return
			}
			echo(w, r)
		}
	}))
	c := f.client()
	url := func(path string) string { return "https://" + hostD + path }
	head := f.do(c, "HEAD", url("/head"), nil)
	if head.header.Get("Content-Length") != "12345" || head.header.Get("Server") != "theirs" {
		t.Errorf("HEAD: %+v", head)
	}
	if got := f.do(c, "GET", url("/redirect"), nil); got.status != 302 || got.header.Get("Location") != "http://127.0.0.1:1/" {
		t.Errorf("redirect: %+v", got)
	}
	check(t, "no content", f.do(c, "GET", url("/nocontent"), nil).status, 204)
	for _, proto := range []string{"", "h2"} {
		hinted := 0
		req, _ := http.NewRequest("GET", url("/hints"), nil)
		req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, _ textproto.MIMEHeader) error { hinted = code; return nil }}))
		res, err := f.client(proto).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); hinted != 103 || got.status != 200 || len(got.header["X-Request-Id"]) != 1 {
			t.Errorf("hints: %d, then %+v", hinted, got)
		}
		req, _ = http.NewRequest("POST", url("/trailers"), strings.NewReader("x"))
		req.Header.Set("Te", "trailers")
		if res, err = f.client(proto).Do(req); err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); res.Trailer.Get("Grpc-Status") != "0" || res.Trailer.Get("Grpc-Message") != "fine" || got.header.Get("X-Te") != "trailers" {
			t.Errorf("trailers over %q: %v, %+v", proto, res.Trailer, got)
		}
	}
	got := f.do(c, "GET", url("/hygiene"), nil)
	for name, want := range map[string]string{"X-Polygate-Tenant": "", "Alt-Svc": "", "Keep-Alive": "", "Proxy-Authenticate": "", "Set-Cookie": "a=domain; Path=/; Secure|b=1"} {
		if v := strings.Join(got.header[name], "|"); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	if id := got.header["X-Request-Id"]; len(id) != 1 || id[0] == "theirs" {
		t.Errorf("X-Request-Id = %q", id)
	}
	raw := f.raw(hostD)
	raw.send("POST /expect HTTP/1.1\nHost: " + hostD + "\nExpect: 100-continue\nContent-Length: 4\n\n")
	check(t, "expect", raw.answer().status, 100)
	raw.send("body")
	if got := raw.answer(); got.status != 200 || got.seen(t).Body != "body" {
		t.Errorf("after 100: %+v", got)
	}
	raw = f.raw(hostD)
	raw.send("POST /expect HTTP/1.1\nHost: " + hostD + "\nExpect: 100-continue\nContent-Length: 4000\n\n")
	check(t, "refused expectation", raw.answer().status, 417)
}

// An answer does not wait for a body that nobody reads, and what is left of one does not hold the connection for long.
func TestEarlyAnswer(t *testing.T) {
	f := newFront(t)
	up := newRawUpstream(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, "HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
	})
	f.relayTo("http://" + up.Addr().String())
	for host, want := range map[string]int{hostD: 409, hostA: 401} {
		c := f.raw(host)
		c.send("POST /x HTTP/1.1\nHost: " + host + "\nContent-Length: 100000\n\nbeginning")
		check(t, host, c.answer().status, want)
		if !c.closed() {
			t.Errorf("%s: the connection waits for the body", host)
		}
		c = f.raw(host)
		c.send("POST /x HTTP/1.1\nHost: " + host + "\nContent-Length: 60\n\nGET /smuggled HTTP/1.1\nHost: " + host + "\n\n")
		check(t, host, c.answer().status, want)
		if !c.closed() {
			t.Errorf("%s: the rest of the body was taken for a request, or waited for", host)
		}
	}
	e, _ := f.dir.ByID("team-d")
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
}

// What fails at the upstream has its status, and says nothing of the inside.
func TestUpstreamFailures(t *testing.T) {
	f := newFront(t)
	engine := f.cfg.Engine.(*ReverseProxyEngine)
	engine.headerTimeout = 50 * time.Millisecond
	release := make(chan struct{})
	up := newRawUpstream(t, func(c net.Conn, r *http.Request) {
		switch r.URL.Path {
		case "/silent":
			<-release
		case "/nonsense":
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
		case "/cut":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		}
		c.Close()
	})
	f.relayTo("http://" + up.Addr().String())
	for path, want := range map[string]int{"/silent": 504, "/nonsense": 502, "/close": 502} {
		got := f.do(f.client(), "GET", "https://"+hostD+path, nil)
		if got.status != want || strings.Contains(got.body, "127.0.0.1") || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %+v", path, got)
		}
	}
	close(release)
	res, err := f.client().Get("https://" + hostD + "/cut")
	if err == nil { // else the connection broke before anything of it was sent
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a response that was cut looks whole: %q", b)
		}
		res.Body.Close()
	}
	up.Close()
	check(t, "down", f.do(f.client(), "GET", "https://"+hostD+"/x", nil).status, 502)
	outcomes := map[string]int{}
	eventually(t, "5 audit records", func() bool { return len(f.recorder.all()) == 5 })
	for _, e := range f.recorder.all() {
		outcomes[e.Outcome]++
	}
	if outcomes["bad-upstream"] != 4 || outcomes["upstream-timeout"] != 1 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// events answers with an event, and then one for each value of next, until the client goes away.
type events struct {
	next chan string
	gone atomic.Int32
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: hello\n\n")
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			e.gone.Add(1)
			return
		case v := <-e.next:
			fmt.Fprintf(w, "data: %s\n\n", v)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// sse opens a stream and reads its first event.
func (f *front) sse(c *http.Client, host string, lines ...string) (*http.Response, *bufio.Reader) {
	f.t.Helper()
	req, _ := http.NewRequest("GET", "https://"+host+"/events", nil)
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Add(name, value)
	}
	res, err := c.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { res.Body.Close() })
	r := bufio.NewReader(res.Body)
	if got := event(f.t, r); got != "hello" {
		f.t.Fatalf("first event: %q", got)
	}
	return res, r
}

func event(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("event: %v", err)
	}
	_, _ = r.ReadString('\n')
	return strings.TrimSuffix(strings.TrimPrefix(line, "data: "), "\n")
}

// Events pass one by one, and the upstream learns that the client is gone.
func TestStreaming(t *testing.T) {
	f := newFront(t)
	up := &events{next: make(chan string)}
	f.withUpstream(up)
	for i, proto := range []string{"", "h2"} {
		res, r := f.sse(f.client(proto), hostD)
		for _, v := range []string{"one", "two"} {
			up.next <- v
			if got := event(t, r); got != v {
				t.Errorf("event %q, want %q", got, v)
			}
		}
		res.Body.Close()
		eventually(t, "the upstream sees the end", func() bool { return up.gone.Load() == int32(i+1) })
	}
	eventually(t, "two canceled", func() bool {
		n := 0
		for _, e := range f.recorder.all() {
			if e.Outcome == "canceled" {
				n++
			}
		}
		return n == 2
	})
}

// ended waits for the end of a stream and returns how long it took.
func ended(t testing.TB, read func() error) time.Duration {
	t.Helper()
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- read() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the stream goes on")
		}
	case <-time.After(5 * time.Second):
		t.Error("the stream does not end")
	}
	return time.Since(began)
}

// Streams end within a second when the right to them does.
func TestRevocationEndsStreams(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(f *front)
	}{
		{"key revoked", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.Keys = r.Keys[1:] }) }},
		{"role changed", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.Keys[0].Role = tenant.Viewer }) }},
		{"suspended", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.State = tenant.StateSuspended }) }},
		{"deleted", func(f *front) { f.drop("team-g") }},
		{"deleted and made again", func(f *front) { f.change("team-g", func(r *tenant.Record) { r.UID = "another" }) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFront(t)
			f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/ws" {
					wsEcho(w, r)
					return
				}
				(&events{}).ServeHTTP(w, r)
			}))
			var reads []func() error
			for _, proto := range []string{"", "h2"} {
				_, r := f.sse(f.client(proto), hostG, bearer(keyG))
				reads = append(reads, func() error { _, err := r.ReadString('\n'); return err })
			}
			ws := f.websocket(hostG, bearer(keyG))
			reads = append(reads, func() error { _, _, err := ws.Read(t.Context()); return err })
			_, other := f.sse(f.client(), hostD)
			tc.end(f)
			for i, r := range reads {
				if took := ended(t, r); took > time.Second {
					t.Errorf("stream %d took %v", i, took)
				}
			}
			go f.stop() // ends the other
			if _, err := other.ReadString('\n'); err == nil {
				t.Error("the other tenant's stream got something")
			}
		})
	}
}

// A client that does not read cannot hold on to what it may no longer have.
func TestRevocationEndsBlockedWrites(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ws" {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			for c.Write(r.Context(), websocket.MessageBinary, make([]byte, 1<<20)) == nil {
			}
			return
		}
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	_ = f.websocket(hostG, bearer(keyG))
	for _, proto := range []string{"", "h2"} {
		req, _ := http.NewRequest("GET", "https://"+hostG+"/x", nil)
		req.Header.Set("Authorization", "Bearer "+keyG)
		res, err := f.client(proto).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
	}
	blocked := func() int {
		n := 0
		f.live.each(func(fl *flight) bool { return fl.writing.Load() != 0 }, func(*flight) { n++ })
		return n
	}
	eventually(t, "two writes are blocked", func() bool { return blocked() == 2 })
	e, _ := f.dir.ByID("team-g")
	if n := f.guards.For(e).InFlight(); n != 3 {
		t.Fatalf("%d in flight", n)
	}
	f.change("team-g", func(r *tenant.Record) { r.Keys = nil })
	began := time.Now()
	eventually(t, "none is in flight", func() bool { return f.guards.For(e).InFlight() == 0 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// A client that stops reading is cut.
func TestWriteIdle(t *testing.T) {
	f := newFront(t, func(c *Config) { c.Limits.WriteIdle = 200 * time.Millisecond })
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}))
	for _, proto := range []string{"", "h2"} {
		res, err := f.client(proto).Get("https://" + hostD + "/x")
		if err != nil {
			t.Fatal(err)
		}
		e, _ := f.dir.ByID("team-d")
		eventually(t, "it is cut", func() bool { return f.guards.For(e).InFlight() == 0 })
		res.Body.Close()
	}
}

// revoking is a Directory in which a key is revoked just after it was found.
type revoking struct {
	*directory
	revoke func()
}

func (r *revoking) ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool) {
	e, k, ok := r.directory.ByKey(h)
	if r.revoke != nil {
		r.revoke()
	}
	return e, k, ok
}

// A revocation between authentication and registration is not missed.
func TestRevocationRace(t *testing.T) {
	dir := &revoking{}
	f := newFront(t, func(c *Config) { dir.directory = c.Directory.(*directory); c.Directory = dir })
	dir.revoke = func() { f.change("team-a", func(r *tenant.Record) { r.Keys = nil }) }
	check(t, "revoked while authenticating", f.do(f.client(), "GET", "https://"+hostA+"/x", nil, bearer(keyA)).status, 401)
	if n := f.gateways.entered("team-a"); n != 0 {
		t.Errorf("entered %d times", n)
	}
}

// A change of mode holds for new requests; those in flight finish where they are.
func TestModeChange(t *testing.T) {
	f := newFront(t)
	release, entered := make(chan struct{}), make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "from upstream")
	}))
	slow := make(chan answer)
	go func() { slow <- f.do(f.client(), "GET", "https://"+hostD+"/x", nil, bearer(keyD)) }()
	<-entered
	f.change("team-d", func(r *tenant.Record) { r.Mode, r.Dedicated = tenant.ModeVirtual, nil })
	if got := f.do(f.client(), "GET", "https://"+hostD+"/x", nil, bearer(keyD)); !strings.HasPrefix(got.body, "tenant=team-d") {
		t.Errorf("new: %+v", got)
	}
	close(release)
	if got := <-slow; got.body != "from upstream" {
		t.Errorf("in flight: %+v", got)
	}
}

// Everybody on a suspended dedicated host hears the reason where the gateway knows nobody.
func TestSuspendedDedicated(t *testing.T) {
	f := newFront(t)
	f.withUpstream(http.HandlerFunc(echo))
	for _, id := range []tenant.ID{"team-d", "team-g"} {
		f.change(id, func(r *tenant.Record) { r.State, r.SuspendReason = tenant.StateSuspended, "moving" })
	}
	c := f.client()
	if got := f.do(c, "GET", "https://"+hostD+"/x", nil); got.status != 503 || !strings.Contains(got.body, "moving") {
		t.Errorf("auth: upstream: %+v", got)
	}
	check(t, "auth: gateway, stranger", f.do(c, "GET", "https://"+hostG+"/x", nil).status, 401)
	check(t, "auth: gateway, member", f.do(c, "GET", "https://"+hostG+"/x", nil, bearer(keyG)).status, 503)
	for _, id := range []tenant.ID{"team-d", "team-g"} {
		f.change(id, func(r *tenant.Record) { r.State = tenant.StateActive })
	}
	check(t, "resumed", f.do(c, "GET", "https://"+hostD+"/x", nil).status, 200)
}

// Run ends streams at once, lets requests finish, and takes no new ones.
func TestShutdown(t *testing.T) {
	f := newFront(t)
	release, entered := make(chan struct{}), make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			wsEcho(w, r)
		case "/events":
			(&events{}).ServeHTTP(w, r)
		default:
			close(entered)
			<-release
			_, _ = io.WriteString(w, "finished")
		}
	}))
	ws := f.websocket(hostD)
	_, r := f.sse(f.client("h2"), hostD)
	slow := make(chan answer)
	go func() { slow <- f.do(f.client(), "GET", "https://"+hostD+"/slow", nil) }()
	<-entered
	f.stop()
	if took := ended(t, func() error { _, _, err := ws.Read(context.Background()); return err }); took > time.Second {
		t.Errorf("WebSocket: %v", took)
	}
	if took := ended(t, func() error { _, err := r.ReadString('\n'); return err }); took > time.Second {
		t.Errorf("events: %v", took)
	}
	close(release)
	if got := <-slow; got.body != "finished" {
		t.Errorf("request: %+v", got)
	}
	f.wait()
	if c, err := net.Dial("tcp", f.addr); err == nil {
		c.Close()
		t.Error("the listener is open")
	}
}

// Requests that outlast the grace are broken off.
func TestShutdownGrace(t *testing.T) {
	f := newFront(t, func(c *Config) { c.Limits.ShutdownGrace = 50 * time.Millisecond })
	entered := make(chan struct{})
	f.withUpstream(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	go func() {
		if res, err := f.client().Get("https://" + hostD + "/slow"); err == nil {
			res.Body.Close()
		}
	}()
	<-entered
	f.stop()
	f.wait()
}
