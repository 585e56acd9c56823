package registry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// session is the life of one lease. It ends by this process's own clock, before the store lets the lease expire: the
// time counts from when the last successful renewal was sent, less a margin for the work in flight to stop (X45).
type session struct {
	lease  LeaseID
	ttl    time.Duration
	ctx    context.Context // ends with the session; claims' contexts descend from it
	cancel context.CancelCauseFunc
	fresh  *freshness // told of the deadline

	said said // what n/<self> says; used by the holder of announcer.turn

	mu       sync.Mutex // guards deadline and timer
	deadline time.Time
	timer    *time.Timer
}

// margin is how long before the lease's expiry the session ends.
func margin(ttl time.Duration) time.Duration { return ttl / 5 }

func newSession(lease LeaseID, ttl time.Duration, sent time.Time, fresh *freshness) *session {
	ctx, cancel := context.WithCancelCause(context.Background())
	ses := &session{lease: lease, ttl: ttl, ctx: ctx, cancel: cancel, fresh: fresh, deadline: sent.Add(ttl - margin(ttl))}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	// A timer of its own, since a renewal may hang past every deadline that it was given.
	ses.timer = time.AfterFunc(time.Until(ses.deadline), ses.expire)
	ses.fresh.renewed(sent.Add(ttl))
	return ses
}

// live says whether the session is not over, by the clock and not by whether a timer has had its turn: after the process
// was stopped for a while, timers run late (X44).
func (ses *session) live() bool {
	if ses.ctx.Err() != nil {
		return false
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return time.Now().Before(ses.deadline)
}

// extend moves the deadline after a renewal that was sent at sent. It reports false if the session is over.
func (ses *session) extend(sent time.Time) bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.ctx.Err() != nil || !time.Now().Before(ses.deadline) {
		return false
	}
	ses.deadline = sent.Add(ses.ttl - margin(ses.ttl))
	ses.timer.Reset(time.Until(ses.deadline))
	ses.fresh.renewed(sent.Add(ses.ttl))
	return true
}

// expire is the timer's function; a renewal may have moved the deadline while it was about to run.
func (ses *session) expire() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if left := time.Until(ses.deadline); left > 0 {
		ses.timer.Reset(left)
		return
	}
	ses.cancel(ErrSessionLost)
}

func (ses *session) end(cause error) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.timer.Stop()
	ses.cancel(cause)
}

// cause says why the session is over.
func (ses *session) cause() error { return context.Cause(ses.ctx) }

func (ses *session) until() time.Duration {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return time.Until(ses.deadline)
}

// runSessions keeps a session until ctx ends: when one is lost, the next is set up as soon as the store answers.
func (s *Store) runSessions(ctx context.Context) {
	var last LeaseID
	for ctx.Err() == nil {
		ses, err := s.openSession(ctx, last)
		if err != nil {
			s.setTrouble(err)
			pause(ctx, s.cfg.TTL/10)
			continue
		}
		last = ses.lease
		s.session.Store(ses)
		s.announce.poke()
		s.checkReady()
		s.log.Info("registry: session begun", "replica", s.cfg.Replica, "lease", int64(ses.lease))
		err = s.keepSession(ctx, ses)
		s.closeSession(ctx, ses, err)
	}
}

func (s *Store) setTrouble(err error) {
	why := err.Error()
	if f := fault.From(err); f.Detail != "" {
		why = f.Detail
	}
	if old := s.trouble.Swap(&why); old == nil || *old != why {
		s.log.Warn("registry: no session yet", "error", err)
	}
}

