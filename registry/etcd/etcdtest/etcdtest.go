// Package etcdtest runs a real etcd for tests: members of a cluster as processes on loopback, which can be killed, frozen
// and started again, and connections to them that can be cut, frozen and slowed down.
package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// readyTimeout is generous, since tests of many packages share the processors.
const readyTimeout = 30 * time.Second

// Options says how the members run.
type Options struct {
	Quota     int64         // bytes of the database; 0 = etcd's default, 2 GiB
	Heartbeat time.Duration // between members; an election takes ten of them. 0 = 100 ms, as in production. Leases last 1.5 elections or more
	Fsync     bool          // wait for the disk. Without, kill -9 loses nothing either, since the system keeps what was written
	Cert, Key string        // PEM files: clients are served with TLS
	ClientCA  string        // PEM file: clients must have a certificate of it
	Args      []string      // more flags of etcd
}

// Cluster is a number of members, which end with the test.
type Cluster struct {
	t       testing.TB
	opts    Options
	binary  string
	members []*member
}

type member struct {
	name, dir            string
	client, peer, health string // host:port
	cmd                  *exec.Cmd
	done                 chan struct{} // closed when the process has ended
	log                  *os.File
}

// Start runs n members (1, 3 or 5) and returns when each of them serves.
func Start(t testing.TB, n int, opts Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, opts: opts, binary: binary(t)}
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("m%d", i+1)
		c.members = append(c.members, &member{
			name: name, dir: filepath.Join(dir, name), client: FreeAddress(t), peer: FreeAddress(t), health: FreeAddress(t),
		})
	}
	t.Cleanup(c.end)
	for i := range c.members {
		c.Launch(i)
	}
	for i := range c.members {
		c.WaitReady(i)
	}
	return c
}

// binary returns the etcd that go.mod names, built if need be.
func binary(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "tool", "-n", "go.etcd.io/etcd/server/v3").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("build etcd: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// FreeAddress returns an address on loopback that nothing listens on. It is out of the range from which the system takes
// the ports of connections, so that it is still free when a process that was killed comes back.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(20_000))) //nolint:gosec // a port to try
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close()
			return addr
		}
	}
	t.Fatal("no free port was found on loopback")
	return ""
}

// Len returns the number of members.
func (c *Cluster) Len() int { return len(c.members) }

// Endpoints returns the members' URLs for clients, without any proxy.
func (c *Cluster) Endpoints() []string {
	out := make([]string, 0, len(c.members))
	for _, m := range c.members {
		out = append(out, c.scheme()+"://"+m.client)
	}
	return out
}

func (c *Cluster) scheme() string {
	if c.opts.Cert != "" {
		return "https"
	}
	return "http"
}

// Dir returns a member's data folder, which a test may change while the member does not run.
func (c *Cluster) Dir(i int) string { return c.members[i].dir }

