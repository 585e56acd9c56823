package load

import "time"

// refusedPause is for how long a caller of a closed loop waits when nobody listens: the refusals of a server that is being restarted
// would otherwise take the processor that it starts on.
const refusedPause = 10 * time.Millisecond

// runClosed has each caller send as it has the answer to the one before, until the time is over or all is drawn. It returns for how
// many seconds it was measured.
func (p *phase) runClosed() float64 {
	for i := range p.span.Concurrency {
		p.hire(&worker{shard: i}, p.callOn)
	}
	answered := make(chan struct{})
	go func() {
		p.workers.Wait()
		close(answered)
	}()
	seconds := p.clock(answered, answeredAlready())
	<-answered
	return seconds
}

// answeredAlready returns a channel that waits for nothing: a closed loop owes no request at its end.
func answeredAlready() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func (p *phase) callOn(w *worker) {
	for p.ctx.Err() == nil && p.paced() {
		now := p.elapsed()
		if now >= p.end {
			return
		}
		number := p.next.Add(1) - 1
		if number >= p.drawn {
			return
		}
		if err := p.call(w, number, now); classOf(err) == classConnect {
			p.pause(refusedPause)
		}
	}
}

// paced waits until one more request may be sent. It returns false, at once, if that is not within the phase.
func (p *phase) paced() bool {
	if p.span.Pace == nil {
		return true
	}
	d := p.span.Pace()
	if d > 0 && p.elapsed() >= p.end-d {
		return false
	}
	p.pause(d)
	return p.ctx.Err() == nil
}

func (p *phase) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.ctx.Done():
	}
}
