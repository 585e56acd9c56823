package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// noon is when the tests of certificates, upstreams and sessions take place.
var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// authority signs certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes one; edit changes its certificate's template, and may be nil.
func newAuthority(t testing.TB, parent *authority, edit func(*x509.Certificate)) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority " + rand.Text()[:6]}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if edit != nil {
		edit(c)
	}
	if parent == nil {
		parent = &authority{cert: c, key: a.key}
	}
	a.cert = sign(t, c, parent, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, c *x509.Certificate, parent *authority, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	der, err := x509.CreateCertificate(rand.Reader, c, parent.cert, &key.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// pem returns the authority's certificate.
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// client makes a client's certificate of the last day and the next.
func (a *authority) client(edit func(*x509.Certificate)) *x509.Certificate {
	a.t.Helper()
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "alice"}, NotBefore: noon.Add(-24 * time.Hour), NotAfter: noon.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: uris("spiffe://team-a/user/alice"),
	}
	if edit != nil {
		edit(c)
	}
	return sign(a.t, c, a, newKey(a.t))
}

func uris(list ...string) []*url.URL {
	var all []*url.URL
	for _, s := range list {
		u, _ := url.Parse(s)
		all = append(all, u)
	}
	return all
}

// newTestService returns a service whose issuers cannot be reached.
func newTestService(t testing.TB, edit func(*authn.Config)) *authn.Service {
	t.Helper()
	cfg := authn.Config{
		Dial: func(bool) func(context.Context, string, string) (net.Conn, error) {
			return func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		},
		Secret: make([]byte, 32),
		Now:    func() time.Time { return noon },
	}
	if edit != nil {
		edit(&cfg)
	}
	s, err := authn.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// entryOf returns a tenant with authenticators.
func entryOf(id, uid string, all ...tenant.Authenticator) *tenant.Entry {
	r := &tenant.Record{ID: tenant.ID(id), UID: uid, Authenticators: all}
	return &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, uid)}
}

func mtls(m tenant.MTLS) tenant.Authenticator {
	return tenant.Authenticator{Name: "certs", Type: tenant.AuthnMTLS, Generation: "g1", DefaultRole: tenant.Viewer, MTLS: &m}
}

func ask(s *authn.Service, e *tenant.Entry, chain ...*x509.Certificate) (tenant.Principal, error) {
	return s.Authenticate(context.Background(), e, authn.Evidence{Peer: chain, Host: "team-a.example.com", Base: "https://team-a.example.com"})
}

func TestClientCertificate(t *testing.T) {
	s, ca := newTestService(t, nil), newAuthority(t, nil, nil)
	e := entryOf("team-a", "uid-a", mtls(tenant.MTLS{CA: ca.pem(), Prefix: "spiffe://team-a/user/", Groups: true}))
	e.Record.Members = []tenant.Member{{Kind: tenant.MemberUser, Authenticator: "certs", Name: "alice", Role: tenant.Editor}}
	leaf := ca.client(func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"dev", "dev", "ops", "a\x00b"} })
	p, err := ask(s, e, leaf)
	if err != nil {
		t.Fatal(err)
	}
	if p.Kind != tenant.KindUser || p.ID != "certs/alice" || p.Via != tenant.ViaMTLS || p.Role != tenant.Editor || p.Tenant != "team-a" {
		t.Errorf("got %+v", p)
	}
	c := p.Claims
	if c.Subject != "alice" || c.Issuer != "mtls" || !slices.Equal(c.Groups, []string{"dev", "ops"}) || !c.Issued.Equal(leaf.NotBefore) || !p.Expires.Equal(leaf.NotAfter) {
		t.Errorf("got claims %+v, expires %v", c, p.Expires)
	}
}

