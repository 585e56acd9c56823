package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
)

// intruder speaks to a replica's peer listener as it likes, with a certificate.
func (c *cluster) intruder(t testing.TB, to *replica, cert *tls.Certificate) *http.Client {
	t.Helper()
	config := &tls.Config{RootCAs: c.authority.pool, ServerName: peer.ServerName(to.name)}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (c *cluster) send(t testing.TB, cl *http.Client, to *replica, method, host, path string, lines ...string) (answer, error) {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+to.peerAddr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		req.Header.Add(name, value)
	}
	res, err := cl.Do(req)
	if err != nil {
		return answer{}, err
	}
	return read(t, res), nil
}

// Nobody without a certificate of a replica gets beyond the handshake.
func TestPeerHandshake(t *testing.T) {
	c := newCluster(t, 1)
	foreign := newAuthority(t)
	for name, tc := range map[string]struct {
		cert *tls.Certificate
		max  uint16
		ok   bool
	}{
		"a replica":      {cert: c.authority.issue("r9"), ok: true},
		"nothing":        {},
		"another CA":     {cert: foreign.issue("r1")},
		"TLS 1.2":        {cert: c.authority.issue("r9"), max: tls.VersionTLS12},
		"no URI":         {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.URIs = nil })},
		"two URIs":       {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.URIs = append(x.URIs, peer.URI("r1")) })},
		"another URI":    {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.URIs = []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/r1"}} })},
		"servers only":   {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[1:] })},
		"expired":        {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) })},
		"not yet valid":  {cert: c.authority.issue("r9", func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Minute) })},
		"a tenant's own": {cert: mustIssue(t, c.r[0].issuer, hostA)},
	} {
		cl := c.intruder(t, c.r[0], tc.cert)
		cl.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tc.max
		_, err := c.send(t, cl, c.r[0], "POST", peer.ServerName("r0"), callPath+"nothing")
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustIssue(t testing.TB, i *issuer, name string) *tls.Certificate {
	t.Helper()
	cert, err := i.issue(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// What a replica says of a client counts only if that very replica said it, to this one, a moment ago (X22, X24).
func TestPassportAttacks(t *testing.T) {
	c := newCluster(t, 1)
	r0 := c.r[0]
	r1, r2 := c.authority.issue("r1"), c.authority.issue("r2")
	good := goodPassport()
	edited := func(edit func(*passport)) passport {
		p := good
		edit(&p)
		return p
	}
	expired := edited(func(p *passport) { p.Expires = time.Now().Add(-time.Minute).Unix() })
	forever := edited(func(p *passport) { p.Expires = time.Now().Add(time.Hour).Unix() })
	for name, tc := range map[string]struct {
		by    *tls.Certificate
		lines []string
		want  int
	}{
		"good":                      {r1, []string{mustSign(t, good, r1)}, 200},
		"replayed by another":       {r2, []string{mustSign(t, good, r1)}, 403},
		"signed by another":         {r1, []string{mustSign(t, good, r2)}, 403},
		"named another":             {r2, []string{mustSign(t, good, r2)}, 403},
		"made for another":          {r1, []string{mustSign(t, edited(func(p *passport) { p.To = "r2" }), r1)}, 403},
		"expired":                   {r1, []string{mustSign(t, expired, r1)}, 403},
		"too long":                  {r1, []string{mustSign(t, forever, r1)}, 403},
		"two":                       {r1, []string{mustSign(t, good, r1), mustSign(t, good, r1)}, 403},
		"empty":                     {r1, []string{""}, 403},
		"unsigned":                  {r1, []string{"e30."}, 403},
		"another host than the SNI": {r1, []string{mustSign(t, edited(func(p *passport) { p.SNI = hostB }), r1)}, 421},
	} {
		cl := c.intruder(t, r0, tc.by)
		before := r0.gateways.entered("team-a")
		lines := []string{bearer(keyA)}
		for _, l := range tc.lines {
			lines = append(lines, passportHeader+": "+l)
		}
		for range 2 { // the second time, too
			got, err := c.send(t, cl, r0, "GET", hostA, "/servers", lines...)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			check(t, name, got.status, tc.want)
			if tc.want == 403 && got.header.Get(refusalHeader) != refusedPassport {
				t.Errorf("%s: the refusal does not say so: %v", name, got.header)
			}
		}
		if n := r0.gateways.entered("team-a") - before; (n != 0) != (tc.want == 200) {
			t.Errorf("%s: the gateway was entered %d times", name, n)
		}
	}
}

// A passport that was good when it was first seen is judged by its end each time.
func TestPassportEndsWhileCached(t *testing.T) {
	a := newAuthority(t)
	cert := a.issue("r1")
	p := &peers{PeerConfig: PeerConfig{Identity: &identity{cert: cert, roots: a.pool}}, self: "r0"}
	conn := &peerConn{}
	now := time.Now()
	if _, err := conn.judge(p, []*x509.Certificate{cert.Leaf}, now); err != nil {
		t.Fatal(err)
	}
	text := mustSign(t, goodPassport(), cert)
	if _, err := conn.visitor(p, text, "r1", cert.Leaf, now); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.visitor(p, text, "r1", cert.Leaf, now.Add(2*time.Minute)); err == nil {
		t.Error("a passport is taken after its end")
	}
}

// A replica whose certificate has expired, or whose authority is trusted no more, is not heard on the connection that it has.
func TestPeerConnectionIsJudgedAgain(t *testing.T) {
	a, next := newAuthority(t), newAuthority(t)
	cert := a.issue("r1")
	id := &identity{cert: cert, roots: a.pool, changed: make(chan struct{})}
	p := &peers{PeerConfig: PeerConfig{Identity: id}, self: "r0"}
	conn, now, certs := &peerConn{}, time.Now(), []*x509.Certificate{cert.Leaf}
	if name, err := conn.judge(p, certs, now); err != nil || name != "r1" {
		t.Fatal(name, err)
	}
	if _, err := conn.judge(p, certs, now.Add(2*time.Hour)); err == nil {
		t.Error("an expired certificate is good")
	}
	both := x509.NewCertPool()
	both.AddCert(a.cert)
	both.AddCert(next.cert)
	id.set(cert, both)
	if _, err := conn.judge(p, certs, now); err != nil {
		t.Errorf("while both are trusted: %v", err)
	}
	id.set(cert, next.pool)
	if _, err := conn.judge(p, certs, now); err == nil {
		t.Error("a certificate of an authority that is gone is good")
	}
}

// Certificates and authorities are renewed while requests pass.
func TestPeerRotation(t *testing.T) {
	c := newCluster(t, 2)
	f := c.r[1]
	cl := f.client()
	ask := func(what string, want int) {
		t.Helper()
		check(t, what, f.do(cl, "GET", "https://"+hostA+"/b", nil, bearer(keyA)).status, want)
	}
	ask("before", 200)
	f.identity.set(c.authority.issue("r1"), c.authority.pool)
	ask("with a new certificate", 200)
	next := newAuthority(t)
	both := x509.NewCertPool()
	both.AddCert(c.authority.cert)
	both.AddCert(next.cert)
	for _, r := range c.r {
		r.identity.set(c.authority.issue(r.name), both)
	}
	ask("with both authorities", 200)
	f.identity.set(next.issue("r1"), both)
	ask("with a certificate of the next", 200)
	c.r[0].identity.set(next.issue("r0"), next.pool)
	f.identity.set(next.issue("r1"), next.pool)
	ask("with the next authority alone", 200)
}

// Whoever is at the address of a replica and cannot show its certificate gets no request: there is a credential in it.
func TestPeerImpersonated(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.Peers.Wait = 100 * time.Millisecond })
	foreign := newAuthority(t)
	dns := func(x *x509.Certificate) { x.DNSNames = []string{peer.ServerName("r0")} }
	for name, cert := range map[string]*tls.Certificate{
		"another replica":             c.authority.issue("r9"),
		"another replica's, by name":  c.authority.issue("r9", dns),
		"another authority's":         foreign.issue("r0"),
		"one with another DNS name":   c.authority.issue("r0", func(x *x509.Certificate) { x.DNSNames = []string{"r0.example"} }),
		"one that is no server's":     c.authority.issue("r0", func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[:1] }),
		"one with the names of two":   c.authority.issue("r0", func(x *x509.Certificate) { x.URIs = append(x.URIs, peer.URI("r9")) }),
		"one that is good no more":    c.authority.issue("r0", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) }),
		"the tenant's own, by chance": mustIssue(t, c.r[0].issuer, peer.ServerName("r0")),
	} {
		var reached atomic.Int32
		there := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
		there.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequireAnyClientCert}
		there.EnableHTTP2 = true
		there.Config.ErrorLog = log.New(io.Discard, "", 0)
		there.StartTLS()
		c.owners.at("r0", there.Listener.Addr().String())
		got := c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader("secret"), bearer(keyA))
		there.Close()
		check(t, name, got.status, 503)
		if reached.Load() != 0 {
			t.Errorf("%s: the request reached it", name)
		}
	}
}

