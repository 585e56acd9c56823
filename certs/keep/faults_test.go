package keep_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// hooked is a vault whose calls can be answered by the test.
type hooked struct {
	keep.Vault
	commit func() error // nil = as ever
	unlock func() error
	gets   int
}

func (h *hooked) Get(ctx context.Context, o vault.Owner, key string) (vault.Item, error) {
	h.gets++
	return h.Vault.Get(ctx, o, key)
}

func (h *hooked) Commit(ctx context.Context, o vault.Owner, b vault.Batch) (int64, error) {
	if h.commit != nil {
		if err := h.commit(); err != nil {
			return 0, err
		}
	}
	return h.Vault.Commit(ctx, o, b)
}

func (h *hooked) Unlock(ctx context.Context, l vault.Lock) error {
	if h.unlock != nil {
		return h.unlock()
	}
	return h.Vault.Unlock(ctx, l)
}

func hosted(name string) *keep.Host {
	return &keep.Host{Host: name, Source: tenant.SourceACME, Chain: []byte("chain"), Key: []byte("key of " + name)}
}

// single starts one replica on a store in memory, with a tenant.
func single(t testing.TB) (*registrytest.Faulty, *hooked, vault.Owner) {
	t.Helper()
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	f := &registrytest.Faulty{Backend: b}
	r := registrytest.Start(t, f, "one")
	return f, &hooked{Vault: r.Vault()}, vault.Of(registrytest.Create(t, r, "t1").Scope)
}

// A full store is said to be full in whatever is stored, and what was there stays and can be read.
func TestStorageFull(t *testing.T) {
	_, v, o := single(t)
	k := keep.New(v, kek(t))
	s := k.Storage(o)
	ctx := t.Context()
	h := hosted("a.test")
	if err := errors.Join(s.Store(ctx, "f", []byte("old")), k.Save(ctx, o, h, keep.SaveOptions{})); err != nil {
		t.Fatal(err)
	}
	if _, err := k.TicketKeys(ctx, time.Unix(0, 0), time.Hour); err != nil {
		t.Fatal(err)
	}
	full := fault.Wrap(fault.Unavailable, fmt.Errorf("%w: no space", registry.ErrRejected), "etcd's database is full")
	v.commit = func() error { return full }
	_, ticketErr := k.TicketKeys(ctx, time.Unix(1e6, 0), time.Hour)
	for what, err := range map[string]error{
		"Store":       s.Store(ctx, "f", []byte("new")),
		"first Store": k.Storage(vault.Owner{}).Store(ctx, "f", []byte("new")),
		"Delete":      s.Delete(ctx, "f"),
		"Save":        k.Save(ctx, o, hosted("a.test"), keep.SaveOptions{}),
		"Remove":      k.Remove(ctx, o, "a.test", 0, nil),
		"TicketKeys":  ticketErr,
	} {
		if !errors.Is(err, registry.ErrRejected) || fault.From(err).Detail != full.Detail || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s in a full store: got %v, want %v in it", what, err, full)
		}
	}
	if got, err := s.Load(ctx, "f"); err != nil || string(got) != "old" {
		t.Errorf("Load: got %q, %v, want what was there", got, err)
	}
	if got, err := k.Load(ctx, o, "a.test"); err != nil || got.Revision != h.Revision {
		t.Errorf("Load: got %+v, %v, want what was there", got, err)
	}
}

