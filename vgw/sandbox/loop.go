package sandbox

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// awayAfter is how long a cluster may be silent before it is said of each sandbox: a watch that breaks is nothing.
const awayAfter = 15 * time.Second

// nudge has the loop look again. The caller holds mu.
func (m *Manager) nudge() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
	if !m.looping && !m.closed && (len(m.items)+len(m.view.strays) > 0 || m.awake.is) {
		m.looping = true
		m.work.Go(m.loop)
	}
}

// look begins the loop, even where there is nothing: it says so then.
func (m *Manager) look() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.looping && !m.closed {
		m.looping = true
		m.work.Go(m.loop)
	}
}

// loop brings all sandboxes to where they are wanted, and ends when there was nothing to do for a while.
func (m *Manager) loop() {
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	watching := false
	begun := m.cfg.Now()
	var quiet time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if !watching && m.any() {
			watching = true
			m.work.Go(func() { m.watch(ctx) })
		}
		next, todo := m.pass(ctx)
		now := m.cfg.Now()
		switch {
		case todo || watching && m.unseeing(begun, now):
			quiet = time.Time{}
		case quiet.IsZero():
			quiet = now
		}
		if !quiet.IsZero() {
			over := m.over(quiet)
			if !now.Before(over) && m.rest() {
				return
			}
			next = earlier(next, over)
		}
		timer.Reset(wait(next, now))
		select {
		case <-ctx.Done():
		case <-m.kick:
		case <-timer.C:
		}
	}
}

// wait returns how long to wait until a time, a minute at most: clocks are set.
func wait(until, now time.Time) time.Duration {
	if until.IsZero() {
		return time.Minute
	}
	return min(max(until.Sub(now), time.Millisecond), time.Minute)
}

// linger is how long the loop looks on after the last work: a call of unknown outcome may yet make a run.
func (m *Manager) linger() time.Duration { return m.cfg.OrphanGrace + time.Minute }

func (m *Manager) any() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items)+len(m.view.strays) > 0 || m.awake.is
}

// unseeing says whether the loop is to wait until the driver shows what there is. Where runs may be left that no record knows, it waits for
// as long as the cluster is away; else for half a minute.
func (m *Manager) unseeing(begun, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &m.view
	return !v.synced && now.Before(begun.Add(30*time.Second)) || m.awake.is && v.blind(now)
}

// over is when the loop has looked on for long enough, with nothing to do since quiet.
func (m *Manager) over(quiet time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.items)+len(m.recent) == 0 && !m.awake.is {
		return quiet
	}
	end := quiet.Add(m.linger())
	if v := &m.view; m.awake.is && !v.synced && !v.refused { // a watch that just broke is back by then, or the cluster is away
		end = later(end, v.down.Add(awayAfter))
	}
	return end
}

// wakefulness is what Config.Awake was told last, or Config.Worked before. It is written under Manager.changes and mu.
type wakefulness struct{ told, is bool }

// setAwake says whether there is work without requests. While there may be, the loop runs, which takes it back: also if what was to be stored is
// refused. The caller holds changes.
func (m *Manager) setAwake(is bool) {
	m.mu.Lock()
	same := m.awake == wakefulness{true, is}
	m.awake = wakefulness{true, is}
	m.nudge()
	m.mu.Unlock()
	if !same && m.cfg.Awake != nil {
		m.cfg.Awake(is)
	}
}

// rest ends the loop, and says before that there is no work, if that is still so. What comes later begins another loop.
func (m *Manager) rest() bool {
	m.changes.Lock()
	defer m.changes.Unlock()
	if m.hasWork() {
		return false
	}
	m.setAwake(false)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.view.strays) > 0 || m.anyDirty() { // heard of meanwhile
		return false
	}
	m.looping = false
	return true
}

// hasWork says whether there is something to do, or may be.
func (m *Manager) hasWork() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, it := range m.items {
		if it.todo {
			return true
		}
	}
	return len(m.view.strays) > 0 || m.anyDirty()
}

// anyDirty says whether a sandbox is to be looked at. The caller holds mu.
func (m *Manager) anyDirty() bool {
	for _, it := range m.items {
		if it.dirty {
			return true
		}
	}
	return false
}

// pass looks at every sandbox that is to be looked at. It returns when to look next, and whether anything is to be done at all.
func (m *Manager) pass(ctx context.Context) (next time.Time, todo bool) {
	now := m.cfg.Now()
	if off := m.offUntil(); now.Before(off) {
		return off, true
	}
	if off := m.refresh(ctx); now.Before(off) {
		return off, true
	}
	gone := m.goneAway(now)
	for _, id := range m.dueItems(now) {
		if m.step(ctx, id); now.Before(m.offUntil()) {
			break
		}
	}
	next = earlier(gone, m.account(ctx))
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, it := range m.items {
		if it.dirty && m.calls < m.cfg.Calls { // else the end of a call looks again
			next = earlier(next, now)
		}
		next = earlier(next, it.wake)
		todo = todo || it.todo || it.dirty
	}
	next = earlier(next, m.lookAgain(now))
	next = earlier(next, m.reap(ctx, now))
	if now.Before(m.storeOff) {
		next = m.storeOff
	}
	return next, todo || len(m.view.strays) > 0 || !m.visitsAt.IsZero()
}