// reveal makes a gateway tell what it is told of a client.
func (c *cluster) reveal() {
	for _, r := range c.r {
		r.gateways.decide = r.owned(c.owners, func(_ context.Context, _ *tenant.Entry, req *exchange.Request) (exchange.Decision, error) {
			var own []string
			for name := range req.Header {
				if strings.HasPrefix(name, ownPrefix) {
					own = append(own, name)
				}
			}
			return &exchange.Reply{Status: 200, Body: fmt.Appendf(nil, "remote=%s own=%q xff=%q", req.Remote, own, req.Header["X-Forwarded-For"])}, nil
		})
	}
}

// The fields of replicas are a client's words on the public listener: they have no say, and go nowhere (X22, X24).
func TestReservedHeaders(t *testing.T) {
	c := newCluster(t, 2)
	c.reveal()
	forged := goodPassport()
	forged.Remote = "203.0.113.9:1"
	stolen := mustSign(t, forged, c.r[1].identity.cert) // even a good one
	lines := []string{bearer(keyA), passportHeader + ": " + stolen, "polygate-passport: " + stolen, "POLYGATE-REQUEST-ID: 00000000-0000-0000-0000-000000000000",
		refusalHeader + ": " + refusedOwner, "X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9", "X-Real-Ip: 203.0.113.9", expectHeader + ": 1"}
	const want = `remote=127.0.0.1 own=[] xff=[]`
	for _, r := range c.r {
		for _, proto := range []string{"", "h2"} {
			got := r.do(r.client(proto), "GET", "https://"+hostA+"/b", nil, lines...)
			if got.body != want || got.status != 200 {
				t.Errorf("%s %s: %d %s, want %s", r.name, proto, got.status, got.body, want)
			}
			if id := got.header.Get("X-Request-Id"); strings.HasPrefix(id, "00000000") {
				t.Errorf("%s: a client chose the request id", r.name)
			}
		}
		// in trailers
		cl := r.client("h2")
		req, _ := http.NewRequest("POST", "https://"+hostA+"/b", io.MultiReader(strings.NewReader("x")))
		req.Header.Set("Authorization", "Bearer "+keyA)
		req.Trailer = http.Header{passportHeader: {stolen}, "X-Forwarded-For": {"203.0.113.9"}}
		res, err := cl.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, res); got.body != want {
			t.Errorf("%s, trailers: %d %s", r.name, got.status, got.body)
		}
	}
}

