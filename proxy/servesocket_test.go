package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// echoes is a gateway that serves a WebSocket which says everything twice, and ends as it is told to.
type echoes struct {
	live context.Context // ends the handler, as a gateway that is given away does; nil = never

	mu   sync.Mutex
	ends []error // with which handlers returned
}

func (e *echoes) decide(_ context.Context, _ *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
	return &exchange.Serve{WebSocket: &exchange.WebSocket{Subprotocols: []string{"echo.v2", "echo.v1"}, MaxMessage: 1 << 20, Handle: e.handle}}, nil
}

func (e *echoes) handle(ctx context.Context, c exchange.Conn) error {
	if e.live != nil {
		under, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(e.live, func() { cancel(context.Cause(e.live)) })()
		ctx = under
	}
	err := e.echo(ctx, c)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ends = append(e.ends, err)
	return err
}

func (e *echoes) echo(ctx context.Context, c exchange.Conn) error {
	for {
		binary, p, err := c.Read(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case string(p) == "bye":
			return nil
		case string(p) == "close":
			return c.Close(3000, "as you like")
		case string(p) == "refuse":
			return fault.New(fault.Forbidden, "the delegation has ended")
		case string(p) == "fail":
			return errors.New("secret words")
		case string(p) == "proto":
			p = []byte(c.Subprotocol())
		}
		for range 2 {
			if err := c.Write(ctx, binary, p); err != nil {
				return err
			}
		}
	}
}

// wait returns the error of the next handler that returns.
func (e *echoes) wait(t *testing.T) error {
	t.Helper()
	var err error
	eventually(t, "the handler returns", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.ends) == 0 {
			return false
		}
		err, e.ends = e.ends[0], e.ends[1:]
		return true
	})
	return err
}

// servers returns a front that serves WebSockets itself, and one that forwards to another which does.
func servers(t *testing.T, e *echoes) map[string]*front {
	one := newFront(t)
	one.gateways.decide = e.decide
	many := newCluster(t, 2)
	many.r[0].gateways.decide = many.r[0].owned(many.owners, e.decide)
	return map[string]*front{"here": one, "forwarded": many.r[1].front}
}

func (f *front) dialEcho(t *testing.T, protocols ...string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	if protocols == nil {
		protocols = []string{"echo.v1"}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, "wss://"+hostA+"/ws", &websocket.DialOptions{HTTPClient: f.client(), Subprotocols: protocols,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + keyA}}})
	if err == nil {
		c.SetReadLimit(1 << 20)
		t.Cleanup(func() { c.CloseNow() })
	}
	return c, res, err
}

// said sends a message and returns how the connection ends.
func said(t *testing.T, c *websocket.Conn, text string) (websocket.StatusCode, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Read(ctx)
	var end websocket.CloseError
	if !errors.As(err, &end) {
		t.Errorf("after %.20q: %v", text, err)
	}
	return end.Code, end.Reason
}

func TestServeWebSocket(t *testing.T) {
	e := &echoes{}
	for where, f := range servers(t, e) {
		t.Run(where, func(t *testing.T) {
			c, res, err := f.dialEcho(t, "other", "echo.v2")
			if err != nil {
				t.Fatal(err)
			}
			if ids := res.Header["X-Request-Id"]; len(ids) != 1 || c.Subprotocol() != "echo.v2" {
				t.Errorf("X-Request-Id = %q, subprotocol %q", ids, c.Subprotocol())
			}
			for _, kind := range []websocket.MessageType{websocket.MessageBinary, websocket.MessageText} {
				for _, n := range []int{0, 1, 200, 1 << 20} {
					want := bytes.Repeat([]byte("x"), n)
					if err := c.Write(t.Context(), kind, want); err != nil {
						t.Fatal(err)
					}
					for range 2 {
						if k, got, err := c.Read(t.Context()); err != nil || k != kind || !bytes.Equal(got, want) {
							t.Fatalf("%d bytes came back of %d, as %v: %v", len(got), n, k, err)
						}
					}
				}
			}
			if code, _ := said(t, c, "bye"); code != websocket.StatusNormalClosure {
				t.Errorf("the handler's end: %d", code)
			}
			if err := e.wait(t); err != nil {
				t.Error(err)
			}
			eventually(t, "none is in flight", func() bool { return f.guards.For(f.entry("team-a")).InFlight() == 0 })
		})
	}
}

// What ends a connection is told in its close frame, a defect without its words.
func TestServeWebSocketEnds(t *testing.T) {
	e := &echoes{}
	for where, f := range servers(t, e) {
		for _, tc := range []struct {
			say    string
			code   websocket.StatusCode
			reason string
		}{
			{"close", 3000, "as you like"},
			{"refuse", websocket.StatusPolicyViolation, "the delegation has ended"},
			{"fail", websocket.StatusInternalError, ""},
			{strings.Repeat("x", 1<<20+1), websocket.StatusMessageTooBig, "read limited at 1048577 bytes"},
		} {
			c, _, err := f.dialEcho(t)
			if err != nil {
				t.Fatal(err)
			}
			if code, reason := said(t, c, tc.say); code != tc.code || reason != tc.reason {
				t.Errorf("%s: after %.20q: %d %q, want %d %q", where, tc.say, code, reason, tc.code, tc.reason)
			}
			_ = e.wait(t)
		}
		c, _, err := f.dialEcho(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
			t.Errorf("%s: the client's close is not answered: %v", where, err)
		}
		if err := e.wait(t); err != nil {
			t.Errorf("%s: the client's close: %v", where, err)
		}
		c, _, err = f.dialEcho(t)
		if err != nil {
			t.Fatal(err)
		}
		c.CloseNow()
		if err := e.wait(t); !fault.Is(err, fault.Canceled) {
			t.Errorf("%s: the client's going: %v", where, err)
		}
	}
}