func TestClientCertificateIdentity(t *testing.T) {
	s, ca := newTestService(t, nil), newAuthority(t, nil, nil)
	twoNames := pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "mallory"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "alice"},
	}}
	for i, c := range []struct {
		name string
		m    tenant.MTLS
		edit func(*x509.Certificate)
		want string // the subject; "" = refused
	}{
		{"URI", tenant.MTLS{}, nil, "spiffe://team-a/user/alice"},
		{"URI, prefix", tenant.MTLS{Prefix: "spiffe://team-a/user/"}, nil, "alice"},
		{"one of two by prefix", tenant.MTLS{Prefix: "spiffe://team-a/"}, func(c *x509.Certificate) { c.URIs = uris("https://x/alice", "spiffe://team-a/bob") }, "bob"},
		{"DNS", tenant.MTLS{Identity: "san-dns"}, func(c *x509.Certificate) { c.DNSNames = []string{"alice.example"} }, "alice.example"},
		{"email", tenant.MTLS{Identity: "san-email"}, func(c *x509.Certificate) { c.EmailAddresses = []string{"alice@example.org"} }, "alice@example.org"},
		{"CN", tenant.MTLS{Identity: "cn"}, nil, "alice"},

		{"no such name", tenant.MTLS{Identity: "san-dns"}, nil, ""},
		{"another prefix", tenant.MTLS{Prefix: "spiffe://team-b/"}, nil, ""},
		{"nothing after the prefix", tenant.MTLS{Prefix: "spiffe://team-a/user/alice"}, nil, ""},
		{"two by prefix", tenant.MTLS{Prefix: "spiffe://team-a/"}, func(c *x509.Certificate) { c.URIs = uris("spiffe://team-a/alice", "spiffe://team-a/bob") }, ""},
		{"the same twice", tenant.MTLS{}, func(c *x509.Certificate) { c.URIs = uris("spiffe://x/a", "spiffe://x/a") }, ""},
		{"two CN", tenant.MTLS{Identity: "cn"}, func(c *x509.Certificate) { c.Subject = twoNames }, ""},
		{"CN with NUL", tenant.MTLS{Identity: "cn"}, func(c *x509.Certificate) { c.Subject.CommonName = "alice\x00.evil" }, ""},
		{"CN with a line end", tenant.MTLS{Identity: "cn"}, func(c *x509.Certificate) { c.Subject.CommonName = "alice\nbob" }, ""},
		{"CN too long", tenant.MTLS{Identity: "cn"}, func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("a", 256) }, ""},
		{"empty CN", tenant.MTLS{Identity: "cn"}, func(c *x509.Certificate) { c.Subject.CommonName = "" }, ""},
		{"wildcard", tenant.MTLS{Identity: "san-dns"}, func(c *x509.Certificate) { c.DNSNames = []string{"*.example"} }, ""},
		{"CN is not asked for", tenant.MTLS{}, func(c *x509.Certificate) { c.URIs = nil }, ""},
	} {
		c.m.CA = ca.pem()
		a := mtls(c.m)
		a.Generation = string(rune('a' + i))
		p, err := ask(s, entryOf("team-a", "uid-a", a), ca.client(c.edit))
		if c.want == "" {
			if !fault.Is(err, fault.Unauthenticated) {
				t.Errorf("%s: got %v, %v; want a refusal", c.name, p.ID, err)
			}
		} else if err != nil || p.Claims.Subject != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.name, p.ID, err, c.want)
		}
	}
}

func TestClientCertificateRefused(t *testing.T) {
	ca := newAuthority(t, nil, nil)
	other := newAuthority(t, nil, func(c *x509.Certificate) { c.Subject = ca.cert.Subject }) // the same name, another key
	short := newAuthority(t, ca, func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) })
	gone := newAuthority(t, ca, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) })
	bounded := newAuthority(t, ca, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"team-a.example"} })
	noAuthority := newAuthority(t, ca, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	chain := []*x509.Certificate{}
	deep := ca
	for range 5 {
		deep = newAuthority(t, deep, nil)
		chain = append([]*x509.Certificate{deep.cert}, chain...)
	}
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		ends  time.Time // zero = refused
	}{
		{"direct", []*x509.Certificate{ca.client(nil)}, noon.Add(24 * time.Hour)},
		{"through an intermediate that ends before", []*x509.Certificate{short.client(nil), short.cert}, noon.Add(time.Hour)},
		{"no extended key usage", []*x509.Certificate{ca.client(func(c *x509.Certificate) { c.ExtKeyUsage = nil })}, noon.Add(24 * time.Hour)},

		{"intermediate missing", []*x509.Certificate{short.client(nil)}, time.Time{}},
		{"another authority of the same name", []*x509.Certificate{other.client(nil)}, time.Time{}},
		{"another authority that sends itself", []*x509.Certificate{other.client(nil), other.cert}, time.Time{}},
		{"expired", []*x509.Certificate{ca.client(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })}, time.Time{}},
		{"not yet", []*x509.Certificate{ca.client(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Minute) })}, time.Time{}},
		{"expired intermediate", []*x509.Certificate{gone.client(nil), gone.cert}, time.Time{}},
		{"a server's", []*x509.Certificate{ca.client(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}, time.Time{}},
		{"signed by a leaf", []*x509.Certificate{noAuthority.client(nil), noAuthority.cert}, time.Time{}},
		{"name constraints", []*x509.Certificate{bounded.client(func(c *x509.Certificate) { c.DNSNames = []string{"x.team-b.example"} }), bounded.cert}, time.Time{}},
		{"lives for too long", []*x509.Certificate{ca.client(func(c *x509.Certificate) {
			c.NotBefore = noon.Add(-time.Hour)
			c.NotAfter = noon.Add(tenant.MaxCertLife)
		})}, time.Time{}},
		{"too long a chain", append([]*x509.Certificate{deep.client(nil)}, chain...), time.Time{}},
	} {
		s := newTestService(t, nil)
		e := entryOf("team-a", "uid-a", mtls(tenant.MTLS{CA: ca.pem()}))
		for range 2 { // the second time from memory
			p, err := ask(s, e, c.chain...)
			if c.ends.IsZero() && !fault.Is(err, fault.Unauthenticated) || !c.ends.IsZero() && (err != nil || !p.Expires.Equal(c.ends)) {
				t.Errorf("%s: got %v until %v, %v; want until %v", c.name, p.ID, p.Expires, err, c.ends)
			}
		}
	}
}