// openSession grants a lease and registers the replica on it. last is this process's earlier lease, which ends here if
// the store still has it: its claims ended when its session did. It takes no longer than a lease lasts: what a member of etcd
// that froze does not answer, the next attempt asks of another.
func (s *Store) openSession(ctx context.Context, last LeaseID) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, min(opTimeout, s.cfg.TTL))
	defer cancel()
	if err := s.clearWay(ctx, last); err != nil {
		return nil, err
	}
	sent := time.Now()
	lease, granted, err := s.backend.Grant(ctx, s.cfg.TTL)
	if err != nil {
		return nil, err
	}
	first, err := s.register(ctx, lease)
	if err != nil {
		s.revoke(ctx, lease)
		return nil, err
	}
	ses := newSession(lease, min(granted, s.cfg.TTL), sent, &s.fresh)
	ses.said = first
	if !ses.live() {
		ses.end(ErrSessionLost)
		s.revoke(ctx, lease)
		return nil, fault.New(fault.Unavailable, "the registry took longer than the lease lasts")
	}
	return ses, nil
}

// clearWay ends what holds our place: our own earlier lease, and with TakeOver that of whoever had our name before.
func (s *Store) clearWay(ctx context.Context, last LeaseID) error {
	if last != 0 {
		if err := s.backend.Revoke(ctx, last); err != nil {
			return err
		}
	}
	kv, ok, err := s.get(ctx, replicaKey(s.cfg.Replica))
	if err != nil || !ok {
		return err
	}
	// Only at the first session: a record that turns up later is of a process that lives.
	if s.cfg.TakeOver && last == 0 {
		s.log.Info("registry: ending the session of this replica's earlier process", "replica", s.cfg.Replica, "lease", int64(kv.Lease))
		return s.backend.Revoke(ctx, kv.Lease)
	}
	return fault.New(fault.Unavailable, "another process is registered as replica %s: if it is dead, its lease ends by itself; if not, give each replica its own name", s.cfg.Replica)
}

func (s *Store) register(ctx context.Context, lease LeaseID) (said, error) {
	r := s.self(lease)
	val, err := encode(r)
	if err != nil {
		return said{}, err
	}
	key := replicaKey(s.cfg.Replica)
	res, err := s.backend.Txn(ctx, &Txn{If: []Cmp{{Key: key, Kind: Absent}}, Puts: []Put{{key, val, lease}}})
	if err != nil {
		return said{}, err
	}
	if !res.OK {
		return said{}, fault.New(fault.Unavailable, "another process registered as replica %s at the same time", s.cfg.Replica)
	}
	return said{record: r, mod: res.Revision}, nil
}

// keepSession renews the lease until the session is over, and says why it is.
func (s *Store) keepSession(ctx context.Context, ses *session) error {
	every, retry := ses.ttl/4, ses.ttl/20
	wait := every
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-ses.ctx.Done():
			timer.Stop()
			return ses.cause()
		case <-timer.C:
		}
		err := s.renew(ctx, ses, every)
		if errors.Is(err, ErrLeaseNotFound) {
			return err
		}
		wait = every
		if err != nil {
			s.log.Warn("registry: the lease was not renewed", "error", err, "left", ses.until().String())
			wait = retry
		}
	}
}

// renew tries once, with a bound of its own: the next try may find a better connection.
func (s *Store) renew(ctx context.Context, ses *session, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	sent := time.Now()
	if _, err := s.backend.KeepAlive(ctx, ses.lease); err != nil {
		return err
	}
	ses.extend(sent) // if it came too late, the session's context says so
	return nil
}

// closeSession ends a session and all its claims. When the replica stops, it gives its lease back, so that others take
// over at once; after a lost session the next openSession does that.
func (s *Store) closeSession(ctx context.Context, ses *session, why error) {
	s.session.CompareAndSwap(ses, nil)
	ses.end(ErrSessionLost)
	s.fresh.lost(margin(ses.ttl))
	s.claims.sessionOver(ses)
	if ctx.Err() == nil {
		s.setTrouble(why)
		s.log.Warn("registry: session lost", "replica", s.cfg.Replica, "lease", int64(ses.lease), "error", why)
		return
	}
	s.revoke(ctx, ses.lease)
}

// revoke ends a lease even if ctx has ended.
func (s *Store) revoke(ctx context.Context, lease LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := s.backend.Revoke(ctx, lease); err != nil {
		s.log.Warn("registry: the lease was not revoked; it ends by itself", "lease", int64(lease), "error", err)
	}
}
