package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/tenant"
)

// The gateway's own certificate and the client's reach each other, on every host of the tenant, in whatever case, over
// whatever protocol; nothing of ours takes part.
func TestPassthroughKeepsCertificates(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(whoami))
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr))
	ann, err := g.client.issue("ann")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		sni  string
		cert bool
		h2   bool
		want string
	}{
		{hostP, false, false, "own gateway: nobody at team-p.gw.test over HTTP/1.1"},
		{hostP, true, true, "own gateway: ann at team-p.gw.test over HTTP/2.0"},
		{customP, true, false, "own gateway: ann at gw.team-p.example over HTTP/1.1"},
		{"TeAm-P.gW.tEsT", true, false, "own gateway: ann at TeAm-P.gW.tEsT over HTTP/1.1"},
	} {
		cfg := g.trust(tc.sni)
		if tc.cert {
			cfg.Certificates = []tls.Certificate{*ann}
		}
		c := f.spliceClient(cfg, tc.h2)
		if got := f.do(c, "GET", "https://"+hostP+"/x", nil); got.body != tc.want {
			t.Errorf("%s: %q, want %q", tc.sni, got.body, tc.want)
		}
		c.CloseIdleConnections()
	}
	eventually(t, "all end", func() bool { return f.open() == 0 })
	// A client that leaves while the gateway still says goodbye may reset the connection: that is canceled.
	if got := strings.ReplaceAll(strings.Join(f.outcomes(), ","), "canceled", "ok"); got != "allow ok,allow ok,allow ok,allow ok" {
		t.Errorf("audit: %s", got)
	}
	c, err := f.tlsDial(&tls.Config{RootCAs: g.ca.pool(), ServerName: hostP, NextProtos: []string{"acme-tls/1"}})
	if err != nil || c.ConnectionState().NegotiatedProtocol != "acme-tls/1" {
		t.Errorf("a challenge does not reach the tenant's gateway: %v", err)
	}
	c.Close()
	eventually(t, "all end", func() bool { return f.open() == 0 })
	f.wantEvent(`"tenant":"team-p"`, `"host":"team-p.gw.test"`, `"status":101`, `"remote":"127.0.0.1"`, `"principal":"anonymous:`)
	f.issuer.mu.Lock()
	defer f.issuer.mu.Unlock()
	if len(f.issuer.asked) > 0 {
		t.Errorf("our issuer was asked for %q", f.issuer.asked)
	}
	if text := string(f.metrics.TenantText("team-p")); !strings.Contains(text, `polygate_tenant_requests_total{code="1xx",tenant="team-p"} 5`) {
		t.Errorf("metrics:\n%s", text)
	}
}

// X05: a hello is the same hello in whatever segments and records it comes, on hosts that are terminated too; so is a large one.
func TestX05HelloInAnySegments(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(whoami))
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr))
	many := make([]string, 400)
	for i := range many {
		many[i] = strings.Repeat("p", 20) + string(rune('a'+i%26))
	}
	for name, send := range map[string]func(net.Conn, []byte) error{
		"a byte a segment": byteByByte, "a byte a record": inRecords(1), "7 bytes a record": inRecords(7), "100 bytes a record": inRecords(100),
		"a byte a record, a byte a segment": func(c net.Conn, p []byte) error { return byteByByte(c, rerecord(p, 1)) },
	} {
		for kind, cfg := range map[string]*tls.Config{
			"small":        {MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519}},
			"post-quantum": {CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}},
			"large":        {NextProtos: many},
		} {
			for _, host := range []string{hostP, hostA} {
				cfg := cfg.Clone()
				cfg.ServerName, cfg.RootCAs = host, g.ca.pool()
				if host == hostA {
					cfg.RootCAs = f.issuer.pool()
				}
				cfg.NextProtos = append(cfg.NextProtos, "http/1.1")
				c := tls.Client(&chopped{Conn: f.tcp(), send: send}, cfg)
				if err := c.Handshake(); err != nil {
					t.Errorf("%s, %s, %s: %v", name, kind, host, err)
				}
				c.Close()
			}
		}
	}
}

// Nothing that was read with the hello is lost, and nothing comes twice: 0-RTT data follow at once.
func TestPassthroughLosesNothing(t *testing.T) {
	for _, proxy := range []bool{false, true} {
		g := newRawGateway(t)
		f := newFront(t, splicing(t))
		r := passthrough("team-p", g.addr())
		r.Passthrough.ProxyProtocol = proxy
		f.put(r)
		hello := helloBytes(t, &tls.Config{ServerName: hostP})
		for _, n := range []int{0, 1, 100, 511, 513, 4095, 5000, 16 << 10, 16<<10 + 1, 300_000} {
			more := make([]byte, n)
			rand.Read(more)
			sent := append(bytes.Clone(hello), more...)
			c := f.tcp()
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			up := g.next()
			got, err := io.ReadAll(up)
			if err != nil {
				t.Fatal(err)
			}
			if proxy {
				got = cutProxyHeader(t, got, c)
			}
			if !bytes.Equal(got, sent) {
				t.Errorf("%d bytes after the hello: %d arrived of %d, or others", n, len(got), len(sent))
			}
			pass(t, up, c, "and the answer")
			up.Close()
			if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		}
	}
}

