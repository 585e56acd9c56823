package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// restoredKey is there for restoredTime after the end of a restore, on a lease: members of an embedded cluster that were lent to
// it, and could not listen in time, find it. It begins with restoreKey, so that one range and one watch have both.
const restoredKey = restoreKey + "d"

// Times of waiting for a restore, or before one.
const (
	restoredTime = 30 * time.Second
	restorePoll  = 250 * time.Millisecond // before what was broken off, or not there yet, is looked at again
)

// AwaitRestored returns when a restore that another process carries out comes to its end, from now on or in the last seconds. It
// is for the other members of an embedded cluster, of which a majority has to run while one restores. While there is none, it
// tries again until ctx ends.
func (s *Store) AwaitRestored(ctx context.Context) error {
	var l restoreListener
	for ctx.Err() == nil {
		ended, err := l.look(ctx, s)
		if err == nil && !ended {
			ended, err = l.listen(ctx, s)
		}
		switch {
		case ended:
			return nil
		case err != nil && !retryable(err):
			return fmt.Errorf("look for a restore: %w", err)
		}
		pause(ctx, restorePoll)
	}
	return fault.From(ctx.Err())
}

// restoreListener hears of the end of a restore.
type restoreListener struct {
	from int64 // the revision that is watched from; 0 = nothing was read yet
	seen bool  // a restore was under way
}

// look reads how it is now: after a watch broke off, the end may have been missed.
func (l *restoreListener) look(ctx context.Context, s *Store) (ended bool, err error) {
	res, err := s.read(ctx, Range{Prefix: restoreKey})
	if err != nil {
		return false, err
	}
	under := false
	for _, kv := range res.KVs {
		under = under || kv.Key == restoreKey
		ended = ended || kv.Key == restoredKey
	}
	ended = ended || l.seen && !under
	l.seen = under
	if l.from == 0 {
		l.from = res.Revision + 1
	}
	return ended, nil
}

// listen watches until the end is heard, or the watch breaks off.
func (l *restoreListener) listen(ctx context.Context, s *Store) (ended bool, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = s.backend.Watch(ctx, l.from, []string{restoreKey}, func(b Batch) {
		for _, e := range b.Events {
			if e.Delete && e.KV.Key == restoreKey {
				ended = true
				stop()
			}
		}
	})
	if errors.Is(err, ErrCompacted) {
		l.from = 0 // the next look says where history begins
	}
	return ended, nil // what broke the watch off breaks the next look off too, unless it has passed
}

// nobodyLive returns when no replica is live. A crashed one is for as long as its lease lasts.
func (re *restore) nobodyLive(ctx context.Context) error {
	var until time.Time
	for {
		var name string
		err := re.patiently(ctx, func() (err error) {
			name, err = re.live(ctx)
			return err
		})
		if err != nil || name == "" {
			return err
		}
		if until.IsZero() {
			until = time.Now().Add(re.opt.Patience) // from the first answer: before it, no lease can have ended
		}
		if !time.Now().Before(until) {
			return fault.New(fault.Conflict, "replica %s is live: stop all replicas first, and wait for their leases to end after a crash", name)
		}
		re.opt.Waiting(name)
		pause(ctx, restorePoll)
	}
}

// live returns the name of a replica that is live; "" = there is none.
func (re *restore) live(ctx context.Context) (string, error) {
	res, err := re.store.read(ctx, Range{Prefix: prefixReplica, Limit: 1})
	if err != nil || len(res.KVs) == 0 {
		return "", err
	}
	return res.KVs[0].Key[len(prefixReplica):], nil
}

// patiently calls f, which may be done twice, until the store answers.
func (re *restore) patiently(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || re.opt.Patience == 0 || !retryable(err) {
			return err
		}
		if ctx.Err() != nil {
			return fault.From(ctx.Err())
		}
		re.opt.Waiting("")
		pause(ctx, restorePoll)
	}
}
