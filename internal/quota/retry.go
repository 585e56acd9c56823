package quota

import (
	"sync/atomic"
	"time"
)

// The spread of the times to retry: half the wait, but within these. Retry-After counts whole seconds, so less than two
// would not part the clients.
const (
	minSpread = 2 * time.Second
	maxSpread = 30 * time.Second
)

// RetryAfter returns when to advise a retry: never before wait, and at a place in the spread that f in [0,1) chooses.
func RetryAfter(wait time.Duration, f float64) time.Duration {
	spread := min(max(wait/2, minSpread), maxSpread)
	return wait + time.Duration(f*float64(spread))
}

// Spread gives out numbers in [0,1) of which any run of consecutive ones lies about evenly (a Weyl sequence by the golden
// ratio), so that clients that are refused one after another are told times that are as far apart as can be. Random
// numbers would leave heaps and gaps. The zero value is ready, and safe for concurrent use.
type Spread struct {
	n atomic.Uint64
}

// Next returns the next number.
func (s *Spread) Next() float64 {
	const golden = 0x9E3779B97F4A7C15 // 2^64 divided by the golden ratio
	return float64(s.n.Add(golden)>>11) / (1 << 53)
}
