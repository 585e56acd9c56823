package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/net/http2"

	"github.com/polygate/polygate/bench/scenario"
)

// multiplexed are a tenant's HTTP/2 connections. There is one, until the server allows it no more streams at once.
type multiplexed struct {
	mu      sync.Mutex // guards what follows
	conns   []*shared
	dialing chan struct{} // closed when the connection that is being made is; nil = none is
}

// shared is an HTTP/2 connection.
type shared struct {
	*http2.ClientConn
	wire *wire
}

// Close ends it.
func (s *shared) Close() {
	_ = s.ClientConn.Close() // its streams fail, which is what is wanted
	_ = s.wire.Close()       // that did
}

// http2Caller makes HTTP/2 requests.
type http2Caller struct {
	client *Client
	answer bytes.Buffer
	judge  func(t *target, resp *http.Response, body []byte) error
	body   []byte // of each request
}

// newHTTP2Caller returns a caller that asks for ordinary answers.
func newHTTP2Caller(c *Client) *http2Caller {
	return &http2Caller{client: c, body: c.payload, judge: func(t *target, resp *http.Response, body []byte) error {
		return c.judgeAnswer(t, resp.StatusCode, body)
	}}
}

// Close implements load.Caller: the connections are the client's.
func (h *http2Caller) Close() error { return nil }

// Call implements load.Caller. A request that the server says it has not looked at (RFC 9113 §8.7) is sent again, once.
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
			return h.client.outcome2(ctx, t, err)
		}
	}
}

// exchange makes a request on a stream of its own.
func (h *http2Caller) exchange(ctx context.Context, t *target, conn *shared, p *prepared) error {
	req := p.stream.WithContext(ctx)
	if len(h.body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(h.body)), int64(len(h.body))
	}
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h.answer.Reset()
	if _, err := h.answer.ReadFrom(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return err
	}
	return h.judge(t, resp, h.answer.Bytes())
}

// streamRequest is what the HTTP/2 requests to a tenant with one token have in common.
func (c *Client) streamRequest(t *target, token string) *http.Request {
	u := c.url(t)
	req := &http.Request{Method: c.load.Method, URL: u, Host: u.Host, Proto: "HTTP/2.0", ProtoMajor: 2, Header: http.Header{"User-Agent": {"polybench"}}}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.load.Protocol == scenario.GRPC {
		req.Method = http.MethodPost
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	}
	return req
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
	cc, err := c.http2.NewClientConn(w)
	if err != nil {
		_ = w.Close() // it carries nothing
		return nil, broken(ctx, t, "beginning HTTP/2", err)
	}
	if !cc.ReserveNewRequest() {
		_ = cc.Close() // likewise
		return nil, &failure{class: "reset", tenant: t, what: "the connection ended as soon as it began"}
	}
	return &shared{ClientConn: cc, wire: w}, nil
}

// reserve returns a connection with a stream reserved; or what to wait for; or, if the caller is to make a connection, to whom to give
// it (nil = none came of it).
func (m *multiplexed) reserve() (*shared, <-chan struct{}, func(*shared)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	live := m.conns[:0]
	var found *shared
	for _, s := range m.conns {
		if found == nil && s.ReserveNewRequest() {
			found = s
		}
		if st := s.State(); st.Closed || st.Closing && st.StreamsActive+st.StreamsReserved == 0 {
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

// untouched says whether the server cannot have looked at a request: it never went out, or the server said so by GOAWAY or REFUSED_STREAM.
// The library has no names for the first ones.
func untouched(err error) bool {
	var stream http2.StreamError
	if errors.As(err, &stream) {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	for _, s := range []string{"client conn not usable", "client conn is closed", "client conn could not be established", "graceful shutdown GOAWAY"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

// outcome2 classifies what went wrong with a stream.
func (c *Client) outcome2(ctx context.Context, t *target, err error) error {
	if err == nil {
		return nil
	}
	var (
		stream http2.StreamError
		away   http2.GoAwayError
	)
	if ctx.Err() == nil && (errors.As(err, &stream) || errors.As(err, &away) || untouched(err) || strings.Contains(err.Error(), "connection lost")) {
		return &failure{class: "reset", tenant: t, what: "the server ended the stream or its connection", err: err}
	}
	return c.outcome(ctx, t, err)
}
