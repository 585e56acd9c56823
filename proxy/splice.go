package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
)

// The causes with which a spliced connection ends before its time, or does not begin. Nobody can be told: a client sees its
// connection reset, since an alert would have to be the tenant's gateway's.
var (
	errNoSplices  = fault.New(fault.Unavailable, "connections to tenants' own gateways cannot be made: this replica has no way to dial them")
	errSplices    = fault.New(fault.Unavailable, "this replica has as many spliced connections as passthrough.max_connections, or nine tenths of limits.max_connections, allow")
	errOwnSplices = fault.New(fault.RateLimited, "over this tenant's share of spliced connections: raise passthrough.max_connections_per_tenant, or close some")
	errDrained    = fault.New(fault.Unavailable, "the tenant's mode, upstream or host was changed, and passthrough.max_drain is over")
	errSpliceIdle = fault.New(fault.Canceled, "nothing passed either way for as long as passthrough.idle")
	errSilent     = fault.New(fault.UpstreamTimeout, "the tenant's gateway accepted the connection and did not answer the handshake")
	errMute       = fault.New(fault.BadUpstream, "the tenant's gateway closed the connection without an answer")
	errLeft       = fault.New(fault.Canceled, "the client ended its side and then took no more") // no failure: so do most who are done
	errBroken     = fault.New(fault.Canceled, "the client or the tenant's gateway broke the connection off")
)

// splice is one connection between a client and the gateway of a tenant's own.
type splice struct {
	s       *Server
	taken   *helloConn
	client  net.Conn // below taken
	id      string
	entry   *tenant.Entry // as it was when the connection began
	host    string
	remote  netip.Addr
	began   time.Time
	visit   *guard.Visit
	metrics *telemetry.TenantMetrics // nil = there are none, or none yet

	ctx     context.Context
	cancel  context.CancelCauseFunc
	in, out atomic.Int64 // bytes that passed: from the client, to it
	last    atomic.Int64 // when bytes passed last, Unix nanoseconds
	// changed is when the tenant stopped being what the connection began with, Unix nanoseconds; 0 = it did not.
	changed  atomic.Int64
	ended    atomic.Bool // the client has ended its side
	answered atomic.Bool // the gateway has ended its side
	mu       sync.Mutex
	upstream net.Conn // guarded by mu: nil until it is connected
	dead     bool     // guarded by mu: killed
}

// splice begins to splice a connection that was taken. It does not wait for anything. The handshake's context would keep
// all of crypto/tls's memory of the connection.
func (s *Server) splice(c *helloConn, e *tenant.Entry, host string) {
	x := &splice{s: s, taken: c, client: carrier(c.Conn), id: newRequestID(), entry: e, host: host, remote: addrOf(c.Conn), began: time.Now()}
	x.ctx, x.cancel = context.WithCancelCause(context.Background())
	x.last.Store(x.began.UnixNano())
	if err := s.splices.add(x, &s.cfg.Passthrough); err != nil {
		x.end(err, false)
		return
	}
	go x.run() // ends when either side does, or by kill; Run waits for it
}

func addrOf(c net.Conn) netip.Addr {
	return ipOf(c.RemoteAddr())
}

func ipOf(a net.Addr) netip.Addr {
	if a, ok := a.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// run is the life of a connection that has its place.
func (x *splice) run() {
	defer x.s.splices.running.Done()
	if m := x.s.cfg.Metrics; m != nil {
		m.SplicedBegin()
	}
	x.end(x.protect(x.serve), true)
}

// protect makes an error of a panic: it must not end the connections of everybody.
func (x *splice) protect(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			x.s.log.Error("panic in a spliced connection", slog.String("request_id", x.id), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			err = fault.New(fault.Internal, "panic")
		}
	}()
	return do()
}

// serve does all that a request to a dedicated gateway has done for it, as far as that goes without a request.
func (x *splice) serve() error {
	now, _ := x.s.cfg.Directory.ByID(x.entry.Record.ID)
	x.revalidate(now) // a change between the hello and the place in the register has found the connection or is seen here
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	if err := x.s.fresh(false); err != nil {
		return err
	}
	x.meter()
	g := x.s.cfg.Guards.For(x.entry)
	visit, err := g.Enter(x.principal(), guard.Request{ID: x.id, Host: x.host, Remote: x.remote})
	if err != nil {
		return err
	}
	defer visit.Leave()
	x.visit = visit
	if err := visit.Stream(); err != nil {
		return err
	}
	permit, err := visit.Admit(guard.Effect{Action: authz.RelayConnect, Resource: "gateway/" + x.entry.Record.Passthrough.Upstream})
	if err != nil {
		return err
	}
	err = x.protect(x.pass)
	permit.Done(err)
	return err
}

