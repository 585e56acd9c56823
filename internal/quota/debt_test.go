package quota

import (
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDebt(t *testing.T) {
	var d Debt
	now := time.Unix(1_800_000_000, 0)
	l := Limit{PerSecond: 1000, Burst: 500}
	for _, s := range []struct {
		after time.Duration
		bytes int64
		owed  time.Duration
		left  float64
	}{
		{0, 500, 0, 0},                         // the burst
		{0, 250, 250 * time.Millisecond, -250}, // passes, and is owed
		{100 * time.Millisecond, 0, 150 * time.Millisecond, -150},
		{150 * time.Millisecond, 0, 0, 0},                // paid back
		{time.Hour, 0, 0, 500},                           // a pause fills the burst and no more
		{0, 1 << 40, MaxDebt, -1000 * MaxDebt.Seconds()}, // no tenant is locked out for longer
		{MaxDebt, 0, 0, 0},
	} {
		now = now.Add(s.after)
		if owed := d.Add(now, s.bytes, l); owed != s.owed || d.Owed(now, l) != s.owed {
			t.Errorf("%+v: owed %v, then %v", s, owed, d.Owed(now, l))
		}
		if left := d.Left(now, l); math.Abs(left-s.left) > 1e-6 {
			t.Errorf("%+v: %v left", s, left)
		}
	}
	if d.Add(now, 1<<50, Limit{}) != 0 || d.Owed(now, Limit{}) != 0 || d.Left(now, Limit{}) != 0 {
		t.Error("no limit is one")
	}
	if back := now.Add(-time.Hour); d.Owed(back, l) > MaxDebt { // a clock that went back
		t.Errorf("owed %v", d.Owed(back, l))
	}
}

// TestDebtProperties: over any time, no more passes unowed than the burst and the rate's part, in however small pieces, at
// whatever rate; a debt is paid exactly when it said.
func TestDebtProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{PerSecond: math.Exp(rapid.Float64Range(0, math.Log(1e12)).Draw(t, "log rate")), Burst: rapid.IntRange(1, 1e12).Draw(t, "burst")}
		start, now, tat, bytes := int64(1e18), int64(1e18), int64(0), 0.0
		for range rapid.IntRange(1, 100).Draw(t, "pieces") {
			n := rapid.Int64Range(1, 1<<20).Draw(t, "bytes")
			now += rapid.Int64Range(0, 1e9).Draw(t, "gap")
			var owed time.Duration
			tat, owed = Owe(tat, now, n, l)
			bytes += float64(n)
			if may := float64(l.Burst) + l.PerSecond*float64(now-start)/1e9; owed == 0 && bytes > may*(1+1e-9)+l.PerSecond/1e9+1 {
				t.Fatalf("%v bytes passed in %v, of %v", bytes, time.Duration(now-start), may)
			}
			if owed > 0 && Owed(tat, now+int64(owed), l) != 0 {
				t.Fatalf("still owed after %v", owed)
			}
			if owed > 1 && Owed(tat, now+int64(owed)-1, l) == 0 {
				t.Fatalf("owed for less than %v", owed)
			}
			if owed > MaxDebt {
				t.Fatalf("owed for %v", owed)
			}
		}
	})
}

func TestDebtIsCountedExactly(t *testing.T) {
	var d Debt
	now, l := time.Unix(1_800_000_000, 0), Limit{PerSecond: 1000, Burst: 1000}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				d.Add(now, 1, l)
			}
		})
	}
	wg.Wait()
	if owed := d.Owed(now, l); owed != 7*time.Second {
		t.Errorf("8000 bytes at 1000 a second and a burst of 1000: owed %v, want 7s", owed)
	}
}

func TestRetryAfterIsSpread(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Millisecond, time.Second, time.Minute, time.Hour} {
		for _, f := range []float64{0, 0.5, 0.999} {
			got := RetryAfter(wait, f)
			if got < wait || got > wait+maxSpread {
				t.Errorf("wait %v, %v: %v", wait, f, got)
			}
		}
		if RetryAfter(wait, 0) != wait || RetryAfter(wait, 0.999) < wait+time.Second {
			t.Errorf("wait %v is not spread", wait)
		}
	}
	// Of 30 that are refused one after another, no second of the header gets more than its part and a few.
	var s Spread
	seconds := make(map[int]int)
	for range 30 {
		f := s.Next()
		if f < 0 || f >= 1 {
			t.Fatalf("%v is not in [0,1)", f)
		}
		seconds[int(math.Ceil(RetryAfter(20*time.Second, f).Seconds()))]++
	}
	if len(seconds) < 10 {
		t.Errorf("30 clients come back in %d seconds: %v", len(seconds), seconds)
	}
	for at, n := range seconds {
		if n > 5 {
			t.Errorf("%d of 30 clients come back in second %d", n, at)
		}
	}
}

// TestRefund: what is taken back counts as never spent.
func TestRefund(t *testing.T) {
	l, now := Limit{PerSecond: 10, Burst: 2}, int64(1e18)
	tat, _ := Spend(0, now, l)
	tat, _ = Spend(tat, now, l)
	if Left(tat, now, l) != 0 {
		t.Fatalf("%v left of a burst that is spent", Left(tat, now, l))
	}
	tat = Refund(tat, l)
	if got := Left(tat, now, l); got != 1 {
		t.Errorf("%v left after a refund, want 1", got)
	}
	if tat = Refund(tat, l); Left(tat, now, l) != 2 {
		t.Errorf("%v left after all is taken back, want 2", Left(tat, now, l))
	}
	if Left(0, now, Limit{}) != -1 || Refund(7, Limit{}) != 7 {
		t.Error("no limit is one")
	}
}

// TestReasonsAreNamed fails when a reason is added without a name.
func TestReasonsAreNamed(t *testing.T) {
	seen := make(map[string]bool)
	for r := range NumReasons {
		if name := Reason(r).String(); name == "other" || seen[name] {
			t.Errorf("reason %d is called %q", r, name)
		} else {
			seen[name] = true
		}
	}
	if Reason(NumReasons).String() != "other" {
		t.Error("NumReasons is too small")
	}
}

// Extreme limits do not overflow into none.
func TestExtremeLimits(t *testing.T) {
	now := time.Now().UnixNano()
	for _, l := range []Limit{{PerSecond: 1e-12, Burst: 1}, {PerSecond: 0.001, Burst: 1e6}, {PerSecond: 1e12, Burst: 1}, {PerSecond: 1e12, Burst: 1e12}, {PerSecond: 1, Burst: 1e12}} {
		tat, d := Spend(0, now, l)
		if !d.OK || tat <= now {
			t.Errorf("%+v: the first request: %+v, state %d", l, d, tat-now)
		}
		if l.Burst == 1 {
			if _, d := Spend(tat, now, l); d.OK || d.RetryAfter <= 0 {
				t.Errorf("%+v: the second request: %+v", l, d)
			}
		}
		if next, owed := Owe(0, now, 1<<60, l); owed < 0 || next < now {
			t.Errorf("%+v: owed %v", l, owed)
		}
	}
}
