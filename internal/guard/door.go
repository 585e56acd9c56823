package guard

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Guard is the door to one tenant. It is built with the tenant's scope and has no way to admit to another.
type Guard struct {
	set      *Set
	scope    tenant.Scope // zero for the platform's guard
	since    time.Time
	settings atomic.Pointer[settings] // never nil
	gone     atomic.Bool              // the set keeps it no more

	rate         quota.Rate
	gate         quota.Gate
	streams      quota.Gate
	debt         quota.Debt
	callers      callers
	requestShare quota.Member
	streamShare  quota.Member

	policy atomic.Pointer[loaded] // nil = none is loaded

	partMu sync.Mutex    // serializes changes of the part
	wake   chan struct{} // closed when the part changes; guarded by partMu; nil = nobody waits

	waiting       atomic.Int64  // requests that wait for a larger part now
	waits, gaveUp atomic.Uint64 // how many waited, and how many of them in vain

	read reading // of the one goroutine that asks for demands

	requests          atomic.Uint64
	bytesIn, bytesOut atomic.Uint64
	refused           [quota.NumReasons]atomic.Uint64
	meterOnce         sync.Once
	metered           Meter
}

// settings is what follows from a record. It is immutable.
type settings struct {
	record *tenant.Record // nil = none yet
	base   Limits         // of the tenant, on all replicas together
	part   Part           // of this replica
	ends   bool           // part.Until is set
	limits Limits         // this replica's part of base
	after  Limits         // the same, once the part has ended; set if ends
	digest string         // of the policy in force; "" = none
}

func (s *Set) newGuard(scope tenant.Scope) *Guard {
	g := &Guard{set: s, scope: scope, since: s.cfg.Now()}
	g.callers.max, g.callers.most, g.callers.total = s.cfg.TableBytes, s.cfg.TablesMax, &s.tables
	first := new(settings)
	first.base, _ = Effective(tenant.Quotas{}, s.cfg.Defaults, s.cfg.Ceilings)
	first.divide(s.part(scope))
	g.settings.Store(first)
	return g
}

func (s *Set) part(scope tenant.Scope) Part {
	if s.cfg.Part == nil || scope.ID() == "" {
		return Whole()
	}
	return s.cfg.Part(scope)
}

// setRecord follows a change of the tenant's limits and policy. An older record that arrives late is passed over.
func (g *Guard) setRecord(r *tenant.Record) {
	if old := g.settings.Load().record; old != nil && old.Revision >= r.Revision {
		return
	}
	next := &settings{record: r}
	next.base, _ = Effective(r.Quotas, g.set.cfg.Defaults, g.set.cfg.Ceilings)
	if r.Policy != nil {
		next.digest = r.Policy.Digest
	}
	for {
		old := g.settings.Load()
		if old.record != nil && old.record.Revision >= r.Revision {
			return
		}
		next.divide(old.part)
		if g.settings.CompareAndSwap(old, next) {
			return
		}
	}
}

// close gives back what the guard holds, when the set keeps it no more. Requests that still hold it end normally.
func (g *Guard) close() {
	g.gone.Store(true)
	g.callers.close()
	g.retirePolicy(g.policy.Load())
}

// limits returns what applies now on this replica.
func (g *Guard) limits() *Limits {
	s := g.settings.Load()
	if !s.ends {
		return &s.limits
	}
	return s.at(g.set.cfg.Now())
}

// MaxServers returns how many MCP servers the tenant may have; 0 = no limit.
func (g *Guard) MaxServers() int { return g.limits().MaxServers }

// InFlight returns the number of the tenant's requests in flight, streams among them.
func (g *Guard) InFlight() int64 { return g.gate.InFlight() }

// Request is what records and policies are told of the request that an effect is part of. The zero Request is work of the
// platform's own.
type Request struct {
	ID     string     // the request id
	Method string     // as judged
	Path   string     // within the tenant, as judged: escaped bytes
	Host   string     // lower case, without port
	Remote netip.Addr // the client's
}

