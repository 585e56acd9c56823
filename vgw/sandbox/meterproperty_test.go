package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/tenant"
)

// world is a store, a cluster, and managers of which one at a time has the claim; those before it go on trying.
type world struct {
	t    *rapid.T
	true time.Time // what time it is, by the cluster's clock

	epoch   int // of the claim
	boxes   map[string]*Sandbox
	periods map[string][]byte

	managers []*manager
	ends     map[string]time.Time // of the runs, by nonce, as the cluster knows
	all      map[string]int64     // milliseconds that each owner's runs took in truth, of those that ended
	cpu      map[string]int64
	made     int
	opened   int64 // sessions
	lost     int64 // of them, those that were in a crashed manager's memory
}

// manager is an owner, or one who does not know yet that it is none any more.
type manager struct {
	epoch  int
	ahead  time.Duration // of its clock
	meter  *Meter
	boxes  map[string]*Sandbox
	budget int64
	unsaid int64 // sessions that are in no bill that was kept
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, true: noon(), boxes: map[string]*Sandbox{}, periods: map[string][]byte{}, ends: map[string]time.Time{}, all: map[string]int64{}, cpu: map[string]int64{},
	}
	w.takeOver()
	return w
}

func (w *world) stored() (all []tenant.Object) {
	for _, id := range slices.Sorted(maps.Keys(w.periods)) {
		all = append(all, tenant.Object{Kind: KindPeriod, ID: id, Value: w.periods[id]})
	}
	return all
}

// takeOver gives the claim to a new manager, which reads what is stored.
func (w *world) takeOver() {
	w.epoch++
	m := &manager{
		epoch: w.epoch, ahead: time.Duration(rapid.IntRange(-180, 180).Draw(w.t, "minutes ahead")) * time.Minute, boxes: maps.Clone(w.boxes),
		budget: rapid.SampledFrom([]int64{1, 1 << 20}).Draw(w.t, "budget"),
	}
	var err error
	if m.meter, err = NewMeter(MeterConfig{Budget: func() int64 { return m.budget }}, w.stored()); err != nil {
		w.t.Fatal(err)
	}
	w.managers = append(w.managers, m)
}

func (w *world) owner() *manager             { return w.managers[len(w.managers)-1] }
func (w *world) anyManager() *manager        { return rapid.SampledFrom(w.managers).Draw(w.t, "manager") }
func (w *world) now(m *manager) time.Time    { return w.true.Add(m.ahead) }
func (w *world) draw(most int, s string) int { return rapid.IntRange(0, most).Draw(w.t, s) }

// commit bills a manager's sandboxes as they would be stored, and stores all of it if its claim holds. What may happen to an
// answer happens to it.
func (w *world) commit(m *manager, gone []string, next ...*Sandbox) {
	b := m.meter.Bill(w.now(m), next...)
	if b == nil || len(b.Writes) > MaxBillWrites {
		w.t.Fatalf("no bill, or too many writes: %v", b)
	}
	what := w.draw(9, "fate")
	applied := m.epoch == w.epoch && what != 0 && what != 1
	if applied {
		w.apply(b, gone)
	}
	if what <= 2 || !applied && m.epoch == w.epoch { // nobody knows the outcome
		m.reload(w)
		return
	}
	if !applied {
		b.Dropped()
		return
	}
	b.Kept()
	m.boxes, m.unsaid = maps.Clone(w.boxes), 0
}

func (w *world) apply(b *Bill, gone []string) {
	for _, x := range b.Writes {
		if x.Value == nil {
			delete(w.periods, x.ID)
			continue
		}
		w.periods[x.ID] = x.Value
	}
	for _, s := range b.Sandboxes {
		w.boxes[s.ID] = s
	}
	for _, id := range gone {
		delete(w.boxes, id)
	}
}

func (m *manager) reload(w *world) {
	if err := m.meter.Reload(w.stored()); err != nil {
		w.t.Fatal(err)
	}
	m.boxes = maps.Clone(w.boxes)
	if !m.meter.Waiting() {
		m.unsaid = 0
	}
}

// create begins a sandbox whose run starts at once.
func (w *world) create() {
	w.made++
	s := &Sandbox{
		ID: fmt.Sprint("s", w.made), Owner: fmt.Sprint("user:", w.draw(2, "owner")),
		Spec: Spec{Lifetime: 30 * time.Hour, Resources: Resources{CPU: int64(100 + 100*w.draw(5, "cpu")), Memory: 1 << 30}},
	}
	w.begin(s)
}

func (w *world) begin(s *Sandbox) {
	w.made++
	s.Run = Run{Nonce: fmt.Sprint("n", w.made), UID: fmt.Sprint("u", w.made), Started: w.true.Add(time.Duration(w.draw(999_999, "µs")) * time.Microsecond)}
	w.commit(w.owner(), nil, s)
}

// restart puts a new run in the place of one that has ended and is accounted for in the same commit or before.
func (w *world) restart() {
	if s := w.pick(func(s *Sandbox) bool { return !s.Run.Ended.IsZero() && billed(s) }); s != nil {
		next := *s
		w.begin(&next)
	}
}

