package etcd_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/etcd/etcdtest"
	"github.com/polygate/polygate/registry/registrytest"
)

// TestMain looks for leaked goroutines. A start that fails over broken data leaves two of etcd's; the process ends then.
// Members of a cluster leave connections between each other, which end with their process in real life.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, append(etcdtest.Leaks(),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"), goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/wal.(*filePipeline).run"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/server/v3/storage/backend.(*backend).run"))...)
}

func startEmbedded(t testing.TB, cfg etcd.EmbeddedConfig) *etcd.Embedded {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	start := time.Now()
	e, err := etcd.StartEmbedded(t.Context(), cfg)
	if err != nil {
		t.Fatalf("StartEmbedded: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second { // 0.4 s where nothing else runs
		t.Errorf("ready after %v", took)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return e
}

// roots gives each part of the suite a root of its own on one server: r1/, r10/ and so on also show that roots do not
// bleed into each other.
func roots(open func(root string) (*etcd.Backend, error)) func(t *testing.T) registrytest.Backend {
	var n atomic.Int32
	return func(t *testing.T) registrytest.Backend {
		t.Helper()
		b, err := open(fmt.Sprintf("r%d/", n.Add(1)))
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return b
	}
}

// TestEmbedded runs the suite on the server in this process, without a network.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	e := startEmbedded(t, etcd.EmbeddedConfig{})
	registrytest.Run(t, roots(func(root string) (*etcd.Backend, error) {
		b, err := e.Backend(root)
		if err != nil {
			return nil, err
		}
		return b, b.Check(t.Context())
	}))
}

// TestExternal runs it over gRPC, as on an etcd cluster elsewhere.
func TestExternal(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	startEmbedded(t, etcd.EmbeddedConfig{Socket: socket})
	registrytest.Run(t, roots(func(root string) (*etcd.Backend, error) {
		b, err := etcd.New(etcd.Config{Endpoints: []string{"unix://" + socket}, Root: root})
		if err != nil {
			return nil, err
		}
		return b, b.Check(t.Context())
	}))
}

// TestRestart: what was acknowledged is there after the server has been closed and opened again.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: dir})
		if err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		b, err := e.Backend("")
		if err != nil {
			t.Fatalf("Backend: %v", err)
		}
		got, err := b.Range(t.Context(), registry.Range{Prefix: "c/"})
		if err != nil || len(got.KVs) != i {
			t.Errorf("start %d: %d keys, %v", i, len(got.KVs), err)
		}
		if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: fmt.Sprint("c/", i), Value: []byte("1")}}}); err != nil {
			t.Errorf("Txn: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// TestStartErrors: each refusal is one line that says what to do.
func TestStartErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := t.TempDir()
	startEmbedded(t, etcd.EmbeddedConfig{Dir: inUse})
	for _, c := range []struct{ name, dir, want string }{
		{"no folder", "", "no data folder"},
		{"a file", filepath.Join(file, "data"), "cannot be made"},
		{"in use", inUse, "in use by another process"},
		{"broken database", broken(t, "member/snap/db", 4096*3, "x"), "restore the folder from a backup"},
		{"broken log", broken(t, "member/wal/*.wal", 64, "\xff"), "restore the folder from a backup"},
	} {
		start := time.Now()
		e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: c.dir})
		if err == nil {
			t.Errorf("%s: it started", c.name)
			_ = e.Close()
			continue
		}
		if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %q, want one line with %q", c.name, err, c.want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: said after %v", c.name, took)
		}
	}
}

