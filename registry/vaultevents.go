package registry

import (
	"context"
	"slices"
	"sync"
)

// maxVaultEvents is how many changes wait for subscribers. Beyond it they are told that anything may have changed, which
// is what a subscriber that is that far behind can make of it anyway.
const maxVaultEvents = 8192

// vaultEvent is a change of a key; no owner means that anything may have changed.
type vaultEvent struct{ owner, key string }

// vaultEvents passes changes from the watch on to subscribers. The watch does not wait for them: on it hangs that a claim
// which was lost ends.
type vaultEvents struct {
	mu      sync.Mutex // guards waiting
	waiting []vaultEvent
	wake    chan struct{} // buffered 1: something waits

	notify sync.Mutex // held while subscribers are called; guards subs
	subs   []*vaultSubscriber
}

type vaultSubscriber struct{ f func(owner, key string) }

func (e *vaultEvents) init() { e.wake = make(chan struct{}, 1) }

// Subscribe calls fn after each change under v/, this replica's own too, in order: with the owner's segment and the key;
// with no owner where anything may have changed: when the watch begins, when it starts anew from a snapshot since changes
// were missed, and when fn was too slow. A break of the watch that misses nothing is not told. fn must not block, or other
// subscribers wait, and must not call Subscribe or cancel. After cancel it is not called any more.
func (v *Vault) Subscribe(fn func(owner, key string)) (cancel func()) {
	e, s := &v.events, &vaultSubscriber{fn}
	e.notify.Lock()
	defer e.notify.Unlock()
	e.subs = append(e.subs, s)
	return func() {
		e.notify.Lock()
		defer e.notify.Unlock()
		e.subs = slices.DeleteFunc(e.subs, func(o *vaultSubscriber) bool { return o == s })
	}
}

// changed takes what the watch saw.
func (v *Vault) changed(owner, key string) { v.events.add(vaultEvent{owner, key}) }

func (e *vaultEvents) add(ev vaultEvent) {
	e.mu.Lock()
	if ev.owner == "" || len(e.waiting) >= maxVaultEvents {
		e.waiting = append(e.waiting[:0], vaultEvent{}) // it says all that waited, too
	} else {
		e.waiting = append(e.waiting, ev)
	}
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run tells subscribers until ctx ends.
func (e *vaultEvents) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
			e.flush()
		}
	}
}

func (e *vaultEvents) flush() {
	e.mu.Lock()
	events := e.waiting
	e.waiting = nil
	e.mu.Unlock()
	e.notify.Lock()
	defer e.notify.Unlock()
	for _, ev := range events {
		for _, s := range e.subs {
			s.f(ev.owner, ev.key)
		}
	}
}
