package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// TestC1ChainsThatAreWorkAreRefused: authorities of one name and key can follow each other in any order. Trying them takes x509 to
// its own limit of 100 signature checks, for a client that has no credential.
func TestC1ChainsThatAreWorkAreRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate := func(n int64, subject string) *x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: subject}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, DNSNames: []string{fmt.Sprintf("n%d.test", n)},
		}
		der, err := x509.CreateCertificate(rand.Reader, c, &x509.Certificate{Subject: pkix.Name{CommonName: "X"}}, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	root := x509.NewCertPool()
	root.AddCert(certificate(9, "another"))
	leaf := certificate(1, "leaf")
	chain := []*x509.Certificate{leaf, certificate(2, "X"), certificate(3, "X"), certificate(4, "X"), certificate(5, "X")}
	if _, err := verifyChain(root, chain, time.Now()); !errors.As(err, new(refusal)) {
		t.Errorf("four authorities of one name: %v, want a refusal before any signature is checked", err)
	}
	if _, err := verifyChain(root, chain[:2], time.Now()); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("one authority: %v, want that it is unknown", err)
	}
}
