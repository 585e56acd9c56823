package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Judge returns an error if more than a share of a scenario's requests went wrong. Phases in which something is done to the gateway
// are not judged: what that costs is what they measure.
func Judge(sc *scenario.Scenario, found result.Scenario, share float64) error {
	if len(found.Runs) == 0 {
		return fmt.Errorf("scenario %s: nothing was measured", sc.Name)
	}
	spared := make(map[string]bool)
	for _, ph := range sc.Phases {
		spared[ph.Name] = len(ph.Events) > 0
	}
	var bad []string
	for _, r := range found.Runs {
		wrong := r.Figures.ErrorCount()
		if wrong == 0 && r.Figures.Requests == 0 {
			bad = append(bad, fmt.Sprintf("%s, %s, load %s: no request was answered", r.Subject, r.Phase, r.Load))
		}
		if all := wrong + r.Figures.Requests; !spared[r.Phase] && all > 0 && float64(wrong) > share*float64(all) {
			bad = append(bad, fmt.Sprintf("%s, %s, load %s: %d of %d requests went wrong (%s)", r.Subject, r.Phase, r.Load, wrong, all, classes(r.Figures.Errors)))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("scenario %s: %s", sc.Name, strings.Join(bad, "; "))
}

func classes(errs map[string]int64) string {
	var out []string
	for _, c := range slices.Sorted(maps.Keys(errs)) {
		out = append(out, fmt.Sprintf("%s: %d", c, errs[c]))
	}
	return strings.Join(out, ", ")
}
