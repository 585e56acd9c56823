package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// authority is a certificate authority of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// issue makes a certificate: for a server on loopback, or, with a URI, for a client of that name.
func (a *authority) issue(t testing.TB, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour)}
	if uri == "" {
		tmpl.IPAddresses, tmpl.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	} else {
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs, tmpl.ExtKeyUsage = []*url.URL{u}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issuer is an OpenID Connect issuer of a test: discovery, keys, and tokens as the test wants them.
type issuer struct {
	t       testing.TB
	ca      *authority
	server  *httptest.Server
	fetches atomic.Int64 // of the key set
	down    atomic.Bool

	mu  sync.Mutex
	kid string
	key *rsa.PrivateKey
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t, ca: newAuthority(t, "issuer's CA")}
	i.rotate("key-1")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.answer(w, map[string]any{
			"issuer": i.url(), "jwks_uri": i.url() + "/keys", "authorization_endpoint": i.url() + "/authorize", "token_endpoint": i.url() + "/token",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		i.answer(w, i.keys())
	})
	i.server = httptest.NewUnstartedServer(mux)
	i.server.TLS = &tls.Config{Certificates: []tls.Certificate{i.ca.issue(t, "")}}
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	return i
}

func (i *issuer) url() string { return i.server.URL }

func (i *issuer) answer(w http.ResponseWriter, v any) {
	if i.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		i.t.Error(err)
	}
}

// rotate replaces the signing key.
func (i *issuer) rotate(kid string) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kid, i.key = kid, key
}

func (i *issuer) keys() jose.JSONWebKeySet {
	i.mu.Lock()
	defer i.mu.Unlock()
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &i.key.PublicKey, KeyID: i.kid, Algorithm: "RS256", Use: "sig"}}}
}

// claims returns a good set of claims for a subject, with changes. A nil value removes a claim.
func (i *issuer) claims(sub string, groups []string, change ...map[string]any) map[string]any {
	now := time.Now()
	c := map[string]any{"iss": i.url(), "sub": sub, "aud": "polygate", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "groups": groups}
	for _, m := range change {
		for k, v := range m {
			if v == nil {
				delete(c, k)
				continue
			}
			c[k] = v
		}
	}
	return c
}

// sign signs claims as this issuer does.
func (i *issuer) sign(claims map[string]any) string {
	i.mu.Lock()
	kid, key := i.kid, i.key
	i.mu.Unlock()
	return i.token(map[string]any{"alg": "RS256", "kid": kid, "typ": "JWT"}, claims, func(input []byte) []byte {
		sum := crypto.SHA256.New()
		sum.Write(input)
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum.Sum(nil))
		if err != nil {
			i.t.Fatal(err)
		}
		return sig
	})
}

// token makes a compact JWS with any header and any signature, which libraries for makers of tokens refuse to.
func (i *issuer) token(header, claims map[string]any, sign func(input []byte) []byte) string {
	h, err := json.Marshal(header)
	if err != nil {
		i.t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	input := enc.EncodeToString(h) + "." + enc.EncodeToString(c)
	return input + "." + enc.EncodeToString(sign([]byte(input)))
}
