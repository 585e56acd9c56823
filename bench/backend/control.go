package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// longestStall bounds what the control listener does: longer ones are typing errors.
const longestStall = 10 * time.Minute

func (s *Server) serveControl(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stall", s.handleStall)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Ports())
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(s.control); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve control requests: %w", err)
	}
	return nil
}

func (s *Server) handleStall(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.FormValue("for"))
	if err != nil || d <= 0 || d > longestStall {
		http.Error(w, fmt.Sprintf("for=%q is no length of a stall: say one up to %s, such as 1s", r.FormValue("for"), longestStall), http.StatusBadRequest)
		return
	}
	s.Stall(d)
	w.WriteHeader(http.StatusNoContent)
}
