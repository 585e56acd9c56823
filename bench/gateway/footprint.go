package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/polygate/polygate/bench/proc"
)

// footprint is a process's memory at rest.
type footprint struct {
	rss  int64 // bytes resident
	heap int64 // of them, objects that are alive, and half of the stacks
}

// The spans of settle. A stage settles in less than a minute: connections that are idle for one are closed by the gateway.
const (
	collections  = 5 // of garbage: what a stage left behind is gone with the second
	collectLimit = 40 * time.Second
	litterAtOnce = 500                    // requests between two looks
	litterBytes  = 6 << 10                // that each leaves behind, and more
	steadyEvery  = 250 * time.Millisecond // between two looks at resident memory
	steadyTimes  = 4                      // in a row
	steadyBy     = 0.01                   // of it, by which it may change and be steady
	steadyLimit  = 10 * time.Second
)

// settle measures a process that has nothing to do. What it has used and does not need any more is resident for as long as Go's
// collector has no reason to look: it comes when the heap has doubled, or after two minutes. So the process is made to collect, by
// requests that leave garbage and nothing else; then its memory is read when it does not change any more. What is resident is thus what
// a gateway at work has, up to twice what is alive. What is alive is the smallest of what the collections found.
func (r *replica) settle(ctx context.Context) (f footprint, err error) {
	if f.heap, err = r.collect(ctx); err == nil {
		f.rss, err = r.steady(ctx)
	}
	return f, err
}

// collect makes garbage until it has been collected some times, and returns what was alive.
func (r *replica) collect(ctx context.Context) (int64, error) {
	first, err := r.collected(ctx)
	if err != nil {
		return 0, err
	}
	client := &http.Client{Timeout: callLimit, Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	least, seen := int64(math.MaxInt64), first.cycles
	for deadline := time.Now().Add(collectLimit); seen < first.cycles+collections; {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the gateway did not collect its garbage in %s: is the machine busy?", collectLimit)
		}
		if err := r.litter(ctx, client); err != nil {
			return 0, err
		}
		c, err := r.collected(ctx)
		if err != nil {
			return 0, err
		}
		if c.cycles > first.cycles+1 { // what was given up during a stage may outlive the collection that was under way
			least = min(least, c.alive)
		}
		seen = c.cycles
	}
	return least, nil
}

// litter makes requests of which nothing remains.
func (r *replica) litter(ctx context.Context, c *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.telemetry+"/healthz", nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Litter", strings.Repeat("x", litterBytes))
	for range litterAtOnce {
		if _, err := send(c, req); err != nil {
			return err
		}
	}
	return nil
}

// collection is what is known of garbage collections.
type collection struct {
	cycles float64 // so far
	alive  int64   // by the last one
}

// collected reads it. How much was alive is told by the size at which the collector comes next: it lets the heap grow by GOGC percent
// of what it found.
func (r *replica) collected(ctx context.Context) (c collection, err error) {
	b, err := r.get(ctx, "http://"+r.telemetry+"/metrics")
	if err != nil {
		return c, err
	}
	cycles, err1 := sample(b, "go_gc_duration_seconds_count")
	next, err2 := sample(b, "go_memstats_next_gc_bytes")
	percent, err3 := sample(b, "go_gc_gogc_percent")
	return collection{cycles: cycles, alive: int64(next / (1 + percent/100))}, errors.Join(err1, err2, err3)
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
