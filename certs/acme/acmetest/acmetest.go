// Package acmetest runs a real ACME server for tests: pebble, and its challenge test server as the DNS, as processes of the
// versions that go.mod names. Beside them, in the test's process, are a resolver that knows of zones, a webhook that sets TXT
// records, and a stage that plays faults in front of the server.
package acmetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Options say how the server behaves. The zero value is a server without faults.
type Options struct {
	NonceReject int               // per cent of good nonces that are refused
	Sleep       time.Duration     // validations wait up to this long, in whole seconds; 0 = they do not
	EAB         map[string]string // external accounts: key id -> key in base64url; if not empty one is demanded
	Validity    time.Duration     // of certificates of the profile "default"; 0 = 90 days
	Profiles    map[string]time.Duration
	AlwaysValid bool // no challenge is looked at
	Blocked     []string
	RSA         bool // the issuing keys are RSA in place of ECDSA
	Alternates  int  // other roots, each with a chain of its own
	// TLSPort and HTTPPort are where challenges are looked for, on 127.0.0.1; 0 = free ones, see the fields of Server.
	TLSPort, HTTPPort int
	// DefaultIP answers every A query; "" = 127.0.0.1.
	DefaultIP string
	// WebhookToken is what the webhook wants as its bearer token; "" = none.
	WebhookToken string
}

// Server is a running ACME server with its DNS.
type Server struct {
	TLSPort, HTTPPort int    // where it looks for challenges
	DNSAddr           string // of the challenge test server: it answers 127.0.0.1 for every name
	WebhookURL        string // sets and clears TXT records as lego's httpreq does

	t        testing.TB
	o        Options
	dir      string
	listen   string // of the ACME server
	manage   string // of its management
	dnsAdmin string // management of the challenge test server
	rootPEM  string
	client   *http.Client // trusts rootPEM
	pebble   *process
	dns      *process
	resolver *resolver
	hook     *webhook
	names    issued
}

// Start runs a server until the test ends. It fails the test if the server cannot be run.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, o: o, TLSPort: o.TLSPort, HTTPPort: o.HTTPPort, dir: t.TempDir()}
	t.Cleanup(s.Stop)
	ports := FreePorts(t, 6)
	if s.TLSPort == 0 {
		s.TLSPort = ports[0]
	}
	if s.HTTPPort == 0 {
		s.HTTPPort = ports[1]
	}
	s.listen, s.manage = loopback(ports[2]), loopback(ports[3])
	s.DNSAddr, s.dnsAdmin = loopback(ports[4]), loopback(ports[5])
	s.writeFiles()
	s.startDNS()
	s.startPebble()
	s.resolver = startResolver(t, s.DNSAddr)
	s.hook = &webhook{s: s, token: o.WebhookToken}
	s.WebhookURL = s.hook.start(t)
	return s
}

// Directory returns the URL of the directory.
func (s *Server) Directory() string { return "https://" + s.listen + "/dir" }

// RootPEM returns the root under which the server's own TLS certificate is.
func (s *Server) RootPEM() string { return s.rootPEM }

// Resolver returns the address of a DNS server, UDP and TCP, that answers as the challenge test server does, and says besides
// that every domain of two labels is a zone.
func (s *Server) Resolver() string { return s.resolver.addr }

// Addr returns host:port of the ACME server.
func (s *Server) Addr() string { return s.listen }

// Stop ends everything. It may be called again.
func (s *Server) Stop() {
	if s.hook != nil {
		s.hook.stop()
	}
	if s.resolver != nil {
		s.resolver.stop()
	}
	s.pebble.kill()
	s.dns.kill()
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
}

// Restart kills the ACME server and starts it again at its address: it has forgotten accounts, orders and its issuing roots.
func (s *Server) Restart() {
	s.t.Helper()
	s.Down()
	s.Up()
}

// Down kills the ACME server; its address refuses connections until Up.
func (s *Server) Down() {
	s.Issued() // what was issued is counted before the server forgets it
	s.pebble.kill()
	s.client.CloseIdleConnections()
}

// Up starts the ACME server again after Down.
func (s *Server) Up() {
	s.t.Helper()
	s.startPebble()
}

// Pause stops the ACME server's process, so that connections hang; Resume lets it go on.
func (s *Server) Pause() { s.pebble.pause() }

// Resume ends Pause.
func (s *Server) Resume() { s.pebble.resume() }

// Log returns what the ACME server has written.
func (s *Server) Log() string { return s.pebble.out.String() }

// Roots returns the roots under which certificates are issued.
func (s *Server) Roots() *x509.CertPool {
	s.t.Helper()
	pool := x509.NewCertPool()
	for i := range s.o.Alternates + 1 {
		if !pool.AppendCertsFromPEM(s.get("/roots/" + strconv.Itoa(i))) {
			s.t.Fatal("acmetest: the server shows no root")
		}
	}
	return pool
}

// get asks the management of the ACME server.
func (s *Server) get(path string) []byte {
	s.t.Helper()
	resp, err := s.client.Get("https://" + s.manage + path)
	if err != nil {
		s.t.Fatalf("acmetest: %v\n%s", err, s.Log())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("acmetest: GET %s: %s, %v", path, resp.Status, err)
	}
	return body
}

