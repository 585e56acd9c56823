package proxy

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// relayEnd is how a relay ends that has to make place: its tenant moves, or this replica stops.
type relayEnd struct {
	mu       sync.Mutex
	leave    *exchange.Reconnect // guarded by mu: it has to
	timer    *time.Timer         // guarded by mu: until it is broken off
	over     bool                // guarded by mu
	streams  bool                // guarded by mu: the answer has no end of its own
	tail     *tail               // guarded by mu: that answer, if its messages can be told apart
	upgraded bool                // guarded by mu: it is a WebSocket
}

// follow ends the relay with ctx: at once, or as its client is to be told to come again.
func (c *call) follow(ctx context.Context, cause func() error) (stop func() bool) {
	if ctx.Err() != nil {
		c.cancel(cause()) // nothing has begun
	}
	return context.AfterFunc(ctx, func() {
		if r := departing(ctx); r != nil {
			c.depart(r)
			return
		}
		c.cancel(cause())
	})
}

// depart asks the relay to end. What has an end of its own gets time to reach it; a stream ends with the message that was
// begun, and a WebSocket's connection sees to it by itself.
func (c *call) depart(r *exchange.Reconnect) {
	e := &c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over || e.leave != nil {
		return
	}
	e.leave = r
	c.departStream()
	if e.timer == nil {
		c.cutAfter(c.e.grace)
	}
}

// departStream is called with mu held, when it is known both that the relay has to end and what it is.
func (c *call) departStream() {
	e := &c.end
	switch {
	case e.upgraded:
		c.cutAfter(2 * farewellTime)
	case e.tail != nil:
		c.cutAfter(messageWait)
		e.tail.depart(e.leave)
	case e.streams:
		c.cancel(e.leave)
		return
	default:
		return
	}
	if f, ok := c.w.(*flight); ok {
		f.depart(e.leave) // where it was Live that ended: sweep, and the connection, are to know
	}
}

// cutAfter breaks the relay off after d. It is called with mu held.
func (c *call) cutAfter(d time.Duration) {
	e := &c.end
	if e.timer != nil {
		e.timer.Stop()
	}
	e.timer = time.AfterFunc(d, func() { c.cancel(e.leave) })
}

// stop ends the waits.
func (e *relayEnd) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	if e.timer != nil {
		e.timer.Stop()
	}
}

// upgrade notes that the relay becomes a WebSocket; one that is to end does not.
func (c *call) upgrade() error {
	e := &c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leave != nil {
		return comeAgain(e.leave)
	}
	e.upgraded = true
	return nil
}

// stream prepares an answer without an end of its own for its end.
func (c *call) stream(res *http.Response) {
	ct := res.Header.Get("Content-Type")
	if res.ContentLength >= 0 || !streaming(ct) {
		return
	}
	t := newTail(c.answer.ReadCloser, c.d.Method, ct, res.Header.Get("Content-Encoding"))
	if t != nil {
		c.answer.src = t
		t.cut = func(r *exchange.Reconnect) { c.cancel(r) }
		if _, ok := t.frames.(*grpcFraming); ok {
			t.trailer = func() { res.Trailer = grpcTrailer() }
		}
	}
	e := &c.end
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams, e.tail = true, t
	if e.leave != nil {
		c.departStream()
	}
}

// cause returns why the relay was ended before its time; nil if it was not.
func (c *call) cause() *fault.Error {
	for _, ctx := range [...]context.Context{c.ctx, c.client.Context()} {
		if ctx.Err() == nil {
			continue
		}
		if r := departing(ctx); r != nil {
			return comeAgain(r)
		}
		return fault.From(context.Cause(ctx))
	}
	return nil
}
