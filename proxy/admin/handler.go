package admin

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// maxLogged bounds what a log event holds of a request's path.
const maxLogged = 256

// operator is who holds the operator token.
func operator() tenant.Principal {
	return tenant.Principal{Kind: tenant.KindOperator, ID: "token", Name: "operator"}
}

// answer is what an operation returns when it succeeds.
type answer struct {
	status   int
	body     any    // rendered as JSON; nil = no body
	etag     int64  // a record's revision; 0 = none
	location string // "" = none
}

// call is one authenticated request on its way through an operation.
type call struct {
	ctx   context.Context
	http  *http.Request
	visit *guard.Visit
	args  map[string]string // values of the pattern's {names}, unescaped
}

// Handler returns the whole surface as one handler, for Run and for tests.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		began, id := s.cfg.Now(), uuid.NewString()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		a, err := s.serve(ctx, r, id)
		status := s.write(w, a, err, id)
		s.log(ctx, r, id, status, s.cfg.Now().Sub(began), err)
	})
}

// serve judges a request and carries it out. Whoever has no token learns nothing but that, whatever the path.
// A panic fails this request alone.
func (s *Server) serve(ctx context.Context, r *http.Request, id string) (a *answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := s.checkOrigin(r); err != nil {
		return nil, err
	}
	if r.URL.Path == healthPath && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return &answer{status: http.StatusOK, body: map[string]string{"status": "ok"}}, nil
	}
	if err := s.authenticate(ctx, r); err != nil {
		return nil, err
	}
	op, args, err := s.route(r.Method, r.URL.EscapedPath())
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Guards.Platform().Enter(operator(), guard.Request{ID: id})
	if err != nil {
		return nil, err
	}
	defer v.Leave()
	return op.do(&call{ctx: ctx, http: r, visit: v, args: args})
}

// checkOrigin refuses what a browser sends on behalf of another site: a Host that is not ours, which a rebound name
// gives away, and an Origin or Sec-Fetch-Site that is not same-origin, on reads too.
func (s *Server) checkOrigin(r *http.Request) error {
	if !s.hosts[hostName(r.Host)] {
		return fault.New(fault.Forbidden, "the Host is none of this listener's")
	}
	for _, origin := range r.Header["Origin"] {
		if !strings.EqualFold(origin, "https://"+r.Host) {
			return fault.New(fault.Forbidden, "the Origin is another site")
		}
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "same-origin" && site != "none" {
			return fault.New(fault.Forbidden, "the request comes from another site")
		}
	}
	return nil
}

// authenticate compares the hash of the bearer token. A missing, repeated, malformed or wrong one is the same refusal.
// There is no lockout: it would let anyone who reaches the listener lock the operators out, and a token of 256 random
// bits is not guessed.
func (s *Server) authenticate(ctx context.Context, r *http.Request) error {
	token, ok := authn.Credential(r.Header)
	got, want := tenant.HashKey(token), s.cfg.Token()
	if ok && want != (tenant.Hash{}) && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
		return nil
	}
	if n, ok := s.failed.add(s.cfg.Now()); ok {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "operator token refused",
			slog.String("remote", r.RemoteAddr), slog.Int64("refused_since_last", n))
	}
	return fault.New(fault.Unauthenticated, "no valid operator token")
}

// failureLog bounds the log of refused tokens, so that a flood of them cannot fill a disk.
type failureLog struct {
	rate  quota.Rate
	count atomic.Int64
}

// add counts a refusal, and says whether it is to be logged and how many it then stands for.
func (f *failureLog) add(now time.Time) (int64, bool) {
	f.count.Add(1)
	if !f.rate.Spend(now, quota.Limit{PerSecond: 1, Burst: 5}).OK {
		return 0, false
	}
	return f.count.Swap(0), true
}

// write renders the outcome and returns its status.
func (s *Server) write(w http.ResponseWriter, a *answer, err error, id string) int {
	var body []byte
	if err == nil && a.body != nil {
		body, err = json.Marshal(a.body)
	}
	if err != nil {
		problem.Write(w, err, id)
		return fault.KindOf(err).Status()
	}
	h := w.Header()
	h.Set("X-Request-Id", id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if a.etag > 0 {
		h.Set("Etag", etag(a.etag))
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if body != nil {
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)+1))
	}
	w.WriteHeader(a.status)
	if body != nil {
		_, _ = w.Write(append(body, '\n')) // the client went away: nobody is left to tell
	}
	return a.status
}

// log writes the one event of a request. It holds no header and no body, so no credential; slog escapes the rest.
func (s *Server) log(ctx context.Context, r *http.Request, id string, status int, took time.Duration, err error) {
	path := r.URL.EscapedPath()
	attrs := []slog.Attr{
		slog.String("request_id", id), slog.String("method", r.Method), slog.String("path", path[:min(len(path), maxLogged)]),
		slog.Int("status", status), slog.Duration("took", took), slog.String("remote", r.RemoteAddr),
	}
	level := slog.LevelInfo
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	if status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	s.cfg.Logger.LogAttrs(context.WithoutCancel(ctx), level, "admin request", attrs...)
}
