package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	base  = "gw.test"
	hostA = "team-a." + base
	hostB = "team-b." + base
	keyA  = "key-of-team-a"
	keyA2 = "another-key-of-team-a" // viewer
	keyB  = "key-of-team-b"
)

// directory is a Directory that tests change.
type directory struct {
	mu      sync.Mutex
	entries map[tenant.ID]*tenant.Entry
}

func (d *directory) find(ok func(*tenant.Record) bool) (*tenant.Entry, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.entries {
		if ok(e.Record) {
			return e, true
		}
	}
	return nil, false
}

func (d *directory) ByHost(host string) (*tenant.Entry, bool) {
	return d.find(func(r *tenant.Record) bool {
		for _, h := range r.Hosts {
			if h == host {
				return true
			}
		}
		return host == tenant.OwnHost(r.ID, base)
	})
}

func (d *directory) ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool) {
	e, ok := d.find(func(r *tenant.Record) bool { _, ok := r.KeyByHash(h); return ok })
	if !ok {
		return nil, nil, false
	}
	k, _ := e.Record.KeyByHash(h)
	return e, k, true
}

func (d *directory) ByID(id tenant.ID) (*tenant.Entry, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.entries[id]
	return e, ok
}

// issuer makes a certificate for every host that it is asked for.
type issuer struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	also  []string // names beside the one that is asked for
	asked []string
	mu    sync.Mutex
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert: cert, key: key}
}

func (i *issuer) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, hello.ServerName)
	return i.issue(append([]string{strings.ToLower(hello.ServerName)}, i.also...)...)
}

func (i *issuer) issue(names ...string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.cert, &key.PublicKey, i.key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (i *issuer) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.cert)
	return p
}

// gateways is a Gateways that decides by a function, and counts.
type gateways struct {
	decide func(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error)
	mu     sync.Mutex
	calls  map[tenant.ID]int
}

func (g *gateways) Decide(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
	g.mu.Lock()
	g.calls[e.Record.ID]++
	g.mu.Unlock()
	return g.decide(ctx, e, r)
}

func (g *gateways) entered(id tenant.ID) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[id]
}

// describe answers with what the gateway was told.
func describe(_ context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
	p := r.Visit.Principal()
	text := fmt.Sprintf("tenant=%s path=%s query=%s base=%s host=%s principal=%s role=%s", e.Record.ID, r.Path, r.Query, r.Base, r.Host, p.Ref(), p.Role)
	return &exchange.Reply{Status: 200, Header: exchange.Header{"Content-Type": {"text/plain"}}, Body: []byte(text)}, nil
}

// recorder keeps audit entries.
type recorder struct {
	mu      sync.Mutex
	entries []audit.Entry
}

func (r *recorder) Record(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
}

func (r *recorder) all() []audit.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Entry(nil), r.entries...)
}

// lockedBuffer is a log that tests read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// front is a Server that runs, with everything around it.
type front struct {
	*Server
	t        testing.TB
	addr     string
	plain    string
	dir      *directory
	issuer   *issuer
	gateways *gateways
	recorder *recorder
	guards   *guard.Set
	metrics  *telemetry.Metrics
	log      *lockedBuffer
	stop     func()
	stopped  chan error
}

// newFront starts a server with team-a and team-b, both virtual. Each edit changes its config.
func newFront(t testing.TB, edits ...func(*Config)) *front {
	t.Helper()
	f := &front{t: t, dir: &directory{entries: map[tenant.ID]*tenant.Entry{}}, issuer: newIssuer(t), recorder: &recorder{}, log: &lockedBuffer{},
		gateways: &gateways{decide: describe, calls: map[tenant.ID]int{}}, stopped: make(chan error, 1)}
	f.guards = guard.NewSet(guard.Config{Recorder: f.recorder})
	logger := slog.New(slog.NewJSONHandler(f.log, nil))
	engine, err := NewReverseProxyEngine(EngineConfig{RootCAs: f.issuer.pool(), Logger: logger,
		DialContext: func(bool) func(context.Context, string, string) (net.Conn, error) { return new(net.Dialer).DialContext }})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Public: listen(t), Plain: listen(t), SharedHosts: []string{base}, Directory: f.dir, Gateways: f.gateways, Guards: f.guards,
		Engine: engine, Certificates: f.issuer, Logger: logger, Limits: Limits{ShutdownGrace: 2 * time.Second}}
	for _, edit := range edits {
		edit(&cfg)
	}
	f.addr, f.plain, f.metrics = cfg.Public.Addr().String(), cfg.Plain.Addr().String(), cfg.Metrics
	if f.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	f.put(virtual("team-a", key("a", keyA, tenant.Editor), key("a2", keyA2, tenant.Viewer)))
	f.put(virtual("team-b", key("b", keyB, tenant.Editor)))
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() { f.stopped <- f.Run(ctx) }()
	hung := time.AfterFunc(3*time.Minute, cancel) // so that a test which waits for ever says where
	t.Cleanup(func() {
		hung.Stop()
		cancel()
		f.wait()
		engine.Close()
	})
	return f
}

