package sandbox

import (
	"sync"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// KindPeriod is the kind of stored periods: t/<tenant>/period/<hour, day or month>. Whoever makes a Meter loads all of it.
const KindPeriod = "period"

// MeterConfig is what a Meter is made with. Its functions must not block, nor call the meter.
type MeterConfig struct {
	Every  time.Duration                 // how often the use of a run that goes on is added up; 0 = 5 min
	Budget func() int64                  // bytes that the stored periods may take; nil, or not above 0 = 2 MiB
	Count  func(owner string, a Amounts) // is told what was added up, after it was stored, for metrics; nil = nobody asks
}

// Meter adds up, for one tenant, what runs use, into periods that are stored in the same transaction as Sandbox.Accounted: so
// all of it is counted exactly once, whatever happens to its owner. What it is told beside the runs (Opened, Moved, Sample) is in
// memory until the next Bill: a crash loses at most what came since, and no time of a run. Its methods can be called at the same time,
// and of nil: nothing is added up then.
type Meter struct {
	cfg MeterConfig

	mu       sync.Mutex
	books    *books                   // guarded by mu: what is stored
	open     *Bill                    // guarded by mu: not settled yet
	visits   map[Payer]Amounts        // guarded by mu: sessions and bytes that are in no bill yet
	measured map[string]*measurements // guarded by mu: by UID of the run
}

// Payer is to whom use is attributed.
type Payer struct {
	Owner string // Ref; see Sandbox.Owner
	Epoch int64  // Sandbox.Epoch in Unix seconds; 0 = none: another authenticator's user of the same name is another payer
}

// PayerOf returns to whom the use of a sandbox is attributed.
func PayerOf(s *Sandbox) Payer {
	p := Payer{Owner: s.Owner}
	if !s.Epoch.IsZero() {
		p.Epoch = s.Epoch.Unix()
	}
	return p
}

// NewMeter returns a meter that goes on from the stored periods, which are all objects of KindPeriod.
func NewMeter(c MeterConfig, stored []tenant.Object) (*Meter, error) {
	if c.Every <= 0 {
		c.Every = 5 * time.Minute
	}
	b, err := readBooks(stored)
	if err != nil {
		return nil, err
	}
	return &Meter{cfg: c, books: b, visits: map[Payer]Amounts{}, measured: map[string]*measurements{}}, nil
}

// Due returns when s has to be in a Bill next: at once after the end of a run, and every few minutes while it goes on. ok is false
// if there is nothing to add up.
func (m *Meter) Due(s *Sandbox) (at time.Time, ok bool) {
	if m == nil {
		return time.Time{}, false
	}
	from, known := unbilled(s)
	switch {
	case !known || s.Run.Started.IsZero():
		return time.Time{}, false
	case !s.Run.Ended.IsZero():
		return s.Run.Ended, !from.Equal(endOf(s)) || s.Billed != s.Run.Nonce
	}
	return from.Add(m.cfg.Every), true
}

// Waiting says whether there are sessions or bytes that a Bill, even of no sandbox, would store.
func (m *Meter) Waiting() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.visits) > 0
}

// Bill is what is to be stored for use until now. Commit all of it, or nothing, and then settle it, once.
type Bill struct {
	Sandboxes []*Sandbox     // the ones given, in their order, with Accounted and Billed moved: store them instead
	Writes    []tenant.Write // of periods; at most MaxBillWrites. They come with the sandboxes' own

	meter  *Meter
	counts map[Payer]Amounts    // what was added
	visits map[Payer]Amounts    // of it, what was taken from Meter.visits
	used   map[string]time.Time // until when measurements are used up, by UID
	over   []string             // the UIDs of runs that ended
	when   map[string]span      // of the writes
}

// MaxBillWrites bounds the writes of a bill, beside those of its sandboxes.
const MaxBillWrites = 72

// Bill adds up what the runs of some sandboxes used and is not accounted for, until their end or now. It is to be called
//   - in every commit that stores the end of a run, deletes a sandbox's record, or begins a new run in the place of one,
//   - for a run that goes on, when Due says so,
//   - with no sandbox at all, now and then while Waiting.
//
// It is for one bill at a time, from here until it is settled by Kept, Dropped or Meter.Reload: nil while another is open.
func (m *Meter) Bill(now time.Time, s ...*Sandbox) *Bill {
	if m == nil {
		return &Bill{Sandboxes: s}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open != nil {
		return nil
	}
	m.open = m.bill(now, s)
	return m.open
}

// Kept settles a bill whose writes were committed.
func (b *Bill) Kept() { b.settle(true) }

// Dropped settles a bill whose writes were certainly not committed. What it held will be in the next one.
func (b *Bill) Dropped() { b.settle(false) }

// Reload reads the stored periods anew, after a commit of which nobody knows the outcome, and settles the open bill by what
// is there. The sandboxes are to be read anew in the same breath.
func (m *Meter) Reload(stored []tenant.Object) error {
	if m == nil {
		return nil
	}
	b, err := readBooks(stored)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if open := m.open; open != nil {
		m.settle(open, open.within(stored))
	}
	m.books = b
	return nil
}

// Sample is told what runs use at a moment, by UID, as Driver.Used says it.
func (m *Meter) Sample(at time.Time, used map[string]Used) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sample(at, used)
}

// Opened counts a session with a sandbox, for its owner.
func (m *Meter) Opened(s *Sandbox) { m.visit(s, Amounts{Sessions: 1}) }

// Moved counts bytes that went through a session, both ways together.
func (m *Meter) Moved(s *Sandbox, n int64) {
	if n > 0 {
		m.visit(s, Amounts{Bytes: n})
	}
}

func (m *Meter) visit(s *Sandbox, a Amounts) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := PayerOf(s)
	sum := m.visits[p]
	sum.add(a)
	m.visits[p] = sum
}
