package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/tracing"
)

// flight is one request from its arrival to its end. It is the http.ResponseWriter through which everything is answered,
// so that the request id is on every answer and what was sent is known.
type flight struct {
	s  *Server
	w  http.ResponseWriter // net/http's
	r  *http.Request       // with ctx, once registered
	id string              // the request id: always our own

	began     time.Time
	host      string // as named by the client: lower case, with port if it sent one
	name      string // host without the port
	upgrade   string
	target    target
	directory Directory // what it is resolved with
	before    before    // directory, on a tenant's connection that TLS ends on
	place     place
	proof     authn.Evidence // what authenticators may judge
	who       tenant.Principal
	// admission is how the connection was let in, where that takes a certificate, and shownUntil when that one ends.
	admission  *admission
	shownUntil time.Time
	span       tracing.Span
	visit      *guard.Visit
	metrics    *telemetry.TenantMetrics // of its tenant; nil where there is none
	body       body
	hop        hop   // its way between replicas
	err        error // why the request failed; for the log
	// upstreamStatus is what the upstream answered; 0 if it did not, or was not asked.
	upstreamStatus int

	ctx    context.Context
	cancel context.CancelCauseFunc

	status   int   // as answered; 0 = nothing yet. Written by the handler's goroutine alone
	bytesOut int64 // of the response body

	duplexed   bool          // the response may begin before the body has ended
	idValue    [1]string     // backs the header field
	started    atomic.Bool   // the response began
	lifted     atomic.Bool   // the server's WriteTimeout does not hold for it. Written under mu
	stream     atomic.Bool   // the response has no end of its own: it is not waited for at shutdown
	writing    atomic.Uint32 // the tick at which a pending write began; 0 = none is pending
	mu         sync.Mutex
	over       bool         // guarded by mu: the handler has returned, nothing may touch w
	killed     bool         // guarded by mu
	hijacked   net.Conn     // guarded by mu
	departed   atomic.Int64 // when depart was called, Unix nanoseconds; 0 = it was not
	frames     framing      // of a Serve's response; nil = it has none. The handler's goroutine's alone
	next, prev *flight      // guarded by the shard of live
}

// Header implements http.ResponseWriter.
func (f *flight) Header() http.Header { return f.w.Header() }

// WriteHeader implements http.ResponseWriter. The id is set here since an interim response empties the header.
func (f *flight) WriteHeader(status int) {
	h := f.w.Header()
	if status < 200 {
		f.interim(status, h)
		return
	}
	h["X-Request-Id"] = f.idValue[:]
	f.begin(status)
	f.settleBody(h)
	if f.hop.from == nil && (f.before.used || f.s.leaving.Load()) { // the connection is to be given up
		h["Connection"] = []string{"close"} // on HTTP/2 net/http makes a GOAWAY of it
	}
	f.w.WriteHeader(status)
}

// interim passes an upstream's 1xx on, with the fields that are the upstream's to say. Nobody edits its cookies, so it sets
// none. It is written at once, and may block as any write.
//
// HTTP/1.0 has no 1xx (RFC 9110 §15.2). On HTTP/2, net/http still reads the header's map after WriteHeader has returned for
// a stream that was reset, while ReverseProxy clears it: a fatal error of the whole process. And beside a 100 of net/http's
// own, which goes out when the body is first read, two goroutines would write to one buffer.
func (f *flight) interim(status int, h http.Header) {
	if f.r.ProtoMajor != 1 || f.r.ProtoMinor != 1 || f.r.Header["Expect"] != nil {
		return
	}
	scrubResponse(h)
	for name := range h {
		if hopByHop(name) || name == "Set-Cookie" {
			delete(h, name)
		}
	}
	h["X-Request-Id"] = f.idValue[:]
	f.writing.Store(f.s.tick.Load())
	f.w.WriteHeader(status)
	f.writing.Store(0)
}

