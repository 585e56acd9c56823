package sandbox

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of what is stored.
const (
	defaultBudget = 2 << 20
	keyBytes      = 64        // of the store's key around a period's id, about
	rowBytes      = 64        // of a row beside its owner's Ref, at most about
	maxPeriod     = 512 << 10 // bytes of one period, at most about: owners beyond it are added up as others
)

// Others is the owner of what is added up of owners beyond the bound of a period. It is no principal's Ref.
const Others = "_other"

// books is the stored periods, by id, encoded.
type books struct {
	of    map[string][]byte
	when  map[string]span
	bytes int64 // of them, with their keys
}

func newBooks() *books { return &books{of: map[string][]byte{}, when: map[string]span{}} }

func readBooks(stored []tenant.Object) (*books, error) {
	b := newBooks()
	for _, o := range stored {
		if o.Kind != KindPeriod {
			continue
		}
		s, err := parseSpan(o.ID)
		if err != nil {
			return nil, err
		}
		if _, err := decodeSheet(o.Value); err != nil {
			return nil, fmt.Errorf("period %s: %w", o.ID, err)
		}
		b.put(s, o.Value)
	}
	return b, nil
}

// put sets a period, or, if value is nil, removes it.
func (b *books) put(s span, value []byte) {
	id := s.id()
	if old, ok := b.of[id]; ok {
		b.bytes -= int64(keyBytes + len(id) + len(old))
		delete(b.of, id)
		delete(b.when, id)
	}
	if value != nil {
		b.of[id], b.when[id] = value, s
		b.bytes += int64(keyBytes + len(id) + len(value))
	}
}

// draft is changes of books that are not stored yet.
type draft struct {
	books   *books
	changed map[string]*sheet // nil = the period is deleted
	when    map[string]span   // of what is changed
}

func (b *books) draft() *draft {
	return &draft{books: b, changed: map[string]*sheet{}, when: map[string]span{}}
}

// open returns the sheet of a period, to be changed.
func (d *draft) open(s span) *sheet {
	id := s.id()
	if r := d.changed[id]; r != nil {
		return r
	}
	r := d.peek(id)
	if r == nil {
		r = newSheet()
	}
	d.set(s, r)
	return r
}

// set puts a sheet in the place of a period's, nil to delete it.
func (d *draft) set(s span, t *sheet) { d.changed[s.id()], d.when[s.id()] = t, s }

// peek returns the sheet of a period, nil if there is none. It is not to be changed.
func (d *draft) peek(id string) *sheet {
	if r, ok := d.changed[id]; ok {
		return r
	}
	value, ok := d.books.of[id]
	if !ok {
		return nil
	}
	r, err := decodeSheet(value)
	if err != nil { // it was readable when it came
		return nil
	}
	return r
}

// add adds to a period.
func (d *draft) add(s span, p Payer, a Amounts) { d.open(s).add(p, a) }

func (t *sheet) add(p Payer, a Amounts) {
	sum, known := t.of[p]
	if !known && (len(p.Owner) > maxRef || t.bytes > maxPeriod) {
		p = Payer{Owner: Others}
		sum = t.of[p]
	}
	sum.add(a)
	t.set(p, sum)
}

func (t *sheet) set(p Payer, a Amounts) {
	if _, known := t.of[p]; !known {
		t.bytes += rowBytes + len(p.Owner)
	}
	t.of[p] = a
}

func (t *sheet) empty() bool {
	for _, a := range t.of {
		if a != (Amounts{}) {
			return false
		}
	}
	return true
}

// row returns the amounts of a payer, of no sheet too.
func (t *sheet) row(p Payer) (a Amounts) {
	if t != nil {
		a = t.of[p]
	}
	return a
}

// take takes back so much time of a run, from the finest period of then that has something of its payer: that is where it was added,
// or, if an hour has become part of its day and another was begun since, the day is.
func (d *draft) take(t time.Time, p Payer, r Resources, millis int64) {
	for _, who := range []Payer{p, {Owner: Others}} {
		for _, u := range []unit{hourly, daily, monthly} {
			s := spanOf(u, t)
			a := d.peek(s.id()).row(who)
			if a == (Amounts{}) {
				continue
			}
			a.take(r, millis)
			d.open(s).set(who, a)
			return
		}
	}
}

// apply makes the books what the draft's writes made of the store.
func (b *books) apply(w []tenant.Write, when map[string]span) {
	for _, one := range w {
		b.put(when[one.ID], one.Value)
	}
}

// writes returns what is to be stored, sorted by id.
func (d *draft) writes() (w []tenant.Write) {
	for _, id := range slices.Sorted(maps.Keys(d.changed)) {
		one := tenant.Write{Kind: KindPeriod, ID: id}
		if t := d.changed[id]; t != nil && !t.empty() {
			one.Value = t.encode()
		}
		if _, there := d.books.of[id]; there || one.Value != nil {
			w = append(w, one)
		}
	}
	return w
}

// spans returns the periods that there are, of a unit, oldest first.
func (d *draft) spans(u unit) (all []span) {
	for id, s := range d.books.when {
		if _, changed := d.changed[id]; !changed && s.unit == u {
			all = append(all, s)
		}
	}
	for id, s := range d.when {
		if d.changed[id] != nil && s.unit == u {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b span) int { return a.start.Compare(b.start) })
	return all
}

// tidy takes one step towards what is to be kept: hours for 8 days, then days, of 400 days. If that is more than the budget,
// older hours become days, and days months, sooner; at last the oldest months go. It writes at most a day's hours, or a month's
// days, and one more.
func (d *draft) tidy(now time.Time, budget int64) {
	hours, days, months := d.spans(hourly), d.spans(daily), d.spans(monthly)
	today, month := spanOf(daily, now).start, spanOf(monthly, now).start
	switch over := d.books.bytes > budget; {
	case d.merge(daily, before(hours, spanOf(daily, now.Add(-keepHours)).start)):
	case d.drop(before(months, now.Add(-keepAll).AddDate(0, -1, 0))):
	case d.drop(before(days, now.Add(-keepAll))):
	case !over:
	case d.merge(daily, before(hours, today)):
	case d.merge(monthly, before(days, month)):
	case d.merge(daily, before(hours, now.Add(-3*time.Hour))):
	case d.merge(monthly, before(days, today)):
	case d.drop(before(months, month)):
	}
}

// before returns those of the periods, which are sorted, that began before a time.
func before(all []span, t time.Time) []span {
	n := 0
	for n < len(all) && all[n].start.Before(t) {
		n++
	}
	return all[:n]
}

// merge adds the periods that lie in the same greater one as the first of them to that one.
func (d *draft) merge(into unit, all []span) bool {
	if len(all) == 0 {
		return false
	}
	whole := spanOf(into, all[0].start)
	for _, s := range all {
		if !s.start.Before(whole.end()) {
			break
		}
		if t := d.peek(s.id()); t != nil {
			for _, p := range slices.SortedFunc(maps.Keys(t.of), comparePayers) {
				d.add(whole, p, t.of[p])
			}
		}
		d.set(s, nil)
	}
	return true
}

// drop deletes the first of the periods.
func (d *draft) drop(all []span) bool {
	if len(all) == 0 {
		return false
	}
	d.set(all[0], nil)
	return true
}
