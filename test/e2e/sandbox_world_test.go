//go:build e2e

package e2e

import (
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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/test/kube/kubetest"
)

// world is a gateway that runs as a process on this machine, with the rights that deploy/kubernetes gives it, and the real cluster
// that its tenants' sandboxes run on.
type world struct {
	t       *testing.T
	kube    *kubetest.Cluster
	rights  *kubetest.Installation
	program string
	dir     string
	public  string // ports: the gateway listens on all addresses, so that pods could reach it if nothing kept them from it
	admin   string
	metrics string
	peer    string
	cmd     *exec.Cmd
	ended   chan struct{}
	env     map[string]string
	http    *http.Client
}

// worldOptions is what differs between the tests' gateways.
type worldOptions struct {
	kubeconfig string // in place of the ServiceAccount's own
	sandboxes  string // more lines of the section sandboxes, indented by two spaces
	top        string // more sections
}

// newWorld starts a gateway with the kube driver. Its tenants' namespaces begin with t-.
func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	w := layOut(t)
	if o.kubeconfig == "" {
		o.kubeconfig = w.rights.Kubeconfig
	}
	w.configure(o)
	w.start()
	return w
}

// layOut makes a world without a configuration.
func layOut(t *testing.T) *world {
	t.Helper()
	c := kubetest.Start(t)
	program, err := filepath.Abs(filepath.Join(root, "bin/polygate"))
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, kube: c, rights: c.Install(t, "t-", []string{"00", "10", "20"}, nil), program: program, dir: t.TempDir(),
		public: freePort(t), admin: freePort(t), metrics: freePort(t), peer: freePort(t),
	}
}

func (w *world) configure(o worldOptions) {
	w.t.Helper()
	w.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: ":%[2]s", plain: "", admin: ":%[3]s", telemetry: ":%[4]s", peer: ":%[5]s"}
demo: {env_file: %[1]s/env}
replica: {name: only, ttl: 3s}
quotas: {max_sandboxes: 200, sandbox_cpu: 100, sandbox_memory: 100GiB, sandbox_storage: 100GiB, requests_per_second: 0, burst: 0, max_concurrent_requests: 0}
authn: {kubernetes: {kubeconfig: %[6]s}}
sandboxes:
  driver: kube
  default_image: %[7]s
  images: [localhost/sandbox-tools]
  defaults: {cpu: 100m, memory: 32MiB, storage: 32MiB}
  kube:
    kubeconfig: %[6]s
    namespace_prefix: %[8]s
    instance: %[9]s
    service_account: %[10]s
    gateway: {namespace: %[9]s, pod_labels: {app.kubernetes.io/name: polygate}, addresses: [%[11]s/32]}
    dns: {addresses: [%[12]s/32]}
