package registry_test

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// revisionOf returns when a key was last changed.
func revisionOf(t *testing.T, b registry.Backend, key string) int64 {
	t.Helper()
	res, err := b.Range(t.Context(), registry.Range{Key: key})
	if err != nil || len(res.KVs) != 1 {
		t.Fatalf("Range(%s): %v, %v", key, res, err)
	}
	return res.KVs[0].ModRevision
}

// TestLoadIsQuiet: the load is written when it has changed by more than a tenth, and at most every half TTL.
func TestLoadIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		defer b.Close()
		var requests atomic.Int64
		requests.Store(1000)
		r := registrytest.Start(t, b, "r1", func(c *registry.Config) {
			c.TTL = 10 * time.Second
			c.Load = func() registry.Load { return registry.Load{Requests: requests.Load(), CPU: math.NaN()} }
		})
		defer r.Stop()
		before := revisionOf(t, b, "n/r1")
		writes := func(every time.Duration, set func(i int64) int64) (n int) {
			end := time.Now().Add(time.Hour)
			for i := int64(0); time.Now().Before(end); i++ {
				requests.Store(set(i))
				time.Sleep(every)
				if rev := revisionOf(t, b, "n/r1"); rev != before {
					before = rev
					n++
				}
			}
			return n
		}
		for _, c := range []struct {
			name        string
			every       time.Duration
			set         func(i int64) int64
			least, most int
		}{
			{"as it was", time.Second, func(int64) int64 { return 1000 }, 0, 0},
			{"up and down by less than a tenth", time.Second, func(i int64) int64 { return 950 + i%100 }, 0, 0},
			{"twice as much and half, all the time", time.Millisecond * 300, func(i int64) int64 { return 1000 << (i % 2) }, 200, 720},
		} {
			if n := writes(c.every, c.set); n < c.least || n > c.most {
				t.Errorf("%s: %d writes in an hour, want %d to %d", c.name, n, c.least, c.most)
			}
		}
		requests.Store(5000)
		time.Sleep(20 * time.Second)
		if n, _ := r.Index().Replica("r1"); n.Load.Requests < requests.Load()*9/10 {
			t.Errorf("the load that others see is %d, it is %d", n.Load.Requests, requests.Load())
		}
	})
}

// TestDrainingWithoutAnswer: what could not be said while the registry was away is said as soon as it answers, and what
// was said last holds.
func TestDrainingWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		defer b.Close()
		faulty := &registrytest.Faulty{Backend: b}
		r := registrytest.Start(t, faulty, "r1", registrytest.TTL(time.Hour))
		defer r.Stop()
		for _, on := range []bool{true, false, true} {
			faulty.Drop(1 << 20)
			if err := r.SetDraining(t.Context(), on); !fault.Is(err, fault.Unavailable) {
				t.Errorf("SetDraining(%v) of a registry that does not answer: %v", on, err)
			}
			faulty.Drop(0)
			if on {
				continue // and then the other way, before it was tried again
			}
			time.Sleep(time.Hour)
			if n, _ := r.Index().Replica("r1"); n.Draining != on {
				t.Errorf("after the registry answers: draining %v, want %v", n.Draining, on)
			}
		}
		time.Sleep(time.Hour)
		if n, _ := r.Index().Replica("r1"); !n.Draining {
			t.Error("it does not drain")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.SetDraining(ended, true); err != nil && !fault.Is(err, fault.Canceled) {
			t.Errorf("SetDraining with a context that has ended: %v", err)
		}
	})
}

// TestLateWord: a word that was not answered, and arrives late, does not undo the next one.
func TestLateWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		defer b.Close()
		faulty := &registrytest.Faulty{Backend: b}
		r := registrytest.Start(t, faulty, "r1", registrytest.TTL(time.Hour))
		defer r.Stop()
		arrived, release := faulty.Hold("n/r1")
		late := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { late <- r.SetDraining(ctx, true) }()
		<-arrived
		synctest.Wait()
		go func() { time.Sleep(10 * time.Second); release() }()
		if err := r.SetDraining(t.Context(), false); err != nil {
			t.Errorf("SetDraining: %v", err)
		}
		<-late
		time.Sleep(time.Hour)
		if n, _ := r.Index().Replica("r1"); n.Draining {
			t.Error("what was said first was written last")
		}
	})
}

// TestFresh: what is in memory can be acted on for as long as the lease lasts, and a grace; not before the first session,
// and again from the next.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, grace = 5 * time.Second, time.Minute
		b := memory.New()
		defer b.Close()
		faulty := &registrytest.Faulty{Backend: b}
		faulty.Hang(true)
		r := registrytest.Launch(t, faulty, "r1", registrytest.TTL(ttl))
		defer r.Stop()
		wantFresh(t, r, "before the first session", false, false)
		faulty.Hang(false)
		<-r.Ready()
		time.Sleep(time.Hour)
		wantFresh(t, r, "after an hour", true, true)
		cut := time.Now()
		faulty.Hang(true)
		var at []time.Duration // when Fresh(0) and Fresh(grace) first fail
		for _, g := range []time.Duration{0, grace} {
			for r.Fresh(g) == nil && time.Since(cut) < time.Hour {
				time.Sleep(10 * time.Millisecond)
			}
			at = append(at, time.Since(cut))
		}
		if at[0] < ttl/2 || at[0] > ttl+registry.ProgressEvery || at[1] < grace+ttl/2 || at[1] > grace+ttl+registry.ProgressEvery {
			t.Errorf("cut off, it was fresh for %v, with a grace of %v for %v", at[0], grace, at[1])
		}
		faulty.Hang(false)
		time.Sleep(2 * ttl)
		wantFresh(t, r, "when the registry is back", true, true)
		faulty.Deafen(true)
		time.Sleep(ttl + time.Second)
		wantFresh(t, r, "when the watch is silent", false, true)
		time.Sleep(grace)
		wantFresh(t, r, "when it has been silent for long", false, false)
	})
}

func wantFresh(t *testing.T, r *registrytest.Replica, when string, now, withGrace bool) {
	t.Helper()
	for g, want := range map[time.Duration]bool{0: now, time.Minute: withGrace} {
		err := r.Fresh(g)
		if (err == nil) != want || err != nil && (!fault.Is(err, fault.Unavailable) || fault.From(err).RetryAfter <= 0) {
			t.Errorf("%s: Fresh(%v) is %v, want fresh: %v", when, g, err, want)
		}
	}
}

// TestFreshRevoked: a session that the store ended is over at once, whatever its clock says; what needs no claim goes on
// for the rest of what a lost session has.
func TestFreshRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.New()
		defer b.Close()
		faulty := &registrytest.Faulty{Backend: b}
		r := registrytest.Start(t, faulty, "r1", registrytest.TTL(50*time.Second))
		defer r.Stop()
		time.Sleep(time.Minute)
		n, _ := r.Index().Replica("r1")
		faulty.Drop(1 << 20) // there will be no next session
		if err := b.Revoke(t.Context(), n.Lease); err != nil {
			t.Fatalf("Revoke: %v", err)
		}
		lost := time.Now()
		for r.Fresh(0) == nil && time.Since(lost) < time.Hour {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(lost); took > 25*time.Second { // until the next renewal is refused, and a fifth of the TTL
			t.Errorf("it was fresh for %v after its session was ended", took)
		}
	})
}

func BenchmarkFresh(b *testing.B) {
	m := memory.New()
	defer m.Close()
	r := registrytest.Start(b, m, "r1")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := r.Fresh(0); err != nil {
				b.Error(err)
			}
		}
	})
}