// refresh reads the records if memory may be behind them: nobody may ask again for what was stored without its asker knowing. It returns when
// to look next if that failed.
func (m *Manager) refresh(ctx context.Context) time.Time {
	m.changes.Lock()
	if m.stale {
		m.storable(m.fresh(ctx))
	}
	m.changes.Unlock()
	return m.offUntil()
}

func (m *Manager) offUntil() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.storeOff
}

// dueItems returns what is to be looked at now.
func (m *Manager) dueItems(now time.Time) (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, it := range m.items {
		if it.dirty || !it.wake.IsZero() && !now.Before(it.wake) {
			ids = append(ids, id)
		}
	}
	return ids
}

// goneAway has all sandboxes looked at once the cluster has been silent for long enough to say so. It returns when that is.
func (m *Manager) goneAway(now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &m.view
	if v.down.IsZero() || v.said {
		return time.Time{}
	}
	if at := v.down.Add(awayAfter); now.Before(at) {
		return at
	}
	v.said = true
	for _, it := range m.items {
		it.dirty = true
	}
	return time.Time{}
}

// step takes a sandbox one step on: it stores what changes, and then does what the stored state asks for.
func (m *Manager) step(ctx context.Context, id string) {
	m.changes.Lock()
	acts, ok := m.stepped(ctx, id)
	m.changes.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if ok {
		m.carryOut(id, acts)
	} else if it := m.items[id]; it != nil {
		it.dirty = true
	}
}

// stepped stores a step. ok is false if that failed: then nothing is done. The caller holds changes.
func (m *Manager) stepped(ctx context.Context, id string) (acts []Act, ok bool) {
	if err := m.fresh(ctx); err != nil {
		return nil, m.storable(err)
	}
	now := m.cfg.Now().UTC()
	stored, base, seen := m.facts(id, now)
	if stored == nil {
		return nil, false
	}
	next, acts := Step(base, seen, now, m.cfg.Pace)
	if !next.AtRest() || len(acts) > 0 {
		m.setAwake(true)
	}
	if next != base || base.sinceFacts(stored) {
		if _, err := m.store(next, m.commit(ctx, next.Name), nil); !m.storable(err) {
			return nil, false
		}
	}
	for _, a := range acts {
		switch a.Kind {
		case ActBegin:
			_, err := m.store(next, m.commit(ctx, next.Name), m.begun)
			return nil, m.storable(err)
		case ActForget:
			return nil, m.storable(m.forget(ctx, next))
		}
	}
	return acts, true
}

// storable keeps the loop from a store that fails, for longer and longer.
func (m *Manager) storable(err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		m.storeOff, m.storeBad = time.Time{}, 0
		return true
	}
	if m.ctx.Err() == nil {
		m.cfg.Logger.Warn("a sandbox's state could not be stored", "tenant", m.tenant.Scope.ID(), "error", err)
	}
	m.storeBad++
	m.storeOff = m.cfg.Now().Add(backoff(m.cfg.Pace, m.storeBad))
	return false
}

// backoff is the pause after so many failures.
func backoff(p Pace, tries int) time.Duration {
	d := p.Retry
	for i := 1; i < tries && d < p.RetryMost; i++ {
		d *= 2
	}
	return min(d, p.RetryMost)
}

// facts returns what is known of a sandbox: as it is stored, with what came of the driver's calls, and what is seen of its run.
func (m *Manager) facts(id string, now time.Time) (stored, base *Sandbox, seen *Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.items[id]
	if it == nil {
		return nil, nil, nil
	}
	it.dirty, it.wake = false, time.Time{}
	s := *it.s
	if it.sessions > 0 {
		it.used = now
	}
	s.Used = later(s.Used, it.used)
	base = &s
	if it.uid != "" {
		base = Made(base, it.uid, now)
	}
	if it.err != nil {
		base, it.err = Failure(base, it.erred, it.err, now), nil
	}
	switch {
	case m.view.synced && it.tries == 0:
		base = Reached(base, now)
	case !m.view.down.IsZero() && now.Sub(m.view.down) >= awayAfter:
		base = Away(base, now)
	}
	return it.s, base, it.seen
}

// sinceFacts says whether s differs from what is stored in more than in Used, which is stored with the next change.
func (s *Sandbox) sinceFacts(stored *Sandbox) bool {
	return s.State != stored.State || s.Run != stored.Run || !sameConditions(s.Conditions, stored.Conditions)
}

func sameConditions(a, b []Condition) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Type != b[i].Type || a[i].Status != b[i].Status || a[i].Reason != b[i].Reason {
			return false
		}
	}
	return true
}

func (m *Manager) scope() tenant.Scope {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tenant.Scope
}
