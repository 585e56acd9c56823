package quota

import (
	"math"
	"time"
)

// Closed is a count under which nobody enters: a part of a limit that rounds to nothing. 0 would be no limit.
const Closed = math.MinInt

// rounding is what a product may be off by, as floating point numbers are. It never lifts a sum of parts above the whole,
// since that is a whole number.
const rounding = 1e-9

// Count returns that share of a count. It is rounded down, so that the parts of all replicas are never more than the whole;
// the one replica that is told to round up (odd) has what the others lose by it: ceil(b) <= n - floor(a) where a+b <= n.
func Count(n int, share float64, odd bool) int {
	if n <= 0 || share >= 1 {
		return n
	}
	if share <= 0 {
		return Closed
	}
	part := math.Floor(float64(n)*share + rounding)
	if odd {
		part = math.Ceil(float64(n)*share - rounding)
	}
	if part < 1 {
		return Closed
	}
	return int(part)
}

// Times returns that share of a limit: of its rate, and of its burst as Count rounds it.
func (l Limit) Times(share float64, odd bool) Limit {
	if l.PerSecond <= 0 || share >= 1 {
		return l
	}
	burst := Count(l.Most(), share, odd)
	if burst == Closed {
		return Limit{PerSecond: l.PerSecond, Closed: true}
	}
	return Limit{PerSecond: l.PerSecond * share, Burst: burst}
}

// Rescale returns the theoretical arrival time tat, see Spend, of a limit that became another. What is left stays, as far as
// the new burst goes, and what is owed stays owed: a limit that grows starts with what it grows by spent, so that moving a
// share of a limit never gives a second burst.
func Rescale(tat, now int64, from, to Limit) int64 {
	if from.PerSecond <= 0 || to.PerSecond <= 0 || to.Closed || from == to {
		return tat
	}
	_, tolerance := to.interval()
	left := 0.0 // of the one that was closed
	if !from.Closed {
		_, whole := from.interval()
		left = (float64(whole) - float64(max(0, tat-now))) * from.PerSecond
	}
	left = min(left/to.PerSecond, float64(tolerance))
	return now + int64(tolerance) - int64(max(left, -float64(MaxDebt)))
}

// Carry returns tat with at least the part of the budget used that an equal budget elsewhere had used, in fractions of the
// burst; above 1 = owed.
func Carry(tat, now int64, used float64, l Limit) int64 {
	if l.PerSecond <= 0 || l.Closed || !(used > 0) {
		return tat
	}
	_, tolerance := l.interval()
	return max(tat, now+min(int64(clampTime(used*float64(tolerance))), int64(tolerance)+int64(MaxDebt)))
}

// Used returns which fraction of the burst is used; above 1 = owed.
func Used(tat, now int64, l Limit) float64 {
	if l.PerSecond <= 0 || l.Closed || tat <= now {
		return 0
	}
	_, tolerance := l.interval()
	return float64(tat-now) / float64(tolerance)
}

// Rescale follows a change of the limit, see the function.
func (r *Rate) Rescale(now time.Time, from, to Limit) {
	for {
		tat := r.tat.Load()
		if r.tat.CompareAndSwap(tat, Rescale(tat, now.UnixNano(), from, to)) {
			return
		}
	}
}

// Used returns which fraction of the burst is used.
func (r *Rate) Used(now time.Time, l Limit) float64 { return Used(r.tat.Load(), now.UnixNano(), l) }

// Carry uses at least that fraction of the burst.
func (r *Rate) Carry(now time.Time, used float64, l Limit) {
	for {
		tat := r.tat.Load()
		if r.tat.CompareAndSwap(tat, Carry(tat, now.UnixNano(), min(used, 1), l)) {
			return
		}
	}
}

// Rescale follows a change of the limit, see the function.
func (d *Debt) Rescale(now time.Time, from, to Limit) {
	for {
		tat := d.tat.Load()
		if d.tat.CompareAndSwap(tat, Rescale(tat, now.UnixNano(), from, to)) {
			return
		}
	}
}

// Used returns which fraction of the burst is used; above 1 = owed.
func (d *Debt) Used(now time.Time, l Limit) float64 { return Used(d.tat.Load(), now.UnixNano(), l) }

// Carry uses at least that fraction of the burst, and owes what it is above 1.
func (d *Debt) Carry(now time.Time, used float64, l Limit) {
	for {
		tat := d.tat.Load()
		if d.tat.CompareAndSwap(tat, Carry(tat, now.UnixNano(), used, l)) {
			return
		}
	}
}