// A handshake that is none is answered as a request, the handler hears of it, and its place is given back.
func TestServeWebSocketRefuses(t *testing.T) {
	e := &echoes{}
	f := newFront(t)
	f.gateways.decide = e.decide
	const good = "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: echo.v1\n"
	const upgrade = "Connection: Upgrade\nUpgrade: websocket\n"
	for name, tc := range map[string]struct{ lines, says string }{
		"no upgrade":    {good, "ask for the upgrade"},
		"version":       {upgrade + strings.Replace(good, "13", "8", 1), "13"},
		"no key":        {upgrade + "Sec-WebSocket-Version: 13\nSec-WebSocket-Protocol: echo.v1\n", "Sec-WebSocket-Key"},
		"short key":     {upgrade + strings.Replace(good, "dGhl", "", 1), "16 bytes"},
		"two keys":      {upgrade + good + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n", "one Sec-WebSocket-Key"},
		"protocol":      {upgrade + strings.Replace(good, "echo.v1", "echo.v3", 1), "echo.v2"},
		"no protocol":   {upgrade + strings.Replace(good, "Sec-WebSocket-Protocol: echo.v1\n", "", 1), "echo.v2"},
		"nothing wrong": {upgrade + good, ""},
	} {
		c := f.raw(hostA)
		c.send("GET /ws HTTP/1.1\nHost: " + hostA + "\n" + bearer(keyA) + "\n" + tc.lines + "\n")
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if name == "nothing wrong" {
			check(t, name, res.StatusCode, 101)
			c.Close()
		} else {
			a := read(t, res)
			check(t, name, a.status, 400)
			if !strings.Contains(a.body, tc.says) || a.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %s", name, a.body)
			}
		}
		if err := e.wait(t); err == nil {
			t.Errorf("%s: the handler was told of nothing", name)
		}
	}
	eventually(t, "none is in flight", func() bool { return f.guards.For(f.entry("team-a")).InFlight() == 0 })
	if n := f.guards.For(f.entry("team-a")).Usage().Streams; n != 0 {
		t.Errorf("%d streams are left", n)
	}
}

// X59: whether it is the replica that stops or the gateway that moves, the client is told to come again, and takes the word
// although it goes on sending.
func TestX59ServedWebSocket(t *testing.T) {
	live, end := context.WithCancelCause(t.Context())
	for how, stop := range map[string]func(f *front){
		"drain": func(f *front) { f.Drain(t.Context()) },
		"move":  func(*front) { end(&exchange.Reconnect{Err: errors.New("moves")}) },
	} {
		e := &echoes{}
		if how == "move" {
			e.live = live
		}
		f := newFront(t, func(c *Config) { c.DrainStreams = 50 * time.Millisecond })
		f.gateways.decide = e.decide
		c, _, err := f.dialEcho(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var sender sync.WaitGroup
		sender.Go(func() {
			for c.Write(ctx, websocket.MessageBinary, make([]byte, 100)) == nil {
			}
		})
		began := time.Now()
		go stop(f)
		for err == nil {
			_, _, err = c.Read(t.Context())
		}
		if got := websocket.CloseStatus(err); got != websocket.StatusServiceRestart {
			t.Errorf("%s: the client saw %v (%v)", how, got, err)
		}
		cancel()
		sender.Wait()
		eventually(t, "none is in flight", func() bool { return f.guards.For(f.entry("team-a")).InFlight() == 0 })
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s: took %v", how, took)
		}
	}
}

// What passes counts, and a revocation ends it within a second, also where the client reads nothing.
func TestServedWebSocketIsTheFronts(t *testing.T) {
	e := &echoes{}
	for where, f := range servers(t, e) {
		c, _, err := f.dialEcho(t)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageBinary, make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, _, err := c.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if u := f.guards.For(f.entry("team-a")).Usage(); where == "here" && (u.BytesIn < 100_000 || u.BytesOut < 200_000) {
			t.Errorf("%d bytes in and %d out were counted", u.BytesIn, u.BytesOut)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var sender sync.WaitGroup
		sender.Go(func() {
			for c.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) == nil {
			}
		})
		f.change("team-a", func(rec *tenant.Record) { rec.Keys = rec.Keys[1:] })
		began := time.Now()
		if err := e.wait(t); err == nil || time.Since(began) > 2*time.Second {
			t.Errorf("%s: after the revocation the handler ended with %v, after %v", where, err, time.Since(began))
		}
		cancel()
		sender.Wait()
	}
}
