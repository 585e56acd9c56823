// Package quota bounds how much a tenant may use: rates by the generic cell rate algorithm (GCRA), of requests (Rate) and of
// bytes (Debt), a number of requests in flight (Gate), and a share of what all tenants use together (Pool). The algorithms
// are pure functions; the types hold their state and are safe for concurrent use.
package quota

import (
	"math"
	"sync/atomic"
	"time"
)

// Limit is a sustained rate with a burst. A PerSecond of 0 or less is no limit.
type Limit struct {
	PerSecond float64 // requests per second
	Burst     int     // requests that may come at once; below 1 it is PerSecond, rounded up
	Closed    bool    // nothing passes: a part of a limit that rounds to nothing
}

// closedFor is when to look again at a limit that is closed.
const closedFor = time.Second

// Most returns how many requests may come at once: the burst, or what stands for it.
func (l Limit) Most() int {
	if l.Burst < 1 {
		return int(math.Ceil(l.PerSecond))
	}
	return l.Burst
}

// interval returns the time that one request takes of the budget, and the whole budget.
func (l Limit) interval() (emission, tolerance time.Duration) {
	per := float64(time.Second) / l.PerSecond
	emission = max(1, clampTime(per))
	if per < 1000 { // rates of bytes: a rounded nanosecond, times a burst of gigabytes, would be far off
		return emission, max(emission, clampTime(per*float64(l.Most())))
	}
	return emission, clampTime(float64(emission) * float64(l.Most()))
}

// clampTime returns ns as a duration of at most some 30 years, so that adding it to a time does not overflow.
func clampTime(ns float64) time.Duration { return time.Duration(min(ns, 1e18)) }

// Decision is the outcome of Spend.
type Decision struct {
	OK         bool
	RetryAfter time.Duration // if not OK: the time after which one request would pass
}

// Spend takes one request out of the budget. tat is the theoretical arrival time that the last Spend returned, in
// nanoseconds on the clock of now; 0 at first. A refused request costs nothing. Nobody owes more than the whole budget: a
// tat beyond that was set before the clock went back, or under a slower limit, and is brought down to it.
func Spend(tat, now int64, l Limit) (int64, Decision) {
	if l.PerSecond <= 0 {
		return tat, Decision{OK: true}
	}
	if l.Closed {
		return tat, Decision{RetryAfter: closedFor}
	}
	emission, tolerance := l.interval()
	tat = min(tat, now+int64(tolerance))
	next := max(tat, now) + int64(emission)
	if over := next - now - int64(tolerance); over > 0 {
		return tat, Decision{RetryAfter: time.Duration(over)}
	}
	return next, Decision{OK: true}
}

// Rate is a Limit's state. The zero value is a full budget.
type Rate struct {
	tat atomic.Int64
}

// Spend takes one request at time now.
func (r *Rate) Spend(now time.Time, l Limit) Decision {
	for {
		tat := r.tat.Load()
		next, d := Spend(tat, now.UnixNano(), l)
		if next == tat || r.tat.CompareAndSwap(tat, next) {
			return d
		}
	}
}

// Refund returns the state after taking back one request that Spend let pass.
func Refund(tat int64, l Limit) int64 {
	if l.PerSecond <= 0 || l.Closed {
		return tat
	}
	emission, _ := l.interval()
	return tat - int64(emission)
}

// Left returns how many requests would pass at once; -1 without a limit.
func Left(tat, now int64, l Limit) float64 {
	if l.PerSecond <= 0 {
		return -1
	}
	if l.Closed {
		return 0
	}
	emission, tolerance := l.interval()
	return float64(max(0, int64(tolerance)-max(0, tat-now))) / float64(emission)
}

// Left returns how many requests would pass at once; -1 without a limit.
func (r *Rate) Left(now time.Time, l Limit) float64 { return Left(r.tat.Load(), now.UnixNano(), l) }

// Gate counts what is in flight. The zero value is empty.
type Gate struct {
	n atomic.Int64
}

// Enter takes a place if fewer than limit are taken; a limit of 0 or less is none, but for Closed. Each true is to be paired
// with a Leave.
func (g *Gate) Enter(limit int) bool {
	if n := g.n.Add(1); limit > 0 && n > int64(limit) || limit == Closed {
		g.n.Add(-1)
		return false
	}
	return true
}

// Leave gives a place back.
func (g *Gate) Leave() { g.n.Add(-1) }

// InFlight returns the number of places taken.
func (g *Gate) InFlight() int64 { return g.n.Load() }
