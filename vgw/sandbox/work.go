package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// callIn bounds a call of the driver, which has its own, smaller bounds.
const callIn = 2 * time.Minute

// lent is a driver that is closed when nobody uses it any more.
type lent struct {
	Driver

	mu   sync.Mutex
	uses int  // guarded by mu
	over bool // guarded by mu
}

func lend(d Driver) *lent { return &lent{Driver: d} }

// take returns l for a use, which giveBack ends; nil if the driver is closed.
func (l *lent) take() *lent {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	l.uses++
	return l
}

func (l *lent) giveBack() {
	l.mu.Lock()
	l.uses--
	last := l.over && l.uses == 0
	l.mu.Unlock()
	if last {
		l.Close()
	}
}

// giveUp closes the driver once its last use has ended.
func (l *lent) giveUp() {
	l.mu.Lock()
	last := !l.over && l.uses == 0
	l.over = true
	l.mu.Unlock()
	if last {
		l.Close()
	}
}

// carryOut does what a stored state asks for. One call of the driver at a time is made for a sandbox. The caller holds mu.
func (m *Manager) carryOut(id string, acts []Act) {
	it := m.items[id]
	if it == nil {
		return
	}
	// What waits to be begun or forgotten asks for nothing while nobody can tell what is left of its run, and is something to do.
	it.todo, it.starved = !it.s.AtRest() || len(acts) > 0, false
	called := false
	for _, a := range acts {
		if a.Kind == ActWait {
			it.wake = earlier(it.wake, a.Until)
		} else if !called {
			m.begin(it, a)
			called = true
		}
	}
}

// begin calls the driver, unless it is too early or too much. The caller holds mu.
func (m *Manager) begin(it *item, a Act) {
	if it.busy {
		return
	}
	if at := later(it.retry, it.again(a)); m.cfg.Now().Before(at) {
		it.wake = earlier(it.wake, at)
		return
	}
	if m.calls >= m.cfg.Calls {
		it.starved = true
		return
	}
	driver := m.driver.take()
	if driver == nil {
		return
	}
	it.busy = true
	m.calls++
	if a.Kind == ActCreate && it.seen != nil && it.seen.Phase == PhaseAbsent {
		it.seen = nil // from here on it may be there
	}
	task := m.task(it.s)
	if a.Kind == ActRelease && task.UID == "" && it.seen != nil {
		task.UID = it.seen.UID
	}
	m.work.Go(func() { m.call(driver, task, a) })
}

// again is when an act that succeeded is done again, should what it was to bring about not be seen.
func (it *item) again(a Act) time.Time {
	switch {
	case it.last != a.Kind || it.when.IsZero():
		return time.Time{}
	case a.Kind == ActRemove:
		return it.when.Add(a.Grace + 5*time.Second)
	case a.Kind == ActRelease:
		return it.when.Add(5 * time.Second)
	}
	return time.Time{}
}

// task is a sandbox's run as the driver makes it. The caller holds mu.
func (m *Manager) task(s *Sandbox) Task {
	t := Task{Sandbox: s.ID, Nonce: s.Run.Nonce, UID: s.Run.UID, Name: s.Name, Owner: OwnerHash(m.tenant.Scope, s.Owner), Session: s.Session, Spec: s.Spec}
	if s.Spec.Lifetime > 0 {
		t.Until = s.Run.Begun.Add(m.cfg.Pace.StartTimeout + s.Spec.Lifetime + time.Minute)
	}
	return t
}

// call makes one call of the driver.
func (m *Manager) call(driver *lent, t Task, a Act) {
	defer driver.giveBack()
	ctx, cancel := context.WithTimeout(m.ctx, callIn)
	defer cancel()
	var uid string
	var err error
	switch a.Kind {
	case ActCreate:
		uid, err = m.create(ctx, driver, t)
	case ActRemove:
		err = gone(driver.Remove(ctx, t, a.Grace))
	case ActRelease:
		if err = gone(driver.Remove(ctx, t, 0)); err == nil { // what ended is there until it is removed, and held until it is released
			err = gone(driver.Release(ctx, t))
		}
	}
	m.called(t, a, uid, err)
}

// gone takes for done what is not there to be done.
func gone(err error) error {
	if errors.Is(err, ErrGone) || errors.Is(err, ErrNotOurs) {
		return nil
	}
	return err
}

func (m *Manager) create(ctx context.Context, driver *lent, t Task) (uid string, err error) {
	if err := m.prep.ready(ctx, driver, m.cfg.Now); err != nil {
		return "", fmt.Errorf("%w: %w", errPlace, err)
	}
	uid, err = driver.Create(ctx, t)
	if err == nil && uid == "" {
		err = errors.New("the driver told no UID of what it made")
	}
	if errors.Is(err, ErrTerminating) || errors.Is(err, ErrGone) {
		m.prep.again()
	}
	return uid, err
}

// called keeps what came of a call, until the loop stores it.
func (m *Manager) called(t Task, a Act, uid string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.nudge()
	m.calls--
	m.feed()
	it := m.items[t.Sandbox]
	if it == nil || it.s.Run.Nonce != t.Nonce || m.ctx.Err() != nil {
		return
	}
	it.busy, it.dirty, it.after = false, true, m.view.number
	now := m.cfg.Now()
	if err != nil {
		it.tries++
		it.err, it.erred, it.retry = err, a.Kind, now.Add(backoff(m.cfg.Pace, it.tries))
		m.cfg.Logger.Warn("a call for a sandbox failed", "tenant", m.tenant.Scope.ID(), "sandbox", t.Sandbox, "act", a.Kind, "tries", it.tries, "error", err)
		return
	}
	it.tries, it.retry, it.last, it.when = 0, time.Time{}, a.Kind, now
	if a.Kind == ActCreate {
		it.uid = uid
	}
}

// feed lets sandboxes that wait for a call to end have another try, as many as there is room for. The caller holds mu.
func (m *Manager) feed() {
	free := m.cfg.Calls - m.calls
	for _, it := range m.items {
		if free <= 0 {
			return
		}
		if it.starved {
			it.starved, it.dirty = false, true
			free--
		}
	}
}

// preparing has the tenant's place brought in shape before what is made in it, one call at a time.
type preparing struct {
	slot chan struct{} // has one while somebody prepares

	mu   sync.Mutex
	done time.Time // guarded by mu, as all below
	bad  time.Time
	err  error
}

const (
	prepareEvery = 10 * time.Minute
	prepareAgain = time.Second // after a failure: what waited for it shares its outcome
)

// ready returns when the place is in shape, or why it is not.
func (p *preparing) ready(ctx context.Context, d Driver, now func() time.Time) error {
	select {
	case p.slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.slot }()
	if done, err := p.known(now()); done {
		return err
	}
	err := d.Prepare(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err = err; err != nil {
		p.bad = now()
		return err
	}
	p.done = now()
	return nil
}

func (p *preparing) known(now time.Time) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return now.Before(p.bad.Add(prepareAgain)), p.err
	}
	return !p.done.IsZero() && now.Before(p.done.Add(prepareEvery)), nil
}

// again has the next creation prepare anew.
func (p *preparing) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.err = time.Time{}, nil
}