// An upstream cannot speak as a replica does: its answer would be thrown away, and the request made twice.
func TestUpstreamCannotRefuse(t *testing.T) {
	c := newCluster(t, 2)
	var n atomic.Int32
	c.relayTo(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		w.Header().Set(refusalHeader, refusedOwner)
		w.Header().Set(failureHeader, "internal")
		_, _ = io.WriteString(w, "once")
	}))
	got := c.r[1].do(c.r[1].client(), "POST", "https://"+hostA+"/b", strings.NewReader("x"), bearer(keyA))
	if got.status != 200 || got.body != "once" || n.Load() != 1 || got.header.Get(refusalHeader) != "" {
		t.Errorf("%d %q, %d times: %v", got.status, got.body, n.Load(), got.header)
	}
}

// A request whose Connection lists what names the tenant or the caller is judged by the owner as by its own replica.
func TestConnectionListsSignals(t *testing.T) {
	c := newCluster(t, 2)
	c.relayTo(http.HandlerFunc(echo))
	for _, r := range c.r {
		got := r.ask(hostA, "GET /b HTTP/1.1\nHost: "+hostA+"\nX-Api-Key: "+keyA+"\nX-Tenant-Id: team-a\nX-Hop: 1\nConnection: x-api-key, X-Tenant-Id, x-hop\n\n")
		check(t, r.name, got.status, 200)
		h := got.seen(t).Header
		if h.Get("X-Hop")+h.Get("X-Api-Key")+h.Get("X-Tenant-Id") != "" {
			t.Errorf("%s: the upstream saw %v", r.name, h)
		}
	}
}

