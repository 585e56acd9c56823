package report

import (
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/result"
)

// TestMerged holds that what a suite measures in several goes is one section, unless the goes would be mixed up.
func TestMerged(t *testing.T) {
	go1 := result.Scenario{Name: "throughput", Runs: []result.Run{{Subject: ours, Variant: "http1", Turn: 1}}, Notes: []string{"a", "b"}}
	go2 := result.Scenario{Name: "throughput", Runs: []result.Run{{Subject: ours, Variant: "grpc", Turn: 1}}, Notes: []string{"b", "c"}}
	other := result.Scenario{Name: "drain", Runs: []result.Run{{Subject: ours, Variant: "http1", Turn: 1}}, Notes: []string{"b"}}
	got := merged([]result.Scenario{go1, go2, other, go1})
	if len(got) != 3 || len(got[0].Runs) != 2 || got[1].Name != "drain" || len(got[2].Runs) != 1 {
		t.Fatalf("got %+v", got)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(got[0].Notes, want) || len(go1.Notes) != 2 {
		t.Errorf("notes %v, want %v", got[0].Notes, want)
	}
	if got := common(got); !slices.Equal(got, []string{"b"}) {
		t.Errorf("common notes: %v", got)
	}
}

// TestReason holds that a report that failed does not say that it was interrupted.
func TestReason(t *testing.T) {
	got := string(render(t, Text, &result.Report{V: 1, Reason: "the disk is full\x1b[2J."}))
	if want := "Why: the disk is full [2J.\n"; !strings.Contains(got, want) || strings.Contains(got, "interrupted") {
		t.Errorf("got\n%s\nwant %q", got, want)
	}
}

// TestReasonOfAWholeReport holds that one in which too much went wrong says so, and not that it ended early.
func TestReasonOfAWholeReport(t *testing.T) {
	got := string(render(t, Text, &result.Report{V: 1, Complete: true, Reason: "9 of 10 requests went wrong"}))
	if !strings.Contains(got, "more went wrong than may: 9 of 10 requests") || strings.Contains(got, "ended early") {
		t.Errorf("got\n%s", got)
	}
}

// TestRatiosOfAllFigures holds that each figure stands beside the yardstick's, with its spread.
func TestRatiosOfAllFigures(t *testing.T) {
	var s result.Scenario
	for turn, times := range []float64{2, 4, 3} {
		for _, subject := range []string{"nginx", ours} {
			r := one(subject, 100, 0)
			by := 1.0
			if subject == ours {
				by = times
			}
			f := &r.Figures
			r.Turn, f.CPUMicros, f.RSS, f.Rate = turn+1, 10*by, int64(1000*by), 100*by
			f.Latency = result.Latency{Count: 9, P50: 5 * by, P99: 7 * by, P999: 9 * by}
			s.Runs = append(s.Runs, r)
		}
	}
	p := newRows(nil, s, groups(s)[0]).beside()
	if len(p.table.rows) != 1 {
		t.Fatalf("got %+v", p.table.rows)
	}
	for i, title := range []string{"CPU ÷ nginx", "rate ÷ nginx", "p50 ÷ nginx", "p99 ÷ nginx", "p99.9 ÷ nginx", "RSS ÷ nginx"} {
		if got, want := p.table.rows[0][i+1], (cell{"3.00×", "±67%"}); p.table.columns[i+1].title != title || got != want {
			t.Errorf("%s: got %q %+v, want %+v", title, p.table.columns[i+1].title, got, want)
		}
	}
}
