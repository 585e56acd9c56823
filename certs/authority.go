package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// rootKey is where the authority is kept, and the context that its private key is sealed with.
const rootKey = "ca/local"

// The lives of certificates. Each begins an hour early, for clients whose clock is slow.
const (
	rootLife = 10 * 365 * 24 * time.Hour
	backdate = time.Hour
)

// rootVersion is the version of the stored authority that this build writes. It reads that and the next.
const rootVersion = 1

// root is the stored authority.
type root struct {
	V    int    `json:"v"`
	Cert []byte `json:"cert"` // DER
	Key  []byte `json:"key"`  // PKCS #8, sealed with the key-encryption key
}

// authority is the local certificate authority. It is immutable. It is not confined to the base domain by a name constraint,
// since tenants bring hosts of their own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openAuthority reads the authority, or makes it at the first start.
func openAuthority(ctx context.Context, s Store, w Wrapper, now time.Time) (*authority, error) {
	value, err := storedRoot(ctx, s, w, now)
	if err != nil {
		return nil, err
	}
	ca, err := parseRoot(value, w)
	if err != nil {
		return nil, fmt.Errorf("certs: the stored local authority (%s): %w", rootKey, err)
	}
	if now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("certs: the local authority expired on %s: delete %s from the store, so that a new one is made for clients to trust", ca.cert.NotAfter.Format(time.DateOnly), rootKey)
	}
	return ca, nil
}

// storedRoot returns what the store has, after making it if there is nothing: then too it is read back, since of replicas
// that make one at once the store lets one win. What is there but unreadable is never made anew.
func storedRoot(ctx context.Context, s Store, w Wrapper, now time.Time) ([]byte, error) {
	value, _, err := s.Get(ctx, rootKey)
	if err == nil {
		return value, nil
	}
	if !fault.Is(err, fault.NotFound) {
		return nil, fmt.Errorf("certs: read the local authority: %w", err)
	}
	if value, err = makeRoot(w, now); err != nil {
		return nil, fmt.Errorf("certs: make the local authority: %w", err)
	}
	if err := s.Create(ctx, rootKey, value); err != nil && !fault.Is(err, fault.Conflict) {
		return nil, fmt.Errorf("certs: store the local authority: %w", err)
	}
	if value, _, err = s.Get(ctx, rootKey); err != nil {
		return nil, fmt.Errorf("certs: read the local authority: %w", err)
	}
	return value, nil
}

func parseRoot(value []byte, w Wrapper) (*authority, error) {
	var r root
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	if r.V != rootVersion && r.V != rootVersion+1 {
		return nil, fmt.Errorf("has version %d, and this build reads %d and %d", r.V, rootVersion, rootVersion+1)
	}
	cert, err := x509.ParseCertificate(r.Cert)
	if err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	der, err := w.Unwrap(r.Key, rootKey)
	if err != nil {
		return nil, fmt.Errorf("its private key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("is damaged: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("is damaged: key and certificate do not belong together")
	}
	return &authority{cert: cert, key: key}, nil
}

// makeRoot makes a new authority, in its stored form.
func makeRoot(w Wrapper, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{ // without a serial number: a random one is drawn (RFC 5280 §4.1.2.2)
		Subject:               pkix.Name{Organization: []string{"Polygate"}, CommonName: "Polygate local authority " + now.UTC().Format(time.DateOnly)},
		NotBefore:             now.Add(-2 * backdate), // earlier than the first leaf
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // signs hosts, no further authorities
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	sealed, err := w.Wrap(der, rootKey)
	if err != nil {
		return nil, err
	}
	return json.Marshal(root{V: rootVersion, Cert: cert, Key: sealed})
}

// pem returns the authority's certificate.
func (ca *authority) pem() []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}) // a buffer takes everything
	return b.Bytes()
}

// issue makes a server certificate for names and addresses, with a key of its own.
func (ca *authority) issue(names []string, addrs []netip.Addr, life time.Duration, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{ // without a serial number: a random one is drawn
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
	}
	if len(names[0]) <= 64 { // the bound of a common name (RFC 5280, appendix A.1); clients look at the others
		template.Subject.CommonName = names[0]
	}
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	return ca.finish(template, key)
}

// finish signs a template for a key. Nothing outlives the authority.
func (ca *authority) finish(template *x509.Certificate, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