// A value whose outer form is damaged harms its own host alone: the others are listed, and it can be replaced and removed. One
// of a newer version is not taken for damaged.
func TestOuterDamage(t *testing.T) {
	f, v, o := single(t)
	k := keep.New(v, kek(t))
	ctx := t.Context()
	plant := func(value string) {
		t.Helper()
		for _, name := range []string{"a.test", "b.test", "c.test"} {
			if err := k.Save(ctx, o, hosted(name), keep.SaveOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.Txn(ctx, &registry.Txn{Puts: []registry.Put{{Key: "v/t1/h/b.test", Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
		list, _, err := k.List(ctx, o, "", 0)
		if err != nil || len(list) != 3 || list[1].Order.Code != keep.CodeDamaged || list[1].Host != "b.test" || list[2].Order.Code != "" {
			t.Errorf("List beside %q: %d hosts, %v", value, len(list), err)
		}
	}
	plant("{")
	if _, err := k.Load(ctx, o, "b.test"); !errors.Is(err, vault.ErrDamaged) {
		t.Errorf("Load of a damaged value: %v", err)
	}
	if err := k.Remove(ctx, o, "b.test", 0, nil); err != nil {
		t.Errorf("Remove of a damaged value: %v", err)
	}
	plant(`{"v":3}`)
	if _, err := k.Load(ctx, o, "b.test"); !errors.Is(err, vault.ErrNewer) || errors.Is(err, vault.ErrDamaged) {
		t.Errorf("Load of a newer value: %v", err)
	}
	if err := k.Remove(ctx, o, "b.test", 0, nil); err != nil {
		t.Errorf("Remove of a newer value: %v", err)
	}
	if _, err := k.Load(ctx, o, "b.test"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Load of what was removed: %v", err)
	}
}

// Answers that get lost change nothing: each change is made once and its revision is the stored one.
func TestLostAnswers(t *testing.T) {
	f, v, o := single(t)
	k := keep.New(v, kek(t))
	for i := range 3 {
		f.LoseAnswers(1)
		h := hosted("a.test")
		if err := k.Save(t.Context(), o, h, keep.SaveOptions{}); err != nil {
			t.Fatalf("Save %d: %v", i, err)
		}
		got, err := k.Load(t.Context(), o, "a.test")
		if err != nil || got.Revision != h.Revision {
			t.Errorf("Load %d: got %+v, %v, want revision %d", i, got, err, h.Revision)
		}
	}
	f.LoseAnswers(1)
	if err := k.Storage(o).Store(t.Context(), "f", []byte("x")); err != nil {
		t.Errorf("Store: %v", err)
	}
}

// An unanswered store is an error in the caller's time, and not taken for something that is not there.
func TestStoreAway(t *testing.T) {
	f, v, o := single(t)
	k := keep.New(v, kek(t))
	if err := k.Save(t.Context(), o, hosted("a.test"), keep.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Hang(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := k.Storage(o)
	_, loaded := k.Load(ctx, o, "a.test")
	_, read := s.Load(ctx, "f")
	_, stat := s.Stat(ctx, "f")
	_, listed := s.List(ctx, "", true)
	for what, err := range map[string]error{"Load": loaded, "Storage.Load": read, "Stat": stat, "List": listed, "Lock": s.Lock(ctx, "l")} {
		if !fault.Is(err, fault.Unavailable) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want it unavailable", what, err)
		}
	}
	if s.Exists(ctx, "f") {
		t.Error("Exists: got true")
	}
	f.Hang(false)
}

// "Unlock should only return an error if the lock was unable to be released"; the view is free of the lock all the same.
func TestUnlockFails(t *testing.T) {
	_, v, o := single(t)
	s := keep.New(v, kek(t)).Storage(o)
	if err := s.Lock(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	v.unlock = func() error { return fault.New(fault.Unavailable, "no answer") }
	if err := s.Unlock(t.Context(), "l"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Unlock: got %v, want what the vault said", err)
	}
	if err := s.Store(t.Context(), "f", nil); err != nil {
		t.Errorf("Store: %v", err)
	}
}

// A load costs one read; the data key is read once.
func TestOneRead(t *testing.T) {
	_, v, o := single(t)
	key := kek(t)
	if err := keep.New(v, key).Save(t.Context(), o, hosted("a.test"), keep.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	k := keep.New(v, key)
	for i, want := range []int{2, 1, 1} {
		v.gets = 0
		if _, err := k.Load(t.Context(), o, "a.test"); err != nil {
			t.Fatal(err)
		}
		if v.gets != want {
			t.Errorf("load %d: %d reads, want %d", i, v.gets, want)
		}
	}
}

// BenchmarkLoad is a load of a host of 2.8 KB of chain from the store in memory, with the data key at hand and without.
func BenchmarkLoad(b *testing.B) {
	_, v, o := single(b)
	key := kek(b)
	k := keep.New(v, key)
	h := hosted("a.test")
	h.Chain = make([]byte, 2800)
	for i := range h.Chain {
		h.Chain[i] = 'A'
	}
	if err := k.Save(b.Context(), o, h, keep.SaveOptions{}); err != nil {
		b.Fatal(err)
	}
	load := func(b *testing.B, of func() *keep.Keeper) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := of().Load(b.Context(), o, "a.test"); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("warm", func(b *testing.B) { load(b, func() *keep.Keeper { return k }) })
	b.Run("cold key", func(b *testing.B) { load(b, func() *keep.Keeper { return keep.New(v, key) }) })
}
