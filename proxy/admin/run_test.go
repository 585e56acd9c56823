package admin_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/polygate/polygate/proxy/admin"
)

// TestRun serves over TLS on a bound listener, by HTTP/1.1 and HTTP/2, and ends with its context.
func TestRun(t *testing.T) {
	f := newFixture(t)
	borrowed := httptest.NewTLSServer(nil) // for its certificate, which is for 127.0.0.1
	borrowed.Close()
	cfg := f.config()
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &borrowed.TLS.Certificates[0], nil }
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = ln
	f.rebuild(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.server.Run(ctx) }()

	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: h2}
		req, _ := http.NewRequest("GET", "https://"+ln.Addr().String()+"/api/v1/tenants", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if want := map[bool]int{false: 1, true: 2}[h2]; resp.StatusCode != 200 || resp.ProtoMajor != want {
			t.Errorf("%s by HTTP/%d, want 200 by HTTP/%d", resp.Status, resp.ProtoMajor, want)
		}
		tr.CloseIdleConnections()
	}

	cfg.Listener, cfg.Listen = nil, ln.Addr().String()
	second, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second listener on the port: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestNewRefuses(t *testing.T) {
	f := newFixture(t)
	for name, spoil := range map[string]func(*admin.Config){
		"address":     func(c *admin.Config) { c.Listen = "" },
		"certificate": func(c *admin.Config) { c.GetCertificate = nil },
		"token":       func(c *admin.Config) { c.Token = nil },
		"host":        func(c *admin.Config) { c.Hosts = nil },
		"part":        func(c *admin.Config) { c.Heads = nil },
	} {
		cfg := f.config()
		spoil(&cfg)
		if _, err := admin.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
