package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/bench/result"
)

// busy is the load average per core above which the machine's other work is worth a warning.
const busy = 0.3

// stolen is the share of time given to other machines above which the figures are worth a warning.
const stolen = 0.02

// build lays a report out: the same for all forms.
func build(r *result.Report) document {
	scenarios := merged(r.Scenarios)
	everywhere := common(scenarios)
	d := document{title: "What polybench measured", warnings: warnings(r), facts: facts(r, everywhere)}
	sections := []section{glance(scenarios)}
	for _, s := range scenarios {
		sections = append(sections, scenarioSection(r.Ceilings, s, everywhere))
	}
	sections = append(sections, tenantsSection(r.Tenants), capacitySection(r.Capacity), ceilingSection(r.Ceilings))
	for _, s := range sections {
		if len(s.parts) > 0 || s.about != "" {
			d.sections = append(d.sections, s)
		}
	}
	return d
}

// warnings are what a reader has to know before any figure.
func warnings(r *result.Report) []string {
	var out []string
	switch why := strings.TrimRight(clean(r.Reason), ". "); {
	case r.Complete && why != "":
		out = append(out, "All was measured, but more went wrong than may: "+why+".")
	case r.Complete:
	case why != "":
		out = append(out, "It ended early, and holds what was measured until then. Why: "+why+".")
	default:
		out = append(out, "It was interrupted: this holds what was measured until then.")
	}
	if r.Machine.Cores > 0 && r.Machine.Load > busy*float64(r.Machine.Cores) {
		out = append(out, fmt.Sprintf("The machine had other work as it began (a load of %s on %s): rates and latencies are worse than they could be.",
			number(r.Machine.Load), plural(r.Machine.Cores, "core")))
	}
	if s := r.Machine.Stolen; s > stolen {
		out = append(out, fmt.Sprintf("The machine is a virtual one, and its host gave %s%% of its processors' time to others meanwhile: do not trust rates and latencies, and measure again when it is calm.",
			number(100*s)))
	}
	for _, s := range r.Skipped {
		out = append(out, fmt.Sprintf("Not measured: %s (%s).", clean(s.Subject), strings.TrimRight(clean(s.Why), ". ")))
	}
	return out
}

// facts are where, when and with what it was measured.
func facts(r *result.Report, everywhere []string) []fact {
	out := []fact{
		{"command", clean(r.Command)},
		{"date", r.Started.UTC().Format("2006-01-02 15:04 UTC")},
		{"took", (time.Duration(r.Seconds) * time.Second).String()},
		{"machine", machine(r.Machine)},
		setting(everywhere),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		out = append(out, fact{clean(name), clean(r.Versions[name])})
	}
	return slices.DeleteFunc(out, func(f fact) bool { return f.value == "" })
}

func machine(m result.Machine) string {
	words := []string{clean(m.CPU)}
	if m.Cores > 0 {
		words = append(words, plural(m.Cores, "core"))
	}
	if m.Memory > 0 {
		words = append(words, size(float64(m.Memory)))
	}
	words = append(words, clean(m.OS))
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), ", ")
}

const (
	meansOurs    = "Polygate's CPU time of a request divided by the subject's: below 1× it spends less, above 1× more."
	meansCeiling = "What the generator reaches against the lab's upstream with nothing between, and what both spend on a request together. A subject near it may be measured too " +
		"low. One can lie above it where the upstream was the limit and not the generator, as a proxy takes work from it."
)

// glance is the first table: what a request costs in Polygate, against each peer.
func glance(scenarios []result.Scenario) section {
	t := table{columns: []column{{title: "measured", words: true}}}
	peers := peersOf(scenarios)
	for _, p := range peers {
		t.columns = append(t.columns, column{title: "÷ " + clean(p), meaning: meansOurs})
	}
	for _, s := range scenarios {
		for _, g := range groups(s) {
			t.rows = append(t.rows, glanceRows(s, g, peers)...)
		}
	}
	out := section{title: "At a glance"}
	if len(t.rows) > 0 {
		out.parts = []part{{title: "Polygate's CPU time of a request, against its peers", table: t.compact()}}
	}
	return out
}

// peersOf returns whom Polygate is compared with: all but the way with nothing between, whose CPU time is no proxy's.
func peersOf(scenarios []result.Scenario) []string {
	var out []string
	for _, s := range scenarios {
		for _, name := range distinct(s.Runs, func(r result.Run) string { return r.Subject }) {
			if name != ours && name != direct && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// glanceRows has a row for each phase. Where several loads call at once, the CPU time is of all of them together, so the first tells it.
func glanceRows(s result.Scenario, g group, peers []string) [][]cell {
	var rows [][]cell
	for _, phase := range g.phases() {
		if !tellsCost(s, g, phase) {
			continue
		}
		row := []cell{word(strings.Join(notEmpty(s.Name, g.variant, loadName(s, g), phaseName(g, phase)), " · "))}
		some := false
		for _, peer := range peers {
			ratio := result.Ratio(g.of(ours, phase), g.of(peer, phase), result.Figures.CPU)
			some = some || ratio.Known()
			row = append(row, spread(ratio, times))
		}
		if some {
			rows = append(rows, row)
		}
	}
	return rows
}

// tellsCost tells whether a group's load is the first of those that call in a phase.
func tellsCost(s result.Scenario, g group, phase string) bool {
	i := slices.IndexFunc(s.Runs, func(r result.Run) bool { return r.Variant == g.variant && r.Phase == phase })
	return i >= 0 && s.Runs[i].Load == g.load
}

// loadName tells groups apart that have one variant and tell a cost each; it is "" where there is but one.
func loadName(s result.Scenario, g group) string {
	for _, r := range s.Runs {
		other := group{variant: r.Variant, load: r.Load}
		if other.variant == g.variant && other.load != g.load && tellsCost(s, other, r.Phase) {
			return g.load
		}
	}
	return ""
}

// phaseName is "" where there is but one phase.
func phaseName(g group, phase string) string {
	if len(g.phases()) < 2 {
		return ""
	}
	return phase
}

func notEmpty(words ...string) []string {
	return slices.DeleteFunc(words, func(s string) bool { return s == "" })
}

// ceilingSection says what the generator could do.
func ceilingSection(ceilings []result.Ceiling) section {
	t := table{columns: []column{{title: "protocol", words: true}, {title: "ceiling requests/s", meaning: meansCeiling}, {title: "CPU µs of both", meaning: meansCeiling}}}
	for _, c := range ceilings {
		t.rows = append(t.rows, []cell{word(c.Protocol), {main: number(c.Rate)}, {main: number(c.CPUMicros)}})
	}
	out := section{title: "The generator's ceiling, with nothing between"}
	if len(t.rows) > 0 {
		out.parts = []part{{table: t}}
	}
	return out
}
