package client

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/polygate/polygate/bench/scenario"
)

// multiplexed are a tenant's HTTP/2 connections. There is one, until the server allows it no more streams at once.
type multiplexed struct {
	mu      sync.Mutex // guards what follows
	conns   []*shared
	dialing chan struct{} // closed when the connection that is being made is; nil = none is
}

// http2Caller makes HTTP/2 requests.
type http2Caller struct {
	client *Client
	stream stream
	timer  *time.Timer
	judge  func(t *target, st *stream) error
	body   []byte // of each request
}

// newHTTP2Caller returns a caller that asks for ordinary answers.
func newHTTP2Caller(c *Client) *http2Caller {
	return streamCaller(c, c.payload, func(t *target, st *stream) error { return c.judgeAnswer(t, st.status, st.body.Bytes()) })
}

// streamCaller returns a caller with a body and a judge.
func streamCaller(c *Client, body []byte, judge func(*target, *stream) error) *http2Caller {
	h := &http2Caller{client: c, stream: stream{done: make(chan struct{}, 1)}, timer: time.NewTimer(time.Hour), judge: judge, body: body}
	h.timer.Stop()
	return h
}

// Close implements load.Caller: the connections are the client's.
func (h *http2Caller) Close() error {
	h.timer.Stop()
	return nil
}

// Call implements load.Caller. A request that the server says it has not looked at is sent again, once.
func (h *http2Caller) Call(ctx context.Context, tenant int) error {
	t, err := h.client.target(tenant)
	if err != nil {
		return err
	}
	p, err := h.client.prepare(ctx, t)
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		conn, err := h.client.shared(ctx, t)
		if err != nil {
			return err
		}
		err = h.exchange(ctx, t, conn, p)
		if h.client.fresh() {
			conn.Close()
		}
		if err == nil || again || !untouched(err) || ctx.Err() != nil {
			return h.client.streamOutcome(ctx, t, err)
		}
		h.client.retried.Add(1)
	}
}

// exchange makes a request on a stream of its own.
func (h *http2Caller) exchange(ctx context.Context, t *target, conn *shared, p *prepared) error {
	st := &h.stream
	st.status, st.grpc, st.message, st.err = 0, "", "", nil
	st.body.Reset()
	if err := conn.request(ctx, st, p.fields, h.body, h.timer); err != nil {
		return err
	}
	return h.judge(t, st)
}

// fields is the header of the HTTP/2 requests to a tenant with one token. length is of the body.
func (c *Client) fields(t *target, token string, length int) []hpack.HeaderField {
	method := c.load.Method
	if c.load.Protocol == scenario.GRPC {
		method = http.MethodPost
	}
	list := []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: c.authority(t)}, {Name: ":path", Value: c.load.Path},
		{Name: "user-agent", Value: "polybench"},
	}
	if token != "" {
		list = append(list, hpack.HeaderField{Name: "authorization", Value: "Bearer " + token})
	}
	if c.load.Protocol == scenario.GRPC {
		return append(list, hpack.HeaderField{Name: "content-type", Value: "application/grpc"}, hpack.HeaderField{Name: "te", Value: "trailers"})
	}
	if length > 0 {
		list = append(list, hpack.HeaderField{Name: "content-length", Value: strconv.Itoa(length)})
	}
	return list
}

// shared returns a connection with a stream reserved on it. One connection is made at a time; others wait for it.
func (c *Client) shared(ctx context.Context, t *target) (*shared, error) {
	if c.fresh() {
		return c.dialShared(ctx, t)
	}
	for {
		conn, wait, made := t.streams.reserve()
		switch {
		case conn != nil:
			return conn, nil
		case wait != nil:
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, broken(ctx, t, "waiting for a connection", ctx.Err())
			}
		default:
			conn, err := c.dialShared(ctx, t)
			made(conn)
			if err != nil {
				return nil, err
			}
			return conn, nil
		}
	}
}

// dialShared makes a connection and reserves a stream on it.
func (c *Client) dialShared(ctx context.Context, t *target) (*shared, error) {
	w, err := c.dial(ctx, t, "h2")
	if err != nil {
		return nil, err
	}
	s, err := newShared(w, w.reader)
	if err != nil {
		_ = w.Close() // it carries nothing
		return nil, broken(ctx, t, "beginning HTTP/2", err)
	}
	c.readers.Go(s.read)
	return s, nil
}

// reserve returns a connection with a stream reserved; or what to wait for; or, if the caller is to make a connection, to whom to give
// it (nil = none came of it).
func (m *multiplexed) reserve() (*shared, <-chan struct{}, func(*shared)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	live := m.conns[:0]
	var found *shared
	for _, s := range m.conns {
		if found == nil && s.reserve() {
			found = s
		}
		if s.useless() {
			s.Close()
			continue
		}
		live = append(live, s)
	}
	clear(m.conns[len(live):])
	m.conns = live
	if found != nil || m.dialing != nil {
		return found, m.dialing, nil
	}
	m.dialing = make(chan struct{})
	return nil, nil, m.made
}

// made takes the connection that was made, and lets go of those that wait for it.
func (m *multiplexed) made(s *shared) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s != nil {
		m.conns = append(m.conns, s)
	}
	close(m.dialing)
	m.dialing = nil
}

// untouched says whether the server has said that it has not looked at a request, or cannot have.
func untouched(err error) bool {
	var stream http2.StreamError
	return errors.Is(err, errUntouched) || errors.As(err, &stream) && stream.Code == http2.ErrCodeRefusedStream
}

// streamOutcome classifies what went wrong with a stream.
func (c *Client) streamOutcome(ctx context.Context, t *target, err error) error {
	var stream http2.StreamError
	if err != nil && ctx.Err() == nil && (errors.As(err, &stream) || errors.Is(err, errUntouched)) {
		return &failure{class: "reset", tenant: t, what: "the server ended the stream or its connection", err: err}
	}
	return c.outcome(ctx, t, err)
}
