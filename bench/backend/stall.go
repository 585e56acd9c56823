package backend

import (
	"sync/atomic"
	"time"
)

// stall holds answers back until a time.
type stall struct {
	start time.Time     // what until counts from
	until atomic.Int64  // nanoseconds; 0 = nothing is held back
	done  chan struct{} // closed when the server ends
}

func newStall() *stall { return &stall{start: time.Now(), done: make(chan struct{})} }

// begin holds all answers back for d from now; a stall that lasts longer already stays.
func (s *stall) begin(d time.Duration) {
	end := int64(time.Since(s.start) + d)
	for has := s.until.Load(); has < end; has = s.until.Load() {
		if s.until.CompareAndSwap(has, end) {
			return
		}
	}
}

// wait returns when nothing is held back (any more). With no stall it costs a load.
func (s *stall) wait() {
	for until := s.until.Load(); until != 0; until = s.until.Load() {
		left := time.Duration(until) - time.Since(s.start)
		if left <= 0 {
			s.until.CompareAndSwap(until, 0)
			continue
		}
		select {
		case <-time.After(left):
		case <-s.done:
			return
		}
	}
}

func (s *stall) end() { close(s.done) }
