package load_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

func TestClosedLoopSendsWhenItHasTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: answersIn(10 * time.Millisecond)}
		g := generator(t, scenario.Load{Loop: scenario.Closed, Concurrency: 3}, s)
		f := run(t, g, load.Span{Warmup: time.Second, Duration: 2 * time.Second})
		if f.Requests != 600 || f.Seconds != 2 || f.Rate != 300 || !near(f.Latency.P50, 10_000, 0.001) {
			t.Errorf("got %d requests in %v s, %v a second, p50 %v µs", f.Requests, f.Seconds, f.Rate, f.Latency.P50)
		}
		if s.calls.Load() != 900 || s.mostBusy.Load() != 3 {
			t.Errorf("with the warm-up, there were %d calls, %d at a time, want 900 and 3", s.calls.Load(), s.mostBusy.Load())
		}
		run(t, g, load.Span{Concurrency: 5, Duration: time.Second})
		if made := s.made.Load(); made != 5 {
			t.Errorf("%d callers were made for phases of 3 and 5: they are kept", made)
		}
	})
}

// TestClosedLoopKnowsNothingOfAStall: it is what an open loop is for. Of 5 s with a stall of one, a closed loop has one slow request a
// caller.
func TestClosedLoopKnowsNothingOfAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		s.call = func(ctx context.Context, _ int) error {
			if at := time.Since(s.began); at >= 2*time.Second && at < 3*time.Second {
				return wait(ctx, 3*time.Second-at)
			}
			return wait(ctx, 4*time.Millisecond)
		}
		g := generator(t, scenario.Load{Loop: scenario.Closed, Concurrency: 4}, s)
		if f := run(t, g, load.Span{Duration: 5 * time.Second}); !near(f.Latency.P99, 4000, 0.001) || !near(f.Latency.Max, 1e6, 0.01) {
			t.Errorf("got p99 %v, max %v", f.Latency.P99, f.Latency.Max)
		}
	})
}

func TestClosedLoopDrawsEachOnceInEachPhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen [8]atomic.Int64
		s := &server{call: func(ctx context.Context, tenant int) error {
			seen[tenant].Add(1)
			return wait(ctx, time.Second)
		}}
		g := generator(t, scenario.Load{Concurrency: 3, Tenants: scenario.Draw{Draw: scenario.Each, First: 1}}, s)
		for phase := range int64(2) {
			f := run(t, g, load.Span{Warmup: time.Hour}) // a warm-up would draw what is to be measured
			if f.Requests != 7 || f.Seconds != 3 {
				t.Errorf("got %d requests in %v s, want 7 in 3, three at a time", f.Requests, f.Seconds)
			}
			for n := range seen {
				if got, want := seen[n].Load(), phase+1; n > 0 && got != want || n == 0 && got != 0 {
					t.Errorf("tenant %d was drawn %d times after %d phases", n, got, want)
				}
			}
		}
	})
}

// TestRefusalsAreNoBusyLoop: callers that nobody listens to leave the processor to who is being started.
func TestRefusalsAreNoBusyLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: func(context.Context, int) error { return classed("connect") }}
		g := generator(t, scenario.Load{Concurrency: 2}, s)
		if f := run(t, g, load.Span{Duration: time.Second}); f.Errors["connect"] != 200 {
			t.Errorf("got %v, want 100 a caller", f.Errors)
		}
	})
}

// TestPaceHoldsAClosedLoop: callers wait for their turn, which is no part of a request's time, and none waits past the phase's end.
func TestPaceHoldsAClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{call: answersIn(time.Millisecond)}
		g := generator(t, scenario.Load{Concurrency: 64}, s)
		next := time.Now()
		var mu sync.Mutex
		began := time.Now()
		f := run(t, g, load.Span{Duration: 2 * time.Second, Pace: func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			d := time.Until(next)
			next = next.Add(100 * time.Millisecond)
			return d
		}})
		if f.Requests != 20 || !near(f.Latency.Max, 1000, 0.01) {
			t.Errorf("got %d requests of at most %v µs, want 20 of 1000", f.Requests, f.Latency.Max)
		}
		if took := time.Since(began); took > 2*time.Second+time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}
