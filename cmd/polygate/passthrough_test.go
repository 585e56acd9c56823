package main

import (
	"bufio"
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
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

// testCA signs certificates for tests.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T, name string) *testCA {
	t.Helper()
	ca := &testCA{t: t}
	pair := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	ca.cert, ca.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return ca
}

// sign makes a certificate for a week; the first of a CA is its own.
func (ca *testCA) sign(c *x509.Certificate) tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		ca.t.Fatal(err)
	}
	c.SerialNumber = serial
	if c.NotBefore.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(7*24*time.Hour)
	}
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server makes a certificate for hosts, client one for a user.
func (ca *testCA) server(hosts ...string) tls.Certificate {
	return ca.sign(&x509.Certificate{DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
}

func (ca *testCA) client(name string) tls.Certificate {
	return ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (ca *testCA) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

func pemOf(c tls.Certificate) (chain, key string) {
	for _, der := range c.Certificate {
		chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		panic(err)
	}
	return chain, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (ca *testCA) pem() string {
	chain, _ := pemOf(tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: ca.key})
	return chain
}

// ownTLSGateway is a tenant's own gateway that ends TLS itself: it says whom it sees, and wants a client certificate if users
// is set. With behindProxy it wants a PROXY header first.
func ownTLSGateway(t *testing.T, cert tls.Certificate, users *testCA, behindProxy bool) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "own gateway: %s from %s", who, r.RemoteAddr)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if users != nil {
		s.TLS.ClientCAs, s.TLS.ClientAuth = users.pool(), tls.RequireAndVerifyClientCert
	}
	if behindProxy {
		s.Listener = &proxyproto.Listener{Listener: s.Listener, ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// splicedClient trusts the tenant's own CA and may have a certificate.
func splicedClient(t *testing.T, ca *testCA, certs ...tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.pool(), Certificates: certs, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+portText(addr))
		},
		DisableKeepAlives: true,
	}
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

// TestPassthroughTenants: connections of a tenant in passthrough mode reach its own gateway with TLS untouched, so that its own
// certificates and its users' client certificates keep working; with the PROXY protocol it sees the true address. A tenant that
// changes its mode is served the new way within a second, while what was spliced goes on until max_drain.
func TestPassthroughTenants(t *testing.T) {
	ca, users := newTestCA(t, "tenant's own CA"), newTestCA(t, "tenant's users")
	mutual := ownTLSGateway(t, ca.server("mutual.localhost", "mcp.example.org"), users, false)
	behind := ownTLSGateway(t, ca.server("behind.localhost"), nil, true)
	moving := ownTLSGateway(t, ca.server("moving.localhost"), nil, false)
	const file = `
tenants:
  - {id: team-a}
  - {id: team-b}
  - {id: mutual, mode: passthrough, hosts: [mcp.example.org], passthrough: {upstream: %[1]q}}
  - {id: behind, mode: passthrough, passthrough: {upstream: %[2]q, proxy_protocol: true}}
  - {id: moving%[3]s}
  - {id: down, mode: passthrough, passthrough: {upstream: "127.0.0.1:1"}}
`
	spliced := fmt.Sprintf(", mode: passthrough, passthrough: {upstream: %q}", moving)
	g := newGateway(t, fmt.Sprintf(file, mutual, behind, ""))
	g.edit("polygate.yaml", func(s string) string { return s + "passthrough: {max_drain: 3s}\n" })
	g.start()
	at := func(host string) string { return "https://" + host + ":" + portText(g.public) }

	alice := splicedClient(t, ca, users.client("alice"))
	for _, host := range []string{"mutual.localhost", "MuTuAl.localhost", "mcp.example.org"} {
		if got := do(alice, "GET", at(host)+"/", nil); got.Status != 200 || !strings.HasPrefix(string(got.Body), "own gateway: alice from ") {
			t.Errorf("%s with a client certificate: %d %s %v", host, got.Status, got.Body, got.Err)
		}
	}
	if got := do(splicedClient(t, ca), "GET", at("mutual.localhost")+"/", nil); got.Err == nil {
		t.Errorf("without a client certificate: %d %s", got.Status, got.Body)
	}
	if got := do(splicedClient(t, ca, newTestCA(t, "others").client("alice")), "GET", at("mutual.localhost")+"/", nil); got.Err == nil {
		t.Errorf("with somebody else's client certificate: %d %s", got.Status, got.Body)
	}
	c := splicedClient(t, ca)
	var local net.Addr
	tr := c.Transport.(*http.Transport)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			local = conn.LocalAddr()
		}
		return conn, err
	}
	if got := do(c, "GET", at("behind.localhost")+"/", nil); got.Status != 200 || string(got.Body) != "own gateway: nobody from "+local.String() {
		t.Errorf("behind the PROXY protocol: %d %s %v, want the address %s", got.Status, got.Body, got.Err, local)
	}
	if got := do(c, "GET", at("down.localhost")+"/", nil); got.Err == nil {
		t.Errorf("a gateway that is down: %d", got.Status)
	}
	// Our own surface for such a tenant is on the shared host.
	if got := do(g.client(), "GET", at("localhost")+"/tenant/mutual/api/v1/whoami", nil); got.Status != 401 {
		t.Errorf("the shared host: %d %s", got.Status, got.Body)
	}

	// A change of mode, there and back.
	if got := do(g.client(), "GET", at("moving.localhost")+"/healthz", nil); got.Status != 200 {
		t.Fatalf("before the change: %d %v", got.Status, got.Err)
	}
	g.write("tenants.yaml", fmt.Sprintf(file, mutual, behind, spliced))
	await(t, time.Second, "new connections follow", func() error {
		if got := do(c, "GET", at("moving.localhost")+"/", nil); got.Status != 200 || !strings.HasPrefix(string(got.Body), "own gateway") {
			return errors.Join(fmt.Errorf("%d %s", got.Status, got.Body), got.Err)
		}
		return nil
	})
	open := openSlow(t, ca, g.public, "moving.localhost")
	g.write("tenants.yaml", fmt.Sprintf(file, mutual, behind, ""))
	await(t, time.Second, "new connections go back", func() error {
		if got := do(g.client(), "GET", at("moving.localhost")+"/healthz", nil); got.Status != 200 {
			return errors.Join(fmt.Errorf("%d %s", got.Status, got.Body), got.Err)
		}
		return nil
	})
	began := time.Now()
	_ = open.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.Copy(io.Discard, open)
	if took := time.Since(began); took < time.Second || took > 8*time.Second {
		t.Errorf("a spliced connection ended %s after the change of mode (%v), want about 3 s", took, err)
	}
	await(t, 5*time.Second, "the cut is reported", func() error {
		resp, err := http.Get("http://" + g.metrics + "/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && !strings.Contains(string(b), `polygate_passthrough_connections_total{result="cut"} 1`) {
			err = fmt.Errorf("metrics:\n%s", grep(string(b), "passthrough"))
		}
		return err
	})
}

