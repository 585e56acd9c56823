package load

import (
	"context"
	"sync"
	"time"
)

// request is the context of one call. It has a deadline at once, but a timer and a channel only if someone asks for Done: a client that
// sets the deadline on its connection pays for neither, and the engine's own cost stays small beside a request's.
type request struct {
	context.Context // of the phase
	deadline        time.Time

	mu     sync.Mutex // guards what follows
	timed  context.Context
	cancel context.CancelFunc
	over   bool // the call has returned
}

func newRequest(phase context.Context, deadline time.Time) *request {
	return &request{Context: phase, deadline: deadline}
}

// Deadline implements context.Context. It is the request's own: were it the phase's too, a request could see that one pass before the
// phase does, and be counted as a timeout.
func (r *request) Deadline() (time.Time, bool) { return r.deadline, true }

// Done implements context.Context.
func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timed == nil {
		r.timed, r.cancel = context.WithDeadline(r.Context, r.deadline)
		if r.over {
			r.cancel()
		}
	}
	return r.timed.Done()
}

// Err implements context.Context.
func (r *request) Err() error {
	if t := r.timedContext(); t != nil {
		return t.Err()
	}
	if err := r.Context.Err(); err != nil {
		return err
	}
	if !time.Now().Before(r.deadline) {
		r.Done()
		return context.DeadlineExceeded
	}
	return nil
}

// Value implements context.Context. It asks the one with the timer, if there is one, so that contexts made of this one find it.
func (r *request) Value(key any) any {
	if t := r.timedContext(); t != nil {
		return t.Value(key)
	}
	return r.Context.Value(key)
}

func (r *request) timedContext() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.timed
}

// end frees what the context holds. What the call left behind is canceled.
func (r *request) end() {
	r.mu.Lock()
	r.over = true
	cancel := r.cancel
	r.mu.Unlock()
	if cancel != nil {
		cancel() // not under mu: what it wakes may ask this context again
	}
}
