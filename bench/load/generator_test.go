package load_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// classed is an error of a class.
type classed string

func (c classed) Error() string { return "it went wrong: " + string(c) }
func (c classed) Class() string { return string(c) }

// foreign ends a run.
type foreign struct{ error }

func (foreign) Class() string  { return "foreign" }
func (foreign) StopsRun() bool { return true }

// both runs a story with each loop.
func both(t *testing.T, story func(t *testing.T, l scenario.Load)) {
	for _, l := range []scenario.Load{{Loop: scenario.Closed, Concurrency: 4}, {Loop: scenario.Open, Rate: 400}} {
		t.Run(string(l.Loop), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { story(t, l) })
		})
	}
}

func TestErrorsAreCountedByClass(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		s := &server{call: func(ctx context.Context, tenant int) error {
			if err := wait(ctx, 10*time.Millisecond); err != nil {
				return err
			}
			switch tenant {
			case 0:
				return fmt.Errorf("wrapped: %w", classed("status 503"))
			case 1:
				return errors.New("something")
			case 2:
				return wait(ctx, time.Hour)
			}
			return nil
		}}
		l.Timeout = 50 * time.Millisecond
		f := run(t, generator(t, l, s), load.Span{Duration: 4 * time.Second})
		if got, want := slices.Sorted(maps.Keys(f.Errors)), []string{"other", "status 503", "timeout"}; !slices.Equal(got, want) {
			t.Errorf("got the classes %v, want %v", got, want)
		}
		if n := f.Requests + f.Errors["other"] + f.Errors["status 503"] + f.Errors["timeout"]; n != s.calls.Load() {
			t.Errorf("of %d calls, %d were counted", s.calls.Load(), n)
		}
		if f.Latency.Count != f.Requests || f.Latency.Max > 10_010 {
			t.Errorf("percentiles are of right answers: got %+v for %d", f.Latency, f.Requests)
		}
	})
}

// TestStopEndsTheRunAtOnce: what no figure may hide is the error of the run, and what else was in flight is not held against anybody.
func TestStopEndsTheRunAtOnce(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		s := &server{}
		s.call = func(ctx context.Context, _ int) error {
			if s.calls.Load() == 100 {
				return fmt.Errorf("tenant t3: %w", foreign{errors.New("the answer is another tenant's")})
			}
			return wait(ctx, 20*time.Millisecond)
		}
		g := generator(t, l, s)
		f, err := g.Run(t.Context(), load.Span{Duration: time.Hour})
		var stop load.Stop
		if !errors.As(err, &stop) || !strings.Contains(err.Error(), "tenant t3") {
			t.Errorf("got %v", err)
		}
		if f.Errors["foreign"] != 1 || len(f.Errors) != 1 || f.Requests < 80 || f.Requests > 99 || f.Seconds > 1 {
			t.Errorf("got %d requests and %v after %v s", f.Requests, f.Errors, f.Seconds)
		}
	})
}

// TestWhatWasMeasuredUntilAnInterrupt: Ctrl-C loses nothing, and is no error of the server.
func TestWhatWasMeasuredUntilAnInterrupt(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		s := &server{call: answersIn(10 * time.Millisecond)}
		g := generator(t, l, s)
		ctx, cancel := context.WithTimeout(t.Context(), 3005*time.Millisecond)
		defer cancel()
		var told []bool
		f, err := g.Run(ctx, load.Span{Warmup: time.Second, Duration: time.Hour, Measured: func(b bool) { told = append(told, b) }})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if !near(f.Seconds, 2.005, 0.001) || !near(float64(f.Requests), 800, 0.02) || f.Errors != nil {
			t.Errorf("got %d requests and %v in %v s", f.Requests, f.Errors, f.Seconds)
		}
		if !slices.Equal(told, []bool{true, false}) {
			t.Errorf("the measured part: told %v", told)
		}
	})
}

func TestInterruptedInTheWarmup(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		g := generator(t, l, &server{call: answersIn(time.Millisecond)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f, err := g.Run(ctx, load.Span{Warmup: 2 * time.Second, Duration: time.Hour, Measured: func(bool) { t.Error("told of a measured part") }})
		if err == nil || f.Requests != 0 || f.Seconds != 0 || f.Rate != 0 {
			t.Errorf("got %+v, %v", f, err)
		}
	})
}

