package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// secure has the members speak mutual TLS.
func (c *embeddedCluster) secure() *embeddedCluster {
	c.t.Helper()
	a := newPeerAuthority(c.t)
	cert, key := a.issue("peer")
	for _, conf := range c.configs {
		conf.Cluster.CA, conf.Cluster.Cert, conf.Cluster.Key = a.file, cert, key
	}
	return c
}

// testStrangers holds that nobody without a certificate of the members' authority is let in, nor without TLS.
func (c *embeddedCluster) testStrangers() {
	c.t.Helper()
	cert, key := newPeerAuthority(c.t).issue("stranger")
	other, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	cl := c.configs[0].Cluster
	member, err := tls.LoadX509KeyPair(cl.Cert, cl.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range []struct {
		name string
		with *tls.Config
		ok   bool
	}{
		{"no TLS", nil, false},
		{"no certificate", &tls.Config{}, false},
		{"another authority's", &tls.Config{Certificates: []tls.Certificate{other}}, false},
		{"a member's", &tls.Config{Certificates: []tls.Certificate{member}}, true},
	} {
		if answer := askMember(c.t, cl.Members[0].Address, s.with); (answer[:min(15, len(answer))] == "HTTP/1.0 200 OK") != s.ok {
			c.t.Errorf("%s: let in is %v, want %v: %q", s.name, !s.ok, s.ok, answer)
		}
	}
}

// askMember returns what a member answers who is asked for the list of members; "" if it does not.
func askMember(t *testing.T, address string, with *tls.Config) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if with != nil {
		with.InsecureSkipVerify = true
		conn = tls.Client(conn, with)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("GET /members HTTP/1.0\r\n\r\n")); err != nil {
		return ""
	}
	b := make([]byte, 200)
	n, _ := conn.Read(b)
	return string(b[:n])
}

// peerAuthority vouches for members.
type peerAuthority struct {
	t    *testing.T
	file string // PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPeerAuthority(t *testing.T) *peerAuthority {
	t.Helper()
	a := &peerAuthority{t: t}
	a.cert = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.file, _ = a.issue("authority")
	return a
}

// issue makes a certificate, the first the authority's own, and returns the files of it and its key.
func (a *peerAuthority) issue(name string) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{IPAddresses: []net.IP{{127, 0, 0, 1}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if a.key == nil {
		tmpl, a.key = a.cert, key
	}
	tmpl.SerialNumber, tmpl.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "EC PRIVATE KEY", private)
}

func (a *peerAuthority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}
