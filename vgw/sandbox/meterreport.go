package sandbox

import (
	"cmp"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Query says what of the books is asked for: the periods that began in [From, To), so that queries of adjoining times have each of
// them once.
type Query struct {
	From, To time.Time
	Only     *Payer // nil = of all
	ByOwner  bool   // a line for each owner; else for all together
	By       string // a line for each "hour", "day" or "month", as finely as the books are; "" = for the whole time
	Max      int    // lines; 0 = no bound
}

// Line is a sum.
type Line struct {
	From, To time.Time
	Payer    Payer // zero if all are together
	Amounts
}

// Report is the answer to a Query, sorted by time and owner.
type Report struct {
	Lines []Line
	// HourlyFrom is from when on there are hours, DailyFrom from when on there are days; before are months. Zero = there are none.
	HourlyFrom, DailyFrom time.Time
}

type lineKey struct {
	from, to int64
	payer    Payer
}

// Report adds up what is stored. What the runs used since it was last stored is not in it: see AccountedUntil.
func (m *Meter) Report(q Query) (Report, error) {
	if m == nil {
		return Report{}, nil
	}
	m.mu.Lock()
	of := make(map[span][]byte, len(m.books.of))
	for id, value := range m.books.of {
		of[m.books.when[id]] = value // never changed in place
	}
	m.mu.Unlock()
	sums, out := map[lineKey]Amounts{}, Report{}
	for s, value := range of {
		out.since(s)
		if s.start.Before(q.From) || !s.start.Before(q.To) {
			continue
		}
		t, err := decodeSheet(value)
		if err != nil {
			return Report{}, err
		}
		if q.sum(s, t, sums); q.Max > 0 && len(sums) > q.Max {
			return Report{}, fault.New(fault.Invalid, "the answer has more than %d lines: narrow it with from and to, or ask for less in group_by", q.Max)
		}
	}
	out.Lines = sorted(sums)
	return out, nil
}

func (r *Report) since(s span) {
	if s.unit == hourly && (r.HourlyFrom.IsZero() || s.start.Before(r.HourlyFrom)) {
		r.HourlyFrom = s.start
	}
	if s.unit == daily && (r.DailyFrom.IsZero() || s.start.Before(r.DailyFrom)) {
		r.DailyFrom = s.start
	}
}

// sum adds what is asked for of one period.
func (q *Query) sum(s span, t *sheet, sums map[lineKey]Amounts) {
	at := q.line(s)
	for p, a := range t.of {
		if q.Only != nil && p != *q.Only {
			continue
		}
		key := lineKey{at.start.Unix(), at.end().Unix(), Payer{}}
		if q.By == "" {
			key.from, key.to = q.From.Unix(), q.To.Unix()
		}
		if q.ByOwner {
			key.payer = p
		}
		all := sums[key]
		all.add(a)
		sums[key] = all
	}
}

// line is the period of the line that a stored period is in: never a shorter one than itself.
func (q *Query) line(s span) span {
	switch {
	case q.By == "month":
		return spanOf(monthly, s.start)
	case q.By == "day" && s.unit == hourly:
		return spanOf(daily, s.start)
	}
	return s
}

func sorted(sums map[lineKey]Amounts) []Line {
	lines := make([]Line, 0, len(sums))
	for k, a := range sums {
		lines = append(lines, Line{time.Unix(k.from, 0).UTC(), time.Unix(k.to, 0).UTC(), k.payer, a})
	}
	slices.SortFunc(lines, func(a, b Line) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To), comparePayers(a.Payer, b.Payer))
	})
	return lines
}

// AccountedUntil returns until when all that these sandboxes used is in the books: now, or from when on the one that is furthest
// behind is not. Sums of what was before do not change any more.
func AccountedUntil(all []*Sandbox, now time.Time) time.Time {
	for _, s := range all {
		from, known := unbilled(s)
		if !known || !s.Run.Ended.IsZero() && s.Billed == s.Run.Nonce && !from.Before(endOf(s)) {
			continue
		}
		now = earliest(now, from)
	}
	return now
}
