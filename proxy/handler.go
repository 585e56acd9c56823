package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// serveHTTP takes one request through its steps: judge, resolve, register, enter, decide, carry out.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s.serveFlight(w, r, newRequestID(), nil)
}

// serveFlight serves a request that came on the public listener, or, if from is set, that another replica forwarded.
func (s *Server) serveFlight(w http.ResponseWriter, r *http.Request, id string, from *visitor) {
	s.handlers.Add(1)
	defer s.handlers.Done()
	f := &flight{s: s, w: w, r: r, id: id, began: time.Now(), hop: hop{from: from}}
	f.idValue[0] = f.id
	w.Header()["X-Request-Id"] = f.idValue[:]
	defer f.end()
	f.beginTrace()
	if err := f.serve(); err != nil {
		f.fail(err)
	}
}

// newRequestID returns an id for a request. Those that clients send are not believed: they could make two requests one in
// the log, or write into it.
func newRequestID() string {
	id, err := uuid.NewV7()
	if err != nil { // only if the system's randomness fails, where nothing else works either
		return uuid.NewString()
	}
	return id.String()
}

func (f *flight) serve() error {
	f.findDirectory()
	in, err := f.judge()
	if err != nil {
		return err
	}
	f.place, err = resolve(f.directory, f.s.cfg.shared(in.host), in)
	if err != nil {
		return f.refuse(err)
	}
	if err := f.judgeConnection(in.host); err != nil {
		return f.refuse(err)
	}
	if done, err := f.serveOpen(); done || err != nil {
		return err
	}
	if err := f.authenticate(); err != nil {
		return f.sendToLogin(f.refuse(err))
	}
	return f.serveMember()
}

// serveMember serves a request that is let in.
func (f *flight) serveMember() error {
	if err := f.register(); err != nil {
		return err
	}
	if f.ownerOnly() {
		return f.serveAtOwner()
	}
	return f.serveHere()
}

// serveHere has the request decided on by this replica, and carries the decision out.
func (f *flight) serveHere() error {
	var err error
	f.visit, err = f.s.cfg.Guards.For(f.place.entry).Enter(f.who, f.guardRequest())
	if err != nil {
		return err
	}
	if f.upgrade != "" {
		if err := f.visit.Stream(); err != nil {
			return err
		}
	}
	_, span := f.s.cfg.Tracer.Start(f.ctx, "decide")
	d, err := f.decide()
	span.End(err)
	if err != nil {
		return err
	}
	return f.carryOut(d)
}

// beginTrace begins the request's span, which follows the caller's trace.
func (f *flight) beginTrace() {
	if f.s.cfg.Tracer == nil {
		return
	}
	ctx, span := f.s.cfg.Tracer.Begin(f.r.Context(), f.r.Header, f.r.Method)
	f.r, f.span = f.r.WithContext(ctx), span
}

// endTrace says in the request's span what the log says too.
func (f *flight) endTrace() {
	f.span.Set("polygate.request_id", f.id)
	if f.place.entry != nil {
		f.span.Set("polygate.tenant", f.place.entry.Record.ID.String())
	}
	f.span.SetInt("http.response.status_code", f.status)
	f.span.End(f.err)
}

// guardRequest returns what policies and records are told of the request.
func (f *flight) guardRequest() guard.Request {
	return guard.Request{ID: f.id, Method: f.r.Method, Path: f.place.path, Host: f.name, Remote: remoteAddr(f.r)}
}

// judge checks the form of the request, knowing nothing of tenants, and collects what names one.
func (f *flight) judge() (in signals, err error) {
	r := f.r
	if err := judgeMethod(r.Method); err != nil {
		return in, err
	}
	host, port, err := parseHost(r.Host)
	if err != nil {
		return in, err
	}
	if other, ok := r.Header["Host"]; ok && (len(other) != 1 || !strings.EqualFold(other[0], r.Host)) {
		return in, fault.New(fault.Invalid, "Host and :authority differ") // HTTP/2 may carry both (RFC 9113 §8.3.1)
	}
	f.host, f.name = withPort(host, port), host
	if err := f.s.limits.judgeSize(r, f.hop.added()); err != nil {
		return in, err
	}
	if f.target, err = splitTarget(r.RequestURI, r.Host); err != nil {
		return in, err
	}
	if err := f.target.judge(); err != nil {
		return in, err
	}
	if f.upgrade, err = judgeUpgrade(r); err != nil {
		return in, err
	}
	return f.signals(host)
}

// signals collects what the request says about its tenant.
func (f *flight) signals(host string) (in signals, err error) {
	ids := f.r.Header["X-Tenant-Id"]
	if len(ids) > 1 {
		return in, fault.New(fault.Invalid, "X-Tenant-ID is there more than once")
	}
	in = signals{host: host, path: f.target.path, hasHeader: len(ids) == 1}
	if in.hasHeader {
		in.header = ids[0]
	}
	if f.r.TLS != nil {
		in.sni = strings.ToLower(f.r.TLS.ServerName)
	}
	secret, ok := authn.Credential(f.r.Header)
	if ok {
		e, k, ok := f.directory.ByKey(tenant.HashKey(secret))
		if ok && !k.Expired(f.began) {
			in.owner, in.key = e, k
		}
	}
	f.collect(secret)
	return in, nil
}

