package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// secureUpstream is an https upstream that notes which client certificates it saw, and on how many connections.
type secureUpstream struct {
	*httptest.Server
	mu    sync.Mutex
	seen  []string // names of the client certificates, "-" for none, by request
	conns map[string]bool
}

// newSecureUpstream starts one with a certificate of ca for names. clients nil means that it asks for no certificate.
func newSecureUpstream(t *testing.T, ca *issuer, clients *issuer, names ...string) *secureUpstream {
	t.Helper()
	u := &secureUpstream{conns: map[string]bool{}}
	u.Server = httptest.NewUnstartedServer(u)
	cert, err := ca.issue(names...)
	if err != nil {
		t.Fatal(err)
	}
	u.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	if clients != nil {
		u.TLS.ClientAuth, u.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients.pool()
	}
	u.EnableHTTP2 = true
	u.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	u.StartTLS()
	t.Cleanup(u.Close)
	return u
}

func (u *secureUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	u.mu.Lock()
	defer u.mu.Unlock()
	name := "-"
	if c := r.TLS.PeerCertificates; len(c) > 0 {
		name = c[0].DNSNames[0]
	}
	u.seen = append(u.seen, name)
	u.conns[r.RemoteAddr] = true
	_, _ = io.WriteString(w, "ok")
}

func (u *secureUpstream) state() (seen string, conns int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.seen, " "), len(u.conns)
}

// ourCertificates is a ClientCertificates with one for each tenant.
type ourCertificates struct {
	by    map[tenant.ID]*tls.Certificate
	err   error
	mu    sync.Mutex
	asked []tenant.ID
}

func (o *ourCertificates) ClientCertificate(_ context.Context, e *tenant.Entry) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, e.Record.ID)
	return o.by[e.Record.ID], o.err
}

// secured is a dedicated tenant that lets everybody through to url.
func secured(id tenant.ID, url string, edit func(*tenant.Dedicated)) *tenant.Record {
	r := dedicated(id, url, tenant.AuthUpstream)
	edit(r.Dedicated)
	return r
}

