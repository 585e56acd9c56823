package report

import (
	"fmt"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

const (
	nearCeiling = 0.9  // of the ceiling: from there on a rate says more of the generator than of the subject
	manyLate    = 0.01 // of all requests: from there on the percentiles tell of waiting for a free caller too
	behind      = 0.98 // of the rate that was asked for: below it the subject, or the generator, did not keep up
)

// limits tells which figures of a group are not the subject's own.
type limits struct {
	ceiling float64 // requests a second that the generator reaches with nothing between; 0 = not known
}

// limitsOf finds the generator's ceiling for a group's phase: what it reached in the same turns with nothing between, or else what was
// measured of it by itself. An open loop has no such limit: what it could not send in time is counted as late.
func limitsOf(ceilings []result.Ceiling, g group, phase string) limits {
	if runs := g.of(direct, phase); len(runs) > 0 {
		return limits{ceiling: result.Over(runs, rate).Median}
	}
	var l limits
	match := 0
	for _, c := range ceilings {
		if n := fits(c.Protocol, g.runs[0]); n > match {
			match, l.ceiling = n, c.Rate
		}
	}
	return l
}

// fits tells how closely a ceiling is for a run: the longer what they share, the better; 0 = it is another protocol's.
func fits(protocol string, r result.Run) int {
	if protocol == "" {
		return 0
	}
	if protocol == r.Protocol || protocol == r.Variant || strings.HasPrefix(r.Variant, protocol+",") {
		return len(protocol)
	}
	return 0
}

// generator tells whether the rate of a subject was limited by the generator.
func (l limits) generator(subject string, runs []result.Run) bool {
	return subject != direct && l.ceiling > 0 && runs[0].Asked == 0 && result.Over(runs, rate).Median >= nearCeiling*l.ceiling
}

// late is the share of requests that started late, over all runs.
func late(runs []result.Run) float64 {
	var n, all int64
	for _, r := range runs {
		n += r.Figures.Late
		all += r.Figures.Requests + r.Figures.ErrorCount()
	}
	if all == 0 {
		return 0
	}
	return float64(n) / float64(all)
}

// remark is what is true of some subjects in a phase.
type remark struct {
	what string
	who  []string
	by   string // stands between them
}

// remarks are the sentences below a table that say which figures are limited and which requests failed: one of each kind, with all
// phases and subjects that it is true of.
func (g group) remarks(ceilings []result.Ceiling) []string {
	var kinds, out []string
	told := map[string][]string{}
	for _, phase := range g.phases() {
		for _, r := range g.remarksOf(limitsOf(ceilings, g, phase), phase) {
			if len(r.who) == 0 {
				continue
			}
			if told[r.what] == nil {
				kinds = append(kinds, r.what)
			}
			who := strings.Join(r.who, r.by)
			if name := clean(phaseName(g, phase)); name != "" {
				who += " (" + name + ")"
			}
			told[r.what] = append(told[r.what], who)
		}
	}
	for _, what := range kinds {
		out = append(out, what+strings.Join(told[what], "; ")+".")
	}
	return out
}

func (g group) remarksOf(l limits, phase string) []remark {
	var limited, short, began, failed []string
	asked := 0.0
	for _, subject := range g.subjects() {
		runs, who := g.of(subject, phase), clean(subject)
		if len(runs) == 0 {
			continue
		}
		if l.generator(subject, runs) {
			limited = append(limited, who)
		}
		if reached := result.Over(runs, rate).Median; reached < behind*runs[0].Asked {
			asked, short = runs[0].Asked, append(short, who+" "+number(reached))
		}
		if share := late(runs); share >= manyLate {
			began = append(began, who+" "+percent(share))
		}
		if classes := result.ErrorsOf(runs); len(classes) > 0 {
			failed = append(failed, who+" "+classList(classes))
		}
	}
	return []remark{
		{fmt.Sprintf("≥: near or above what generator and upstream reach with nothing between, %s/s, so they may have been the limit and the subject may do more: ", number(l.ceiling)), limited, ", "},
		{fmt.Sprintf("of %s requests a second that were due, fewer were answered rightly, over the subject's limit or the generator's: ", number(asked)), short, ", "},
		{"†: began over 1 ms after they were due, as no caller was free or the generator was late: ", began, ", "},
		{"errors: ", failed, "; "},
	}
}

// mostClasses bounds what a table says of errors.
const mostClasses = 6

func classList(classes []result.ClassCount) string {
	var out []string
	for i, c := range classes {
		if i == mostClasses {
			out = append(out, plural(len(classes)-i, "more kind"))
			break
		}
		out = append(out, count(c.Count)+" "+shorten(clean(c.Class), 60))
	}
	return strings.Join(out, ", ")
}

func rate(f result.Figures) float64 { return f.Rate }
