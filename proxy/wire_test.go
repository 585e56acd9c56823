package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/telemetry"
)

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
