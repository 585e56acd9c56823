package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/certs/acme/acmetest"
	"github.com/polygate/polygate/internal/tenant"
)

// TestX09RealServer has tenants of two replicas get certificates from a real ACME server that refuses every other nonce, by
// challenges that one replica answers whoever ordered; renews while handshakes go on; and goes on serving while the server
// is down.
func TestX09RealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an ACME server")
	}
	ca := acmetest.Start(t, acmetest.Options{NonceReject: 50})
	s := newSite(t)
	real := func(c *certs.Config) {
		engine, err := acme.New(acme.Config{TLSALPN01: true, Resolvers: []string{ca.Resolver()}, RequestTime: 10 * time.Second, OrderTime: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		c.ACME = engine
		c.Default.ACME = &tenant.ACME{Directory: ca.Directory(), CA: ca.RootPEM()}
	}
	a, b := s.newReplica(real), s.newReplica(real)
	handshakes(t, b, ca.TLSPort)
	roots := ca.Roots()
	const n = 5
	begin := time.Now()
	entries := make([]*tenant.Entry, n)
	hosts := make([]string, n)
	for i := range n {
		entries[i] = a.tenant(tenant.ID(fmt.Sprintf("t%d", i)), nil)
		hosts[i] = fmt.Sprintf("t%d.%s", i, base)
	}
	first := make([]string, n)
	for i, host := range hosts {
		first[i] = b.served(host, "")
		dial(t, ca, roots, host)
	}
	t.Logf("%d certificates within %s, with every other nonce refused", n, time.Since(begin))
	for _, host := range hosts {
		if got := ca.Orders(host); got != 1 {
			t.Errorf("%s was ordered %d times", host, got)
		}
	}
	if _, err := a.Renew(t.Context(), entries[0], hosts[0], entry(entries[0])); err != nil {
		t.Fatal(err)
	}
	until(t, "renewed without one refused handshake", func() bool {
		dial(t, ca, roots, hosts[0])
		return b.serial(hosts[0]) != first[0]
	})
	if _, err := a.Revoke(t.Context(), entries[1], hosts[1], 1, entry(entries[1])); err != nil {
		t.Errorf("Revoke: %v", err)
	}
	b.served(hosts[1], first[1])
	ca.Down()
	if _, err := a.Renew(t.Context(), entries[2], hosts[2], entry(entries[2])); err != nil {
		t.Fatal(err)
	}
	until(t, "the failure is told", func() bool {
		c, err := b.Get(t.Context(), entries[2], hosts[2])
		return err == nil && c.Code == acme.CodeDirectoryUnreachable && c.State == tenant.CertificateReady
	})
	dial(t, ca, roots, hosts[2])
}

// dial makes a handshake as a client that trusts the server's issuer.
func dial(t *testing.T, ca *acmetest.Server, roots *x509.CertPool, host string) {
	t.Helper()
	conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(ca.TLSPort)), &tls.Config{ServerName: host, RootCAs: roots})
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	_ = conn.Close()
}

// handshakes serves TLS at a port with a replica's certificates.
func handshakes(t *testing.T, r *replica, port int) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{GetCertificate: r.GetCertificate, NextProtos: []string{"h2", "http/1.1", "acme-tls/1"}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_ = tls.Server(c, conf).Handshake()
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
}
