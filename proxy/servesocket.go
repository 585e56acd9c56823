package proxy

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
)

// Times and bounds of a WebSocket that is served here.
const (
	socketPing    = 15 * time.Second // between two pings: middleboxes forget what is silent for a minute
	socketPong    = 15 * time.Second // for the answer
	socketMessage = 64 << 10         // bytes of a message, where the handler does not say
	closeReason   = 123              // bytes of the reason in a close frame (RFC 6455 §5.5)
)

// serveSocket makes a WebSocket of the request and lets a handler of the gateway's run it.
func (f *flight) serveSocket(d *exchange.WebSocket) error {
	s, err := f.openSocket(d)
	if err != nil {
		_ = d.Handle(f.ctx, brokenSocket{err}) // what it holds is to be given back, and its permit settled
		return err
	}
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer s.conn.CloseNow() //nolint:errcheck // closed in whatever way
	helpers.Go(s.receive)
	helpers.Go(s.ping)
	defer close(s.done)
	err = d.Handle(f.ctx, s)
	f.err = f.reason(err)
	if r, ok := errors.AsType[*exchange.Reconnect](err); ok && f.ctx.Err() == nil { // its gateway's end, not the request's
		f.err = comeAgain(r)
	} else if departing(f.ctx) == nil {
		s.end(f.err)
		return nil // the client was told by the close frame
	}
	s.below.depart() // closing waits for the client's answer
	return nil
}

