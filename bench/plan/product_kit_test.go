package plan

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
	"strings"
	"sync"
	"testing"
	"time"
)

// product is one replica of the real program on an etcd of its own, so that all that it writes can be watched.
type product struct {
	t                      *testing.T
	etcd                   string // host:port
	public, admin, metrics string
	token                  string
	client                 *http.Client
	pid                    int // of polygate
}

const productConfig = `
data_dir: %[1]s/data
base_domain: plan.test
listen: {public: %[2]q, plain: "", admin: %[3]q, telemetry: %[4]q, peer: none}
replica: {name: r1}
etcd: {endpoints: ["http://%[5]s"]}
kek_file: %[1]s/kek
quotas: {max_servers: 1000, requests_per_second: 100000, burst: 100000, max_concurrent_requests: 10000}
egress: {allow: [127.0.0.0/8]}
log: {level: warn}
`

// startProduct builds the program, and starts it on an etcd that forgets nothing.
func startProduct(t *testing.T) *product {
	t.Helper()
	dir := t.TempDir()
	p := &product{t: t, etcd: freePort(t), public: freePort(t), admin: freePort(t), metrics: freePort(t), token: strings.Repeat("plan-operator-", 4)}
	p.client = &http.Client{Timeout: 30 * time.Second, Transport: p.transport(64)}
	binary := filepath.Join(dir, "polygate")
	build := exec.Command("go", "build", "-o", binary, "github.com/polygate/polygate/cmd/polygate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	out, err := exec.Command("go", "tool", "-n", "go.etcd.io/etcd/server/v3").Output()
	if err != nil {
		t.Fatalf("find etcd: %v", err)
	}
	peer := "http://" + freePort(t)
	p.start(dir, "etcd", strings.TrimSpace(string(out)), "--data-dir="+filepath.Join(dir, "etcd"), "--log-level=error", "--max-txn-ops=1024",
		"--listen-client-urls=http://"+p.etcd, "--advertise-client-urls=http://"+p.etcd, "--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
	p.await("http://" + p.etcd + "/health")
	p.write(dir, "kek", "polygate-kek-v1:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))+"\n")
	p.write(dir, "data/admin-token", p.token+"\n")
	p.write(dir, "polygate.yaml", fmt.Sprintf(productConfig, dir, p.public, p.admin, p.metrics, p.etcd))
	p.pid = p.start(dir, "polygate", binary, "serve", "--config", filepath.Join(dir, "polygate.yaml"))
	p.await("http://" + p.metrics + "/readyz")
	return p
}

func (p *product) write(dir, name, content string) {
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		p.t.Fatal(err)
	}
}

// start runs a program until the end of the test.
func (p *product) start(dir, name, program string, args ...string) (pid int) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if p.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			p.t.Logf("%s said: %s", name, b[max(0, len(b)-2000):])
		}
	})
	return cmd.Process.Pid
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (p *product) await(url string) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		resp, err := http.Get(url)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = errors.New(resp.Status)
		}
		last = err
	}
	p.t.Fatalf("%s: %v", url, last)
}

// transport dials the public listener, whatever the tenant's host.
func (p *product) transport(conns int) *http.Transport {
	return &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		MaxIdleConns:    0, MaxIdleConnsPerHost: conns,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if strings.Contains(addr, "plan.test") {
				addr = p.public
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}
}

// call makes a request and returns the body of a good answer.
func (p *product) call(ctx context.Context, method, url, bearer, body string, header ...string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
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

func (p *product) operator(method, path, body string) []byte {
	p.t.Helper()
	b, err := p.call(context.Background(), method, "https://"+p.admin+path, p.token, body)
	if err != nil {
		p.t.Error(err)
	}
	return b
}

// makeTenant makes a tenant with keys, and returns one of them.
func (p *product) makeTenant(id, body string, keys int) (key string) {
	p.operator("POST", "/api/v1/tenants", body)
	for i := range keys {
		var k struct{ Key string }
		if err := json.Unmarshal(p.operator("POST", "/api/v1/tenants/"+id+"/keys", fmt.Sprintf(`{"name":"key-%d","role":"admin"}`, i)), &k); err != nil {
			p.t.Error(err)
		}
		key = k.Key
	}
	return key
}

// each calls f for 0 to n-1, some at a time.
func each(n, workers int, f func(i int)) {
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	all.Wait()
}

// etcdCall calls etcd's JSON gateway.
func (p *product) etcdCall(path string, in, out any) {
	p.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.Post("http://"+p.etcd+path, "application/json", bytes.NewReader(b))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("etcd %s: %s %v", path, resp.Status, err)
	}
}

type etcdStatus struct {
	Header struct {
		Revision int64 `json:"revision,string"`
	} `json:"header"`
	InUse int64 `json:"dbSizeInUse,string"`
}

func (p *product) status() (st etcdStatus) {
	p.etcdCall("/v3/maintenance/status", struct{}{}, &st)
	return st
}

// written is what was written below a prefix.
type written struct {
	puts, deletes int
	bytes         int // of keys and values that were put
}

// writes returns what was written in revisions from (exclusive) to to (inclusive), by kind of key, and the number of transactions
// that were about more than the last uses of keys.
func (p *product) writes(from, to int64) (map[string]written, int) {
	p.t.Helper()
	out, revisions := make(map[string]written), make(map[int64]bool)
	in := map[string]any{"create_request": map[string]any{"key": []byte("polygate/"), "range_end": []byte("polygate0"), "start_revision": from + 1, "fragment": true}}
	b, _ := json.Marshal(in)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p.operator("POST", "/api/v1/tenants", `{"id":"last-of-all"}`) // something to end with
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.etcd+"/v3/watch", bytes.NewReader(b))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var m struct {
			Result struct {
				Events []struct {
					Type string
					KV   struct {
						Key, Value []byte
						Mod        int64 `json:"mod_revision,string"`
					} `json:"kv"`
				} `json:"events"`
			} `json:"result"`
		}
		if err := d.Decode(&m); err != nil {
			p.t.Fatalf("watch: %v", err)
		}
		for _, e := range m.Result.Events {
			if e.KV.Mod > to {
				return out, len(revisions)
			}
			kind := kindOf(string(e.KV.Key))
			if kind != "c/used" { // once a minute, which may be in a short span or not
				revisions[e.KV.Mod] = true
			}
			w := out[kind]
			if e.Type == "DELETE" {
				w.deletes++
			} else {
				w.puts, w.bytes = w.puts+1, w.bytes+len(e.KV.Key)+len(e.KV.Value)
			}
			out[kind] = w
		}
	}
}

// kindOf returns what a key is, without whose.
func kindOf(key string) string {
	f := strings.Split(strings.TrimPrefix(key, "polygate/"), "/")
	switch {
	case f[0] == "t" && len(f) > 2:
		return "t/" + f[2]
	case (f[0] == "u" || f[0] == "c") && len(f) > 1:
		return f[0] + "/" + f[1]
	}
	return f[0]
}