func billed(s *Sandbox) bool {
	from, known := unbilled(s)
	return known && !s.Run.Ended.IsZero() && s.Billed == s.Run.Nonce && from.Equal(endOf(s))
}

func (w *world) pick(fit func(*Sandbox) bool) *Sandbox {
	var all []*Sandbox
	for _, id := range slices.Sorted(maps.Keys(w.boxes)) {
		if fit(w.boxes[id]) {
			all = append(all, w.boxes[id])
		}
	}
	if len(all) == 0 {
		return nil
	}
	return rapid.SampledFrom(all).Draw(w.t, "sandbox")
}

// end ends a run in the cluster; no manager has seen it yet.
func (w *world) end(s *Sandbox, at time.Time) {
	at = latest(at, s.Run.Started)
	w.ends[s.Run.Nonce] = at
	millis := whole(at).Sub(whole(s.Run.Started)).Milliseconds()
	w.all[s.Owner] += millis
	w.cpu[s.Owner] += millis * s.Spec.Resources.CPU
}

func (w *world) live(s *Sandbox) bool { return w.ends[s.Run.Nonce].IsZero() }

// pass lets time pass. The cluster ends what is beyond its lifetime.
func (w *world) pass(d time.Duration) {
	w.true = w.true.Add(d)
	for _, id := range slices.Sorted(maps.Keys(w.boxes)) {
		s := w.boxes[id]
		if until := s.Run.Started.Add(s.Spec.Lifetime); w.live(s) && until.Before(w.true) {
			w.end(s, until)
		}
	}
}

// observe has a manager see how its sandboxes are, and bill some.
func (w *world) observe(m *manager, all bool) {
	var next []*Sandbox
	var gone []string
	for _, id := range slices.Sorted(maps.Keys(m.boxes)) {
		if !all && !rapid.Bool().Draw(w.t, "seen") {
			continue
		}
		s := *m.boxes[id]
		s.Run.Ended = w.ends[s.Run.Nonce]
		next = append(next, &s)
		if !all && !s.Run.Ended.IsZero() && rapid.Bool().Draw(w.t, "delete") {
			gone = append(gone, id)
		}
	}
	w.commit(m, gone, next...)
}

func (w *world) booked() map[string]Amounts {
	sum := map[string]Amounts{}
	for _, value := range w.periods {
		t, err := decodeSheet(value)
		if err != nil {
			w.t.Fatal(err)
		}
		for p, a := range t.of {
			all := sum[p.Owner]
			all.add(a)
			sum[p.Owner] = all
		}
	}
	return sum
}

func TestUseIsCountedExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			w.step()
		}
		w.finish()
	})
}

func (w *world) step() {
	switch w.draw(9, "step") {
	case 0:
		w.create()
	case 1:
		w.restart()
	case 2:
		if s := w.pick(w.live); s != nil {
			w.end(s, w.true)
		}
	case 3, 4:
		w.observe(w.anyManager(), false)
	case 5: // a crash, or a hand-off: the one before may not know
		w.lost += w.owner().unsaid
		w.takeOver()
	case 6: // somebody sets a clock
		m := w.anyManager()
		m.ahead = time.Duration(w.draw(360, "minutes")-180) * time.Minute
	case 7:
		if s := w.pick(func(*Sandbox) bool { return true }); s != nil {
			w.owner().meter.Opened(s)
			w.owner().unsaid++
			w.opened++
		}
	default:
		w.pass(time.Duration(w.draw(200, "minutes")) * time.Minute)
	}
}

// finish ends everything, and has an owner whose clock is right see it, until nothing is due.
func (w *world) finish() {
	for _, id := range slices.Sorted(maps.Keys(w.boxes)) {
		if w.live(w.boxes[id]) {
			w.end(w.boxes[id], w.true)
		}
	}
	m := w.owner()
	m.ahead = 0
	for range 1000 {
		w.observe(m, true)
		if due := w.pick(func(s *Sandbox) bool { return !billed(s) && s.Run.Nonce != "" }); due == nil && !m.meter.Waiting() {
			break
		}
	}
	booked, sessions := w.booked(), int64(0)
	for owner, a := range booked {
		if a.Millis != w.all[owner] || a.CPU != w.cpu[owner] || a.CPUUsed != a.CPU {
			w.t.Errorf("%s has %d ms and %d of CPU in the books, in truth they are %d and %d", owner, a.Millis, a.CPU, w.all[owner], w.cpu[owner])
		}
		sessions += a.Sessions
	}
	for owner, want := range w.all {
		if _, ok := booked[owner]; !ok && want > 0 {
			w.t.Errorf("%s has nothing in the books, in truth it is %d ms", owner, want)
		}
	}
	if sessions > w.opened || sessions < w.opened-w.lost {
		w.t.Errorf("%d sessions in the books, %d were opened and at most %d lost", sessions, w.opened, w.lost)
	}
}
