package report

import (
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/result"
)

// one is a run of a subject at a rate.
func one(subject string, rate, asked float64) result.Run {
	return result.Run{Subject: subject, Variant: "http1, key", Turn: 1, Phase: "steady", Load: "all", Asked: asked,
		Figures: result.Figures{Requests: 1000, Rate: rate, CPUMicros: 20, Latency: result.Latency{Count: 1000, P99: 5}}}
}

// cellOf returns a subject's figure in a column.
func cellOf(t *testing.T, tab table, subject, title string) string {
	t.Helper()
	i := slices.IndexFunc(tab.columns, func(c column) bool { return c.title == title })
	for _, row := range tab.rows {
		if i >= 0 && row[0].main == subject {
			return row[i].main
		}
	}
	return ""
}

// TestCeiling holds that a rate that the generator limited is marked, and so is each ratio with it.
func TestCeiling(t *testing.T) {
	for _, c := range []struct {
		name      string
		runs      []result.Run
		ceilings  []result.Ceiling
		rate      string // polygate's
		ratio     string
		explained bool
	}{
		{"far below", []result.Run{one(direct, 40000, 0), one("nginx", 30000, 0), one(ours, 10000, 0)}, nil, "10,000", "0.33×", false},
		{"the subject is near", []result.Run{one(direct, 40000, 0), one("nginx", 30000, 0), one(ours, 36000, 0)}, nil, "≥ 36,000", "≥ 1.20×", true},
		{"the yardstick is near", []result.Run{one(direct, 40000, 0), one("nginx", 39000, 0), one(ours, 19500, 0)}, nil, "19,500", "≤ 0.50×", true},
		{"both are near", []result.Run{one(direct, 40000, 0), one("nginx", 39000, 0), one(ours, 39000, 0)}, nil, "≥ 39,000", "", true},
		{"an open loop has no ceiling", []result.Run{one(direct, 4000, 4000), one("nginx", 4000, 4000), one(ours, 4000, 4000)}, nil, "4,000", "", false},
		{"measured by itself", []result.Run{one("nginx", 10000, 0), one(ours, 38000, 0)}, []result.Ceiling{{Protocol: "http1", Rate: 40000}}, "≥ 38,000", "≥ 3.80×", true},
		{"another protocol's", []result.Run{one("nginx", 10000, 0), one(ours, 38000, 0)}, []result.Ceiling{{Protocol: "http2", Rate: 40000}, {Protocol: "http", Rate: 1}}, "38,000", "3.80×", false},
		{"the closest one", []result.Run{one("nginx", 10000, 0), one(ours, 38000, 0)}, []result.Ceiling{{Protocol: "http1, key", Rate: 80000}, {Protocol: "http1", Rate: 40000}}, "38,000", "3.80×", false},
		{"what is near counts more", []result.Run{one(direct, 90000, 0), one("nginx", 10000, 0), one(ours, 38000, 0)}, []result.Ceiling{{Protocol: "http1", Rate: 40000}}, "38,000", "3.80×", false},
	} {
		scenario := result.Scenario{Runs: c.runs}
		rows := newRows(c.ceilings, scenario, groups(scenario)[0])
		p := rows.part()
		if got := cellOf(t, p.table, ours, "requests/s"); got != c.rate {
			t.Errorf("%s: rate: got %q, want %q", c.name, got, c.rate)
		}
		if got := cellOf(t, rows.beside().table, ours, "rate ÷ nginx"); strings.Trim(got, unknown) != c.ratio {
			t.Errorf("%s: ratio: got %q, want %q", c.name, got, c.ratio)
		}
		if got := strings.Contains(strings.Join(p.notes, "\n"), "≥:"); got != c.explained {
			t.Errorf("%s: notes: %q", c.name, p.notes)
		}
	}
}

func TestRemarks(t *testing.T) {
	behindRun := one(ours, 3000, 4000)
	lateRun := one("nginx", 4000, 4000)
	lateRun.Figures.Late = 50
	wrong := one("caddy", 4000, 4000)
	wrong.Figures.Errors = map[string]int64{"a": 9, "b": 8, "c": 7, "d": 6, "e": 5, "f": 4, "g": 3, "h": 2}
	scenario := result.Scenario{Runs: []result.Run{behindRun, lateRun, wrong}}
	p := newRows(nil, scenario, groups(scenario)[0]).part()
	want := []string{
		"of 4,000 requests a second that were due, fewer were answered rightly, over the subject's limit or the generator's: polygate 3,000.",
		"†: began over 1 ms after they were due, as no caller was free or the generator was late: nginx 5.0%.",
		"errors: caddy 9 a, 8 b, 7 c, 6 d, 5 e, 4 f, 2 more kinds.",
	}
	if !slices.Equal(p.notes, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(p.notes, "\n"), strings.Join(want, "\n"))
	}
	if got := cellOf(t, p.table, "nginx", "p99"); got != "5.00 µs †" {
		t.Errorf("the percentile of late requests: got %q", got)
	}
	if got := cellOf(t, p.table, "caddy", "errors"); got != "44" {
		t.Errorf("errors: got %q", got)
	}
}

