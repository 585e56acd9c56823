package guard

import (
	"time"

	"github.com/polygate/polygate/internal/quota"
)

// The bounds of waiting for a larger part of a limit.
const (
	defaultPatience = 750 * time.Millisecond
	mostWaiting     = 64                    // requests of one tenant
	waitStep        = 50 * time.Millisecond // between two looks, where nothing says when there is something
	placeStep       = 10 * time.Millisecond // the same for places, which come free as requests end
)

// dividedBy says whether a refusal is one of this replica's part of a limit: the whole might have let the request in.
func (g *Guard) dividedBy(no refusal) bool {
	return no.refused && no.by < quota.PoolRequests && g.settings.Load().part.Share < 1
}

// orWait waits for a larger part of the limit that refused, for a bounded time: a request must not be refused because a
// share is on its way. try is asked again and again; it holds nothing while it refuses. How many may wait is what the whole
// limit would let in meanwhile, so that a tenant that is over its limits holds little memory.
func (g *Guard) orWait(no refusal, try func() refusal) refusal {
	patience := g.set.cfg.Patience
	if patience <= 0 || g.set.cfg.Wanting == nil || !g.dividedBy(no) {
		return no
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.mayWait(patience) {
		return no
	}
	g.waits.Add(1)
	end := time.Now().Add(patience)
	for {
		changed := g.changed() // before the look, so that no change falls between
		g.set.cfg.Wanting(g.scope)
		if no = try(); !g.dividedBy(no) {
			return no
		}
		left := time.Until(end)
		if left <= 0 {
			g.gaveUp.Add(1)
			return no
		}
		pause(changed, min(left, no.step()))
	}
}

// step returns when to look again.
func (no refusal) step() time.Duration {
	switch no.by {
	case quota.KeyConcurrency, quota.CallerConcurrent, quota.TenantConcurrent, quota.TenantStreams:
		return placeStep
	}
	return min(max(no.wait, time.Millisecond), waitStep)
}

func pause(changed <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// mayWait returns how many requests may wait at once.
func (g *Guard) mayWait(patience time.Duration) int64 {
	l := &g.settings.Load().base
	if l.Rate.PerSecond <= 0 {
		return mostWaiting
	}
	return min(mostWaiting, 1+int64(l.Rate.PerSecond*patience.Seconds()))
}

// changed returns a channel that is closed when the part changes next.
func (g *Guard) changed() <-chan struct{} {
	g.partMu.Lock()
	defer g.partMu.Unlock()
	if g.wake == nil {
		g.wake = make(chan struct{})
	}
	return g.wake
}

// woken is called with partMu held.
func (g *Guard) woken() {
	if g.wake != nil {
		close(g.wake)
		g.wake = nil
	}
}
