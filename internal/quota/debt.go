package quota

import (
	"math"
	"sync/atomic"
	"time"
)

// MaxDebt bounds how long a tenant that moved too many bytes is refused for them, if it moves no more.
const MaxDebt = 5 * time.Minute

// Debt is the state of a limit of bytes. Bytes have passed when they are counted, so they are never refused: who goes over
// the limit owes, and is refused until the debt is gone. The zero value owes nothing.
type Debt struct {
	tat atomic.Int64
}

// Owe advances the theoretical arrival time tat, see Spend, by n bytes that passed at now, and returns the time until
// nothing is owed. Parts of a nanosecond count as one, so that many small pieces are not free.
func Owe(tat, now int64, n int64, l Limit) (next int64, owed time.Duration) {
	if l.PerSecond <= 0 || l.Closed || n <= 0 {
		return tat, Owed(tat, now, l)
	}
	_, tolerance := l.interval()
	most := now + int64(tolerance) + int64(MaxDebt)
	cost := int64(clampTime(math.Ceil(float64(n) * float64(time.Second) / l.PerSecond)))
	next = min(max(min(tat, most), now)+cost, most)
	return next, Owed(next, now, l)
}

// Owed returns the time until nothing is owed; 0 if nothing is.
func Owed(tat, now int64, l Limit) time.Duration {
	switch {
	case l.PerSecond <= 0:
		return 0
	case l.Closed:
		return closedFor
	}
	_, tolerance := l.interval()
	over := tat - now - int64(tolerance)
	return max(0, min(time.Duration(over), MaxDebt))
}

// Add counts n bytes that passed at now, and returns the time until nothing is owed.
func (d *Debt) Add(now time.Time, n int64, l Limit) time.Duration {
	if l.PerSecond <= 0 {
		return 0
	}
	for {
		tat := d.tat.Load()
		next, owed := Owe(tat, now.UnixNano(), n, l)
		if next == tat || d.tat.CompareAndSwap(tat, next) {
			return owed
		}
	}
}

// Owed returns the time until nothing is owed; 0 if nothing is.
func (d *Debt) Owed(now time.Time, l Limit) time.Duration {
	return Owed(d.tat.Load(), now.UnixNano(), l)
}

// Left returns how many bytes may pass at once before something is owed; below 0 = owed. Without a limit it is 0.
func (d *Debt) Left(now time.Time, l Limit) float64 {
	if l.PerSecond <= 0 || l.Closed {
		return 0
	}
	_, tolerance := l.interval()
	used := max(0, d.tat.Load()-now.UnixNano())
	return (tolerance.Seconds() - time.Duration(used).Seconds()) * l.PerSecond
}
