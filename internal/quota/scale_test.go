package quota

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCount(t *testing.T) {
	for _, c := range []struct {
		n     int
		share float64
		odd   bool
		want  int
	}{
		{10, 1, false, 10}, {10, 0.5, false, 5}, {10, 0.59, false, 5}, {10, 0.51, true, 6}, {10, 0.5, true, 5},
		{3, 1.0 / 3, false, 1}, {3, 1.0 / 3, true, 1}, {1, 0.9, false, Closed}, {1, 0.1, true, 1}, {1, 0, true, Closed},
		{0, 0.1, false, 0}, {-1, 0.1, false, -1}, {7, 2, false, 7},
	} {
		if got := Count(c.n, c.share, c.odd); got != c.want {
			t.Errorf("Count(%d, %v, %v) = %d, want %d", c.n, c.share, c.odd, got, c.want)
		}
	}
}

// TestCountsNeverExceedTheWhole: the parts of a count, one of which rounds up, are never more than the count.
func TestCountsNeverExceedTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20_000).Draw(t, "n")
		parts := rapid.SliceOfN(rapid.IntRange(0, 1000), 1, 12).Draw(t, "parts")
		sum, count := 0, 0
		for _, p := range parts {
			sum += p
		}
		odd := rapid.IntRange(-1, len(parts)-1).Draw(t, "odd")
		for i, p := range parts {
			if sum > 0 {
				count += max(0, Count(n, float64(p)/float64(sum), i == odd))
			}
		}
		if count > n {
			t.Fatalf("%d places of %d", count, n)
		}
	})
}

func TestTimes(t *testing.T) {
	l := Limit{PerSecond: 100, Burst: 50}
	for _, c := range []struct {
		share float64
		odd   bool
		want  Limit
	}{
		{1, false, l}, {0.5, false, Limit{PerSecond: 50, Burst: 25}}, {0.25, false, Limit{PerSecond: 25, Burst: 12}},
		{0.25, true, Limit{PerSecond: 25, Burst: 13}}, {0.001, false, Limit{PerSecond: 100, Closed: true}}, {0, false, Limit{PerSecond: 100, Closed: true}},
	} {
		if got := l.Times(c.share, c.odd); got != c.want {
			t.Errorf("Times(%v, %v) = %+v, want %+v", c.share, c.odd, got, c.want)
		}
	}
	if got := (Limit{}).Times(0, false); got != (Limit{}) {
		t.Errorf("a part of no limit is %+v", got)
	}
}

// TestClosed: nothing passes, and nothing is owed for it later.
func TestClosed(t *testing.T) {
	l, now := Limit{PerSecond: 10, Closed: true}, time.Now()
	var r Rate
	if d := r.Spend(now, l); d.OK || d.RetryAfter != time.Second {
		t.Errorf("Spend = %+v", d)
	}
	if r.Left(now, l) != 0 || r.Used(now, l) != 0 {
		t.Error("something is left, or used")
	}
	var d Debt
	if owed := d.Add(now, 1000, l); owed != time.Second || d.Owed(now, l) != time.Second || d.Owed(now, Limit{PerSecond: 10}) != 0 {
		t.Errorf("Add = %v", owed)
	}
	var g Gate
	if g.Enter(Closed) || g.InFlight() != 0 {
		t.Error("a closed gate lets in")
	}
}

