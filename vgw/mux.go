// Package vgw holds the virtual gateways: a Mux that opens a tenant's Gateway at first use, under the tenant's claim, and
// closes it when idle; and the Gateway, which answers for one tenant with what it was built with and nothing else. It
// decides and relays nothing itself: an answer is an exchange.Decision, which the front carries out.
package vgw

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/mcp"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Claim is the right to read and write one tenant's state, while its Context lives.
type Claim interface {
	// Context ends, with its cause, when the claim is lost, handed off or released, or the tenant is deleted.
	Context() context.Context
	Scope() tenant.Scope
	// Load returns all objects of a kind, sorted by id.
	Load(ctx context.Context, kind string) ([]tenant.Object, error)
	// Commit makes the writes and the record of them in one transaction, or none of it.
	Commit(ctx context.Context, e audit.Entry, w ...tenant.Write) error
	// CommitIf is Commit on the condition that the tenant's routing record has this revision, else it makes nothing and the
	// error is fault.PreconditionFailed. 0 = whichever it has.
	CommitIf(ctx context.Context, record int64, e audit.Entry, w ...tenant.Write) error
	// Handoff gives the tenant to a live replica, and state with it. The claim is lost, unless the error is fault.NotFound
	// (there is no such replica) or fault.Invalid.
	Handoff(ctx context.Context, replica string, state []byte) error
	// Handed returns the state that came with the tenant if it was handed to this replica, else nil.
	Handed() []byte
	// Release gives the claim up. Releasing a claim that is lost is no error.
	Release(ctx context.Context) error
}

// Claims hands out claims: fault.Unavailable, which wraps *exchange.Elsewhere, if another replica owns the tenant;
// fault.NotFound if the tenant is gone. Claiming again what this replica holds returns the live claim.
type Claims interface {
	Claim(ctx context.Context, s tenant.Scope) (Claim, error)
}

// Records changes routing records, by compare-and-swap and together with the audit entry.
type Records interface {
	UpdateTenant(ctx context.Context, id tenant.ID, ifRevision int64, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error)
}

// Guards admits what the platform does of its own accord, and knows the tenants' limits.
type Guards interface {
	Platform() *guard.Guard
	For(e *tenant.Entry) *guard.Guard
}

// Limits carries from owner to owner what a tenant has spent, so that a move gives nobody his burst a second time.
type Limits interface {
	// Export returns what is spent, in at most 32 KiB; nil = nothing that counts.
	Export(s tenant.Scope) []byte
	// Import takes over what another replica exported: of a version before or after this one, or damaged, as it may be.
	Import(e *tenant.Entry, state []byte)
}

// Telemetry renders a tenant's own metrics.
type Telemetry interface {
	TenantText(id tenant.ID) []byte
}

// Numbers adds up what all replicas count of a tenant. missing names those that did not answer.
type Numbers interface {
	Usage(ctx context.Context, e *tenant.Entry, own guard.Usage) (u guard.Usage, missing []string)
	TenantText(ctx context.Context, id tenant.ID) (text []byte, missing []string)
}

// Config is what a Mux is made with.
type Config struct {
	Claims    Claims       // required
	Records   Records      // required
	Keys      seal.Wrapper // required: wraps the tenants' data keys
	Guards    Guards       // required
	Limits    Limits       // nil: a tenant that moves begins with full budgets
	Telemetry Telemetry    // nil: GET /metrics is empty
	Numbers   Numbers      // nil: numbers are of this replica alone
	KeyUse    KeyUse       // nil: keys are shown without their last use
	Policies  Policies     // nil: policies cannot be changed; see NewPolicies
	Audit     AuditLog     // nil: GET /api/v1/audit is 503
	OpenAPI   []byte       // of GET /api/v1/openapi.json; nil = what the routes alone tell
	Secrets   Secrets      // nil: an authenticator with a client secret is refused

	Certificates Certificates // nil: the routes of certificates are 503
	BaseDomain   string       // every tenant has <id>.<BaseDomain>, and no other host within it
	// HostProof looks for the TXT record of a host that a tenant asked for: nil if it holds the token. Where it was looked for
	// and does not, the error is fault.Invalid, Conflict or NotFound, and its detail says what was found; where it could not be
	// looked for, fault.Unavailable, BadUpstream or UpstreamTimeout. nil: no host can be asked for (503).
	HostProof func(ctx context.Context, host, token string) error
	// ReservedHost refuses, as fault.Invalid, a host of the platform's own, which no tenant may have; nil = there is none.
	ReservedHost func(host string) error

	Sandboxes     sandbox.Drivers                      // nil: the routes of sandboxes are 503
	SandboxTenant func(e *tenant.Entry) sandbox.Tenant // what a driver is told of a tenant; nil = what the record says
	SandboxRules  func(e *tenant.Entry) sandbox.Rules  // what a tenant's sandboxes may be; nil = no rules but those of every sandbox
	SandboxLimits SandboxLimits
	// SandboxMetrics counts what a tenant's sandboxes use; nil = nobody counts.
	SandboxMetrics func(tenant.ID) SandboxMetrics

	// JudgeAddr says whether a tenant's issuer may be at an address; nil = egress.Judge without exceptions.
	JudgeAddr func(netip.Addr) error
	IdleAfter time.Duration    // a gateway unused for so long is closed; 0 = 5 min
	Streams   time.Duration    // for which relays and streams go on after their tenant was given to another replica; 0 = 5 s
	OpenIn    time.Duration    // how long opening may take; 0 = 10 s
	MaxOpens  int              // gateways opened at the same time; 0 = 32
	MaxBody   int64            // bytes of an MCP request; 0 = 4 MiB
	MaxBodies int64            // bytes of MCP requests held at a time for one tenant; 0 = 16 times MaxBody
	MaxAll    int64            // bytes of MCP requests held at a time for all tenants; 0 = 16 times MaxBodies
	Now       func() time.Time // nil = time.Now
	Logger    *slog.Logger     // nil = slog.Default
}