func (x *splice) principal() tenant.Principal {
	return tenant.Principal{Tenant: x.entry.Record.ID, Kind: tenant.KindAnonymous}
}

// pass connects to the upstream, sends what was read so far, and passes bytes until both sides have ended. Whatever fails,
// and whatever killed the connection, both sides are reset before it returns.
func (x *splice) pass() error {
	up, err := x.connect()
	if err == nil {
		err = x.greet(up)
	}
	if err == nil {
		err = x.relay(up)
	}
	if err == nil {
		return nil
	}
	x.kill(err)
	if cause := context.Cause(x.ctx); !errors.Is(cause, errLeft) { // what killed it first made the rest fail
		return cause
	}
	return nil
}

// connect dials the tenant's gateway.
func (x *splice) connect() (net.Conn, error) {
	cfg := &x.s.cfg.Passthrough
	if cfg.Dial == nil {
		return nil, errNoSplices
	}
	ctx, cancel := context.WithTimeout(x.ctx, cfg.HandshakeTime)
	defer cancel()
	r := x.entry.Record
	up, err := cfg.Dial(r.Source == tenant.SourceFile)(ctx, "tcp", r.Passthrough.Upstream)
	if err != nil {
		return nil, dialFault(err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.upstream = up
	if x.dead {
		abort(up)
		return nil, context.Cause(x.ctx)
	}
	return up, nil
}

// dialFault classifies an error of connecting.
func dialFault(err error) error {
	var e *fault.Error
	var ne net.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout():
		return fault.Wrap(fault.UpstreamTimeout, err, "the tenant's gateway did not accept the connection in time: see that passthrough.upstream is up")
	}
	return fault.Wrap(fault.BadUpstream, err, "the tenant's gateway does not accept connections: see that passthrough.upstream is right and up")
}

// greet sends the PROXY protocol's header, if the tenant wants one, and what was read of the client, in one write.
func (x *splice) greet(up net.Conn) error {
	var first []byte
	if x.entry.Record.Passthrough.ProxyProtocol {
		h, err := proxyproto.HeaderProxyFromAddrs(2, x.taken.RemoteAddr(), x.taken.LocalAddr()).Format()
		if err != nil {
			return fault.Wrap(fault.Internal, err, "PROXY protocol header")
		}
		first = h
	}
	hello := *x.taken.hello
	if first == nil {
		first = hello
	} else {
		first = append(first, hello...)
	}
	_ = up.SetWriteDeadline(time.Now().Add(x.s.cfg.Passthrough.HandshakeTime)) // fails where Write will
	if _, err := up.Write(first); err != nil {
		return dialFault(fmt.Errorf("send the ClientHello: %w", err))
	}
	_ = up.SetWriteDeadline(time.Time{})
	x.passed(int64(len(hello)), 0)
	x.taken.forget()
	return nil
}

// relay passes bytes both ways, each until its end, which is passed on as well.
func (x *splice) relay(up net.Conn) error {
	there, back := newPump(x, x.client, up), newPump(x, up, x.client)
	there.inward = true
	done := make(chan error, 1)
	go func() { done <- x.orKill(there.run) }() // ends with its source, or by kill
	err := x.orKill(back.run)
	return errors.Join(err, <-done)
}

// orKill kills the connection, and with it the pump of the other way, where do fails.
func (x *splice) orKill(do func() error) error {
	err := x.protect(do)
	if err != nil {
		x.kill(err)
	}
	return err
}

// passed counts bytes, and waits where the tenant has used up its share of bandwidth.
func (x *splice) passed(in, out int64) {
	if in+out == 0 {
		return
	}
	x.in.Add(in)
	x.out.Add(out)
	for d := x.visit.Bytes(int(in), int(out)); d > 0; d = x.visit.Bytes(0, 0) {
		x.last.Store(time.Now().Add(d).UnixNano()) // it is we who wait
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-x.ctx.Done():
			t.Stop()
			return
		}
	}
	x.last.Store(time.Now().UnixNano())
}

// kill ends the connection for a cause, of which the first counts: both sides are reset, and so is the one that is being
// dialed. It does not wait.
func (x *splice) kill(cause error) {
	x.cancel(cause)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.dead {
		return
	}
	x.dead = true
	abort(x.client)
	if x.upstream != nil {
		abort(x.upstream)
	}
}

