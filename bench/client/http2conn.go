package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	headerBlock   = 256 << 10       // most bytes of an answer's header, packed
	streamWindow  = maxAnswer       // what a server may send on a stream: a whole answer, so that no stream's window is ever opened again
	connWindow    = 1 << 30         // the same of a connection, opened again at its half
	initialWindow = 65535           // before settings (RFC 9113 §6.9.2)
	writePatience = 5 * time.Second // after which a server that reads nothing is given up
	likelyStreams = 100             // at once, until the server says how many
	lastStream    = 1 << 30         // after which a connection has had its time
)

// errUntouched is a request that the server has not looked at (RFC 9113 §8.7), so that it may be sent again.
const errUntouched sentinel = "the server has not looked at the request"

// stream is a request and its answer. Its caller owns it, and lends it to a connection.
type stream struct {
	id      uint32
	status  int
	grpc    string // grpc-status; "" = none
	message string // grpc-message
	body    bytes.Buffer
	window  int64         // of what the server lets us send
	done    chan struct{} // holds one value when the answer is complete, or has failed
	err     error
}

// shared is an HTTP/2 connection. It does what requests of a load need and no more: whole answers, bodies that are at hand, no
// priorities, no pushes; in a fraction of what a general client costs, since the generator has to load the fastest server.
type shared struct {
	conn   net.Conn
	framer *http2.Framer

	writing sync.Mutex // guards what follows, and the framer's writes
	queued  atomic.Int64
	out     *bufio.Writer
	packer  *hpack.Encoder
	packed  bytes.Buffer
	next    uint32

	mu       sync.Mutex // guards what follows, and all streams that are lent
	streams  map[uint32]*stream
	reserved int // streams, with those that are yet to begin
	most     int // streams at once
	window   int64
	initial  int64 // window of a new stream
	frame    int   // most bytes of a frame
	away     bool  // the server wants no more requests
	err      error // the end; nil = it lives
	opened   chan struct{}

	// What follows is the reader's alone; it changes current under mu.
	received int64 // bytes of data since the window was opened
	unpacker *hpack.Decoder
	current  *stream // whose header is being read; nil = of one that was given up
	headerID uint32
	ends     bool // the stream ends with this header
	block    int  // bytes of this header
}

// newShared begins HTTP/2 on a connection (RFC 9113 §3.4), with one stream reserved.
func newShared(conn net.Conn, in *bufio.Reader) (*shared, error) {
	s := &shared{
		conn: conn, out: bufio.NewWriterSize(conn, 16<<10), next: 1, streams: make(map[uint32]*stream), reserved: 1, most: likelyStreams,
		window: initialWindow, initial: initialWindow, frame: 16 << 10, opened: make(chan struct{}),
	}
	s.framer = http2.NewFramer(s.out, in)
	s.framer.SetReuseFrames()
	s.packer = hpack.NewEncoder(&s.packed)
	s.unpacker = hpack.NewDecoder(4096, s.field)
	s.unpacker.SetMaxStringLength(headerBlock)
	err := errors.Join(
		second(s.out.WriteString(http2.ClientPreface)),
		s.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow}),
		s.framer.WriteWindowUpdate(0, connWindow-initialWindow),
		s.flush(),
	)
	return s, err
}

// second drops a count.
func second(_ int, err error) error { return err }

// flush sends what was written. A server that reads nothing is given up after a while.
func (s *shared) flush() error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writePatience)) // fails on a closed connection, as will what follows
	return s.out.Flush()
}

// write has a function write frames, and sends them. Of several that write at once the last sends for all.
func (s *shared) write(frames func() error) error {
	s.queued.Add(1)
	s.writing.Lock()
	defer s.writing.Unlock()
	err := frames()
	if s.queued.Add(-1) == 0 && err == nil {
		err = s.flush()
	}
	if err != nil {
		s.fail(err)
	}
	return err
}

// reserve takes the place of a stream; false = there is none.
func (s *shared) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.away || s.reserved >= s.most {
		return false
	}
	s.reserved++
	return true
}

