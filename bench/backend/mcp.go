package backend

import "net/http"

type sessions struct{}

func newSessions(string) *sessions { return &sessions{} }

func (s *Server) handleMCP(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNotImplemented)
}
