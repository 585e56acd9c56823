package certs

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// bucket fills over time. It is not safe for concurrent use.
type bucket struct {
	level float64
	at    time.Time
}

// fill brings the level up to now; full is what it holds, in is how long that takes from empty.
func (b *bucket) fill(now time.Time, full float64, in time.Duration) {
	if b.at.IsZero() {
		b.level = full
	} else if d := now.Sub(b.at); d > 0 {
		b.level += full * float64(d) / float64(in)
	}
	b.level = min(b.level, full)
	b.at = now
}

// rates bound how many orders begin, on this replica. They are guarded by the board's mutex.
type rates struct {
	limits   Limits
	replicas func() int
	total    bucket
	tenants  *lru.Cache[string, *bucket] // by owner segment; one that is forgotten was full again, or begins anew
}

// newRates returns full buckets.
func newRates(l Limits, replicas func() int) *rates {
	tenants, _ := lru.New[string, *bucket](16384) // fails only for a size of 0
	return &rates{limits: l, replicas: replicas, tenants: tenants}
}

// share divides a limit among the replicas; each may have one at least.
func (r *rates) share(limit int) float64 {
	return max(1, float64(limit)/float64(max(1, r.replicas())))
}

// verdicts of may.
type verdict int

const (
	yes     verdict = iota
	notThis         // this owner, or this issuer, must wait
	notAny          // everybody must wait
)

// may says whether an order of an owner may begin. An issuer that fails gets only the upper half of the total, so that those
// that work have the other half for themselves.
func (r *rates) may(owner string, failing bool, now time.Time) verdict {
	full := r.share(r.limits.OrdersPerMinute)
	r.total.fill(now, full, time.Minute)
	if r.total.level < 1 {
		return notAny
	}
	if failing && r.total.level < full/2+1 && full >= 2 {
		return notThis
	}
	b, ok := r.tenants.Get(owner)
	if ok {
		b.fill(now, r.share(r.limits.OrdersPerTenantPerHour), time.Hour)
	}
	if ok && b.level < 1 {
		return notThis
	}
	return yes
}

// take spends one order, if it may begin. The platform has no rate of its own.
func (r *rates) take(owner string, platform, failing bool, now time.Time) bool {
	if r.may(owner, failing, now) != yes {
		return false
	}
	r.total.level--
	if platform {
		return true
	}
	b, ok := r.tenants.Get(owner)
	if !ok {
		b = new(bucket)
		r.tenants.Add(owner, b)
	}
	b.fill(now, r.share(r.limits.OrdersPerTenantPerHour), time.Hour)
	b.level--
	return true
}
