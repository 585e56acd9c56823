package main

import (
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// TestWrongAnswersAreMeasured: a run in which too much went wrong fails, but it is whole.
func TestWrongAnswersAreMeasured(t *testing.T) {
	r := &runner{bench: bench{report: &result.Report{}}, maxErrors: 0.01}
	found := result.Scenario{Runs: []result.Run{{Subject: "x", Load: "all", Figures: result.Figures{Seconds: 1, Requests: 1, Errors: map[string]int64{"status 503": 9}}}}}
	if err := r.add(&scenario.Scenario{Name: "s"}, found, nil); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if len(r.wrong) != 1 || !strings.Contains(r.wrong[0].Error(), "9 of 10 requests went wrong") || len(r.report.Scenarios) != 1 {
		t.Errorf("got %v, %+v", r.wrong, r.report.Scenarios)
	}
}