%[13]s
log: {level: debug}
%[14]s
`, w.dir, w.public, w.admin, w.metrics, w.peer, o.kubeconfig, kubetest.Image, w.rights.Prefix, w.rights.ID, kubetest.Account,
		kubetest.Host, kubetest.Node, o.sandboxes, o.top))
}

func (w *world) write(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// start runs the gateway and returns when it is ready.
func (w *world) start() {
	w.t.Helper()
	log, err := os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(w.program, "serve", "--config", filepath.Join(w.dir, "polygate.yaml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatalf("%v (run: make build)", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	w.cmd, w.ended = cmd, ended
	w.t.Cleanup(func() { w.end(cmd, ended, syscall.SIGKILL) })
	if w.env == nil {
		w.t.Cleanup(func() {
			if w.t.Failed() {
				w.t.Logf("the gateway's log:\n%s", w.tailLog(60))
			}
		})
	}
	w.eventually(30*time.Second, "ready gateway", func(ctx context.Context) (bool, error) {
		select {
		case <-ended:
			w.t.Fatalf("the gateway ended:\n%s", w.tailLog(40))
		default:
		}
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://127.0.0.1:"+w.metrics+"/readyz", nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, errors.New(resp.Status)
	})
	w.readEnv()
}

func (w *world) tailLog(n int) string {
	b, _ := os.ReadFile(filepath.Join(w.dir, "log"))
	var kept strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, `"msg":"request"`) {
			kept.WriteString(line)
		}
	}
	return tail(kept.String(), n)
}

func (w *world) readEnv() {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "env"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.env = make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			w.env[name] = value
		}
	}
	if w.http == nil {
		pem, err := os.ReadFile(w.env["POLYGATE_CA"])
		if err != nil {
			w.t.Fatal(err)
		}
		w.http = httpsClient(w.t, pem)
	}
}

// httpsClient trusts one authority, and dials every host at loopback.
func httpsClient(t *testing.T, pem []byte) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DialContext: onLoopback, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// kill ends the gateway by SIGKILL, and stop as an operator would.
func (w *world) kill() { w.end(w.cmd, w.ended, syscall.SIGKILL) }
func (w *world) stop() { w.end(w.cmd, w.ended, syscall.SIGTERM) }

func (w *world) end(cmd *exec.Cmd, ended <-chan struct{}, by syscall.Signal) {
	_ = cmd.Process.Signal(by)
	<-ended
}

func (w *world) eventually(limit time.Duration, what string, done func(ctx context.Context) (bool, error)) {
	w.t.Helper()
	kubetest.Eventually(w.t, limit, what, done)
}

// command runs the program with an environment, and returns its standard output, what it said on stderr, and its exit code.
func (w *world) command(env []string, stdin io.Reader, args ...string) (out, said string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program, args...)
	cmd.Env = append([]string{"HOME=" + w.dir, "POLYGATE_CA=" + w.env["POLYGATE_CA"]}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("polygate %s: %v", strings.Join(args, " "), err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// operator runs a command with the operators' token; it has to succeed.
func (w *world) operator(args ...string) string {
	w.t.Helper()
	out, said, code := w.command([]string{"POLYGATE_ADMIN_URL=https://localhost:" + w.admin, "POLYGATE_ADMIN_TOKEN=" + w.env["POLYGATE_ADMIN_TOKEN"]}, nil, args...)
	if code != 0 {
		w.t.Fatalf("polygate %s: exit %d: %s", strings.Join(args, " "), code, said)
	}
	return out
}

// tenants makes tenants. Each line after an id holds more of its settings, as YAML.
func (w *world) tenants(ids []string, more string) {
	w.t.Helper()
	var b strings.Builder
	b.WriteString("tenants:\n")
	for _, id := range ids {
		fmt.Fprintf(&b, "  - id: %s\n%s", id, more)
	}
	w.operator("tenant", "apply", "-f", w.write("apply.yaml", b.String()))
}

// member is who calls with a credential of a tenant.
type member struct {
	*world
	tenant string
	secret string
	token  bool // secret is a token, no API key
}

// member makes an API key.
func (w *world) member(tenant, name, role string) *member {
	w.t.Helper()
	out := w.operator("key", "create", tenant, "--name", name, "--role", role)
	lines := strings.Fields(strings.TrimSpace(out))
	return &member{world: w, tenant: tenant, secret: lines[len(lines)-1]}
}

// bearer is a caller with a token.
func (w *world) bearer(tenant, token string) *member {
	return &member{world: w, tenant: tenant, secret: token, token: true}
}

func (m *member) url() string { return "https://" + m.tenant + ".localhost:" + m.public }

// cli runs a command of polygate as the member.
func (m *member) cli(stdin io.Reader, args ...string) (out, said string, code int) {
	m.t.Helper()
	name := "POLYGATE_KEY="
	if m.token {
		name = "POLYGATE_TOKEN="
	}
	return m.command([]string{"POLYGATE_URL=" + m.url(), name + m.secret}, stdin, args...)
}

// run runs a command that has to succeed.
func (m *member) run(args ...string) string {
	m.t.Helper()
	out, said, code := m.cli(nil, args...)
	if code != 0 {
		m.t.Fatalf("polygate %s: exit %d: %s", strings.Join(args, " "), code, said)
	}
	return out
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.status, strings.TrimSpace(r.body)) }

// call sends one request; body is JSON, or nil.
func (m *member) call(method, path string, body any, headers ...string) reply {
	m.t.Helper()
	r, err := m.try(m.t.Context(), method, path, body, headers...)
	if err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// try is call for when the gateway may be away.
func (m *member) try(ctx context.Context, method, path string, body any, headers ...string) (reply, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return reply{}, err
		}
		in = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.url()+path, in)
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "Bearer "+m.secret)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := m.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b)}, err
}

// box is a sandbox as the API shows it.
type box struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Owner      string `json:"owner"`
	State      string `json:"state"`
	Want       string `json:"want"`
	Conditions []struct {
		Type, Reason, Message string
		Status                bool
	} `json:"conditions"`
	Env []struct{ Name, Value string } `json:"env"`
	Run struct {
		Number int    `json:"number"`
		Exit   *int   `json:"exit_code"`
		Reason string `json:"reason"`
	} `json:"run"`
	Version string `json:"resource_version"`
}

func (b box) condition(kind string) string {
	for _, c := range b.Conditions {
		if c.Type == kind {
			return fmt.Sprintf("%v %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return "absent"
}

// create makes a sandbox of the tools with the arguments given.
func (m *member) create(name string, args ...string) box {
	m.t.Helper()
	return m.createWith(map[string]any{"name": name, "args": args})
}

func (m *member) createWith(body map[string]any) box {
	m.t.Helper()
	r := m.call("POST", "/api/v1/sandboxes", body)
	if r.status != http.StatusCreated {
		m.t.Fatalf("create %v: %s", body["name"], r)
	}
	return m.decode(r)
}

func (m *member) decode(r reply) (b box) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		m.t.Fatalf("%s: %v", r, err)
	}
	return b
}

func (m *member) get(name string) box {
	m.t.Helper()
	r := m.call("GET", "/api/v1/sandboxes/"+name, nil)
	if r.status != http.StatusOK {
		m.t.Fatalf("get %s: %s", name, r)
	}
	return m.decode(r)
}

// await waits until a sandbox is in one of the states, or is gone ("").
func (m *member) await(name string, states ...string) (b box) {
	m.t.Helper()
	m.eventually(90*time.Second, "state "+strings.Join(states, " or ")+" of "+name, func(ctx context.Context) (bool, error) {
		r, err := m.try(ctx, "GET", "/api/v1/sandboxes/"+name, nil)
		if err != nil {
			return false, err
		}
		if r.status == http.StatusNotFound {
			return slices.Contains(states, ""), errors.New("it is gone")
		}
		if r.status != http.StatusOK {
			return false, errors.New(r.String())
		}
		b = m.decode(r)
		return slices.Contains(states, b.State), errors.New(r.String())
	})
	return b
}

// ran is the answer to a command.
type ran struct {
	Exit   int    `json:"exit_code"`
	Signal string `json:"signal"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

