// Package shares divides tenants' limits among the replicas: it asks the keepers for shares of what tenants want here, and
// answers for the tenants whose keeper this replica is. What is decided is in quota/share; here are the messages, the clock
// and the loop.
package shares

import (
	"log/slog"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/quota/share"
	"github.com/polygate/polygate/internal/tenant"
)

// Guards know what tenants want, and spend by the parts that they have. *guard.Set implements it.
type Guards interface {
	Demands(all []guard.Demand) []guard.Demand
	InUse(id tenant.ID, uid string) float64
	PartChanged(id tenant.ID, uid string)
	PartsChanged()
}

// Config is what Shares are made with.
type Config struct {
	Replica string // this replica's name; required
	// Replicas returns the names of the live replicas, this one among them. nil or an empty answer = this one alone. It and
	// Keeper answer from memory.
	Replicas func() []string
	// Keeper returns which replica keeps the shares of a tenant. nil, or "", which is better: one that all replicas choose
	// alike, which stays when the tenant moves, and whose successor is known before it is gone.
	Keeper func(id tenant.ID) string
	Caller peer.Caller   // required where there are others
	Period time.Duration // between two rounds; 0 = 200 ms
	Logger *slog.Logger  // nil = nothing is logged
}

// The times of the loop.
const (
	defaultPeriod = 200 * time.Millisecond
	leastPeriod   = 50 * time.Millisecond  // between two rounds, when the second is wanted at once
	callTimeout   = 800 * time.Millisecond // of one call; a grant that comes later is over
)

// Shares is one replica's part in dividing limits. It is safe for concurrent use.
type Shares struct {
	cfg  Config
	run  string // names this run of the replica
	born time.Time
	poke chan struct{}

	mu      sync.Mutex
	census  *share.Census
	guards  Guards                  // nil before Run
	tenants map[name]*account       // what tenants want here, and what is lent of their limits
	books   map[name]*share.Book    // of the tenants whose keeper this replica is
	keepers map[string]share.Keeper // by replica, as of its last answer
	busy    map[string]bool         // replicas that are being asked
	failing map[string]int64        // replicas that could not be asked, and until when they are not asked again
	holding bool                    // a grant is held
	faded   int64                   // when needs were read last

	calls sync.WaitGroup
}

// name is a tenant in messages. It gives no right to anything.
type name struct {
	ID  tenant.ID `json:"t"`
	UID string    `json:"u"`
}

func nameOf(s tenant.Scope) name { return name{s.ID(), s.UID()} }

// account is one tenant's on this replica.
type account struct {
	want   share.Want
	holder share.Holder
	wanted int64  // until when a keeper wants what is lent
	by     string // which

	scarceSince int64 // since when it needs more than was lent; 0 = it does not
}

// New returns Shares of a replica that is alone until Run has seen others.
func New(cfg Config) *Shares {
	if cfg.Period <= 0 {
		cfg.Period = defaultPeriod
	}
	if cfg.Keeper == nil {
		cfg.Keeper = func(tenant.ID) string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Shares{
		cfg: cfg, born: time.Now(), poke: make(chan struct{}, 1), tenants: map[name]*account{}, books: map[name]*share.Book{},
		keepers: map[string]share.Keeper{}, busy: map[string]bool{}, failing: map[string]int64{},
	}
	s.run = runName(s.born)
	s.census = share.NewCensus(cfg.Replica, s.clock())
	s.census.See(s.clock(), s.replicas())
	s.census.Applied(s.census.Mark())
	return s
}

// runName names a run so that a later one of the same replica is greater.
func runName(t time.Time) string { return t.UTC().Format("20060102T150405.000000000") }

// clock returns the nanoseconds since the start, by the monotonic clock: nobody else's clock is compared with it.
func (s *Shares) clock() int64 { return int64(time.Since(s.born)) + 1 }

func (s *Shares) time(clock int64) time.Time { return s.born.Add(time.Duration(clock - 1)) }

func (s *Shares) replicas() []string {
	if s.cfg.Replicas != nil {
		if live := s.cfg.Replicas(); len(live) > 0 {
			return live
		}
	}
	return []string{s.cfg.Replica}
}

// Part implements guard.Config.Part.
func (s *Shares) Part(scope tenant.Scope) guard.Part {
	s.mu.Lock()
	defer s.mu.Unlock()
	owned := s.census.Owned()
	a := s.tenants[nameOf(scope)]
	if a == nil {
		return guard.Part{Share: s.whole(owned)}
	}
	p := a.holder.Share(s.clock(), owned)
	part := guard.Part{Share: s.whole(p.Part), Odd: p.Odd}
	if p.Until > 0 {
		part.Until, part.After = s.time(p.Until), s.whole(p.After)
	}
	return part
}

// standing is the part of each limit that is not lent: an equal share of it is every replica's all the time. With it, a tenant
// far from its limits is not refused by a replica that has just come, or whose grant is on its way.
const standing = 1.0 / 16

// whole returns the part of a limit that a part of what is lent comes to, with the standing share. The sum over all replicas is
// the whole at most, but for the moment in which they do not agree yet how many there are: a sixteenth of one's share more.
// s.mu is held.
func (s *Shares) whole(p share.Part) float64 {
	return standing/float64(max(s.census.Count(), len(s.census.Others())+1)) + (1-standing)*float64(p)/float64(share.Whole)
}

// lendable is the inverse for what a tenant needs here.
func (s *Shares) lendable(need float64) share.Part {
	return partOf((need - standing/float64(max(s.census.Count(), 1))) / (1 - standing))
}

func partOf(f float64) share.Part { return share.Part(min(max(f, 0), 1) * float64(share.Whole)) }

// Wanting implements guard.Config.Wanting: the next round comes at once, or nearly.
func (s *Shares) Wanting(tenant.Scope) { s.hurry() }

func (s *Shares) hurry() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Ready says why this replica has no part of its own yet: it came a moment ago, and others may still spend by what was its
// predecessor's. nil = it has. It is a check of readiness.
func (s *Shares) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.census.Settled() {
		return nil
	}
	return fault.New(fault.Unavailable, "the other replicas (%d) have not made room in the tenants' limits yet; it takes a few seconds", len(s.census.Others()))
}
