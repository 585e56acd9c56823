package sandbox

import (
	"bytes"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a bill.
const (
	overtime    = 10 * time.Minute // for which a run that goes on may be counted beyond its lifetime: its end is told late
	aheadOf     = time.Hour        // by so much the clock of who tells of an end may be ahead of ours
	tidyUpTo    = 24               // periods in a bill that also tidies
	takeUpTo    = 48               // hours that are taken back at a time
	maxMeasured = 4096             // runs whose samples are kept
)

// bill makes a bill of what is in memory, and changes nothing of it.
func (m *Meter) bill(now time.Time, all []*Sandbox) *Bill {
	b := &Bill{meter: m, counts: map[Payer]Amounts{}, visits: map[Payer]Amounts{}, used: map[string]time.Time{}}
	d := m.books.draft()
	now = whole(now)
	for _, s := range all {
		b.Sandboxes = append(b.Sandboxes, m.charge(b, d, s, now))
	}
	for p, a := range m.visits {
		d.add(spanOf(hourly, now), p, a)
		b.visits[p] = a
		b.count(p, a)
	}
	if len(d.changed) < tidyUpTo {
		d.tidy(now, m.budget())
	}
	b.Writes, b.when = d.writes(), d.when
	return b
}

func (m *Meter) budget() int64 {
	if m.cfg.Budget != nil {
		if n := m.cfg.Budget(); n > 0 {
			return n
		}
	}
	return defaultBudget
}

func (b *Bill) count(p Payer, a Amounts) {
	sum := b.counts[p]
	sum.add(a)
	b.counts[p] = sum
}

// charge adds what a run used since it was last accounted for, and returns the sandbox as it is to be stored. If the run ended
// before that, since our clock was ahead, what was too much is taken back.
func (m *Meter) charge(b *Bill, d *draft, s *Sandbox, now time.Time) *Sandbox {
	from, known := unbilled(s)
	if !known {
		return s
	}
	to, ended := billable(s, now), !s.Run.Ended.IsZero()
	switch {
	case from.Before(to):
		m.add(b, d, s, from, to, now)
	case to.Before(from) && ended:
		to = takeBack(d, s, from, to)
	case !ended || s.Billed == s.Run.Nonce: // nothing, or a clock that went back
		return s
	}
	if b.used[s.Run.UID] = to; ended {
		b.over = append(b.over, s.Run.UID)
	}
	next := *s
	next.Accounted, next.Billed = to, s.Run.Nonce
	return &next
}

// billable returns until when a run may be accounted for: its end, or now. A run that goes on ends with its lifetime, whatever the
// clock says: one that is far ahead for a moment would fill the books of years. Nor is every end believed. It is never before the
// start, or time that was not counted would be taken back.
func billable(s *Sandbox, now time.Time) time.Time {
	start, limit := whole(s.Run.Started), time.Time{}
	if s.Spec.Lifetime > 0 {
		limit = whole(start.Add(s.Spec.Lifetime + overtime))
	}
	to := now
	switch {
	case !s.Run.Ended.IsZero():
		to = earliest(endOf(s), latest(now.Add(aheadOf), limit))
	case !limit.IsZero():
		to = earliest(now, limit)
	}
	return latest(start, to)
}

func (m *Meter) add(b *Bill, d *draft, s *Sandbox, from, to, now time.Time) {
	p, samples := PayerOf(s), m.measured[s.Run.UID]
	for _, x := range split(from, to, now) {
		a := samples.amounts(s.Spec.Resources, x.from, x.to)
		d.add(x.span, p, a)
		b.count(p, a)
	}
}

// takeBack subtracts the time between a run's end and until when it was accounted for, latest first. It returns until when the run
// is accounted for then: what is too much for one bill is left to the next.
func takeBack(d *draft, s *Sandbox, from, to time.Time) time.Time {
	p := PayerOf(s)
	for range takeUpTo {
		if !to.Before(from) {
			break
		}
		begin := latest(to, spanOf(hourly, from.Add(-time.Millisecond)).start)
		d.take(begin, p, s.Spec.Resources, from.Sub(begin).Milliseconds())
		from = begin
	}
	return from
}

func (b *Bill) settle(kept bool) {
	if b == nil || b.meter == nil {
		return
	}
	b.meter.mu.Lock()
	defer b.meter.mu.Unlock()
	b.meter.settle(b, kept)
}

// settle ends the open bill. Settling one a second time does nothing.
func (m *Meter) settle(b *Bill, kept bool) {
	if m.open != b {
		return
	}
	m.open = nil
	if !kept {
		return
	}
	m.books.apply(b.Writes, b.when)
	for p, a := range b.visits {
		m.leave(p, a)
	}
	for uid, until := range b.used {
		m.measured[uid].forget(until)
	}
	for _, uid := range b.over {
		delete(m.measured, uid)
	}
	if m.cfg.Count != nil {
		for p, a := range b.counts {
			m.cfg.Count(p.Owner, a)
		}
	}
}

// leave takes what is stored off what is not: more may have come meanwhile.
func (m *Meter) leave(p Payer, a Amounts) {
	sum := m.visits[p]
	sum.Sessions -= a.Sessions
	sum.Bytes -= a.Bytes
	if sum == (Amounts{}) {
		delete(m.visits, p)
		return
	}
	m.visits[p] = sum
}

// within says whether all of the bill is in what is stored. Nobody else writes while our claim holds; without it the answer is of no
// use. One write does not tell: a period may stay as it was.
func (b *Bill) within(stored []tenant.Object) bool {
	of := make(map[string][]byte, len(stored))
	for _, o := range stored {
		of[o.ID] = o.Value
	}
	for _, w := range b.Writes {
		if value, there := of[w.ID]; there != (w.Value != nil) || !bytes.Equal(value, w.Value) {
			return false
		}
	}
	return len(b.Writes) > 0
}
