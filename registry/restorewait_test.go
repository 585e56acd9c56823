package registry_test

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// leaderless refuses everything while it is on, as a member of etcd does that sees no majority, and counts what it refused.
type leaderless struct {
	registry.Backend
	on      atomic.Bool
	every   int64 // also every so many-eth call; 0 = none
	calls   atomic.Int64
	refused atomic.Int64
	watches atomic.Int64
}

func (l *leaderless) refuse() error {
	n := l.calls.Add(1)
	if !l.on.Load() && (l.every == 0 || n%l.every != 0) {
		return nil
	}
	l.refused.Add(1)
	return fault.New(fault.Unavailable, "there is no leader")
}

func (l *leaderless) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if err := l.refuse(); err != nil {
		return nil, err
	}
	return l.Backend.Range(ctx, q)
}

func (l *leaderless) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if err := l.refuse(); err != nil {
		return nil, err
	}
	return l.Backend.Txn(ctx, t)
}

func (l *leaderless) Watch(ctx context.Context, from int64, prefixes []string, deliver func(registry.Batch)) error {
	if err := l.refuse(); err != nil {
		return err
	}
	l.watches.Add(1)
	return l.Backend.Watch(ctx, from, prefixes, deliver)
}

// backedUp returns a store in memory whose replica has been stopped, and a backup of it.
func backedUp(t *testing.T) (*memory.Backend, []byte) {
	t.Helper()
	b := memory.New()
	t.Cleanup(func() { _ = b.Close() })
	r := registrytest.Start(t, b, "a")
	fill(t, r, 2)
	file, _ := backup(t, r.Store)
	r.Stop()
	return b, file
}

func restore(t *testing.T, b registry.Backend, file []byte, opt registry.RestoreOptions) error {
	t.Helper()
	opt.Force = true
	_, err := offline(t, b).Restore(t.Context(), bytes.NewReader(file), opt, nil)
	return err
}

// awaiting runs AwaitRestored, as a member that is lent.
func awaiting(t *testing.T, b registry.Backend) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	s := offline(t, b)
	go func() { done <- s.AwaitRestored(t.Context()) }()
	return done
}

func mustEnd(t *testing.T, when string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s, AwaitRestored = %v", when, err)
		}
	case <-time.After(time.Minute):
		t.Errorf("%s, AwaitRestored has not returned", when)
	}
}

// TestAwaitRestored: a member that is lent hears of the end of a restore, whatever it missed of it.
func TestAwaitRestored(t *testing.T) {
	t.Run("without a leader for a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, file := backedUp(t)
			l := &leaderless{Backend: b}
			l.on.Store(true)
			done := awaiting(t, l)
			time.Sleep(time.Minute) // as in a bubble: until it has tried for so long
			if l.refused.Load() < 100 {
				t.Errorf("it has asked %d times", l.refused.Load())
			}
			l.on.Store(false)
			time.Sleep(time.Second)
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, "heard after a leader came", done)
		})
	})
	t.Run("late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, file := backedUp(t)
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			mustEnd(t, "begun after the end", awaiting(t, b))
			time.Sleep(time.Minute)
			done := awaiting(t, b)
			time.Sleep(time.Minute)
			select {
			case err := <-done:
				t.Errorf("an old restore was taken for one to come: %v", err)
			default:
			}
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, "of the next", done)
			if err := restore(t, &failingBackend{b, 1}, file, registry.RestoreOptions{}); err == nil {
				t.Fatal("a restore that was broken off ended")
			}
			done = awaiting(t, b) // while the word of the one before would be there
			time.Sleep(time.Second)
			select {
			case err := <-done:
				t.Errorf("the end of the restore before was taken for that of the one under way: %v", err)
			default:
			}
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, "of the one under way", done)
		})
	})
	t.Run("cut off during all of it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, file := backedUp(t)
			faulty := &registrytest.Faulty{Backend: b}
			l := &leaderless{Backend: faulty}
			done := awaiting(t, l)
			time.Sleep(time.Second)
			l.on.Store(true)
			faulty.CutWatch()
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := b.Compact(t.Context(), b.Revision()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // longer than the end is to be seen
			l.on.Store(false)
			time.Sleep(10 * time.Second)
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil { // its operator looks, and restores again
				t.Fatal(err)
			}
			mustEnd(t, "of the second", done)
		})
	})
	t.Run("over a compaction", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, file := backedUp(t)
			faulty := &registrytest.Faulty{Backend: b}
			l := &leaderless{Backend: faulty}
			done := awaiting(t, l)
			time.Sleep(time.Second)
			mustPut(t, b, "c/other")
			mustPut(t, b, "c/other")
			if err := b.Compact(t.Context(), b.Revision()); err != nil {
				t.Fatal(err)
			}
			faulty.CutWatch()
			time.Sleep(time.Second)
			was := l.watches.Load()
			time.Sleep(10 * time.Second)
			if again := l.watches.Load() - was; again > 1 {
				t.Errorf("the watch was begun %d times more", again)
			}
			if err := restore(t, b, file, registry.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, "watched anew", done)
		})
	})
}

