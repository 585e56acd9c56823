package gateway

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/polygate/polygate/bench/proc"
)

// footprint is a process's memory at rest.
type footprint struct {
	rss  int64 // bytes resident
	heap int64 // of them, objects that are alive
}

// The spans of settle. A stage settles in less than a minute: connections that are idle for one are closed by the gateway.
const (
	collections  = 2                // of garbage, after which what a stage left behind is gone
	collectLimit = 30 * time.Second // for each
	heapLooks    = 5                // at the heap, of which the smallest counts: between two of them garbage is made
	steadyEvery  = 250 * time.Millisecond
	steadyTimes  = 4    // in a row
	steadyBy     = 0.01 // of resident memory, which is then steady
	steadyLimit  = 10 * time.Second
)

// settle measures a process that has nothing to do. What it has used and does not need any more is resident for as long as Go's
// collector has no reason to look: it comes when the heap has doubled, or after two minutes. So the process is asked for its metrics,
// which makes garbage, until it has collected twice; then memory is read when it does not change any more. What is resident is thus
// what a working gateway has, up to twice what is alive; the heap is what is alive.
func (r *replica) settle(ctx context.Context) (footprint, error) {
	for range collections {
		if err := r.collect(ctx); err != nil {
			return footprint{}, err
		}
	}
	heap := math.Inf(1)
	for range heapLooks {
		n, err := r.metric(ctx, "go_memstats_heap_alloc_bytes")
		if err != nil {
			return footprint{}, err
		}
		heap = min(heap, n)
	}
	rss, err := r.steady(ctx)
	return footprint{rss: rss, heap: int64(heap)}, err
}

// collect makes garbage until it has been collected.
func (r *replica) collect(ctx context.Context) error {
	const cycles = "go_gc_duration_seconds_count"
	before, err := r.metric(ctx, cycles)
	for deadline := time.Now().Add(collectLimit); err == nil; {
		var now float64
		if now, err = r.metric(ctx, cycles); now > before {
			break
		}
		if err == nil && time.Now().After(deadline) {
			err = errors.New("the gateway did not collect its garbage: is the machine busy?")
		}
	}
	return err
}

// steady waits until resident memory does not change any more, or for a while.
func (r *replica) steady(ctx context.Context) (int64, error) {
	var last int64
	same := 0
	for deadline := time.Now().Add(steadyLimit); ; {
		u, err := proc.Measure([]int{r.pid()})
		if err != nil {
			return 0, r.failed(err)
		}
		if same++; math.Abs(float64(u.RSS-last)) > steadyBy*float64(last) {
			same = 0
		}
		if last = u.RSS; same >= steadyTimes || time.Now().After(deadline) {
			return last, nil
		}
		if err := pause(ctx, steadyEvery); err != nil {
			return 0, err
		}
	}
}
