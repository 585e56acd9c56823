package proxy

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/problem"
)

// challengePath is where ACME HTTP-01 looks (RFC 8555 §8.3).
const challengePath = "/.well-known/acme-challenge/"

func (s *Server) plainServer(base context.Context) *http.Server {
	srv := s.httpServer(base, http.HandlerFunc(s.servePlain))
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.ReadTimeout = s.limits.HeaderTime // no body is wanted here; net/http waits for one before it answers
	return srv
}

// servePlain sends the clients of known hosts to https, and nobody anywhere else: an unknown host in the answer would make
// a redirector of us.
func (s *Server) servePlain(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Challenge != nil && r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, challengePath) {
		s.cfg.Challenge.ServeHTTP(w, r)
		return
	}
	if s.leaving.Load() {
		w.Header().Set("Connection", "close")
	}
	id := newRequestID()
	to, err := s.redirect(r)
	if err != nil {
		w.Header().Set("Connection", "close")
		problem.Write(w, err, id)
		return
	}
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("Location", to)
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusPermanentRedirect)
}

// redirect returns where on https a request is to go.
func (s *Server) redirect(r *http.Request) (string, error) {
	if err := judgeMethod(r.Method); err != nil {
		return "", err
	}
	host, _, err := parseHost(r.Host)
	if err != nil {
		return "", err
	}
	if _, ok := s.cfg.Directory.ByHost(host); !ok && !s.cfg.shared(host) {
		return "", fault.New(fault.Misdirected, "host %s on the plain listener", host)
	}
	if err := s.limits.judgeSize(r, 0); err != nil {
		return "", err
	}
	if !strings.HasPrefix(r.RequestURI, "/") {
		return "", fault.New(fault.Invalid, "the request target must be a path")
	}
	t, err := splitTarget(r.RequestURI, r.Host)
	if err != nil {
		return "", err
	}
	if err := t.judge(); err != nil {
		return "", err
	}
	return "https://" + withPort(host, s.redirectPort()) + r.RequestURI, nil
}

// redirectPort returns the port of https as it stands in a URL.
func (s *Server) redirectPort() string {
	port := s.cfg.PublicPort
	if a, ok := s.cfg.Public.Addr().(*net.TCPAddr); port == 0 && ok {
		port = a.Port
	}
	if port == 0 || port == 443 {
		return ""
	}
	return strconv.Itoa(port)
}
