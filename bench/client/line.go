package client

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// patience is how long an exchange runs before its context is watched. A watch costs a timer, a channel and a function, more than all
// else that a request costs below TLS, and most answers come at once: so a context's end is seen this much late at most, and a deadline
// in time.
const patience = 50 * time.Millisecond

// line is a TCP connection that one exchange uses at a time, each bounded by its context. It counts what is read.
type line struct {
	net.Conn
	in       *atomic.Int64
	ctx      context.Context // of the exchange; nil = none
	deadline time.Time       // of the exchange; zero = none
	stop     func() bool     // ends the watch; nil = none
	hurried  bool            // the rest is waited for only so long
}

// begin starts an exchange.
func (l *line) begin(ctx context.Context) {
	l.ctx, l.hurried = ctx, false
	l.deadline, _ = ctx.Deadline()
	first := time.Now().Add(patience)
	if !l.deadline.IsZero() && l.deadline.Before(first) {
		first = l.deadline
	}
	_ = l.SetDeadline(first) // fails on a closed connection, as will what follows
}

// hurry bounds what is left of an exchange to a time, within its own.
func (l *line) hurry(d time.Duration) {
	l.hurried = true
	until := time.Now().Add(d)
	if !l.deadline.IsZero() && l.deadline.Before(until) {
		until = l.deadline
	}
	_ = l.SetDeadline(until) // as in begin
}

// end ends an exchange. It returns false if the context ended before, so that the connection is of no use any more.
func (l *line) end() bool {
	l.ctx = nil
	if l.stop == nil {
		return true
	}
	stop := l.stop
	l.stop = nil
	return stop()
}

// Read reads and counts.
func (l *line) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n == 0 && err != nil && l.waits(err) {
		n, err = l.Conn.Read(b)
	}
	l.in.Add(int64(n))
	return n, err
}

// Write writes all of b.
func (l *line) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	if err != nil && l.waits(err) {
		var more int
		more, err = l.Conn.Write(b[n:])
		n += more
	}
	return n, err
}

// waits tells whether an error is but the end of patience, and if so has the context watched from now on.
func (l *line) waits(err error) bool {
	if l.ctx == nil || l.hurried || l.stop != nil || !errors.Is(err, os.ErrDeadlineExceeded) || l.ctx.Err() != nil {
		return false
	}
	if !l.deadline.IsZero() && !time.Now().Before(l.deadline) {
		return false
	}
	_ = l.SetDeadline(l.deadline) // as in begin
	conn := l.Conn
	l.stop = context.AfterFunc(l.ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // whatever waits ends at once
	return true
}