// openSocket judges the handshake (RFC 6455 §4.2.1) and answers it. Its Origin was judged with the credential.
func (f *flight) openSocket(d *exchange.WebSocket) (*socket, error) {
	if err := f.judgeHandshake(d); err != nil {
		return nil, err
	}
	if f.ctx.Err() != nil {
		return nil, context.Cause(f.ctx)
	}
	in := f.r.Clone(f.ctx) // hop-by-hop fields were taken out of it
	in.Header["Connection"], in.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	w := &socketWriter{f: f, header: make(http.Header)}
	c, err := websocket.Accept(w, in, &websocket.AcceptOptions{
		Subprotocols: d.Subprotocols, InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if w.taken != nil {
			_ = w.taken.Close()
		}
		return nil, fault.Wrap(fault.Invalid, err, "the WebSocket handshake failed")
	}
	limit := d.MaxMessage
	or(&limit, socketMessage)
	c.SetReadLimit(limit)
	return &socket{conn: c, below: w.taken, idle: f.s.limits.WriteIdle, messages: make(chan message), done: make(chan struct{}), over: make(chan struct{})}, nil
}

func (f *flight) judgeHandshake(d *exchange.WebSocket) error {
	h := f.r.Header
	if f.upgrade != "websocket" {
		return fault.New(fault.Invalid, "this path speaks WebSocket: ask for the upgrade")
	}
	if v := h["Sec-Websocket-Version"]; len(v) != 1 || v[0] != "13" {
		f.w.Header()["Sec-Websocket-Version"] = []string{"13"}
		return fault.New(fault.Invalid, "the version of WebSocket must be 13")
	}
	keys := h["Sec-Websocket-Key"]
	if len(keys) != 1 {
		return fault.New(fault.Invalid, "one Sec-WebSocket-Key is needed")
	}
	if key, err := base64.StdEncoding.DecodeString(keys[0]); err != nil || len(key) != 16 {
		return fault.New(fault.Invalid, "Sec-WebSocket-Key must be 16 bytes in base64")
	}
	for _, p := range d.Subprotocols {
		if hasToken(h["Sec-Websocket-Protocol"], p) {
			return nil
		}
	}
	if len(d.Subprotocols) == 0 {
		return nil
	}
	return fault.New(fault.Invalid, "Sec-WebSocket-Protocol must name %s", d.Subprotocols[0])
}

// socketWriter answers a handshake on the connection itself: WriteHeader of a flight takes a 1xx for one of an upstream's.
type socketWriter struct {
	f      *flight
	header http.Header
	taken  *servedConn
}

// Header implements http.ResponseWriter.
func (w *socketWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. The header goes out when the connection is taken over.
func (w *socketWriter) WriteHeader(int) {}

// Write implements http.ResponseWriter. An error's text is dropped: the caller answers with a problem.
func (w *socketWriter) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements http.Hijacker. What is returned counts bytes and knows how to say goodbye, which what net/http returns
// beside the connection would bypass.
func (w *socketWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.f.Hijack()
	if err != nil {
		return nil, nil, err
	}
	u, ok := c.(*upgraded)
	if !ok || rw.Reader.Buffered() > 0 {
		_ = c.Close()
		return nil, nil, errors.New("the client sent frames before the upgrade was answered")
	}
	w.taken = &servedConn{upgraded: u}
	w.header["X-Request-Id"] = w.f.idValue[:]
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n") // Flush fails as well
	_ = w.header.Write(rw)
	_, _ = rw.WriteString("\r\n")
	if err := rw.Flush(); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	u.begin()
	return w.taken, bufio.NewReadWriter(bufio.NewReader(w.taken), bufio.NewWriter(w.taken)), nil
}

// servedConn is the connection below a socket. One that was told to end is closed when its client has taken the word, or had
// the time to: what is closed with bytes unread is reset, and the word with it.
type servedConn struct {
	*upgraded
	once sync.Once
}

// Close implements net.Conn.
func (c *servedConn) Close() error {
	if c.leaving.Load() {
		c.once.Do(c.awaitClose)
	}
	return c.upgraded.Close()
}

// awaitClose reads until the client's close frame. Nobody else reads any more.
func (u *upgraded) awaitClose() {
	u.depart()
	u.in.Lock()
	defer u.in.Unlock()
	_ = u.SetReadDeadline(time.Now().Add(messageWait)) // fails where Read will
	buf := make([]byte, 4<<10)
	for !u.in.frames.closed {
		n, err := u.Conn.Read(buf)
		u.in.frames.pass(buf[:n])
		if err != nil {
			return
		}
	}
}

// socket is a WebSocket as its handler sees it.
type socket struct {
	conn  *websocket.Conn
	below *servedConn
	idle  time.Duration // how long the client may leave a message unread

	messages chan message
	done     chan struct{} // closed when the handler has returned
	over     chan struct{} // closed when nothing is received any more
	err      error         // set before over is closed: why
	reading  atomic.Int64  // since when the next message is waited for, Unix nanoseconds; 0 = it is not
	writing  atomic.Int32  // messages that are being written
	closed   atomic.Bool
}

type message struct {
	binary bool
	bytes  []byte
}

// receive reads messages and hands them on, one at a time: a client that sends faster than the handler takes is slowed down.
// It alone reads, so that a handler may give a Read up without the connection's ending with it, as the library has it.
func (s *socket) receive() {
	defer close(s.over)
	for {
		s.reading.Store(time.Now().UnixNano())
		kind, p, err := s.conn.Read(context.Background()) // ends with the connection
		s.reading.Store(0)
		if err != nil {
			s.err = received(err)
			return
		}
		select {
		case s.messages <- message{kind == websocket.MessageBinary, p}:
		case <-s.done:
			return
		}
	}
}

// received classifies the end of a connection. One that just ends is an EOF of the transport's, and must not pass for one in order.
func received(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
		return io.EOF
	}
	if errors.Is(err, websocket.ErrMessageTooBig) {
		return fault.Wrap(fault.TooLarge, err, "a message was too long")
	}
	return fault.Wrap(fault.Canceled, errors.New(err.Error()), "the client went away")
}

// ping sends pings and closes the connection of a client that answers none. While the handler takes no message nothing is
// read, an answer included: that is no fault of the client's. One that has stopped reading is Write's to judge.
func (s *socket) ping() {
	t := time.NewTicker(socketPing)
	defer t.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-s.done:
			return
		case <-t.C:
		}
		sent := time.Now().UnixNano()
		if s.reading.Load() == 0 || s.writing.Load() > 0 || s.answers() {
			continue
		}
		if since := s.reading.Load(); since != 0 && since <= sent {
			_ = s.conn.CloseNow() // receive ends with it
			return
		}
	}
}

