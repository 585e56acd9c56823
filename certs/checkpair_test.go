package certs_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
)

// TestCheckPair: one host of several is enough, none is not, and what an import refuses is refused.
func TestCheckPair(t *testing.T) {
	now := time.Now()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*.example.org", "a.example.net"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	chain, key := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	for _, tt := range []struct {
		hosts string
		at    time.Time
		want  string
	}{
		{"x.example.com a.example.net", now, ""},
		{"b.example.org", now, ""},
		{"*.example.org", now, ""},
		{"*.example.net example.org", now, "is for *.example.org, a.example.net, and for none of the hosts: *.example.net, example.org"},
		{"1.x 2.x 3.x 4.x 5.x 6.x", now, "1.x, 2.x, 3.x, 4.x, 5.x, …"},
		{"a.example.net", now.Add(2 * time.Hour), "expired"},
	} {
		err := certs.CheckPair(chain, key, strings.Fields(tt.hosts), tt.at)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("for %s: %v, want %q", tt.hosts, err, tt.want)
		}
	}
	if err := certs.CheckPair(chain, chain, []string{"a.example.net"}, now); err == nil {
		t.Error("a certificate is taken for its key")
	}
}