// FreePorts returns n ports of 127.0.0.1 that nobody listens on just now. They lie below those that outgoing connections
// get, else one of these would take a port between here and the start of the program that is to listen there.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	const low, high = 16000, 32000
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports
		}
		port := low + mathrand.IntN(high-low) //nolint:gosec // not a secret
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		defer l.Close() // all at once, so that they differ
		ports = append(ports, port)
	}
	t.Fatal("acmetest: no free ports")
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// writeFiles makes the server's TLS certificate and its configuration.
func (s *Server) writeFiles() {
	s.t.Helper()
	root, cert, key := serverCertificate(s.t)
	s.rootPEM = root
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(root))
	s.client = &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
	}
	config, err := json.MarshalIndent(map[string]any{"pebble": s.config()}, "", "  ")
	if err != nil {
		s.t.Fatal(err)
	}
	for name, data := range map[string][]byte{"cert.pem": cert, "key.pem": key, "pebble.json": config} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *Server) config() map[string]any {
	seconds := func(d time.Duration) int64 { return int64(max(d, time.Second) / time.Second) }
	validity := s.o.Validity
	if validity == 0 {
		validity = 90 * 24 * time.Hour
	}
	profiles := map[string]any{"default": map[string]any{"description": "as usual", "validityPeriod": seconds(validity)}}
	for name, d := range s.o.Profiles {
		profiles[name] = map[string]any{"description": name, "validityPeriod": seconds(d)}
	}
	alg := "ecdsa"
	if s.o.RSA {
		alg = "rsa"
	}
	return map[string]any{
		"listenAddress": s.listen, "managementListenAddress": s.manage,
		"certificate": filepath.Join(s.dir, "cert.pem"), "privateKey": filepath.Join(s.dir, "key.pem"),
		"httpPort": s.HTTPPort, "tlsPort": s.TLSPort, "keyAlgorithm": alg, "profiles": profiles,
		"externalAccountBindingRequired": len(s.o.EAB) > 0, "externalAccountMACKeys": s.o.EAB,
		"domainBlocklist": s.o.Blocked, "retryAfter": map[string]int{"authz": 1, "order": 1},
	}
}

func (s *Server) startDNS() {
	s.t.Helper()
	ip := s.o.DefaultIP
	if ip == "" {
		ip = "127.0.0.1"
	}
	s.dns = startProcess(s.t, nil, "pebble-challtestsrv", "-defaultIPv4", ip, "-defaultIPv6", "", "-dnsserver", s.DNSAddr,
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-management", s.dnsAdmin)
	s.await(s.dns, func(ctx context.Context) error {
		return dial(ctx, s.dnsAdmin, s.DNSAddr)
	})
}

// startPebble runs the server. Of the authorizations that it knows it uses one in a hundred again, by chance, and cannot be told not
// to (0 is compared by >): a test that wants a challenge for a second order orders another name, or by another account.
func (s *Server) startPebble() {
	s.t.Helper()
	env := []string{"PEBBLE_WFE_NONCEREJECT=" + strconv.Itoa(s.o.NonceReject), "PEBBLE_AUTHZREUSE=0",
		"PEBBLE_ALTERNATE_ROOTS=" + strconv.Itoa(s.o.Alternates)}
	if s.o.Sleep >= time.Second {
		env = append(env, "PEBBLE_VA_SLEEPTIME="+strconv.Itoa(int(s.o.Sleep/time.Second)))
	} else {
		env = append(env, "PEBBLE_VA_NOSLEEP=1")
	}
	if s.o.AlwaysValid {
		env = append(env, "PEBBLE_VA_ALWAYS_VALID=1")
	}
	s.pebble = startProcess(s.t, env, "pebble", "-config", filepath.Join(s.dir, "pebble.json"), "-dnsserver", s.DNSAddr)
	s.await(s.pebble, func(ctx context.Context) error {
		if err := dial(ctx, s.manage); err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Directory(), nil)
		if err != nil {
			return err
		}
		resp, err := s.client.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// await asks every few milliseconds until the process answers, or has ended.
func (s *Server) await(p *process, ready func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-p.done:
			s.t.Fatalf("acmetest: %s ended: %v\n%s", p.name, p.err, p.out.String())
		case <-ctx.Done():
			s.t.Fatalf("acmetest: %s is not ready: %v\n%s", p.name, err, p.out.String())
		case <-tick.C:
		}
	}
}

func dial(ctx context.Context, addrs ...string) error {
	for _, addr := range addrs {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}

// serverCertificate returns a root, and a certificate of it for this machine, all as PEM.
func serverCertificate(t testing.TB) (root string, cert, key []byte) {
	t.Helper()
	caKey, leafKey := newKey(t), newKey(t)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acmetest root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "acmetest"}, DNSNames: []string{"localhost", "acme.test"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(block("CERTIFICATE", caDER)), block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// String says where the server is.
func (s *Server) String() string { return fmt.Sprintf("pebble at %s, dns at %s", s.listen, s.DNSAddr) }
