package client

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// socket is a WebSocket with a tenant.
type socket struct {
	*websocket.Conn
	wire   *wire
	served int // echoes that it has carried
}

// Close drops the connection without a close frame.
func (s *socket) Close() {
	_ = s.CloseNow()   // whatever was wrong with it
	_ = s.wire.Close() // CloseNow did
}

// socketCaller sends messages and reads their echoes.
type socketCaller struct {
	client *Client
	answer bytes.Buffer
}

// Close implements load.Caller: the connections are the client's.
func (s *socketCaller) Close() error { return nil }

// Call implements load.Caller. Where connections are to be new, one ends after the load's number of messages. A message is sent again,
// once, only if the server took its leave: one that was lost with its connection has failed, since it may have been handled.
func (s *socketCaller) Call(ctx context.Context, tenant int) error {
	t, err := s.client.target(tenant)
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		conn, err := s.client.socketFor(ctx, t, again)
		if err != nil {
			return err
		}
		conn.wire.line.begin(ctx)
		err = s.echo(t, conn)
		if usable := conn.wire.line.end(); err == nil && usable {
			s.client.doneSocket(t, conn)
			return nil
		}
		conn.Close()
		if farewell(err) && conn.served > 0 && !again && ctx.Err() == nil {
			s.client.retried.Add(1)
			continue
		}
		return s.client.outcome(ctx, t, err)
	}
}

// echo sends a message and judges what comes back: the canary and the message. It is the line that bounds both, since a context given
// to the library costs a watch each.
func (s *socketCaller) echo(t *target, conn *socket) error {
	unbounded := context.Background()
	if err := conn.Write(unbounded, websocket.MessageBinary, s.client.payload); err != nil {
		return unanswered(err)
	}
	_, r, err := conn.Reader(unbounded)
	if err != nil {
		return unanswered(err)
	}
	s.answer.Reset()
	if _, err := s.answer.ReadFrom(r); err != nil {
		return err
	}
	got := s.answer.Bytes()
	if err := s.client.judge(t, got); err != nil {
		return err
	}
	if t.Canary != "" && len(got) != len(t.Canary)+len(s.client.payload) {
		return wrong(t, "the echo has %d bytes; the canary and the message have %d", len(got), len(t.Canary)+len(s.client.payload))
	}
	return nil
}

// unanswered marks a WebSocket's end before a byte of an answer.
func unanswered(err error) error {
	if isTimeout(err) || !isClosed(err) && websocket.CloseStatus(err) == -1 {
		return err
	}
	return errors.Join(errUnanswered, err)
}

// farewell says whether a server ended a WebSocket in good order instead of an answer (RFC 6455 §7.4.1).
func farewell(err error) bool {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusServiceRestart:
		return errors.Is(err, errUnanswered)
	default:
		return false
	}
}

// socketFor returns a WebSocket for a message: a kept one, unless it is a second try.
func (c *Client) socketFor(ctx context.Context, t *target, again bool) (*socket, error) {
	if !again {
		if s, ok := t.sockets.take(); ok {
			return s, nil
		}
	}
	w, err := c.dial(ctx, t, "http/1.1")
	if err != nil {
		return nil, err
	}
	conn, err := c.upgrade(ctx, t, w)
	if err != nil {
		_ = w.Close() // it carries nothing
		return nil, err
	}
	return &socket{Conn: conn, wire: w}, nil
}

// upgrade makes a connection a WebSocket.
func (c *Client) upgrade(ctx context.Context, t *target, w *wire) (*websocket.Conn, error) {
	token, err := c.token(ctx, t)
	if err != nil {
		return nil, err
	}
	over := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return w, nil }}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // another host is another tenant
	opts := &websocket.DialOptions{HTTPClient: &http.Client{Transport: over, CheckRedirect: stay}, HTTPHeader: make(http.Header)}
	if token != "" {
		opts.HTTPHeader.Set("Authorization", "Bearer "+token)
	}
	conn, resp, err := websocket.Dial(ctx, c.url(t).String(), opts) //nolint:bodyclose // "You never need to close resp.Body yourself"
	if err == nil {
		conn.SetReadLimit(maxAnswer)
		return conn, nil
	}
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, broken(ctx, t, "opening a WebSocket", err)
	}
	_, err = c.refusal(t, max(resp.StatusCode, 1), resp.Body)
	if err == nil {
		err = wrong(t, "the answer is an ordinary one with status %d and no WebSocket: look at the load's path", resp.StatusCode)
	}
	return nil, err
}

// doneSocket keeps a WebSocket for the next message, or says goodbye.
func (c *Client) doneSocket(t *target, s *socket) {
	s.served++
	if !c.fresh() || s.served < c.load.Messages {
		t.sockets.put(s)
		return
	}
	_ = s.wire.SetDeadline(time.Now().Add(time.Second))
	c.farewells.Go(func() { // the time until the peer says goodbye too is not the message's
		_ = s.Conn.Close(websocket.StatusNormalClosure, "") // nothing is lost if it does not
		s.Close()
	})
}