func (c *Config) setDefaults() {
	if c.IdleAfter <= 0 {
		c.IdleAfter = 5 * time.Minute
	}
	if c.Streams <= 0 {
		c.Streams = 5 * time.Second
	}
	if c.OpenIn <= 0 {
		c.OpenIn = 10 * time.Second
	}
	if c.MaxOpens <= 0 {
		c.MaxOpens = 32
	}
	if c.MaxBody <= 0 {
		c.MaxBody = mcp.DefaultMaxBody
	}
	if c.MaxBodies <= 0 {
		c.MaxBodies = 16 * c.MaxBody
	}
	if c.MaxAll <= 0 {
		c.MaxAll = 16 * c.MaxBodies
	}
	if c.JudgeAddr == nil {
		c.JudgeAddr = func(a netip.Addr) error { return egress.Judge(a, nil) }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
}

// Mux finds or opens the gateway of each tenant on this replica. It is safe for concurrent use.
type Mux struct {
	cfg    Config
	routes []route
	opens  chan struct{} // a place for each gateway that is being opened
	wake   chan struct{} // has a value when releases is not empty
	bodies mcp.Budget    // of all tenants

	opening sync.WaitGroup // goroutines that open
	left    leftovers      // gateways of tenants that were given away, with what still runs there
	panics  atomic.Uint64
	trips   atomic.Uint64

	mu       sync.RWMutex
	slots    map[tenant.ID]*slot // guarded by mu
	releases []func()            // guarded by mu: claims to give up, for Run
	closed   bool                // guarded by mu: Run has ended
}

// NewMux checks cfg and returns a Mux without gateways. It starts nothing: Run has to run beside it, which gives up the
// claims that callers may be waiting for.
func NewMux(cfg Config) (*Mux, error) {
	if cfg.Claims == nil || cfg.Records == nil || cfg.Keys == nil || cfg.Guards == nil {
		return nil, errors.New("vgw: Claims, Records, Keys and Guards are required")
	}
	cfg.setDefaults()
	return &Mux{
		cfg: cfg, routes: routes(), slots: make(map[tenant.ID]*slot),
		opens: make(chan struct{}, cfg.MaxOpens), wake: make(chan struct{}, 1), bodies: mcp.Budget{Max: cfg.MaxAll},
	}, nil
}

// Routes returns the paths that gateways answer.
func (m *Mux) Routes() []exchange.Route {
	out := make([]exchange.Route, len(m.routes))
	for i := range m.routes {
		out[i] = m.routes[i].Route
	}
	return out
}

// Decide answers a request to the tenant of e. If the decision is a Relay, its Done must be called, and if it is a Serve,
// its Handle: until then the gateway counts as in use.
func (m *Mux) Decide(ctx context.Context, e *tenant.Entry, r *exchange.Request) (exchange.Decision, error) {
	if r.Visit.Scope() != e.Scope {
		return nil, fault.Wrap(fault.Internal, fmt.Errorf("the visit is to %s, the request to %s", r.Visit.Scope(), e.Scope), "")
	}
	route, params, err := match(m.routes, r.Method, r.Path)
	if e.Record.State == tenant.StateSuspended {
		err = suspended(e.Record)
	}
	var d exchange.Decision
	if err == nil {
		d, err = m.run(ctx, &call{
			r: r, e: e, route: route, params: params, cfg: &m.cfg, now: m.cfg.Now,
			records: records{m.cfg.Records, e.Scope, r.Visit.Principal(), m.cfg.Now, e.Record.Revision},
		})
	}
	if err != nil && route != nil && route.rpc && !elsewhere(err) {
		return mcp.RenderError(nil, fault.From(err), r.ID), nil
	}
	return d, err
}

func suspended(r *tenant.Record) error {
	if r.SuspendReason == "" {
		return fault.New(fault.Unavailable, "this tenant is suspended")
	}
	return fault.New(fault.Unavailable, "this tenant is suspended: %s", r.SuspendReason)
}

// run calls the route's handler, with the gateway if the route needs the tenant's owner.
func (m *Mux) run(ctx context.Context, c *call) (exchange.Decision, error) {
	if c.route.Owner == exchange.OwnerAny {
		return m.handle(ctx, c)
	}
	in, err := m.enter(ctx, c.e)
	if err != nil {
		return nil, err
	}
	c.gw = in.gw
	request := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(in.gw.ctx, func() { cancel(moved(context.Cause(in.gw.ctx))) })
	d, err := m.handle(ctx, c)
	stop()
	lost := in.gw.ctx.Err() != nil
	cancel(nil)
	in.judge(failure(d, err))
	switch d := d.(type) {
	case *exchange.Relay:
		m.holdRelay(in, d)
		in.stream()
		return d, nil
	case *exchange.Serve:
		m.holdServe(request, in, d)
		in.stream()
		return d, nil
	}
	in.leave()
	if err != nil && lost && errors.Is(err, context.Canceled) {
		err = moved(context.Cause(in.gw.ctx))
	}
	return d, err
}

// failure returns the error of an answer, also where the handler rendered it itself.
func failure(d exchange.Decision, err error) error {
	if reply, ok := d.(*exchange.Reply); ok {
		return reply.Err
	}
	return err
}

// moved is the answer to a request whose gateway was closed under it.
func moved(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "this tenant's gateway has just moved or closed: try again").After(time.Second)
}

