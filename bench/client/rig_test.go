package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const seed = "client test"

// lab is an authority with the certificates that it signed.
type lab struct {
	roots *x509.CertPool
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
}

func newLab(t testing.TB) *lab {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return &lab{roots: roots, ca: ca, key: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate signs one for a host.
func (l *lab) certificate(t testing.TB, host string, ends time.Time) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: ends,
		DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, l.ca, key.Public(), l.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// files writes a certificate as the upstream reads it.
func (l *lab) files(t testing.TB, dir, host string) {
	t.Helper()
	cert := l.certificate(t, host, time.Now().Add(time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		host + ".pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, host + "-key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// upstream starts the lab's upstream and returns its tenants, as they are reached with nothing between.
func upstream(t testing.TB, l *lab, tenants int) []Tenant {
	t.Helper()
	dir := t.TempDir()
	var list []Tenant
	for n := range tenants {
		name := fmt.Sprintf("t%d", n)
		l.files(t, dir, name+".bench.test")
		list = append(list, Tenant{Name: name, Host: name + ".bench.test", Canary: backend.Canary(seed, n), Key: "pk_" + name})
	}
	s, err := backend.New(backend.Config{Seed: seed, TLS: &backend.TLS{CertDir: dir}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for n := range list {
		list[n].Addr = backend.Addr(n, s.Ports().TLS)
	}
	return list
}

// serve starts a server of one tenant, t0, with a handler.
func serve(t testing.TB, l *lab, h http.Handler) Tenant {
	t.Helper()
	return serveWith(t, l, &http.Server{Handler: h})
}

func serveWith(t testing.TB, l *lab, s *http.Server) Tenant {
	t.Helper()
	const host = "t0.bench.test"
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{l.certificate(t, host, time.Now().Add(time.Hour))}}
	s.ErrorLog = log.New(io.Discard, "", 0)
	ln := listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.ServeTLS(ln, "", "")
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	return Tenant{Name: "t0", Host: host, Addr: ln.Addr().String(), Canary: backend.Canary(seed, 0), Key: "pk_t0"}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// newClient makes a client that ends with the test.
func newClient(t testing.TB, c Config) *Client {
	t.Helper()
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func newCaller(t testing.TB, c *Client) load.Caller {
	t.Helper()
	caller, err := c.Caller()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { caller.Close() })
	return caller
}

// call makes a request with five seconds' time.
func call(t testing.TB, caller load.Caller, tenant int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return caller.Call(ctx, tenant)
}

// classOf returns what an error is counted under; "" = none.
func classOf(err error) string {
	var classed load.Classed
	if errors.As(err, &classed) {
		return classed.Class()
	}
	if err != nil {
		return "without a class: " + err.Error()
	}
	return ""
}

func protocols() []scenario.Protocol {
	return []scenario.Protocol{scenario.HTTP1, scenario.HTTP2, scenario.WebSocket, scenario.SSE, scenario.MCP, scenario.GRPC}
}

// loadOf is a load at the upstream.
func loadOf(p scenario.Protocol) scenario.Load {
	l := scenario.Load{Name: "test", Protocol: p}
	if p == scenario.MCP {
		l.Path = "/mcp"
	}
	if p == scenario.WebSocket {
		l.BodyBytes = 64
	}
	return l
}
