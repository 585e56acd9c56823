package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

// replicaCount is how many replicas run.
const replicaCount = 3

// fleet is the replicas, their etcd, and the clients' way to them.
type fleet struct {
	t        *testing.T
	settings settings
	etcd     *etcdtest.Cluster
	replicas []*replica
	clock    time.Time // moments are durations since then
	keys     []string  // an admin's key of each tenant
	roots    *x509.CertPool
	done     chan struct{} // closed when the test ends
}

// replica is a `polygate serve` process.
type replica struct {
	f       *fleet
	name    string
	dir     string
	public  string // host:port, as the others
	admin   string
	metrics string
	links   *etcdtest.Proxy // its way to etcd
	under   []string        // a program with arguments that runs it; none = it runs by itself

	mu       sync.Mutex    // guards what follows
	cmd      *exec.Cmd     // nil while it does not run
	ended    chan struct{} // closed when the process has ended
	expected bool          // it was told to end

	ready  atomic.Bool // as a load balancer's check last saw it
	client *http.Client
	env    map[string]string

	adminTransport *http.Transport // guarded by mu
}

// newFleet starts etcd and lays out the replicas' folders.
func newFleet(t *testing.T, s settings) *fleet {
	t.Helper()
	f := emptyFleet(t, s)
	f.etcd = etcdtest.Start(t, 3, etcdtest.Options{Heartbeat: 50 * time.Millisecond})
	for i := range replicaCount {
		f.replicas = append(f.replicas, f.layOut(fmt.Sprintf("r%d", i)))
	}
	return f
}

// emptyFleet has a program to run, and neither replicas nor an etcd.
func emptyFleet(t *testing.T, s settings) *fleet {
	t.Helper()
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	if s.program == "" {
		s.program = filepath.Join(t.TempDir(), "polygate")
		build := exec.Command("go", "build", "-o", s.program, "github.com/polygate/polygate/cmd/polygate")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build polygate: %v\n%s", err, out)
		}
	}
	f := &fleet{t: t, settings: s, clock: time.Now(), keys: make([]string, s.tenants), done: make(chan struct{})}
	t.Cleanup(func() { close(f.done) })
	return f
}

func (f *fleet) layOut(name string) *replica {
	r := f.newReplica(name)
	r.links = f.etcd.Proxy()
	level := "info"
	if f.settings.length > 20*time.Minute {
		level = "warn"
	}
	endpoints, err := json.Marshal(r.links.Endpoints())
	if err != nil {
		f.t.Fatal(err)
	}
	r.write("kek", "polygate-kek-v1:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n")
	r.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: %[2]q, plain: "", admin: %[3]q, telemetry: %[4]q, peer: %[5]q}
egress: {allow: [127.0.0.0/8]}
demo: {env_file: %[1]s/env}
replica: {name: %[6]s, ttl: %[7]s}
placement: {interval: 5s}
drain: {streams: 1s, timeout: 15s}
etcd: {endpoints: %[8]s}
kek_file: %[1]s/kek
quotas: {max_servers: 1000, requests_per_second: 0, burst: 0, max_concurrent_requests: 0}
log: {level: %[9]s}
`, r.dir, r.public, r.admin, r.metrics, etcdtest.FreeAddress(f.t), name, f.settings.ttl, endpoints, level))
	return r
}

// newReplica makes a replica without a configuration.
func (f *fleet) newReplica(name string) *replica {
	return &replica{
		f: f, name: name, dir: filepath.Join(f.settings.dir, name),
		public: etcdtest.FreeAddress(f.t), admin: etcdtest.FreeAddress(f.t), metrics: etcdtest.FreeAddress(f.t),
	}
}

func (r *replica) write(name, content string) {
	r.f.t.Helper()
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		r.f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(content), 0o600); err != nil {
		r.f.t.Fatal(err)
	}
}

// startAll starts the replicas and returns when all are ready.
func (f *fleet) startAll() {
	f.t.Helper()
	for _, r := range f.replicas {
		r.launch()
	}
	for _, r := range f.replicas {
		if err := r.awaitReady(time.Minute); err != nil {
			f.t.Fatal(err)
		}
		r.readEnv()
	}
	pem, err := os.ReadFile(f.replicas[0].env["POLYGATE_CA"])
	if err != nil {
		f.t.Fatal(err)
	}
	f.roots = x509.NewCertPool()
	f.roots.AppendCertsFromPEM(pem)
	for _, r := range f.replicas {
		r.client = f.clientOf(r)
		go r.keepChecking()
	}
}

func (r *replica) readEnv() {
	file, err := os.Open(filepath.Join(r.dir, "env"))
	if err != nil {
		r.f.t.Fatal(err)
	}
	defer file.Close()
	r.env = make(map[string]string)
	for s := bufio.NewScanner(file); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), "="); ok && !strings.HasPrefix(name, "#") {
			r.env[name] = value
		}
	}
}

// launch starts the process; what it prints is appended to its log.
func (r *replica) launch() {
	r.f.t.Helper()
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.f.t.Fatal(err)
	}
	args := append(slices.Clone(r.under), r.f.settings.program, "serve", "--config", filepath.Join(r.dir, "polygate.yaml"))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = r.dir, log, log
	cmd.Env = append(os.Environ(), "GOTRACEBACK=all")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.f.t.Fatalf("start %s: %v", r.name, err)
	}
	ended := make(chan struct{})
	r.mu.Lock()
	r.cmd, r.ended, r.expected = cmd, ended, false
	r.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		_ = log.Close()
		r.mu.Lock()
		surprise := !r.expected
		if r.cmd == cmd {
			r.cmd = nil
		}
		r.mu.Unlock()
		close(ended)
		if surprise {
			r.f.t.Errorf("%s ended by itself: %v\n%s", r.name, cmd.ProcessState, r.tail())
		}
	}()
	r.f.t.Cleanup(func() { r.end(syscall.SIGKILL) })
}

// signal sends a signal to the process, if it runs.
func (r *replica) signal(sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(sig)
	}
}

// end ends the process with a signal and waits for it; it returns how long that took.
func (r *replica) end(sig syscall.Signal) time.Duration {
	began := time.Now()
	r.mu.Lock()
	cmd, ended := r.cmd, r.ended
	r.expected = true
	if cmd != nil {
		_ = cmd.Process.Signal(sig)
	}
	r.mu.Unlock()
	if cmd == nil {
		return 0
	}
	select {
	case <-ended:
	case <-time.After(40 * time.Second):
		r.signal(syscall.SIGQUIT) // its goroutines are in the log
		<-ended
		r.f.t.Errorf("%s has not ended 40 s after %v\n%s", r.name, sig, r.tail())
	}
	return time.Since(began)
}

func (r *replica) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cmd != nil
}

// tail returns the end of the process's log, without the requests.
func (r *replica) tail() string {
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(b[max(0, len(b)-1<<20):])) {
		if !strings.Contains(line, `"msg":"request"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-20):], "")
}

