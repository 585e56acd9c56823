package proxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// byHost is a Directory of many names that costs what a map costs.
type byHost struct {
	Directory
	hosts map[string]*tenant.Entry
}

func (d byHost) ByHost(host string) (*tenant.Entry, bool) {
	e, ok := d.hosts[host]
	return e, ok
}

// shelf is a Certificates that has them all: the benchmarks measure handshakes, not issuers.
type shelf map[string]*tls.Certificate

func (s shelf) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s[hello.ServerName], nil
}

// manyNames makes a server of n tenants with a certificate each.
func manyNames(b *testing.B, n int) (*Server, *issuer, shelf, []string) {
	b.Helper()
	ca := newIssuer(b)
	dir, certs := byHost{hosts: make(map[string]*tenant.Entry, n)}, make(shelf, n)
	names := make([]string, n)
	for i := range names {
		id := tenant.ID(fmt.Sprintf("team-%d", i))
		names[i] = tenant.OwnHost(id, base)
		r := virtual(id)
		dir.hosts[names[i]] = &tenant.Entry{Record: r, Scope: tenant.Confine(id, r.UID)}
		c, err := ca.issue(names[i])
		if err != nil {
			b.Fatal(err)
		}
		certs[names[i]] = c
	}
	f := newFront(b, func(c *Config) { c.Directory, c.Certificates = dir, certs })
	return f.Server, ca, certs, names
}

// plainTLS is what crypto/tls does by itself, for comparison.
func plainTLS(certs shelf) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: certs.GetCertificate}
}

// BenchmarkHandshake is a handshake of TLS 1.3, X25519 and ECDSA P-256, with the names in rotation: both sides of it, on
// sockets. server-µs/op is the time that the server's goroutine spent on the processor, client-µs/op what is left. The
// variant plain is crypto/tls with a map of certificates; tls.Server is the rest of both.
func BenchmarkHandshake(b *testing.B) {
	for _, n := range []int{1, 1000, 10000} {
		s, ca, certs, names := manyNames(b, n)
		for _, v := range []struct {
			name    string
			server  *tls.Config
			resumed bool
		}{
			{"full", s.handshakes.base, false}, {"full-plain", plainTLS(certs), false},
			{"resumed", s.handshakes.base, true}, {"resumed-plain", plainTLS(certs), true},
		} {
			b.Run(fmt.Sprintf("%s/names=%d", v.name, n), func(b *testing.B) {
				client := &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"h2"}}
				if v.resumed {
					client.ClientSessionCache = tls.NewLRUClientSessionCache(n)
					for _, name := range names {
						oneHandshake(b, v.server, client, name)
					}
				}
				var cpu time.Duration
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					cpu += oneHandshake(b, v.server, client, names[i%n])
					i++
				}
				b.ReportMetric(float64(cpu.Microseconds())/float64(i), "server-µs/op")
			})
		}
	}
}

// oneHandshake returns the server's share of the processor.
func oneHandshake(b *testing.B, server, client *tls.Config, name string) (cpu time.Duration) {
	a, c := socketPair(b)
	cfg := client.Clone()
	cfg.ServerName = name
	done := make(chan error, 1)
	go func() {
		t := tls.Client(c, cfg)
		_, err := t.Read(make([]byte, 1)) // and the tickets before it
		_ = t.Close()
		done <- err
	}()
	s := tls.Server(a, server)
	cpu = onProcessor(b, func() error {
		if err := s.Handshake(); err != nil {
			return err
		}
		_, err := s.Write([]byte{1})
		return err
	})
	if err := <-done; err != nil && err != io.EOF { //nolint:errorlint // as Read returns it
		b.Fatal(err)
	}
	_ = a.(*net.TCPConn).SetLinger(0) // ports are few
	_ = a.Close()
	return cpu
}

// onProcessor runs do on a thread of its own and returns the processor time that it took.
func onProcessor(b *testing.B, do func() error) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime(b)
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return threadTime(b) - before
}

func threadTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	const rusageThread = 1 // RUSAGE_THREAD of Linux
	if err := syscall.Getrusage(rusageThread, &u); err != nil {
		b.Skip("no processor time of threads here: ", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
