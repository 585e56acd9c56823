package plan

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// maxReplicas is how many replicas are tried. Past it, an installation is to be cut into several.
const maxReplicas = 1000

// Compute returns the plan of a demand on machines like m; fields of m that are zero are the demand's, then the defaults. Where no
// number of replicas is enough the error wraps ErrNone and says which limit binds and what helps; the plan is valid beside it, and
// says how far off it is.
func Compute(d Demand, c *Costs, m Machine) (*Plan, error) {
	d.fill()
	d.Machine = m.Or(d.Machine)
	if p := d.problem(); p != nil {
		return nil, p
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("costs: %w", err)
	}
	s := search(d, c)
	p := s.plan()
	p.Replicas = s.replicas()
	p.Replicas.Binds = s.binds()
	p.Warnings = s.warnings(p)
	p.Assumptions = s.assumptions(p)
	return p, s.refusal(p)
}

// search returns the fewest replicas that are enough. Where none are, it is the fewest that satisfy those limits that more replicas help.
func search(d Demand, c *Costs) *shape {
	if d.Etcd.Kind == "" {
		if s := (&shape{d: d, c: c, n: 1, kind: Embedded}); d.SpareReplicas == 0 && fits(s.limits()) {
			return s
		}
		d.Etcd.Kind = External
	}
	s := &shape{d: d, c: c, n: 1, kind: d.Etcd.Kind}
	hopeless := s.with(maxReplicas).over()
	for s.n < maxReplicas && slices.ContainsFunc(s.over(), func(name string) bool { return ofReplica(name) && !slices.Contains(hopeless, name) }) {
		s.n++
	}
	return s
}

// fits says whether every limit holds.
func fits(limits []Limit) bool {
	return !slices.ContainsFunc(limits, func(l Limit) bool { return l.Share > 1 })
}

// shape is a demand on a number of serving replicas.
type shape struct {
	d    Demand
	c    *Costs
	n    int
	kind StoreKind
}

func (s *shape) with(n int) *shape {
	other := *s
	other.n = n
	return &other
}

// over returns the names of the limits that do not hold.
func (s *shape) over() (names []string) {
	for _, l := range s.limits() {
		if l.Share > 1 {
			names = append(names, l.Name)
		}
	}
	return names
}

func (s *shape) plan() *Plan {
	limits := s.limits()
	for i := range limits {
		limits[i].Replicas = s.alone(limits[i])
	}
	slices.SortStableFunc(limits, func(a, b Limit) int { return cmp.Compare(b.Share, a.Share) })
	return &Plan{
		V: Version, About: s.d.About, Source: s.c.Source, Machine: s.d.Machine, Limits: limits,
		CPU: s.cpu(), Memory: s.memory(), Etcd: s.etcd(),
	}
}

// The names of the limits.
const (
	limitCPU          = "CPU"
	limitMemory       = "memory"
	limitConnections  = "connections"
	limitStreams      = "streams"
	limitClaims       = "claims of one lease"
	limitSize         = "etcd size"
	limitTransactions = "etcd transactions"
	limitPuts         = "etcd puts"
	limitOrders       = "certificate orders"
)

// ofReplica says whether a limit is of each replica, so that more of them may help.
func ofReplica(name string) bool {
	return slices.Contains([]string{limitCPU, limitMemory, limitConnections, limitStreams, limitClaims}, name)
}

func (s *shape) limits() []Limit {
	m, n, e := s.d.Machine, float64(s.n), s.etcd()
	list := []Limit{
		{Name: limitCPU, Need: s.cpu().Total, Have: m.Cores * m.Headroom, Unit: "cores"},
		{Name: limitMemory, Need: s.memory().Total, Have: float64(m.Memory) * m.Headroom, Unit: "bytes"},
		{Name: limitConnections, Need: float64(s.d.Connections.Open) / n, Have: float64(s.d.Limits.MaxConnections), Unit: "open"},
		{Name: limitStreams, Need: float64(s.d.Streams) / n, Have: float64(s.d.Limits.MaxStreams), Unit: "open"},
		{Name: limitClaims, Need: s.activeVirtual() / n, Have: s.c.of(costClaims), Unit: "claims"},
		{Name: limitSize, Need: e.Size.Total, Have: float64(s.d.Etcd.QuotaBytes) * float64(100-s.d.Etcd.Reserve) / 100, Unit: "bytes"},
		{Name: limitTransactions, Need: e.Writes.Total, Have: s.c.of(costTransactions) * m.Headroom, Unit: "a second"},
		{Name: limitPuts, Need: e.Puts.Total, Have: s.c.of(costPuts) * m.Headroom, Unit: "a second"},
		{Name: limitOrders, Need: s.orders() * 60, Have: float64(s.d.Limits.OrdersPerMinute), Unit: "a minute"},
	}
	for i := range list {
		list[i].Share = list[i].Need / list[i].Have
	}
	return list
}

