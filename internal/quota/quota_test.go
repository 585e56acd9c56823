package quota

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSpend(t *testing.T) {
	const start = int64(1e18)
	ms := func(n int64) int64 { return start + n*int64(time.Millisecond) }
	type step struct {
		at    int64
		ok    bool
		retry time.Duration
	}
	for _, c := range []struct {
		name  string
		limit Limit
		steps []step
	}{
		{"burst, then the rate", Limit{PerSecond: 10, Burst: 3}, []step{
			{ms(0), true, 0}, {ms(0), true, 0}, {ms(0), true, 0}, {ms(0), false, 100 * time.Millisecond},
			{ms(99), false, time.Millisecond}, {ms(100), true, 0}, {ms(100), false, 100 * time.Millisecond}}},
		{"a pause fills the burst and no more", Limit{PerSecond: 10, Burst: 2}, []step{
			{ms(0), true, 0}, {ms(60_000), true, 0}, {ms(60_000), true, 0}, {ms(60_000), false, 100 * time.Millisecond}}},
		{"no burst is one second's worth", Limit{PerSecond: 2}, []step{
			{ms(0), true, 0}, {ms(0), true, 0}, {ms(0), false, 500 * time.Millisecond}}},
		{"below one per second", Limit{PerSecond: 0.1}, []step{
			{ms(0), true, 0}, {ms(9000), false, time.Second}, {ms(10_000), true, 0}}},
		{"slowest", Limit{PerSecond: 0.001, Burst: 1}, []step{{ms(0), true, 0}, {ms(0), false, 1000 * time.Second}}},
		{"no limit", Limit{}, []step{{ms(0), true, 0}, {ms(0), true, 0}, {ms(0), true, 0}}},
		{"negative is no limit", Limit{PerSecond: -1}, []step{{ms(0), true, 0}, {ms(0), true, 0}}},
		{"a clock that went back", Limit{PerSecond: 10, Burst: 1}, []step{
			{ms(3_600_000), true, 0}, {ms(0), false, 100 * time.Millisecond}, {ms(99), false, time.Millisecond}, {ms(100), true, 0}}},
	} {
		var tat int64
		for i, s := range c.steps {
			next, d := Spend(tat, s.at, c.limit)
			if d.OK != s.ok || d.RetryAfter != s.retry {
				t.Errorf("%s, step %d: %+v, want ok %v, retry after %v", c.name, i, d, s.ok, s.retry)
			}
			if !d.OK && next > max(tat, s.at) {
				t.Errorf("%s, step %d: a refused request costs something", c.name, i)
			}
			tat = next
		}
	}
}

// A limit that is raised holds at once, whatever was owed under the old one.
func TestRaisedLimitHoldsAtOnce(t *testing.T) {
	var r Rate
	now := time.Now()
	slow, fast := Limit{PerSecond: 0.001, Burst: 1}, Limit{PerSecond: 10, Burst: 1}
	if !r.Spend(now, slow).OK || r.Spend(now, slow).OK {
		t.Fatal("the slow limit allows one")
	}
	if d := r.Spend(now, fast); d.OK || d.RetryAfter != 100*time.Millisecond {
		t.Errorf("under the raised limit: %+v", d)
	}
	if d := r.Spend(now.Add(100*time.Millisecond), fast); !d.OK {
		t.Errorf("at the time that was told: %+v", d)
	}
}

// TestSpendProperties: over every window, no more than the burst and the rate's share pass; a refused request costs
// nothing; RetryAfter is the first moment at which one passes.
func TestSpendProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{PerSecond: rapid.Float64Range(0.001, 1e6).Draw(t, "rate"), Burst: rapid.IntRange(1, 50).Draw(t, "burst")}
		emission, tolerance := l.interval()
		now, tat := int64(1e18), int64(0)
		var admitted []int64
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now += rapid.Int64Range(0, 2*int64(emission)).Draw(t, "gap")
			next, d := Spend(tat, now, l)
			if !d.OK {
				if next != tat {
					t.Fatalf("a refused request moved the state by %d", next-tat)
				}
				if _, at := Spend(tat, now+int64(d.RetryAfter), l); !at.OK {
					t.Fatalf("refused again after RetryAfter %v", d.RetryAfter)
				}
				if _, early := Spend(tat, now+int64(d.RetryAfter)-1, l); early.OK {
					t.Fatalf("RetryAfter %v is too long", d.RetryAfter)
				}
				continue
			}
			tat = next
			admitted = append(admitted, now)
		}
		for i := range admitted {
			for j := i; j < len(admitted); j++ {
				if took, may := int64(j-i+1)*int64(emission), admitted[j]-admitted[i]+int64(tolerance); took > may {
					t.Fatalf("%d requests in %v, over burst %d and rate %v", j-i+1, time.Duration(admitted[j]-admitted[i]), l.Burst, l.PerSecond)
				}
			}
		}
	})
}

func TestRateIsSharedExactly(t *testing.T) {
	var r Rate
	var passed atomic.Int64
	now := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if r.Spend(now, Limit{PerSecond: 1, Burst: 37}).OK {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != 37 {
		t.Errorf("%d passed at once, want the burst of 37", passed.Load())
	}
}

func TestGate(t *testing.T) {
	var g Gate
	for i, want := range []bool{true, true, false} {
		if got := g.Enter(2); got != want {
			t.Fatalf("entry %d of 2: %t, want %t", i+1, got, want)
		}
	}
	if g.InFlight() != 2 {
		t.Fatalf("in flight %d, want 2", g.InFlight())
	}
	g.Leave()
	if !g.Enter(2) {
		t.Error("a place given back is not there")
	}
	if !g.Enter(0) || !g.Enter(-1) || g.InFlight() != 4 {
		t.Error("no limit is one")
	}
}

func TestGateIsNeverOverfull(t *testing.T) {
	var g Gate
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if !g.Enter(3) {
					continue
				}
				n := inside.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				inside.Add(-1)
				g.Leave()
			}
		})
	}
	wg.Wait()
	if most.Load() > 3 || g.InFlight() != 0 {
		t.Errorf("at most %d inside, %d at the end; want 3 and 0", most.Load(), g.InFlight())
	}
}

func BenchmarkSpend(b *testing.B) {
	var r Rate
	now := time.Now()
	for b.Loop() {
		r.Spend(now, Limit{PerSecond: 1e6})
	}
}
