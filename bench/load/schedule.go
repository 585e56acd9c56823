package load

import (
	"math"
	"time"
)

// schedule says when the requests of an open loop are due: at a rate that first goes in a straight line from one to another, and then
// stays. It is a pure function, so that a request is due at its time whatever became of those before it.
type schedule struct {
	from, rate float64       // requests a second
	ramp       time.Duration // in which it goes from one to the other
}

// due returns when the request with that number, from 0, is due after the start.
func (s schedule) due(n uint64) time.Duration {
	if n == 0 && s.from == 0 && s.ramp > 0 {
		return 0
	}
	x, ramped := float64(n), s.ramped()
	if x >= ramped {
		return s.ramp + seconds((x-ramped)/s.rate)
	}
	// So many were due at t: from*t + slope/2*t². Solved in the form that does not cancel where the slope is small.
	slope := (s.rate - s.from) / s.ramp.Seconds()
	return seconds(2 * x / (s.from + math.Sqrt(s.from*s.from+2*slope*x)))
}

// ramped is how many requests are due within the ramp.
func (s schedule) ramped() float64 { return (s.from + s.rate) / 2 * s.ramp.Seconds() }

// count returns how many requests are due before t.
func (s schedule) count(t time.Duration) uint64 {
	at := t.Seconds()
	if t < s.ramp {
		slope := (s.rate - s.from) / s.ramp.Seconds()
		return whole(s.from*at + slope/2*at*at)
	}
	return whole(s.ramped() + s.rate*(t-s.ramp).Seconds())
}

// whole rounds up, but for what is only the error of a sum.
func whole(x float64) uint64 { return uint64(math.Ceil(x - 1e-6)) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