// strayLimit bounds how many misdirected requests are recorded: they come from anybody, and a flood of them must fill neither
// the disk nor the buffer of records. The log and the metrics have all of them.
func strayLimit() quota.Limit { return quota.Limit{PerSecond: 10, Burst: 50} }

// refuse records a valid credential among signals that contradict each other, in the chain of the credential's tenant:
// somebody is trying doors, or is misconfigured, and its tenant should know. A request on a connection to another host is
// recorded in the platform's chain, as nobody's.
func (f *flight) refuse(err error) error {
	if fault.Is(err, fault.Misdirected) && f.s.strays.Spend(time.Now(), strayLimit()).OK {
		who := tenant.Principal{Kind: tenant.KindAnonymous, ID: remoteAddr(f.r).String()}
		return f.recordConflict(f.s.cfg.Guards.Platform(), who, err)
	}
	if f.place.entry == nil || f.place.ask != nil && !f.place.conflict || !fault.Is(err, fault.Forbidden) {
		return err
	}
	if k := f.place.key; k != nil {
		f.who = f.place.entry.Record.KeyPrincipal(k)
	}
	return f.recordConflict(f.s.cfg.Guards.For(f.place.entry), f.who, err)
}

// recordConflict records a refusal and returns what to answer: err, or that the principal is over its own quota, which
// tells of nobody else.
func (f *flight) recordConflict(g *guard.Guard, who tenant.Principal, err error) error {
	v, verr := g.Enter(who, f.guardRequest())
	if verr != nil {
		return verr
	}
	defer v.Leave()
	_, _ = v.Admit(guard.Effect{Action: authz.TenantConflict, Resource: "host/" + f.host}) // nobody may: that refusal is the record
	return err
}

// healthz answers liveness of a tenant's own host, for everybody. A suspended tenant's reason is for its members.
func (f *flight) healthz() error {
	if err := onlyRead(f.r.Method, "liveness is"); err != nil {
		return err
	}
	if f.place.entry.Record.State == tenant.StateSuspended {
		return fault.New(fault.Unavailable, "this tenant is suspended").After(suspendedRetry)
	}
	return f.reply(&exchange.Reply{Status: http.StatusOK, Body: []byte("ok\n"),
		Header: exchange.Header{"Content-Type": {"text/plain; charset=utf-8"}, "Cache-Control": {"no-store"}}})
}

// register puts the request among those that Revalidate can end, and then looks at the record once more: a revocation
// between authentication and registration has either found the request or is seen here.
func (f *flight) register() error {
	ctx, cancel := context.WithCancelCause(f.r.Context())
	f.ctx, f.cancel = ctx, cancel
	f.r = f.r.WithContext(ctx)
	f.body.open(f, f.r.Body, f.s.limits.Body)
	f.s.live.add(f)
	if f.s.draining.Load() && f.upgrade != "" {
		return errShutdown
	}
	now, _ := f.s.cfg.Directory.ByID(f.place.entry.Record.ID)
	err := f.stillValid(now)
	if err == nil {
		err = f.s.fresh(f.needsClaim())
	}
	if f.s.cfg.Metrics != nil && !errors.Is(err, errGone) { // metrics of a tenant that is gone would stay for good
		f.metrics = f.s.cfg.Metrics.Tenant(f.place.entry.Record.ID)
		f.metrics.Begin()
	}
	return err
}

// decide asks who serves the place. A dedicated tenant's own host is relayed from here; everything else is for Gateways.
func (f *flight) decide() (exchange.Decision, error) {
	e := f.place.entry
	if f.s.cfg.Authenticator != nil && f.place.open != openRelay {
		for _, name := range authn.IdentityHeaders(e) {
			removeIdentity(f.r.Header, name)
		}
	}
	scrub(f.r.Header)
	if f.place.own && e.Record.Mode == tenant.ModeDedicated {
		return f.dedicated(e)
	}
	removeCredential(f.r.Header)
	delete(f.r.Header, "Cookie")
	return f.s.cfg.Gateways.Decide(f.ctx, e, f.exchange())
}

// exchange returns the request as gateways see it.
func (f *flight) exchange() *exchange.Request {
	return &exchange.Request{
		ID: f.id, Method: f.r.Method, Path: f.place.path, Query: f.target.query, Header: exchange.Header(f.r.Header),
		Body: f.content(), Length: f.r.ContentLength, Host: f.host, Base: f.base(),
		Remote: remoteAddr(f.r), Upgrade: f.upgrade, Visit: f.visit,
	}
}

// content is the request's body, from its beginning even if another replica was sent some of it.
func (f *flight) content() io.Reader {
	if f.hop.here != nil {
		return f.hop.here
	}
	return &f.body
}

// remoteAddr returns the address of the client's end of the connection; invalid if it has none.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