// TestC7CertificateOfAnotherTenant presents A's certificate at B, under another generation, and after the tenant was made again.
func TestC7CertificateOfAnotherTenant(t *testing.T) {
	s, caA, caB := newTestService(t, nil), newAuthority(t, nil, nil), newAuthority(t, nil, nil)
	leaf := caA.client(nil)
	a := mtls(tenant.MTLS{CA: caA.pem()})
	if _, err := ask(s, entryOf("team-a", "uid-a", a), leaf); err != nil {
		t.Fatal(err)
	}
	if p, err := ask(s, entryOf("team-b", "uid-b", mtls(tenant.MTLS{CA: caB.pem()})), leaf); err == nil {
		t.Errorf("B lets in %s", p.ID)
	}
	again := mtls(tenant.MTLS{CA: caB.pem()})
	if p, err := ask(s, entryOf("team-a", "uid-a2", again), leaf); err == nil {
		t.Errorf("the tenant made again lets in %s", p.ID)
	}
	again.Generation = "g2"
	if p, err := ask(s, entryOf("team-a", "uid-a", again), leaf); err == nil {
		t.Errorf("after a change of the authority %s is let in", p.ID)
	}
	if _, err := ask(s, entryOf("team-a", "uid-a", again), caB.client(nil)); err != nil {
		t.Errorf("after a change of the authority, a certificate of the new one: %v", err)
	}
	gone := entryOf("team-a", "uid-a")
	if p, err := ask(s, gone, leaf); err == nil {
		t.Errorf("without an authenticator %s is let in", p.ID)
	}
}

func TestClientCertificateEnds(t *testing.T) {
	now := noon
	s := newTestService(t, func(c *authn.Config) { c.Now = func() time.Time { return now } })
	ca := newAuthority(t, nil, nil)
	e := entryOf("team-a", "uid-a", mtls(tenant.MTLS{CA: ca.pem()}))
	leaf := ca.client(nil)
	if _, err := ask(s, e, leaf); err != nil {
		t.Fatal(err)
	}
	revoked := &tenant.Entry{Record: e.Record.Clone(), Scope: e.Scope}
	revoked.Record.Revoke(tenant.Revocation{Principal: "user:certs/spiffe://team-a/user/alice", Before: now, Until: now.Add(e.Record.CredentialLife("user:certs/spiffe://team-a/user/alice"))}, now)
	now = now.Add(time.Second)
	revoked.Record.Revoke(tenant.Revocation{Session: "another", Before: now, Until: now.Add(time.Hour)}, leaf.NotAfter.Add(-time.Hour)) // forgets what can be
	if p, err := ask(s, revoked, leaf); err == nil {
		t.Errorf("revoked, and yet %s is let in", p.ID)
	}
	now = now.Add(time.Minute)
	fresh := ca.client(func(c *x509.Certificate) { c.NotBefore = now })
	now = now.Add(time.Minute)
	if _, err := ask(s, revoked, fresh); err != nil {
		t.Errorf("a certificate made after the revocation: %v", err)
	}
	now = leaf.NotAfter
	if p, err := ask(s, e, leaf); err == nil {
		t.Errorf("after its end %s is let in", p.ID)
	}
}

