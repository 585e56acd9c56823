package backend

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// placeKey is under what the contexts of a connection's requests have its place.
type placeKey struct{}

// place is where a request arrived: at which tenant's address.
type place struct {
	tenant int
	canary string
}

// newWeb serves what is not simple: HTTP/2 by ALPN and by prior knowledge, WebSocket, event streams, MCP and gRPC, and / again for
// connections that came here with something else.
func (s *Server) newWeb() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", s.handleRoot)
	mux.HandleFunc("GET /ws", s.handleWebSocket)
	mux.HandleFunc("GET /events", s.handleEvents)
	mux.HandleFunc("/mcp", s.handleMCP)
	mux.HandleFunc("POST /polybench.Echo/Call", s.handleGRPC)
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           mux,
		Protocols:         p,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 10000},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // gateways that close connections are no news
		ConnContext:       s.inPlace,
	}
}

// inPlace gives the requests of a connection their place. Only connections of admit get here.
func (s *Server) inPlace(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	n := c.(*conn).tenant
	return context.WithValue(ctx, placeKey{}, place{tenant: n, canary: Canary(s.cfg.Seed, n)})
}

func placeOf(ctx context.Context) place {
	p, _ := ctx.Value(placeKey{}).(place)
	return p
}

func (s *Server) handleRoot(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	s.stall.wait()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(s.cfg.AnswerBytes))
	if _, err := io.WriteString(w, placeOf(r.Context()).canary); err == nil {
		_, _ = io.WriteString(w, s.padding[:s.cfg.AnswerBytes-canaryBytes])
	}
}

// handleWebSocket echoes each message behind the canary, until either side closes.
func (s *Server) handleWebSocket(w http.ResponseWriter, r *http.Request) {
	canary := []byte(placeOf(r.Context()).canary)
	// Any page may be the origin: there is nothing here that a browser's user could lose.
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // it has answered
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(maxAnswer)
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		s.stall.wait()
		if err := c.Write(r.Context(), kind, append(canary[:len(canary):len(canary)], b...)); err != nil {
			return
		}
	}
}

// handleEvents sends n events, one each interval, each with the canary and its number, and ends. A stream that is to stay open is
// one with many events and a long interval.
func (s *Server) handleEvents(w http.ResponseWriter, r *http.Request) {
	n, interval, err := eventsOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out, canary := http.NewResponseController(w), placeOf(r.Context()).canary
	for i := range n {
		if i > 0 && !sleep(r.Context(), interval) {
			return
		}
		s.stall.wait()
		if _, err := fmt.Fprintf(w, "id: %d\ndata: %s %d\n\n", i, canary, i); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
	}
}

const (
	defaultEvents = 10
	maxEvents     = 1_000_000
)

func eventsOf(r *http.Request) (n int, interval time.Duration, err error) {
	n = defaultEvents
	if v := r.FormValue("n"); v != "" {
		if n, err = strconv.Atoi(v); err != nil || n < 1 || n > maxEvents {
			return 0, 0, fmt.Errorf("n=%q is no number of events: say 1 to %d", v, maxEvents)
		}
	}
	if v := r.FormValue("interval"); v != "" {
		if interval, err = time.ParseDuration(v); err != nil || interval < 0 {
			return 0, 0, fmt.Errorf("interval=%q is no time between events: say one such as 100ms", v)
		}
	}
	return n, interval, nil
}

// sleep waits; false = ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
