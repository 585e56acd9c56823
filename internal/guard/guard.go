// Package guard is the one door to every effect. Admit authorizes, spends and records as one act: whatever changes
// state or reaches an upstream takes a Permit, and only Admit makes one, so a path that forgot to ask does not compile.
// It leaves the rules to authz, the arithmetic to quota and the keeping of records to audit.
package guard

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Recorder takes entries of the data plane. Record never blocks: what it cannot hold it drops and counts.
type Recorder interface {
	Record(e audit.Entry)
}

// Config is what guards are made with.
type Config struct {
	Recorder Recorder // required
	Replica  string   // this replica's name, for the records
	Defaults Limits   // for tenants without limits of their own
	Ceilings Limits   // no tenant has more, whatever its own limits say

	// MaxInFlight and MaxStreams are the requests and the streams in flight on this replica that tenants share, see
	// quota.Pool. 0 = 10,000 each; below 0 = no bound.
	MaxInFlight, MaxStreams int

	// OpenPolicy loads and compiles the bundle of that digest. It heeds ctx, which ends after 2 s. nil = a tenant with a
	// policy is refused everything. The Guard closes the engine.
	OpenPolicy func(ctx context.Context, s tenant.Scope, digest string) (*policy.Engine, error)

	// Alive says whether a tenant is in the index now. With it, a request of a tenant that is deleted at that very moment
	// leaves no guard behind. The index must say no before Forget is called. nil = not asked.
	Alive func(s tenant.Scope) bool

	Meter      func(s tenant.Scope) Meter // counts for the metrics; nil = nobody does
	TableBytes int64                      // bound of one tenant's table of callers; 0 = 1 MiB
	TablesMax  int64                      // bound of all tables together; 0 = 128 MiB
	Jitter     func() float64             // in [0,1): spreads Retry-After; nil = evenly
	Now        func() time.Time           // nil = time.Now
}

// Set holds the guards of the tenants that this replica has met. It is safe for concurrent use.
type Set struct {
	cfg      Config
	platform *Guard

	mu sync.RWMutex
	of map[tenant.ID]*Guard // guarded by mu
}

// NewSet returns an empty set.
func NewSet(cfg Config) *Set {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Set{cfg: cfg, of: make(map[tenant.ID]*Guard)}
	s.platform = &Guard{cfg: &s.cfg}
	return s
}

// Platform returns the guard of what belongs to no tenant: the operators' listener and the system's own work.
func (s *Set) Platform() *Guard { return s.platform }

// For returns the guard of a tenant, with the limits that e carries. A tenant that was deleted and made again gets a
// new one.
func (s *Set) For(e *tenant.Entry) *Guard {
	s.mu.RLock()
	g := s.of[e.Scope.ID()]
	s.mu.RUnlock()
	if g == nil || g.scope != e.Scope {
		g = s.add(e)
	}
	if g.record.Load() != e.Record {
		g.setRecord(e.Record)
	}
	return g
}

func (s *Set) add(e *tenant.Entry) *Guard {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.of[e.Scope.ID()]
	if old != nil && old.scope == e.Scope {
		return old
	}
	g := &Guard{cfg: &s.cfg, scope: e.Scope}
	if old != nil {
		if r := old.record.Load(); r != nil && r.Revision > e.Record.Revision {
			return g // of a tenant that was deleted since: its successor keeps its place, and what it has spent
		}
	}
	s.of[e.Scope.ID()] = g
	return g
}

// Forget drops the guard of a tenant that was deleted.
func (s *Set) Forget(id tenant.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

// Guard is the door to one tenant. It is built with the tenant's scope and has no way to admit to another.
type Guard struct {
	cfg    *Config
	scope  tenant.Scope // zero for the platform's guard
	record atomic.Pointer[tenant.Record]
	rate   quota.Rate
	gate   quota.Gate
}

// setRecord follows a change of the tenant's limits. An older record that arrives late is passed over.
func (g *Guard) setRecord(r *tenant.Record) {
	for {
		old := g.record.Load()
		if old != nil && old.Revision >= r.Revision {
			return
		}
		if g.record.CompareAndSwap(old, r) {
			return
		}
	}
}

// limits returns what applies now.
func (g *Guard) limits() Limits {
	var q tenant.Quotas
	if r := g.record.Load(); r != nil {
		q = r.Quotas
	}
	l, _ := Effective(q, g.cfg.Defaults, g.cfg.Ceilings)
	return l
}

// MaxServers returns how many MCP servers the tenant may have; 0 = no limit.
func (g *Guard) MaxServers() int { return g.limits().MaxServers }

// InFlight returns the number of the tenant's requests in flight.
func (g *Guard) InFlight() int64 { return g.gate.InFlight() }

// Enter begins the visit of one request: it spends one request of the tenant's rate and takes one of its places. Over
// either, the error is fault.RateLimited with RetryAfter set. The caller must Leave the visit when the request ends.
func (g *Guard) Enter(p tenant.Principal, r Request) (*Visit, error) {
	now := g.cfg.Now()
	v := &Visit{guard: g, principal: p, request: r}
	if g.scope.ID() == "" { // operators are few and trusted: no quota
		return v, nil
	}
	l := g.limits()
	if !g.gate.Enter(l.MaxConcurrent) {
		return nil, fault.New(fault.RateLimited, "over the quota of %d concurrent requests", l.MaxConcurrent).After(time.Second)
	}
	if d := g.rate.Spend(now, l.Rate); !d.OK {
		g.gate.Leave()
		return nil, fault.New(fault.RateLimited, "over the quota of %g requests per second", l.Rate.PerSecond).After(d.RetryAfter)
	}
	v.entered = true
	return v, nil
}

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
}

