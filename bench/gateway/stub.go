package gateway

import (
	"fmt"
	"net"
	"net/http"
	"time"
)

// stub is an MCP server that knows as much as is needed to hold a session's stream open: what a stream costs the gateway does not
// hang on what is said on it.
type stub struct {
	ln  net.Listener
	srv *http.Server
	end chan struct{} // closed when serving has ended
}

// firstEvent is what every stream begins with.
const firstEvent = ": open\n\n"

func startStub() (*stub, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the tenants' server: %w", err)
	}
	s := &stub{ln: ln, end: make(chan struct{})}
	s.srv = &http.Server{Handler: http.HandlerFunc(serveStub), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.end)
		_ = s.srv.Serve(ln) // until it is closed
	}()
	return s, nil
}

func (s *stub) url() string { return "http://" + s.ln.Addr().String() + "/mcp" }

// close ends it with all its streams.
func (s *stub) close() {
	_ = s.srv.Close()
	<-s.end
}

// serveStub begins a session at a POST, and holds a stream at a GET until its client goes.
func serveStub(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Mcp-Session-Id", "bench")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":%q,"capabilities":{},"serverInfo":{"name":"stub","version":"1"}}}`, mcpRevision)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprint(w, firstEvent)
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	<-r.Context().Done()
}
