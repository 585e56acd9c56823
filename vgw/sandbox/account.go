package sandbox

import (
	"context"
	"errors"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

const (
	billVisits  = 5 * time.Minute // how often sessions and bytes are stored
	unmeteredIn = time.Hour       // after which a driver that measures nothing is asked again
	maxBilled   = 16              // sandboxes in one bill: a transaction is bounded
)

// bill adds up what a sandbox used. The caller holds changes, stores what it returns and settles the bill; both may be as given.
func (m *Manager) bill(now time.Time, s *Sandbox) (*Bill, *Sandbox) {
	if m.cfg.Meter == nil {
		return nil, s
	}
	b := m.cfg.Meter.Bill(now, s)
	if b == nil {
		return nil, s
	}
	return b, b.Sandboxes[0]
}

// owes says whether use of a sandbox is not accounted for.
func (m *Manager) owes(s *Sandbox) bool {
	if m.cfg.Meter == nil {
		return false
	}
	_, owed := m.cfg.Meter.Due(s)
	return owed
}

func writesOf(b *Bill) []tenant.Write {
	if b == nil {
		return nil
	}
	return b.Writes
}

// account stores what runs used until now, where it is time to, and has use measured. It returns when to do so next.
func (m *Manager) account(ctx context.Context) (next time.Time) {
	if m.cfg.Meter == nil {
		return time.Time{}
	}
	due, next, live := m.dueBills()
	for len(due) > 0 {
		n := min(len(due), maxBilled)
		if !m.billed(ctx, due[:n]) {
			return next
		}
		due = due[n:]
	}
	next = earlier(next, m.sample(live))
	return earlier(next, m.billedVisits(ctx))
}

// dueBills returns the sandboxes that are to be billed now.
func (m *Manager) dueBills() (due []string, next time.Time, live int) {
	now := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, it := range m.items {
		if it.s.Run.Live() {
			live++
		}
		at, ok := m.cfg.Meter.Due(it.s)
		switch {
		case !ok:
		case now.Before(at):
			next = earlier(next, at)
		default:
			due = append(due, id)
		}
	}
	return due, next, live
}

// billed stores a bill of some sandboxes, all or none.
func (m *Manager) billed(ctx context.Context, ids []string) bool {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.fresh(ctx); err != nil {
		return m.storable(err)
	}
	now := m.cfg.Now().UTC()
	var all []*Sandbox
	for _, id := range ids {
		if s, ok := m.Find(id); ok {
			all = append(all, s)
		}
	}
	bill := m.cfg.Meter.Bill(now, all...)
	if bill == nil {
		return true
	}
	var writes []tenant.Write
	var next []*Sandbox
	for i, s := range bill.Sandboxes {
		if s == all[i] {
			continue // nothing to add
		}
		n := *s
		m.mu.Lock()
		n.Version = m.nextVersion()
		n.Used = later(n.Used, m.items[n.ID].used.UTC())
		m.mu.Unlock()
		w, err := m.cfg.encode(&n)
		if err != nil {
			bill.Dropped()
			return m.storable(err)
		}
		writes, next = append(writes, w), append(next, &n)
	}
	if len(writes)+len(bill.Writes) == 0 {
		bill.Kept()
		return true
	}
	if err := m.commit(ctx, "*")(append(writes, bill.Writes...)...); !m.storable(err) {
		m.stale = true
		return false
	}
	bill.Kept()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range next {
		m.put(n)
	}
	return true
}

// billedVisits stores sessions and bytes that came with no run's bill.
func (m *Manager) billedVisits(ctx context.Context) time.Time {
	now := m.cfg.Now()
	m.mu.Lock()
	at := m.visitsAt
	switch waiting := m.cfg.Meter.Waiting(); {
	case !waiting:
		at = time.Time{}
	case at.IsZero():
		at = now.Add(billVisits)
	}
	m.visitsAt = at
	m.mu.Unlock()
	if at.IsZero() || now.Before(at) {
		return at
	}
	if m.billed(ctx, nil) {
		m.mu.Lock()
		m.visitsAt = time.Time{}
		m.mu.Unlock()
	}
	return time.Time{}
}

// sample asks the driver what runs use, in a call of its own.
func (m *Manager) sample(live int) time.Time {
	now := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if live == 0 {
		return time.Time{}
	}
	if now.Before(m.sampleAt) {
		return m.sampleAt
	}
	m.sampleAt = now.Add(m.cfg.SampleEvery)
	if driver := m.driver.take(); driver != nil {
		m.work.Go(func() { m.sampled(driver) })
	}
	return m.sampleAt
}

func (m *Manager) sampled(driver *lent) {
	defer driver.giveBack()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.SampleEvery)
	defer cancel()
	used, err := driver.Used(ctx)
	if err == nil {
		m.cfg.Meter.Sample(m.cfg.Now(), used)
	}
	if errors.Is(err, ErrUnmetered) {
		m.mu.Lock()
		m.sampleAt = m.cfg.Now().Add(unmeteredIn)
		m.mu.Unlock()
	}
}
