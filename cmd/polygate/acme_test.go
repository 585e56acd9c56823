package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/polygate/polygate/certs/acme/acmetest"
	"github.com/polygate/polygate/internal/tenant"
)

// acmeGateway is a gateway whose certificates come from a real ACME server.
type acmeGateway struct {
	*gateway
	acme  *acmetest.Server
	roots []*x509.CertPool // under which the ACME server issues; it makes new ones with each start
}

// newACMEGateway lays out a gateway and starts an ACME server that looks for challenges at its listeners. more is added to
// polygate.yaml.
func newACMEGateway(t *testing.T, o acmetest.Options, tenantsYAML, more string) *acmeGateway {
	t.Helper()
	if testing.Short() { // the gateway is a process of its own, without the race detector
		t.Skip("runs a real ACME server and gateways against it")
	}
	g := newGateway(t, tenantsYAML)
	o.TLSPort, o.HTTPPort = portOf(t, g.public), portOf(t, g.plain)
	a := &acmeGateway{gateway: g, acme: acmetest.Start(t, o)}
	a.roots = []*x509.CertPool{a.acme.Roots()}
	a.configure(more)
	return a
}

func (a *acmeGateway) configure(more string) {
	a.t.Helper()
	a.write("acme-root.pem", a.acme.RootPEM())
	if more == "" {
		more = a.acmeYAML("")
	}
	a.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: gw.test
shared_hosts: [gw.test]
listen: {public: %[2]q, plain: %[3]q, admin: %[4]q, telemetry: %[5]q, peer: %[7]q}
tenants_file: tenants.yaml
egress: {allow: [127.0.0.0/8]}
demo: {env_file: %[1]s/demo/env, tenants: [team-a]}
%[6]s
`, a.dir, a.public, a.plain, a.admin, a.metrics, more, freePort(a.t)))
}

// acmeYAML is the part of polygate.yaml about certificates; more is added to its acme.
func (a *acmeGateway) acmeYAML(more string) string {
	return fmt.Sprintf(`certificates:
  source: acme
  resolvers: [%q]
  acme: {directory: %q, ca_file: %s/acme-root.pem, email: ops@example.com, orders_per_minute: 6000, orders_per_tenant_per_hour: 1000%s}
`, a.acme.Resolver(), a.acme.Directory(), a.dir, more)
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// handshake makes one TLS connection to host and returns its leaf. Nobody's word is taken for it but the ACME server's.
func (a *acmeGateway) handshake(host string) (*x509.Certificate, error) {
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, // verified below, under several pools
		VerifyConnection:   func(cs tls.ConnectionState) error { return a.verify(cs.PeerCertificates, host) },
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", a.public)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func (a *acmeGateway) verify(chain []*x509.Certificate, host string) (err error) {
	o := x509.VerifyOptions{DNSName: host, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	for _, o.Roots = range a.roots {
		if _, err = chain[0].Verify(o); err == nil {
			return nil
		}
	}
	return err
}

// await calls try until it succeeds.
func await(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// awaitCertificates waits until every host has a certificate of the ACME server.
func (a *acmeGateway) awaitCertificates(limit time.Duration, hosts ...string) {
	a.t.Helper()
	for _, h := range hosts {
		await(a.t, limit, "a certificate of "+h+"\n"+tail(a.log.String()), func() error { _, err := a.handshake(h); return err })
	}
}

// tail returns the end of a log.
func tail(s string) string { return s[max(0, len(s)-4000):] }

// certificate asks the operators' API for a tenant's certificate.
func (a *acmeGateway) certificate(id, host string) tenant.Certificate {
	a.t.Helper()
	got := a.operator(a.client(), "GET", "/api/v1/tenants/"+id+"/certificates/"+host, nil)
	var c tenant.Certificate
	if err := json.Unmarshal(got.Body, &c); err != nil || got.Status != 200 {
		a.t.Fatalf("certificate of %s: %d %s %v", host, got.Status, got.Body, got.Err)
	}
	return c
}

// tenantsFile declares tenants team-a and t0 to t<n-1>; each line gets more.
func tenantsFile(n int, more string) string {
	var b strings.Builder
	b.WriteString("tenants:\n  - {id: team-a, certificates: {source: local}}\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {id: t%d%s}\n", i, more)
	}
	return b.String()
}

func hostsOf(n int) []string {
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("t%d.gw.test", i))
	}
	return hosts
}

// TestACMECertificates: twenty tenants get certificates from a real ACME server, which refuses some nonces, by tls-alpn-01,
// while another tenant's traffic flows. All are renewed by force while their hosts are called, without one failed handshake.
func TestACMECertificates(t *testing.T) {
	const tenants = 20
	a := newACMEGateway(t, acmetest.Options{NonceReject: 15}, tenantsFile(tenants, ""), "")
	a.start()
	traffic := a.traffic("team-a.gw.test")
	hosts := hostsOf(tenants)
	began := time.Now()
	a.awaitCertificates(60*time.Second, hosts...)
	t.Logf("%d certificates after %s", tenants, time.Since(began).Round(time.Millisecond))
	first := make(map[string]string)
	for _, h := range hosts {
		leaf, err := a.handshake(h)
		if err != nil {
			t.Fatal(err)
		}
		first[h] = leaf.SerialNumber.String()
		if n := a.acme.Orders(h); n != 1 {
			t.Errorf("%s was ordered %d times, want 1", h, n)
		}
	}
	failed, stop := a.callAll(hosts)
	c := a.client()
	began = time.Now()
	for i, h := range hosts {
		if got := a.operator(c, "POST", fmt.Sprintf("/api/v1/tenants/t%d/certificates/%s/renew", i, h), nil); got.Status != 202 {
			t.Fatalf("renew %s: %d %s", h, got.Status, got.Body)
		}
	}
	for _, h := range hosts {
		await(t, 60*time.Second, "a new certificate of "+h, func() error {
			leaf, err := a.handshake(h)
			if err == nil && leaf.SerialNumber.String() == first[h] {
				err = fmt.Errorf("it still has the old one: %+v", a.certificate(h[:strings.IndexByte(h, '.')], h))
			}
			return err
		})
	}
	handshakes := stop()
	if n := failed.Load(); n != 0 || handshakes < 100 {
		t.Errorf("%d of %d handshakes failed during the renewal", n, handshakes)
	}
	if n, bad := traffic(); bad != 0 || n < 20 {
		t.Errorf("another tenant's traffic: %d of %d requests failed", bad, n)
	}
	t.Logf("%d handshakes during the renewal of %d certificates in %s, %d failed", handshakes, tenants, time.Since(began).Round(time.Millisecond), failed.Load())
	a.certificateRecords(t, tenants)
}

// certificateRecords: each certificate that was issued has its record in its tenant's chain, and the metrics count them.
func (a *acmeGateway) certificateRecords(t *testing.T, tenants int) {
	t.Helper()
	await(t, 10*time.Second, "records of issued certificates", func() error {
		got := a.operator(a.client(), "GET", "/api/v1/audit?action=certificate.issue&limit=200", nil)
		if n := bytes.Count(got.Body, []byte(`"certificate.issue"`)); got.Status != 200 {
			return fmt.Errorf("%d %s (%d)", got.Status, got.Body, n)
		}
		return nil
	})
	resp, err := http.Get("http://" + a.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`polygate_certificate_orders_total{result="ok",source="acme"} %d`, 2*tenants+1) // the shared host's, too
	if !strings.Contains(b.String(), want) || !strings.Contains(b.String(), `polygate_tenant_certificate_expiry_timestamp_seconds{tenant="t1"}`) {
		t.Errorf("the metrics lack %q or an expiry:\n%s", want, grep(b.String(), "certificate"))
	}
}

// grep returns the lines of s that hold part.
func grep(s, part string) string {
	var out []string
	for line := range strings.Lines(s) {
		if strings.Contains(line, part) && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// traffic calls a host of a tenant with a certificate of the local authority until the returned function is called.
func (a *acmeGateway) traffic(host string) (end func() (n, bad int)) {
	a.t.Helper()
	c := a.client()
	ctx, cancel := context.WithCancel(context.Background())
	var n, bad int
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			if got := do(c, "GET", "https://"+net.JoinHostPort(host, portText(a.public))+"/healthz", nil); got.Status != 200 {
				bad++
			}
			n++
			time.Sleep(5 * time.Millisecond)
		}
	})
	a.t.Cleanup(func() { cancel(); done.Wait() })
	return func() (int, int) { cancel(); done.Wait(); return n, bad }
}

func portText(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// callAll makes handshakes to the hosts in turn until stop is called, which returns how many there were.
func (a *acmeGateway) callAll(hosts []string) (failed *atomic.Int64, stop func() int64) {
	failed = new(atomic.Int64)
	var n atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	for w := range 2 {
		done.Go(func() {
			for i := w; ctx.Err() == nil; i++ {
				if _, err := a.handshake(hosts[i%len(hosts)]); err != nil {
					failed.Add(1)
					a.t.Logf("%s: %v", hosts[i%len(hosts)], err)
				}
				n.Add(1)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	a.t.Cleanup(func() { cancel(); done.Wait() })
	return failed, func() int64 { cancel(); done.Wait(); return n.Load() }
}

// TestKillDuringOrder kills the gateway in the middle of orders: after a restart each host has its certificate, ordered once.
func TestKillDuringOrder(t *testing.T) {
	const tenants = 6
	a := newACMEGateway(t, acmetest.Options{Sleep: 3 * time.Second}, tenantsFile(tenants, ""), "")
	a.start()
	hosts := hostsOf(tenants)
	await(t, 20*time.Second, "orders in progress", func() error {
		if !strings.Contains(a.acme.Log(), "new-order") && !strings.Contains(a.acme.Log(), "order-plz") {
			return fmt.Errorf("no order was seen")
		}
		return nil
	})
	a.kill()
	for _, h := range hosts {
		if n := a.acme.Orders(h); n > 0 {
			t.Logf("%s had been issued before the kill", h)
		}
	}
	a.start()
	a.awaitCertificates(60*time.Second, hosts...)
	for _, h := range hosts {
		if n := a.acme.Orders(h); n != 1 {
			t.Errorf("%s: %d certificates were issued, want 1", h, n)
		}
	}
}

// TestKillAfterIssuing kills the gateway when the ACME server has issued and the gateway has not fetched or stored it yet: after
// a restart the order is finished, and none is issued twice.
func TestKillAfterIssuing(t *testing.T) {
	const tenants = 8
	a := newACMEGateway(t, acmetest.Options{}, tenantsFile(tenants, ""), "")
	a.start()
	for deadline := time.Now().Add(30 * time.Second); len(a.acme.Issued()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is issued")
		}
	}
	a.kill()
	before := len(a.acme.Issued())
	a.start()
	a.awaitCertificates(60*time.Second, hostsOf(tenants)...)
	resumed := 0
	for name, n := range a.acme.Issued() {
		if n != 1 {
			t.Errorf("%s: %d certificates were issued, want 1", name, n)
		}
		resumed++
	}
	t.Logf("%d of %d had been issued when the gateway was killed", before, resumed)
}

// TestX09IssuerTrouble: an ACME server that refuses half of all nonces, and then is away, costs no handshake anything: the old
// certificate is served, a new one comes within a minute once the server answers, and the tenant's status says what is wrong.
func TestX09IssuerTrouble(t *testing.T) {
	a := newACMEGateway(t, acmetest.Options{NonceReject: 50}, tenantsFile(1, ""), "")
	began := time.Now()
	a.start()
	const host = "t0.gw.test"
	a.awaitCertificates(60*time.Second, host)
	t.Logf("the first certificate with half of the nonces refused: %s", time.Since(began).Round(time.Millisecond))
	old, err := a.handshake(host)
	if err != nil {
		t.Fatal(err)
	}
	a.acme.Down()
	c := a.client()
	if got := a.operator(c, "POST", "/api/v1/tenants/t0/certificates/"+host+"/renew", nil); got.Status != 202 {
		t.Fatalf("renew: %d %s", got.Status, got.Body)
	}
	await(t, 30*time.Second, "a status that says what is wrong", func() error {
		if s := a.certificate("t0", host); s.Code != "directory_unreachable" || s.Error == "" || s.NextAttempt.IsZero() || s.Attempts == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	for range 50 {
		began := time.Now()
		leaf, err := a.handshake(host)
		if err != nil || !leaf.Equal(old) || time.Since(began) > time.Second {
			t.Fatalf("while the server is away: %v after %s", err, time.Since(began))
		}
	}
	a.acme.Up()
	a.roots = append(a.roots, a.acme.Roots())
	await(t, 60*time.Second, "a new certificate", func() error {
		leaf, err := a.handshake(host)
		if err == nil && leaf.Equal(old) {
			err = fmt.Errorf("still the old one: %+v", a.certificate("t0", host))
		}
		return err
	})
}

// TestWildcard: one certificate for the base domain, proven by DNS, spares one per tenant; a custom host gets its own.
func TestWildcard(t *testing.T) {
	a := newACMEGateway(t, acmetest.Options{}, tenantsFile(5, "")+"  - {id: custom, hosts: [mcp.example.org]}\n", "x: 1")
	a.configure(a.acmeYAML(fmt.Sprintf(", wildcard: true, dns: {provider: webhook, webhook: {url: %q}}", a.acme.WebhookURL)))
	a.start()
	a.awaitCertificates(60*time.Second, append(hostsOf(5), "custom.gw.test", "mcp.example.org")...)
	if n := a.acme.Orders("*.gw.test"); n != 1 {
		t.Errorf("the wildcard was ordered %d times", n)
	}
	for _, h := range append(hostsOf(5), "custom.gw.test") {
		if n := a.acme.Orders(h); n != 0 {
			t.Errorf("%s was ordered %d times beside the wildcard", h, n)
		}
	}
	if n := a.acme.Orders("mcp.example.org"); n != 1 {
		t.Errorf("the custom host was ordered %d times", n)
	}
	if _, err := a.handshake("nobody.gw.test"); err == nil {
		t.Error("the wildcard is served for a name of nobody's")
	}
}

// TestHostProof: a tenant's admin asks for a custom host. It is served to nobody until the DNS has the tenant's own token; then
// it gets a certificate; when it is given back, the very next handshake is refused.
func TestHostProof(t *testing.T) {
	a := newACMEGateway(t, acmetest.Options{}, tenantsFile(2, ""), "")
	a.start()
	const host = "mcp.example.org"
	keys := map[string]string{"t0": a.key("t0"), "t1": a.key("t1")}
	a.awaitCertificates(60*time.Second, "gw.test")
	c := a.acmeClient()
	tenantAPI := func(id, method, path string, body any) answer {
		return do(c, method, "https://"+net.JoinHostPort("gw.test", portText(a.public))+"/tenant/"+id+"/api/v1"+path, body, bearer(keys[id])...)
	}
	ask := func(id string) (token string) {
		t.Helper()
		got := tenantAPI(id, "POST", "/hosts", map[string]string{"host": host})
		var h struct {
			State string
			Name  string `json:"txt_name"`
			Value string `json:"txt_value"`
		}
		if err := json.Unmarshal(got.Body, &h); err != nil || got.Status != 201 || h.State != "pending" || h.Name != "_polygate-challenge."+host {
			t.Fatalf("ask for a host: %d %s %v", got.Status, got.Body, got.Err)
		}
		return h.Value
	}
	first, second := ask("t0"), ask("t1")
	if first == second {
		t.Fatal("two tenants have the same token")
	}
	if got := tenantAPI("t0", "POST", "/hosts/"+host+"/verify", nil); got.Status != 409 {
		t.Errorf("verify without a record: %d %s", got.Status, got.Body)
	}
	if _, err := a.handshake(host); err == nil {
		t.Error("a host that nobody proved to own is served")
	}
	a.acme.SetTXT("_polygate-challenge."+host, second)
	time.Sleep(5 * time.Second) // one look in five seconds
	if got := tenantAPI("t0", "POST", "/hosts/"+host+"/verify", nil); got.Status != 409 {
		t.Errorf("verify with another tenant's token: %d %s", got.Status, got.Body)
	}
	if got := tenantAPI("t1", "POST", "/hosts/"+host+"/verify", nil); got.Status != 200 {
		t.Fatalf("verify: %d %s", got.Status, got.Body)
	}
	a.awaitCertificates(30*time.Second, host)
	if got := tenantAPI("t1", "DELETE", "/hosts/"+host, nil); got.Status != 204 {
		t.Fatalf("give the host back: %d %s", got.Status, got.Body)
	}
	if _, err := a.handshake(host); err == nil {
		t.Error("a host is served that its tenant gave back")
	}
	if n := a.acme.Orders(host); n != 1 {
		t.Errorf("the host was ordered %d times", n)
	}
}

// acmeClient trusts the ACME server alone.
func (a *acmeGateway) acmeClient() *http.Client {
	tr := a.transport()
	tr.TLSClientConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // verified below
		VerifyConnection:   func(cs tls.ConnectionState) error { return a.verify(cs.PeerCertificates, cs.ServerName) },
	}
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// key makes an admin's API key for a tenant.
func (a *acmeGateway) key(id string) string {
	a.t.Helper()
	got := a.operator(a.client(), "POST", "/api/v1/tenants/"+id+"/keys", map[string]string{"name": "admin-" + id, "role": "admin"})
	var k struct{ Key string }
	if err := json.Unmarshal(got.Body, &k); err != nil || k.Key == "" {
		a.t.Fatalf("make a key: %d %s", got.Status, got.Body)
	}
	return k.Key
}

// startEtcd runs an etcd of its own and returns the part of polygate.yaml that names it, and the key-encryption key of all
// replicas on it.
func startEtcd(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.Logger = t.TempDir(), "error", "zap"
	client, peer := *mustURL(t, "http://"+freePort(t)), *mustURL(t, "http://"+freePort(t))
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd is not ready")
	}
	kek := filepath.Join(t.TempDir(), "kek")
	if err := os.WriteFile(kek, []byte("polygate-kek-v1:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("etcd: {endpoints: [%q]}\nkek_file: %s\n", client.String(), kek)
}

// replica lays out another gateway on the same etcd, with the same ports on another address of
// loopback: the ACME server looks for challenges at one port.
func (a *acmeGateway) replica(name, etcd string) *acmeGateway {
	a.t.Helper()
	g := newGateway(a.t, "tenants: []\n")
	g.public, g.plain = "127.0.0.2:"+portText(a.public), "127.0.0.2:"+portText(a.plain)
	b := &acmeGateway{gateway: g, acme: a.acme, roots: a.roots}
	tenants, err := os.ReadFile(filepath.Join(a.dir, "tenants.yaml"))
	if err != nil {
		a.t.Fatal(err)
	}
	b.write("tenants.yaml", string(tenants))
	b.configure(b.acmeYAML("") + etcd + fmt.Sprintf("replica: {name: %s, ttl: 2s}\n", name))
	return b
}

// TestTwoReplicasOrderOnce: two gateways on one etcd order a hundred names, each once, and both serve all of them; challenges
// of one are answered by the other.
func TestTwoReplicasOrderOnce(t *testing.T) {
	const names = 100
	etcd := startEtcd(t)
	a := newACMEGateway(t, acmetest.Options{}, tenantsFile(names, ""), "x: 1")
	a.configure(a.acmeYAML("") + etcd + "replica: {name: one, ttl: 2s}\n")
	hosts := hostsOf(names)
	for i, h := range hosts {
		if i%2 == 1 {
			a.acme.SetA(h, "127.0.0.2") // the other replica's address, whichever orders
		}
	}
	a.start()
	b := a.replica("two", etcd)
	b.start()
	a.awaitCertificates(120*time.Second, hosts...)
	b.awaitCertificates(30*time.Second, hosts...)
	for _, h := range hosts {
		if n := a.acme.Orders(h); n != 1 {
			t.Errorf("%s: %d certificates were issued, want 1", h, n)
		}
		one, err1 := a.handshake(h)
		two, err2 := b.handshake(h)
		if err1 != nil || err2 != nil || !one.Equal(two) {
			t.Errorf("%s: the replicas serve different certificates: %v, %v", h, err1, err2)
		}
	}
	if done := strings.Count(a.log.String(), "certificate issued"); done == 0 || done == names {
		t.Logf("one replica ordered all (%d of %d)", done, names)
	}
}

// TestFrozenOrder stops a replica in the middle of an order for longer than its lease: another replica orders, and when the
// first wakes it can write nothing; the certificate that is served is the one of the replica that had the lock.
func TestFrozenOrder(t *testing.T) {
	t.Parallel() // it waits
	etcd := startEtcd(t)
	a := newACMEGateway(t, acmetest.Options{Sleep: 8 * time.Second}, tenantsFile(1, ""), "x: 1")
	a.configure(a.acmeYAML("") + etcd + "replica: {name: one, ttl: 2s}\n")
	a.start()
	await(t, 20*time.Second, "an order in progress", func() error {
		if !strings.Contains(a.acme.Log(), "t0.gw.test") {
			return fmt.Errorf("no order was seen")
		}
		return nil
	})
	freeze(t, a.cmd.Process)
	b := a.replica("two", etcd)
	a.acme.SetA("t0.gw.test", "127.0.0.2")
	b.start()
	b.awaitCertificates(60*time.Second, "t0.gw.test")
	served, err := b.handshake("t0.gw.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	a.awaitCertificates(30*time.Second, "t0.gw.test")
	time.Sleep(3 * time.Second) // what the first had begun ends meanwhile
	for _, g := range []*acmeGateway{a, b} {
		leaf, err := g.handshake("t0.gw.test")
		if err != nil || !leaf.Equal(served) {
			t.Errorf("after the first replica woke: %v, the same certificate: %v", err, leaf != nil && leaf.Equal(served))
		}
	}
}