// openSlow opens a connection with a response that does not end.
func openSlow(t *testing.T, ca *testCA, addr, host string) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: host, RootCAs: ca.pool(), MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := fmt.Fprintf(c, "GET /slow HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("%q %v", line, err)
	}
	return c
}

// edit changes a file of the gateway's folder.
func (g *gateway) edit(name string, change func(string) string) {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	g.write(name, change(string(b)))
}

// TestDedicatedOverTLS: a dedicated gateway behind TLS of its own CA, which lets nobody connect without a certificate: ours, of
// the local authority or from files. Another tenant's upstream never sees it, and `config check` warns.
func TestDedicatedOverTLS(t *testing.T) {
	ca, ours := newTestCA(t, "upstream's CA"), newTestCA(t, "knows the gateway")
	open := ownTLSGateway(t, ca.server("gw.internal.example"), nil, false)
	strict := ownTLSGateway(t, ca.server("127.0.0.1.example", "gw.internal.example"), ours, false)
	chain, key := pemOf(ours.client("polygate"))
	g := newGateway(t, fmt.Sprintf(`
tenants:
  - {id: team-a}
  - {id: team-b}
  - {id: own-ca, mode: dedicated, dedicated: {upstream: "https://%[1]s", ca_file: ca.pem, server_name: gw.internal.example}}
  - {id: wrong-ca, mode: dedicated, dedicated: {upstream: "https://%[1]s", ca_file: other.pem, server_name: gw.internal.example}}
  - {id: wrong-name, mode: dedicated, dedicated: {upstream: "https://%[1]s", ca_file: ca.pem, server_name: other.example}}
  - {id: files, mode: dedicated, dedicated: {upstream: "https://%[2]s", ca_file: ca.pem, server_name: gw.internal.example, client_cert_file: client.pem, client_key_file: client-key.pem}}
  - {id: without, mode: dedicated, dedicated: {upstream: "https://%[2]s", ca_file: ca.pem, server_name: gw.internal.example}}
  - {id: localca, mode: dedicated, dedicated: {upstream: "https://%[1]s", ca_file: ca.pem, server_name: gw.internal.example, client_certificate: local}}
`, open, strict))
	g.write("ca.pem", ca.pem())
	g.write("other.pem", newTestCA(t, "other").pem())
	g.write("client.pem", chain)
	g.write("client-key.pem", key)
	g.start()
	c := g.client()
	for _, want := range []struct {
		host, says string
		status     int
	}{
		{"own-ca", "own gateway: nobody", 200},
		{"files", "own gateway: polygate", 200},
		{"localca", "own gateway: nobody", 200}, // that upstream asks for none
		{"wrong-ca", "", 502},
		{"wrong-name", "", 502},
		{"without", "", 502},
	} {
		got := do(c, "GET", "https://"+want.host+".localhost:"+portText(g.public)+"/", nil)
		if got.Status != want.status || !strings.Contains(string(got.Body), want.says) {
			t.Errorf("%s: %d %s %v, want %d %q", want.host, got.Status, got.Body, got.Err, want.status, want.says)
		}
	}
	out, err := exec.Command(bin(t, "polygate"), "config", "check", filepath.Join(g.dir, "polygate.yaml"), filepath.Join(g.dir, "tenants.yaml")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "must not take that for a user") {
		t.Errorf("config check: %v\n%s", err, out)
	}
	if strings.Contains(g.log.String(), "PRIVATE KEY") {
		t.Error("a private key is in the log")
	}
}
