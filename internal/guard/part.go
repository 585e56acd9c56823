package guard

import (
	"math"
	"time"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Part is what this replica may spend of a tenant's limits. The parts of all replicas are never more than the whole.
type Part struct {
	Share float64 // of every limit, 0 to 1
	// Odd says that counts are rounded up and not down. One replica at most is told so, and a limit of 1 is its alone.
	Odd   bool
	Until time.Time // when Share ends; zero = it stays
	After float64   // the share from then on
}

// Whole is the part of a replica that has no others beside it.
func Whole() Part { return Part{Share: 1} }

// times returns that share of the limits. A caller's own limits are never less than one request: which replica its next
// request reaches is chance, and it would be locked out of all but one.
func (l *Limits) times(share float64, odd bool) Limits {
	if share >= 1 {
		return *l
	}
	return Limits{
		Rate: l.Rate.Times(share, odd), MaxConcurrent: quota.Count(l.MaxConcurrent, share, odd), MaxStreams: quota.Count(l.MaxStreams, share, odd),
		Bytes: bytesTimes(l.Bytes, share), MaxServers: l.MaxServers, PerPrincipal: l.PerPrincipal.times(share), PerKey: l.PerKey.times(share),
	}
}

// bytesTimes is closed for a share of nothing alone: who has a place may move its bytes, and owes.
func bytesTimes(l quota.Limit, share float64) quota.Limit {
	part := l.Times(share, false)
	if part.Closed && share > 0 {
		return quota.Limit{PerSecond: l.PerSecond * share, Burst: 1}
	}
	return part
}

// least is the share of which one caller's limits are reckoned where the replica has nothing: the tenant's limits refuse.
const least = 1e-3

func (s Share) times(share float64) Share {
	part := Share{Rate: s.Rate, MaxConcurrent: quota.Count(s.MaxConcurrent, share, false)}
	if part.MaxConcurrent == quota.Closed {
		part.MaxConcurrent = 1
	}
	if s.Rate.PerSecond > 0 && share < 1 {
		share = max(share, least)
		part.Rate = quota.Limit{PerSecond: s.Rate.PerSecond * share, Burst: max(1, quota.Count(s.Rate.Most(), share, false))}
	}
	return part
}

// at returns what applies at now. The check is made where it is used, and not by a clock beside it: a replica that was
// frozen wakes with a share that is another's by now.
func (s *settings) at(now time.Time) *Limits {
	if s.ends && !now.Before(s.part.Until) {
		return &s.after
	}
	return &s.limits
}

// divide works out what the part makes of the limits.
func (s *settings) divide(p Part) {
	s.part, s.ends = p, !p.Until.IsZero()
	s.limits = s.base.times(p.Share, p.Odd)
	if s.ends {
		s.after = s.base.times(p.After, false)
	}
}

// limited says whether there is anything to divide.
func (l *Limits) limited() bool {
	none := Limits{MaxServers: l.MaxServers}
	return *l != none
}

// smallest returns the smallest count among the limits of the tenant as a whole; 0 = it has none.
func (l *Limits) smallest() int {
	n := math.MaxInt
	for _, c := range []int{l.MaxConcurrent, l.MaxStreams, l.Rate.Most()} {
		if c > 0 {
			n = min(n, c)
		}
	}
	if n == math.MaxInt {
		return 0
	}
	return n
}

// PartChanged asks Config.Part anew for the guard of the tenant of that id and unique id, if it has one.
func (s *Set) PartChanged(id tenant.ID, uid string) {
	if g := s.named(id, uid); g != nil {
		g.repart()
	}
}

// named finds a guard by what other replicas call its tenant.
func (s *Set) named(id tenant.ID, uid string) *Guard {
	s.mu.RLock()
	g := s.of[id]
	s.mu.RUnlock()
	if g == nil || g.scope.UID() != uid {
		return nil
	}
	return g
}

// PartsChanged asks Config.Part anew for all guards.
func (s *Set) PartsChanged() {
	for _, g := range s.all() {
		g.repart()
	}
}

// repart follows a change of the part. What it grows by starts spent; see quota.Rescale.
func (g *Guard) repart() {
	if g.set.cfg.Part == nil || g.scope.ID() == "" {
		return
	}
	g.partMu.Lock()
	defer g.partMu.Unlock()
	p := g.set.cfg.Part(g.scope) // under the lock, so that the newest is the last
	now := g.set.cfg.Now()
	for {
		old := g.settings.Load()
		if old.part == p {
			return
		}
		next := &settings{record: old.record, base: old.base, digest: old.digest}
		next.divide(p)
		from := old.at(now)
		grows := p.Share > old.shareAt(now)
		if grows { // first, since the old limits give less for the same state, and never more
			g.rescale(now, from, &next.limits)
		}
		if !g.settings.CompareAndSwap(old, next) {
			continue // rescaling twice spends no less
		}
		if !grows {
			g.rescale(now, from, &next.limits)
		}
		g.woken()
		return
	}
}

func (s *settings) shareAt(now time.Time) float64 {
	if s.ends && !now.Before(s.part.Until) {
		return s.part.After
	}
	return s.part.Share
}

func (g *Guard) rescale(now time.Time, from, to *Limits) {
	g.rate.Rescale(now, from.Rate, to.Rate)
	g.debt.Rescale(now, from.Bytes, to.Bytes)
	if from.PerPrincipal != to.PerPrincipal || from.PerKey != to.PerKey {
		g.callers.rescale(now.UnixNano(), from, to)
	}
}

// rescale follows a change of the callers' limits. Those who are not in the table, or come into it later, have what a
// caller has that never spent anything: fresh.
func (t *callers) rescale(now int64, from, to *Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	who := func(tat int64) int64 { return quota.Rescale(tat, now, from.PerPrincipal.Rate, to.PerPrincipal.Rate) }
	key := func(tat int64) int64 { return quota.Rescale(tat, now, from.PerKey.Rate, to.PerKey.Rate) }
	for _, c := range t.of {
		if c.key.kind == kindAPIKey {
			c.tat = key(c.tat)
		} else {
			c.tat = who(c.tat)
		}
	}
	t.overflow.tat, t.overflowKey.tat = who(t.overflow.tat), key(t.overflowKey.tat)
	t.fresh, t.freshKey = who(t.fresh), key(t.freshKey)
}

// Demand is how much of its limits a tenant wants of this replica, in parts of the whole. Below Part.Share it is content.
type Demand struct {
	Scope    tenant.Scope
	Need     float64 // what it asked for since the last reading; 1 at most
	InUse    float64 // what its requests and streams in flight hold
	Smallest int     // the smallest of its counts, of which a part rounds to nothing first; 0 = it has none
}

// Demands appends to all what tenants with limits asked for since the last call, those that asked for nothing left out. One
// goroutine calls it.
func (s *Set) Demands(all []Demand) []Demand {
	now := s.cfg.Now()
	for _, g := range s.all() {
		if d, any := g.demand(now); any {
			all = append(all, d)
		}
	}
	return all
}

// shortest is the least time over which a rate is reckoned: a few requests within a moment are not a rate.
const shortest = 200 * time.Millisecond

// InUse returns which part of its limits a tenant's requests and streams in flight hold.
func (s *Set) InUse(id tenant.ID, uid string) float64 {
	g := s.named(id, uid)
	if g == nil {
		return 0
	}
	return g.inUse(&g.settings.Load().base)
}

func (g *Guard) inUse(l *Limits) float64 {
	return max(ratio(float64(g.gate.InFlight()), float64(l.MaxConcurrent)), ratio(float64(g.streams.InFlight()), float64(l.MaxStreams)))
}

func ratio(n, of float64) float64 {
	if of <= 0 {
		return 0
	}
	return n / of
}

// reading is what demand saw last.
type reading struct {
	at                       time.Time
	requests, bytes, refused uint64
}

func (g *Guard) demand(now time.Time) (d Demand, any bool) {
	s := g.settings.Load()
	l := &s.base
	if !l.limited() {
		return d, false
	}
	old, read := g.read, reading{at: now, requests: g.requests.Load(), bytes: g.bytesIn.Load() + g.bytesOut.Load(), refused: g.dividedRefusals()}
	elapsed := 1.0
	if !old.at.IsZero() {
		elapsed = max(now.Sub(old.at), shortest).Seconds()
	}
	if now.Sub(old.at) >= shortest { // else the next reading is of this time too
		g.read = read
	}
	d = Demand{Scope: g.scope, Smallest: l.smallest(), InUse: g.inUse(l)}
	d.Need = max(d.InUse, ratio(float64(read.requests-old.requests)/elapsed, l.Rate.PerSecond), ratio(float64(read.bytes-old.bytes)/elapsed, l.Bytes.PerSecond))
	if refused := int64(read.refused - old.refused); refused > 0 { // more than it has, and nobody knows how much more
		d.Need = max(d.Need, 1.5*s.shareAt(now), ratio((float64(read.requests-old.requests)+float64(refused))/elapsed, l.Rate.PerSecond))
	}
	d.Need = min(d.Need, 1)
	return d, d.Need > 0 || read.requests != old.requests
}

// dividedRefusals counts what was refused for limits that replicas divide, once each, from when it began to wait.
func (g *Guard) dividedRefusals() (n uint64) {
	n = g.waits.Load() - g.gaveUp.Load()
	for r := range quota.PoolRequests {
		n += g.refused[r].Load()
	}
	return n
}
