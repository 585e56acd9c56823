package report

import (
	"slices"

	"github.com/polygate/polygate/bench/result"
)

// group is what is compared with each other: all runs of one load of a scenario in one variant.
type group struct {
	variant, load string
	runs          []result.Run
}

// groups sorts the runs of a scenario, in the order in which they were measured.
func groups(s result.Scenario) []group {
	var out []group
	for _, r := range s.Runs {
		i := slices.IndexFunc(out, func(g group) bool { return g.variant == r.Variant && g.load == r.Load })
		if i < 0 {
			i = len(out)
			out = append(out, group{variant: r.Variant, load: r.Load})
		}
		out[i].runs = append(out[i].runs, r)
	}
	return out
}

// of returns the runs of a subject in a phase.
func (g group) of(subject, phase string) []result.Run {
	var out []result.Run
	for _, r := range g.runs {
		if r.Subject == subject && r.Phase == phase {
			out = append(out, r)
		}
	}
	return out
}

func (g group) subjects() []string {
	return distinct(g.runs, func(r result.Run) string { return r.Subject })
}
func (g group) phases() []string {
	return distinct(g.runs, func(r result.Run) string { return r.Phase })
}

// turns is the highest number of a turn.
func (g group) turns() int {
	n := 0
	for _, r := range g.runs {
		n = max(n, r.Turn)
	}
	return n
}

// distinct returns the words of runs, each once, in the order in which they come.
func distinct(runs []result.Run, word func(result.Run) string) []string {
	var out []string
	for _, r := range runs {
		if w := word(r); !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// The subjects by the names that the lab gives them.
const (
	ours   = "polygate"
	direct = "direct"
)

// yardstick returns the subject that others are divided by: the one that most readers know. Where nothing is between client and
// upstream there is no proxy's cost, so direct is the last choice. It is "" where there is nothing to compare with.
func yardstick(subjects []string) string {
	for _, s := range []string{"nginx", "haproxy", "caddy", "httputil", direct} {
		if slices.Contains(subjects, s) && len(subjects) > 1 {
			return s
		}
	}
	if len(subjects) > 1 {
		return subjects[0]
	}
	return ""
}
