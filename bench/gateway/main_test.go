package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/peer"
)

// binaryVariable names the program that TestMain built.
const binaryVariable = "POLYBENCH_TEST_POLYGATE"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run builds the product once for all tests.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "polygate")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if os.Getenv(binaryVariable) == "" {
		path := filepath.Join(dir, "polygate")
		build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/polygate/polygate/cmd/polygate")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the product: %v\n%s", err, out)
			return 1
		}
		os.Setenv(binaryVariable, path)
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func testBinary() string { return os.Getenv(binaryVariable) }

// startUpstream runs the upstream for the length of a test.
func startUpstream(t *testing.T, certs string) backend.Ports {
	t.Helper()
	cfg := backend.Config{Seed: "seed"}
	if certs != "" {
		cfg.TLS = &backend.TLS{CertDir: certs}
	}
	s, err := backend.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the upstream: %v", err)
		}
	})
	return s.Ports()
}

// layTest lays a site out in front of an upstream.
func layTest(t *testing.T, tenants int) *peer.Site {
	t.Helper()
	dir := t.TempDir()
	ports := startUpstream(t, filepath.Join(dir, "certs"))
	s, err := peer.Lay(dir, "bench.test", tenants, ports.Plain, "seed")
	if err != nil {
		t.Fatal(err)
	}
	s.Auth = peer.KeyAuth
	return s
}

// startTest starts a subject for the length of a test.
func startTest(t *testing.T, p peer.Peer, s *peer.Site) peer.Running {
	t.Helper()
	r, err := p.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pids := r.PIDs()
		if err := r.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		for _, pid := range pids {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				t.Errorf("process %d is left behind", pid)
			}
		}
	})
	return r
}

// visitor makes requests of a tenant, with new connections.
type visitor struct {
	site *peer.Site
	addr string
	h2   bool
}

// do makes a GET request.
func (v visitor) do(ctx context.Context, tenant int, path, bearer string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+v.site.Tenants[tenant].Host+path, nil)
	if err != nil {
		return 0, "", err
	}
	return v.send(req, bearer)
}

// call calls the tool echo of the tenant's server "bench", without a session (MCP 2026-07-28).
func (v visitor) call(ctx context.Context, tenant int, bearer string) (status int, body string, err error) {
	const message = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"},"_meta":{
		"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},
		"io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"}}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+v.site.Tenants[tenant].Host+mcpPath, strings.NewReader(message))
	if err != nil {
		return 0, "", err
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "echo",
	} {
		req.Header.Set(name, value)
	}
	return v.send(req, bearer)
}

func (v visitor) send(req *http.Request, bearer string) (status int, body string, err error) {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: v.site.CA},
		DisableKeepAlives: true, ForceAttemptHTTP2: v.h2,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, v.addr)
		},
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// serves checks that a tenant's host answers with its own canary and nobody else's.
func serves(t *testing.T, r peer.Running, s *peer.Site, tenant int, bearer string) {
	t.Helper()
	status, body, err := visitor{site: s, addr: r.Addr(tenant)}.do(t.Context(), tenant, "/", bearer)
	if err != nil || status != http.StatusOK {
		t.Fatalf("tenant %d: status %d, %v: %.200s", tenant, status, err, body)
	}
	if !strings.Contains(body, s.Tenants[tenant].Canary) || strings.Count(body, "canary=") != 1 {
		t.Errorf("tenant %d: the answer is not its own: %.200s", tenant, body)
	}
}