// cutProxyHeader checks a PROXY protocol v2 header (§2.2: signature, command, family, length, addresses) of c.
func cutProxyHeader(t *testing.T, got []byte, c *net.TCPConn) []byte {
	t.Helper()
	local, remote := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	want := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), local.Addr().Unmap().AsSlice()...)
	want = append(want, remote.Addr().Unmap().AsSlice()...)
	want = append(want, byte(local.Port()>>8), byte(local.Port()), byte(remote.Port()>>8), byte(remote.Port()))
	if !bytes.HasPrefix(got, want) {
		t.Fatalf("the header is %q, want %q", got[:min(len(got), len(want))], want)
	}
	return got[len(want):]
}

// The gateway learns the client's own address, if it wants to.
func TestPassthroughProxyProtocol(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(whoami), proxied)
	f := newFront(t, splicing(t))
	r := passthrough("team-p", g.addr)
	r.Passthrough.ProxyProtocol = true
	f.put(r)
	c, err := f.tlsDial(g.trust(hostP))
	if err != nil {
		t.Fatal(err)
	}
	rc := &rawConn{Conn: c, t: t, r: bufio.NewReader(c)}
	rc.send("GET / HTTP/1.1\nHost: " + hostP + "\n\n")
	if got := rc.answer().header.Get("X-Remote"); got != c.LocalAddr().String() {
		t.Errorf("the gateway sees %s, want %s", got, c.LocalAddr())
	}
}

// A connection without a name, or with one that nobody has, is refused as ever, and dials nobody.
func TestPassthroughNeedsAName(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr()))
	for _, name := range []string{"", "nobody.gw.test", "x.team-p.gw.test", base} {
		_, err := f.tlsDial(&tls.Config{ServerName: name, InsecureSkipVerify: true})
		var alert tls.AlertError
		if name != base && !errors.As(err, &alert) && (err == nil || !strings.Contains(err.Error(), "unrecognized name")) {
			t.Errorf("SNI %q: %v, want an alert", name, err)
		}
	}
	c := f.tcp()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+hostP+"\r\n\r\n") // no TLS at all
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.0 400") {
		t.Errorf("plain HTTP is answered %q", got)
	}
	g.none("no name")
}

// A hello that does not become whole is cut by HeaderTime, and one that is too long at once; both give their place back.
func TestPassthroughSlowHello(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t), func(c *Config) { c.Limits.HeaderTime = 500 * time.Millisecond; c.Limits.Connections = 1 })
	f.put(passthrough("team-p", g.addr()))
	hello := helloBytes(t, &tls.Config{ServerName: hostP})
	for range 3 {
		c := f.tcp()
		began := time.Now()
		_, _ = c.Write(hello[:len(hello)-1])
		if _, err := io.ReadAll(c); err != nil && isTimeout(err) {
			t.Errorf("a hello without its end is not cut")
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("cut after %v", took)
		}
	}
	g.none("half a hello")
	big := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}, make([]byte, 16<<10-4)...) // a hello of 64 KiB, in records of 1 byte from here
	c := f.tcp()
	_, _ = c.Write(big)
	for range 20_000 {
		if _, err := c.Write([]byte{22, 3, 1, 0, 1, 0}); err != nil {
			break
		}
	}
	if _, err := io.ReadAll(c); err != nil && isTimeout(err) {
		t.Error("a hello of many records is read for good")
	}
	client, up := f.spliced(g) // the only place is free again, and the deadline of the handshake is lifted
	time.Sleep(800 * time.Millisecond)
	talk(t, client, up)
}

// Each way ends by itself.
func TestPassthroughHalfClose(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr()))
	ends := func(a, b *net.TCPConn) {
		t.Helper()
		_ = a.CloseWrite()
		if n, err := io.Copy(io.Discard, b); n != 0 || err != nil {
			t.Fatalf("%d bytes and %v, want the end", n, err)
		}
		pass(t, b, a, "still here")
		_ = b.CloseWrite()
		if n, err := io.Copy(io.Discard, a); n != 0 || err != nil {
			t.Fatalf("%d bytes and %v, want the end", n, err)
		}
	}
	client, up := f.spliced(g)
	talk(t, client, up)
	ends(client, up)
	client, up = f.spliced(g)
	talk(t, client, up)
	ends(up, client)
	eventually(t, "both end", func() bool { return f.open() == 0 })
	f.wantEvent(`"status":101`, `"bytes_out":23`)
	if got := strings.Join(f.outcomes(), ","); got != "allow ok,allow ok" {
		t.Errorf("audit: %s", got)
	}
}

