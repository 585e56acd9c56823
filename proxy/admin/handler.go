package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/problem"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// maxLogged bounds what a log event holds of a request's path.
const maxLogged = 256

// answer is what an operation returns when it succeeds.
type answer struct {
	status   int
	body     any    // rendered as JSON; nil = no body
	raw      []byte // JSON as it is, in place of body
	etag     int64  // a record's revision; 0 = none
	location string // "" = none
}

// call is one authenticated request on its way through an operation.
type call struct {
	ctx   context.Context
	http  *http.Request
	visit *guard.Visit
	args  map[string]string // values of the pattern's {names}, unescaped
	out   *pieces           // for an answer that is written as it comes
}

// Handler returns the whole surface as one handler, for Run and for tests.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), timeOf(r))
		defer cancel()
		began, id := s.cfg.Now(), uuid.NewString()
		r.Body = s.body(w, r)
		out := &pieces{w: w, id: id}
		a, err := s.serve(ctx, r, id, out)
		status := http.StatusOK
		if !out.begun {
			status = s.write(w, a, err, id)
		}
		s.log(ctx, r, id, status, s.cfg.Now().Sub(began), err)
		if out.begun && err != nil {
			panic(http.ErrAbortHandler) // what was sent is not whole, and must not look like it
		}
	})
}

// serve judges a request and carries it out. Whoever has no token learns nothing but that, whatever the path.
// A panic fails this request alone.
func (s *Server) serve(ctx context.Context, r *http.Request, id string, out *pieces) (a *answer, err error) {
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
	who, err := s.authenticate(ctx, r)
	if err != nil {
		return nil, err
	}
	op, args, err := s.route(r.Method, r.URL.EscapedPath())
	if err != nil {
		return nil, err
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // else the record goes without
	v, err := s.cfg.Guards.Platform().Enter(who, guard.Request{ID: id, Method: r.Method, Path: r.URL.EscapedPath(), Host: hostName(r.Host), Remote: remote.Addr().Unmap()})
	if err != nil {
		return nil, err
	}
	defer v.Leave()
	c := &call{ctx: ctx, http: r, visit: v, args: args, out: out}
	if err := s.refuse(c, op); err != nil {
		return nil, err
	}
	return op.do(c)
}

// refuse turns away who may not do what the operation does, before anything of the request is looked at: an auditor's
// mutation is the same refusal whether its tenant exists and its body is right or not. It is recorded with the tenant.
func (s *Server) refuse(c *call, op *Route) error {
	if authz.Authorize(c.visit.Principal(), op.Action, "").Allow {
		return nil
	}
	effect := guard.Effect{Action: op.Action, Resource: "tenant"}
	switch {
	case strings.HasPrefix(op.Pattern, platformCertificates):
		effect.Resource = "certificate"
	case strings.HasPrefix(op.Pattern, allSecrets):
		effect.Resource = "secrets"
	case op.Pattern == backupPath:
		effect.Resource = "backup"
	case strings.HasPrefix(op.Pattern, allReplicas):
		effect.Resource = replicaResource(c)
	}
	if id, err := tenant.ParseID(c.args["id"]); err == nil {
		effect.Resource += "/" + string(id)
		if e, ok := s.cfg.Index.ByID(id); ok {
			effect.Subject = e.Scope
		}
	}
	if _, err := c.visit.Admit(effect); err != nil {
		return fault.Wrap(fault.KindOf(err), err, "this token may look, and change nothing")
	}
	return fault.New(fault.Internal, "%s was refused and admitted", op.Action)
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

// authenticate says who holds the bearer token. A missing, repeated, malformed or wrong one is the same refusal, as is a
// good one of anybody but an operator or an auditor. There is no lockout: it would let anyone who reaches the listener lock
// the operators out, and a token of 256 random bits is not guessed.
func (s *Server) authenticate(ctx context.Context, r *http.Request) (tenant.Principal, error) {
	if token, ok := authn.Credential(r.Header); ok {
		p, err := s.who(ctx, token)
		switch {
		case err == nil && admissible(p, s.cfg.Now()):
			return p, nil
		case fault.Is(err, fault.Unavailable):
			return p, fault.Wrap(fault.Unavailable, err, "who you are cannot be checked now").After(time.Second)
		}
	}
	if n, ok := s.failed.add(s.cfg.Now()); ok {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "operator token refused",
			slog.String("remote", r.RemoteAddr), slog.Int64("refused_since_last", n))
	}
	return tenant.Principal{}, nobody()
}

// who asks those who know.
func (s *Server) who(ctx context.Context, token string) (tenant.Principal, error) {
	if s.cfg.Token != nil {
		if p, ok := holder([]Token{{Name: "token", Kind: tenant.KindOperator, Hash: s.cfg.Token()}}, token); ok {
			p.Name = "operator"
			return p, nil
		}
	}
	if s.cfg.Authenticate == nil {
		return tenant.Principal{}, nobody()
	}
	return s.cfg.Authenticate(ctx, token)
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
	if err == nil {
		body = a.raw
	}
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
		_, _ = w.Write(append(slices.Clip(body), '\n')) // the client went away: nobody is left to tell
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
