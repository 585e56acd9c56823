package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// flushUses is how often the last uses of keys are stored. A process that is killed forgets those since.
const flushUses = time.Minute

// usesStore keeps the last uses of keys for all replicas.
type usesStore interface {
	MarkUsed(ctx context.Context, marks map[tenant.Scope]map[string]time.Time) error
	LastUsed(ctx context.Context, scope tenant.Scope) (map[string]time.Time, error)
}

// lastUses notes when each key was last used: in memory, at each request, and once a minute in the store. It is safe for
// concurrent use.
type lastUses struct {
	store usesStore
	log   *slog.Logger
	uses  sync.Map // keyUse -> *atomic.Int64: unix seconds

	mu     sync.Mutex
	unsent map[tenant.Scope]map[string]time.Time // guarded by mu: of what a flush took, and the store did not
}

// keyUse names a key of a tenant.
type keyUse struct {
	scope tenant.Scope
	key   string
}

// mark notes a use at this moment. It costs a lookup, and nothing else where the second is the same.
func (l *lastUses) mark(scope tenant.Scope, key string, now time.Time) {
	at, second := keyUse{scope, key}, now.Unix()
	v, ok := l.uses.Load(at)
	if !ok {
		v, _ = l.uses.LoadOrStore(at, new(atomic.Int64))
	}
	if n := v.(*atomic.Int64); n.Load() < second {
		n.Store(second)
	}
}

// run stores the uses until ctx ends, and then once more.
func (l *lastUses) run(ctx context.Context) error {
	t := time.NewTicker(flushUses)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			l.flush(last)
			return nil
		case <-t.C:
			l.flush(ctx)
		}
	}
}

// flush stores what was noted since the last time. What is stored leaves memory.
func (l *lastUses) flush(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	marks := l.unsent
	if marks == nil {
		marks = make(map[tenant.Scope]map[string]time.Time)
	}
	l.uses.Range(func(k, v any) bool {
		at := k.(keyUse)
		l.uses.Delete(k) // a use that is noted just now in what was deleted is lost; the next one is not
		if marks[at.scope] == nil {
			marks[at.scope] = make(map[string]time.Time)
		}
		marks[at.scope][at.key] = time.Unix(v.(*atomic.Int64).Load(), 0).UTC()
		return true
	})
	l.unsent = nil
	if len(marks) == 0 {
		return
	}
	if err := l.store.MarkUsed(ctx, marks); err != nil {
		l.unsent = marks
		l.log.Warn("the last uses of keys could not be stored: they are kept for the next time", "error", err.Error())
	}
}

// LastUsed returns when the keys of a tenant were last used, by their ids, as far as this replica and the store know. Memory
// is read first: what a flush moves meanwhile is found in the store.
func (l *lastUses) LastUsed(ctx context.Context, scope tenant.Scope) (map[string]time.Time, error) {
	all := l.noted(scope)
	stored, err := l.store.LastUsed(ctx, scope)
	if err != nil {
		return nil, err
	}
	for key, t := range stored {
		later(all, key, t)
	}
	return all, nil
}

// noted returns the uses that memory holds. It waits for a flush under way, whose uses are in neither place.
func (l *lastUses) noted(scope tenant.Scope) map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]time.Time)
	for key, t := range l.unsent[scope] {
		later(all, key, t)
	}
	l.uses.Range(func(k, v any) bool {
		if at := k.(keyUse); at.scope == scope {
			later(all, at.key, time.Unix(v.(*atomic.Int64).Load(), 0).UTC())
		}
		return true
	})
	return all
}

func later(all map[string]time.Time, key string, t time.Time) {
	if t.After(all[key]) {
		all[key] = t
	}
}