// wait returns when Run has.
func (f *front) wait() {
	f.t.Helper()
	select {
	case err := <-f.stopped:
		f.stopped <- nil
		if err != nil {
			f.t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		f.t.Fatal("Run does not return")
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func key(id, secret string, role tenant.Role) tenant.Key {
	return tenant.Key{ID: id, Name: "name of " + id, Hash: tenant.HashKey(secret), Role: role}
}

func virtual(id tenant.ID, keys ...tenant.Key) *tenant.Record {
	return &tenant.Record{V: 1, UID: "uid-" + string(id), ID: id, State: tenant.StateActive, Mode: tenant.ModeVirtual, Keys: keys}
}

func dedicated(id tenant.ID, upstream string, auth tenant.UpstreamAuth, keys ...tenant.Key) *tenant.Record {
	r := virtual(id, keys...)
	r.Mode, r.Dedicated = tenant.ModeDedicated, &tenant.Dedicated{Upstream: upstream, Auth: auth}
	return r
}

// put makes a record known, as the registry would.
func (f *front) put(r *tenant.Record) {
	f.dir.mu.Lock()
	if old := f.dir.entries[r.ID]; old != nil {
		r.Revision = old.Record.Revision
	}
	r.Revision++
	e := &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
	f.dir.entries[r.ID] = e
	f.dir.mu.Unlock()
	f.Revalidate(r.ID, e)
}

// change edits a copy of a tenant's record.
func (f *front) change(id tenant.ID, edit func(*tenant.Record)) {
	f.t.Helper()
	e, ok := f.dir.ByID(id)
	if !ok {
		f.t.Fatalf("no tenant %s", id)
	}
	r := e.Record.Clone()
	edit(r)
	f.put(r)
}

// drop deletes a tenant.
func (f *front) drop(id tenant.ID) {
	f.dir.mu.Lock()
	delete(f.dir.entries, id)
	f.dir.mu.Unlock()
	f.Revalidate(id, nil)
}

// transport returns a transport that reaches the server under every host name.
func (f *front) transport(protos ...string) *http.Transport {
	d := &net.Dialer{}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, f.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: f.issuer.pool()}, ForceAttemptHTTP2: len(protos) > 0 && protos[0] == "h2",
		DisableCompression: true,
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// client returns a client for HTTP/1.1, or for HTTP/2 if asked.
func (f *front) client(protos ...string) *http.Client {
	return &http.Client{Transport: f.transport(protos...), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is a response that was read.
type answer struct {
	status int
	header http.Header
	body   string
}

// get sends a request with header lines and reads the answer.
func (f *front) do(c *http.Client, method, url string, body io.Reader, lines ...string) answer {
	f.t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header[name] = append(req.Header[name], value) // as spelled
	}
	res, err := c.Do(req)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, url, err)
	}
	return read(f.t, res)
}

func read(t testing.TB, res *http.Response) answer {
	t.Helper()
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read the body: %v", err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// rawConn is a TLS connection on which tests write what they like.
type rawConn struct {
	*tls.Conn
	t testing.TB
	r *bufio.Reader
}

// raw opens an HTTP/1.1 connection with a server name.
func (f *front) raw(sni string) *rawConn {
	f.t.Helper()
	c, err := tls.Dial("tcp", f.addr, &tls.Config{RootCAs: f.issuer.pool(), ServerName: sni, NextProtos: []string{"http/1.1"}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return &rawConn{c, f.t, bufio.NewReader(c)}
}

// send writes lines, with CR LF in place of LF.
func (c *rawConn) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one response.
func (c *rawConn) answer() answer {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatalf("read a response: %v", err)
	}
	return read(c.t, res)
}

// closed says whether the server has closed the connection.
func (c *rawConn) closed() bool {
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err := c.r.ReadByte()
	var ne net.Error
	return err != nil && !(errors.As(err, &ne) && ne.Timeout())
}

// ask sends one request with only Host and the given lines, on a connection of its own.
func (f *front) ask(sni, request string) answer {
	f.t.Helper()
	c := f.raw(sni)
	c.send(request)
	return c.answer()
}

func bearer(key string) string { return "Authorization: Bearer " + key }

func check(t testing.TB, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%s: status = %d, want %d", what, got, want)
	}
}
