package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// How long a stream's end is waited for once all is there that was wanted, so that the connection can be kept: long, as the lab's streams
// end by themselves and a busy machine must not cost them their connections; but shortly once a stream has gone on, since the wait counts
// as latency.
const (
	patiently = 500 * time.Millisecond
	briefly   = 5 * time.Millisecond
)

// maxEvent bounds an event of a stream.
const maxEvent = maxAnswer

// sseCaller reads event streams over HTTP/1.1.
type sseCaller struct {
	client *Client
	header fasthttp.ResponseHeader
	events events
}

// Close implements load.Caller: the connections are the client's.
func (s *sseCaller) Close() error { return nil }

// Call implements load.Caller: it reads the load's number of events, each of which holds the canary. A stream that goes on is left: its
// connection ends.
func (s *sseCaller) Call(ctx context.Context, tenant int) error {
	t, err := s.client.target(tenant)
	if err != nil {
		return err
	}
	token, err := s.client.token(ctx, t)
	if err != nil {
		return err
	}
	head := s.client.head(t, token, s.client.load.Method, "Accept: text/event-stream\r\n", len(s.client.payload))
	head = append(head, s.client.payload...)
	return s.client.overWire(ctx, t, s.client.load.Method, func(w *wire) (bool, error) { return s.exchange(t, w, head) })
}

// exchange asks for a stream and reads it.
func (s *sseCaller) exchange(t *target, w *wire, request []byte) (keep bool, err error) {
	if err := w.send(request, nil); err != nil {
		return false, err
	}
	body, err := open(&s.header, w.reader)
	if err != nil {
		return false, err
	}
	if status := s.header.StatusCode(); status != http.StatusOK {
		return s.client.refusal(t, status, body)
	}
	if !isStream(&s.header) {
		return false, wrong(t, "the answer is %q and no event stream: look at the load's path", t.excerpt(s.header.ContentType()))
	}
	s.events.reset(body)
	for i := range s.client.load.Messages {
		data, err := s.events.next()
		if errors.Is(err, io.EOF) {
			return false, wrong(t, "the stream ended after %d of %d events", i, s.client.load.Messages)
		}
		if err != nil {
			return false, err
		}
		if err := s.client.judge(t, data); err != nil {
			return false, err
		}
	}
	ended, err := s.client.rest(t, w, &s.events)
	return ended && !s.header.ConnectionClose(), err
}

// rest looks whether a stream ends behind what was wanted of it. What comes instead is searched for what is not the tenant's.
func (c *Client) rest(t *target, w *wire, e *events) (ended bool, err error) {
	wait := patiently
	if c.endless.Load() {
		wait = briefly
	}
	w.line.hurry(wait)
	data, err := e.next()
	ended = errors.Is(err, io.EOF)
	c.endless.Store(!ended)
	if err != nil { // also if the time was up, or the connection ended: the answer had come
		return ended, nil
	}
	return false, c.foreign(t, data)
}

// refusal reads an answer with another status than 200.
func (c *Client) refusal(t *target, status int, body io.Reader) (keep bool, err error) {
	b, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil {
		return false, badStatus(t, status, nil)
	}
	return false, c.judgeAnswer(t, status, b)
}

// isStream says whether an answer is an event stream.
func isStream(h *fasthttp.ResponseHeader) bool {
	kind, _, _ := strings.Cut(string(h.ContentType()), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// open reads an answer's header and returns its body, which ends with io.EOF where the answer does.
func open(h *fasthttp.ResponseHeader, r *bufio.Reader) (io.Reader, error) {
	for range 10 { // interim answers (RFC 9110 §15.2), of which no server sends many
		if err := h.Read(r); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
		if code := h.StatusCode(); code >= 200 {
			return bodyOf(h, r), nil
		}
	}
	return nil, errors.New("more than 10 interim answers")
}

// bodyOf returns the body behind a header.
func bodyOf(h *fasthttp.ResponseHeader, r *bufio.Reader) io.Reader {
	switch n := h.ContentLength(); {
	case h.StatusCode() == http.StatusNoContent || h.StatusCode() == http.StatusNotModified:
		return http.NoBody
	case n >= 0:
		return &whole{reader: io.LimitedReader{R: r, N: int64(n)}}
	case n == -1:
		return &chunked{Reader: httputil.NewChunkedReader(r), raw: r}
	default:
		return r // until the connection ends
	}
}

// whole is a body of a known length.
type whole struct{ reader io.LimitedReader }

// Read returns io.ErrUnexpectedEOF where the connection ends before the body.
func (w *whole) Read(b []byte) (int, error) {
	n, err := w.reader.Read(b)
	if errors.Is(err, io.EOF) && w.reader.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunked is a body in chunks. Its end includes the trailers, so that the next answer can follow.
type chunked struct {
	io.Reader
	raw   *bufio.Reader
	ended bool
}

// Read reads on.
func (c *chunked) Read(b []byte) (int, error) {
	if c.ended {
		return 0, io.EOF
	}
	n, err := c.Reader.Read(b)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	c.ended = true
	if err := skipTrailers(c.raw); err != nil {
		return n, err
	}
	return n, io.EOF
}

// skipTrailers reads lines until an empty one.
func skipTrailers(r *bufio.Reader) error {
	for range 100 {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("trailers: %w", errors.Join(io.ErrUnexpectedEOF, err))
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return errors.New("more than 100 trailers")
}

// events reads an event stream (WHATWG HTML §9.2): of it only the data.
type events struct {
	reader *bufio.Reader
	line   []byte
	data   []byte
}

// reset begins another stream.
func (e *events) reset(r io.Reader) {
	if e.reader == nil {
		e.reader = bufio.NewReader(r)
		return
	}
	e.reader.Reset(r)
}

// next returns the data of the next event that has some; it is valid until the next call. io.EOF is the end of the stream, and an event
// without its empty line then is none.
func (e *events) next() ([]byte, error) {
	e.data = e.data[:0]
	some := false
	for {
		line, err := e.readLine()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			if some {
				return e.data, nil
			}
			continue
		}
		value, found := dataOf(line)
		if !found {
			continue
		}
		if some {
			e.data = append(e.data, '\n')
		}
		e.data, some = append(e.data, value...), true
		if len(e.data) > maxEvent {
			return nil, fmt.Errorf("an event has more than %d bytes", maxEvent)
		}
	}
}

// dataOf returns the value of a line if its field is data.
func dataOf(line []byte) (value []byte, found bool) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	return bytes.TrimPrefix(value, []byte(" ")), string(name) == "data"
}

// readLine returns a line without its end, which is CRLF or LF. A lone CR, which the format allows, ends none here.
func (e *events) readLine() ([]byte, error) {
	e.line = e.line[:0]
	for {
		part, err := e.reader.ReadSlice('\n')
		e.line = append(e.line, part...)
		if len(e.line) > maxEvent {
			return nil, fmt.Errorf("a line of an event has more than %d bytes", maxEvent)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(e.line, []byte("\n")), []byte("\r")), nil
	}
}