// Visit is one request inside the door, carrying who asks.
type Visit struct {
	guard     *Guard
	principal tenant.Principal
	request   Request
	entered   bool
	ticket    ticket

	first     Permit // the first effect's: most requests have one
	firstUsed atomic.Bool
	filter    atomic.Pointer[filter] // nil until a policy is asked about rows

	mu     sync.Mutex
	place  quota.Place // guarded by mu, as stream and streamPlace
	stream streamState
	// streamPlace is what the stream holds in the shared pool.
	streamPlace quota.Place
}

type streamState uint8

const (
	noStream streamState = iota
	openStream
	endedStream
)

// Enter begins the visit of one request: it spends one request of the budgets of the caller's key, the principal and the
// tenant, and takes one place of each of them and of the replica. Over any of them, the error is fault.RateLimited with
// RetryAfter set, and nothing is spent; where it is this replica's part that refuses, a larger one is waited for, see
// Config.Patience. The caller must Leave the visit when the request ends.
func (g *Guard) Enter(p tenant.Principal, r Request) (*Visit, error) {
	v := &Visit{guard: g, principal: p, request: r}
	if g.scope.ID() == "" { // operators are few and trusted: no quota
		return v, nil
	}
	no := v.try()
	if no.refused {
		no = g.orWait(no, v.try)
	}
	if no.refused {
		g.callers.refuse(&v.ticket)
		return nil, g.refuse(no)
	}
	g.requests.Add(1)
	v.entered = true
	return v, nil
}

// try takes what the caller and the tenant have, or nothing.
func (v *Visit) try() (no refusal) {
	g := v.guard
	now := g.set.cfg.Now()
	l := g.settings.Load().at(now)
	no, evicted := g.callers.enter(&v.ticket, now.UnixNano(), &v.principal, v.request.Remote, l)
	if evicted > 0 {
		g.meter().Evicted(evicted)
	}
	if no.refused {
		return no
	}
	if no = v.enter(now, l); no.refused {
		g.callers.undo(&v.ticket)
	}
	return no
}

// enter takes what the tenant as a whole has. The rate comes last, so that what is refused for another reason spends none.
func (v *Visit) enter(now time.Time, l *Limits) (no refusal) {
	g := v.guard
	if !g.gate.Enter(l.MaxConcurrent) {
		return refusal{true, quota.TenantConcurrent, time.Second}
	}
	if owed := g.debt.Owed(now, l.Bytes); owed > 0 {
		g.gate.Leave()
		return refusal{true, quota.TenantBytes, owed}
	}
	if v.place = g.set.requests.Enter(&g.requestShare); v.place == quota.NoPlace {
		g.gate.Leave()
		return refusal{true, quota.PoolRequests, time.Second}
	}
	if d := g.rate.Spend(now, l.Rate); !d.OK {
		g.set.requests.Leave(&g.requestShare, v.place)
		g.gate.Leave()
		return refusal{true, quota.TenantRate, d.RetryAfter}
	}
	return no
}

// refuse counts a refusal and returns its error, which names the limit of all replicas together.
func (g *Guard) refuse(no refusal) error {
	g.refused[no.by].Add(1)
	g.meter().Refused(no.by)
	s := g.settings.Load()
	if s.part.Share < 1 && g.set.cfg.Wanting != nil && no.by < quota.PoolRequests {
		g.set.cfg.Wanting(g.scope)
	}
	return refusalOf(no.by, &s.base).After(quota.RetryAfter(no.wait, g.set.cfg.Jitter()))
}

