package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// Bounds of locks.
const (
	lockPoll  = 250 * time.Millisecond // at most between two looks at a lock that is held
	sweepTick = time.Second            // between two attempts to remove a lock that nobody holds
	// An attempt of which nobody knows may still arrive, as long as the client's, etcd's and an election's patience together.
	lockLinger = 20 * time.Second
)

// lockValue is the value of c/lock/<name>.
type lockValue struct {
	V       int    `json:"v"`
	Replica string `json:"replica"`
	Holding string `json:"holding"` // tells one attempt to take it from another, for one whose answer got lost
}

// lockTable is what this replica knows of its locks.
type lockTable struct {
	mu      sync.Mutex // guards what follows
	lease   LeaseID    // of the session in which held were taken
	held    map[string]int64
	orphans []orphan
	wake    chan struct{} // buffered 1: there are orphans
}

// orphan is a lock whose taking or giving back was not answered. While its key is there nobody can take it, as long as
// this replica's session lasts, so it must go.
type orphan struct {
	name    string
	lease   LeaseID   // on which the key hangs, if it is there
	rev     int64     // of the key; 0 = not known
	holding string    // where rev is not known
	until   time.Time // where rev is not known: so long the key may still turn up
}

func (lt *lockTable) init() { lt.held, lt.wake = make(map[string]int64), make(chan struct{}, 1) }

// has says whether this replica holds a lock, as far as it knows.
func (lt *lockTable) has(lease LeaseID, name string) bool {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return lt.lease == lease && lt.held[name] != 0
}

func (lt *lockTable) hold(lease LeaseID, name string, rev int64) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.lease != lease {
		lt.lease = lease
		clear(lt.held) // lost with their session
	}
	lt.held[name] = rev
}

func (lt *lockTable) release(l vault.Lock) {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if lt.held[l.Name] == l.Revision {
		delete(lt.held, l.Name)
	}
}

func (lt *lockTable) abandon(o orphan) {
	lt.mu.Lock()
	lt.orphans = append(lt.orphans, o)
	lt.mu.Unlock()
	select {
	case lt.wake <- struct{}{}:
	default:
	}
}

// takeOrphans empties the list.
func (lt *lockTable) takeOrphans() []orphan {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	list := lt.orphans
	lt.orphans = nil
	return list
}

// TryLock takes a lock if nobody has it; false if somebody has, be it this replica. The lock hangs on the replica's lease:
// it is lost with the session, and a replica that was stopped for longer than its lease lasts has lost it without knowing:
// so name it in Batch.Fences of whatever is done under it. The errors are fault.Invalid and fault.Unavailable.
func (v *Vault) TryLock(ctx context.Context, name string) (vault.Lock, bool, error) {
	if !segmentsOK(name, maxLockName) {
		return vault.Lock{}, false, fault.New(fault.Invalid, "%q cannot name a lock", name)
	}
	if err := ctx.Err(); err != nil {
		return vault.Lock{}, false, fault.From(err)
	}
	ses := v.store.session.Load()
	if ses == nil || !ses.live() {
		return vault.Lock{}, false, v.store.noSession()
	}
	if v.locks.has(ses.lease, name) {
		return vault.Lock{}, false, nil
	}
	// A look is cheap; a transaction that is refused costs the store as much as one that is not.
	if _, taken, err := v.store.get(ctx, lockKey(name)); err != nil || taken {
		return vault.Lock{}, false, lockErr(name, err)
	}
	l, ok, err := v.take(ctx, ses, name)
	return l, ok, lockErr(name, err)
}

// Locked says whether anybody holds a lock, which may have changed when it returns.
func (v *Vault) Locked(ctx context.Context, name string) (bool, error) {
	if !segmentsOK(name, maxLockName) {
		return false, fault.New(fault.Invalid, "%q cannot name a lock", name)
	}
	_, ok, err := v.store.get(ctx, lockKey(name))
	if err != nil {
		return false, fmt.Errorf("look at the lock %s: %w", name, err)
	}
	return ok, nil
}

func lockErr(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("take the lock %s: %w", name, err)
}

