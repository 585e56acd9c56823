package load

import (
	"context"
	"errors"
)

// Classes of errors that the engine itself gives. ClassUnsent is for requests of an open loop that were due but never sent, because
// as many as may be were in flight until the phase was over and its timeout too.
const (
	ClassTimeout = "timeout"
	ClassOther   = "other"
	ClassUnsent  = "not sent"
	classConnect = "connect" // bench/client's: nobody listens
)

// classOf returns the class that an error is counted under; "" for nil.
func classOf(err error) string {
	var classed Classed
	switch {
	case err == nil:
		return ""
	case errors.As(err, &classed) && classed.Class() != "":
		return classed.Class()
	case errors.Is(err, context.DeadlineExceeded):
		return ClassTimeout
	}
	return ClassOther
}

// stops tells whether an error ends the run.
func stops(err error) bool {
	var stop Stop
	return errors.As(err, &stop) && stop.StopsRun()
}