// isReady asks the process whether it wants traffic.
func (r *replica) isReady(patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	got := send(ctx, http.DefaultClient, http.MethodGet, "http://"+r.metrics+"/readyz", nil)
	if got.err == nil && got.status != http.StatusOK {
		return fmt.Errorf("%s is not ready: %s", r.name, got.body)
	}
	return got.err
}

// keepChecking is the health check of a load balancer.
func (r *replica) keepChecking() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.f.done:
			return
		case <-tick.C:
			r.ready.Store(r.isReady(500*time.Millisecond) == nil)
		}
	}
}

func (r *replica) awaitReady(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for tick := time.NewTicker(30 * time.Millisecond); ; <-tick.C {
		err := r.isReady(time.Second)
		if err == nil {
			r.ready.Store(true)
			tick.Stop()
			return nil
		}
		if !r.running() {
			return fmt.Errorf("%s does not run", r.name)
		}
		if time.Now().After(deadline) {
			tick.Stop()
			return fmt.Errorf("%s is not ready after %s: %w", r.name, limit, err)
		}
	}
}

// awaitWhole waits until every replica is ready and sees all the others, and starts again what ended by itself. What does
// not get well is a failure, with its goroutines in its log.
func (f *fleet) awaitWhole(limit time.Duration) {
	f.t.Helper()
	deadline := time.Now().Add(limit)
	for _, r := range f.replicas {
		if !r.running() {
			r.launch()
		}
	}
	for _, r := range f.replicas {
		err := r.awaitReady(max(time.Until(deadline), 5*time.Second))
		for err == nil && !r.seesAll() {
			if time.Now().After(deadline) {
				err = errors.New(r.name + " does not see the other replicas")
			}
			<-time.After(50 * time.Millisecond)
		}
		if err == nil {
			continue
		}
		f.t.Errorf("no recovery: %v\n%s", err, r.tail())
		r.end(syscall.SIGQUIT)
		r.launch()
		if err := r.awaitReady(limit); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (r *replica) seesAll() bool {
	got := r.operator(http.MethodGet, "/api/v1/replicas", nil)
	var list struct{ Items []struct{ State string } }
	return got.status == http.StatusOK && json.Unmarshal(got.body, &list) == nil && len(list.Items) == replicaCount
}

// clientOf returns a client whose connections go to one replica, whatever the host.
func (f *fleet) clientOf(r *replica) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12},
		DialContext:         dialTo(r.public),
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     20 * time.Second,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second},
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// operator sends a request to the replica's operators' listener.
func (r *replica) operator(method, path string, body any, headers ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	client := &http.Client{Transport: r.operators()}
	return send(ctx, client, method, "https://"+r.admin+path, body, append([]string{"Authorization", "Bearer " + r.env["ADMIN_TOKEN"]}, headers...)...)
}

func (r *replica) operators() http.RoundTripper {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.adminTransport == nil {
		r.adminTransport = &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: r.f.roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 8,
		}
		r.f.t.Cleanup(r.adminTransport.CloseIdleConnections)
	}
	return r.adminTransport
}