// answers says whether the client answers a ping.
func (s *socket) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), socketPong)
	defer cancel()
	pong := make(chan error, 1)
	go func() { pong <- s.conn.Ping(context.WithoutCancel(ctx)) }() // a context that ends would end the connection; this ends with it
	select {
	case err := <-pong:
		return err == nil
	case <-ctx.Done():
		return false
	case <-s.done:
		return true
	}
}

// Read implements exchange.Conn.
func (s *socket) Read(ctx context.Context) (bool, []byte, error) {
	select {
	case m := <-s.messages:
		return m.binary, m.bytes, nil
	case <-s.over:
		return false, nil, s.err
	case <-ctx.Done():
		return false, nil, context.Cause(ctx)
	}
}

// Write implements exchange.Conn. A message that the client does not read in time ends the connection, and so does the end of
// ctx some time later: half a message cannot be taken back.
func (s *socket) Write(ctx context.Context, binary bool, p []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	kind := websocket.MessageText
	if binary {
		kind = websocket.MessageBinary
	}
	until, cancel := context.WithTimeoutCause(context.Background(), s.idle, errUnread)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(messageWait, cancel) })
	defer stop()
	s.writing.Add(1)
	defer s.writing.Add(-1)
	if err := s.conn.Write(until, kind, p); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fault.Wrap(fault.Canceled, err, "the client went away")
	}
	return nil
}

// Subprotocol implements exchange.Conn.
func (s *socket) Subprotocol() string { return s.conn.Subprotocol() }

// Close implements exchange.Conn.
func (s *socket) Close(code int, reason string) error {
	if s.closed.Swap(true) {
		return nil
	}
	if len(reason) > closeReason {
		reason = reason[:closeReason]
	}
	return s.conn.Close(websocket.StatusCode(code), validReason(reason))
}

// validReason cuts half a character off the end: a reason is UTF-8 (RFC 6455 §5.5.1).
func validReason(s string) string {
	for len(s) > 0 && s[len(s)-1] >= 0x80 && string([]rune(s)) != s {
		s = s[:len(s)-1]
	}
	return s
}

// end closes the connection as the handler's error says, unless it has closed it.
func (s *socket) end(err error) {
	if err == nil {
		_ = s.Close(int(websocket.StatusNormalClosure), "")
		return
	}
	e := fault.From(err)
	if e.Kind == fault.Canceled {
		return
	}
	_ = s.Close(closeCode(e.Kind), e.Detail)
}

// closeCode is what tells a client why the connection ends: what it did, or may not, is a matter of policy; what may work
// later is to be tried again; the rest is ours.
func closeCode(k fault.Kind) int {
	switch k {
	case fault.TooLarge:
		return int(websocket.StatusMessageTooBig)
	case fault.Unavailable, fault.RateLimited:
		return int(websocket.StatusTryAgainLater)
	case fault.Internal, fault.BadUpstream, fault.UpstreamTimeout, fault.NotImplemented:
		return int(websocket.StatusInternalError)
	}
	return int(websocket.StatusPolicyViolation)
}

// brokenSocket is the connection of a handler that may not begin.
type brokenSocket struct{ err error }

func (b brokenSocket) Read(context.Context) (bool, []byte, error) { return false, nil, b.err }
func (b brokenSocket) Write(context.Context, bool, []byte) error  { return b.err }
func (b brokenSocket) Subprotocol() string                        { return "" }
func (b brokenSocket) Close(int, string) error                    { return nil }
