// Package guard is the one door to every effect. Admit authorizes, asks the tenant's policy, spends and records as one act:
// whatever changes state or reaches an upstream takes a Permit, and only Admit makes one, so a path that forgot to ask does
// not compile. It leaves the rules to authz and policy, the arithmetic to quota and the keeping of records to audit.
package guard

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/audit"
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

	// Part says what this replica may spend of a tenant's limits. It is asked when a guard is made and after PartChanged, and
	// must not call the Set. nil = all: no other replica serves tenants.
	Part func(s tenant.Scope) Part
	// Wanting is told when a limit refuses of which this replica has a part only. It must not block. nil = nobody is told.
	Wanting func(s tenant.Scope)
	// Patience is how long a request waits for a larger part, where the part at hand refuses it; 0 = 750 ms, below 0 = not
	// at all. Nobody waits where this replica has the whole, or without Wanting.
	Patience time.Duration

	Meter      func(s tenant.Scope) Meter // counts for the metrics; asked once per guard, at first need; nil = nobody counts
	TableBytes int64                      // bound of one tenant's table of callers; 0 = 1 MiB
	TablesMax  int64                      // bound of all tables together; 0 = 128 MiB
	Jitter     func() float64             // in [0,1): spreads the times to retry; nil = evenly, see quota.Spread
	Now        func() time.Time           // nil = time.Now
}

// The defaults of Config.
const (
	defaultInFlight   = 10_000
	defaultTableBytes = 1 << 20
	defaultTablesMax  = 128 << 20
)

func (c Config) withDefaults() Config {
	if c.MaxInFlight == 0 {
		c.MaxInFlight = defaultInFlight
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = defaultInFlight
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.TableBytes == 0 {
		c.TableBytes = defaultTableBytes
	}
	if c.TablesMax == 0 {
		c.TablesMax = defaultTablesMax
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Jitter == nil {
		c.Jitter = new(quota.Spread).Next
	}
	return c
}

// Set holds the guards of the tenants that this replica has met, and what they share. It is safe for concurrent use.
type Set struct {
	cfg               Config
	open              opener // Config.OpenPolicy; tests put others in its place
	platform          *Guard
	requests, streams *quota.Pool
	tables            atomic.Int64 // bytes of the tables of callers

	mu sync.RWMutex
	of map[tenant.ID]*Guard // guarded by mu
}

// NewSet returns an empty set.
func NewSet(cfg Config) *Set {
	s := &Set{cfg: cfg.withDefaults(), of: make(map[tenant.ID]*Guard)}
	s.open = openWith(cfg.OpenPolicy)
	s.requests, s.streams = quota.NewPool(s.cfg.MaxInFlight), quota.NewPool(s.cfg.MaxStreams)
	s.platform = s.newGuard(tenant.Scope{})
	return s
}

// Platform returns the guard of what belongs to no tenant: the operators' listener and the system's own work.
func (s *Set) Platform() *Guard { return s.platform }

// For returns the guard of a tenant, with the limits and the policy that e carries, or newer ones. A tenant that was
// deleted and made again gets a new one. For a tenant that is gone it returns one that the set does not keep.
func (s *Set) For(e *tenant.Entry) *Guard {
	g := s.find(e.Scope)
	if g == nil {
		g = s.add(e)
	}
	if g.settings.Load().record != e.Record {
		g.setRecord(e.Record)
	}
	return g
}

func (s *Set) find(scope tenant.Scope) *Guard {
	s.mu.RLock()
	g := s.of[scope.ID()]
	s.mu.RUnlock()
	if g == nil || g.scope != scope {
		return nil
	}
	return g
}

// add puts a new guard into the set. Whether its tenant is alive is asked afterwards: a tenant that goes before the
// question is seen by it, one that goes after it is followed by Forget, which finds the guard.
func (s *Set) add(e *tenant.Entry) *Guard {
	g, added := s.insert(e)
	if added {
		g.repart() // it may have changed before the guard could be found
	}
	if added && s.cfg.Alive != nil && !s.cfg.Alive(e.Scope) {
		s.remove(g)
	}
	return g
}

func (s *Set) insert(e *tenant.Entry) (g *Guard, added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.of[e.Scope.ID()]
	if old != nil && old.scope == e.Scope {
		return old, false
	}
	g = s.newGuard(e.Scope)
	g.setRecord(e.Record) // before anybody else sees it: it must not be without its policy for a moment
	if old != nil {
		if r := old.settings.Load().record; r != nil && r.Revision > e.Record.Revision {
			g.close() // of a tenant that was deleted since: its successor keeps its place, and what it has spent
			return g, false
		}
		old.close()
	}
	s.of[e.Scope.ID()] = g
	return g, true
}

func (s *Set) remove(g *Guard) {
	s.mu.Lock()
	if s.of[g.scope.ID()] == g {
		delete(s.of, g.scope.ID())
	}
	s.mu.Unlock()
	g.close()
}

// Changed follows a change of a tenant's record, so that a visit that lasts (a WebSocket) meets new limits and a new
// policy at its next effect. It makes no guard where none is. e is nil when the tenant is gone.
func (s *Set) Changed(id tenant.ID, e *tenant.Entry) {
	if e == nil {
		s.Forget(id)
		return
	}
	if g := s.find(e.Scope); g != nil {
		g.setRecord(e.Record)
	}
}

// Forget drops the guard of a tenant that was deleted.
func (s *Set) Forget(id tenant.ID) {
	s.mu.RLock()
	g := s.of[id]
	s.mu.RUnlock()
	if g != nil {
		s.remove(g)
	}
}

// Sweep gives back what has been idle for a while: callers whose budgets are full, and engines of policies. It is to be
// called about once a minute; nothing depends on it but memory.
func (s *Set) Sweep() {
	now := s.cfg.Now()
	for _, g := range s.all() {
		if n := g.callers.sweep(now.UnixNano()); n > 0 {
			g.meter().Evicted(n)
		}
		g.sweepPolicy(now)
	}
}

func (s *Set) all() []*Guard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*Guard, 0, len(s.of))
	for _, g := range s.of {
		all = append(all, g)
	}
	return all
}