func certFor(t *testing.T, ca *issuer, name string) *tls.Certificate {
	t.Helper()
	c, err := ca.issue(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An upstream is known by its tenant's own CA and name, and sees the certificate of that tenant.
func TestUpstreamTLS(t *testing.T) {
	theirs, ours, stranger := newIssuer(t), newIssuer(t), newIssuer(t)
	certs := &ourCertificates{by: map[tenant.ID]*tls.Certificate{"team-d": certFor(t, ours, "for-d"), "team-g": certFor(t, stranger, "for-g")}}
	plain := newSecureUpstream(t, theirs, nil, "gw.internal")
	named := newSecureUpstream(t, theirs, nil, "gw.internal")
	mutual := newSecureUpstream(t, theirs, ours, "gw.internal")
	late := newSecureUpstream(t, theirs, nil, "late.internal")
	late.TLS.Certificates[0] = *expired(t, theirs)
	clear := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(clear.Close)
	local := tenant.ClientCertificate{Local: true}
	for _, tc := range []struct {
		name   string
		id     tenant.ID
		url    string
		with   tenant.Dedicated
		status int
		detail string
	}{
		{"own CA and the address's name", "team-d", plain.URL, tenant.Dedicated{CA: theirs.rootPEM()}, 200, ""},
		{"another name in it", "team-d", named.URL, tenant.Dedicated{CA: theirs.rootPEM(), ServerName: "gw.internal"}, 200, ""},
		{"our certificate", "team-d", mutual.URL, tenant.Dedicated{CA: theirs.rootPEM(), Client: local}, 200, ""},
		{"one of the tenant's", "team-d", mutual.URL, tenant.Dedicated{CA: theirs.rootPEM(), Client: tenant.ClientCertificate{Chain: "c", Key: "k"}}, 200, ""},
		{"not asked for", "team-d", plain.URL, tenant.Dedicated{CA: theirs.rootPEM(), Client: local}, 200, ""},
		{"unknown authority", "team-d", plain.URL, tenant.Dedicated{}, 502, "set the upstream's CA"},
		{"another authority", "team-d", plain.URL, tenant.Dedicated{CA: stranger.rootPEM()}, 502, "set the upstream's CA"},
		{"wrong name", "team-d", plain.URL, tenant.Dedicated{CA: theirs.rootPEM(), ServerName: "other.internal"}, 502, "set the upstream's server name"},
		{"expired", "team-d", late.URL, tenant.Dedicated{CA: theirs.rootPEM()}, 502, "expired or not yet valid"},
		{"no certificate of ours", "team-d", mutual.URL, tenant.Dedicated{CA: theirs.rootPEM()}, 502, "set the upstream's client certificate"},
		{"one that it does not trust", "team-g", mutual.URL, tenant.Dedicated{CA: theirs.rootPEM(), Client: local}, 502, "our client certificate"},
		{"none to be had", "team-x", mutual.URL, tenant.Dedicated{CA: theirs.rootPEM(), Client: local}, 502, "cannot be had"},
		{"an unreadable CA", "team-d", plain.URL, tenant.Dedicated{CA: "no PEM"}, 502, "holds no certificate"},
		{"no TLS there", "team-d", strings.Replace(clear.URL, "http:", "https:", 1), tenant.Dedicated{}, 502, "does not speak TLS"},
	} {
		for _, method := range []string{"GET", "POST"} {
			f := newFront(t, func(c *Config) { c.ClientCertificates = certs })
			f.put(secured(tc.id, tc.url, func(d *tenant.Dedicated) {
				d.CA, d.ServerName, d.Client = tc.with.CA, tc.with.ServerName, tc.with.Client
			}))
			host := tenant.OwnHost(tc.id, base)
			got := f.do(f.client(), method, "https://"+host+"/x", strings.NewReader("body"))
			if got.status != tc.status || !strings.Contains(got.body, tc.detail) {
				t.Errorf("%s: %s: %d %s, want %d and %q", tc.name, method, got.status, got.body, tc.status, tc.detail)
			}
		}
	}
	if seen, _ := mutual.state(); seen != "for-d for-d for-d for-d" {
		t.Errorf("the upstream saw %s", seen)
	}
	if seen, _ := plain.state(); strings.Contains(seen, "for") {
		t.Errorf("an upstream that did not ask saw %s", seen)
	}
}

func expired(t *testing.T, ca *issuer) *tls.Certificate {
	t.Helper()
	c := certFor(t, ca, "late.internal")
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	leaf.NotAfter = leaf.NotBefore.AddDate(0, 0, 1)
	der, err := x509.CreateCertificate(nil, leaf, ca.cert, leaf.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.PrivateKey}
}

// X38: what was opened with one certificate, CA or name is used with no other, and by no other tenant.
func TestX38UpstreamTLSIsNotShared(t *testing.T) {
	theirs, ours := newIssuer(t), newIssuer(t)
	certs := &ourCertificates{by: map[tenant.ID]*tls.Certificate{"team-d": certFor(t, ours, "for-d"), "team-e": certFor(t, ours, "for-e")}}
	up := newSecureUpstream(t, theirs, ours, "gw.internal")
	f := newFront(t, func(c *Config) { c.ClientCertificates = certs })
	local := tenant.ClientCertificate{Local: true}
	f.put(secured("team-d", up.URL, func(d *tenant.Dedicated) { d.CA, d.Client = theirs.rootPEM(), local }))
	f.put(secured("team-e", up.URL, func(d *tenant.Dedicated) { d.CA, d.Client = theirs.rootPEM(), local }))
	ask := func(id tenant.ID, want int) {
		t.Helper()
		check(t, string(id), f.do(f.client(), "GET", "https://"+tenant.OwnHost(id, base)+"/x", nil).status, want)
	}
	used := func(what, want string, conns int) {
		t.Helper()
		if seen, n := up.state(); seen != want || n != conns {
			t.Errorf("%s: the upstream saw %s on %d connections, want %s on %d", what, seen, n, want, conns)
		}
	}
	ask("team-d", 200)
	ask("team-d", 200)
	ask("team-e", 200)
	used("two tenants", "for-d for-d for-e", 2)
	f.change("team-d", func(r *tenant.Record) { r.DisplayName = "renamed" })
	ask("team-d", 200)
	used("another change", "for-d for-d for-e for-d", 2)
	certs.by["team-d"] = certFor(t, ours, "renewed")
	f.change("team-d", func(r *tenant.Record) { r.Dedicated.Client = tenant.ClientCertificate{Chain: "c", Key: "k"} })
	ask("team-d", 200)
	used("another certificate", "for-d for-d for-e for-d renewed", 3)
	f.change("team-d", func(r *tenant.Record) { r.Dedicated.ServerName = "gw.internal" })
	ask("team-d", 200)
	used("another name", "for-d for-d for-e for-d renewed renewed", 4)
	f.change("team-d", func(r *tenant.Record) { r.Dedicated.CA = ours.rootPEM() })
	ask("team-d", 502)
	f.change("team-d", func(r *tenant.Record) {
		r.Dedicated.CA, r.Dedicated.Client = theirs.rootPEM(), tenant.ClientCertificate{}
	})
	ask("team-d", 502)
	used("a CA and a certificate that went", "for-d for-d for-e for-d renewed renewed", 4)
	f.change("team-d", func(r *tenant.Record) { r.UID, r.Dedicated.Client = "another", local })
	ask("team-d", 200)
	used("a tenant of the same name", "for-d for-d for-e for-d renewed renewed renewed", 5)
	for i, id := range certs.asked {
		if id != "team-d" && id != "team-e" {
			t.Errorf("certificate %d was asked for %s", i, id)
		}
	}
}

// Nothing of TLS goes to an upstream in the clear, whatever a record says.
func TestUpstreamPlainHasNoCertificate(t *testing.T) {
	e := &tenant.Entry{Record: secured("team-d", "http://127.0.0.1:1", func(d *tenant.Dedicated) { d.Client.Local = true }), Scope: tenant.Confine("team-d", "u")}
	certs := &ourCertificates{}
	if got := dedicatedTarget(e, certs); got.Secure != nil || len(certs.asked) != 0 {
		t.Errorf("%+v", got)
	}
	e.Record.Dedicated.Upstream = "HTTPS://127.0.0.1:1"
	if got := dedicatedTarget(e, nil); got.Secure == nil || got.Secure.Client != nil {
		t.Errorf("%+v", got)
	}
	p := &pools{}
	target := dedicatedTarget(e, nil)
	if _, err := p.secure(&target, new(atomic.Bool)); !fault.Is(err, fault.BadUpstream) {
		t.Errorf("without a source of certificates: %v", err)
	}
	if got := explainTLS(&net.OpError{Op: "remote error", Err: errors.New("tls: protocol version not supported")}, nil); !strings.Contains(got, "1.2") {
		t.Errorf("a version that is too low: %q", got)
	}
}
