package report

import (
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/result"
)

// TestStolenTimeIsTold: figures of a machine whose host was busy do not stand there as if they were good.
func TestStolenTimeIsTold(t *testing.T) {
	told := func(share float64) bool {
		return slices.ContainsFunc(warnings(&result.Report{Complete: true, Machine: result.Machine{Stolen: share}}),
			func(s string) bool { return strings.Contains(s, "gave 34") })
	}
	if !told(0.34) || told(0.01) {
		t.Errorf("told of 34%%: %v, of 1%%: %v", told(0.34), told(0.01))
	}
}
