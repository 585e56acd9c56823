package policy

import (
	"context"
	"time"
)

const (
	shortTime = 2 * time.Millisecond // how long an evaluation runs before it counts as long
	quantum   = 5 * time.Millisecond // how long a long evaluation runs before it lets another one run
)

// long is what an evaluation that does not end soon has to go through: a turn, of which there are Limits.Long in the
// process, for 5 ms at a time. Without it, eight endless evaluations of one tenant would share the processor with everybody
// else's short ones, and those would miss their deadlines. A tenant waits for a turn with one evaluation at a time, so it
// cannot fill the queue either. One goroutine uses it.
type long struct {
	turns  *lane
	m      *member   // the tenant; a value in its long is the right to wait for a turn
	begun  time.Time // of the evaluation, later of its turn
	inTurn bool
}

// turn says whether the evaluation may go on; it waits where that takes a turn. The tenant's own serve in their order.
func (l *long) turn(ctx context.Context, now, deadline time.Time) bool {
	switch {
	case !l.inTurn && now.Sub(l.begun) < l.unasked():
		return true
	case l.inTurn && now.Sub(l.begun) < quantum:
		return true
	}
	l.end()
	timer := time.NewTimer(deadline.Sub(now))
	defer timer.Stop()
	if !acquire(ctx, l.m.long, timer) {
		return false
	}
	if !l.turns.take(ctx, l.m, timer) {
		<-l.m.long
		return false
	}
	l.inTurn, l.begun = true, time.Now()
	return true
}

// unasked returns how long the evaluation runs without a turn: not at all while another one of its tenant is long. Eight
// times 2 ms, begun again and again, would be a core beside the lane, for each tenant with slow rules.
func (l *long) unasked() time.Duration {
	if len(l.m.long) > 0 {
		return 0
	}
	return shortTime
}

// end gives a turn back.
func (l *long) end() {
	if l.inTurn {
		l.turns.give(l.m, time.Since(l.begun))
		<-l.m.long
		l.inTurn = false
	}
}

func acquire(ctx context.Context, c chan struct{}, timer *time.Timer) bool {
	select {
	case c <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}
