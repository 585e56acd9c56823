package guard

import (
	"cmp"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Usage is a reading of what a tenant uses on this replica. Its parts are read one by one, so a request that ends
// meanwhile may be in some of them only.
type Usage struct {
	Since      time.Time // when the counts began: the guard was made
	InFlight   int64
	Streams    int64
	Requests   uint64                   // that entered
	Refused    [quota.NumReasons]uint64 // by quota.Reason
	RateLeft   float64                  // requests that may come at once now; -1 = no limit
	BytesIn    uint64                   // of bodies
	BytesOut   uint64
	BytesLeft  float64       // bytes that may pass before requests are refused, below 0 = owed; without a limit 0
	BytesOwed  time.Duration // how long requests are refused for the bytes that passed
	Limits     Limits        // in force, on all replicas together
	Part       float64       // what this replica may spend of them now
	Origins    Origins       // where they come from
	Guaranteed int64         // requests in flight that this replica guarantees the tenant now; 0 = no bound
	Callers    []CallerUsage // the principals with the most requests, at most MaxCallers
	Known      int           // how many principals and keys the table holds
	TableBytes int64
	Policy     string // digest of the policy that is loaded; "" = none
}

// MaxCallers bounds Usage.Callers.
const MaxCallers = 20

// CallerUsage is one principal's part.
type CallerUsage struct {
	Ref      string
	InFlight int
	Requests uint64 // that entered since it came into the table, which it leaves when it is idle
	Refused  uint64
	RateLeft float64 // requests that may come at once now; -1 = no limit
}

// Usage returns what the tenant uses now.
func (g *Guard) Usage() Usage {
	now := g.set.cfg.Now()
	s := g.settings.Load()
	l := s.at(now)
	u := Usage{
		Since: g.since, InFlight: g.gate.InFlight(), Streams: g.streams.InFlight(), Requests: g.requests.Load(),
		RateLeft: g.rate.Left(now, l.Rate), BytesIn: g.bytesIn.Load(), BytesOut: g.bytesOut.Load(),
		BytesLeft: g.debt.Left(now, l.Bytes), BytesOwed: g.debt.Owed(now, l.Bytes), Limits: s.base, Part: s.shareAt(now),
		Guaranteed: g.set.requests.Share(&g.requestShare), Policy: g.loadedPolicy(),
	}
	for i := range u.Refused {
		u.Refused[i] = g.refused[i].Load()
	}
	if s.record != nil {
		_, u.Origins = Effective(s.record.Quotas, g.set.cfg.Defaults, g.set.cfg.Ceilings)
	}
	u.Callers, u.Known, u.TableBytes = g.callers.read(now.UnixNano(), l.PerPrincipal.Rate)
	return u
}

// UsageOf returns what a tenant uses now on this replica; false if it has not been here.
func (s *Set) UsageOf(id tenant.ID) (Usage, bool) {
	s.mu.RLock()
	g := s.of[id]
	s.mu.RUnlock()
	if g == nil {
		return Usage{}, false
	}
	return g.Usage(), true
}

// read returns the callers with the most requests.
func (t *callers) read(now int64, rate quota.Limit) (top []CallerUsage, known int, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	order := func(a, b CallerUsage) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Ref, b.Ref))
	}
	for _, c := range t.of {
		if c.key.kind == kindAPIKey {
			continue // counted under its principal
		}
		u := CallerUsage{Ref: c.ref, InFlight: c.inFlight, Requests: c.requests, Refused: c.refused}
		if len(top) == MaxCallers && order(u, top[MaxCallers-1]) > 0 {
			continue
		}
		u.RateLeft = quota.Left(c.tat, now, rate)
		at, _ := slices.BinarySearchFunc(top, u, order)
		if top = slices.Insert(top, at, u); len(top) > MaxCallers {
			top = top[:MaxCallers]
		}
	}
	return top, len(t.of), t.bytes
}

// Stats is a reading of all guards of this replica.
type Stats struct {
	Guards         int   // tenants that this replica has met
	TableBytes     int64 // of the tables of callers
	ActiveRequests int64 // tenants with requests in flight
	ActiveStreams  int64 // tenants with streams
	LentRequests   int64 // requests in flight beyond their tenants' shares
	LentStreams    int64
}

// Stats returns what all guards hold.
func (s *Set) Stats() Stats {
	s.mu.RLock()
	n := len(s.of)
	s.mu.RUnlock()
	st := Stats{Guards: n, TableBytes: s.tables.Load()}
	st.ActiveRequests, st.LentRequests = s.requests.Active()
	st.ActiveStreams, st.LentStreams = s.streams.Active()
	return st
}

// Meter counts what the guard of one tenant does. Its methods never block.
type Meter interface {
	Refused(r quota.Reason)                         // a request or a stream was refused by a quota
	Streams(delta int)                              // streams opened or ended
	Policy(took time.Duration, denied, failed bool) // the tenant's policy was asked; failed: it had no say of its own
	Evicted(n int)                                  // idle callers left the table
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) Refused(quota.Reason)             {}
func (noMeter) Streams(int)                      {}
func (noMeter) Policy(time.Duration, bool, bool) {}
func (noMeter) Evicted(int)                      {}

// meter returns what counts for the metrics. It is asked for at first need, since a guard that nobody uses, such as that
// of a tenant that is gone, should have no series.
func (g *Guard) meter() Meter {
	g.meterOnce.Do(func() {
		g.metered = noMeter{}
		if ask := g.set.cfg.Meter; ask != nil && g.scope != (tenant.Scope{}) && !g.gone.Load() {
			g.metered = ask(g.scope)
		}
	})
	return g.metered
}