// exec runs the tools in a sandbox; it has to be run, whatever it ends with.
func (m *member) exec(name string, args ...string) ran {
	m.t.Helper()
	r := m.call("POST", "/api/v1/sandboxes/"+name+"/exec", map[string]any{"command": append([]string{"/tools"}, args...)})
	var x ran
	if err := json.Unmarshal([]byte(r.body), &x); err != nil || r.status != http.StatusOK {
		m.t.Fatalf("exec %v in %s: %s", args, name, r)
	}
	return x
}

// dial says for each host:port whether a sandbox can connect to it.
func (m *member) dial(name string, addresses ...string) map[string]bool {
	m.t.Helper()
	open := make(map[string]bool)
	for line := range strings.Lines(m.exec(name, append([]string{"dial"}, addresses...)...).Stdout) {
		address, result, _ := strings.Cut(strings.TrimSpace(line), " ")
		open[address] = result == "open"
	}
	if len(open) != len(addresses) {
		m.t.Fatalf("dial in %s: %v", name, open)
	}
	return open
}

// namespace is that of a tenant's sandboxes.
func (w *world) namespace(tenant string) string { return w.rights.Prefix + tenant }

// pods are a tenant's.
func (w *world) pods(tenant string) []corev1.Pod {
	w.t.Helper()
	list, err := w.kube.Client.CoreV1().Pods(w.namespace(tenant)).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// awaitPods waits until a tenant has so many pods.
func (w *world) awaitPods(tenant string, n int) {
	w.t.Helper()
	w.eventually(30*time.Second, fmt.Sprintf("state with %d pods of %s", n, tenant), func(context.Context) (bool, error) {
		pods := w.pods(tenant)
		return len(pods) == n, fmt.Errorf("%d pods", len(pods))
	})
}

// podOf is the pod of a sandbox's run.
func (w *world) podOf(tenant, id string) corev1.Pod {
	w.t.Helper()
	for _, p := range w.pods(tenant) {
		if p.Labels["polygate.dev/sandbox"] == id {
			return p
		}
	}
	w.t.Fatalf("sandbox %s of %s has no pod", id, tenant)
	return corev1.Pod{}
}

func join(host, port string) string { return net.JoinHostPort(host, port) }
