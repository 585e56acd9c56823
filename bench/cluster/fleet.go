package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fleet is members of etcd and replicas on it.
type fleet struct {
	o        options
	dir      string
	members  []*process
	clients  []string // the members' addresses for clients
	replicas []*replica
	keys     map[string]string // an admin's key by tenant
}

// replica is a `polygate serve` process.
type replica struct {
	*process
	name, public, admin, metrics string
	client                       *http.Client
	token                        string
}

// process is a program that is started again and again with the same arguments.
type process struct {
	args  []string
	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process that was started last has ended
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.args[0], p.args[1:]...) //nolint:gosec // the programs to measure are named by the flags
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(p.cmd)
	return nil
}

func (p *process) kill() {
	if p.ended != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.ended = nil
	}
}

// startFleet starts members of etcd and replicas, and returns when all are ready.
func startFleet(o options, name string, members, replicas int) (*fleet, error) {
	f := &fleet{o: o, dir: filepath.Join(o.dir, name), keys: make(map[string]string)}
	if err := f.start(members, replicas); err != nil {
		f.end()
		return nil, err
	}
	return f, nil
}

func (f *fleet) start(members, replicas int) error {
	if err := f.startEtcd(members); err != nil {
		return err
	}
	for i := range replicas {
		r, err := f.layOut(fmt.Sprintf("r%d", i))
		if err != nil {
			return err
		}
		f.replicas = append(f.replicas, r)
		if err := r.start(); err != nil {
			return err
		}
	}
	for _, r := range f.replicas {
		if err := r.awaitReady(2 * time.Minute); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) end() {
	for _, r := range f.replicas {
		r.kill()
	}
	for _, m := range f.members {
		m.kill()
	}
}

func (f *fleet) startEtcd(n int) error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	var peers, initial []string
	for i := range n {
		peers, f.clients = append(peers, freePort()), append(f.clients, freePort())
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, peers[i]))
	}
	for i := range n {
		client, peer := "http://"+f.clients[i], "http://"+peers[i]
		m := &process{log: filepath.Join(f.dir, fmt.Sprintf("m%d.log", i)), args: []string{
			f.o.etcd, fmt.Sprintf("--name=m%d", i), "--data-dir=" + filepath.Join(f.dir, fmt.Sprintf("m%d", i)), "--log-level=error",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=" + strings.Join(initial, ","), "--quota-backend-bytes=" + strconv.Itoa(8<<30), "--max-txn-ops=1024", "--max-request-bytes=4000000",
		}}
		f.members = append(f.members, m)
		if err := m.start(); err != nil {
			return err
		}
	}
	for _, addr := range f.clients {
		if err := await(time.Minute, func() error { return get("http://" + addr + "/health") }); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
	}
	return nil
}

// layOut writes the configuration of a replica.
func (f *fleet) layOut(name string) (*replica, error) {
	dir := filepath.Join(f.dir, name)
	r := &replica{name: name, public: freePort(), admin: freePort(), metrics: freePort()}
	r.process = &process{log: dir + ".log", args: []string{f.o.polygate, "serve", "--config", filepath.Join(dir, "polygate.yaml")}}
	insecure := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a measurement on loopback
	r.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: insecure, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8}}
	var endpoints []string
	for _, c := range f.clients {
		endpoints = append(endpoints, "http://"+c)
	}
	list, err := json.Marshal(endpoints)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: %[2]q, plain: "", admin: %[3]q, telemetry: %[4]q, peer: %[5]q}
replica: {name: %[6]s, ttl: %[7]s}
placement: {interval: 1h}
etcd: {endpoints: %[8]s}
kek_file: %[1]s/kek
quotas: {max_servers: 1000, requests_per_second: 0, burst: 0, max_concurrent_requests: 0}
log: {level: warn}
`, dir, r.public, r.admin, r.metrics, freePort(), name, f.o.ttl, list)
	kek := "polygate-kek-v1:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n"
	r.token = strings.Repeat("bench-operator-", 4)
	for file, content := range map[string]string{"polygate.yaml": config, "kek": kek, "data/admin-token": r.token + "\n"} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func freePort() string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return ""
	}
	defer ln.Close()
	return ln.Addr().String()
}

func get(url string) error {
	resp, err := http.Get(url) //nolint:gosec,noctx // an address of this program's own
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// await asks until there is no error.
func await(limit time.Duration, ask func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (r *replica) awaitReady(limit time.Duration) error {
	ended := false
	err := await(limit, func() error {
		select {
		case <-r.ended:
			ended = true
			return nil
		default:
			return get("http://" + r.metrics + "/readyz")
		}
	})
	if err == nil && !ended {
		return nil
	}
	if ended {
		err = errors.New("it ended")
	}
	log, _ := os.ReadFile(r.log)
	return fmt.Errorf("%s is not ready: %w\n%s", r.name, err, log[max(0, len(log)-1000):])
}

// send makes one request and returns the body of a good answer.
func send(ctx context.Context, c *http.Client, method, url, bearer string, body any) ([]byte, error) {
	var rd io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		rd = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, rd)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, url, resp.Status, b)
	}
	return b, err
}

func (r *replica) operator(ctx context.Context, method, path string, body any) ([]byte, error) {
	return send(ctx, r.client, method, "https://"+r.admin+path, r.token, body)
}

// ask sends a request of a tenant's admin to this replica.
func (f *fleet) ask(ctx context.Context, r *replica, method, tenant, path string, body any) ([]byte, error) {
	_, port, err := net.SplitHostPort(r.public)
	if err != nil {
		return nil, err
	}
	return send(ctx, r.client, method, "https://localhost:"+port+"/tenant/"+tenant+path, f.keys[tenant], body)
}

// makeTenants makes tenants t0 to t<n-1>, each with a key and a server.
func (f *fleet) makeTenants(ctx context.Context, n int) error {
	for i := range n {
		id, r := fmt.Sprintf("t%d", i), f.replicas[i%len(f.replicas)]
		if _, err := r.operator(ctx, http.MethodPost, "/api/v1/tenants", map[string]string{"id": id}); err != nil {
			return err
		}
		b, err := r.operator(ctx, http.MethodPost, "/api/v1/tenants/"+id+"/keys", map[string]string{"name": "bench", "role": "admin"})
		if err != nil {
			return err
		}
		var k struct{ Key string }
		if err := json.Unmarshal(b, &k); err != nil {
			return err
		}
		f.keys[id] = k.Key
		server := map[string]string{"name": "s", "url": "https://mcp.example.com/mcp"}
		if _, err := f.ask(ctx, r, http.MethodPost, id, "/api/v1/servers", server); err != nil {
			return err
		}
	}
	return nil
}

// owner returns the replica that serves a tenant, or nil.
func (f *fleet) owner(ctx context.Context, from *replica, tenant string) (*replica, error) {
	b, err := from.operator(ctx, http.MethodGet, "/api/v1/tenants/"+tenant+"/owner", nil)
	if err != nil {
		return nil, err
	}
	var o struct{ Replica string }
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, err
	}
	for _, r := range f.replicas {
		if r.name == o.Replica {
			return r, nil
		}
	}
	return nil, nil
}
