package load_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is what all callers of a test call: one function. It counts.
type server struct {
	call func(ctx context.Context, tenant int) error

	began          time.Time
	made, closed   atomic.Int64
	calls          atomic.Int64
	busy, mostBusy atomic.Int64
}

func (s *server) caller() (load.Caller, error) {
	s.made.Add(1)
	return &caller{server: s}, nil
}

type caller struct {
	server *server
	mu     sync.Mutex // held through a call: one goroutine uses a caller at a time
}

func (c *caller) Call(ctx context.Context, tenant int) error {
	if !c.mu.TryLock() {
		panic("two goroutines use one caller")
	}
	defer c.mu.Unlock()
	s := c.server
	s.calls.Add(1)
	if n := s.busy.Add(1); n > s.mostBusy.Load() {
		s.mostBusy.Store(n)
	}
	defer s.busy.Add(-1)
	return s.call(ctx, tenant)
}

func (c *caller) Close() error {
	c.server.closed.Add(1)
	return nil
}

// answersIn returns a call that takes so long, or until its context ends.
func answersIn(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error { return wait(ctx, d) }
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// generator returns one of eight tenants, on the test's clock.
func generator(t *testing.T, l scenario.Load, s *server) *load.Generator {
	t.Helper()
	l.Name = "test"
	g, err := load.New(load.Config{Load: l, Tenants: names(8), New: s.caller, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	g.UseTimers()
	s.began = time.Now()
	t.Cleanup(func() {
		if err := g.Close(); err != nil || s.made.Load() != s.closed.Load() {
			t.Errorf("of %d callers, %d were closed; %v", s.made.Load(), s.closed.Load(), err)
		}
	})
	return g
}

func run(t *testing.T, g *load.Generator, s load.Span) result.Figures {
	t.Helper()
	f, err := g.Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// near tells whether two are no further apart than a part of the second one.
func near(got, want, part float64) bool {
	return got >= want*(1-part) && got <= want*(1+part)
}
