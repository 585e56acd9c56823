package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// pair is a certificate with its key, as PEM.
type pair struct{ chain, key string }

type pairOptions struct {
	names         []string
	before, after time.Time // when it is valid; default around now
	ca            bool
}

func newPair(t testing.TB, o pairOptions) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if o.after.IsZero() {
		o.before, o.after = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "pair"}, DNSNames: o.names,
		NotBefore: o.before, NotAfter: o.after, IsCA: o.ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{pemText("CERTIFICATE", der), pemText("PRIVATE KEY", pkcs8)}
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
