package sandbox

import (
	"context"
	"errors"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// view is what the driver shows. It is guarded by Manager.mu.
type view struct {
	number  uint64             // of the watch; each begins with a look at everything
	synced  bool               // that look is over
	down    time.Time          // since when no watch has shown everything; zero = one has
	said    bool               // the sandboxes were looked at since then
	refused bool               // the cluster answered the last watch, and would not have it
	restart context.CancelFunc // ends the watch, to begin another
	renewed time.Time          // when it was last restarted for want of knowledge
	fresh   map[string]bool    // nonces that this watch has shown
	strays  map[string]*stray  // runs that no record knows, by nonce and UID
}

// stray is a run that no record knows.
type stray struct {
	o      Observation
	since  time.Time // when it was first seen so
	number uint64    // the watch that showed it last
	busy   bool
	retry  time.Time
}

func strayKey(o *Observation) string { return o.Nonce + "/" + o.UID }

// leave keeps in mind what was last seen of a run whose record is about to go.
func (v *view) leave(it *item, now time.Time) {
	if o := it.seen; o != nil && o.Phase != PhaseAbsent {
		v.stray(*o, now)
	}
}

func (v *view) stray(o Observation, now time.Time) {
	if v.strays == nil {
		v.strays = map[string]*stray{}
	}
	k := strayKey(&o)
	if v.strays[k] == nil {
		v.strays[k] = &stray{since: now}
	}
	v.strays[k].o, v.strays[k].number = o, v.number
}

// blind says whether nobody can tell what runs: the cluster is away. A watch that just broke is nothing. What answers and refuses is not away:
// such as a place that is not there, or that the gateway has no right to look into.
func (v *view) blind(now time.Time) bool {
	if v.synced || v.refused {
		return false
	}
	return v.down.IsZero() || !now.Before(v.down.Add(awayAfter))
}

// refusal says whether an error is a cluster's that answers.
func refusal(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Kind != fault.Internal && f.Kind != fault.UpstreamTimeout && !errors.Is(err, ErrUnreachable)
}

// watch watches the driver until ctx ends.
func (m *Manager) watch(ctx context.Context) {
	pause := time.Duration(0)
	for ctx.Err() == nil {
		synced, again, err := m.watchOnce(ctx)
		if again {
			continue
		}
		if synced {
			pause = 0
		}
		if pause = min(max(2*pause, m.cfg.Pace.Retry), m.cfg.Pace.RetryMost); ctx.Err() == nil {
			m.cfg.Logger.WarnContext(ctx, "the watch of sandboxes broke", "tenant", m.scope().ID(), "error", err, "again_in", pause)
		}
		sleep(ctx, pause)
	}
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watchOnce watches until the watch breaks. again says that it was broken off to begin anew.
func (m *Manager) watchOnce(loop context.Context) (synced, again bool, err error) {
	ctx, cancel := context.WithCancelCause(loop)
	defer cancel(nil)
	m.mu.Lock()
	v := &m.view
	v.number++
	v.synced, v.fresh = false, map[string]bool{}
	v.restart = func() { cancel(errAgain) }
	number := v.number
	driver := m.driver.take()
	m.mu.Unlock()
	if driver == nil {
		return false, false, errors.New("the driver is closed")
	}
	defer driver.giveBack()
	err = driver.Watch(ctx, func(o Observation) { m.saw(number, o) }, func() { m.synced(number) })
	m.mu.Lock()
	defer m.mu.Unlock()
	if v.number != number { // another loop watches already
		return false, false, err
	}
	synced, v.synced, v.restart = v.synced, false, nil
	v.refused = refusal(err)
	again = context.Cause(ctx) == errAgain //nolint:errorlint // ours, and never wrapped
	switch {
	case loop.Err() != nil: // it has ended, since there was nothing to do: nothing is known, and nothing is wrong
		v.down, v.said, v.refused = time.Time{}, false, false
	case v.down.IsZero() && !again:
		v.down = m.cfg.Now()
		m.nudge()
	}
	return synced, again, err
}

var errAgain = errors.New("the watch begins anew")

// saw is told what the driver sees of a run.
func (m *Manager) saw(number uint64, o Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number != m.view.number {
		return
	}
	it := m.items[o.Sandbox]
	switch {
	case it == nil || it.s.Run.Nonce != o.Nonce:
		if o.Phase == PhaseAbsent {
			delete(m.view.strays, strayKey(&o))
			m.view.forgetStray(&o)
		} else {
			m.view.stray(o, m.cfg.Now())
		}
		m.nudge()
	case it.knownUID() != "" && o.UID != "" && it.knownUID() != o.UID:
		// somebody else's of the same name: never touched
	case o.Phase == PhaseAbsent && it.knownUID() == "" && it.busy:
		// the call under way may make it yet
	default:
		it.seen, it.dirty = &o, true
		m.view.fresh[o.Nonce] = o.Phase != PhaseAbsent
		m.nudge()
	}
}

// forgetStray forgets strays of which the driver told no UID when they went.
func (v *view) forgetStray(o *Observation) {
	for k, s := range v.strays {
		if s.o.Nonce == o.Nonce && (o.UID == "" || s.o.UID == "") {
			delete(v.strays, k)
		}
	}
}

func (it *item) knownUID() string {
	if it.uid != "" {
		return it.uid
	}
	return it.s.Run.UID
}

// synced is told that all was shown. A run that was not shown is absent, if no call that could have made it ended after the watch began.
func (m *Manager) synced(number uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &m.view
	if number != v.number {
		return
	}
	v.synced, v.down, v.said, v.refused = true, time.Time{}, false, false
	for _, it := range m.items {
		it.dirty = true
		if n := it.s.Run.Nonce; n != "" && !v.fresh[n] && !it.busy && it.after < number {
			it.seen = &Observation{Sandbox: it.s.ID, Nonce: n, UID: it.s.Run.UID, Phase: PhaseAbsent, Reason: lastReason(it.seen)}
		}
	}
	for k, s := range v.strays {
		if s.number < number {
			delete(v.strays, k)
		}
	}
	m.nudge()
}

// lastReason keeps why a run was on its way out, such as a node that was lost, for when it is gone.
func lastReason(o *Observation) string {
	if o != nil && (o.Deleting || o.Phase == PhaseStopping) {
		return o.Reason
	}
	return ""
}

// lookAgain has the watch begin anew if something was done of which nothing is seen: a run that was removed before it was ever shown
// is never told of. The caller holds mu.
func (m *Manager) lookAgain(now time.Time) (wake time.Time) {
	const after, every = 5 * time.Second, 10 * time.Second
	v := &m.view
	if !v.synced || v.restart == nil {
		return time.Time{}
	}
	for _, it := range m.items {
		if it.seen != nil || it.busy || it.s.Run.Nonce == "" || it.after < v.number || it.s.AtRest() || it.when.IsZero() {
			continue
		}
		at := later(it.when.Add(after), v.renewed.Add(every))
		if now.Before(at) {
			wake = earlier(wake, at)
			continue
		}
		v.renewed = now
		v.restart()
		return time.Time{}
	}
	return wake
}

// earlier returns the earlier of two times; a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