func mustPut(t *testing.T, b registry.Backend, key string) {
	t.Helper()
	if _, err := b.Txn(t.Context(), &registry.Txn{Puts: []registry.Put{{Key: key, Value: []byte("{}")}}}); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreWaitsForLeases: the leases of killed replicas are waited for, a replica that lives is not waited for without end, and
// without Patience nothing is.
func TestRestoreWaitsForLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, file := backedUp(t)
		process := registrytest.NewProcess(b)
		killed := registrytest.Start(t, process, "killed", registrytest.TTL(10*time.Second))
		process.Kill()
		begun := time.Now()
		if err := restore(t, b, file, registry.RestoreOptions{}); !fault.Is(err, fault.Conflict) || time.Since(begun) > 0 {
			t.Errorf("without patience: %v after %v, want fault.Conflict at once", err, time.Since(begun))
		}
		var named []string
		opt := registry.RestoreOptions{Patience: 20 * time.Second, Waiting: func(name string) { named = append(named, name) }}
		if err := restore(t, b, file, opt); err != nil {
			t.Errorf("with more patience than the lease lasts: %v", err)
		}
		if took := time.Since(begun); took < 5*time.Second || took > 11*time.Second || len(named) == 0 || strings.Trim(strings.Join(named, ""), "kiled") != "" {
			t.Errorf("it took %v, and waited for %q", took, named)
		}
		killed.Stop()

		lives := registrytest.Start(t, b, "lives", registrytest.TTL(10*time.Second))
		begun = time.Now()
		if err := restore(t, b, file, opt); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "replica lives is live: stop all replicas") {
			t.Errorf("with a replica that lives: %v, want fault.Conflict", err)
		}
		if took := time.Since(begun); took < opt.Patience || took > opt.Patience+time.Second {
			t.Errorf("it was refused after %v, want %v", took, opt.Patience)
		}
		lives.Stop()
	})
}

// TestRestoreWithoutLeader: with Patience a restore asks again while members come and go, and without it fails.
func TestRestoreWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, file := backedUp(t)
		want := keysOf(t, b)
		l := &leaderless{Backend: b}
		l.on.Store(true)
		if err := restore(t, l, file, registry.RestoreOptions{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("without patience: %v, want fault.Unavailable", err)
		}
		waited := 0
		opt := registry.RestoreOptions{Patience: time.Second, Waiting: func(name string) {
			if waited++; name != "" {
				t.Errorf("it waits for replica %s", name)
			}
		}}
		time.AfterFunc(time.Minute, func() { l.on.Store(false) })
		if err := restore(t, l, file, opt); err != nil || waited < 100 {
			t.Errorf("a leader after a minute: %v, told %d times", err, waited)
		}
		for every := int64(2); every < 5; every++ {
			if err := restore(t, &leaderless{Backend: b, every: every}, file, opt); err != nil {
				t.Errorf("one call of %d is refused: %v", every, err)
			}
			if got := keysOf(t, b); !mapsEqual(got, want) {
				t.Errorf("one call of %d is refused: %d keys, want %d", every, len(got), len(want))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		l.on.Store(true)
		if _, err := offline(t, l).Restore(ctx, bytes.NewReader(file), opt, nil); err == nil {
			t.Error("it ended without a leader")
		}
	})
}

// TestRestoreOfLostAnswers: each transaction of a restore is applied once, whatever of its answers was lost.
func TestRestoreOfLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, file := backedUp(t)
		want := keysOf(t, b)
		for n := range 6 {
			faulty := &registrytest.Faulty{Backend: b}
			nth := &loseNth{Faulty: faulty, n: n}
			if err := restore(t, nth, file, registry.RestoreOptions{}); err != nil {
				t.Errorf("the answer of transaction %d is lost: %v", n, err)
			}
			if got := keysOf(t, b); !mapsEqual(got, want) {
				t.Errorf("the answer of transaction %d is lost: %d keys, want %d", n, len(got), len(want))
			}
		}
	})
}

// loseNth loses the answer of one transaction.
type loseNth struct {
	*registrytest.Faulty
	n int
}

func (l *loseNth) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if l.n == 0 {
		l.LoseAnswers(1)
	}
	l.n--
	return l.Faulty.Txn(ctx, t)
}
