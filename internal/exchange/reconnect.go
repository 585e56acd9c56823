package exchange

import "time"

// Reconnect is the cause with which what serves a request is taken away although nothing is wrong: its tenant moves to
// another replica, or this one stops. A stream that it ends tells its client to come again (SSE: retry; HTTP/2: GOAWAY;
// WebSocket: close 1012, RFC 6455 §7.4.2 and its registry).
type Reconnect struct {
	After time.Duration // when to come again; 0 = at once
	Err   error         // what happens
}

// Error implements error.
func (r *Reconnect) Error() string { return "come again: " + r.Err.Error() }

// Unwrap returns what happens.
func (r *Reconnect) Unwrap() error { return r.Err }
