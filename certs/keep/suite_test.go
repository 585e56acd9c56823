package keep_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/goleak"

	"github.com/polygate/polygate/certs/keep/keeptest"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/wal.(*filePipeline).run"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/backend.(*backend).run"))
}

// TestMemory runs the suite on the registry in memory.
func TestMemory(t *testing.T) {
	keeptest.Run(t, func(t *testing.T) *keeptest.World {
		b := memory.New()
		t.Cleanup(func() { _ = b.Close() })
		return world(t, b)
	})
}

// TestEtcd runs the suite on a real etcd.
func TestEtcd(t *testing.T) {
	e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatalf("StartEmbedded: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	var n atomic.Int32
	keeptest.Run(t, func(t *testing.T) *keeptest.World {
		b, err := e.Backend(fmt.Sprintf("r%d/", n.Add(1)))
		if err != nil {
			t.Fatalf("Backend: %v", err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return world(t, b)
	})
}

// TestSuiteItself tries the suite on certmagic's own storage, which is what its contract means.
func TestSuiteItself(t *testing.T) {
	keeptest.Files(t, func(t *testing.T) (a, b keeptest.Storage) {
		dir := t.TempDir()
		return &certmagic.FileStorage{Path: dir}, &certmagic.FileStorage{Path: dir}
	})
}

func kek(t testing.TB) *seal.KEK {
	t.Helper()
	k, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatalf("CreateKEK: %v", err)
	}
	return k
}

// stoppable is a backend whose callers stand still for a while and then go on, as a process does between SIGSTOP and SIGCONT.
type stoppable struct {
	registrytest.Backend
	mu   sync.Mutex    // guards gate
	gate chan struct{} // nil = open
}

func (s *stoppable) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = make(chan struct{})
}

func (s *stoppable) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
	s.gate = nil
}

func (s *stoppable) pass() {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

func (s *stoppable) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	s.pass()
	return s.Backend.Range(ctx, q)
}

func (s *stoppable) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	s.pass()
	return s.Backend.Txn(ctx, t)
}

func (s *stoppable) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	s.pass()
	return s.Backend.Grant(ctx, ttl)
}

func (s *stoppable) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	s.pass()
	return s.Backend.KeepAlive(ctx, id)
}

// world starts two replicas, the first of which can be stopped.
func world(t testing.TB, b registrytest.Backend) *keeptest.World {
	t.Helper()
	stopped := &stoppable{Backend: b}
	one := registrytest.Start(t, stopped, "one", registrytest.TTL(time.Second))
	two := registrytest.Start(t, b, "two", registrytest.TTL(10*time.Second))
	w := &keeptest.World{
		A: one.Vault(), B: two.Vault(), KEK: kek(t), Other: kek(t),
		T1:  vault.Of(registrytest.Create(t, two, "t1").Scope),
		T10: vault.Of(registrytest.Create(t, two, "t10").Scope),
		Raw: func() [][]byte { return values(t, b) },
	}
	w.Pause = func() { stopped.stop() }
	w.Resume = func() {
		stopped.goOn()
		registrytest.Eventually(t, "the stopped replica writes again", func() bool {
			_, err := w.A.Commit(t.Context(), vault.Owner{}, vault.Batch{Puts: []vault.Put{{Key: "resumed", Value: []byte("x")}}})
			return err == nil
		})
	}
	w.Reborn = func() vault.Owner {
		if err := two.DeleteTenant(t.Context(), "t1", 0, registrytest.Entry("t1", "tenant.delete")); err != nil {
			t.Fatalf("DeleteTenant: %v", err)
		}
		return vault.Of(registrytest.Create(t, two, "t1").Scope)
	}
	w.Audits = func() (actions []string) {
		pending, err := two.Outbox().Pending(t.Context(), 100)
		if err != nil {
			t.Fatalf("Pending: %v", err)
		}
		for _, p := range pending {
			if p.Entry.Tenant == "t1" {
				actions = append(actions, p.Entry.Action)
			}
		}
		return actions
	}
	w.Due = func(owner string) (marks []string) {
		list, _, err := w.B.(*registry.Vault).Due(t.Context(), time.Now().AddDate(100, 0, 0), "", 0)
		if err != nil {
			t.Fatalf("Due: %v", err)
		}
		for _, d := range list {
			if d.Owner == owner {
				marks = append(marks, fmt.Sprintf("%s@%d", d.Name, d.At.UnixMilli()))
			}
		}
		return marks
	}
	return w
}

func values(t testing.TB, b registrytest.Backend) (out [][]byte) {
	t.Helper()
	for _, prefix := range []string{"v/", "c/", "x/", "t/"} {
		res, err := b.Range(t.Context(), registry.Range{Prefix: prefix})
		if err != nil {
			t.Fatalf("Range: %v", err)
		}
		for _, kv := range res.KVs {
			out = append(out, kv.Value)
		}
	}
	if len(out) == 0 {
		t.Fatal("the store is empty")
	}
	return out
}
