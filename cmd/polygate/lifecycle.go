package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// group runs the daemon's parts, each in a goroutine with a context of its own, and ends them in the reverse order of
// their start, one at a time: whoever depends on a part is gone before the part is.
type group struct {
	log   *slog.Logger
	parts []*part
	ended chan *part // takes each part that returns
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// maxParts bounds group.ended, so that no part ever waits to say that it ended.
const maxParts = 64

func newGroup(log *slog.Logger) *group {
	return &group{log: log, ended: make(chan *part, maxParts)}
}

// start runs a part. Values of ctx reach it, its end does not: only stop ends parts.
func (g *group) start(ctx context.Context, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.parts = append(g.parts, p)
	go func() {
		p.err = run(ctx)
		close(p.done)
		g.ended <- p
	}()
}

// onStop runs f in its turn among the parts when the group stops.
func (g *group) onStop(name string, f func() error) {
	p := &part{name: name, done: make(chan struct{})}
	p.cancel = func() {
		p.err = f()
		close(p.done)
	}
	g.parts = append(g.parts, p)
}

// wait returns when ctx ends, with nil, or when a part ends before its time, with the reason.
func (g *group) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case p := <-g.ended:
		return p.early()
	}
}

// early returns why a part ended before its time. It is told once: stop says nothing more of it.
func (p *part) early() error {
	err := p.err
	if err == nil {
		return fmt.Errorf("%s ended unexpectedly", p.name)
	}
	p.err = nil
	return fmt.Errorf("%s: %w", p.name, err)
}

// stop ends all parts, last first, and returns what went wrong.
func (g *group) stop() error {
	var errs []error
	for i := len(g.parts) - 1; i >= 0; i-- {
		p := g.parts[i]
		p.cancel()
		<-p.done
		if p.err != nil && !errors.Is(p.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, p.err))
		}
		g.log.Debug("stopped", "part", p.name)
	}
	g.parts = nil
	return errors.Join(errs...)
}
