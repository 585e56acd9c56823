package client

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/scenario"
)

// TestWhatMustNotBeDoneTwiceIsNotRetried has a server that answers all requests of a connection but the last, and dies with that one in
// its hands: for what is idempotent it is a retry that is counted, for the rest an error.
func TestWhatMustNotBeDoneTwiceIsNotRetried(t *testing.T) {
	l := newLab(t)
	event := "data: " + backend.Canary(seed, 0) + "\n\n"
	stream := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%s", len(event), event)
	initialized := answerOf(`{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}`)
	called := answerOf(`{"jsonrpc":"2.0","id":2,"result":{"content":"` + backend.Canary(seed, 0) + `"}}`)
	noted := "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
	plain := answerOf(backend.Canary(seed, 0))
	for name, v := range map[string]struct {
		load    scenario.Load
		answers []string // of each connection
		want    string   // of the second call
	}{
		"GET":        {scenario.Load{}, []string{plain}, ""},
		"PUT":        {scenario.Load{Method: "PUT"}, []string{plain}, ""},
		"POST":       {scenario.Load{Method: "POST"}, []string{plain}, "reset"},
		"PATCH":      {scenario.Load{Method: "PATCH"}, []string{plain}, "reset"},
		"SSE":        {scenario.Load{Protocol: scenario.SSE, Messages: 1}, []string{stream}, ""},
		"SSE, POST":  {scenario.Load{Protocol: scenario.SSE, Messages: 1, Method: "POST"}, []string{stream}, "reset"},
		"tools/call": {scenario.Load{Protocol: scenario.MCP, Path: "/mcp"}, []string{initialized, noted, called}, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := raw(t, l, func(_ int, c net.Conn) {
				r := bufio.NewReader(c)
				for i := 0; i <= len(v.answers); i++ {
					req, err := http.ReadRequest(r)
					if err != nil || i == len(v.answers) {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					_, _ = io.WriteString(c, v.answers[i])
				}
			})
			c := newClient(t, Config{Load: v.load, Tenants: []Tenant{tenant}, Roots: l.roots})
			caller := newCaller(t, c)
			if err := call(t, caller, 0); err != nil {
				t.Fatal(err)
			}
			if got := classOf(call(t, caller, 0)); got != v.want {
				t.Errorf("got %q, want %q", got, v.want)
			}
			want := int64(0)
			if v.want == "" {
				want = 1
			}
			if got := c.Retried(); got != want {
				t.Errorf("got %d retries, want %d", got, want)
			}
		})
	}
}

// TestAnEndedConnectionGetsNoPost has a server that ends each connection while it is idle: what cannot be sent twice goes on another.
func TestAnEndedConnectionGetsNoPost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("that a connection was ended is seen on Linux alone")
	}
	l := newLab(t)
	var connections atomic.Int64
	tenant := raw(t, l, func(_ int, c net.Conn) {
		connections.Add(1)
		if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, answerOf(backend.Canary(seed, 0)))
		}
	})
	c := newClient(t, Config{Load: scenario.Load{Method: "POST", BodyBytes: 8}, Tenants: []Tenant{tenant}, Roots: l.roots})
	caller := newCaller(t, c)
	for i := range 3 {
		if err := call(t, caller, 0); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		kept := c.targets[0].wires.idle[0].line.Conn
		for began := time.Now(); !hungUp(kept); time.Sleep(time.Millisecond) {
			if time.Since(began) > 5*time.Second {
				t.Fatal("the end of the connection is not seen")
			}
		}
	}
	if connections.Load() != 3 || c.Retried() != 0 {
		t.Errorf("got %d connections and %d retries, want 3 and 0", connections.Load(), c.Retried())
	}
}

// TestAMessageIsSentAgainOnlyAfterAFarewell has a server end each WebSocket instead of its second echo: by a close frame, or without.
func TestAMessageIsSentAgainOnlyAfterAFarewell(t *testing.T) {
	l := newLab(t)
	for name, v := range map[string]struct {
		status websocket.StatusCode // 0 = none
		want   string
	}{
		"going away": {websocket.StatusGoingAway, ""}, "restart": {websocket.StatusServiceRestart, ""},
		"an error": {websocket.StatusInternalError, "reset"}, "cut off": {0, "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer conn.CloseNow()
				for n := range 2 {
					_, b, err := conn.Read(r.Context())
					if err != nil {
						return
					}
					if n == 0 {
						_ = conn.Write(r.Context(), websocket.MessageBinary, append([]byte(backend.Canary(seed, 0)), b...))
					} else if v.status != 0 {
						_ = conn.Close(v.status, "")
					}
				}
			}))
			c := newClient(t, Config{Load: loadOf(scenario.WebSocket), Tenants: []Tenant{tenant}, Roots: l.roots})
			caller := newCaller(t, c)
			for i, want := range []string{"", v.want} {
				if got := classOf(call(t, caller, 0)); got != want {
					t.Errorf("call %d: got %q, want %q", i, got, want)
				}
			}
			if got := c.Retried() == 1; got != (v.want == "") {
				t.Errorf("got %d retries", c.Retried())
			}
		})
	}
}
