package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
)

// TestPartsEnd: parts end in the reverse order of their start, and what ended one before its time is told once.
func TestPartsEnd(t *testing.T) {
	g := newGroup(slog.New(slog.DiscardHandler))
	var order []string
	g.onStop("first", func() error { order = append(order, "first"); return nil })
	g.start(t.Context(), "second", func(ctx context.Context) error {
		<-ctx.Done()
		order = append(order, "second")
		return ctx.Err()
	})
	g.start(t.Context(), "third", func(context.Context) error { return errors.New("boom") })
	err := g.wait(t.Context())
	err = errors.Join(err, g.stop())
	if got, want := err.Error(), "third: boom"; got != want {
		t.Errorf("err = %q, want %q", got, want)
	}
	if len(order) != 2 || order[0] != "second" {
		t.Errorf("ended in the order %v, want second, first", order)
	}
}
