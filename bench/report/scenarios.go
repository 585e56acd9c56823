package report

import (
	"math"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// figure is a column of a scenario's table.
type figure struct {
	title   string
	meaning string
	of      func(result.Figures) float64
	unit    func(float64) string
}

// The columns' meanings, as they stand below a report.
const (
	meansSubject = "What was measured. direct is the upstream's own TLS port with nothing between: the floor of latencies, unless the upstream is the limit, as a proxy takes work from it. " +
		"A name that ends in -each is one process per tenant."
	meansPhase = "The part of the scenario. What was ramped or warmed up is left out."
	meansCPU   = "Microseconds of CPU time that the subject's processes spent (user and system, with their children) for each right answer. " +
		"It depends less on what else the machine does than rates and latencies, so it is the figure to compare by, as far as its ± allows. For direct it is the upstream's own. " +
		"Where several loads call at once it is of all of them."
	meansRate = "Right answers a second. ≥: near or above what generator and upstream reach with nothing between; the subject may do more. In an open loop it is what was asked for, unless the subject fell behind."
	meansP    = "Latency of the half (p50), of 99% (p99), of 99.9% (p99.9) of the requests: so much or less, with whole answers checked. In an open loop it counts from when " +
		"a request was due, so that a stall of the server is in it (no coordinated omission). †: many requests began late."
	meansChange = "The p99 of this phase divided by that of the load's first phase, turn by turn."
	meansShake  = "Time of a new connection, TCP and TLS together, of 50% and of 99%."
	meansRSS    = "Memory resident in the subject's processes at the end of the run. What processes share counts in each."
	meansErrors = "Requests without a right answer, of all turns, and their share: another status, a broken connection, a timeout, or an answer without the tenant's own mark. " +
		"An answer with another tenant's mark ends a measurement at once."
	meansSpread = "How far the turns lie apart, lowest to highest, in percent of the median that stands before it. A repeat is expected to differ by less " +
		"(with three turns 8 times of 10, with five 97 of 100). Of a single turn there is none, so it says little."
)

func p50(l result.Latency) float64  { return l.P50 }
func p99(l result.Latency) float64  { return l.P99 }
func p999(l result.Latency) float64 { return l.P999 }

// handshake returns a function for result.Over over the times of new connections.
func handshake(of func(result.Latency) float64) func(result.Figures) float64 {
	return func(f result.Figures) float64 {
		if f.Handshake == nil || f.Handshake.Count == 0 {
			return math.NaN()
		}
		return of(*f.Handshake)
	}
}

func latencies() []figure {
	return []figure{
		{"p50", meansP, result.Percentile(p50), micros},
		{"p99", meansP, result.Percentile(p99), micros},
		{"p99.9", meansP, result.Percentile(p999), micros},
	}
}

func handshakes() []figure {
	return []figure{
		{"handshake p50", meansShake, handshake(p50), micros},
		{"handshake p99", meansShake, handshake(p99), micros},
	}
}

// rowsOf computes the table of a group.
type rowsOf struct {
	group
	scenario result.Scenario
	ceilings []result.Ceiling
	by       string   // the yardstick; "" = no ratios
	phase    []string // all
}

func newRows(ceilings []result.Ceiling, s result.Scenario, g group) rowsOf {
	return rowsOf{group: g, scenario: s, ceilings: ceilings, by: yardstick(g.subjects()), phase: g.phases()}
}

func (r rowsOf) columns() []column {
	c := []column{{title: "subject", meaning: meansSubject, words: true}, {title: "phase", meaning: meansPhase, words: true}}
	c = append(c, column{title: "CPU µs/request", meaning: meansCPU}, column{title: "requests/s", meaning: meansRate}, column{title: "errors", meaning: meansErrors})
	for _, f := range latencies() {
		c = append(c, column{title: f.title, meaning: f.meaning})
	}
	c = append(c, column{title: "p99 ÷ " + clean(r.phase[0]), meaning: meansChange, entry: "p99 ÷ a phase"})
	for _, f := range handshakes() {
		c = append(c, column{title: f.title, meaning: f.meaning})
	}
	return append(c, column{title: "RSS", meaning: meansRSS})
}

// row returns a subject's figures in a phase, a cell for each column.
func (r rowsOf) row(subject, phase string) []cell {
	runs := r.of(subject, phase)
	l := limitsOf(r.ceilings, r.group, phase)
	row := []cell{word(subject), r.phaseCell(phase), {main: unknown}, r.rateCell(l, subject, runs), errorCell(runs)}
	if tellsCost(r.scenario, r.group, phase) {
		row[2] = spread(result.Over(runs, result.Figures.CPU), number)
	}
	for _, f := range latencies() {
		c := spread(result.Over(runs, f.of), f.unit)
		if late(runs) >= manyLate && c.main != unknown {
			c.main += " †"
		}
		row = append(row, c)
	}
	row = append(row, r.change(subject, phase))
	for _, f := range handshakes() {
		row = append(row, spread(result.Over(runs, f.of), f.unit))
	}
	return append(row, spread(result.Over(runs, result.Figures.Resident), size))
}

// phaseCell is empty where there is but one phase, so that the column falls away.
func (r rowsOf) phaseCell(phase string) cell {
	if len(r.phase) < 2 {
		return cell{}
	}
	return word(phase)
}

func (r rowsOf) rateCell(l limits, subject string, runs []result.Run) cell {
	c := spread(result.Over(runs, rate), number)
	if l.generator(subject, runs) {
		c.main = "≥ " + c.main
	}
	return c
}

// change compares with the load's first phase, where there are several.
func (r rowsOf) change(subject, phase string) cell {
	switch {
	case len(r.phase) < 2:
		return cell{main: unknown}
	case phase == r.phase[0]:
		return cell{main: "1×"}
	}
	return spread(result.Change(r.of(subject, phase), r.of(subject, r.phase[0]), result.Percentile(p99)), times)
}

func errorCell(runs []result.Run) cell {
	var failed, all int64
	for _, r := range runs {
		failed += r.Figures.ErrorCount()
		all += r.Figures.Requests + r.Figures.ErrorCount()
	}
	if failed == 0 {
		return cell{main: "0"}
	}
	return cell{main: count(failed), aside: percent(float64(failed) / float64(all))}
}

// part returns the table of a group with what is to be said of it.
func (r rowsOf) part() part {
	p := part{title: r.title(), table: table{columns: r.columns()}}
	for _, phase := range r.phase {
		for _, subject := range r.subjects() {
			if len(r.of(subject, phase)) > 0 {
				p.table.rows = append(p.table.rows, r.row(subject, phase))
			}
		}
		p.notes = append(p.notes, notEmpty(r.pooled(phase))...)
	}
	p.notes = append(p.notes, r.remarks(r.ceilings)...)
	p.table = p.table.compact()
	return p
}

// name is of variant and load.
func (r rowsOf) name() string {
	return strings.Join(notEmpty(clean(r.variant), clean(r.load)), " · ")
}

// title says how often it ran, too.
func (r rowsOf) title() string {
	return strings.TrimSpace(r.name() + " (" + plural(r.turns(), "turn") + ")")
}

// scenarioSection returns what one scenario found. known are notes that stand elsewhere.
func scenarioSection(ceilings []result.Ceiling, s result.Scenario, known []string) section {
	out := section{title: clean(s.Name), about: clean(s.About)}
	for _, g := range groups(s) {
		rows := newRows(ceilings, s, g)
		parts := []part{rows.part()}
		if beside := rows.beside(); len(beside.table.rows) > 0 {
			parts = append(parts, beside)
		}
		parts[len(parts)-1].plots = append(costPlots(s, g), latencyPlots(g)...)
		out.parts = append(out.parts, parts...)
	}
	for _, n := range s.Notes {
		if !slices.Contains(known, n) {
			out.notes = append(out.notes, clean(n))
		}
	}
	return out
}
