package scenario_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/scenario"
)

// with returns a good scenario whose load and phase have these settings beside their names.
func with(load, phase string) string {
	return "name: x\nloads:\n  - {name: a" + load + "}\nphases:\n  - {name: p" + phase + "}\n"
}

func parse(t *testing.T, src string) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse("x.yaml", []byte(src))
	if err != nil {
		t.Fatalf("%s\n%v", src, err)
	}
	return s
}

func TestParseFillsIn(t *testing.T) {
	got := parse(t, with("", ", duration: 1s"))
	want := &scenario.Scenario{
		Name: "x", Site: scenario.Site{Tenants: 8, AnswerBytes: 520, Replicas: 1, Cores: 1},
		Loads: []scenario.Load{{
			Name: "a", Protocol: scenario.HTTP1, Loop: scenario.Closed, Concurrency: 32, Connections: scenario.Kept,
			Credential: scenario.NoCredential, Tenants: scenario.Draw{Draw: scenario.Uniform}, Method: "GET", Timeout: 10 * time.Second,
		}},
		Phases: []scenario.Phase{{Name: "p", Loads: []scenario.PhaseLoad{{Load: "a", Concurrency: 32}}, Duration: time.Second}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDefaultsThatHangTogether(t *testing.T) {
	for _, tc := range []struct {
		load string
		got  func(scenario.Load) any
		want any
	}{
		{", loop: open, rate: 5", func(l scenario.Load) any { return l.Concurrency }, 256},
		{", body_bytes: 5", func(l scenario.Load) any { return l.Method }, "POST"},
		{", body_bytes: 5, method: PUT", func(l scenario.Load) any { return l.Method }, "PUT"},
		{", protocol: websocket", func(l scenario.Load) any { return l.BodyBytes }, 64},
		{", protocol: websocket, body_bytes: 0", func(l scenario.Load) any { return l.BodyBytes }, 0},
		{", protocol: websocket", func(l scenario.Load) any { return l.Messages }, 0},
		{", protocol: websocket, connections: new", func(l scenario.Load) any { return l.Messages }, 10},
		{", protocol: sse", func(l scenario.Load) any { return l.Messages }, 10},
		{", protocol: grpc", func(l scenario.Load) any { return l.Method }, ""},
		{", tenants: {draw: zipf}", func(l scenario.Load) any { return l.Tenants.Skew }, 1.0},
		{", tenants: {draw: zipf, skew: 0.4}", func(l scenario.Load) any { return l.Tenants.Skew }, 0.4},
		{", timeout: 1m30s", func(l scenario.Load) any { return l.Timeout }, 90 * time.Second},
	} {
		if got := tc.got(parse(t, with(tc.load, ", duration: 1s")).Loads[0]); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.load, got, tc.want)
		}
	}
}

func TestPhaseTakesWhatItDoesNotSayFromTheLoad(t *testing.T) {
	s := parse(t, with(", loop: open, rate: 7, concurrency: 9", ", duration: 1s, loads: [{load: a, rate: 8}]"))
	if got, want := s.Phases[0].Loads[0], (scenario.PhaseLoad{Load: "a", Rate: 8, Concurrency: 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	s = parse(t, with("", ", duration: 1s, events: [{do: stall}]"))
	if got := s.Phases[0].Events[0].For; got != time.Second {
		t.Errorf("a stall lasts %v, want 1s", got)
	}
}

func TestCapacityFillsIn(t *testing.T) {
	s := parse(t, "name: x\ncapacity: {registered: [0, 300]}\n")
	if got, want := *s.Capacity, (scenario.Capacity{Registered: []int{0, 300}, Active: 300, Connected: 1000}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestRefused: each is refused at its place, and the message says what to do.
func TestRefused(t *testing.T) {
	for src, want := range map[string]string{
		// the file
		"":                            "x.yaml:1:1: is empty",
		"# nothing\n":                 "x.yaml:1:1: is empty",
		"- a\n":                       "x.yaml:1:1: is a list where settings",
		"name: x\n---\na: b\n":        "x.yaml:3:1: is a second YAML document",
		"name: &n x\n":                "x.yaml:1:7: YAML's anchor is not supported",
		"name: x\x00\n":               "x.yaml:1:8: is not plain UTF-8 text",
		"name: [[[[[[[[[[[[[[[[[[x\n": "x.yaml:1:23: is nested more than 16 deep",
		"name: \"x\n":                 "x.yaml:1:7: ",
		"name: x\nlaods: []\n":        `x.yaml:2:1: "laods" is unknown here: known are name, about, site, loads, phases, capacity`,
		"name: x\nname: y\n":          "x.yaml:2:1: ",
		"name: x\n":                   "x.yaml:1:1: loads: there are 0: describe 1 to 32, or capacity:",
		"name: X!\ncapacity: {registered: [1]}\n":                          `x.yaml:1:7: name: "X!" is no name`,
		"capacity: {registered: [1]}\n":                                    "x.yaml:1:1: name: is missing",
		"name: x\nsite: {tenants: 0}\ncapacity: {registered: [1]}\n":       "x.yaml:2:17: site.tenants: 0 is out of range: use 1 to 100000",
		"name: x\nsite: {tenants: 1.5}\ncapacity: {registered: [1]}\n":     `x.yaml:2:17: site.tenants: "1.5" is not a whole number`,
		"name: x\nsite: {answer_bytes: 63}\ncapacity: {registered: [1]}\n": "x.yaml:2:22: site.answer_bytes: 63 is out of range",
		"name: x\ncapacity: {registered: []}\n":                            "x.yaml:2:24: capacity.registered: has 0 numbers",
		"name: x\ncapacity: {registered: [5, 5]}\n":                        "x.yaml:2:28: capacity.registered[1]: 5 is there twice",
		"name: x\ncapacity: {registered: [5], active: 6}\n":                "x.yaml:2:37: capacity.active: 6 of at most 5 registered",
		"name: x\nloads: [{name: a}]\ncapacity: {registered: [5]}\n":       "x.yaml:3:11: capacity: is measured alone",
		// loads
		with(", protocol: http3", ", duration: 1s"):                             `protocol: "http3" is unknown here: known are http1, http2, websocket, sse, mcp, grpc`,
		with(", rate: 5", ", duration: 1s"):                                     "a closed loop has none",
		with(", loop: open", ", duration: 1s"):                                  "load \"a\" is an open loop, and has no rate in this phase",
		with(", loop: open, rate: -1", ", duration: 1s"):                        "-1 requests a second is out of range",
		with(", loop: open, rate: .nan", ", duration: 1s"):                      `".nan" is not a number`,
		with(", concurrency: 0", ", duration: 1s"):                              "concurrency: 0 is out of range: use 1 to",
		with(", resume: true", ", duration: 1s"):                                "write connections: new",
		with(", resume: yes", ", duration: 1s"):                                 `must be true or false`,
		with(", path: a", ", duration: 1s"):                                     `"a" is no path: begin with /`,
		with(", path: '/a b'", ", duration: 1s"):                                "is no path",
		with(", method: HEAD", ", duration: 1s"):                                "use GET",
		with(", method: BREW", ", duration: 1s"):                                `"BREW" is unknown here`,
		with(", method: GET, body_bytes: 3", ", duration: 1s"):                  "a GET has no body: write method: POST",
		with(", protocol: grpc, method: POST", ", duration: 1s"):                "grpc has a method of its own",
		with(", protocol: sse, body_bytes: 3", ", duration: 1s"):                "which has no body",
		with(", protocol: http2, messages: 3", ", duration: 1s"):                "http2 has one answer to a request",
		with(", protocol: websocket, messages: 3", ", duration: 1s"):            "write connections: new",
		with(", interval: 1s", ", duration: 1s"):                                "write protocol: sse",
		with(", protocol: sse, interval: 1s", ", duration: 1s"):                 "10 events with 1s between them last 10s, but a stream may last only for the timeout of 10s",
		with(", timeout: 0s", ", duration: 1s"):                                 "timeout: 0s is out of range",
		with(", timeout: 10", ", duration: 1s"):                                 "10 has no unit: write, for example, 10s",
		with(", tenants: {skew: 1}", ", duration: 1s"):                          "skew: belongs to draw: zipf",
		with(", tenants: {draw: zipf, skew: 0}", ", duration: 1s"):              "skew: 0 is out of range",
		with(", tenants: {draw: list}", ", duration: 1s"):                       "names 0 tenants",
		with(", tenants: {list: [t0]}", ", duration: 1s"):                       "list: belongs to draw: list",
		with(", tenants: {draw: list, list: [t0, t0]}", ", duration: 1s"):       `"t0" is there twice`,
		with(", tenants: {draw: list, list: [t0], first: 1}", ", duration: 1s"): "take first and count away",
		with(", tenants: {first: 8}", ", duration: 1s"):                         "8 is no number of the site's 8 tenants",
		with(", tenants: {first: 7, count: 2}", ", duration: 1s"):               "2 tenants from number 7 on are more than the site's 8",
		with("}\n  - {name: a", ", duration: 1s"):                               `"a" is another load's`,
		with("}\n  - {name: b", ", duration: 1s, loads: [{load: a}]"):           "x.yaml:4:5: loads[1]: no phase has it",
		// phases
		with("", ""):                                                 "x.yaml:5:5: phases[0].duration: is missing",
		with("", ", duration: -1s"):                                  "duration: -1s is out of range",
		with("", ", duration: 1s, loads: []"):                        "names none",
		with("", ", duration: 1s, loads: [{load: b}]"):               `there is no load "b"`,
		with("", ", duration: 1s, loads: [{load: a}, {load: a}]"):    `"a" is in the phase twice`,
		with("", ", duration: 1s, loads: [{load: a, rate: 5}]"):      "is a closed loop, which has none",
		with("", ", duration: 1s, ramp: 1s"):                         "use warmup, or loop: open",
		with(", tenants: {draw: each}", ", warmup: 1s"):              "take ramp and warmup away",
		with("", ", duration: 1s}\n  - {name: p, duration: 1s"):      `"p" is another phase's`,
		with("", ", duration: 1s, events: [{do: dance}]"):            `"dance" is unknown here: known are reload, crash, drain, stall`,
		with("", ", duration: 1s, events: [{at: 1s, do: crash}]"):    "1s is not within the phase",
		with("", ", duration: 9s, events: [{every: 1s, do: crash}]"): "1s is too short for crash to be over: use 5s",
		with("", ", duration: 9s, events: [{every: 1s, do: stall}]"): "use 1.1s at least",
		with("", ", duration: 9s, events: [{for: 1s, do: reload}]"):  "for: belongs to do: stall",
	} {
		_, err := scenario.Parse("x.yaml", []byte(src))
		var problems scenario.Problems
		if !errors.As(err, &problems) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngot  %v\nwant %s", src, err, want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "x.yaml:") {
			t.Errorf("%s\n%v does not say where", src, err)
		}
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	_, err := scenario.Parse("x.yaml", []byte(with(", rate: 5, resume: true", ", events: [{do: dance}]")))
	want := []string{"x.yaml:3:21: ", "x.yaml:3:32: ", "x.yaml:5:5: ", "x.yaml:5:29: "}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got\n%v\nwant %d lines", err, len(want))
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("got %s, want %s…", lines[i], w)
		}
	}
}

func TestReadTakesAPathOrAName(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(file, []byte(with("", ", duration: 1s")), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := scenario.Read(file); err != nil || s.Name != "x" {
		t.Errorf("a path: got %v, %v", s, err)
	}
	if s, err := scenario.Read("throughput"); err != nil || s.Name != "throughput" {
		t.Errorf("a name: got %v, %v", s, err)
	}
	if _, err := scenario.Read("thruput"); err == nil || !strings.Contains(err.Error(), "there are capacity, cold-tenants") {
		t.Errorf("a name that is not there: got %v", err)
	}
	if _, err := scenario.Read("./none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that is not there: got %v", err)
	}
}

// TestValidateHoldsForWhatWasChanged: a scenario that flags changed is checked anew, without a file to point into.
func TestValidateHoldsForWhatWasChanged(t *testing.T) {
	s := parse(t, with(", loop: open, rate: 5", ", duration: 1s"))
	if err := s.Validate(); err != nil {
		t.Errorf("as it was parsed: %v", err)
	}
	s.Loads[0].Loop = scenario.Closed
	if err := s.Validate(); err == nil || !strings.HasPrefix(err.Error(), "loads[0].rate: a closed loop has none") {
		t.Errorf("a closed loop with a rate: got %v", err)
	}
}

func TestRange(t *testing.T) {
	for _, tc := range []struct {
		draw                  scenario.Draw
		tenants, first, count int
	}{
		{scenario.Draw{}, 8, 0, 8},
		{scenario.Draw{First: 3}, 8, 3, 5},
		{scenario.Draw{First: 3, Count: 2}, 8, 3, 2},
		{scenario.Draw{First: 7, Count: 5}, 8, 7, 1},
		{scenario.Draw{First: 9}, 8, 8, 0},
	} {
		if first, count := tc.draw.Range(tc.tenants); first != tc.first || count != tc.count {
			t.Errorf("%+v of %d: got %d, %d, want %d, %d", tc.draw, tc.tenants, first, count, tc.first, tc.count)
		}
	}
}

// FuzzParse: whatever a file holds, it is either refused with a place, or a scenario that is complete.
func FuzzParse(f *testing.F) {
	for _, b := range scenario.BuiltinFiles() {
		f.Add(b)
	}
	f.Add([]byte(with(", tenants: {draw: list, list: [t0]}, protocol: sse, interval: 1ms", ", duration: 1s, events: [{do: stall, every: 2s}]")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := scenario.Parse("x.yaml", b)
		var problems scenario.Problems
		switch {
		case err == nil && s.Validate() != nil:
			t.Errorf("it was parsed, but is not valid: %v", s.Validate())
		case err != nil && (!errors.As(err, &problems) || len(problems) == 0 || s != nil):
			t.Errorf("got %v, %v", s, err)
		}
		for _, p := range problems {
			if p.Text == "" || len(p.Text) > 2000 || p.Line < 0 {
				t.Errorf("a message that helps nobody: %+v", p)
			}
		}
	})
}
