package credential

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keyID     = "bench"
	clientID  = "polybench"
	issuerTTL = time.Hour
)

// Issuer is a small OpenID provider for a laboratory. It has one client, who may have tokens for any audience.
type Issuer struct {
	url    string
	dir    string
	secret string
	key    *ecdsa.PrivateKey
	server *http.Server
	served chan error
}

// StartIssuer starts a provider on a loopback address ("127.0.0.1:0" = any port): discovery, keys (JWKS) and a token endpoint for the
// client credentials grant (ES256), with a certificate of its own authority. Its files go to dir.
func StartIssuer(dir, listen string) (*Issuer, error) {
	ap, err := netip.ParseAddrPort(listen)
	if err != nil || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("issuer address %q: give a loopback address and a port: it hands out tokens for anybody", listen)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issuer key: %w", err)
	}
	i := &Issuer{dir: dir, key: key, secret: rand.Text(), served: make(chan error, 1)}
	cert, err := i.files(ap.Addr())
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	i.url = "https://" + ln.Addr().String()
	if err := i.serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})); err != nil {
		_ = ln.Close() // nobody has connected
		return nil, err
	}
	return i, nil
}

// URL returns the issuer's identifier, an https URL.
func (i *Issuer) URL() string { return i.url }

// CAFile returns the path of the authority that signed its certificate, as PEM.
func (i *Issuer) CAFile() string { return filepath.Join(i.dir, "issuer-ca.pem") }

// Key returns the public key of its tokens.
func (i *Issuer) Key() *ecdsa.PublicKey { return &i.key.PublicKey }

// KeyFile returns the path of that key as PEM (PKIX).
func (i *Issuer) KeyFile() string { return filepath.Join(i.dir, "issuer-key.pem") }

// Client returns the identifier and the secret of its one client.
func (i *Issuer) Client() (id, secret string) { return clientID, i.secret }

// Minter returns a source of tokens as the issuer signs them, without asking it. audience and subject are by tenant; a nil subject is
// "bench".
func (i *Issuer) Minter(audience func(tenant int) []string, subject func(tenant int) string) (*Minter, error) {
	return NewMinter(MinterConfig{Key: i.key, KeyID: keyID, Issuer: i.url, Audience: audience, Subject: subject, TTL: issuerTTL})
}

// Close ends it. Tokens that it has signed stay good.
func (i *Issuer) Close() error {
	err := i.server.Close()
	if served := <-i.served; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	return err
}

// serve begins to answer.
func (i *Issuer) serve(ln net.Listener) error {
	discovery, err := json.Marshal(map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/keys", "token_endpoint": i.url + "/token", "authorization_endpoint": i.url + "/authorize",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"grant_types_supported": []string{"client_credentials"}, "id_token_signing_alg_values_supported": []string{"ES256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic"},
	})
	if err != nil {
		return err
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.Key(), KeyID: keyID, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", document(discovery))
	mux.HandleFunc("GET /keys", document(keys))
	mux.HandleFunc("POST /token", i.token)
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(discard{}, "", 0)}
	go func() { i.served <- i.server.Serve(ln) }()
	return nil
}

// discard takes what a server logs about its clients, who see it themselves.
type discard struct{}

// Write forgets.
func (discard) Write(b []byte) (int, error) { return len(b), nil }

// document answers with a fixed document.
func document(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b) // whoever has gone has gone
	}
}

// token is the token endpoint (RFC 6749 §4.4).
func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	id, secret, _ := r.BasicAuth()
	id, errID := url.QueryUnescape(id)
	secret, errSecret := url.QueryUnescape(secret)
	if errID != nil || errSecret != nil || id != clientID || subtle.ConstantTimeCompare([]byte(secret), []byte(i.secret)) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="issuer"`)
		refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	if r.PostFormValue("grant_type") != "client_credentials" {
		refuse(w, http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	audience := r.PostForm["audience"]
	if len(audience) == 0 {
		refuse(w, http.StatusBadRequest, "invalid_target") // RFC 8707 §2: a token for nobody in particular is for everybody
		return
	}
	i.grant(r.Context(), w, audience)
}

// grant answers with a token.
func (i *Issuer) grant(ctx context.Context, w http.ResponseWriter, audience []string) {
	m, err := i.Minter(func(int) []string { return audience }, nil)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "server_error")
		return
	}
	text, err := m.Token(ctx, 0)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "server_error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": text, "token_type": "Bearer", "expires_in": int(issuerTTL.Seconds())}) // likewise
}

// refuse answers with an error of RFC 6749 §5.2.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code}) // likewise
}

// files makes the authority and the server's certificate, and writes what others are to read.
func (i *Issuer) files(at netip.Addr) (tls.Certificate, error) {
	ca, caKey, err := authority()
	if err != nil {
		return tls.Certificate{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(i.Key())
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(i.CAFile(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(i.KeyFile(), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	return leaf(ca, caKey, at)
}

// authority makes a CA that lives as long as a laboratory.
func authority() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "polybench issuer CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	return ca, key, err
}

// leaf makes the server's certificate, for the address that it listens on.
func leaf(ca *x509.Certificate, caKey *ecdsa.PrivateKey, at netip.Addr) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "polybench issuer"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{at.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	return tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: key}, err
}
