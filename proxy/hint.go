package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// Times of a stream that is told to come again.
const (
	messageWait  = time.Second     // for the message that was begun to end
	farewellTime = 2 * time.Second // for the client to take it, after which the stream is cut
)

// departing returns why ctx has ended, if it is that its client is to come again; else nil.
func departing(ctx context.Context) *exchange.Reconnect {
	if ctx.Err() == nil {
		return nil
	}
	r, _ := errors.AsType[*exchange.Reconnect](context.Cause(ctx))
	return r
}

// comeAgain returns what a caller sees whose answer had not begun: 503 with Retry-After.
func comeAgain(r *exchange.Reconnect) *fault.Error {
	after := max(r.After, shutdownRetry)
	var known *fault.Error
	if errors.As(r.Err, &known) && known.Kind == fault.Unavailable {
		return known.After(max(after, known.RetryAfter))
	}
	return fault.Wrap(fault.Unavailable, r.Err, "this tenant is moving to another replica: try again").After(after)
}

// eventHint is what tells an EventSource when to come again. The time is spread: those that one replica sends away would
// come back as one.
func eventHint(after time.Duration) []byte {
	after = max(after, 100*time.Millisecond)
	return fmt.Appendf(nil, "retry: %d\n\n", (after + rand.N(after)).Milliseconds()) //nolint:gosec // a spread, no secret
}

// errTold ends an answer of which the client was told that it is not the whole.
var errTold = errors.New("the stream was broken off: its client is to come again")

// tail is the body of a stream that may be told to end: at the end of a message, with a word to the client. Whether the end
// is in order then depends: what answers a GET is a subscription, which ends and is taken up again. What answers anything
// else, such as a completion or a tool's result, is a whole, of which nobody must take a part for it: that is broken off,
// after the word.
type tail struct {
	src    io.Reader
	frames framing
	cut    func(*exchange.Reconnect) // ends a Read of src; it is called once
	end    error                     // io.EOF, or errTold
	mu     sync.Mutex
	leave  *exchange.Reconnect // guarded by mu: the stream is to end
	last   bool                // guarded by mu: with the hint, now
	hint   []byte              // guarded by mu: what is left of it
	// trailer, for gRPC, which has no hint but a status. It is called before the end.
	trailer func()
}

// newTail returns the rest of an answer to a request with method; nil if its messages cannot be told apart.
func newTail(src io.Reader, method, contentType, contentEncoding string) *tail {
	t := &tail{src: src, frames: framingOf(contentType, contentEncoding), end: errTold}
	if t.frames == nil {
		return nil
	}
	if _, isGRPC := t.frames.(*grpcFraming); isGRPC || method == http.MethodGet {
		t.end = io.EOF
	}
	return t
}

// depart asks the stream to end. It does not wait.
func (t *tail) depart(r *exchange.Reconnect) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leave != nil {
		return
	}
	t.leave = r
	if t.frames.whole() {
		t.conclude()
	}
}

// conclude is called with mu held, when all that has passed is whole messages.
func (t *tail) conclude() {
	t.last = true
	if _, ok := t.frames.(*eventFraming); ok {
		t.hint = eventHint(max(t.leave.After, shutdownRetry))
	}
	t.cut(t.leave)
}

// Read implements io.Reader.
func (t *tail) Read(p []byte) (int, error) {
	if n, err, over := t.farewell(p); over {
		return n, err
	}
	n, err := t.src.Read(p)
	n, last := t.pass(p[:n])
	switch {
	case !last:
		return n, err
	case n > 0:
		return n, nil
	}
	n, err, _ = t.farewell(p)
	return n, err
}

// pass returns how much of what was read is passed on, and whether it is the last.
func (t *tail) pass(p []byte) (n int, last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last { // it came after the last whole message, and is not begun any more
		return 0, true
	}
	whole := t.frames.pass(p)
	if t.leave == nil || whole == 0 {
		return len(p), false
	}
	t.conclude()
	return whole, true
}

// farewell reads from what is said at the end; over is false while it is not yet reached.
func (t *tail) farewell(p []byte) (n int, err error, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.last {
		return 0, nil, false
	}
	if len(t.hint) > 0 {
		n = copy(p, t.hint)
		t.hint = t.hint[n:]
		return n, nil, true
	}
	if t.trailer != nil {
		t.trailer()
		t.trailer = nil
	}
	return 0, t.end, true
}

// grpcUnavailable is UNAVAILABLE, the status upon which gRPC clients ask again.
const grpcUnavailable = "14"

// grpcTrailer is the end of a gRPC stream whose client is to come again.
func grpcTrailer() http.Header {
	return http.Header{"Grpc-Status": {grpcUnavailable}, "Grpc-Message": {"this replica gives the stream up: connect again"}}
}