func (v *Vault) take(ctx context.Context, ses *session, name string) (vault.Lock, bool, error) {
	key, holding := lockKey(name), uuid.NewString()
	val, err := encode(lockValue{storedVersion, v.store.cfg.Replica, holding})
	if err != nil {
		return vault.Lock{}, false, err
	}
	t := new(Txn)
	t.putAbsent(Put{Key: key, Value: val, Lease: ses.lease})
	res, err := v.store.commit(context.WithoutCancel(ctx), t)
	lost := orphan{name: name, lease: ses.lease, holding: holding, until: time.Now().Add(lockLinger)}
	switch {
	case errors.Is(err, ErrUnknown):
		v.locks.abandon(lost)
		return vault.Lock{}, false, err
	case errors.Is(err, ErrLeaseNotFound):
		return vault.Lock{}, false, fault.Wrap(fault.Unavailable, err, "the replica's session is over").After(retryAdvice)
	case err != nil:
		return vault.Lock{}, false, err
	}
	rev := res.Revision
	if kv := res.Else[key]; !res.OK {
		if !isHolding(kv, holding) {
			if res.attempts > 1 {
				v.locks.abandon(lost) // the first may still arrive when the other one has gone
			}
			return vault.Lock{}, false, nil
		}
		rev = kv.ModRevision // an earlier attempt was applied
	}
	v.locks.hold(ses.lease, name, rev)
	return vault.Lock{Name: name, Revision: rev}, true, nil
}

func isHolding(kv KV, holding string) bool {
	var l lockValue
	return json.Unmarshal(kv.Value, &l) == nil && l.Holding == holding
}

// Lock takes a lock, and waits for it until ctx ends, also while the store cannot be reached. It returns at once where the
// store refuses, as it does when it is full.
func (v *Vault) Lock(ctx context.Context, name string) (vault.Lock, error) {
	for {
		l, ok, err := v.TryLock(ctx, name)
		if ok {
			return l, nil
		}
		if err != nil && !fault.Is(err, fault.Unavailable) && ctx.Err() == nil || errors.Is(err, ErrRejected) {
			return vault.Lock{}, err
		}
		pause(ctx, lockPoll/5+rand.N(lockPoll*4/5)) //nolint:gosec // not a secret
		if ctx.Err() != nil {
			return vault.Lock{}, fmt.Errorf("wait for the lock %s: %w", name, errors.Join(fault.From(ctx.Err()), err))
		}
	}
}

// Unlock gives a lock back. That it was lost before is no error. After an error it is given back as soon as the store
// answers again, or goes with the session.
func (v *Vault) Unlock(ctx context.Context, l vault.Lock) error {
	if l.Revision == 0 {
		return nil
	}
	v.locks.release(l)
	ses := v.store.session.Load()
	key := lockKey(l.Name)
	t := &Txn{If: []Cmp{{key, ModIs, l.Revision}}, Deletes: []string{key}}
	if _, err := v.store.commit(context.WithoutCancel(ctx), t); err != nil {
		if ses != nil { // without, it goes with the lease
			v.locks.abandon(orphan{name: l.Name, lease: ses.lease, rev: l.Revision})
		}
		return fmt.Errorf("give back the lock %s: %w", l.Name, err)
	}
	return nil // if the comparison failed, it was not ours any more
}

// sweepLocks removes the keys of locks that nobody holds, until ctx ends; then they go with the lease.
func (v *Vault) sweepLocks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.locks.wake:
		}
		pause(ctx, sweepTick)
		for _, o := range v.locks.takeOrphans() {
			if ctx.Err() == nil && !v.sweepLock(ctx, o) {
				v.locks.abandon(o)
			}
		}
	}
}

// sweepLock reports whether a key of a lock is gone for good.
func (v *Vault) sweepLock(ctx context.Context, o orphan) bool {
	if ses := v.store.session.Load(); ses != nil && ses.lease != o.lease {
		return true // with the session that had it, and what arrives late finds no lease to hang on
	}
	rev := o.rev
	if rev == 0 {
		kv, found, err := v.store.get(ctx, lockKey(o.name))
		if err != nil {
			return false
		}
		if !found || !isHolding(kv, o.holding) {
			return time.Now().After(o.until)
		}
		rev = kv.ModRevision
	}
	t := &Txn{If: []Cmp{{lockKey(o.name), ModIs, rev}}, Deletes: []string{lockKey(o.name)}}
	_, err := v.store.commit(ctx, t)
	return err == nil
}
