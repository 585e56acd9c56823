package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
)

// rig is a site in front of a real upstream.
type rig struct {
	*testing.T
	site  *Site
	ports backend.Ports
}

func newRig(t *testing.T, tenants int, auth Auth) *rig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a folder of $HOME's") // characters that mean something in a configuration
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	server, err := backend.New(backend.Config{Seed: "seed", TLS: &backend.TLS{CertDir: filepath.Join(dir, "certs")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("upstream: %v", err)
		}
	})
	r := &rig{T: t, ports: server.Ports()}
	if r.site, err = Lay(dir, "bench.test", tenants, r.ports.Plain, "seed"); err != nil {
		t.Fatal(err)
	}
	r.site.Auth = auth
	return r
}

// start starts a subject and stops it at the test's end. It skips what is not on this machine or has no means.
func (r *rig) start(p Peer) Running {
	r.Helper()
	run, err := p.Start(r.Context(), r.site)
	if errors.Is(err, ErrMissing) || errors.Is(err, ErrCannot) {
		r.Skip(err)
	}
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := run.Stop(); err != nil {
			r.Error(err)
		}
		for _, pid := range run.PIDs() {
			if pid != os.Getpid() && !ends(pid) {
				r.Errorf("processes of the group %d are left", pid)
			}
		}
	})
	return run
}

// ends waits until no process of the group lives: one that was killed is there until whoever inherited it has heard of its end.
func ends(group int) bool {
	for deadline := time.Now().Add(5 * time.Second); lives(group); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// client calls a subject as one tenant's caller: its server name is that tenant's host, whatever the request names.
func (r *rig) client(run Running, tenant int, http2 bool) *http.Client {
	r.Helper()
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	t := &http.Transport{
		Protocols: &p, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: r.site.CA, ServerName: r.site.Tenants[tenant].Host},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", run.Addr(tenant))
		},
	}
	r.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// request is one for a tenant, with a header such as "Authorization: x"; "" = none.
func (r *rig) request(method string, tenant int, path, header string, body []byte) *http.Request {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, "https://"+r.site.Tenants[tenant].Host+path, bytes.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	if name, value, ok := strings.Cut(header, ": "); ok {
		req.Header.Set(name, value)
	}
	return req
}

type answer struct {
	status int
	body   string
	proto  int
	tls    uint16
}

func (r *rig) do(c *http.Client, req *http.Request) answer {
	r.Helper()
	resp, err := c.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return answer{resp.StatusCode, string(b), resp.ProtoMajor, resp.TLS.Version}
}

// right says what is wrong with an answer to a tenant; "" = nothing.
func (r *rig) right(a answer, tenant int) string {
	switch {
	case a.status != http.StatusOK:
		return fmt.Sprintf("status %d: %.80s", a.status, a.body)
	case !strings.Contains(a.body, r.site.Tenants[tenant].Canary), strings.Count(a.body, backend.Marker) != 1:
		return fmt.Sprintf("wrong answer: %.80s", a.body)
	}
	return ""
}

// cacheDir is where polybench has a user's Caddy.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "polybench"), err
}

func all(cache string, o ...Option) []Peer {
	return []Peer{Nginx(o...), HAProxy(o...), Caddy(cache, o...), CaddyEach(cache, o...), ReverseProxy(nil, o...)}
}

// subjects are all of them, with the user's own Caddy.
func subjects(t *testing.T, o ...Option) []Peer {
	t.Helper()
	cache, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return all(cache, o...)
}

// each runs a test for every subject.
func each(t *testing.T, test func(t *testing.T, p Peer)) {
	for _, p := range subjects(t) {
		t.Run(p.Name(), func(t *testing.T) {
			if version, err := p.Version(t.Context()); errors.Is(err, ErrMissing) {
				t.Skip(err)
			} else if err != nil || version == "" {
				t.Fatalf("version = %q, %v", version, err)
			}
			test(t, p)
		})
	}
}
