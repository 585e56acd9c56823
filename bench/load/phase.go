package load

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// overdue is how late a request of an open loop may start before it counts as late.
const overdue = time.Millisecond

// phase is one Run.
type phase struct {
	g      *Generator
	span   Span
	ctx    context.Context
	cancel context.CancelCauseFunc
	start  time.Time
	begin  time.Duration // from start: the measured part
	end    time.Duration
	drawn  uint64 // how many tenants there are to draw; the highest number if there is no end

	next    atomic.Uint64 // number of the request that is to come
	workers sync.WaitGroup
}

func newPhase(ctx context.Context, g *Generator, s Span) *phase {
	p := &phase{g: g, span: s, begin: s.Ramp + s.Warmup, drawn: math.MaxUint64}
	p.end = p.begin + s.Duration
	if n, ends := g.drawer.Length(); ends {
		p.drawn = n
		if s.Duration == 0 {
			p.end = math.MaxInt64
		}
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	g.measuring.Store(p.begin == 0) // before the first request, whose handshake counts
	p.start = time.Now()
	return p
}

func (p *phase) elapsed() time.Duration { return time.Since(p.start) }

// clock waits through the phase and returns for how many seconds it was measured. answered is closed when all workers have ended,
// sent when there is nothing left to send.
func (p *phase) clock(answered, sent <-chan struct{}) float64 {
	if !p.wait(p.begin, nil) {
		return 0
	}
	began := p.measured(true)
	if p.drawn == math.MaxUint64 {
		answered = nil // the last answer may come before the end, which is the end nevertheless
	}
	if p.wait(p.end, answered) { // not before all is sent that is due
		select {
		case <-sent:
		case <-p.ctx.Done():
		}
	}
	return p.measured(false).Sub(began).Seconds()
}

// wait returns true when the phase has lasted for d, or when all is answered; false when its context has ended.
func (p *phase) wait(d time.Duration, answered <-chan struct{}) bool {
	t := time.NewTimer(d - p.elapsed())
	defer t.Stop()
	select {
	case <-t.C:
		return p.ctx.Err() == nil
	case <-answered:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// measured says that the measured part begins or ends, and returns when it did: what whoever is told spends on it is not in it.
func (p *phase) measured(begins bool) time.Time {
	p.g.measuring.Store(begins)
	now := time.Now()
	if p.span.Measured == nil {
		return now
	}
	p.span.Measured(begins)
	if begins {
		now = time.Now()
	}
	return now
}

// call makes the request with that number for a caller. Its time counts from since; it is measured if that lies in the measured part.
// It returns what is wrong, which is nil if that came of the phase's end.
func (p *phase) call(w *worker, number uint64, since time.Duration) error {
	now := p.elapsed()
	r := newRequest(p.ctx, p.start.Add(now+p.g.load.Timeout))
	p.g.inFlight.Add(1)
	err := w.caller.Call(r, p.g.drawer.Tenant(p.g.round, number))
	p.g.inFlight.Add(-1)
	r.end()
	if err != nil && stops(err) {
		p.cancel(err)
	} else if err != nil && p.ctx.Err() != nil {
		return nil // interrupted: neither right nor wrong
	}
	late := p.g.open() && now-since > overdue
	p.g.tally.add(w.shard, p.elapsed()-since, classOf(err), late, since >= p.begin && since < p.end)
	return err
}

// worker is a goroutine with its caller.
type worker struct {
	shard  int
	caller Caller
	wake   chan uint64 // open loop: the request that it is to send
}

// hire starts a worker's goroutine, which runs until its work is done.
func (p *phase) hire(w *worker, work func(*worker)) {
	p.workers.Add(1)
	go func() {
		defer p.workers.Done()
		c, err := p.g.caller()
		if err != nil {
			p.cancel(err)
			return
		}
		defer p.g.release(c)
		w.caller = c
		work(w)
	}()
}