func refusalOf(r quota.Reason, l *Limits) *fault.Error {
	over := func(format string, args ...any) *fault.Error { return fault.New(fault.RateLimited, format, args...) }
	switch r {
	case quota.KeyRate:
		return over("over the quota of %g requests per second of this key", l.PerKey.Rate.PerSecond)
	case quota.KeyConcurrency:
		return over("over the quota of %d concurrent requests of this key", l.PerKey.MaxConcurrent)
	case quota.CallerRate:
		return over("over the quota of %g requests per second of this principal", l.PerPrincipal.Rate.PerSecond)
	case quota.CallerConcurrent:
		return over("over the quota of %d concurrent requests of this principal", l.PerPrincipal.MaxConcurrent)
	case quota.TenantRate:
		return over("over the quota of %g requests per second", l.Rate.PerSecond)
	case quota.TenantConcurrent:
		return over("over the quota of %d concurrent requests", l.MaxConcurrent)
	case quota.TenantBytes:
		return over("over the quota of %g bytes per second", l.Bytes.PerSecond)
	case quota.TenantStreams:
		return over("over the quota of %d streams", l.MaxStreams)
	case quota.PoolStreams:
		return over("over this tenant's share of the streams on this replica")
	}
	return over("over this tenant's share of the requests in flight on this replica")
}

// Principal returns who asks.
func (v *Visit) Principal() tenant.Principal { return v.principal }

// Scope returns the tenant that is visited; zero for the platform.
func (v *Visit) Scope() tenant.Scope { return v.guard.scope }

// MaxServers returns the visited tenant's quota of MCP servers; 0 = no limit.
func (v *Visit) MaxServers() int { return v.guard.MaxServers() }

// Leave ends the visit, and its stream. It may be called once only.
func (v *Visit) Leave() {
	if !v.entered {
		return
	}
	g := v.guard
	v.mu.Lock()
	v.endStream()
	g.set.requests.Leave(&g.requestShare, v.place)
	v.mu.Unlock()
	g.gate.Leave()
	g.callers.leave(&v.ticket)
}

// MaxPause bounds what Bytes asks to wait.
const MaxPause = time.Second

// Bytes accounts for bytes of bodies as they pass, in and out. They are never refused: while the tenant owes more than its
// burst, its new requests are. The result is how long the relay waits before it passes more, at most MaxPause, so that a
// stream that is open already keeps to the limit too; 0 = go on.
func (v *Visit) Bytes(in, out int) time.Duration {
	g := v.guard
	if !v.entered || in < 0 || out < 0 {
		return 0
	}
	if in > 0 {
		g.bytesIn.Add(uint64(in))
	}
	if out > 0 {
		g.bytesOut.Add(uint64(out))
	}
	s := g.settings.Load()
	if s.base.Bytes.PerSecond <= 0 {
		return 0
	}
	now := g.set.cfg.Now()
	return min(g.debt.Add(now, int64(in)+int64(out), s.at(now).Bytes), MaxPause)
}

// Stream turns the visit into a stream: an event stream or a WebSocket. Over the quota, the error is fault.RateLimited. It
// may be called more than once; the first counts. A stream gives its place among the replica's requests back and takes one
// among the streams, which last: within the tenant it stays a request in flight. EndStream, or Leave, ends it.
func (v *Visit) Stream() error {
	if !v.entered {
		return nil
	}
	no := v.openStream()
	if no.refused {
		no = v.guard.orWait(no, v.openStream)
	}
	if no.refused {
		return v.guard.refuse(no)
	}
	return nil
}

func (v *Visit) openStream() (no refusal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stream != noStream {
		return no
	}
	g, l := v.guard, v.guard.limits()
	if !g.streams.Enter(l.MaxStreams) {
		return refusal{true, quota.TenantStreams, time.Second}
	}
	if v.streamPlace = g.set.streams.Enter(&g.streamShare); v.streamPlace == quota.NoPlace {
		g.streams.Leave()
		return refusal{true, quota.PoolStreams, time.Second}
	}
	g.set.requests.Leave(&g.requestShare, v.place)
	v.place, v.stream = quota.NoPlace, openStream
	g.meter().Streams(1)
	return no
}

// EndStream ends the stream before the visit ends.
func (v *Visit) EndStream() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.endStream()
}

// endStream is called with mu held.
func (v *Visit) endStream() {
	if v.stream != openStream {
		return
	}
	g := v.guard
	v.stream = endedStream
	g.set.streams.Leave(&g.streamShare, v.streamPlace)
	g.streams.Leave()
	g.meter().Streams(-1)
}