// TestClientCertificateComesBack: a client that sent no intermediates and was refused is accepted once it does.
func TestClientCertificateComesBack(t *testing.T) {
	now := noon
	s := newTestService(t, func(c *authn.Config) { c.Now = func() time.Time { return now } })
	ca := newAuthority(t, nil, nil)
	between := newAuthority(t, ca, nil)
	leaf := between.client(nil)
	e := entryOf("team-a", "uid-a", mtls(tenant.MTLS{CA: ca.pem()}))
	if _, err := ask(s, e, leaf); err == nil {
		t.Fatal("accepted without its intermediate")
	}
	now = now.Add(31 * time.Second)
	if _, err := ask(s, e, leaf, between.cert); err != nil {
		t.Error(err)
	}
}

func TestClientCertificateConcurrently(t *testing.T) {
	s := newTestService(t, nil)
	entries := make([]*tenant.Entry, 4)
	leaves := make([]*x509.Certificate, 4)
	for i := range entries {
		ca := newAuthority(t, nil, nil)
		entries[i] = entryOf("team-"+string(rune('a'+i)), "uid-"+string(rune('a'+i)), mtls(tenant.MTLS{CA: ca.pem()}))
		leaves[i] = ca.client(nil)
	}
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			p, err := ask(s, entries[i%4], leaves[i/4%4])
			if good := i%4 == i/4%4; good != (err == nil) {
				t.Errorf("certificate %d at %d: got %v, %v", i/4%4, i%4, p.ID, err)
			}
		})
	}
	wg.Wait()
}

func TestWantsClientCert(t *testing.T) {
	for _, c := range []struct {
		a    tenant.Authenticator
		want bool
	}{
		{mtls(tenant.MTLS{CA: "x"}), true},
		{tenant.Authenticator{Upstream: &tenant.UpstreamUsers{CA: "x"}}, true},
		{tenant.Authenticator{Upstream: &tenant.UpstreamUsers{}}, false},
		{tenant.Authenticator{OIDC: &tenant.OIDC{CA: "x"}}, false},
	} {
		if got := authn.WantsClientCert(entryOf("team-a", "uid-a", c.a)); got != c.want {
			t.Errorf("%+v: got %v", c.a, got)
		}
	}
}

func TestParsePool(t *testing.T) {
	ca := newAuthority(t, nil, nil)
	leaf := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.client(nil).Raw}))
	der, _ := x509.MarshalECPrivateKey(ca.key)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	unsigning := newAuthority(t, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	for _, c := range []struct{ name, text, want string }{
		{"one", ca.pem(), ""},
		{"two, with text around", "# ours\n" + ca.pem() + "\n# theirs\n" + newAuthority(t, nil, nil).pem(), ""},
		{"nothing", "", "no PEM certificate"},
		{"no PEM", "just text", "no PEM certificate"},
		{"a leaf", leaf, "block 1: \"CN=alice\" is no authority's"},
		{"a leaf behind one", ca.pem() + leaf, "block 2"},
		{"a key", key, "only certificates belong here"},
		{"may not sign", unsigning.pem(), "may not sign"},
		{"damaged", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"},
		{"cut", ca.pem() + ca.pem()[:100], "block 2 is damaged"},
	} {
		err := authn.ParsePool(c.text)
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), key[40:60]) {
			t.Errorf("%s: the message holds the key", c.name)
		}
		m := tenant.Authenticator{Name: "certs", Type: tenant.AuthnMTLS, MTLS: &tenant.MTLS{CA: c.text}}
		if err := authn.CheckAuthenticator(&m); c.text != "" && (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), "mtls.ca") {
			t.Errorf("%s: CheckAuthenticator = %v", c.name, err)
		}
	}
}

func BenchmarkClientCertificate(b *testing.B) {
	s, ca := newTestService(b, nil), newAuthority(b, nil, nil)
	e := entryOf("team-a", "uid-a", mtls(tenant.MTLS{CA: ca.pem()}))
	leaf := ca.client(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ask(s, e, leaf); err != nil {
			b.Fatal(err)
		}
	}
}