// A reset is passed on as a reset: a part must not be taken for the whole.
func TestPassthroughReset(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr()))
	client, up := f.spliced(g)
	talk(t, client, up)
	abort(up)
	wantReset(t, "the gateway resets", client)
	client, up = f.spliced(g)
	talk(t, client, up)
	abort(client)
	wantReset(t, "the client resets", up)
	eventually(t, "both end", func() bool { return f.open() == 0 })
	f.wantEvent(`"kind":"canceled"`)
}

// An upstream that is down, resets, says nothing or closes at once: the client is reset within the time for the handshake,
// and the log and the audit say why.
func TestPassthroughUpstreamFails(t *testing.T) {
	g := newRawGateway(t)
	down := listen(t)
	down.Close()
	f := newFront(t, splicing(t, func(p *Passthrough) { p.HandshakeTime = time.Second }))
	hello := helloBytes(t, &tls.Config{ServerName: hostP})
	for _, tc := range []struct {
		name, upstream string
		do             func(up *net.TCPConn)
		event          []string
	}{
		{"down", down.Addr().String(), nil, []string{`"status":502`, "does not accept connections"}},
		{"silent", g.addr(), func(*net.TCPConn) {}, []string{`"status":504`, "did not answer"}},
		{"resets", g.addr(), func(up *net.TCPConn) { abort(up) }, []string{`"status":502`}},
		{"closes", g.addr(), func(up *net.TCPConn) { up.Close() }, []string{`"status":502`, "without an answer"}},
	} {
		f.put(passthrough("team-p", tc.upstream))
		c := f.tcp()
		began := time.Now()
		_, _ = c.Write(hello)
		if tc.do != nil {
			tc.do(g.next())
		}
		wantReset(t, tc.name, c)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: after %v", tc.name, took)
		}
		f.wantEvent(tc.event...)
	}
	want := "allow bad-upstream,allow upstream-timeout,allow bad-upstream,allow bad-upstream"
	eventually(t, "the audit has "+want, func() bool { return strings.Join(f.outcomes(), ",") == want })
}

// 25 MiB both ways at once, through the gateway's own TLS, arrive whole.
func TestPassthroughBulk(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	}))
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr))
	data := make([]byte, 25<<20)
	rand.Read(data)
	for _, h2 := range []bool{false, true} {
		c := f.spliceClient(g.trust(hostP), h2)
		res, err := c.Post("https://"+hostP+"/", "application/octet-stream", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		n, err := io.Copy(h, res.Body)
		res.Body.Close()
		if err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
			t.Errorf("h2 %v: %d bytes, %v", h2, n, err)
		}
		c.CloseIdleConnections()
	}
	eventually(t, "both end", func() bool { return f.open() == 0 })
	if u := f.guards.For(f.entry("team-p")).Usage(); u.BytesIn < 50<<20 || u.BytesOut < 50<<20 || u.InFlight != 0 || u.Streams != 0 {
		t.Errorf("usage: %d in, %d out, %d in flight, %d streams", u.BytesIn, u.BytesOut, u.InFlight, u.Streams)
	}
}

func TestPassthroughWebSocket(t *testing.T) {
	g := newOwnGateway(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	}))
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "https://"+hostP+"/ws", &websocket.DialOptions{HTTPClient: f.spliceClient(g.trust(hostP), false)})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := ws.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
			t.Fatal(err)
		}
		if _, b, err := ws.Read(ctx); err != nil || string(b) != "ping" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	_ = ws.Close(websocket.StatusNormalClosure, "")
}

// The shared host serves our own surface for such tenants; their own host does not, on whatever connection.
func TestPassthroughSharedHost(t *testing.T) {
	g := newRawGateway(t)
	f := newFront(t, splicing(t))
	f.put(passthrough("team-p", g.addr(), key("p", "key-of-team-p", tenant.Editor)))
	got := f.ask(base, "GET /tenant/team-p/servers HTTP/1.1\nHost: "+base+"\n"+bearer("key-of-team-p")+"\n\n")
	if got.status != 200 || !strings.Contains(got.body, "tenant=team-p path=/servers") {
		t.Errorf("on the shared host: %d %q", got.status, got.body)
	}
	for _, sni := range []string{hostA, base} {
		c := f.raw(sni)
		c.send("GET /servers HTTP/1.1\nHost: " + hostP + "\n" + bearer("key-of-team-p") + "\n\n")
		check(t, "the tenant's host on a connection to "+sni, c.answer().status, 421)
	}
	g.none("requests to us")
}

// A panic ends one connection alone.
func TestPassthroughPanic(t *testing.T) {
	g := newRawGateway(t)
	panics := true
	var mu sync.Mutex
	f := newFront(t, splicing(t), func(c *Config) {
		c.Passthrough.Dial = func(bool) func(context.Context, string, string) (net.Conn, error) {
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if panics {
					panic("planted")
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		}
	})
	f.put(passthrough("team-p", g.addr()))
	c := f.tcp()
	_, _ = c.Write(helloBytes(t, &tls.Config{ServerName: hostP}))
	wantReset(t, "panic", c)
	f.wantEvent(`"kind":"internal"`)
	mu.Lock()
	panics = false
	mu.Unlock()
	client, up := f.spliced(g)
	talk(t, client, up)
}
