package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// streamingUpstream sends events without end, echoes WebSockets, and takes part in MCP as far as a session needs.
func streamingUpstream(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") == "websocket":
			echo(w, r)
		case r.Method == http.MethodPost:
			var ask struct{ ID json.RawMessage }
			if json.NewDecoder(r.Body).Decode(&ask) != nil {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Mcp-Session-Id", "s1")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"up","version":"1"}}}`, ask.ID)
		default:
			sendEvents(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for {
		if _, err := io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n"); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// subscriber opens a stream again and again, as clients do that are told to. follow returns how it ended; nil is in order.
type subscriber struct {
	name   string
	follow func(ctx context.Context) error
	ends   int // in order, after a message
	failed []string
}

func (s *subscriber) run(ctx context.Context) {
	for ctx.Err() == nil {
		switch err := s.follow(ctx); {
		case ctx.Err() != nil, errors.Is(err, errEarly):
		case err != nil:
			s.failed = append(s.failed, err.Error())
			time.Sleep(50 * time.Millisecond)
		default:
			s.ends++
		}
	}
}

// errEarly is of a stream that was opened as the others were told to come again, and so was told at once.
var errEarly = errors.New("told to come again before the first event")

// events follows an event stream, which has to end in order, with word when to come again.
func (f *fleet) events(url string, head ...string) func(context.Context) error {
	c := f.balanced()
	c.Timeout = 0
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "text/event-stream")
		for i := 0; i < len(head); i += 2 {
			req.Header.Set(head[i], head[i+1])
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return fmt.Errorf("%d after %d bytes: %w", resp.StatusCode, len(b), err)
		}
		if last := b[max(0, len(b)-100):]; resp.StatusCode != 200 || !bytes.Contains(last, []byte("retry:")) {
			return fmt.Errorf("%d after %d bytes, the last %q", resp.StatusCode, len(b), last)
		}
		if !bytes.HasPrefix(b, []byte("data:")) {
			return errEarly
		}
		return nil
	}
}

// socket follows a WebSocket, which has to echo and to end with 1012, service restart.
func (f *fleet) socket(url string) func(context.Context) error {
	c := f.balanced()
	c.Timeout = 0
	tr := c.Transport.(*http.Transport)
	tr.ForceAttemptHTTP2, tr.TLSNextProto = false, map[string]func(string, *tls.Conn) http.RoundTripper{}
	return func(ctx context.Context) error {
		ws, _, err := websocket.Dial(ctx, strings.Replace(url, "https", "wss", 1), &websocket.DialOptions{HTTPClient: c})
		if err != nil {
			return err
		}
		defer ws.CloseNow()
		for n := 0; ; n++ {
			if err = ws.Write(ctx, websocket.MessageText, []byte("hello")); err == nil {
				_, _, err = ws.Read(ctx)
			}
			switch {
			case err == nil:
				time.Sleep(10 * time.Millisecond)
			case websocket.CloseStatus(err) == websocket.StatusServiceRestart && n > 0:
				return nil
			default:
				return fmt.Errorf("after %d echoes: %w", n, err)
			}
		}
	}
}

// TestX59Streams restarts three replicas while streams run through them: event streams and WebSockets of a dedicated tenant, and
// those of MCP, which cross to the owner. Each ends in order, is told to come again, and does so at once.
func TestX59Streams(t *testing.T) {
	up := streamingUpstream(t)
	_, etcd := fleetEtcd(t, 1)
	tenants := fleetTenants(1) + fmt.Sprintf("  - {id: d0, mode: dedicated, dedicated: {upstream: %q, auth: upstream}}\n", up.URL)
	f := newFleetOf(t, 3, 10*time.Second, etcd, tenants, "drain: {delay: 300ms, streams: 500ms, timeout: 15s}\n")
	f.want("a server", f.ask(f.to(0), "t0", "POST", "/api/v1/servers", map[string]string{"name": "up", "url": up.URL + "/mcp"}), 201)
	mcp := f.host("t0") + "/servers/up/mcp"
	key := bearer(f.adminKey("t0"))
	begun := f.want("a session", do(f.to(0), "POST", mcp, initialize, append(key, "Accept", "application/json, text/event-stream")...), 200)
	session := append(key, "Mcp-Session-Id", begun.Header.Get("Mcp-Session-Id"), "Mcp-Protocol-Version", "2025-11-25")
	var all []*subscriber
	for i := range 3 {
		all = append(all, &subscriber{name: fmt.Sprintf("events %d", i), follow: f.events(f.host("d0") + "/events")},
			&subscriber{name: fmt.Sprintf("socket %d", i), follow: f.socket(f.host("d0") + "/socket")},
			&subscriber{name: fmt.Sprintf("MCP %d", i), follow: f.events(mcp, session...)})
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, s := range all {
		wg.Go(func() { s.run(ctx) })
	}
	for i, g := range f.gs {
		time.Sleep(500 * time.Millisecond)
		if code := g.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("r%d ended with %d\n%s", i, code, g.log)
		}
		g.launch()
		g.waitReady(30 * time.Second)
	}
	stop()
	wg.Wait()
	ends := 0
	for _, s := range all {
		ends += s.ends
		if len(s.failed) > 0 || s.ends == 0 {
			t.Errorf("%s: ended in order %d times, and not so %d times, the first: %v", s.name, s.ends, len(s.failed), s.failed)
		}
	}
	t.Logf("%d streams ended in order in 3 restarts, and came again", ends)
}
