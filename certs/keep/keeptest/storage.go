package keeptest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// "honor context cancellations": nothing is done for a caller who is gone.
func testStorageEnds(t *testing.T, w *World) {
	k, _ := w.keepers()
	s := k.Storage(w.T1)
	store(t, s, "f", "before")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, call := range map[string]func() error{
		"Store":   func() error { return s.Store(ctx, "f", []byte("after")) },
		"Load":    func() error { _, err := s.Load(ctx, "f"); return err },
		"Delete":  func() error { return s.Delete(ctx, "f") },
		"List":    func() error { _, err := s.List(ctx, "", true); return err },
		"Stat":    func() error { _, err := s.Stat(ctx, "f"); return err },
		"Lock":    func() error { return s.Lock(ctx, "l") },
		"TryLock": func() error { _, err := s.TryLock(ctx, "l"); return err },
		"Save":    func() error { return k.Save(ctx, w.T1, host("a.test", "key"), keep.SaveOptions{}) },
		"LoadHost": func() error {
			_, err := k.Load(ctx, w.T1, "a.test")
			return err
		},
	} {
		wantIs(t, what+" with a context that is over", call(), context.Canceled)
	}
	if s.Exists(ctx, "f") {
		t.Error("Exists with a context that is over: got true")
	}
	wantFile(t, s, "f", "before")
}

// Whatever names come, none gets into another's place.
func testStorageNames(t *testing.T, w *World) {
	k, _ := w.keepers()
	s := k.Storage(w.T1)
	names := []string{
		"certificates/acme-v02.api.letsencrypt.org-directory/wildcard_.a.com/wildcard_.a.com.crt", "acme/users/me@a.com/me.json",
		"with space", "with%20space", "wíth ütf8", "\xff\xfe", "new\nline", "a\\b", "a*b", ".hidden", "...", "A", "a", "dek", "tickets", "h/a.test", "s/a",
	}
	for _, n := range names {
		store(t, s, n, "value of "+n)
	}
	for _, n := range names {
		wantFile(t, s, n, "value of "+n)
	}
	got, err := s.List(t.Context(), "", false)
	if err != nil || len(got) != len(names) {
		t.Errorf("List: got %q, %v, want the first parts of %q", got, err, names)
	}
	for _, n := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", strings.Repeat("x", 513)} {
		wantKind(t, "Store of "+n, s.Store(t.Context(), n, nil), fault.Invalid)
		wantKind(t, "Delete of "+n, s.Delete(t.Context(), n), fault.Invalid)
	}
}

func testStorageBounds(t *testing.T, w *World) {
	k, _ := w.keepers()
	s := k.Storage(w.T1)
	store(t, s, "f", strings.Repeat("x", keep.MaxFile))
	wantKind(t, "Store of too much", s.Store(t.Context(), "f", make([]byte, keep.MaxFile+1)), fault.TooLarge)
	if got, err := s.Load(t.Context(), "f"); err != nil || len(got) != keep.MaxFile {
		t.Errorf("Load: got %d bytes, %v", len(got), err)
	}
}

