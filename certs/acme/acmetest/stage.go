package acmetest

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Stage stands in front of the ACME server, with the same TLS certificate, and plays faults. What it does not play goes to
// the server, which makes its URLs from the Host header: so everything after the directory comes through the stage too.
type Stage struct {
	srv *httptest.Server

	mu   sync.Mutex // guards play and hits
	play http.HandlerFunc
	hits map[string]int
}

// NewStage starts a stage in front of s.
func NewStage(t testing.TB, s *Server) *Stage {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(s.dir+"/cert.pem", s.dir+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: s.listen})
			r.Out.Host = r.In.Host
		},
		Transport: s.client.Transport,
	}
	st := &Stage{hits: map[string]int{}}
	st.srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if play := st.next(r); play != nil {
			if sw := (&switcher{ResponseWriter: w}); played(sw, r, play) {
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	st.srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	st.srv.StartTLS()
	t.Cleanup(st.srv.Close)
	return st
}

// Directory returns the URL of the directory on the stage.
func (st *Stage) Directory() string { return st.srv.URL + "/dir" }

// URL returns the URL of the stage.
func (st *Stage) URL() string { return st.srv.URL }

// Play sets what answers from now on; nil = the server. A handler that writes nothing lets the request through.
func (st *Stage) Play(h http.HandlerFunc) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.play = h
}

// Hits returns how many requests came for a path.
func (st *Stage) Hits(path string) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.hits[path]
}

func (st *Stage) next(r *http.Request) http.HandlerFunc {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.hits[r.URL.Path]++
	return st.play
}

// played runs h and says whether it wrote anything.
func played(w *switcher, r *http.Request, h http.HandlerFunc) bool {
	h(w, r)
	return w.wrote
}

type switcher struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader notes that there is an answer.
func (w *switcher) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

// Write notes that there is an answer.
func (w *switcher) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (w *switcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Problem answers as an ACME server does that refuses: kind is such as "rateLimited".
func Problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": detail, "status": status})
}