// ended is moved for a stream, which a move tells to come again.
func ended(cause error) error {
	if again := (*exchange.Reconnect)(nil); errors.As(cause, &again) {
		return cause
	}
	return moved(cause)
}

// elsewhere says whether an error is that the tenant is another replica's, which the front may ask then.
func elsewhere(err error) bool {
	e := (*exchange.Elsewhere)(nil)
	return errors.As(err, &e)
}

// handle calls the handler, and makes an error of its panic (invariant 9).
func (m *Mux) handle(ctx context.Context, c *call) (d exchange.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = nil, m.panicked(c.e.Scope, p)
		}
	}()
	return c.route.handle(ctx, c)
}

// panicked counts and logs a panic, and returns it as an error that tells the caller nothing.
func (m *Mux) panicked(s tenant.Scope, p any) error {
	m.panics.Add(1)
	m.cfg.Logger.Error("panic in a virtual gateway", "tenant", s.String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fault.Wrap(fault.Internal, fmt.Errorf("panic: %v", p), "")
}

// holdRelay keeps the gateway in use until the relay is done, ends the relay with the gateway or some time after the tenant
// was given away, and catches panics of the relay's hooks.
func (m *Mux) holdRelay(in *stay, d *exchange.Relay) {
	done, edit := d.Done, d.EditResponse
	if d.Live == nil { // else it ends with the gateway's as well
		d.Live = in.gw.live
	}
	d.Done = func(o exchange.Outcome) {
		defer in.leave()
		defer m.catch(in, nil)
		if done != nil {
			done(o)
		}
	}
	if edit == nil {
		return
	}
	d.EditResponse = func(status int, h exchange.Header) (err error) {
		defer m.catch(in, &err)
		return edit(status, h)
	}
}

// holdServe keeps the gateway in use until the handler returns or, where it is never called because the front had no
// place for another stream, the request ends.
func (m *Mux) holdServe(request context.Context, in *stay, d *exchange.Serve) {
	unused := context.AfterFunc(request, in.leave)
	held := func(ctx context.Context, handle func(context.Context) error) (err error) {
		unused()
		defer in.leave()
		defer m.catch(in, &err)
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stop := context.AfterFunc(in.gw.live, func() { cancel(ended(context.Cause(in.gw.live))) })
		defer stop()
		return handle(ctx)
	}
	if w := d.WebSocket; w != nil {
		own := *w
		own.Handle = func(ctx context.Context, c exchange.Conn) error {
			return held(ctx, func(ctx context.Context) error { return w.Handle(ctx, c) })
		}
		d.WebSocket = &own
		return
	}
	handle := d.Handle
	d.Handle = func(ctx context.Context, s exchange.Stream) error {
		return held(ctx, func(ctx context.Context) error { return handle(ctx, s) })
	}
}

// catch is deferred: it makes an error of a panic and counts it against the gateway.
func (m *Mux) catch(in *stay, err *error) {
	p := recover()
	if p == nil {
		return
	}
	e := m.panicked(in.slot.scope, p)
	in.judge(e)
	if err != nil {
		*err = e
	}
}

// Stats is what a Mux counts.
type Stats struct {
	Open      int    // gateways that are open
	Left      int    // gateways of tenants that were given away, where relays or streams go on
	Tenants   int    // tenants with anything in memory: open, opening, closing or failing
	Panics    uint64 // panics that were caught
	Suspended uint64 // times that a gateway was suspended since it kept failing
}

// Stats counts the gateways.
func (m *Mux) Stats() Stats {
	st := Stats{Panics: m.panics.Load(), Suspended: m.trips.Load(), Left: m.left.size()}
	for _, s := range m.all() {
		st.Tenants++
		s.mu.Lock()
		if s.gw != nil || s.moving != nil {
			st.Open++
		}
		s.mu.Unlock()
	}
	return st
}