// Principal returns who asks.
func (v *Visit) Principal() tenant.Principal { return v.principal }

// Scope returns the tenant that is visited; zero for the platform.
func (v *Visit) Scope() tenant.Scope { return v.guard.scope }

// MaxServers returns the visited tenant's quota of MCP servers; 0 = no limit.
func (v *Visit) MaxServers() int { return v.guard.MaxServers() }

// Leave ends the visit. It may be called once only.
func (v *Visit) Leave() {
	if v.entered {
		v.guard.gate.Leave()
	}
}

// May says whether Admit would authorize a, and records nothing: it is for leaving rows out of a list, never for an effect.
func (v *Visit) May(a authz.Action) bool {
	return authz.Authorize(v.principal, a, v.guard.scope.ID()).Allow
}

// Effect is what is about to happen. Its Resource is the very value that will be executed.
type Effect struct {
	Action   authz.Action
	Resource string       // such as "server/everything" or "server/everything/tool/echo"
	Subject  tenant.Scope // with the platform's guard only: the tenant that an operator acts on, whose chain records it
	Object   authz.Object // the object, where ownership or delegations count; the zero Object has none
	// Grants are the tenant's delegations. They may be a snapshot that is shared: they are read only.
	Grants []authz.Grant
}

// Admit authorizes e and begins its record. A refusal is recorded, and its error shaped by the action's class: Forbidden
// for a mutation, NotFound for the rest.
func (v *Visit) Admit(e Effect) (*Permit, error) {
	scope := v.guard.scope
	if scope.ID() == "" {
		scope = e.Subject
	}
	began := v.guard.cfg.Now()
	verdict := authz.Decide(authz.Question{
		Principal: v.principal, Action: e.Action, In: scope.ID(), Object: e.Object, Grants: e.Grants, Now: began,
	})
	p := &Permit{visit: v, effect: e, scope: scope, rule: verdict.Rule, began: began}
	if verdict.Allow {
		return p, nil
	}
	kind := fault.NotFound
	if authz.ClassOf(e.Action) == authz.Mutate {
		kind = fault.Forbidden
	}
	entry := p.Entry(kind.String())
	entry.Decision = audit.Deny
	v.guard.cfg.Recorder.Record(entry)
	return nil, fault.New(kind, "role %s may not %s", v.principal.Role, e.Action)
}

// Permit is the leave to carry out one effect. It is settled exactly once: by Done for traffic, or, for a change, by
// committing Entry in the change's own transaction.
type Permit struct {
	visit  *Visit
	effect Effect
	scope  tenant.Scope
	rule   string
	began  time.Time
}

// Entry returns the record of the effect with the given outcome, to be written in the transaction that makes the change.
func (p *Permit) Entry(outcome string) audit.Entry {
	g, who := p.visit.guard, p.visit.principal
	e := audit.Entry{
		ID: audit.NewID(), Time: p.began.UTC(), Tenant: p.scope.ID(), TenantUID: p.scope.UID(), Replica: g.cfg.Replica,
		Principal: who.Ref(), Name: who.Name, Action: string(p.effect.Action), Resource: p.effect.Resource,
		Decision: audit.Allow, Rule: p.rule, Outcome: outcome, RequestID: p.visit.request.ID,
		Millis: g.cfg.Now().Sub(p.began).Milliseconds(),
	}
	if who.Role != tenant.NoRole {
		e.Role = who.Role.String()
	}
	return e
}

// Done records how traffic ended: err is nil or says why it failed.
func (p *Permit) Done(err error) {
	outcome := audit.OutcomeOK
	if err != nil {
		outcome = fault.KindOf(err).String()
	}
	p.visit.guard.cfg.Recorder.Record(p.Entry(outcome))
}

// Settle ends a change: if the commit failed, the attempt is recorded; if it succeeded, its record is in the commit.
// It returns err.
func (p *Permit) Settle(err error) error {
	if err != nil {
		p.Done(err)
	}
	return err
}