// useless says whether the connection will carry nothing any more.
func (s *shared) useless() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil || s.away && s.reserved == 0
}

// Close ends the connection and all its streams.
func (s *shared) Close() { s.fail(errors.New("the connection was given up")) }

// fail ends the connection.
func (s *shared) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	for _, st := range s.streams {
		s.finish(st, s.err)
	}
	s.wake()
	s.mu.Unlock()
	_ = s.conn.Close() // err is the reason
}

// finish gives a stream back to its caller. s.mu is held.
func (s *shared) finish(st *stream, err error) {
	delete(s.streams, st.id)
	st.err = err
	st.done <- struct{}{}
}

// wake tells those who wait for a window that something has changed. s.mu is held.
func (s *shared) wake() {
	close(s.opened)
	s.opened = make(chan struct{})
}

// request sends a request on a stream that was reserved, and waits for the answer. It bounds the wait by ctx, which is watched only when
// patience is at its end (see there).
func (s *shared) request(ctx context.Context, st *stream, header []hpack.HeaderField, body []byte, timer *time.Timer) error {
	defer s.release()
	if err := s.begin(st, header, len(body) == 0); err != nil {
		return err
	}
	if err := s.send(ctx, st, body); err != nil {
		return s.abandon(st, err)
	}
	timer.Reset(firstWait(ctx))
	select {
	case <-st.done:
		return st.err
	case <-timer.C:
	}
	select {
	case <-st.done:
		return st.err
	case <-ctx.Done():
		return s.abandon(st, ctx.Err())
	}
}

// firstWait is for how long a context needs no watch.
func firstWait(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return patience
	}
	return min(patience, time.Until(deadline))
}

// release gives a place back.
func (s *shared) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
}

// begin sends the header of a request.
func (s *shared) begin(st *stream, header []hpack.HeaderField, ends bool) error {
	var lent error
	err := s.write(func() error {
		if lent = s.lend(st); lent != nil {
			return nil // it is the request's error, not the connection's
		}
		s.packed.Reset()
		for _, f := range header {
			if err := s.packer.WriteField(f); err != nil {
				return err
			}
		}
		return s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: st.id, BlockFragment: s.packed.Bytes(), EndStream: ends, EndHeaders: true})
	})
	if lent != nil || err == nil {
		return lent
	}
	return s.abandon(st, err)
}

// lend gives a stream its number and the reader its answer's place. Numbers ascend as headers are written: s.writing is held.
func (s *shared) lend(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.away {
		return errUntouched
	}
	st.id, st.window = s.next, s.initial
	s.next += 2
	if s.next > lastStream {
		s.away = true
	}
	s.streams[st.id] = st
	return nil
}

// abandon takes a stream back before its answer is complete, for a reason, or returns how it ended meanwhile.
func (s *shared) abandon(st *stream, reason error) error {
	s.mu.Lock()
	_, mine := s.streams[st.id]
	delete(s.streams, st.id)
	s.mu.Unlock()
	if !mine {
		<-st.done
		return st.err
	}
	_ = s.write(func() error { return s.framer.WriteRSTStream(st.id, http2.ErrCodeCancel) }) // the reason counts
	return reason
}

// send sends the body of a request, as the windows allow.
func (s *shared) send(ctx context.Context, st *stream, body []byte) error {
	for len(body) > 0 {
		n, wait := s.allowed(st, len(body))
		if n == 0 {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if n < 0 { // the stream has ended: its answer tells
			return nil
		}
		part, ends := body[:n], n == len(body)
		if err := s.write(func() error { return s.framer.WriteData(st.id, ends, part) }); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// allowed takes what may be sent now from both windows: at most want, and a frame. 0 = wait until the channel is closed; below = nothing
// is to be sent any more.
func (s *shared) allowed(st *stream, want int) (int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, mine := s.streams[st.id]; !mine {
		return -1, nil
	}
	n := min(int64(want), int64(s.frame), s.window, st.window)
	if n <= 0 {
		return 0, s.opened
	}
	s.window -= n
	st.window -= n
	return int(n), nil
}