// Launch starts a member that does not run, and does not wait for it.
func (c *Cluster) Launch(i int) {
	c.t.Helper()
	m := c.members[i]
	log, err := os.OpenFile(m.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	m.cmd, m.log, m.done = exec.Command(c.binary, c.args(m)...), log, make(chan struct{}) //nolint:gosec // the etcd that go tool built
	m.cmd.Stdout, m.cmd.Stderr = log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is killed leaves no member behind
	if err := m.cmd.Start(); err != nil {
		c.t.Fatalf("start etcd member %s: %v", m.name, err)
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait()
		_ = log.Close()
		close(done)
	}(m.cmd, m.done)
}

func (c *Cluster) args(m *member) []string {
	var initial []string
	for _, o := range c.members {
		initial = append(initial, o.name+"=http://"+o.peer)
	}
	beat := c.opts.Heartbeat
	if beat == 0 {
		beat = 100 * time.Millisecond
	}
	args := []string{
		"--name=" + m.name, "--data-dir=" + m.dir, "--log-level=warn",
		"--listen-client-urls=" + c.scheme() + "://" + m.client, "--advertise-client-urls=" + c.scheme() + "://" + m.client,
		"--listen-peer-urls=http://" + m.peer, "--initial-advertise-peer-urls=http://" + m.peer,
		"--listen-metrics-urls=http://" + m.health,
		"--initial-cluster=" + strings.Join(initial, ","), "--initial-cluster-token=" + filepath.Base(filepath.Dir(m.dir)),
		fmt.Sprintf("--heartbeat-interval=%d", beat.Milliseconds()), fmt.Sprintf("--election-timeout=%d", 10*beat.Milliseconds()),
		fmt.Sprintf("--quota-backend-bytes=%d", c.opts.Quota), fmt.Sprintf("--unsafe-no-fsync=%v", !c.opts.Fsync),
	}
	if c.opts.Cert != "" {
		args = append(args, "--cert-file="+c.opts.Cert, "--key-file="+c.opts.Key)
	}
	if c.opts.ClientCA != "" {
		args = append(args, "--client-cert-auth", "--trusted-ca-file="+c.opts.ClientCA)
	}
	return append(args, c.opts.Args...)
}

// Kill9 ends a member as a power cut would.
func (c *Cluster) Kill9(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGKILL)
	<-c.members[i].done
}

// Terminate ends a member politely.
func (c *Cluster) Terminate(i int) {
	c.t.Helper()
	c.signal(i, syscall.SIGTERM)
	<-c.members[i].done
}

// Stop freezes a member (SIGSTOP).
func (c *Cluster) Stop(i int) { c.t.Helper(); c.signal(i, syscall.SIGSTOP) }

// Cont lets a frozen member go on.
func (c *Cluster) Cont(i int) { c.t.Helper(); c.signal(i, syscall.SIGCONT) }

func (c *Cluster) signal(i int, sig syscall.Signal) {
	c.t.Helper()
	if err := c.members[i].cmd.Process.Signal(sig); err != nil {
		c.t.Fatalf("signal %v to etcd member %s: %v", sig, c.members[i].name, err)
	}
}

// Restart starts a member that ended and waits until it serves, for which there must be a quorum.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	c.Launch(i)
	c.WaitReady(i)
}

// WaitReady waits until a member has a leader and answers.
func (c *Cluster) WaitReady(i int) {
	c.t.Helper()
	m := c.members[i]
	tr := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: tr, Timeout: 2 * time.Second}
	deadline := time.After(readyTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := client.Get("http://" + m.health + "/health"); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-m.done:
			c.t.Fatalf("etcd member %s ended while it started:\n%s", m.name, m.tail())
		case <-deadline:
			c.t.Fatalf("etcd member %s does not serve after %v:\n%s", m.name, readyTimeout, m.tail())
		}
	}
}

// tail returns the end of a member's log.
func (m *member) tail() []byte {
	b, err := os.ReadFile(m.dir + ".log")
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-4000):]
}

// Leader returns the member that leads; it waits for an election to end.
func (c *Cluster) Leader() int {
	c.t.Helper()
	client := c.Client()
	defer func() { _ = client.Close() }()
	deadline := time.After(readyTimeout)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for i, ep := range c.Endpoints() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := client.Status(ctx, ep)
			cancel()
			if err == nil && st.Leader != 0 && st.Leader == st.Header.MemberId {
				return i
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("no member of etcd leads after %v", readyTimeout)
		}
	}
}

// Client returns a plain client of all members; the caller closes it. A cluster with TLS has none.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatalf("etcd client: %v", err)
	}
	return client
}

// end kills all members; SIGKILL ends frozen ones too.
func (c *Cluster) end() {
	var wg sync.WaitGroup
	for _, m := range c.members {
		if m.cmd == nil {
			continue
		}
		_ = m.cmd.Process.Kill()
		wg.Go(func() { <-m.done })
	}
	wg.Wait()
	if c.t.Failed() {
		for _, m := range c.members {
			c.t.Logf("log of etcd member %s:\n%s", m.name, m.tail())
		}
	}
}