// broken makes a data folder and overwrites n bytes in a file of it.
func broken(t *testing.T, glob string, n int, with string) string {
	t.Helper()
	dir := t.TempDir()
	e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatalf("StartEmbedded: %v", err)
	}
	_ = e.Close()
	files, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil || len(files) != 1 {
		t.Fatalf("glob %s: %v, %v", glob, files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat(with, n)), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestUnreachable: an etcd that is not there is Unavailable in good time, and asking it does not burn the processor.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	b, err := etcd.New(etcd.Config{Endpoints: []string{"unix://" + filepath.Join(t.TempDir(), "none.sock")}, RequestTimeout: time.Second})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	defer b.Close()
	start := time.Now()
	_, err = b.Range(t.Context(), registry.Range{Key: "x/a"})
	registrytest.WantKind(t, "Range", err, fault.Unavailable)
	_, err = b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: "x/a"}}})
	registrytest.WantKind(t, "Txn", err, fault.Unavailable)
	_, err = b.KeepAlive(t.Context(), 1)
	registrytest.WantKind(t, "KeepAlive", err, fault.Unavailable)
	registrytest.WantKind(t, "Check", b.Check(t.Context()), fault.Unavailable)
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("the answers took %v", took)
	}
}

// TestConfig: what is wrong with a configuration is said before anything is dialled.
func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  etcd.Config
		want string
	}{
		{etcd.Config{Endpoints: []string{"localhost:1"}, Root: "pg"}, "must end in /"},
		{etcd.Config{}, "no endpoints"},
	} {
		if _, err := etcd.New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v): got %v, want %q", c.cfg, err, c.want)
		}
	}
}

// TestAuth: what is wrong with user and password is said in words, by New or by Check.
func TestAuth(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "etcd.sock")
	startEmbedded(t, etcd.EmbeddedConfig{Socket: socket})
	endpoints := []string{"unix://" + socket}
	open := func(user, password string) error {
		b, err := etcd.New(etcd.Config{Endpoints: endpoints, Username: user, Password: password})
		if err != nil {
			return err
		}
		defer b.Close()
		return b.Check(t.Context())
	}
	enableAuth(t, endpoints)
	for _, c := range []struct{ user, password, want string }{
		{"root", "right", "<nil>"},
		{"root", "wrong", "does not accept the configured user and password"},
		{"nobody", "x", "does not accept the configured user and password"},
		{"limited", "x", "does not let the configured user (etcd.user) read and write everything under etcd.prefix"},
		{"", "", "set etcd.user and etcd.password_file"},
	} {
		if err := open(c.user, c.password); !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s/%s: got %v, want %q", c.user, c.password, err, c.want)
		}
	}
}

func enableAuth(t *testing.T, endpoints []string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	_, err1 := c.UserAdd(ctx, "root", "right")
	_, err2 := c.UserGrantRole(ctx, "root", "root")
	_, err3 := c.UserAdd(ctx, "limited", "x")
	_, err4 := c.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatalf("enable auth: %v", err)
	}
}

// TestFull: when etcd's quota is used up (X47), changes are refused in words and at once, while reads, the session and
// the claims go on.
func TestFull(t *testing.T) {
	e := startEmbedded(t, etcd.EmbeddedConfig{Quota: 6 << 20})
	b, err := e.Backend("")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := registrytest.Start(t, b, "r1", registrytest.TTL(time.Second))
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	registrytest.Write(t, c, "server", "s", "{}")
	for i := 0; err == nil && i < 100; i++ {
		err = r.Platform().Create(t.Context(), fmt.Sprint("filler/", i), make([]byte, 1<<19))
	}
	registrytest.WantKind(t, "Create in a full store", err, fault.Unavailable)
	start := time.Now()
	err = c.Commit(t.Context(), registrytest.Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
	if !errors.Is(err, registry.ErrRejected) || !strings.Contains(err.Error(), "database is full") || time.Since(start) > time.Second {
		t.Errorf("Commit in a full store: %v after %v", err, time.Since(start))
	}
	<-time.After(2 * time.Second) // two of the session's TTLs
	if err := r.Healthy(); err != nil || c.Context().Err() != nil {
		t.Errorf("in a full store: %v, claim %v", err, c.Context().Err())
	}
	if got := registrytest.Objects(t, c, "server"); len(got) != 1 {
		t.Errorf("Load in a full store: %v", got)
	}
}
