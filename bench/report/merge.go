package report

import (
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
)

// merged puts together the scenarios that one name and description belong to, as a suite measures one scenario's variants in several
// goes. Those that have a load of one variant in common stay apart: their turns are not of one measurement.
func merged(scenarios []result.Scenario) []result.Scenario {
	var out []result.Scenario
	for _, s := range scenarios {
		i := slices.IndexFunc(out, func(o result.Scenario) bool { return o.Name == s.Name && o.About == s.About && !overlap(o, s) })
		if i < 0 {
			out = append(out, s)
			continue
		}
		out[i].Runs = slices.Concat(out[i].Runs, s.Runs)
		for _, n := range s.Notes {
			if !slices.Contains(out[i].Notes, n) {
				out[i].Notes = append(slices.Clip(out[i].Notes), n)
			}
		}
	}
	return out
}

func overlap(a, b result.Scenario) bool {
	variants := distinct(a.Runs, func(r result.Run) string { return r.Variant })
	return slices.ContainsFunc(b.Runs, func(r result.Run) bool { return slices.Contains(variants, r.Variant) })
}

// common returns the notes that all of several scenarios have: they are said once.
func common(scenarios []result.Scenario) []string {
	if len(scenarios) < 2 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(scenarios[0].Notes), func(n string) bool {
		return slices.ContainsFunc(scenarios, func(s result.Scenario) bool { return !slices.Contains(s.Notes, n) })
	})
}

// setting is the fact that common notes are.
func setting(notes []string) fact {
	words := make([]string, len(notes))
	for i, n := range notes {
		words[i] = clean(n)
	}
	return fact{"setting", strings.Join(words, "; ")}
}
