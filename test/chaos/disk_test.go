package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// diskFleet is one replica with the etcd inside it, whose disk is harmed by strace. Clocks are left alone: leases and
// sessions run on the monotonic clock, which nobody can set.
func diskFleet(t *testing.T) *fleet {
	t.Helper()
	s := readSettings(t)
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not there: install it")
	}
	s.tenants, s.length, s.dir = 3, time.Minute, ""
	f := emptyFleet(t, s)
	r := f.newReplica("r0")
	r.write("polygate.yaml", fmt.Sprintf(`
data_dir: %[1]s/data
base_domain: localhost
shared_hosts: [localhost]
listen: {public: %[2]q, plain: "", admin: %[3]q, telemetry: %[4]q}
demo: {env_file: %[1]s/env}
replica: {name: r0, ttl: 5s}
quotas: {max_servers: 1000, requests_per_second: 0, burst: 0, max_concurrent_requests: 0}
`, r.dir, r.public, r.admin, r.metrics))
	f.replicas = []*replica{r}
	return f
}

// write adds servers until stop says so, and returns the names of those that were acknowledged, and how long each took.
func (f *fleet) writeServers(stop func(n int, got answer) bool) (names []string, took []time.Duration) {
	rng := rand.New(rand.NewPCG(1, 1))
	for n := 0; ; n++ {
		name := fmt.Sprintf("c-%s-n%d", tenantName(n%3), n)
		began := time.Now()
		got := f.ask(f.replicas[0], 10*time.Second, n%3, http.MethodPost, "/api/v1/servers", map[string]string{"name": name, "url": "https://mcp.example.com/mcp"}, rng.IntN(2) == 0)
		if got.status == http.StatusCreated {
			names, took = append(names, name), append(took, time.Since(began))
		}
		if stop(n, got) {
			return names, took
		}
	}
}

// TestX50SlowDisk: with 50 ms more for each sync, nothing fails; it takes longer.
func TestX50SlowDisk(t *testing.T) {
	f := diskFleet(t)
	f.replicas[0].under = []string{"strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=50000"}
	f.startAll()
	f.makeTenants()
	names, took := f.writeServers(func(n int, got answer) bool {
		if got.status != http.StatusCreated {
			t.Errorf("write %d: %d %s %v", n, got.status, got.body, got.err)
		}
		return n == 60
	})
	for i, d := range took {
		if d < 50*time.Millisecond {
			t.Errorf("%s was acknowledged after %s: before it was on the disk", names[i], d)
		}
	}
	t.Logf("%d writes, the last took %s", len(names), took[len(took)-1])
}

// TestX50DiskError: once syncs fail, the process acknowledges nothing and ends; after a start with a good disk, all that
// was acknowledged is there.
func TestX50DiskError(t *testing.T) {
	f := diskFleet(t)
	f.startAll()
	f.makeTenants()
	r := f.replicas[0]
	before, _ := f.writeServers(func(n int, _ answer) bool { return n == 60 })
	r.mu.Lock()
	pid, ended := r.cmd.Process.Pid, r.ended
	r.expected = true
	r.mu.Unlock()
	trace := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-p", strconv.Itoa(pid))
	trace.Stderr = os.Stderr
	trace.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := trace.Start(); err != nil {
		t.Fatal(err)
	}
	after, _ := f.writeServers(func(n int, _ answer) bool {
		select {
		case <-ended:
			return true
		case <-time.After(10 * time.Millisecond):
			return n == 3000
		}
	})
	_ = trace.Process.Kill()
	_ = trace.Wait()
	if r.running() {
		t.Fatalf("the process goes on with a disk that does not keep anything\n%s", r.tail())
	}
	r.launch()
	if err := r.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(before, after...) {
		tenant, _ := strconv.Atoi(name[3:6])
		if got := f.ask(r, 10*time.Second, tenant, http.MethodGet, "/api/v1/servers/"+name, nil, false); got.status != http.StatusOK {
			t.Errorf("%s was acknowledged and is lost: %d %s %v", name, got.status, got.body, got.err)
		}
	}
	t.Logf("%d writes before, %d until the process ended", len(before), len(after))
}