// TestRescaleKeepsWhatIsLeft, as far as the new burst goes; what a limit grows by is spent.
func TestRescaleKeepsWhatIsLeft(t *testing.T) {
	now := time.Unix(1000, 0)
	limit := func(share float64) Limit { return Limit{PerSecond: 100, Burst: 100}.Times(share, false) }
	for _, c := range []struct {
		name           string
		from, to       float64
		spent          int
		want, afterSec float64
	}{
		{"grows from full", 0.3, 0.9, 0, 30, 90},
		{"grows from half", 0.3, 0.9, 15, 15, 90},
		{"shrinks from full", 0.9, 0.3, 0, 30, 30},
		{"shrinks from half", 0.9, 0.3, 80, 10, 30},
		{"from closed", 0, 0.5, 0, 0, 50},
	} {
		var r Rate
		for range c.spent {
			r.Spend(now, limit(c.from))
		}
		r.Rescale(now, limit(c.from), limit(c.to))
		if got := r.Left(now, limit(c.to)); math.Abs(got-c.want) > 0.01 {
			t.Errorf("%s: %.2f left, want %.2f", c.name, got, c.want)
		}
		if got := r.Left(now.Add(time.Second), limit(c.to)); math.Abs(got-c.afterSec) > 0.01 {
			t.Errorf("%s: %.2f left after a second, want %.2f", c.name, got, c.afterSec)
		}
	}
}

func TestRescaleKeepsDebts(t *testing.T) {
	now := time.Unix(1000, 0)
	whole := Limit{PerSecond: 1000, Burst: 1000}
	var d Debt
	d.Add(now, 3000, whole) // 2000 bytes over
	d.Rescale(now, whole, whole.Times(0.5, false))
	if owed := d.Owed(now, whole.Times(0.5, false)); owed != 4*time.Second {
		t.Errorf("2000 bytes at 500 a second: owed %v", owed)
	}
	d.Rescale(now, whole.Times(0.5, false), whole)
	if owed := d.Owed(now, whole); owed != 2*time.Second {
		t.Errorf("2000 bytes at 1000 a second: owed %v", owed)
	}
}

// TestRescaleGivesNothing: with whatever changes of its share, a budget lets no more pass than the largest share of the
// burst and the rates of the time.
func TestRescaleGivesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := Limit{PerSecond: rapid.Float64Range(1, 1000).Draw(t, "rate"), Burst: rapid.IntRange(1, 1000).Draw(t, "burst")}
		var r Rate
		now := time.Unix(1000, 0)
		share := rapid.Float64Range(0, 1).Draw(t, "share")
		l := whole.Times(share, false)
		budget := r.Left(now, l)
		passed := 0.0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			pause := rapid.Int64Range(0, 2e9).Draw(t, "pause")
			now = now.Add(time.Duration(pause))
			if !l.Closed {
				budget += l.PerSecond * float64(pause) / 1e9
			}
			for range rapid.IntRange(0, 200).Draw(t, "requests") {
				if r.Spend(now, l).OK {
					passed++
				}
			}
			if passed > budget+0.01 {
				t.Fatalf("%.0f passed, %.2f were due", passed, budget)
			}
			next := whole.Times(rapid.Float64Range(0, 1).Draw(t, "share"), false)
			r.Rescale(now, l, next)
			l = next
		}
	})
}

func TestCarry(t *testing.T) {
	now, l := time.Unix(1000, 0), Limit{PerSecond: 10, Burst: 10}
	var r Rate
	r.Carry(now, 0.4, l)
	if got := r.Left(now, l); math.Abs(got-6) > 0.01 {
		t.Errorf("%.2f left, want 6", got)
	}
	r.Carry(now, 0.2, l)
	if got := r.Left(now, l); math.Abs(got-6) > 0.01 {
		t.Errorf("%.2f left: a budget is fuller by what is carried to it", got)
	}
	r.Carry(now, 17, l)
	if got := r.Used(now, l); got != 1 {
		t.Errorf("%.2f used, want all", got)
	}
	for _, nonsense := range []float64{-1, math.NaN(), math.Inf(1), math.Inf(-1)} {
		var d Debt
		d.Carry(now, nonsense, l)
		if owed := d.Owed(now, l); owed > MaxDebt {
			t.Errorf("Carry(%v) owes %v", nonsense, owed)
		}
	}
	var d, other Debt
	d.Add(now, 35, l)
	other.Carry(now, d.Used(now, l), l)
	if got := other.Owed(now, l); got != d.Owed(now, l) {
		t.Errorf("%v is owed, want %v", got, d.Owed(now, l))
	}
}
