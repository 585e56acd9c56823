package load_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

func TestOpenLoopKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: answersIn(3 * time.Millisecond)}
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 2000}, s)
		f := run(t, g, load.Span{Duration: 2 * time.Second})
		if f.Requests != 4000 || f.Rate != 2000 || f.Seconds != 2 || f.Late != 0 || f.Errors != nil {
			t.Errorf("got %d requests in %v s, %v a second, %d late, errors %v", f.Requests, f.Seconds, f.Rate, f.Late, f.Errors)
		}
		if l := f.Latency; !near(l.P50, 3000, 0.001) || !near(l.Max, 3000, 0.001) || l.Count != 4000 {
			t.Errorf("got %+v", l)
		}
		if n := s.made.Load(); n > 8 { // 3 ms at 2000 a second are six in flight, and those due at the same instant
			t.Errorf("%d callers were made for 6 requests in flight", n)
		}
		f = run(t, g, load.Span{Rate: 500, Duration: time.Second})
		if f.Requests != 500 {
			t.Errorf("at another rate: got %d requests, want 500", f.Requests)
		}
	})
}

// TestOpenLoopTellsOfAStall: of 5 s, the server stalls through one. A fifth of the requests waits for its end, as long as there is of it
// when they are due. What the callers see themselves is the stall for the few that are in flight, and nothing else.
func TestOpenLoopTellsOfAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.call = func(ctx context.Context, _ int) error {
			if at := time.Since(s.began); at >= 2*time.Second && at < 3*time.Second {
				return wait(ctx, 3*time.Second-at)
			}
			return nil
		}
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 1000, Concurrency: 4}, s)
		f := run(t, g, load.Span{Duration: 5 * time.Second})
		if f.Requests != 5000 || f.Late != 999-4 { // the last ms of the stall is not late, nor are the first four, which were sent
			t.Errorf("got %d requests, %d of them late, want 5000 and 995", f.Requests, f.Late)
		}
		if l := f.Latency; !near(l.P90, 500_000, 0.01) || !near(l.P99, 950_000, 0.01) || !near(l.P999, 995_000, 0.01) || l.P50 > 1 {
			t.Errorf("got p50 %v, p90 %v, p99 %v, p99.9 %v", l.P50, l.P90, l.P99, l.P999)
		}
		if f.Seconds != 5 {
			t.Errorf("it lasted %v s, want 5", f.Seconds)
		}
	})
}

func TestOpenLoopRampsAndLeavesItOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		var seconds [6]atomic.Int64
		s.call = func(ctx context.Context, _ int) error {
			at := time.Since(s.began)
			seconds[int(at/time.Second)].Add(1)
			if at < 3*time.Second {
				return wait(ctx, 100*time.Millisecond) // slow while it is not to be measured
			}
			return nil
		}
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 400}, s)
		f := run(t, g, load.Span{From: 0, Ramp: 2 * time.Second, Warmup: time.Second, Duration: 3 * time.Second})
		for i, want := range []int64{100, 300, 400, 400, 400, 400} {
			if got := seconds[i].Load(); got != want {
				t.Errorf("in second %d there were %d requests, want %d", i, got, want)
			}
		}
		if f.Requests != 1200 || f.Latency.Max > 1 || f.Seconds != 3 || f.Rate != 400 {
			t.Errorf("got %d requests, slowest %v µs, in %v s", f.Requests, f.Latency.Max, f.Seconds)
		}
	})
}

// TestOverloadIsNotARate: a server that answers half of what is asked has not answered it all: the rest is sent later, the phase lasts
// as long, and the rate is what was answered.
func TestOverloadIsNotARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: answersIn(10 * time.Millisecond)} // 4 at a time: 400 a second
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 800, Concurrency: 4}, s)
		f := run(t, g, load.Span{Duration: 2 * time.Second})
		if f.Requests != 1600 || !near(f.Seconds, 4, 0.01) || !near(f.Rate, 400, 0.01) || !near(f.Latency.Max, 2e6, 0.01) {
			t.Errorf("got %d requests in %v s, %v a second, slowest %v µs", f.Requests, f.Seconds, f.Rate, f.Latency.Max)
		}
		if n := s.mostBusy.Load(); n != 4 {
			t.Errorf("%d were in flight, want 4 at most, and at times", n)
		}
	})
}

// TestWhatIsNeverSentIsCounted: a server that hangs does not hold up the run for ever, nor does what waited for it vanish.
func TestWhatIsNeverSentIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: answersIn(time.Hour)}
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 100, Concurrency: 2, Timeout: time.Second}, s)
		begin := time.Now()
		f := run(t, g, load.Span{Duration: 2 * time.Second})
		var total int64
		for _, n := range f.Errors {
			total += n
		}
		if f.Requests != 0 || total != 200 || f.Errors[load.ClassTimeout] == 0 || f.Errors[load.ClassUnsent] == 0 {
			t.Errorf("got %d requests and %v, want 200 errors, timeouts and some not sent", f.Requests, f.Errors)
		}
		if took := time.Since(begin); took > 4100*time.Millisecond {
			t.Errorf("it took %v, want the phase, its timeout, and that of the last request", took)
		}
	})
}

func TestOpenLoopDrawsEachOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen [8]atomic.Int64
		s := &server{call: func(_ context.Context, tenant int) error { seen[tenant].Add(1); return nil }}
		g := generator(t, scenario.Load{Loop: scenario.Open, Rate: 10, Tenants: scenario.Draw{Draw: scenario.Each}}, s)
		f := run(t, g, load.Span{})
		if f.Requests != 8 || !near(f.Seconds, 0.7, 0.01) {
			t.Errorf("got %d requests in %v s, want 8 in 0.7", f.Requests, f.Seconds)
		}
		for n := range seen {
			if got := seen[n].Load(); got != 1 {
				t.Errorf("tenant %d was drawn %d times", n, got)
			}
		}
	})
}

// TestOpenLoopInAHurry runs on the real clock, with workers that become idle and are woken at any time: none is forgotten, and the run ends.
func TestOpenLoopInAHurry(t *testing.T) {
	s := &server{}
	s.call = func(context.Context, int) error {
		for range s.calls.Load() % 7 {
			runtime.Gosched()
		}
		return nil
	}
	g, err := load.New(load.Config{Load: scenario.Load{Loop: scenario.Open, Rate: 20_000, Concurrency: 16}, Tenants: names(8), New: s.caller})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if f := run(t, g, load.Span{Duration: time.Second / 2}); f.Requests != 10_000 || f.Errors != nil {
		t.Errorf("got %d requests and %v, want 10000", f.Requests, f.Errors)
	}
}
