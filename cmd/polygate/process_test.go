package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// programs are what the process tests run, built once, at the first use.
type programs struct {
	once sync.Once
	dir  string
	err  error
}

// builtPrograms is shared by all tests of the package; TestMain removes its folder.
var builtPrograms programs

// build builds polygate and the demo's MCP server as a user would.
func (p *programs) build() {
	if p.dir, p.err = os.MkdirTemp("", "polygate-test-"); p.err != nil {
		return
	}
	for out, pkg := range map[string]string{
		"polygate":          ".",
		"mcpserver":         "../../deploy/demo/mcpserver",
		"everything-server": "github.com/modelcontextprotocol/go-sdk/conformance/everything-server",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(p.dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("build %s: %w\n%s", pkg, err, b)
			return
		}
	}
}

func (p *programs) remove() {
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

func bin(t *testing.T, name string) string {
	t.Helper()
	if raceEnabled && testing.Short() {
		t.Skip("the programs are not built with the race detector: this test runs without it")
	}
	builtPrograms.once.Do(builtPrograms.build)
	if builtPrograms.err != nil {
		t.Fatal(builtPrograms.err)
	}
	return filepath.Join(builtPrograms.dir, name)
}

// gateway is a `polygate serve` process with a folder and ports of its own.
type gateway struct {
	t       *testing.T
	dir     string
	public  string // host:port on loopback
	plain   string
	admin   string
	metrics string
	cmd     *exec.Cmd
	log     *output
	done    chan error
	env     map[string]string // .polygate/demo/env, once ready
	flags   []string          // more of serve's
}

// output keeps what a process prints, while it prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// newGateway lays out a folder with polygate.yaml and tenants.yaml and starts nothing.
func newGateway(t *testing.T, tenantsYAML string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), public: freePort(t), plain: freePort(t), admin: freePort(t), metrics: freePort(t)}
	g.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: %[2]q, plain: %[3]q, admin: %[4]q, telemetry: %[5]q}
tenants_file: tenants.yaml
egress: {allow: [127.0.0.0/8]}
demo: {env_file: %[1]s/demo/env, tenants: [team-a, team-b]}
`, g.dir, g.public, g.plain, g.admin, g.metrics))
	g.write("tenants.yaml", tenantsYAML)
	t.Cleanup(func() { endSandboxes(g.dir) })
	return g
}

// freeze stops a process, and returns when all of its threads stand still: on a busy machine they go on for a while.
func freeze(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "the process to stop", func() error {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		for _, file := range threads {
			b, err := os.ReadFile(file)
			if _, state, ok := strings.Cut(string(b), ") "); err == nil && ok && state[0] != 'T' {
				return fmt.Errorf("a thread is in state %c", state[0])
			}
		}
		return nil
	})
}

// endSandboxes ends what the process driver runs under a folder, which outlives its gateway.
func endSandboxes(dir string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(line), "sandbox-init\x00shim\x00"+dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // what it started dies with it
		}
	}
}

const twoTenants = `
tenants:
  - {id: team-a, display_name: Team A}
  - {id: team-b, display_name: Team B}
`

// givenPorts are the addresses that freePort gave: the system gives one again that nobody listens on yet.
var givenPorts sync.Map

func freePort(t *testing.T) string {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		_ = ln.Close()
		if _, again := givenPorts.LoadOrStore(addr, true); !again {
			return addr
		}
	}
}

func (g *gateway) write(name, content string) {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// start runs the process and returns when it is ready.
func (g *gateway) start() {
	g.t.Helper()
	g.launch()
	g.waitReady(30 * time.Second)
	g.env = readEnv(g.t, filepath.Join(g.dir, "demo", "env"))
}

func (g *gateway) launch() {
	g.t.Helper()
	g.log = &output{}
	g.cmd = exec.Command(bin(g.t, "polygate"), append([]string{"serve", "--config", filepath.Join(g.dir, "polygate.yaml")}, g.flags...)...)
	g.cmd.Dir = g.dir
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(g.cmd, g.done)
	g.t.Cleanup(func() { g.kill() })
}

func (g *gateway) waitReady(limit time.Duration) {
	g.t.Helper()
	deadline := time.After(limit)
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if resp, err := http.Get("http://" + g.metrics + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				tick.Stop()
				return
			}
		}
		select {
		case err := <-g.done:
			g.done <- err
			g.t.Fatalf("polygate ended before it was ready: %v\n%s", err, g.log)
		case <-deadline:
			g.t.Fatalf("polygate is not ready after %s\n%s", limit, g.log)
		case <-tick.C:
		}
	}
}

// kill ends the process as a power cut would.
func (g *gateway) kill() {
	if g.cmd == nil {
		return
	}
	_ = g.cmd.Process.Kill()
	<-g.done
	g.cmd = nil
}

// stop ends the process with a signal and returns its exit code.
func (g *gateway) stop(sig syscall.Signal) int {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
	err := g.wait(30 * time.Second)
	g.cmd = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func (g *gateway) wait(limit time.Duration) error {
	g.t.Helper()
	select {
	case err := <-g.done:
		return err
	case <-time.After(limit):
		buf := make([]byte, 1<<20)
		g.t.Fatalf("polygate has not ended after %s\n%s\n%s", limit, g.log, buf[:runtime.Stack(buf, true)])
		return nil
	}
}

func readEnv(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	env := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			env[name] = value
		}
	}
	return env
}

// client trusts the gateway's CA and dials every host at loopback, as the system's resolver may not know *.localhost.
func (g *gateway) client() *http.Client {
	g.t.Helper()
	return &http.Client{Transport: g.transport(), Timeout: 60 * time.Second}
}

func (g *gateway) transport() *http.Transport {
	g.t.Helper()
	pem, err := os.ReadFile(g.env["POLYGATE_CA"])
	if err != nil {
		g.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		g.t.Fatal("no certificate in POLYGATE_CA")
	}
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
		ForceAttemptHTTP2: true,
	}
	g.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// answer is a response read whole.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
	Err    error
}

// do sends one request. A body that is no string is sent as JSON.
func do(c *http.Client, method, target string, body any, headers ...string) answer {
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		enc, err := json.Marshal(b)
		if err != nil {
			return answer{Err: err}
		}
		rd = bytes.NewReader(enc)
	}
	req, err := http.NewRequest(method, target, rd)
	if err != nil {
		return answer{Err: err}
	}
	if rd != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{Err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{Status: resp.StatusCode, Header: resp.Header, Body: b, Err: err}
}

func bearer(key string) []string { return []string{"Authorization", "Bearer " + key} }

// operator sends a request to the operators' listener.
func (g *gateway) operator(c *http.Client, method, path string, body any, headers ...string) answer {
	return do(c, method, g.env["ADMIN_URL"]+path, body, append(bearer(g.env["ADMIN_TOKEN"]), headers...)...)
}

// startMCP runs the demo's MCP server and returns its endpoint.
func startMCP(t *testing.T) string {
	t.Helper()
	addr := freePort(t)
	cmd := exec.Command(bin(t, "mcpserver"), "-server", bin(t, "everything-server"), "-listen", addr)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	endpoint := "http://" + addr + "/mcp"
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Post(endpoint, "application/json", strings.NewReader("{}"))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadGateway {
				return endpoint
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the MCP server does not answer: %v\n%s", err, out.String())
		}
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
