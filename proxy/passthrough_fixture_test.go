package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	hostP   = "team-p." + base
	customP = "gw.team-p.example"
)

func passthrough(id tenant.ID, upstream string, keys ...tenant.Key) *tenant.Record {
	r := virtual(id, keys...)
	r.Mode, r.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: upstream}
	r.Source = tenant.SourceFile
	r.Hosts = []string{customP}
	return r
}

// splicing lets a front dial anything, and keep metrics.
func splicing(t testing.TB, edit ...func(*Passthrough)) func(*Config) {
	t.Helper()
	m, err := telemetry.NewMetrics(prometheus.NewRegistry(), 10)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) {
		c.Metrics = m
		c.Passthrough.Dial = func(bool) func(context.Context, string, string) (net.Conn, error) { return new(net.Dialer).DialContext }
		for _, e := range edit {
			e(&c.Passthrough)
		}
	}
}

// ownGateway is a tenant's own gateway: it ends TLS with a certificate of its own, asks for clients' certificates, and knows
// nothing of ours.
type ownGateway struct {
	addr   string
	ca     *issuer // of its certificate
	client *issuer // of its clients' certificates
}

// newOwnGateway starts one. wrap, if any, stands between TCP and TLS.
func newOwnGateway(t testing.TB, h http.Handler, wrap ...func(net.Listener) net.Listener) *ownGateway {
	t.Helper()
	g := &ownGateway{ca: newIssuer(t), client: newIssuer(t)}
	cert, err := g.ca.issue(hostP, customP)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	g.addr = l.Addr().String()
	for _, w := range wrap {
		l = w(l)
	}
	srv := &http.Server{Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs: g.client.pool(), NextProtos: []string{"h2", "http/1.1", "acme-tls/1"}}}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	return g
}

// trust returns a client's configuration that trusts the gateway alone.
func (g *ownGateway) trust(name string) *tls.Config {
	return &tls.Config{RootCAs: g.ca.pool(), ServerName: name}
}

// whoami tells what the gateway sees of its client.
func whoami(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		who = r.TLS.PeerCertificates[0].DNSNames[0]
	}
	w.Header().Set("X-Remote", r.RemoteAddr)
	_, _ = io.WriteString(w, "own gateway: "+who+" at "+r.TLS.ServerName+" over "+r.Proto)
	_, _ = io.Copy(w, r.Body)
}

// tlsDial connects to the front with TLS that the gateway behind it ends.
func (f *front) tlsDial(cfg *tls.Config) (*tls.Conn, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", f.addr, cfg)
	if err == nil {
		f.t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c, err
}

// spliceClient is an HTTP client whose connections end at the gateway.
func (f *front) spliceClient(cfg *tls.Config, h2 bool) *http.Client {
	tr := f.transport()
	tr.TLSClientConfig, tr.ForceAttemptHTTP2 = cfg, h2
	return &http.Client{Transport: tr}
}

// rawGateway is a gateway that need not speak TLS: what comes after a real hello is for each test to say.
type rawGateway struct {
	net.Listener
	t     testing.TB
	conns chan *net.TCPConn
}

func newRawGateway(t testing.TB) *rawGateway {
	g := &rawGateway{Listener: listen(t), t: t, conns: make(chan *net.TCPConn, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := g.Accept()
			if err != nil {
				return
			}
			g.conns <- c.(*net.TCPConn)
		}
	}()
	t.Cleanup(func() {
		g.Close()
		<-done
		for {
			select {
			case c := <-g.conns:
				c.Close()
			default:
				return
			}
		}
	})
	return g
}

func (g *rawGateway) addr() string { return g.Listener.Addr().String() }

// next returns the next connection.
func (g *rawGateway) next() *net.TCPConn {
	g.t.Helper()
	select {
	case c := <-g.conns:
		g.t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	case <-time.After(10 * time.Second):
		g.t.Fatal("nobody connects to the gateway")
		return nil
	}
}

// none says that nobody connected so far.
func (g *rawGateway) none(what string) {
	g.t.Helper()
	if n := len(g.conns); n > 0 {
		g.t.Errorf("%s: %d connections reached the gateway, want none", what, n)
	}
}

// helloBytes returns the ClientHello that crypto/tls sends for cfg: one record.
func helloBytes(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); _ = tls.Client(theirs, cfg).Handshake() }()
	head := make([]byte, 5)
	if _, err := io.ReadFull(ours, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(ours, body); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	theirs.Close()
	<-done
	return append(head, body...)
}

