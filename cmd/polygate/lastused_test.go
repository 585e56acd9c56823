package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// usesBook is a store of uses. during runs within each reading, when what it returns is read already.
type usesBook struct {
	used   map[string]time.Time
	during func()
	fails  bool
}

func (b *usesBook) MarkUsed(_ context.Context, marks map[tenant.Scope]map[string]time.Time) error {
	if b.fails {
		return errors.New("the store is away")
	}
	for _, m := range marks {
		maps.Copy(b.used, m)
	}
	return nil
}

func (b *usesBook) LastUsed(context.Context, tenant.Scope) (map[string]time.Time, error) {
	found := maps.Clone(b.used)
	if b.during != nil {
		b.during()
	}
	return found, nil
}

// TestLastUsesAreNeverBetween: a use is found whether it is in memory, in the store, kept since the store failed, or on its way at
// the moment of the question.
func TestLastUsesAreNeverBetween(t *testing.T) {
	ctx, now := context.Background(), time.Unix(1_700_000_000, 0).UTC()
	for name, prepare := range map[string]func(*usesBook, *lastUses){
		"noted":      func(*usesBook, *lastUses) {},
		"stored":     func(_ *usesBook, l *lastUses) { l.flush(ctx) },
		"kept":       func(b *usesBook, l *lastUses) { b.fails = true; l.flush(ctx) },
		"on its way": func(b *usesBook, l *lastUses) { b.during = func() { l.flush(ctx) } },
	} {
		b := &usesBook{used: make(map[string]time.Time)}
		l := &lastUses{store: b, log: slog.New(slog.DiscardHandler)}
		l.mark(tenant.Scope{}, "k", now)
		prepare(b, l)
		got, err := l.LastUsed(ctx, tenant.Scope{})
		if err != nil || !got["k"].Equal(now) {
			t.Errorf("%s: %v (%v), want %v", name, got["k"], err, now)
		}
	}
}
