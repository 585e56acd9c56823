// Package load generates load and measures it: an open loop at a rate, whose times count from when a request was due, or a closed loop
// of callers; tenants drawn per request; ramps and warm-ups left out; percentiles from an HDR histogram. What a request is, is the
// Caller's; what the figures are for, the lab's.
package load

import "context"

// Caller makes requests. One goroutine uses a caller at a time.
type Caller interface {
	// Call makes one request for the tenant with that number, checks the answer and returns nil if it is right. ctx has the
	// request's deadline. To ask for its Done costs a timer each time: a client that can, sets the deadline on its connection in its
	// place. What went wrong is counted under Class of the error; one that is Stop ends the run.
	Call(ctx context.Context, tenant int) error
	// Close ends the caller's own connections.
	Close() error
}

// Stop is an error that ends a run at once: an answer held what belongs to another tenant, or something else that no figure
// may hide.
type Stop interface {
	error
	StopsRun() bool
}

// Classed is an error with a short class for counting, such as "timeout" or "status 503". Others count as "other".
type Classed interface {
	error
	Class() string
}
