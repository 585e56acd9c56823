package sandbox

import (
	"context"
	"time"
)

const reapAgain = 30 * time.Second

// reap has runs removed that no record knows: the driver made them after all, when nobody waited for it any more. It returns when to
// look next. The caller holds mu.
func (m *Manager) reap(ctx context.Context, now time.Time) (next time.Time) {
	for key, s := range m.view.strays {
		at := later(s.since.Add(m.cfg.OrphanGrace), s.retry)
		switch {
		case s.busy:
		case now.Before(at):
			next = earlier(next, at)
		case m.calls < m.cfg.Calls:
			s.busy = true
			m.calls++
			m.work.Go(func() { m.reapOne(ctx, key, s.o) })
		}
	}
	return next
}

// reapOne removes a stray, if the store does not know it either and the claim still holds.
func (m *Manager) reapOne(ctx context.Context, key string, o Observation) {
	known, err := m.condemn(ctx, o)
	if err == nil && !known {
		err = m.removeStray(ctx, o)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.nudge()
	m.calls--
	m.feed()
	s := m.view.strays[key]
	switch {
	case s == nil:
	case known:
		delete(m.view.strays, key)
	default:
		s.busy, s.retry = false, m.cfg.Now().Add(reapAgain)
	}
	if err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("a run that no record knows could not be removed", "tenant", m.tenant.Scope.ID(), "sandbox", o.Sandbox, "uid", o.UID, "error", err)
	}
}

// condemn looks a stray up in the store as it is now, and records that it is removed: a transaction under the claim, so that a replica which
// lost the tenant cannot take the new owner's runs for strays.
func (m *Manager) condemn(ctx context.Context, o Observation) (known bool, err error) {
	m.changes.Lock()
	defer m.changes.Unlock()
	stored, err := m.load(ctx)
	if err != nil {
		return false, err
	}
	if s := stored[o.Sandbox]; s != nil && s.Run.Nonce == o.Nonce {
		m.stale = true
		return true, nil
	}
	m.setAwake(true)
	return false, m.commit(ctx, o.Sandbox)()
}

func (m *Manager) removeStray(ctx context.Context, o Observation) error {
	m.mu.Lock()
	driver := m.driver.take()
	m.mu.Unlock()
	if driver == nil {
		return nil
	}
	defer driver.giveBack()
	ctx, cancel := context.WithTimeout(ctx, callIn)
	defer cancel()
	t := Task{Sandbox: o.Sandbox, Nonce: o.Nonce, UID: o.UID}
	if err := gone(driver.Remove(ctx, t, m.cfg.Pace.Grace)); err != nil {
		return err
	}
	if o.Phase != PhaseEnded {
		return nil
	}
	return gone(driver.Release(ctx, t))
}