// Owners see nothing of each other, though one's name begins as the other's (X37).
func testStorageOwners(t *testing.T, w *World) {
	k, _ := w.keepers()
	one, ten, platform := k.Storage(w.T1), k.Storage(w.T10), k.Storage(vault.Owner{})
	store(t, one, "f", "of t1")
	store(t, ten, "f", "of t10")
	store(t, platform, "f", "of the platform")
	wantFile(t, one, "f", "of t1")
	if err := one.Delete(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	wantFile(t, ten, "f", "of t10")
	wantFile(t, platform, "f", "of the platform")
	if err := one.Lock(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*keep.Storage{ten, platform} {
		if ok, err := s.TryLock(t.Context(), "l"); !ok || err != nil {
			t.Errorf("the lock of another owner: got %v, %v, want it free", ok, err)
		}
	}
}

// "Only one lock for the given name can exist at a time. A call to Lock for a name which already exists blocks until the named
// lock is released or becomes stale."
func testLock(t *testing.T, w *World) {
	ka, kb := w.keepers()
	a, again, b := ka.Storage(w.T1), ka.Storage(w.T1), kb.Storage(w.T1)
	if err := a.Lock(t.Context(), "order"); err != nil {
		t.Fatalf("Lock: %v", err)
	}
	for what, s := range map[string]*keep.Storage{"the same view": a, "another view": again, "another replica": b} {
		if ok, err := s.TryLock(t.Context(), "order"); ok || err != nil {
			t.Errorf("TryLock by %s: got %v, %v, want it held", what, ok, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		wantIs(t, "Lock by "+what+" until its context ends", s.Lock(ctx, "order"), context.DeadlineExceeded)
		cancel()
	}
	if ok, err := b.TryLock(t.Context(), "another"); !ok || err != nil {
		t.Errorf("TryLock of another name: got %v, %v", ok, err)
	}
	wantKind(t, "Unlock by who does not hold it", b.Unlock(t.Context(), "order"), fault.Conflict)
	got := make(chan error, 1)
	go func() { got <- b.Lock(t.Context(), "order") }()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Unlock(gone, "order"); err != nil { // who is gone gives his lock back all the same
		t.Errorf("Unlock: %v", err)
	}
	select {
	case err := <-got:
		if err != nil {
			t.Errorf("Lock after the other's Unlock: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Lock still waits after the other's Unlock")
	}
	if err := b.Unlock(t.Context(), "order"); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	wantKind(t, "second Unlock", b.Unlock(t.Context(), "order"), fault.Conflict)
	store(t, b, "f", "after") // a lock that was given back fences nothing
}

func testLockNames(t *testing.T, w *World) {
	k, _ := w.keepers()
	s := k.Storage(w.T1)
	names := []string{
		"issue_cert_*.a.com", "reg_https://ca.test:14000/dir_me@a.com", "a/b", "a%2Fb", "a b", "", "wíth ütf8", "a\nb",
		strings.Repeat("x", 4000), strings.Repeat("x", 4001), "..",
	}
	for _, n := range names {
		if ok, err := s.TryLock(t.Context(), n); !ok || err != nil {
			t.Errorf("TryLock(%.40q): got %v, %v: want each of these a lock of its own", n, ok, err)
		}
	}
	for _, n := range names {
		if err := s.Unlock(t.Context(), n); err != nil {
			t.Errorf("Unlock(%.40q): %v", n, err)
		}
	}
}

// Each of many callers, of both replicas and of one view, has the lock alone.
func testLockConcurrent(t *testing.T, w *World) {
	ka, kb := w.keepers()
	views := []*keep.Storage{ka.Storage(w.T1), kb.Storage(w.T1)}
	var inside, done atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			s := views[i%2]
			if err := s.Lock(t.Context(), "l"); err != nil {
				t.Errorf("Lock: %v", err)
				return
			}
			if n := inside.Add(1); n != 1 {
				t.Errorf("%d callers hold the lock", n)
			}
			if err := s.Store(t.Context(), "f", []byte{byte(i)}); err != nil {
				t.Errorf("Store under the lock: %v", err)
			}
			inside.Add(-1)
			done.Add(1)
			if err := s.Unlock(t.Context(), "l"); err != nil {
				t.Errorf("Unlock: %v", err)
			}
		})
	}
	wg.Wait()
	if done.Load() != 6 {
		t.Errorf("%d callers had the lock, want 6", done.Load())
	}
}

// A holder that was stopped loses its lock, somebody else gets it, and what the holder then does under its lock is refused.
func testLockPaused(t *testing.T, w *World) {
	ka, kb := w.keepers()
	a, b := ka.Storage(w.T1), kb.Storage(w.T1)
	if err := a.Lock(t.Context(), "order"); err != nil {
		t.Fatalf("Lock: %v", err)
	}
	store(t, a, "f", "of a")
	w.Pause()
	if err := b.Lock(t.Context(), "order"); err != nil {
		t.Fatalf("Lock while its holder is stopped: %v", err)
	}
	store(t, b, "f", "of b")
	w.Resume()
	wantIs(t, "Store by the stopped holder", a.Store(t.Context(), "f", []byte("late")), vault.ErrFenced)
	wantIs(t, "Delete by the stopped holder", a.Delete(t.Context(), "f"), vault.ErrFenced)
	if err := a.Store(t.Context(), "f", nil); !fault.Is(err, fault.Conflict) || errors.Is(err, vault.ErrDamaged) {
		t.Errorf("Store by the stopped holder: got %v, want a conflict", err)
	}
	wantFile(t, a, "f", "of b")
	if err := a.Unlock(t.Context(), "order"); err != nil {
		t.Errorf("Unlock of a lock that was lost: %v", err)
	}
	if ok, err := a.TryLock(t.Context(), "order"); ok || err != nil {
		t.Errorf("TryLock after that: got %v, %v: the other one holds it", ok, err)
	}
	store(t, a, "g", "a view without locks writes again")
	if err := b.Unlock(t.Context(), "order"); err != nil {
		t.Errorf("Unlock: %v", err)
	}
}
