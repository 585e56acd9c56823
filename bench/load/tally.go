package load

import (
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/polygate/polygate/bench/result"
)

// Histograms count microseconds up to an hour; what took longer counts as an hour. Three digits are what percentiles are printed
// with; the live view needs no more than two.
const (
	longest    = time.Hour
	digits     = 3
	liveDigits = 2
	shards     = 8 // callers share these, so that memory does not grow with their number, nor do they wait for each other
)

// count is what became of requests.
type count struct {
	times  *hdrhistogram.Histogram // of right answers
	late   int64
	errors map[string]int64
}

func newCount(digits int) count {
	return count{times: hdrhistogram.New(1, longest.Microseconds(), digits), errors: map[string]int64{}}
}

// add counts one request. class is "" for a right answer.
func (c *count) add(took time.Duration, class string, late bool) {
	if late {
		c.late++
	}
	if class != "" {
		c.errors[class]++
		return
	}
	record(c.times, took)
}

// record rounds to the nearest microsecond.
func record(h *hdrhistogram.Histogram, took time.Duration) {
	took = min(max(took, 0), longest)
	_ = h.RecordValue((took + time.Microsecond/2).Microseconds()) // within the bounds, so it cannot fail
}

// moveTo adds what was counted to another and begins anew.
func (c *count) moveTo(sum *count) {
	sum.times.Merge(c.times)
	sum.late += c.late
	for class, n := range c.errors {
		sum.errors[class] += n
	}
	c.times.Reset()
	c.late = 0
	clear(c.errors)
}

// tally counts what all callers do, for the figures of the phase and for the live view.
type tally struct {
	shard [shards]struct {
		mu         sync.Mutex // guards both
		span, live count
		_          [64]byte // apart from the next one's cache line
	}
	mu         sync.Mutex // guards the following
	handshakes *hdrhistogram.Histogram
}

func newTally() *tally {
	t := &tally{handshakes: hdrhistogram.New(1, longest.Microseconds(), digits)}
	for i := range t.shard {
		t.shard[i].span, t.shard[i].live = newCount(digits), newCount(liveDigits)
	}
	return t
}

// add counts a caller's request; it belongs to the figures only if it is measured.
func (t *tally) add(caller int, took time.Duration, class string, late, measured bool) {
	s := &t.shard[caller%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live.add(took, class, late)
	if measured {
		s.span.add(took, class, late)
	}
}

// addUnsent counts requests that were due in the measured part and never sent.
func (t *tally) addUnsent(n uint64) {
	s := &t.shard[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live.errors[ClassUnsent] += int64(n)
	s.span.errors[ClassUnsent] += int64(n)
}

func (t *tally) addHandshake(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	record(t.handshakes, took)
}

// takeLive returns what happened since the last call.
func (t *tally) takeLive() count {
	sum := newCount(liveDigits)
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.live.moveTo(&sum)
		s.mu.Unlock()
	}
	return sum
}

// takeSpan returns the figures of the measured part, which was so long, and begins anew.
func (t *tally) takeSpan(seconds float64) result.Figures {
	sum := newCount(digits)
	for i := range t.shard {
		s := &t.shard[i]
		s.mu.Lock()
		s.span.moveTo(&sum)
		s.mu.Unlock()
	}
	f := result.Figures{Seconds: seconds, Requests: sum.times.TotalCount(), Late: sum.late, Latency: result.LatencyOf(sum.times)}
	if len(sum.errors) > 0 {
		f.Errors = maps.Clone(sum.errors)
	}
	if seconds > 0 {
		f.Rate = float64(f.Requests) / seconds
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handshakes.TotalCount() > 0 {
		l := result.LatencyOf(t.handshakes)
		f.Handshake = &l
		t.handshakes.Reset()
	}
	return f
}