// abort closes a connection with a reset: whoever is at the other end must not take what it got for the whole.
func abort(c net.Conn) {
	resetOnClose(c)
	_ = c.Close()
}

func resetOnClose(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0)
	}
}

// end closes what is open, gives back the place, and reports: once, whatever happened. began says that the connection was
// counted as open.
func (x *splice) end(err error, began bool) {
	if err != nil {
		x.kill(err)
	}
	x.cancel(nil)
	_ = x.client.Close()
	if x.upstream != nil {
		_ = x.upstream.Close()
	}
	if began { // before its place at the door, which the next one may be waiting for
		x.s.splices.remove(x)
	}
	x.taken.leave()
	x.report(err, began)
}

// revalidate ends the connection of a tenant that is not served any more, and notes when it is not what it was.
func (x *splice) revalidate(e *tenant.Entry) {
	if e == nil || e.Scope != x.entry.Scope {
		x.kill(errGone)
		return
	}
	if err := refuseSuspended(e.Record); err != nil {
		x.kill(err)
		return
	}
	on, ok := x.s.cfg.Directory.ByHost(x.host)
	p, mine := e.Record.Passthrough, x.entry.Record.Passthrough
	if ok && on.Scope == e.Scope && e.Record.Mode == tenant.ModePassthrough && *p == *mine {
		x.changed.Store(0)
		return
	}
	x.changed.CompareAndSwap(0, time.Now().UnixNano())
}

// overdue says why the connection is to end now; nil = it is not.
func (x *splice) overdue(now int64, p *Passthrough) error {
	if since := x.changed.Load(); since != 0 && p.MaxDrain > 0 && now-since >= int64(p.MaxDrain) {
		return errDrained
	}
	if now-x.last.Load() >= int64(p.Idle) {
		return errSpliceIdle
	}
	return nil
}

// abandoned says whether the gateway has ended its side and the client has said nothing since: it is taken to have ended its
// own. Else a stranger whom the gateway turned away would keep the place of another for as long as Idle.
func (x *splice) abandoned() bool {
	quiet := time.Now().UnixNano() - x.last.Load()
	return x.answered.Load() && quiet >= int64(x.s.cfg.Passthrough.HandshakeTime)
}

// isTimeout says whether a deadline made an operation fail.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// report writes the one event of the connection and counts it.
func (x *splice) report(err error, began bool) {
	now := time.Now()
	status := 101 // as of an upgrade: what passed then is not ours to tell
	if x.out.Load() == 0 && err != nil {
		status = fault.KindOf(err).Status()
	}
	ev := telemetry.Event{
		RequestID: x.id, Replica: x.s.cfg.Replica, Remote: x.remote, Host: x.host, Protocol: "passthrough", Action: string(authz.RelayConnect),
		Tenant: x.entry.Record.ID, Principal: x.principal(), Status: status, Err: err, Began: x.began,
		BytesIn: x.in.Load(), BytesOut: x.out.Load(),
	}
	ev.Log(x.ctx, x.s.log, now)
	if !errors.Is(err, errGone) { // metrics of a tenant that is gone would stay for good
		x.meter()
	}
	if x.metrics != nil {
		x.metrics.End(telemetry.Result{Status: status, Err: err, Duration: now.Sub(x.began), BytesIn: ev.BytesIn, BytesOut: ev.BytesOut})
	}
	if m := x.s.cfg.Metrics; m != nil {
		m.SplicedDone(x.how(err), began)
	}
}

// meter counts the connection as one of its tenant's, if it is not yet.
func (x *splice) meter() {
	if m := x.s.cfg.Metrics; m != nil && x.metrics == nil {
		x.metrics = m.Tenant(x.entry.Record.ID)
		x.metrics.Begin()
	}
}

// how names the end for the metrics.
func (x *splice) how(err error) telemetry.SplicedEnd {
	cut := context.Cause(x.ctx)
	switch {
	case err == nil || errors.Is(err, errBroken):
		return telemetry.SplicedOK
	case x.visit == nil:
		return telemetry.SplicedRefused
	case x.out.Load() == 0 && (fault.Is(err, fault.BadUpstream) || fault.Is(err, fault.UpstreamTimeout)):
		return telemetry.SplicedUpstream
	case cut != nil:
		return telemetry.SplicedCut
	}
	return telemetry.SplicedRefused
}
