package client

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/scenario"
)

// TestStreamsHaveTheirEnd has a server send streams of three events that end in several ways.
func TestStreamsHaveTheirEnd(t *testing.T) {
	l := newLab(t)
	event := "data: " + backend.Canary(seed, 0) + "\n\n"
	whole := func(body string) string {
		return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	chunks := func(parts ...string) string {
		var b strings.Builder
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for _, p := range parts {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
		}
		return b.String()
	}
	for name, v := range map[string]struct {
		answer      string
		want        string
		connections int64 // that two calls need
	}{
		"in chunks":              {chunks(event, event, event) + "0\r\n\r\n", "", 1},
		"with a trailer":         {chunks(event, event, event) + "0\r\nX: y\r\n\r\n", "", 1},
		"in odd chunks":          {chunks(event[:9], event[9:]+event+event[:1], event[1:]) + "0\r\n\r\n", "", 1},
		"of a length":            {whole(event + event + event), "", 1},
		"too few":                {whole(event + event), "wrong answer", 2},
		"one more":               {chunks(event, event, event, event), "", 2},
		"cut off in a chunk":     {chunks(event, event) + "80\r\ndata", "reset", 2},
		"cut off by a length":    {"Content-Length: 1000\r\n\r\n" + event, "reset", 2},
		"one without canary":     {whole(event + "data: x\n\n" + event), "wrong answer", 2},
		"one with two":           {whole(event + event[:len(event)-1] + event + event), "wrong answer", 2},
		"a foreign one too many": {chunks(event, event, event, "data: "+backend.Canary(seed, 1)+"\n\n"), "foreign canary", 2},
		"a foreign one":          {whole(event + "data: " + backend.Canary(seed, 1) + "\n\n"), "foreign canary", 2},
	} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int64
			tenant := raw(t, l, func(_ int, c net.Conn) {
				connections.Add(1)
				for r := bufio.NewReader(c); readRequest(r); {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"+v.answer)
					if strings.Contains(name, "cut off") {
						return
					}
				}
			})
			conf := loadOf(scenario.SSE)
			conf.Messages = 3
			caller := newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots}))
			for range 2 {
				if got := classOf(call(t, caller, 0)); got != v.want {
					t.Errorf("got %q, want %q", got, v.want)
				}
			}
			if got := connections.Load(); got != v.connections {
				t.Errorf("got %d connections, want %d", got, v.connections)
			}
		})
	}
}

// TestAStreamThatGoesOnEndsWithTheLastEvent has a server keep streams open behind the events that are wanted, of SSE and of MCP: the
// request takes no longer than they do, and each stream has a connection.
func TestAStreamThatGoesOnEndsWithTheLastEvent(t *testing.T) {
	l := newLab(t)
	for p, event := range map[scenario.Protocol]string{
		scenario.SSE: "data: " + backend.Canary(seed, 0) + "\n\n",
		scenario.MCP: `data: {"jsonrpc":"2.0","id":%d,"result":{"protocolVersion":"2025-11-25","content":"` + backend.Canary(seed, 0) + `"}}` + "\n\n",
	} {
		t.Run(string(p), func(t *testing.T) {
			var seen atomic.Int64
			tenant := serve(t, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				if bytes.Contains(b, []byte("notifications/")) {
					w.WriteHeader(http.StatusAccepted)
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				said := event
				if p == scenario.MCP {
					said = fmt.Sprintf(event, seen.Add(1))
				}
				_, _ = io.WriteString(w, said)
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			conf := loadOf(p)
			conf.Messages = 1
			caller := newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots}))
			for range 3 { // the first waits longer, as all streams might end by themselves
				begun := time.Now()
				if err := call(t, caller, 0); err != nil { // its time is 5s
					t.Fatal(err)
				}
				if d := time.Since(begun); d > 3*time.Second {
					t.Errorf("it took %s", d)
				}
			}
		})
	}
}

// TestAStreamThatEndsLateKeepsItsConnection: where streams end by themselves, one whose end is late does not cost a connection.
func TestAStreamThatEndsLateKeepsItsConnection(t *testing.T) {
	l := newLab(t)
	var connections atomic.Int64
	event := "data: " + backend.Canary(seed, 0) + "\n\n"
	tenant := raw(t, l, func(_ int, c net.Conn) {
		connections.Add(1)
		begin := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
		for n, r := 0, bufio.NewReader(c); readRequest(r); n++ {
			if n == 0 {
				_, _ = io.WriteString(c, begin+"0\r\n\r\n")
				continue
			}
			_, _ = io.WriteString(c, begin)
			<-time.After(10 * briefly)
			_, _ = io.WriteString(c, "0\r\n\r\n")
		}
	})
	conf := loadOf(scenario.SSE)
	conf.Messages = 1
	caller := newCaller(t, newClient(t, Config{Load: conf, Tenants: []Tenant{tenant}, Roots: l.roots}))
	for range 3 {
		if err := call(t, caller, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want 1", got)
	}
}
