package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// ownerValue is the value of o/<tenant>, which hangs on the owner's lease. Its ModRevision is the epoch.
type ownerValue struct {
	V       int    `json:"v"`
	Replica string `json:"replica"`
}

// Claim is this replica's right to serve one tenant, and the only thing with which to write that tenant's state: it has
// no parameter that names another. It is safe for concurrent use. It ends for good when its context does; a new one is
// then to be had from Store.Claim, and what was in memory is to be loaded anew.
type Claim struct {
	store   *Store
	scope   tenant.Scope
	epoch   int64
	session *session
	ctx     context.Context
	cancel  context.CancelCauseFunc
	lanes   chan *lane
	handed  atomic.Pointer[[]byte] // what the former owner gave along, until it is asked for
	handing sync.Mutex             // held by the one hand-off at a time
	to      atomic.Pointer[string] // to whom it is being handed
}

// Context ends when the claim is lost. Its cause is then ErrClaimLost (released, taken, or the tenant deleted) or wraps it:
// ErrSessionLost, or ErrHandedOff within an *OwnerError.
func (c *Claim) Context() context.Context { return c.ctx }

// Epoch tells this claim from every other on the tenant; a later claim has a greater one.
func (c *Claim) Epoch() int64 { return c.epoch }

// Scope returns the tenant that is claimed.
func (c *Claim) Scope() tenant.Scope { return c.scope }

// live says whether the claim holds as far as this process can know without asking.
func (c *Claim) live() bool { return c.ctx.Err() == nil && c.session.live() }

// lose ends the claim on this side.
func (c *Claim) lose(cause error) {
	c.cancel(cause)
	c.store.claims.drop(c)
}

// lost is the error of whoever needs the claim when it is gone.
func (c *Claim) lost() error {
	cause := context.Cause(c.ctx)
	if cause == nil {
		cause = ErrSessionLost // by the clock; the timer has not had its turn
	}
	return fault.Wrap(fault.Unavailable, cause, "tenant %s is moving; try again", c.scope).After(retryAdvice)
}

// claimTable holds the claims of this replica and the acquisitions under way.
type claimTable struct {
	mu      sync.Mutex // guards what follows
	held    map[tenant.ID]*Claim
	flights map[tenant.ID]*flight
}

// flight is an acquisition under way, which every caller for the tenant waits for.
type flight struct {
	scope  tenant.Scope
	done   chan struct{} // closed at the end; claim and err are then set
	claim  *Claim
	err    error
	passed int64 // the last revision at which the watch saw o/ change: the answer may come after what undoes it
}

func (ct *claimTable) init() {
	ct.held, ct.flights = make(map[tenant.ID]*Claim), make(map[tenant.ID]*flight)
}

// join returns the live claim, or the flight to wait for and whether the caller is to fly it.
func (ct *claimTable) join(scope tenant.Scope) (*Claim, *flight, bool) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if c := ct.held[scope.ID()]; c != nil && c.scope == scope && c.live() {
		return c, nil, false
	}
	if f := ct.flights[scope.ID()]; f != nil {
		return nil, f, false
	}
	f := &flight{scope: scope, done: make(chan struct{})}
	ct.flights[scope.ID()] = f
	return nil, f, true
}

// land ends a flight. A claim whose session is over, or that the watch has already seen the end of, is lost at birth.
func (ct *claimTable) land(f *flight, c *Claim, err error) {
	ct.mu.Lock()
	delete(ct.flights, f.scope.ID())
	var old *Claim
	if c != nil {
		old = ct.held[f.scope.ID()]
		ct.held[f.scope.ID()] = c
	}
	born := c == nil || f.passed <= c.epoch && c.ctx.Err() == nil
	ct.mu.Unlock()
	if old != nil {
		old.cancel(ErrClaimLost) // its epoch is over
	}
	if !born {
		c.lose(ErrClaimLost)
		err = c.lost()
		c = nil
	}
	f.claim, f.err = c, err
	close(f.done)
}

func (ct *claimTable) drop(c *Claim) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.held[c.scope.ID()] == c {
		delete(ct.held, c.scope.ID())
	}
}

// observe takes what the watch saw of o/<tenant>, whose owner is then named. Whatever happened to it after the claim's
// epoch ended the claim.
func (ct *claimTable) observe(id tenant.ID, ev Event, owner string) {
	ct.mu.Lock()
	c := ct.held[id]
	if f := ct.flights[id]; f != nil {
		f.passed = max(f.passed, ev.KV.ModRevision)
	}
	ct.mu.Unlock()
	if c != nil && ev.KV.ModRevision > c.epoch {
		c.lose(c.endedBy(owner))
	}
}

// retain ends the claims that a snapshot at rev does not know.
func (ct *claimTable) retain(owners map[tenant.ID]bool, rev int64) {
	ct.mu.Lock()
	var gone []*Claim
	for id, c := range ct.held {
		if !owners[id] && c.epoch <= rev {
			gone = append(gone, c)
		}
	}
	for id, f := range ct.flights {
		if !owners[id] {
			f.passed = max(f.passed, rev)
		}
	}
	ct.mu.Unlock()
	for _, c := range gone {
		c.lose(ErrClaimLost)
	}
}

// sessionOver forgets the claims of a session; their contexts have ended with its.
func (ct *claimTable) sessionOver(ses *session) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	for id, c := range ct.held {
		if c.session == ses {
			delete(ct.held, id)
		}
	}
}

