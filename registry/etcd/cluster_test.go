package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/etcd/etcdtest"
	"github.com/polygate/polygate/registry/registrytest"
)

// embeddedCluster is three servers in this process, as three replicas have one each.
type embeddedCluster struct {
	t       *testing.T
	configs []etcd.EmbeddedConfig
	servers []*etcd.Embedded
}

func newEmbeddedCluster(t *testing.T) *embeddedCluster {
	t.Helper()
	c := &embeddedCluster{t: t, servers: make([]*etcd.Embedded, 3)}
	var members []etcd.ClusterMember
	for i := range 3 {
		members = append(members, etcd.ClusterMember{Name: fmt.Sprintf("r%d", i+1), Address: etcdtest.FreeAddress(t)})
	}
	for i := range 3 {
		c.configs = append(c.configs, etcd.EmbeddedConfig{
			Dir: t.TempDir(), Cluster: &etcd.ClusterConfig{Name: members[i].Name, Members: members, JoinTimeout: 20 * time.Second},
		})
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	return c
}

func (c *embeddedCluster) stop(i int) {
	if c.servers[i] != nil {
		_ = c.servers[i].Close()
		c.servers[i] = nil
	}
}

// start starts members at once, as they may need each other.
func (c *embeddedCluster) start(which ...int) []error {
	errs := make([]error, len(which))
	var wg sync.WaitGroup
	for n, i := range which {
		wg.Go(func() { c.servers[i], errs[n] = etcd.StartEmbedded(c.t.Context(), c.configs[i]) })
	}
	wg.Wait()
	return errs
}

func (c *embeddedCluster) mustStart(which ...int) {
	c.t.Helper()
	if err := errors.Join(c.start(which...)...); err != nil {
		c.t.Fatalf("start %v: %v", which, err)
	}
}

func (c *embeddedCluster) backend(i int) *etcd.Backend {
	c.t.Helper()
	b, err := c.servers[i].Backend("")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = b.Close() })
	return b
}

// put writes until it is done; a change that is on its way to a leader that goes is repeated, as the registry does.
func (c *embeddedCluster) put(b *etcd.Backend, key string) {
	c.t.Helper()
	for start := time.Now(); ; {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		_, err := b.Txn(ctx, &registry.Txn{Puts: []registry.Put{{Key: key, Value: []byte("1")}}})
		cancel()
		if err == nil {
			return
		}
		if time.Since(start) > 10*time.Second {
			c.t.Fatalf("put %s: %v", key, err)
		}
	}
}

func (c *embeddedCluster) count(b *etcd.Backend, want int) {
	c.t.Helper()
	got, err := b.Range(c.t.Context(), registry.Range{Prefix: "c/"})
	if err != nil || len(got.KVs) != want {
		c.t.Errorf("got %v, %v; want %d keys", got, err, want)
	}
}

// TestEmbeddedCluster is the life of three members that speak mutual TLS: they begin together, let no stranger in, one goes
// and comes back, one loses its data and is not let in before it has been replaced.
func TestEmbeddedCluster(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCluster(t).secure()
	c.mustStart(0, 1, 2)
	c.testStrangers()
	b0, b1 := c.backend(0), c.backend(1)
	c.put(b0, "c/a")
	c.count(b1, 1)
	st, err := b1.Status(t.Context())
	if err != nil || len(st.Members) != 3 || !st.Members[0].Healthy || st.Quota != etcd.DefaultQuota || st.DBSize == 0 {
		t.Errorf("Status: %+v, %v", st, err)
	}
	c.stop(2)
	c.put(b0, "c/b") // a member lost: unnoticed
	if st, err = b0.Status(t.Context()); err != nil || countHealthy(st) != 2 {
		t.Errorf("Status with one away: %+v, %v", st, err)
	}
	c.mustStart(2)
	c.count(c.backend(2), 2)
	c.testLost(2)
}

func countHealthy(st registry.Status) (n int) {
	for _, m := range st.Members {
		if m.Healthy {
			n++
		} else if m.Error == "" {
			return -1
		}
	}
	return n
}

func (c *embeddedCluster) testLost(i int) {
	t := c.t
	c.stop(i)
	if err := os.RemoveAll(c.configs[i].Dir); err != nil {
		t.Fatal(err)
	}
	err := c.start(i)[0]
	if err == nil || !strings.Contains(err.Error(), "polygate etcd member remove r3") {
		t.Fatalf("a member without its data: got %v, want what to do", err)
	}
	c.member("remove", func() error { return c.servers[0].MemberRemove(t.Context(), "r3") })
	err = c.start(i)[0]
	if err == nil || !strings.Contains(err.Error(), "polygate etcd member add "+c.configs[i].Cluster.Members[i].Address) {
		t.Fatalf("a member that was removed: got %v, want what to do", err)
	}
	c.member("add", func() error { return c.servers[0].MemberAdd(t.Context(), c.configs[i].Cluster.Members[i].Address) })
	c.mustStart(i)
	c.count(c.backend(i), 2)
	if got := c.servers[0].MemberList(); len(got) != 3 {
		t.Errorf("members: %v", got)
	}
}

