package load

import (
	"context"
	"math"
	"sync"
	"time"
)

// shortestSleep is how long the pacer sleeps at least. To wake for each request above 20,000 a second would cost more processor time than
// the requests; so there some are sent together, and up to so much late.
const shortestSleep = 50 * time.Microsecond

// openLoop sends requests when they are due. Whoever is free takes the next one: a worker that has just had its answer, if one is due
// by then, or one that the pacer wakes in time. So nothing is woken where the load is high, and nothing is late where it is low. There
// are no more workers than there ever were requests in flight.
type openLoop struct {
	*phase
	schedule schedule
	total    uint64 // how many requests the phase has
	alarm    alarm
	sent     chan struct{} // closed when nothing is left to send

	mu    sync.Mutex    // guards what follows
	idle  []*worker     // wait for wake; the one that was busy last is at the end
	made  int           // workers
	over  bool          // nobody will wake any more
	freed chan struct{} // has one if a worker became idle or ended since the pacer last looked
}

// runOpen returns for how many seconds it was measured.
func (p *phase) runOpen() (float64, error) {
	alarm, err := p.g.alarm()
	if err != nil {
		return 0, err
	}
	defer alarm.close()
	o := &openLoop{
		phase: p, schedule: schedule{from: p.span.From, rate: p.span.Rate, ramp: p.span.Ramp}, total: p.drawn,
		alarm: alarm, sent: make(chan struct{}), freed: make(chan struct{}, 1),
	}
	if p.end < math.MaxInt64 {
		o.total = min(o.total, o.schedule.count(p.end))
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		o.pace()
		p.workers.Wait()
	}()
	seconds := p.clock(answered, o.sent)
	<-answered
	return seconds, nil
}

// pace wakes a worker for each request that none has taken by itself when it is due. It returns when all are sent, or will not be.
func (o *openLoop) pace() {
	stop := context.AfterFunc(o.ctx, o.alarm.interrupt)
	defer stop()
	defer close(o.sent)
	for o.ctx.Err() == nil {
		number, now := o.next.Load(), o.elapsed()
		if number >= o.total {
			break
		}
		if now-o.end > o.g.load.Timeout {
			o.abandon()
			break
		}
		if wait := o.schedule.due(number) - now; wait > 0 {
			o.alarm.sleep(max(wait, shortestSleep))
		} else if !o.dispatch() {
			o.awaitFree()
		}
	}
	o.dismiss()
}

// dispatch gives the next request, if it is due, to a worker. It returns false if all workers are busy, and no more may be made.
func (o *openLoop) dispatch() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.freeWorker()
	if w == nil {
		return false
	}
	if number, ok := o.take(); ok {
		w.wake <- number // it has room: the worker has read the one before
	} else {
		o.idle = append(o.idle, w)
	}
	return true
}

// freeWorker returns one that waits for wake, or nil. The caller holds mu.
func (o *openLoop) freeWorker() *worker {
	if n := len(o.idle); n > 0 {
		w := o.idle[n-1]
		o.idle = o.idle[:n-1]
		return w
	}
	if o.made >= o.span.Concurrency {
		return nil
	}
	w := &worker{shard: o.made, wake: make(chan uint64, 1)}
	o.made++
	o.hire(w, o.work)
	return w
}

// awaitFree waits until a worker may be free, or there is no more time for what is left.
func (o *openLoop) awaitFree() {
	limit := time.NewTimer(o.remaining())
	defer limit.Stop()
	select {
	case <-o.freed:
	case <-limit.C:
	case <-o.ctx.Done():
	}
}

// remaining is how long what is due may still be sent: a timeout beyond the end.
func (o *openLoop) remaining() time.Duration {
	left := o.end - o.elapsed()
	if left > math.MaxInt64-2*o.g.load.Timeout {
		return left
	}
	return left + o.g.load.Timeout + time.Millisecond
}

// take returns the number of the next request if it is due, and nobody else has it then.
func (o *openLoop) take() (number uint64, ok bool) {
	for o.ctx.Err() == nil {
		number = o.next.Load()
		if number >= o.total || o.schedule.due(number) > o.elapsed() {
			return 0, false
		}
		if o.next.CompareAndSwap(number, number+1) {
			return number, true
		}
	}
	return 0, false
}

func (o *openLoop) work(w *worker) {
	for number, ok := <-w.wake; ok; number, ok = o.following(w) {
		_ = o.call(w, number, o.schedule.due(number))
	}
}

// following returns the worker's next request: one that is due by now, or the one that it is woken for. ok is false if there is none.
// It looks a second time under the lock, where it becomes idle too: else the pacer could find no idle worker just before.
func (o *openLoop) following(w *worker) (number uint64, ok bool) {
	if number, ok = o.take(); ok {
		return number, true
	}
	o.mu.Lock()
	if number, ok = o.take(); ok || o.over {
		o.mu.Unlock()
		return number, ok
	}
	o.idle = append(o.idle, w)
	o.mu.Unlock()
	select {
	case o.freed <- struct{}{}:
	default:
	}
	number, ok = <-w.wake
	return number, ok
}

// abandon counts what was due and will not be sent.
func (o *openLoop) abandon() {
	for {
		number := o.next.Load()
		if number >= o.total {
			return
		}
		if o.next.CompareAndSwap(number, o.total) {
			o.g.tally.addUnsent(o.total - max(number, o.schedule.count(o.begin)))
			return
		}
	}
}

// dismiss has all workers end after what they do now.
func (o *openLoop) dismiss() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	for _, w := range o.idle {
		close(w.wake)
	}
	o.idle = nil
}