// tcp opens a connection without TLS.
func (f *front) tcp() *net.TCPConn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// spliced opens a connection for hostP, and returns both its ends after the hello has arrived.
func (f *front) spliced(g *rawGateway) (client, gateway *net.TCPConn) {
	f.t.Helper()
	hello := helloBytes(f.t, &tls.Config{ServerName: hostP})
	client = f.tcp()
	if _, err := client.Write(hello); err != nil {
		f.t.Fatal(err)
	}
	gateway = g.next()
	got := make([]byte, len(hello))
	if _, err := io.ReadFull(gateway, got); err != nil || !bytes.Equal(got, hello) {
		f.t.Fatalf("the hello does not arrive as it was sent: %v", err)
	}
	return client, gateway
}

// talk makes sure that bytes pass both ways.
func talk(t testing.TB, client, gateway net.Conn) {
	t.Helper()
	pass(t, client, gateway, "to the gateway")
	pass(t, gateway, client, "to the client")
}

func pass(t testing.TB, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}

// wantReset says that c was reset, and not merely ended.
func wantReset(t testing.TB, what string, c net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, c)
	if !errors.Is(err, syscall.ECONNRESET) || n > 0 {
		t.Errorf("%s: read %d bytes and %v, want a reset", what, n, err)
	}
}

// wantEvent waits for the log event of a spliced connection that holds the texts.
func (f *front) wantEvent(texts ...string) {
	f.t.Helper()
	has := func() bool {
		for line := range strings.SplitSeq(f.log.String(), "\n") {
			ok := strings.Contains(line, `"protocol":"passthrough"`)
			for _, x := range texts {
				ok = ok && strings.Contains(line, x)
			}
			if ok {
				return true
			}
		}
		return false
	}
	for end := time.Now().Add(5 * time.Second); !has(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("no event of a spliced connection with %q in\n%s", texts, f.log.String())
		}
	}
}

// entry returns a tenant's present entry.
func (f *front) entry(id tenant.ID) *tenant.Entry {
	f.t.Helper()
	e, ok := f.dir.ByID(id)
	if !ok {
		f.t.Fatalf("no tenant %s", id)
	}
	return e
}

// open returns how many connections are spliced.
func (f *front) open() int {
	f.splices.mu.Lock()
	defer f.splices.mu.Unlock()
	return f.splices.open
}

// outcomes returns the outcomes of the audit entries of spliced connections.
func (f *front) outcomes() (list []string) {
	for _, e := range f.recorder.all() {
		if e.Action == "relay.connect" {
			list = append(list, e.Decision+" "+e.Outcome)
		}
	}
	return list
}

// proxied reads PROXY protocol headers.
func proxied(l net.Listener) net.Listener {
	return &proxyproto.Listener{Listener: l, ConnPolicy: requireProxy}
}

func requireProxy(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
	return proxyproto.REQUIRE, nil
}

// chopped is a connection that sends its first write, a ClientHello, in another form.
type chopped struct {
	net.Conn
	once sync.Once
	send func(c net.Conn, hello []byte) error
}

func (c *chopped) Write(p []byte) (n int, err error) {
	first := false
	c.once.Do(func() { first = true; err = c.send(c.Conn, p) })
	if first {
		return len(p), err
	}
	return c.Conn.Write(p)
}

// byteByByte sends each byte in a segment of its own.
func byteByByte(c net.Conn, p []byte) error {
	for i := range p {
		if _, err := c.Write(p[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

// inRecords sends the payload of a record in records of n bytes.
func inRecords(n int) func(net.Conn, []byte) error {
	return func(c net.Conn, p []byte) error {
		_, err := c.Write(rerecord(p, n))
		return err
	}
}

func rerecord(p []byte, n int) (out []byte) {
	head, body := p[:3], p[5:]
	for len(body) > 0 {
		k := min(n, len(body))
		out = append(append(out, head...), byte(k>>8), byte(k))
		out, body = append(out, body[:k]...), body[k:]
	}
	return out
}