// begin notes that the response begins. One that nobody can tell the end of is a stream.
func (f *flight) begin(status int) {
	if f.status != 0 {
		return
	}
	f.status = status
	h := f.w.Header()
	ct := h["Content-Type"]
	if status == http.StatusSwitchingProtocols || len(ct) > 0 && streaming(ct[0]) && len(h["Content-Length"]) == 0 {
		f.becomeStream()
	}
	f.started.Store(true)
}

// becomeStream marks f as a stream; once their time is over none goes on.
func (f *flight) becomeStream() {
	f.stream.Store(true)
	if f.s.draining.Load() {
		f.depart(leave())
	}
}

func streaming(contentType string) bool {
	return strings.HasPrefix(contentType, "text/event-stream") || strings.HasPrefix(contentType, "application/grpc")
}

// settleBody decides, as the response begins, about what is left of the body on an HTTP/1.1 connection: whatever is not
// read to its end would be taken for the next request. Either the connection closes after this one, or net/http reads the
// rest away, for which it knows a bound in bytes and none in time.
func (f *flight) settleBody(h http.Header) {
	if !f.bodyLeft() {
		return
	}
	f.mu.Lock()
	killed := f.killed
	f.mu.Unlock()
	if killed || f.duplexed || f.body.failed.Load() != nil {
		h["Connection"] = []string{"close"}
		return
	}
	_ = http.NewResponseController(f.w).SetReadDeadline(time.Now().Add(bodyDrain)) // unsupported only by test doubles
}

// Write implements http.ResponseWriter.
func (f *flight) Write(p []byte) (int, error) {
	if f.status == 0 {
		f.WriteHeader(http.StatusOK)
	}
	f.writing.Store(f.s.tick.Load())
	n, err := f.w.Write(p)
	f.writing.Store(0)
	f.bytesOut += int64(n)
	f.account(0, n)
	return n, err
}

// account counts bytes of bodies against the tenant's share of bandwidth, and waits where it is used up.
func (f *flight) account(in, out int) {
	var d time.Duration
	switch {
	case in+out == 0:
		return
	case f.visit != nil:
		d = f.visit.Bytes(in, out)
	case f.hop.transit != nil:
		d = f.hop.transit.Bytes(in, out)
	}
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.ctx.Done():
	}
}

// FlushError is what http.ResponseController calls to flush.
func (f *flight) FlushError() error {
	if f.status == 0 {
		f.WriteHeader(http.StatusOK)
	}
	f.writing.Store(f.s.tick.Load())
	err := http.NewResponseController(f.w).Flush()
	f.writing.Store(0)
	return err
}

// Hijack implements http.Hijacker, for WebSockets. The connection is remembered, since a context cannot end what is blocked
// in writing to it.
func (f *flight) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(f.w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	f.w.Header()["X-Request-Id"] = f.idValue[:]
	f.mu.Lock()
	f.hijacked = c
	dead := f.killed
	f.mu.Unlock()
	f.begin(http.StatusSwitchingProtocols)
	if dead {
		cut(c)
	}
	u := newUpgraded(c, f)
	u.departWith(f.ctx) // ends with the request at the latest
	return u, rw, nil
}

// kill ends the request for a cause: its context, what it is reading or writing, its connection if it took it over. It does
// not wait. After the request it does nothing. Once is enough, unless the client does not even read what it was killed for.
func (f *flight) kill(cause error) {
	f.cancel(cause)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.killed && !errors.Is(cause, errUnread) {
		return
	}
	f.killed = true
	if f.hijacked != nil {
		cut(f.hijacked) // the handler's copies end with it
		return
	}
	writes := f.started.Load() || f.writing.Load() != 0
	if c, ok := f.r.Context().Value(connKey{}).(net.Conn); ok && writes && f.r.ProtoMajor == 1 {
		cut(c) // the response is broken, and the connection with it
		return
	}
	rc := http.NewResponseController(f.w)
	if f.body.pending() {
		_ = rc.SetReadDeadline(past) // unsupported only by test doubles
	}
	if writes {
		_ = rc.SetWriteDeadline(past)
	}
}

