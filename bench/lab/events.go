package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/scenario"
)

// product is what scenarios do to the gateway itself; its peers are not treated so.
type product interface {
	Reload(ctx context.Context) error
	Crash(ctx context.Context, tenants []int) error
	Drain(ctx context.Context, tenants []int) error
}

// actions carries out events.
type actions struct {
	running  peer.Running
	upstream *backend.Process
}

func (a *actions) product() bool {
	_, ok := a.running.(product)
	return ok
}

func (a *actions) do(ctx context.Context, ev scenario.Event) error {
	if ev.Do == scenario.Stall {
		return a.upstream.Stall(ctx, ev.For)
	}
	p, ok := a.running.(product)
	if !ok {
		return fmt.Errorf("%s is something that only polygate itself can be measured with: %w", ev.Do, peer.ErrCannot)
	}
	switch ev.Do {
	case scenario.Reload:
		return p.Reload(ctx)
	case scenario.Crash:
		return p.Crash(ctx, nil)
	case scenario.Drain:
		return p.Drain(ctx, nil)
	}
	return fmt.Errorf("nobody knows how to %q", ev.Do)
}

// event does what is to happen in a phase, once or again and again, counted from when its measured part begins.
func (s *session) event(ctx context.Context, ev scenario.Event, w *window, ended <-chan struct{}) error {
	if s.act == nil {
		return fmt.Errorf("%s can only be done to a gateway that polybench started itself: measure it without --target", ev.Do)
	}
	if ev.Do != scenario.Stall && !s.act.product() {
		return s.act.do(ctx, ev)
	}
	select {
	case <-w.began:
	case <-ended:
		return nil
	}
	next := time.Now().Add(ev.At)
	for {
		if !until(next, ended) {
			return nil
		}
		if err := s.act.do(ctx, ev); err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", ev.Do, err)
		}
		if ev.Every <= 0 {
			return nil
		}
		next = next.Add(ev.Every)
		if late := time.Now(); next.Before(late) { // the action took longer than the pause
			next = late
		}
	}
}

// until waits for a time. It returns false if the phase ended before.
func until(t time.Time, ended <-chan struct{}) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ended:
		return false
	}
}
