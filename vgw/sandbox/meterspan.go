package sandbox

import (
	"fmt"
	"time"
)

// unit is the length of a period.
type unit byte

// The units, which begin the ids of periods.
const (
	hourly  unit = 'h'
	daily   unit = 'd'
	monthly unit = 'm'
)

// For how long use is kept, and how finely, as far as the budget allows it.
const (
	keepHours = 8 * 24 * time.Hour
	keepAll   = 400 * 24 * time.Hour
)

// Within these ages what was not accounted for in time is added up by hours and by days; before, by months. It bounds a bill.
const (
	lateHours = 24 * time.Hour
	lateDays  = 31 * 24 * time.Hour
)

// span is an hour, a day or a month, of UTC.
type span struct {
	unit  unit
	start time.Time
}

func spanOf(u unit, t time.Time) span {
	t = t.UTC()
	switch u {
	case hourly:
		return span{u, t.Truncate(time.Hour)}
	case daily:
		return span{u, time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)}
	}
	return span{monthly, time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)}
}

func (s span) end() time.Time {
	switch s.unit {
	case hourly:
		return s.start.Add(time.Hour)
	case daily:
		return s.start.AddDate(0, 0, 1)
	}
	return s.start.AddDate(0, 1, 0)
}

// id is the id of the stored object. Ids of one unit sort by time.
func (s span) id() string { return string(s.unit) + s.start.Format(s.unit.layout()) }

func (u unit) layout() string {
	switch u {
	case hourly:
		return "2006010215"
	case daily:
		return "20060102"
	}
	return "200601"
}

func parseSpan(id string) (span, error) {
	if id == "" || id[0] != byte(hourly) && id[0] != byte(daily) && id[0] != byte(monthly) {
		return span{}, fmt.Errorf("a period named %.32q: it begins with h, d or m", id)
	}
	u := unit(id[0])
	t, err := time.Parse(u.layout(), id[1:])
	if err != nil {
		return span{}, fmt.Errorf("a period named %.32q: %w", id, err)
	}
	s := spanOf(u, t)
	if s.id() != id {
		return span{}, fmt.Errorf("a period named %.32q, which is %s", id, s.id())
	}
	return s, nil
}

// part is a piece of a run's time, and the period that it goes to.
type part struct {
	span
	from, to time.Time
}

// split cuts the time of a run into periods: hours as long as it is recent, then days, then months. What is older than all that
// is kept goes to the first month.
func split(from, to, now time.Time) (all []part) {
	for from.Before(to) {
		s := placeOf(from, now)
		until := earliest(s.end(), to)
		all = append(all, part{s, from, until})
		from = until
	}
	return all
}

func placeOf(t, now time.Time) span {
	switch age := now.Sub(t); {
	case age < lateHours:
		return spanOf(hourly, t)
	case age < lateDays:
		return spanOf(daily, t)
	case age < keepAll:
		return spanOf(monthly, t)
	}
	return spanOf(monthly, now.Add(-keepAll))
}
