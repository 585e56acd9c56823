package proxy

import (
	"context"
	"errors"
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
	s.handlers.Add(1)
	defer s.handlers.Done()
	f := &flight{s: s, w: w, r: r, id: newRequestID(), began: time.Now()}
	f.idValue[0] = f.id
	w.Header()["X-Request-Id"] = f.idValue[:]
	defer f.end()
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
	in, err := f.judge()
	if err != nil {
		return err
	}
	f.place, err = resolve(f.s.cfg.Directory, f.s.cfg.shared(in.host), in)
	if err != nil {
		return f.refuse(err)
	}
	if f.place.health {
		return f.healthz()
	}
	if err := f.register(); err != nil {
		return err
	}
	f.visit, err = f.s.cfg.Guards.For(f.place.entry).Enter(f.principal(), guard.Request{ID: f.id})
	if err != nil {
		return err
	}
	d, err := f.decide()
	if err != nil {
		return err
	}
	return f.carryOut(d)
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
	f.host = withPort(host, port)
	if err := f.s.limits.judgeSize(r); err != nil {
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
	if secret, ok := authn.Credential(f.r.Header); ok {
		if e, k, ok := f.s.cfg.Directory.ByKey(tenant.HashKey(secret)); ok {
			in.owner, in.key = e, k
		}
	}
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
	if f.place.key == nil || !fault.Is(err, fault.Forbidden) {
		return err
	}
	return f.recordConflict(f.s.cfg.Guards.For(f.place.entry), f.principal(), err)
}

// recordConflict records a refusal and returns what to answer: err, or that the principal is over its own quota, which
// tells of nobody else.
func (f *flight) recordConflict(g *guard.Guard, who tenant.Principal, err error) error {
	v, verr := g.Enter(who, guard.Request{ID: f.id})
	if verr != nil {
		return verr
	}
	defer v.Leave()
	_, _ = v.Admit(guard.Effect{Action: authz.TenantConflict, Resource: "host/" + f.host}) // nobody may: that refusal is the record
	return err
}

// principal returns who asks, as resolve found out.
func (f *flight) principal() tenant.Principal {
	if k := f.place.key; k != nil {
		return f.place.entry.Record.KeyPrincipal(k)
	}
	return tenant.Principal{Tenant: f.place.entry.Record.ID, Kind: tenant.KindAnonymous}
}

// healthz answers liveness of a tenant's own host, for everybody. A suspended tenant's reason is for its members.
func (f *flight) healthz() error {
	if f.r.Method != http.MethodGet && f.r.Method != http.MethodHead {
		return &fault.Error{Kind: fault.MethodNotAllowed, Detail: "liveness is read with GET", Allow: "GET, HEAD"}
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
	if f.s.cfg.Metrics != nil && !errors.Is(err, errGone) { // metrics of a tenant that is gone would stay for good
		f.metrics = f.s.cfg.Metrics.Tenant(f.place.entry.Record.ID)
		f.metrics.Begin()
	}
	return err
}

// decide asks who serves the place. A dedicated tenant's own host is relayed from here; everything else is for Gateways.
func (f *flight) decide() (exchange.Decision, error) {
	scrub(f.r.Header)
	e := f.place.entry
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
		Body: &f.body, Length: f.r.ContentLength, Host: f.host, Base: "https://" + f.host + f.place.prefix,
		Remote: remoteAddr(f.r), Upgrade: f.upgrade, Visit: f.visit,
	}
}

// remoteAddr returns the address of the client's end of the connection; invalid if it has none.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
