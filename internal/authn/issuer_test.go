package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/polygate/polygate/internal/tenant"
)

// testIssuer is an OpenID Connect issuer over TLS, with a certificate of its own.
type testIssuer struct {
	t   testing.TB
	srv *httptest.Server
	url string
	ca  string // PEM

	discoveries, fetches atomic.Int64
	down                 atomic.Bool

	mu   sync.Mutex
	keys []jose.JSONWebKey // guarded by mu: the private keys whose public halves are served
	jwks http.HandlerFunc  // guarded by mu: replaces the key endpoint
	url2 string            // guarded by mu: replaces jwks_uri
}

// newTestIssuer starts an issuer with one ES256 key, "k1". hosts are names of its certificate beside 127.0.0.1.
func newTestIssuer(t testing.TB, hosts ...string) *testIssuer {
	t.Helper()
	i := &testIssuer{t: t}
	cert, ca := newCert(t, hosts...)
	i.ca = ca
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("/keys", i.serveKeys)
	i.srv = httptest.NewUnstartedServer(mux)
	i.srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	i.srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	i.srv.StartTLS()
	t.Cleanup(i.srv.Close)
	i.url = i.srv.URL
	if len(hosts) > 0 {
		i.url = "https://" + hosts[0]
	}
	i.setKeys(newKey(t, "k1", jose.ES256))
	return i
}

func newCert(t testing.TB, hosts ...string) (tls.Certificate, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test issuer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		DNSNames: hosts, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (i *testIssuer) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	i.discoveries.Add(1)
	if i.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	i.mu.Lock()
	at := i.url2
	i.mu.Unlock()
	if at == "" {
		at = i.url + "/keys"
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"issuer": i.url, "jwks_uri": at, "authorization_endpoint": i.url + "/auth", "token_endpoint": i.url + "/token",
	})
}

func (i *testIssuer) serveKeys(w http.ResponseWriter, r *http.Request) {
	i.fetches.Add(1)
	i.mu.Lock()
	keys, instead := i.keys, i.jwks
	i.mu.Unlock()
	if i.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	if instead != nil {
		instead(w, r)
		return
	}
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, k.Public())
	}
	_ = json.NewEncoder(w).Encode(set)
}

func (i *testIssuer) setKeys(keys ...jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *testIssuer) setJWKS(h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.jwks = h
}

func (i *testIssuer) key(n int) jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[n]
}

func newKey(t testing.TB, kid string, alg jose.SignatureAlgorithm) jose.JSONWebKey {
	t.Helper()
	var k crypto.Signer
	var err error
	switch alg {
	case jose.ES256:
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, k, err = ed25519.GenerateKey(rand.Reader)
	default:
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: k, KeyID: kid, Algorithm: string(alg), Use: "sig"}
}

// sign makes a token of claims with a key, and more header members. A nil value in either removes a member.
func sign(t testing.TB, k jose.JSONWebKey, header, body map[string]any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	opts.WithType("JWT")
	for name, v := range header {
		if v == nil {
			delete(opts.ExtraHeaders, jose.HeaderKey(name))
			continue
		}
		opts.WithHeader(jose.HeaderKey(name), v)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k}, opts)
	if err != nil {
		t.Fatal(err)
	}
	body = maps.Clone(body)
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return serialize(t, signer, payload)
}

func serialize(t testing.TB, signer jose.Signer, payload []byte) string {
	t.Helper()
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// forge makes a token from raw parts.
func forge(header, payload string, sig []byte) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(header)) + "." + e.EncodeToString([]byte(payload)) + "." + e.EncodeToString(sig)
}

// clock is a clock that tests turn.
type clock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func newClock() *clock { return &clock{t: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// anywhere dials without a guard.
func anywhere(bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext
}

// world is a service with a clock.
type world struct {
	*Service
	t     testing.TB
	clock *clock
}

func newWorld(t testing.TB, edit ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, clock: newClock()}
	cfg := Config{Dial: anywhere, Now: w.clock.now, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range edit {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Service = s
	t.Cleanup(s.Close)
	return w
}

// body returns the claims of a good token for a tenant.
func (w *world) body(i *testIssuer, id tenant.ID) map[string]any {
	now := w.clock.now()
	return map[string]any{
		"iss": i.url, "sub": "alice", "aud": baseOf(id), "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
}

// with returns a copy of claims with some changed.
func with(body map[string]any, changes ...any) map[string]any {
	body = maps.Clone(body)
	for n := 0; n < len(changes); n += 2 {
		body[changes[n].(string)] = changes[n+1]
	}
	return body
}

// ask authenticates a bearer token at a tenant's own host.
func (w *world) ask(e *tenant.Entry, token string) (tenant.Principal, error) {
	return w.Authenticate(w.t.Context(), e, bearerAt(e, token))
}

func bearerAt(e *tenant.Entry, token string) Evidence {
	return Evidence{Bearer: token, HasBearer: true, Base: baseOf(e.Record.ID), Host: string(e.Record.ID) + ".gw.test"}
}

func baseOf(id tenant.ID) string { return "https://" + string(id) + ".gw.test" }

// entry makes a tenant with authenticators.
func entry(id tenant.ID, authenticators ...tenant.Authenticator) *tenant.Entry {
	r := &tenant.Record{ID: id, UID: "uid-" + string(id), State: tenant.StateActive, Authenticators: authenticators}
	return &tenant.Entry{Record: r, Scope: tenant.Confine(id, r.UID)}
}

// changed returns the tenant after a change of its record.
func changed(e *tenant.Entry, edit func(r *tenant.Record)) *tenant.Entry {
	r := e.Record.Clone()
	edit(r)
	r.Revision++
	return &tenant.Entry{Record: r, Scope: e.Scope}
}

// authenticator makes one for an issuer, with edits.
func (i *testIssuer) authenticator(name string, edit ...func(o *tenant.OIDC)) tenant.Authenticator {
	o := &tenant.OIDC{Issuer: i.url, CA: i.ca}
	for _, f := range edit {
		f(o)
	}
	return tenant.Authenticator{
		Name: name, Type: tenant.AuthnOIDC, DefaultRole: tenant.Viewer, Generation: fmt.Sprintf("%s-1", name), Source: tenant.SourceAPI, OIDC: o,
	}
}