// Tenants that demand client certificates, or look at them, are served alike wherever a request lands.
func TestForwardClientCertificates(t *testing.T) {
	ca := newIssuer(t)
	c := newCluster(t, 2)
	for _, r := range c.r {
		r.gateways.decide = r.owned(c.owners, describe)
		r.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM(), MinVersion: "1.3"})
	}
	for _, r := range c.r {
		check(t, r.name, r.visit(hostA, keyA, with(tls.VersionTLS13, ca.client(t))).status, 200)
	}
	if n := c.r[0].gateways.entered("team-a"); n != 2 {
		t.Errorf("the owner was entered %d times", n)
	}
	// the owner judges again: another CA there than where the connection is
	c.r[0].silently("team-a", &tenant.TLS{ClientCA: newIssuer(t).rootPEM()})
	got := c.r[1].visit(hostA, keyA, with(tls.VersionTLS13, ca.client(t)))
	check(t, "the owner demands another", got.status, 421)
	c.r[0].silently("team-a", nil)
	got = c.r[1].visit(hostA, keyA, with(tls.VersionTLS13, ca.client(t)))
	check(t, "the owner demands none", got.status, 421)
}

// A chain that no passport has room for is refused by each replica alike, the owner too; one that fits passes everywhere.
func TestForwardLongChains(t *testing.T) {
	ca := newIssuer(t)
	c := newCluster(t, 2)
	for _, r := range c.r {
		r.gateways.decide = r.owned(c.owners, describe)
		r.demand("team-a", &tenant.TLS{ClientCA: ca.rootPEM()})
	}
	big, err := ca.issue(slices.Repeat([]string{strings.Repeat("long.", 40) + "example"}, 80)...) // 16 KiB and more
	if err != nil {
		t.Fatal(err)
	}
	for leaf, want := range map[*tls.Certificate]int{big: 431, new(ca.client(t)): 200} {
		cert := *leaf
		cert.Certificate = append(slices.Clone(cert.Certificate), big.Certificate...)
		for _, r := range c.r {
			got := r.visit(hostA, keyA, with(tls.VersionTLS13, cert))
			if got.status != want {
				t.Errorf("%s: %d, %v, want %d", r.name, got.status, got.err, want)
			}
		}
	}
}

// Calls arrive, once each, with their errors as they were.
func TestPeerCalls(t *testing.T) {
	handlers := map[string]peer.Handler{
		"echo": func(_ context.Context, from string, body []byte) ([]byte, error) {
			return append([]byte(from+" "), body...), nil
		},
		"limited": func(context.Context, string, []byte) ([]byte, error) {
			return nil, fault.New(fault.RateLimited, "slowly").After(3 * time.Second)
		},
		"internal": func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("a secret") },
		"panic":    func(context.Context, string, []byte) ([]byte, error) { panic("in a call") },
		"large":    func(context.Context, string, []byte) ([]byte, error) { return make([]byte, peer.MaxReply+1), nil },
		"largest":  func(context.Context, string, []byte) ([]byte, error) { return make([]byte, peer.MaxReply), nil },
		"hang":     func(ctx context.Context, _ string, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	}
	c := newCluster(t, 2, func(cfg *Config) { cfg.Peers.Handlers = handlers })
	caller, ctx := c.r[1].Caller(), t.Context()
	for _, to := range []string{"r0", "r1"} {
		got, err := caller.Call(ctx, to, "echo", []byte("hello"))
		if err != nil || string(got) != "r1 hello" {
			t.Errorf("%s: %q, %v", to, got, err)
		}
	}
	if got, err := caller.Call(ctx, "r0", "largest", make([]byte, peer.MaxRequest)); err != nil || len(got) != peer.MaxReply {
		t.Errorf("the largest: %d bytes, %v", len(got), err)
	}
	brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	for _, tc := range []struct {
		ctx      context.Context
		to, name string
		body     int
		want     fault.Kind
	}{
		{ctx, "r0", "limited", 0, fault.RateLimited}, {ctx, "r0", "internal", 0, fault.Internal}, {ctx, "r0", "panic", 0, fault.Internal},
		{ctx, "r0", "unknown", 0, fault.NotFound}, {ctx, "r9", "echo", 0, fault.NotFound}, {ctx, "r0", "large", 0, fault.Internal},
		{ctx, "r0", "echo", peer.MaxRequest + 1, fault.TooLarge}, {brief, "r0", "hang", 0, fault.Unavailable},
	} {
		_, err := caller.Call(tc.ctx, tc.to, tc.name, make([]byte, tc.body))
		if fault.KindOf(err) != tc.want || err == nil {
			t.Errorf("%s of %s: %v, want %s", tc.name, tc.to, err, tc.want)
		}
		if tc.name == "limited" && fault.From(err).RetryAfter != 3*time.Second {
			t.Errorf("RetryAfter is lost: %+v", fault.From(err))
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("what is internal is told: %v", err)
		}
	}
	c.owners.at("r0", "127.0.0.1:1")
	if _, err := caller.Call(ctx, "r0", "echo", nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("one that is away: %v", err)
	}
}

