package certs_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/internal/tenant"
)

// listen serves TLS with the manager's certificates on a free port.
func (w *world) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:           http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "hello") }),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: w.GetCertificate},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          nil,
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

func TestHandshake(t *testing.T) {
	w := newWorld(t, nil)
	addr := w.listen(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, ok := range map[string]bool{"team-a.localhost": true, "team-b.localhost": false} {
			conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: w.roots(t), ServerName: name, MinVersion: version, MaxVersion: version})
			if (err == nil) != ok {
				t.Errorf("%s with %s: got %v", name, tls.VersionName(version), err)
			}
			if err == nil {
				conn.Close()
			}
		}
	}
}

func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl here")
	}
	w := newWorld(t, nil)
	addr := w.listen(t)
	_, port, _ := net.SplitHostPort(addr)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, w.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), curl, "-sS", "--noproxy", "*", "--cacert", ca, "--resolve", "team-a.localhost:"+port+":127.0.0.1", "https://team-a.localhost:"+port+"/").CombinedOutput()
	if err != nil || string(out) != "hello" {
		t.Errorf("curl: %v: %s", err, out)
	}
}

func BenchmarkCached(b *testing.B) {
	w := newWorld(b, func(c *certs.Config) {
		c.Lookup = func(h string) (*tenant.Entry, bool) { return nil, h == "team-a.localhost" }
		c.Now = time.Now
	})
	h := hello("team-a.localhost")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.GetCertificate(h); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	w := newWorld(b, func(c *certs.Config) { c.Resident, c.Lookup = 1, anyHost })
	hosts := []*tls.ClientHelloInfo{hello("a.example.com"), hello("b.example.com")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := w.GetCertificate(hosts[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

// TestCachedLookupAllocatesNothing: it is on the path of every handshake.
func TestCachedLookupAllocatesNothing(t *testing.T) {
	w := newWorld(t, func(c *certs.Config) { c.Lookup = anyHost })
	h := hello("team-a.localhost")
	if n := testing.AllocsPerRun(100, func() { _, _ = w.GetCertificate(h) }); n > 0 {
		t.Errorf("a cached lookup makes %v allocations, want 0", n)
	}
}
