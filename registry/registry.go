// Package registry keeps the durable truth of Polygate in etcd, or in memory for tests: which tenants there are, which
// replica serves each (the claim), what each tenant's gateway has stored, and the audit records that go with every
// change. It serves the routing table from memory, fed by one watch. It does not route, serve, seal or interpret: values
// other than routing records are opaque to it. See DESIGN.md beside this file.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// DefaultTTL is the time to live of a replica's lease where Config has none: after a crash its tenants can be served
// elsewhere within it.
const DefaultTTL = 5 * time.Second

// Bounds of the registry's own patience.
const (
	opTimeout    = 5 * time.Second // one call of the store, with all its attempts
	tryTimeout   = 1 * time.Second // one attempt of a transaction: one that a member loses, since its leader has died, is never answered
	seenTimeout  = 2 * time.Second // until our own index has seen our own change
	closeTimeout = 2 * time.Second // to revoke the lease at the end
	staleAfter   = 5 * ProgressEvery
	retryAdvice  = time.Second // RetryAfter of what is unavailable
)

// ErrClaimLost is the cause with which a claim's context ends, whatever ended it, and is wrapped in the error of a commit
// that the fence refused.
var ErrClaimLost = errors.New("the claim on the tenant is lost")

// ErrSessionLost is the cause where the replica's session ended and all its claims with it. It is an ErrClaimLost.
var ErrSessionLost = fmt.Errorf("the replica's session is over: %w", ErrClaimLost)

// ErrUnknown says that the store did not tell, in time or for sure, whether it made a change. Read before repeating it.
var ErrUnknown = errors.New("whether the change was made is not known")

// ErrNoRecord says that a change came without its audit entry, and was refused: no record, no change.
var ErrNoRecord = errors.New("a change needs an audit entry with an id and an action")

// Config is what a Store is made with.
type Config struct {
	Backend    Backend          // required
	Replica    string           // this replica's name, unique among the replicas of one root; required
	Address    string           // where the other replicas reach it; may be empty with a single replica
	Version    string           // of this program, for people to see; may be empty
	Capacity   int              // its share of the tenants, beside the others'; 0 = DefaultCapacity
	Load       func() Load      // answers from memory, at once; nil = nothing is said of the load
	TTL        time.Duration    // of the replica's lease; 0 = DefaultTTL, at least 1 s
	BaseDomain string           // tenants have the hosts <id>.<BaseDomain>; required
	Now        func() time.Time // for the times in records; nil = time.Now. Leases always run on the monotonic clock.
	Logger     *slog.Logger     // nil = discard
	// TakeOver revokes the lease that an earlier process of this replica's name left behind, so that a restart after a
	// crash serves at once. Set it only where something else proves that the earlier process is dead, such as the lock on
	// the data folder: of two live processes of one name, each would end the other's session in turn.
	TakeOver bool
	// Budgets bound the bytes of tenants; the zero value bounds nothing.
	Budgets Budgets
}

// ErrHandedOff is the cause where this replica gave the tenant to another: what serves the tenant here may end in good
// order, since all of it was planned. It comes within an *OwnerError, which names the new owner. It is an ErrClaimLost.
var ErrHandedOff = fmt.Errorf("the tenant was handed to another replica: %w", ErrClaimLost)

// ErrOwnedElsewhere says that another replica owns the tenant. It comes within an *OwnerError, which names it.
var ErrOwnedElsewhere = errors.New("another replica owns the tenant")

// ErrRecordChanged is wrapped in the refusal of a commit that was bound to a revision of the tenant's routing record.
var ErrRecordChanged = errors.New("the tenant's routing record has changed")

// Store is the registry as one replica uses it. It is safe for concurrent use. Reading the index needs nothing else;
// everything that writes or claims needs Run to be running.
type Store struct {
	cfg     Config
	backend Backend
	log     *slog.Logger
	index   *Index
	compact compactor // of what the index holds

	started   atomic.Bool
	session   atomic.Pointer[session] // nil while there is none
	begun     time.Time               // when it was made
	fresh     freshness
	announce  announcer
	follow    follower
	claims    claimTable
	turns     turns
	once      onceSweep
	vault     *Vault
	budgets   *budgets
	committed chan struct{} // buffered 1: something was committed

	ready     chan struct{} // closed when the index is full and the session up
	readyOnce sync.Once
	trouble   atomic.Pointer[string] // why there is no session
}

// New checks the configuration and makes a Store. It starts nothing.
func New(cfg Config) (*Store, error) {
	if cfg.Backend == nil {
		return nil, errors.New("registry: Config.Backend is missing")
	}
	if err := tenant.CheckSegment(cfg.Replica); err != nil {
		return nil, fmt.Errorf("registry: replica name: %w", err)
	}
	if cfg.BaseDomain == "" {
		return nil, errors.New("registry: Config.BaseDomain is missing")
	}
	if cfg.TTL == 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.TTL < time.Second {
		return nil, fmt.Errorf("registry: TTL is %v: at least 1s is needed", cfg.TTL)
	}
	if cfg.Capacity <= 0 {
		cfg.Capacity = DefaultCapacity
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		cfg: cfg, backend: cfg.Backend, log: cfg.Logger, index: NewIndex(cfg.BaseDomain),
		committed: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	s.begun = cfg.Now().UTC().Round(0)
	s.fresh.init()
	s.announce.init()
	s.follow.init(&s.fresh)
	s.claims.init()
	s.turns.init()
	s.vault = newVault(s)
	s.budgets = newBudgets(s, cfg.Budgets)
	return s, nil
}

// Run keeps the replica's session and follows the store until ctx ends, through any trouble on the way. It then revokes
// the lease, which releases every claim, and returns when all its goroutines have ended. It may be called once.
func (s *Store) Run(ctx context.Context) error {
	if s.started.Swap(true) {
		return errors.New("registry: Run was called twice")
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.runFollow(ctx) })
	wg.Go(func() { s.runSessions(ctx) })
	wg.Go(func() { s.runAnnounce(ctx) })
	wg.Go(func() { s.vault.events.run(ctx) })
	wg.Go(func() { s.vault.sweepLocks(ctx) })
	wg.Go(func() { s.budgets.run(ctx) })
	wg.Wait()
	return nil
}

// Ready is closed once the index holds a full snapshot and the session is up for the first time.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Listed returns how many keys have been read into the index since the start: while it grows, Ready comes nearer.
func (s *Store) Listed() int64 { return s.follow.listed.Load() }

// Healthy returns nil if the session is live and the watch is current, else a fault.Unavailable that says what is not.
func (s *Store) Healthy() error {
	if ses := s.session.Load(); ses == nil || !ses.live() {
		why := "it has not begun"
		if t := s.trouble.Load(); t != nil {
			why = *t
		}
		return fault.New(fault.Unavailable, "the replica has no session with the registry: %s", why).After(retryAdvice)
	}
	if err := s.follow.healthy(); err != nil {
		return err
	}
	return nil
}

// Index returns the routing table.
func (s *Store) Index() *Index { return s.index }

// checkReady closes ready when its two conditions hold.
func (s *Store) checkReady() {
	if s.follow.isLoaded() && s.session.Load() != nil {
		s.readyOnce.Do(func() { close(s.ready) })
	}
}

// noteCommit tells whoever drains the outbox.
func (s *Store) noteCommit() {
	select {
	case s.committed <- struct{}{}:
	default:
	}
}