// Calls are not a client's to make: not on the public listener, nor through a replica that forwards.
func TestCallsAreNotForClients(t *testing.T) {
	called := make(chan string, 10)
	c := newCluster(t, 2, func(cfg *Config) {
		cfg.Peers.Handlers = map[string]peer.Handler{"move": func(_ context.Context, from string, _ []byte) ([]byte, error) { called <- from; return nil, nil }}
	})
	for _, r := range c.r {
		for _, host := range []string{hostA, base} {
			r.do(r.client(), "POST", "https://"+host+callPath+"move", nil, bearer(keyA))
		}
		got := r.do(r.client(), "POST", "https://"+hostA+callPath+"move", nil, bearer(keyA), "Host: "+peer.ServerName("r0"))
		check(t, "the name of a replica as Host", got.status, 421)
	}
	// a request with a passport is a client's, whatever its path and host
	cl := c.intruder(t, c.r[0], c.authority.issue("r1"))
	for _, host := range []string{hostA, peer.ServerName("r0")} {
		_, _ = c.send(t, cl, c.r[0], "POST", host, callPath+"move", passportHeader+": "+mustSign(t, goodPassport(), c.authority.issue("r1")), bearer(keyA))
	}
	// and a call for another replica, or by another name, is none
	_, _ = c.send(t, cl, c.r[0], "POST", peer.ServerName("r1"), callPath+"move")
	_, _ = c.send(t, cl, c.r[0], "POST", hostA, callPath+"move")
	_, _ = c.send(t, cl, c.r[0], "GET", peer.ServerName("r0"), callPath+"move")
	select {
	case from := <-called:
		t.Errorf("a call got through, from %q", from)
	default:
	}
}

// The client is who the replica that it reached says it is: for the gateway, the records and the log.
func TestPassportTellsTheClient(t *testing.T) {
	c := newCluster(t, 1)
	c.reveal()
	r1 := c.authority.issue("r1")
	cl := c.intruder(t, c.r[0], r1)
	const id = "0198c0de-0000-7000-8000-000000000001"
	got, err := c.send(t, cl, c.r[0], "GET", hostA, "/b", bearer(keyA), passportHeader+": "+mustSign(t, goodPassport(), r1), requestIDHeader+": "+id)
	if err != nil || got.body != `remote=192.0.2.1 own=[] xff=[]` || got.header.Get("X-Request-Id") != id {
		t.Errorf("%v %q %v", err, got.body, got.header)
	}
	eventually(t, "the log", func() bool { return strings.Contains(c.r[0].log.String(), `"remote":"192.0.2.1"`) })
	for _, bad := range []string{"", "x", strings.Repeat("0", 37), strings.Repeat("0", 35) + "\"", strings.ToUpper(id)[:35] + "G"} {
		got, err := c.send(t, cl, c.r[0], "GET", hostA, "/b", bearer(keyA), passportHeader+": "+mustSign(t, goodPassport(), r1), requestIDHeader+": "+bad)
		if err != nil || got.status != 200 || got.header.Get("X-Request-Id") == bad {
			t.Errorf("%q is taken for a request id: %v %v", bad, err, got)
		}
	}
}

// A forwarded request is counted where it is served, and nowhere else; one that nobody served, where it failed.
func TestForwardCountedOnce(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) {
		m, err := telemetry.NewMetrics(prometheus.NewRegistry(), 10)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Metrics, cfg.Peers.Wait = m, 50*time.Millisecond
	})
	counted := func(r *replica) (n float64) {
		reg := prometheus.NewRegistry()
		reg.MustRegister(r.metrics)
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "tenant" && l.GetValue() == "team-a" {
						switch f.GetName() {
						case "polygate_tenant_requests_total":
							n += m.GetCounter().GetValue()
						case "polygate_tenant_requests_in_flight":
							n += 100 * m.GetGauge().GetValue()
						}
					}
				}
			}
		}
		return n
	}
	for range 3 {
		c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	}
	eventually(t, "three at the owner", func() bool { return counted(c.r[0]) == 3 })
	if n := counted(c.r[1]); n != 0 {
		t.Errorf("the replica that forwarded counts %v", n)
	}
	c.owners.set("team-a", "")
	c.r[1].do(c.r[1].client(), "GET", "https://"+hostA+"/b", nil, bearer(keyA))
	eventually(t, "a failure where it was", func() bool { return counted(c.r[1]) == 1 })
}
