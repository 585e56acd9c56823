package policy

import (
	"context"
	"math"
	"sync"
	"time"
)

// lane gives out turns of the process, one tenant's evaluation at a time for each. Of those that wait, the tenant goes first that
// had least of the lane lately: whoever needs a little is not held up by those that would take all there is, however many
// they are, and those divide the rest among them. In the order of arrival, ten tenants with endless rules would leave a policy
// of 4 ms nothing but timeouts. It is safe for concurrent use.
type lane struct {
	mu      sync.Mutex
	free    int       // guarded by mu, as all below
	waiting []*waiter // in the order of arrival; one of each tenant
}

type waiter struct {
	m     *member
	ready chan struct{} // closed when it has a turn
}

// usage is how much of the lane a tenant had lately. It is guarded by the lane's mu.
type usage struct {
	had time.Duration
	at  time.Time // to which had refers
}

// forgets is the time in which half of what a tenant had is forgotten.
const forgets = time.Second

// now returns what is left of it.
func (u *usage) now(now time.Time) time.Duration {
	if u.had == 0 {
		return 0
	}
	return time.Duration(float64(u.had) * math.Exp2(-now.Sub(u.at).Seconds()/forgets.Seconds()))
}

func (u *usage) add(now time.Time, d time.Duration) { u.had, u.at = u.now(now)+d, now }

// take waits for a turn, until ctx or timer ends.
func (l *lane) take(ctx context.Context, m *member, timer *time.Timer) bool {
	w := l.enter(m)
	if w == nil {
		return true
	}
	select {
	case <-w.ready:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	if !l.leave(w) {
		l.give(m, 0) // it was given the turn at this very moment
	}
	return false
}

// enter takes a turn that is free; else it returns the place in the queue.
func (l *lane) enter(m *member) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		return nil
	}
	w := &waiter{m: m, ready: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	return w
}

// leave takes w out of the queue, unless it is not in it any more.
func (l *lane) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.waiting {
		if other == w {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// give ends a turn that m had for a while, and gives it to the next.
func (l *lane) give(m *member, had time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	m.usage.add(now, had)
	if len(l.waiting) == 0 {
		l.free++
		return
	}
	least, next := time.Duration(math.MaxInt64), 0
	for i, w := range l.waiting {
		if u := w.m.usage.now(now); u < least {
			least, next = u, i
		}
	}
	w := l.waiting[next]
	l.waiting = append(l.waiting[:next], l.waiting[next+1:]...)
	close(w.ready)
}
