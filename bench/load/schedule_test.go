package load_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/bench/load"
)

func TestScheduleIsDueAtTheRate(t *testing.T) {
	for _, tc := range []struct {
		from, rate float64
		ramp       time.Duration
		number     uint64
		due        time.Duration
	}{
		{0, 1000, 0, 0, 0},
		{0, 1000, 0, 1, time.Millisecond},
		{500, 1000, 0, 1, time.Millisecond}, // no ramp: where it would begin does not matter
		{0, 50_000, 0, 3_000_000, time.Minute},
		{0, 0.5, 0, 3, 6 * time.Second},
		{0, 100, 2 * time.Second, 0, 0},
		{0, 100, 2 * time.Second, 25, time.Second}, // 25 t²
		{0, 100, 2 * time.Second, 100, 2 * time.Second},
		{0, 100, 2 * time.Second, 101, 2010 * time.Millisecond},
		{100, 0.0001, 2 * time.Second, 75, time.Second}, // down: 100 t - 25 t²
		{100, 100, 2 * time.Second, 50, 500 * time.Millisecond},
	} {
		due, _ := load.Due(tc.from, tc.rate, tc.ramp)
		if got := due(tc.number); (got - tc.due).Abs() > 10*time.Microsecond {
			t.Errorf("%+v: got %v", tc, got)
		}
	}
}

// TestScheduleProperties: requests are due one after the other; as many are due before a time as count says; and however it ramps, the
// distance between two is that of the rate at their time.
func TestScheduleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, rate := rapid.Float64Range(0, 50_000).Draw(t, "from"), rapid.Float64Range(0.1, 50_000).Draw(t, "rate")
		ramp := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "ramp"))
		due, count := load.Due(from, rate, ramp)
		n := rapid.Uint64Range(0, 1_000_000).Draw(t, "number")
		at, next := due(n), due(n+1)
		if at < 0 || next < at {
			t.Fatalf("request %d is due at %v, and the next at %v", n, at, next)
		}
		if c := count(at); math.Abs(float64(c)-float64(n)) > 1 {
			t.Fatalf("request %d is due at %v, but %d are due before", n, at, c)
		}
		slowest, fastest := min(from, rate), max(from, rate)
		if ramp == 0 {
			slowest, fastest = rate, rate
		}
		gap := (next - at).Seconds()
		if gap*fastest < 1-1e-3 && at != 0 || slowest > 0 && gap*slowest > 1+1e-3 && gap > 1e-8 {
			t.Fatalf("request %d is %vs before the next, at a rate between %v and %v", n, gap, slowest, fastest)
		}
	})
}
