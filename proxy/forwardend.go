package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// transfer is a request that is forwarded, once it is under way. It ends with its flight: at once, or, where the client is to
// be told to come again, at the end of a message, as relays do. The same is said to the client where the other replica is
// gone: nothing is wrong with the request, and whoever asks again is served by whoever has the tenant then.
type transfer struct {
	f      *flight
	cancel context.CancelCauseFunc // ends the exchange with the other replica
	stop   func() bool             // ends the watch over the flight

	mu    sync.Mutex
	over  bool                // guarded by mu
	leave *exchange.Reconnect // guarded by mu: it is to end
	tail  *tail               // guarded by mu: the answer, if it is a stream whose messages can be told apart
	known bool                // guarded by mu: the answer is there
	timer *time.Timer         // guarded by mu: until it is broken off
}

// begin returns the context of the exchange with the other replica.
func (t *transfer) begin(f *flight, ctx context.Context) context.Context {
	t.f = f
	ctx, t.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	t.stop = context.AfterFunc(f.ctx, func() {
		if r := departing(f.ctx); r != nil {
			t.depart(r)
			return
		}
		t.cancel(context.Cause(f.ctx))
	})
	return ctx
}

// end lets go of everything.
func (t *transfer) end() {
	t.stop()
	t.mu.Lock()
	t.over = true
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	t.cancel(nil)
}

// depart asks the transfer to end.
func (t *transfer) depart(r *exchange.Reconnect) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.leave != nil {
		return
	}
	t.leave = r
	t.timer = time.AfterFunc(2*farewellTime, func() { t.cancel(r) })
	t.leaveNow()
}

// leaveNow is called with mu held, when it is known both that the transfer is to end and what the answer is.
func (t *transfer) leaveNow() {
	switch {
	case !t.known || t.f.upgrade != "": // the connection of an upgrade sees to it by itself
	case t.tail == nil:
		t.cancel(t.leave)
	default:
		t.tail.depart(t.leave)
	}
}

// answer notes what the answer is, and returns its body.
func (t *transfer) answer(res *http.Response) io.Reader {
	ct := res.Header.Get("Content-Type")
	if res.ContentLength >= 0 || !streaming(ct) || t.f.upgrade != "" {
		return res.Body
	}
	src := &fragile{src: res.Body, t: t}
	end := newTail(src, t.f.r.Method, ct, res.Header.Get("Content-Encoding"))
	if end != nil {
		end.cut = func(r *exchange.Reconnect) { t.cancel(r) }
		if _, ok := end.frames.(*grpcFraming); ok {
			end.trailer = func() { res.Trailer = grpcTrailer() }
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.tail = true, end
	if t.leave != nil {
		t.leaveNow()
	}
	if end == nil {
		return res.Body
	}
	return end
}

// fragile is a stream of another replica's. If that is gone, its client is to come again.
type fragile struct {
	src io.Reader
	t   *transfer
	err error
}

// Read implements io.Reader.
func (r *fragile) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	r.err = err
	if n > 0 {
		return n, nil // the end is the next Read's
	}
	if gone(err) && r.t.f.ctx.Err() == nil {
		r.t.depart(&exchange.Reconnect{After: moveRetry, Err: r.t.f.brokenOff(err)})
	}
	return 0, err
}

// gone says whether err is the end of a connection, and not that of one stream, which the other replica has broken off as it
// would have broken off its own client's.
func gone(err error) bool {
	var stream http2.StreamError
	return !errors.As(err, &stream)
}

// brokenOff is why an answer of another replica ended before its end.
func (f *flight) brokenOff(err error) error {
	if f.ctx.Err() != nil {
		return f.reason(err)
	}
	err = fmt.Errorf("replica %s: %w", f.hop.to, err)
	if !gone(err) {
		return fault.Wrap(fault.BadUpstream, err, "the answer was broken off")
	}
	return fault.Wrap(fault.Unavailable, err, "the replica that serves this tenant broke off: try again").After(moveRetry)
}
