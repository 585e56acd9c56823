package audit_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/etcd/etcdtest"
)

// The environment that makes the test's own program a replica.
const (
	envReplica = "AUDIT_TEST_REPLICA"
	envEtcd    = "AUDIT_TEST_ETCD"
	envDir     = "AUDIT_TEST_DIR"
)

// openReplica opens the registry as a replica.
func openReplica(ctx context.Context, endpoint, name string) (*registry.Store, func(), error) {
	b, err := etcd.New(etcd.Config{Endpoints: []string{endpoint}, Root: "audit/"})
	if err != nil {
		return nil, nil, err
	}
	s, err := registry.New(registry.Config{Backend: b, Replica: name, TTL: time.Second, BaseDomain: "test.localhost", TakeOver: true})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	<-s.Ready()
	return s, func() { cancel(); <-done; _ = b.Close() }, nil
}

// TestReplicaProcess is a replica that changes its tenant and drains, until it is told to end. It is run by the test below.
func TestReplicaProcess(t *testing.T) {
	name := os.Getenv(envReplica)
	if name == "" {
		t.Skip("run by TestKilledReplicasExactlyOnce")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, end, err := openReplica(context.Background(), os.Getenv(envEtcd), name)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	file, err := audit.OpenFile(filepath.Join(os.Getenv(envDir), "audit-"+name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	buffer := audit.NewBuffer(64)
	d, err := audit.NewDrain(audit.DrainConfig{
		Outbox: s.ReplicaOutbox(), Buffer: buffer, Sink: file, Replica: name, Shared: true, Patience: -1,
		Interval: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	running, stop := context.WithCancel(context.Background())
	go func() { drained <- d.Run(running) }()
	change(ctx, s, name, buffer)
	stop() // only now: what was committed last is to be drained too, as in the product
	if err := <-drained; err != nil {
		t.Error(err)
	}
	_ = file.Close()
}

// change makes changes, and prints the id of each that was acknowledged.
func change(ctx context.Context, s *registry.Store, name string, b *audit.Buffer) {
	id := tenant.ID("team-" + name)
	for i := 0; ctx.Err() == nil; i++ {
		e := audit.Entry{ID: audit.NewID(), Time: time.Now().UTC(), Tenant: id, Replica: name, Principal: "key:k", Action: "tenant.update", Decision: audit.Allow}
		_, err := s.UpdateTenant(ctx, id, 0, func(r *tenant.Record) error { r.DisplayName = fmt.Sprint(i); return nil }, e)
		if fault.Is(err, fault.NotFound) {
			e.Tenant = ""
			_, err = s.CreateTenant(ctx, &tenant.Record{ID: id, State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI}, e)
		}
		if err == nil {
			fmt.Println("acknowledged", e.ID)
		}
		b.Record(audit.Entry{ID: audit.NewID(), Time: time.Now().UTC(), Tenant: id, Replica: name, Principal: "key:k", Action: "mcp.call", Decision: audit.Allow})
		select {
		case <-ctx.Done():
		case <-time.After(3 * time.Millisecond): // the rate of a busy operator
		}
	}
}

// herd is the processes of the test.
type herd struct {
	t    *testing.T
	etcd string
	dir  string

	mu    sync.Mutex // guards acked
	acked map[string]bool
}

// run starts a replica and returns what ends it.
func (h *herd) run(name string) (end func(os.Signal)) {
	h.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestReplicaProcess$")
	cmd.Env = append(os.Environ(), envReplica+"="+name, envEtcd+"="+h.etcd, envDir+"="+h.dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if id, ok := strings.CutPrefix(sc.Text(), "acknowledged "); ok {
				h.mu.Lock()
				h.acked[id] = true
				h.mu.Unlock()
			}
		}
	}()
	once := sync.OnceFunc(func() { <-read; _ = cmd.Wait() })
	h.t.Cleanup(func() { _ = cmd.Process.Kill(); once() })
	return func(sig os.Signal) { _ = cmd.Process.Signal(sig); once() }
}

// TestKilledReplicasExactlyOnce: three processes on one etcd commit and drain, are killed with SIGKILL at any time, and take over
// from each other. Every change that was acknowledged is in one of the three logs, once, and the logs verify together.
func TestKilledReplicasExactlyOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 40 s")
	}
	t.Parallel() // it waits, and others calculate
	h := &herd{t: t, etcd: etcdtest.Start(t, 1, etcdtest.Options{}).Endpoints()[0], dir: t.TempDir(), acked: make(map[string]bool)}
	names := []string{"r1", "r2", "r3"}
	ends := make([]func(os.Signal), 3)
	for i, name := range names {
		ends[i] = h.run(name)
	}
	kills := 5
	for range kills {
		<-time.After(time.Duration(300+rand.N(900)) * time.Millisecond) // while it works
		i := rand.N(3)
		ends[i](syscall.SIGKILL)
		<-time.After(rand.N(5 * time.Second)) // its lease may end, or not
		ends[i] = h.run(names[i])
	}
	<-time.After(7 * time.Second) // what is left is taken over within a poll
	for _, end := range ends {
		end(syscall.SIGTERM)
	}
	h.check(names, kills)
}

func (h *herd) check(names []string, kills int) {
	s, end, err := openReplica(h.t.Context(), h.etcd, "reader")
	if err != nil {
		h.t.Fatal(err)
	}
	defer end()
	heads, err := s.ReplicaOutbox().Heads(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	if left, err := s.Outbox().Pending(h.t.Context(), 10); err != nil || len(left) > 0 {
		h.t.Errorf("%d entries are left in the outbox (%v)", len(left), err)
	}
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(h.dir, "audit-"+name+".jsonl"))
	}
	rep, err := audit.VerifyLogs(paths, audit.VerifyOptions{Heads: heads})
	if err != nil || !rep.OK {
		h.t.Errorf("the logs do not verify: %v, %v", err, rep.Problems())
	}
	count, taken := h.count(paths)
	for id := range h.acked {
		if count[id] != 1 {
			h.t.Errorf("an acknowledged change is %d times in the logs", count[id])
		}
	}
	for id, n := range count {
		if n != 1 {
			h.t.Errorf("record %s is %d times in the logs", id, n)
		}
	}
	h.t.Logf("%d changes acknowledged, %d records, %d kills, %d records written by another replica than committed them", len(h.acked), len(count), kills, taken)
}

// count returns how often each id is in the logs, and how many are in another replica's than the one that committed them.
func (h *herd) count(paths []string) (count map[string]int, taken int) {
	count = make(map[string]int)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			h.t.Fatal(err)
		}
		for text := range strings.Lines(string(b)) {
			l, err := audit.ParseLine([]byte(strings.TrimSuffix(text, "\n")))
			var e audit.Entry
			if err == nil {
				err = json.Unmarshal(l.Entry, &e)
			}
			if err != nil {
				h.t.Fatal(err)
			}
			if count[e.ID]++; l.Chain != audit.ChainName(e.Chain(), e.Replica) {
				taken++
			}
		}
	}
	return count, taken
}
