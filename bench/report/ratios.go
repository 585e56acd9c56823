package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

const meansRatio = "The subject's figure divided by the yardstick's, turn by turn: both ran next to each other, so a slow moment of the machine is in both. ± is the " +
	"spread of the turns' ratios. Below 1× is less: better, but for requests/s. In a closed loop each subject's latencies are those at its own rate."

// ratioFigures are the figures that are shown beside the yardstick's, but for the rate, whose ratio may be a bound.
func ratioFigures() []figure {
	out := append(latencies(), handshakes()...)
	return append(out, figure{"RSS", meansRSS, result.Figures.Resident, size})
}

// beside returns the table of all figures divided by the yardstick's; without rows, where there is nothing to divide by.
func (r rowsOf) beside() part {
	by := clean(r.by)
	p := part{title: r.name() + ", beside " + by, table: table{columns: []column{{title: "subject", words: true}, {title: "phase", words: true}, r.ratioColumn("CPU"), r.ratioColumn("rate")}}}
	for _, f := range ratioFigures() {
		p.table.columns = append(p.table.columns, r.ratioColumn(f.title))
	}
	for _, phase := range r.phase {
		for _, subject := range r.subjects() {
			if subject != r.by && len(r.of(subject, phase)) > 0 && len(r.of(r.by, phase)) > 0 {
				p.table.rows = append(p.table.rows, r.ratioRow(subject, phase))
			}
		}
	}
	p.table = p.table.compact()
	if !slices.ContainsFunc(p.table.columns, func(c column) bool { return !c.words }) {
		return part{}
	}
	return p
}

func (r rowsOf) ratioColumn(of string) column {
	return column{title: of + " ÷ " + clean(r.by), meaning: meansRatio, entry: "÷ in the tables beside a yardstick"}
}

func (r rowsOf) ratioRow(subject, phase string) []cell {
	runs, base := r.of(subject, phase), r.of(r.by, phase)
	row := []cell{word(subject), r.phaseCell(phase), {main: unknown}, r.rateRatio(limitsOf(r.ceilings, r.group, phase), subject, runs, base)}
	if tellsCost(r.scenario, r.group, phase) {
		row[2] = spread(result.Ratio(runs, base, result.Figures.CPU), times)
	}
	for _, f := range ratioFigures() {
		c := spread(result.Ratio(runs, base, f.of), times)
		if f.meaning == meansP && max(late(runs), late(base)) >= manyLate && c.main != unknown {
			c.main += " †"
		}
		row = append(row, c)
	}
	return row
}

// rateRatio is left out in an open loop: there the rates are what was asked for. Where the generator limited one of the two, the ratio is
// a bound too; where it limited both, it says nothing.
func (r rowsOf) rateRatio(l limits, subject string, runs, base []result.Run) cell {
	if runs[0].Asked > 0 {
		return cell{main: unknown}
	}
	c := spread(result.Ratio(runs, base, rate), times)
	above, below := l.generator(subject, runs), l.generator(r.by, base)
	switch {
	case c.main == unknown:
	case above && below:
		return cell{main: unknown}
	case above:
		c.main = "≥ " + c.main
	case below:
		c.main = "≤ " + c.main
	}
	return c
}

// pooled says whose the CPU time of a phase is in which several loads call: the subject's processes serve them all at once, so it cannot
// be told apart. It stands with the first of them.
func (r rowsOf) pooled(phase string) string {
	loads := loadsOf(r.scenario, r.variant, phase)
	if len(loads) < 2 {
		return ""
	}
	for i, l := range loads {
		loads[i] = clean(l)
	}
	what := fmt.Sprintf("CPU µs/request is of all loads together (%s)", strings.Join(loads, ", "))
	if !tellsCost(r.scenario, r.group, phase) {
		what += "; it stands with " + loads[0]
	}
	return strings.Join(notEmpty(clean(phaseName(r.group, phase)), what), ": ") + "."
}

// loadsOf returns the loads that call in a phase, in the order in which they come.
func loadsOf(s result.Scenario, variant, phase string) []string {
	var runs []result.Run
	for _, r := range s.Runs {
		if r.Variant == variant && r.Phase == phase {
			runs = append(runs, r)
		}
	}
	return distinct(runs, func(r result.Run) string { return r.Load })
}