// Claim returns this replica's claim on a tenant, acquiring it if there is none. Concurrent calls share one acquisition.
// The error is fault.Unavailable, with RetryAfter, while another replica owns the tenant (it then wraps ErrOwnedElsewhere in
// an *OwnerError that names the owner) or this one has no session, and fault.NotFound if the tenant is gone, or is another one of the same id.
func (s *Store) Claim(ctx context.Context, scope tenant.Scope) (*Claim, error) {
	for {
		c, f, mine := s.claims.join(scope)
		if c != nil {
			return c, nil
		}
		if mine {
			s.fly(ctx, f)
			return f.claim, f.err
		}
		select {
		case <-f.done:
			if f.scope == scope {
				return f.claim, f.err
			}
		case <-ctx.Done():
			return nil, fault.From(ctx.Err())
		}
	}
}

// fly acquires for everyone who waits, so the first caller's cancellation does not end it.
func (s *Store) fly(ctx context.Context, f *flight) {
	var c *Claim
	err := error(fault.Wrap(fault.Internal, errors.New("the acquisition of a claim panicked"), ""))
	defer func() { s.claims.land(f, c, err) }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	c, err = s.acquire(ctx, f.scope)
}

func (s *Store) acquire(ctx context.Context, scope tenant.Scope) (*Claim, error) {
	ses := s.session.Load()
	if ses == nil || !ses.live() {
		return nil, s.noSession()
	}
	var handed []byte // kept over the attempts: one that was applied without an answer has removed it from the store
	for range 3 {
		c, err := s.acquireOnce(ctx, ses, scope, &handed)
		if !errors.Is(err, errRace) {
			return c, err
		}
	}
	return nil, fault.New(fault.Unavailable, "tenant %s is moving; try again", scope).After(retryAdvice)
}

func (s *Store) noSession() error {
	if err := s.Healthy(); err != nil {
		return err
	}
	return fault.New(fault.Unavailable, "the replica has no session with the registry").After(retryAdvice)
}

// acquireOnce reads the tenant and its owner, and takes o/<tenant> if neither changed meanwhile. An o/ key on our own
// lease was handed to us, or is left of a claim that we gave up without an answer: it is rewritten, so that whatever was
// sent under its epoch can no longer be applied.
func (s *Store) acquireOnce(ctx context.Context, ses *session, scope tenant.Scope, handed *[]byte) (*Claim, error) {
	x, ok, err := s.get(ctx, recordKey(scope.ID()))
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", scope, err)
	}
	if e, err := decodeRecord(x); !ok || err != nil || e.Scope != scope {
		return nil, fault.New(fault.NotFound, "there is no tenant %s", scope)
	}
	o, owned, err := s.get(ctx, ownerKey(scope.ID()))
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", scope, err)
	}
	if owned && o.Lease != ses.lease {
		return nil, ownedElsewhere(scope, o)
	}
	if owned {
		if err := s.readHanded(ctx, ses, scope, handed); err != nil {
			return nil, fmt.Errorf("claim %s: %w", scope, err)
		}
	}
	val, err := encode(ownerValue{storedVersion, s.cfg.Replica})
	if err != nil {
		return nil, err
	}
	t := &Txn{
		If:             []Cmp{{x.Key, CreateIs, x.CreateRevision}, unchanged(ownerKey(scope.ID()), o)},
		Puts:           []Put{{ownerKey(scope.ID()), val, ses.lease}},
		DeletePrefixes: []string{markerPrefix(scope.ID())},
	}
	if *handed != nil {
		t.Deletes = []string{handedKey(scope.ID())}
	}
	res, err := s.commit(ctx, t)
	if errors.Is(err, ErrLeaseNotFound) {
		return nil, fault.Wrap(fault.Unavailable, err, "the replica's session is over").After(retryAdvice)
	}
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", scope, err)
	}
	if !res.OK {
		return nil, errRace // or an earlier attempt was applied: then the key is ours, and is rewritten
	}
	c := s.newClaim(ses, scope, res.Revision)
	if *handed != nil {
		c.handed.Store(handed)
	}
	return c, nil
}

// unchanged compares a key with what was read of it; the zero KV is that it did not exist.
func unchanged(key string, was KV) Cmp {
	if was.ModRevision == 0 {
		return Cmp{Key: key, Kind: Absent}
	}
	return Cmp{Key: key, Kind: ModIs, Revision: was.ModRevision}
}

func (s *Store) newClaim(ses *session, scope tenant.Scope, epoch int64) *Claim {
	s.budgets.claimed(scope.ID())
	ctx, cancel := context.WithCancelCause(ses.ctx)
	c := &Claim{store: s, scope: scope, epoch: epoch, session: ses, ctx: ctx, cancel: cancel, lanes: make(chan *lane, laneCount)}
	for i := range laneCount {
		c.lanes <- &lane{key: fmt.Sprintf("%s%d", markerPrefix(scope.ID()), i)}
	}
	return c
}

// Release gives the tenant up, so that any replica may claim it. The claim is lost whatever is returned.
func (c *Claim) Release(ctx context.Context) error {
	c.lose(ErrClaimLost)
	key := ownerKey(c.scope.ID())
	t := &Txn{If: []Cmp{{key, ModIs, c.epoch}}, Deletes: []string{key}}
	if _, err := c.store.commit(context.WithoutCancel(ctx), t); err != nil {
		return fmt.Errorf("release %s: %w", c.scope, err)
	}
	return nil // if the comparison failed, it was not ours any more
}
