package registry

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// leastSilence is how long a watch may be silent at least: word of progress comes every ProgressEvery, and is late where
// the processor is busy.
const leastSilence = 5 * ProgressEvery

// freshness is what Fresh needs, in nanoseconds since a moment of the monotonic clock; 0 = never. It is kept beside the
// session and the follower, so that asking takes no lock.
type freshness struct {
	base  time.Time    // when the store was made
	lease atomic.Int64 // until when the store keeps our lease at least, or when the session was lost, if that is earlier
	heard atomic.Int64 // when the most silent of the watches last delivered
}

func (f *freshness) init() { f.base = time.Now() }

// at is never 0, which would mean never.
func (f *freshness) at(t time.Time) int64 { return max(1, int64(t.Sub(f.base))) }

// renewed records that the lease lasts until a moment, less what the session ends before it.
func (f *freshness) renewed(until time.Time) { f.lease.Store(f.at(until)) }

// lost records that a session ended, with so much of its lease left at most.
func (f *freshness) lost(margin time.Duration) {
	f.lease.Store(min(f.lease.Load(), f.at(time.Now().Add(margin))))
}

// Fresh returns nil while what this replica has in memory can be acted on: its session is live, or its lease would have
// run out no longer than grace ago; and the watch was heard of within a TTL (at least 5 s) and grace. Otherwise it returns
// a fault.Unavailable: suspensions and revocations may have been missed. It asks nobody and takes no lock, so that every
// request can be asked about. A claim has its own context, which ends before.
func (s *Store) Fresh(grace time.Duration) error {
	now := s.fresh.at(time.Now())
	lease, heard := s.fresh.lease.Load(), s.fresh.heard.Load()
	silence := int64(max(s.cfg.TTL, leastSilence))
	switch {
	case lease == 0 || heard == 0:
		return fault.New(fault.Unavailable, "the replica has not had its first session with the registry yet").After(retryAdvice)
	case now > lease+int64(grace):
		return s.stale("has had no session with the registry", now-lease+int64(s.cfg.TTL))
	case now > heard+silence+int64(grace):
		return s.stale("has heard nothing of the registry", now-heard)
	}
	return nil
}

func (s *Store) stale(what string, since int64) error {
	return fault.New(fault.Unavailable, "the replica %s for %v: what was suspended or revoked meanwhile is not known; look at the replica's log and at etcd",
		what, time.Duration(since).Round(100*time.Millisecond)).After(retryAdvice)
}

// AwaitRecords returns once every change of routing records up to revision is in the index, after a bounded time, or when ctx ends.
func (s *Store) AwaitRecords(ctx context.Context, revision int64) {
	if s.follow.seenUpTo(prefixRecord) < revision {
		s.follow.await(ctx, prefixRecord, revision)
	}
}