// TestRemarksOfPhases holds that one kind of remark is one sentence, however many phases it is true of.
func TestRemarksOfPhases(t *testing.T) {
	var s result.Scenario
	for _, phase := range []string{"slow", "fast"} {
		for _, subject := range []string{ours, "nginx"} {
			r := one(subject, 4000, 4000)
			r.Phase, r.Figures.Late = phase, 50
			s.Runs = append(s.Runs, r)
		}
	}
	s.Runs[3].Figures.Late = 0
	got := groups(s)[0].remarks(nil)
	want := []string{"†: began over 1 ms after they were due, as no caller was free or the generator was late: polygate 5.0%, nginx 5.0% (slow); polygate 5.0% (fast)."}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestYardstick(t *testing.T) {
	for _, c := range []struct {
		subjects []string
		want     string
	}{
		{nil, ""}, {[]string{"polygate"}, ""}, {[]string{"polygate", "direct", "haproxy", "nginx"}, "nginx"}, {[]string{"direct", "haproxy", "polygate"}, "haproxy"},
		{[]string{"polygate", "direct"}, "direct"}, {[]string{"polygate", "polygate-each"}, "polygate"},
	} {
		if got := yardstick(c.subjects); got != c.want {
			t.Errorf("%v: got %q, want %q", c.subjects, got, c.want)
		}
	}
}

// TestPhases holds that a load is compared with its own first phase, turn by turn, and never with another load's.
func TestPhases(t *testing.T) {
	alone, beside, other := one(ours, 100, 100), one(ours, 100, 100), one(ours, 100, 100)
	alone.Phase, beside.Phase, other.Phase, other.Load = "alone", "beside", "beside", "aggressor"
	beside.Figures.Latency.P99 = 20
	s := scenarioSection(nil, result.Scenario{Runs: []result.Run{alone, beside, other}}, nil)
	if len(s.parts) != 2 {
		t.Fatalf("%d tables, want one for each load", len(s.parts))
	}
	if rows := s.parts[0].table.rows; len(rows) != 2 || rows[1][1].main != "beside" {
		t.Fatalf("got %v", rows)
	}
	i := slices.IndexFunc(s.parts[0].table.columns, func(c column) bool { return c.title == "p99 ÷ alone" })
	if i < 0 || s.parts[0].table.rows[0][i].main != "1×" || s.parts[0].table.rows[1][i].main != "4.00×" {
		t.Errorf("got %+v", s.parts[0].table)
	}
}

// TestSharedCost holds that the CPU time of loads that ran together is told once: it is of all of them.
func TestSharedCost(t *testing.T) {
	var runs []result.Run
	for _, subject := range []string{ours, "nginx"} {
		for _, load := range []string{"pages", "streams"} {
			r := one(subject, 100, 0)
			r.Load = load
			runs = append(runs, r)
		}
	}
	mixed := result.Scenario{Name: "mixed", Runs: runs}
	if got := glance([]result.Scenario{mixed}).parts[0].table.rows; len(got) != 1 {
		t.Errorf("at a glance: %d rows, want 1", len(got))
	}
	parts := scenarioSection(nil, mixed, nil).parts
	n := 0
	for _, p := range parts {
		n += len(p.plots)
	}
	if n != 1 {
		t.Errorf("%d plots of the cost, want 1", n)
	}
	for i, title := range []string{"CPU µs/request", "CPU ÷ nginx"} {
		if got := cellOf(t, parts[i].table, ours, title); got == "" {
			t.Errorf("%s does not stand with the first load", title)
		}
		if got := cellOf(t, parts[i+2].table, ours, title); got != "" {
			t.Errorf("%s stands with the second load too: %s", title, got)
		}
	}
	for i, want := range []string{"CPU µs/request is of all loads together (pages, streams).", "CPU µs/request is of all loads together (pages, streams); it stands with pages."} {
		if !slices.Contains(parts[2*i].notes, want) {
			t.Errorf("notes %q, want %q", parts[2*i].notes, want)
		}
	}
}
