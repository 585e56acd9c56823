package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// MaxHanded bounds what goes along with a hand-off.
const MaxHanded = 64 << 10

// handoffPatience is how long a hand-off waits for the commits under way.
const handoffPatience = 2 * time.Second

// OwnerError says which replica owns a tenant in this one's place. It wraps ErrOwnedElsewhere or ErrHandedOff.
type OwnerError struct {
	Replica string
	Err     error
}

// Error implements error.
func (e *OwnerError) Error() string { return e.Err.Error() + ": replica " + e.Replica }

// Unwrap returns what kind of ownership it is.
func (e *OwnerError) Unwrap() error { return e.Err }

// ownedElsewhere is the refusal of a claim on what another replica owns.
func ownedElsewhere(scope tenant.Scope, o KV) error {
	var v ownerValue
	_ = json.Unmarshal(o.Value, &v) // one that cannot be read names nobody
	cause := &OwnerError{Replica: v.Replica, Err: ErrOwnedElsewhere}
	return fault.Wrap(fault.Unavailable, cause, "tenant %s is served by another replica", scope).After(retryAdvice)
}

// handedValue is the value of c/handed/<tenant>: what goes along with a hand-off, on the lease of who adopts. It is no part
// of the owner's value, which every replica's watch delivers. What was stored for another lease or tenant is not read.
type handedValue struct {
	V     int     `json:"v"`
	UID   string  `json:"uid"`
	Lease LeaseID `json:"lease"`
	State []byte  `json:"state"`
}

// Handed returns what the former owner gave along with the hand-off, to who claims first after it, and once: it is not
// kept. It is nil where there was no hand-off, or an answer about it got lost.
func (c *Claim) Handed() []byte {
	if state := c.handed.Swap(nil); state != nil {
		return *state
	}
	return nil
}

// readHanded reads what came along with a tenant whose o/ key is on our lease, unless it was read before.
func (s *Store) readHanded(ctx context.Context, ses *session, scope tenant.Scope, into *[]byte) error {
	if *into != nil {
		return nil
	}
	kv, ok, err := s.get(ctx, handedKey(scope.ID()))
	if err != nil || !ok {
		return err
	}
	var v handedValue
	if decode(kv, &v) != nil || v.UID != scope.UID() || v.Lease != ses.lease {
		return nil
	}
	*into = v.State
	return nil
}

// Handoff gives the tenant to another live replica, which takes it up when it next calls Store.Claim, and has state then
// from Claim.Handed: at most MaxHanded bytes, opaque here. It first waits for the commits under way, up to 2 s, so that
// none is refused for it; those that begin meanwhile are told that the claim is lost, and nothing of them was sent. Then
// the claim is lost, with the cause ErrHandedOff within an *OwnerError. It stays where the error is fault.NotFound (there
// is no such replica), fault.Invalid, fault.TooLarge, fault.Conflict (another hand-off of it is under way), or ctx ended in
// time; after other errors its Context tells.
func (c *Claim) Handoff(ctx context.Context, replica string, state []byte) error {
	if replica == c.store.cfg.Replica {
		return fault.New(fault.Invalid, "tenant %s is served by replica %s already", c.scope, replica)
	}
	if len(state) > MaxHanded {
		return fault.New(fault.TooLarge, "a hand-off with %d bytes: at most %d are allowed", len(state), MaxHanded)
	}
	if !c.handing.TryLock() {
		return fault.New(fault.Conflict, "tenant %s is being handed off already", c.scope)
	}
	defer c.handing.Unlock()
	if !c.live() {
		return c.lost()
	}
	n, ok, err := c.store.get(ctx, replicaKey(replica))
	if err != nil {
		return fmt.Errorf("hand %s to %s: %w", c.scope, replica, err)
	}
	if !ok {
		return noReplica(replica)
	}
	defer c.stopCommits(ctx)()
	if err := ctx.Err(); err != nil {
		return fault.From(err)
	}
	return c.handTo(ctx, replica, n, state)
}

// stopCommits takes the lanes, as far as they come free in time; the fence refuses what goes on regardless. It returns
// what gives them back.
func (c *Claim) stopCommits(ctx context.Context) (resume func()) {
	timer := time.NewTimer(handoffPatience)
	defer timer.Stop()
	var taken []*lane
	resume = func() {
		for _, l := range taken {
			c.lanes <- l
		}
	}
	for range laneCount {
		select {
		case l := <-c.lanes:
			taken = append(taken, l)
		case <-timer.C:
			return resume
		case <-c.ctx.Done():
			return resume
		case <-ctx.Done():
			return resume
		}
	}
	return resume
}

// handTo rewrites o/<tenant> onto the lease of the replica whose record n is.
func (c *Claim) handTo(ctx context.Context, replica string, n KV, state []byte) error {
	t, err := c.planHandoff(replica, n, state)
	if err != nil {
		return err
	}
	c.to.Store(&replica) // the watch may see it before the answer is here
	key := ownerKey(c.scope.ID())
	res, err := c.store.commit(context.WithoutCancel(ctx), t)
	stays := err == nil && !res.OK && res.Else[key].ModRevision == c.epoch
	if stays || errors.Is(err, ErrLeaseNotFound) && !errors.Is(err, ErrUnknown) {
		c.to.Store(nil)
		return noReplica(replica)
	}
	if err != nil {
		c.lose(ErrClaimLost)
		return fmt.Errorf("hand %s to %s: %w", c.scope, replica, err)
	}
	if !res.OK && res.Else[key].Lease != n.Lease {
		c.lose(ErrClaimLost)
		return c.lost()
	}
	c.lose(c.endedBy(replica))
	return nil
}

func (c *Claim) planHandoff(replica string, n KV, state []byte) (*Txn, error) {
	val, err := encode(ownerValue{storedVersion, replica})
	if err != nil {
		return nil, err
	}
	key := ownerKey(c.scope.ID())
	t := &Txn{
		If:   []Cmp{{key, ModIs, c.epoch}, {n.Key, CreateIs, n.CreateRevision}},
		Puts: []Put{{key, val, n.Lease}},
		Else: []string{key, n.Key},
	}
	if state == nil {
		t.Deletes = []string{handedKey(c.scope.ID())} // of an earlier hand-off that nobody read
		return t, nil
	}
	along, err := encode(handedValue{storedVersion, c.scope.UID(), n.Lease, state})
	if err != nil {
		return nil, err
	}
	t.Puts = append(t.Puts, Put{handedKey(c.scope.ID()), along, n.Lease})
	return t, nil
}

// endedBy is the cause of the claim's end where the owner is now the one named, "" for nobody.
func (c *Claim) endedBy(owner string) error {
	if to := c.to.Load(); to != nil && *to == owner {
		return &OwnerError{Replica: owner, Err: ErrHandedOff}
	}
	return ErrClaimLost
}

func noReplica(name string) error {
	return fault.New(fault.NotFound, "there is no live replica %s", name)
}