// alone returns how many replicas one limit needs; 0 if it is not one that replicas help.
func (s *shape) alone(l Limit) int {
	if !ofReplica(l.Name) || slices.Contains(s.with(maxReplicas).over(), l.Name) {
		return 0
	}
	for n := 1; n <= maxReplicas; n++ {
		if !slices.Contains(s.with(n).over(), l.Name) {
			return n
		}
	}
	return 0
}

func (s *shape) replicas() Replicas {
	r := Replicas{Serving: s.n, Spare: s.d.SpareReplicas, Total: s.n + s.d.SpareReplicas}
	if s.kind == Cluster { // a member in each: 3 or 5 of them
		r.Total = max(r.Total, 3) | 1
		r.Spare = r.Total - s.n
	}
	return r
}

// binds returns the limit by which it is not one replica fewer, else the nearest one.
func (s *shape) binds() string {
	at := s.limits()
	if s.n > 1 && fits(at) {
		at = s.with(s.n - 1).limits()
	}
	return slices.MaxFunc(at, func(a, b Limit) int { return cmp.Compare(a.Share, b.Share) }).Name
}

// refusal returns why the plan cannot be carried out; nil if it can.
func (s *shape) refusal(p *Plan) error {
	var why []error
	for _, l := range p.Limits {
		if l.Share > 1 {
			why = append(why, fmt.Errorf("%s: %s needed, %s there: %s", l.Name, amount(l.Need, l.Unit), amount(l.Have, l.Unit), s.wayOut(l.Name)))
		}
	}
	switch {
	case s.kind == Embedded && p.Replicas.Total > 1:
		why = append(why, errors.New("an embedded etcd serves one replica: say spare_replicas: 0 and fit into one, or etcd.kind cluster or external"))
	case s.kind == Cluster && p.Replicas.Total > 5:
		why = append(why, fmt.Errorf("%d replicas with a member of etcd in each: 5 is the most; say etcd.kind external", p.Replicas.Total))
	}
	if len(why) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNone, errors.Join(why...))
}

// wayOut says what helps against a limit that more replicas do not.
func (s *shape) wayOut(name string) string {
	switch name {
	case limitCPU, limitMemory, limitConnections, limitStreams, limitClaims:
		return "take larger machines, or two installations with a part of the tenants each"
	case limitOrders:
		return "raise certificates.acme.orders_per_minute as far as the issuer allows, or use one wildcard"
	case limitSize:
		return fmt.Sprintf("raise the quota (etcd is good for 8 GiB), keep history shorter than %s, or make two installations", s.d.Etcd.CompactAfter)
	default:
		return "give etcd machines and disks of its own and measure it there, or make two installations"
	}
}

// sum adds terms up, without those that are nothing.
func sum(terms ...Term) (out Sum) {
	for _, t := range terms {
		if t.Amount > 0 {
			out.Total += t.Amount
			out.Terms = append(out.Terms, t)
		}
	}
	slices.SortStableFunc(out.Terms, func(a, b Term) int { return cmp.Compare(b.Amount, a.Amount) })
	return out
}

// The parts of the tenants and of the requests.

func (s *shape) virtual() float64         { return float64(s.d.Tenants) * s.d.VirtualShare }
func (s *shape) dedicated() float64       { return float64(s.d.Tenants) * (1 - s.d.VirtualShare) }
func (s *shape) activeVirtual() float64   { return s.virtual() * s.d.ActiveShare }
func (s *shape) activeDedicated() float64 { return s.dedicated() * s.d.ActiveShare }

// virtualRate is the requests a second that virtual tenants get: their share, as requests are spread evenly.
func (s *shape) virtualRate() float64   { return s.d.Requests.PerSecond * s.d.VirtualShare }
func (s *shape) dedicatedRate() float64 { return s.d.Requests.PerSecond * (1 - s.d.VirtualShare) }

// distinct is how many of k different ones are hit by so many that fall on them evenly, at random. Even is the worst case: with a
// favourite, fewer are hit.
func distinct(k, hits float64) float64 {
	if k <= 0 {
		return 0
	}
	return -k * math.Expm1(-hits/k)
}

// perDay is what comes in a day, a second at its peak.
func (s *shape) perDay(n float64) float64 { return n / 86400 / s.c.of(costPeakDay) }

func (s *shape) changes() float64 { return s.perDay(s.d.ChangesPerDay) }

// openings is how many idle gateways are opened a second. Of arrivals at random at a rate r a tenant, r·exp(-600 r) come after 600
// idle seconds; that is the most at r = 1/600, where an active tenant begins. Busier ones stay open, but the peak has some of each.
func (s *shape) openings() float64 { return s.activeVirtual() / (idleAfter * math.E) }

// idleAfter is limits.idle_gateway_after in seconds.
const idleAfter = 600

// orders is how many certificates are renewed a second.
func (s *shape) orders() float64 {
	return float64(s.d.Certificates.Number) / (s.d.Certificates.Life.Seconds() * 2 / 3)
}

func (s *shape) handshakes() float64 {
	if h := s.d.Connections.HandshakesPerSecond; h > 0 {
		return h
	}
	return float64(s.d.Connections.Open) / s.d.Connections.Life.Seconds()
}