// lift takes the server's WriteTimeout off a request that lasts: from now on, sweep alone judges its pauses.
func (f *flight) lift() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.killed || f.hijacked != nil || f.lifted.Load() {
		return
	}
	f.lifted.Store(true)
	_ = http.NewResponseController(f.w).SetWriteDeadline(time.Time{}) // unsupported only by test doubles
}

// flushLifted sends what is left of the response while sweep still watches: for net/http there is no timeout any more.
func (f *flight) flushLifted() {
	f.mu.Lock()
	lifted := f.lifted.Swap(true) // and not any more from now on
	hijacked := f.hijacked != nil
	f.mu.Unlock()
	if !lifted || hijacked || f.status == 0 {
		return
	}
	if f.FlushError() == nil && f.r.ProtoMajor == 1 { // the end of the body is still to come
		_ = http.NewResponseController(f.w).SetWriteDeadline(time.Now().Add(f.s.limits.WriteIdle))
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// cut closes a connection without a word: the close_notify of TLS waits for a client that does not read.
func cut(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close()
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// stalled says whether the client has kept the request waiting for too long, by the server's tick.
func (f *flight) stalled(now, bodyTicks, writeTicks uint32) error {
	if t := f.body.waiting.Load(); t != 0 && now-t > bodyTicks && !f.started.Load() {
		return errBodyIdle
	}
	if t := f.writing.Load(); t != 0 && now-t > writeTicks {
		return errUnread
	}
	return nil
}

// fail answers with an error, or, if the response has begun, breaks it off: a client must not take a part for the whole.
// It panics with http.ErrAbortHandler then, as it does for a client that went away.
func (f *flight) fail(err error) {
	err = f.reason(err)
	f.err = err
	e := fault.From(err)
	if e.Kind == fault.Canceled {
		f.status = max(f.status, e.Kind.Status())
		panic(http.ErrAbortHandler)
	}
	if f.status != 0 {
		panic(http.ErrAbortHandler)
	}
	f.challenge(e)
	f.notOwner(err)
	if f.hop.from == nil && (e.Kind == fault.Misdirected && f.r.ProtoMajor == 1 || errors.Is(err, errTerms)) {
		f.w.Header().Set("Connection", "close") // the client's idea of this connection is wrong (case X01)
	}
	problem.Write(f, e, f.id)
}

// reason returns why the request really failed: what ended its context comes before what that made fail.
func (f *flight) reason(err error) error {
	if f.ctx == nil || f.ctx.Err() == nil {
		return err
	}
	if r := departing(f.ctx); r != nil {
		return comeAgain(r)
	}
	if cause := context.Cause(f.ctx); !errors.Is(err, cause) {
		return cause
	}
	return err
}

// end is deferred around the whole of the request: it takes the request out of every register, whatever happened, answers
// for a panic, and reports. Nothing of the request may run after it.
func (f *flight) end() {
	p := recover()
	broken := p == http.ErrAbortHandler //nolint:errorlint // net/http compares just so
	if p != nil && !broken {
		broken = f.panicked(p)
	}
	if f.cancel != nil {
		if !broken {
			f.flushLifted()
		}
		f.s.live.remove(f)
		f.cancel(nil)
	}
	f.close()
	if f.visit != nil {
		f.visit.Leave()
	}
	f.leaveTransit()
	f.report()
	f.endTrace()
	if broken {
		panic(http.ErrAbortHandler) // net/http breaks the connection or stream off, and logs nothing
	}
}

// panicked logs a panic and, if nothing was sent yet, answers 500; else it says that the response is broken. The process
// and every other request go on (case X39).
func (f *flight) panicked(p any) (broken bool) {
	f.s.log.Error("panic in a request", slog.String("request_id", f.id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	f.err = fault.New(fault.Internal, "panic")
	if f.status != 0 {
		return true
	}
	problem.Write(f, f.err, f.id)
	return false
}

// close marks the request as over. A connection that settleBody gave up waits for no more of the body, in which net/http
// would otherwise look for the end.
func (f *flight) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	if f.hijacked == nil && f.duplexed && f.bodyLeft() {
		_ = http.NewResponseController(f.w).SetReadDeadline(past) // unsupported only by test doubles
		f.body.leave()
	}
}
