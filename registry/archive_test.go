package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/archive"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/etcd"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// eachStore runs a test on the store in memory, and on a real etcd.
func eachStore(t *testing.T, f func(t *testing.T, open func(root string) registrytest.Backend)) {
	t.Run("memory", func(t *testing.T) {
		f(t, func(string) registrytest.Backend {
			b := memory.New()
			t.Cleanup(func() { _ = b.Close() })
			return b
		})
	})
	t.Run("etcd", func(t *testing.T) {
		e, err := etcd.StartEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.Close() })
		f(t, func(root string) registrytest.Backend {
			b, err := e.Backend(root)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = b.Close() })
			return b
		})
	})
}

// offline returns a store that nobody runs.
func offline(t *testing.T, b registry.Backend) *registry.Store {
	t.Helper()
	s, err := registry.New(registry.Config{Backend: b, Replica: "restorer", BaseDomain: registrytest.BaseDomain})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keysOf returns all keys and values that a backup holds.
func keysOf(t *testing.T, b registry.Backend) map[string]string {
	t.Helper()
	res, err := b.Range(t.Context(), registry.Range{})
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, kv := range res.KVs {
		if kv.Lease == 0 {
			all[kv.Key] = string(kv.Value)
		}
	}
	return all
}

// fill makes what a platform has: tenants with hosts, keys and state, a vault, platform data, the audit outbox.
func fill(t *testing.T, r *registrytest.Replica, tenants int) {
	t.Helper()
	for i := range tenants {
		id := fmt.Sprintf("t%d", i)
		e := registrytest.Create(t, r, id, registrytest.Host(id+".example.com"), registrytest.Key("key-"+id))
		c := registrytest.Claim(t, r, e.Scope)
		for j := range 3 {
			registrytest.Write(t, c, "server", fmt.Sprintf("s%d", j), fmt.Sprintf(`{"v":1,"of":%q}`, id))
		}
		if _, err := r.Vault().Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Puts: []vault.Put{{Key: "h/" + id, Value: []byte("sealed")}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Platform().Create(t.Context(), "thing", []byte(`{"v":1}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Vault().Lock(t.Context(), "busy"); err != nil {
		t.Fatal(err)
	}
}

func backup(t *testing.T, s *registry.Store) ([]byte, archive.Manifest) {
	t.Helper()
	var b bytes.Buffer
	m, err := s.Backup(t.Context(), &b, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

// TestBackupRestore holds that a restored root is what the backed-up one was, and works.
func TestBackupRestore(t *testing.T) {
	eachStore(t, func(t *testing.T, open func(string) registrytest.Backend) {
		from, to := open("from/"), open("to/")
		r := registrytest.Start(t, from, "a")
		fill(t, r, 10)
		file, m := backup(t, r.Store)
		want := keysOf(t, from)
		if m.End.Entries != len(want) || m.Kind != archive.Backup {
			t.Errorf("the backup has %d entries, the store %d: %+v", m.End.Entries, len(want), m)
		}
		r.Stop()
		var steps []int
		s := offline(t, to)
		if _, err := s.Restore(t.Context(), bytes.NewReader(file), registry.RestoreOptions{}, func(done, total int) {
			if steps = append(steps, done); total != len(want) {
				t.Errorf("progress of %d, want %d", total, len(want))
			}
		}); err != nil {
			t.Fatal(err)
		}
		if got := keysOf(t, to); !mapsEqual(got, want) {
			t.Errorf("restored:\n%v\nwant\n%v", got, want)
		}
		if len(steps) == 0 || steps[len(steps)-1] != len(want) {
			t.Errorf("progress ended at %v, want %d", steps, len(want))
		}
		again := registrytest.Start(t, to, "b")
		e, ok := again.Index().ByID("t3")
		if !ok {
			t.Fatal("t3 is not in the index")
		}
		c := registrytest.Claim(t, again, e.Scope)
		if got := registrytest.Objects(t, c, "server"); len(got) != 3 {
			t.Errorf("t3 has %v", got)
		}
		registrytest.Write(t, c, "server", "s9", "new")
		if _, err := again.CreateTenant(t.Context(), registrytest.Record("other", registrytest.Host("t3.example.com")), registrytest.Entry("", "tenant.create")); !fault.Is(err, fault.Conflict) {
			t.Errorf("a host of a restored tenant was given to another: %v", err)
		}
	})
}

func mapsEqual(a, b map[string]string) bool {
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return len(a) == len(b)
}

// TestBackupIsOfOneMoment writes while the backup is read: pairs of objects that change together stay together.
func TestBackupIsOfOneMoment(t *testing.T) {
	eachStore(t, func(t *testing.T, open func(string) registrytest.Backend) {
		b := open("busy/")
		r := registrytest.Start(t, b, "a")
		e := registrytest.Create(t, r, "team")
		c := registrytest.Claim(t, r, e.Scope)
		for i := range 200 { // several pages lie between the two
			registrytest.Write(t, c, "server", fmt.Sprintf("m%03d", i), "x")
		}
		n := 0
		bump := func() {
			n++
			v := []byte(fmt.Sprint(n))
			err := c.Commit(t.Context(), registrytest.Entry("team", "server.create"), tenant.Write{Kind: "server", ID: "a", Value: v}, tenant.Write{Kind: "server", ID: "z", Value: v})
			if err != nil {
				t.Error(err)
			}
		}
		bump()
		var file bytes.Buffer
		if _, err := r.Backup(t.Context(), &file, "", func(int, int) { bump() }); err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		a, err := archive.NewReader(&file)
		if err != nil {
			t.Fatal(err)
		}
		for {
			name, value, err := a.Next()
			if err != nil {
				break
			}
			got[name] = string(value)
		}
		if first, last := got["t/team/server/a"], got["t/team/server/z"]; first != last || first != "1" || n < 3 {
			t.Errorf("the backup has %q and %q, which changed together %d times: want 1 and 1", first, last, n)
		}
	})
}

// TestBackupOfForgottenRevision says what happened where the store forgets what is being read.
func TestBackupOfForgottenRevision(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	e := registrytest.Create(t, r, "team")
	c := registrytest.Claim(t, r, e.Scope)
	for i := range 200 {
		registrytest.Write(t, c, "server", fmt.Sprintf("m%03d", i), "x")
	}
	_, err := r.Backup(t.Context(), io.Discard, "", func(int, int) {
		registrytest.Write(t, c, "server", "more", "x")
		if err := b.Compact(t.Context(), b.Revision()); err != nil {
			t.Error(err)
		}
	})
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("Backup = %v, want fault.Unavailable", err)
	}
}

// TestRestoreRefuses holds what a restore must not do.
func TestRestoreRefuses(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	fill(t, r, 2)
	file, _ := backup(t, r.Store)
	want := keysOf(t, b)
	s := offline(t, b)
	refused := func(name string, err error, kind fault.Kind, text string) {
		t.Helper()
		if !fault.Is(err, kind) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %v with %q", name, err, kind, text)
		}
		if got := keysOf(t, b); !mapsEqual(got, want) {
			t.Errorf("%s: something was written: %v", name, got)
		}
	}
	restore := func(b []byte, opt registry.RestoreOptions) error {
		_, err := s.Restore(t.Context(), bytes.NewReader(b), opt, nil)
		return err
	}
	refused("with a live replica", restore(file, registry.RestoreOptions{Force: true}), fault.Conflict, "replica a is live")
	r.Stop()
	refused("into data", restore(file, registry.RestoreOptions{}), fault.Conflict, "--force")
	broken := bytes.Clone(file)
	broken[len(broken)/2] ^= 1
	if err := restore(broken, registry.RestoreOptions{Force: true}); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a damaged backup: %v", err)
	}
	if err := restore(file[:len(file)-1], registry.RestoreOptions{Force: true}); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a cut backup: %v", err)
	}
	no := errors.New("another key")
	if err := restore(file, registry.RestoreOptions{Force: true, Accept: func(archive.Manifest) error { return no }}); !errors.Is(err, no) {
		t.Errorf("one that is not accepted: %v", err)
	}
	if got := keysOf(t, b); !mapsEqual(got, want) {
		t.Errorf("something was written: %v", got)
	}
}

// failingBackend fails every transaction from one on, as an etcd that goes away, or a process that is killed.
type failingBackend struct {
	registry.Backend
	left int
}

var errGone = errors.New("gone")

func (f *failingBackend) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if f.left--; f.left < 0 {
		return nil, errGone
	}
	return f.Backend.Txn(ctx, t)
}

// TestRestoreResumes ends a restore after each of its transactions. What is left does not serve, cannot be backed up, and is
// made whole by the same restore.
func TestRestoreResumes(t *testing.T) {
	from := memory.New()
	t.Cleanup(func() { _ = from.Close() })
	r := registrytest.Start(t, from, "a")
	fill(t, r, 60)
	file, _ := backup(t, r.Store)
	want := keysOf(t, from)
	r.Stop()
	ended := false
	for after := 1; !ended; after++ {
		b := memory.New()
		t.Cleanup(func() { _ = b.Close() })
		if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: "x/stale", Value: []byte("{}")}, {Key: "y", Value: []byte("{}")}}}); err != nil {
			t.Fatal(err)
		}
		_, err := offline(t, &failingBackend{b, after}).Restore(t.Context(), bytes.NewReader(file), registry.RestoreOptions{Force: true}, nil)
		ended = err == nil
		s := offline(t, b)
		if !ended {
			checkUnfinished(t, s, after)
			other := slices.Concat(file) // the same again
			if _, err := s.Restore(t.Context(), bytes.NewReader(other), registry.RestoreOptions{}, nil); err != nil {
				t.Fatalf("ended after %d, and again: %v", after, err)
			}
		}
		if got := keysOf(t, b); !mapsEqual(got, want) {
			t.Errorf("ended after %d, and again: %d keys, want %d", after, len(got), len(want))
		}
		if err := s.CheckRestored(t.Context()); err != nil {
			t.Errorf("after the end: %v", err)
		}
		if after > 50 {
			t.Fatal("it never ends")
		}
	}
}

func checkUnfinished(t *testing.T, s *registry.Store, after int) {
	t.Helper()
	if err := s.CheckRestored(t.Context()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "polygate restore") {
		t.Errorf("ended after %d: CheckRestored = %v", after, err)
	}
	if _, err := s.Backup(t.Context(), io.Discard, "", nil); !fault.Is(err, fault.Conflict) {
		t.Errorf("ended after %d: a backup of the half: %v", after, err)
	}
}

// TestRestoreOfAnotherBackup does not mix two.
func TestRestoreOfAnotherBackup(t *testing.T) {
	from, to := memory.New(), memory.New()
	t.Cleanup(func() { _ = from.Close(); _ = to.Close() })
	r := registrytest.Start(t, from, "a")
	fill(t, r, 40)
	first, _ := backup(t, r.Store)
	if err := r.DeleteTenant(t.Context(), "t7", 0, registrytest.Entry("", "tenant.delete")); err != nil {
		t.Fatal(err)
	}
	second, _ := backup(t, r.Store)
	want := keysOf(t, from)
	if _, err := offline(t, &failingBackend{to, 3}).Restore(t.Context(), bytes.NewReader(first), registry.RestoreOptions{}, nil); err == nil {
		t.Fatal("the first restore ended")
	}
	s := offline(t, to)
	if _, err := s.Restore(t.Context(), bytes.NewReader(second), registry.RestoreOptions{}, nil); !fault.Is(err, fault.Conflict) {
		t.Errorf("another backup over the half: %v, want fault.Conflict", err)
	}
	if _, err := s.Restore(t.Context(), bytes.NewReader(second), registry.RestoreOptions{Force: true}, nil); err != nil {
		t.Fatal(err)
	}
	if got := keysOf(t, to); !mapsEqual(got, want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
}

// TestRestoreSuperseded holds that a restore whose mark another has taken writes nothing more.
func TestRestoreSuperseded(t *testing.T) {
	from, to := memory.New(), memory.New()
	t.Cleanup(func() { _ = from.Close(); _ = to.Close() })
	r := registrytest.Start(t, from, "a")
	fill(t, r, 60)
	file, _ := backup(t, r.Store)
	want := keysOf(t, from)
	other := offline(t, to)
	_, err := offline(t, to).Restore(t.Context(), bytes.NewReader(file), registry.RestoreOptions{}, func(done, total int) {
		if done < 150 {
			if _, err := other.Restore(t.Context(), bytes.NewReader(file), registry.RestoreOptions{Force: true}, nil); err != nil {
				t.Error(err)
			}
			if _, err := to.Txn(t.Context(), &registry.Txn{Deletes: []string{"x/t59"}}); err != nil { // as work does that began since
				t.Error(err)
			}
		}
	})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("the first restore = %v, want fault.Conflict", err)
	}
	delete(want, "x/t59")
	if got := keysOf(t, to); !mapsEqual(got, want) {
		t.Errorf("the first one wrote after the second: %d keys, want %d", len(got), len(want))
	}
}

// TestSnapshot reads a tenant's state without a claim, and never a former tenant's.
func TestSnapshot(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	old := registrytest.Create(t, r, "team")
	registrytest.Write(t, registrytest.Claim(t, r, old.Scope), "server", "s", "old")
	snap, err := r.Snapshot(t.Context(), old.Scope)
	if err != nil || len(snap.Objects) != 1 || string(snap.Objects[0].Value) != "old" || snap.Entry.Record.ID != "team" {
		t.Fatalf("Snapshot = %+v, %v", snap, err)
	}
	if err := r.DeleteTenant(t.Context(), "team", 0, registrytest.Entry("", "tenant.delete")); err != nil {
		t.Fatal(err)
	}
	registrytest.Create(t, r, "team")
	if _, err := r.Snapshot(t.Context(), old.Scope); !fault.Is(err, fault.NotFound) {
		t.Errorf("Snapshot of the former tenant: %v, want fault.NotFound", err)
	}
}

// TestBackupOfThousands shows what a backup takes where there is much to read.
func TestBackupOfThousands(t *testing.T) {
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "team").Scope)
	for i := range 30 {
		var w []tenant.Write
		for j := range 100 {
			w = append(w, tenant.Write{Kind: "server", ID: fmt.Sprintf("s%d-%d", i, j), Value: []byte(strings.Repeat("x", 100))})
		}
		if err := c.Commit(t.Context(), registrytest.Entry("team", "server.create"), w...); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	_, m := backup(t, r.Store)
	t.Logf("%d keys of %d bytes in %v", m.End.Entries, m.End.Bytes, time.Since(start))
}