// TestMeasuredPart: who is told of it can read clocks as it begins and ends, and handshakes count within it only.
func TestMeasuredPart(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		s := &server{}
		var g *load.Generator
		s.call = func(ctx context.Context, _ int) error {
			g.Handshake(time.Since(s.began))
			return wait(ctx, 10*time.Millisecond)
		}
		g = generator(t, l, s)
		var at []time.Duration
		f := run(t, g, load.Span{Warmup: time.Second, Duration: 2 * time.Second, Measured: func(bool) { at = append(at, time.Since(s.began)) }})
		if !slices.Equal(at, []time.Duration{time.Second, 3 * time.Second}) {
			t.Errorf("it began and ended at %v", at)
		}
		if h := f.Handshake; h == nil || !near(float64(h.Count), 800, 0.01) || h.Max > 3.01e6 || !near(h.P50, 2e6, 0.01) {
			t.Errorf("handshakes: %+v", h)
		}
		if f = run(t, g, load.Span{Duration: time.Second}); f.Handshake == nil || f.Handshake.Count < 390 {
			t.Errorf("handshakes without a warm-up: %+v", f.Handshake)
		}
		g.Handshake(time.Second)
		s.call = answersIn(time.Millisecond)
		if f = run(t, g, load.Span{Duration: time.Second}); f.Handshake != nil {
			t.Errorf("handshakes of before: %+v", f.Handshake)
		}
	})
}

func TestLiveTellsOfTheTimeSince(t *testing.T) {
	both(t, func(t *testing.T, l scenario.Load) {
		s := &server{}
		s.call = func(ctx context.Context, tenant int) error {
			if err := wait(ctx, 10*time.Millisecond); err != nil || tenant != 0 {
				return err
			}
			return classed("status 500")
		}
		g := generator(t, l, s)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = g.Run(t.Context(), load.Span{Warmup: 10 * time.Second, Duration: time.Second})
		}()
		for range 2 {
			time.Sleep(2*time.Second + time.Millisecond) // of the test's clock
			v := g.Live()
			if !near(v.Seconds, 2, 0.01) || !near(float64(v.Requests+v.Errors), 800, 0.02) || v.Errors < 50 || v.Errors > 150 || !near(v.P50, 10_000, 0.01) || v.InFlight < 3 || v.InFlight > 5 {
				t.Errorf("got %+v", v)
			}
		}
		<-done
		g.Live()
		if v := g.Live(); v.Requests != 0 || v.P99 != 0 || v.InFlight != 0 {
			t.Errorf("when all is over: %+v", v)
		}
	})
}

func TestCallerThatCannotBeMade(t *testing.T) {
	for _, l := range []scenario.Load{{Loop: scenario.Closed}, {Loop: scenario.Open, Rate: 10}} {
		refuse := errors.New("no more")
		g, err := load.New(load.Config{Load: l, Tenants: names(1), New: func() (load.Caller, error) { return nil, refuse }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Run(t.Context(), load.Span{Duration: time.Hour}); !errors.Is(err, refuse) {
			t.Errorf("%s: got %v", l.Loop, err)
		}
	}
}

func TestSpansThatCannotBe(t *testing.T) {
	s := &server{call: answersIn(0)}
	for _, tc := range []struct {
		load scenario.Load
		span load.Span
		want string
	}{
		{scenario.Load{Loop: scenario.Open}, load.Span{Duration: 1}, "give it a rate above 0"},
		{scenario.Load{Loop: scenario.Open, Rate: 1}, load.Span{Duration: 1, From: -1}, "begin at 0"},
		{scenario.Load{}, load.Span{}, "the phase has no end"},
		{scenario.Load{}, load.Span{Duration: 1, Concurrency: -1}, "use 1 at least"},
		{scenario.Load{}, load.Span{Duration: 1, Warmup: -1}, "below 0"},
	} {
		if _, err := generator(t, tc.load, s).Run(t.Context(), tc.span); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v, want %s", tc.span, err, tc.want)
		}
	}
	if _, err := load.New(load.Config{Load: scenario.Load{Name: "a", Tenants: scenario.Draw{First: 9}}, Tenants: names(3), New: s.caller}); err == nil || !strings.HasPrefix(err.Error(), "load a: the draw begins") {
		t.Errorf("a draw beyond the tenants: got %v", err)
	}
	if s.calls.Load() != 0 {
		t.Error("something was called")
	}
}