// member changes the members as people do: again, if it is said to be too early.
func (c *embeddedCluster) member(what string, change func() error) {
	c.t.Helper()
	registrytest.Eventually(c.t, what+" a member", func() bool {
		err := change()
		if err != nil && !strings.Contains(err.Error(), "try again then") {
			c.t.Fatalf("%s a member: %v", what, err)
		}
		return err == nil
	})
}

// TestEmbeddedClusterBegins: a member without data waits for all others, so that none that lost its data founds a cluster.
func TestEmbeddedClusterBegins(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCluster(t)
	for i := range c.configs {
		c.configs[i].Cluster.JoinTimeout = 700 * time.Millisecond
	}
	for i, err := range c.start(0, 1) {
		if err == nil || !strings.Contains(err.Error(), "start the others too (r3 at ") {
			t.Errorf("member %d of three, with two of them there: got %v", i+1, err)
		}
	}
}

// TestEmbeddedClusterWaits: a member that is to wait without a bound does, with data and without, until others come; one that is
// told to end while it waits ends without an error in the log.
func TestEmbeddedClusterWaits(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCluster(t)
	var log lockedBuffer
	for i := range c.configs {
		c.configs[i].Cluster.JoinTimeout = -1
		c.configs[i].Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	for _, state := range []struct{ name, path string }{{"without data", "/polygate/blank"}, {"with data", "/version"}} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := etcd.StartEmbedded(ctx, c.configs[0])
			ended <- err
		}()
		registrytest.Eventually(t, "it is up, "+state.name, func() bool { return serves(t, c.configs[0].Cluster.Members[0].Address, state.path) })
		select {
		case err := <-ended:
			t.Fatalf("%s, alone, it ended: %v", state.name, err)
		case <-time.After(2 * time.Second):
		}
		cancel()
		if err := <-ended; err == nil {
			t.Fatalf("%s, alone, it got ready", state.name)
		}
		c.mustStart(0, 1, 2)
		for i := range 3 {
			c.stop(i)
		}
	}
	if said := log.String(); said != "" {
		t.Errorf("it logged errors:\n%s", said)
	}
}

func serves(t *testing.T, address, path string) bool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// lockedBuffer is what several servers log into.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestEmbeddedClusterMinority: a member alone answers no more, and its watch falls silent, so that nothing that lives by
// the watch takes it for current (X45).
func TestEmbeddedClusterMinority(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCluster(t)
	c.mustStart(0, 1, 2)
	r := registrytest.Start(t, c.backend(0), "r1", registrytest.TTL(2*time.Second))
	claim := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	c.stop(1)
	c.stop(2)
	select {
	case <-claim.Context().Done():
	case <-time.After(5 * time.Second):
		t.Error("the claim outlived the quorum")
	}
	registrytest.Eventually(t, "the watch is silent", func() bool {
		err := r.Healthy()
		return fault.Is(err, fault.Unavailable)
	})
	c.mustStart(1)
	registrytest.Eventually(t, "all is well again without a restart", func() bool { return r.Healthy() == nil })
	registrytest.Claim(t, r, claim.Scope())
}

// TestEmbeddedKinds: data of a lone server and of a cluster's member are not taken for each other.
func TestEmbeddedKinds(t *testing.T) {
	t.Parallel()
	c := newEmbeddedCluster(t)
	c.mustStart(0, 1, 2)
	for i := range 3 {
		c.stop(i)
	}
	lone := etcd.EmbeddedConfig{Dir: c.configs[0].Dir}
	if _, err := etcd.StartEmbedded(t.Context(), lone); err == nil || !strings.Contains(err.Error(), "start with --cluster") {
		t.Errorf("a cluster's data without --cluster: %v", err)
	}
	other := c.configs[0]
	other.Dir = c.configs[1].Dir
	if _, err := etcd.StartEmbedded(t.Context(), other); err == nil || !strings.Contains(err.Error(), "is of member r2, not of r1") {
		t.Errorf("another member's data: %v", err)
	}
	lone.Dir = t.TempDir()
	startEmbedded(t, lone)
	other.Dir = lone.Dir
	if _, err := etcd.StartEmbedded(t.Context(), other); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a folder in use: %v", err)
	}
}
