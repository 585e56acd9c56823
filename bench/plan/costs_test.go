package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/result"
)

// TestDefaultCosts: the costs that come along are whole, and each says how it is known.
func TestDefaultCosts(t *testing.T) {
	c, err := DefaultCosts()
	if err != nil {
		t.Fatal(err)
	}
	if c.Source == "" {
		t.Error("they do not say where they are from")
	}
	for name, k := range c.Costs {
		if k.Unit == "" || len(k.From) < 5 {
			t.Errorf("%s: got unit %q, from %q", name, k.Unit, k.From)
		}
	}
	b, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseCosts("again", b); err != nil {
		t.Errorf("what YAML writes cannot be read: %v", err)
	}
}

func TestCostsRefused(t *testing.T) {
	whole := func(change func(map[string]Cost)) string {
		c, err := DefaultCosts()
		if err != nil {
			t.Fatal(err)
		}
		change(c.Costs)
		b, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for name, c := range map[string]struct{ in, want string }{
		"unknown field": {"source: x\nprices: {}\n", `c.yaml:2:1: unknown field "prices"`},
		"one missing":   {whole(func(m map[string]Cost) { delete(m, "cpu.forward") }), "there is no cost cpu.forward"},
		"one too many":  {whole(func(m map[string]Cost) { m["cpu.tea"] = Cost{} }), `"cpu.tea" is not a cost that a plan uses`},
		"below nothing": {whole(func(m map[string]Cost) { m["cpu.forward"] = Cost{Value: -1} }), "cost cpu.forward is -1"},
		"a bound of 0":  {whole(func(m map[string]Cost) { m["bound.puts"] = Cost{} }), "cost bound.puts is 0"},
	} {
		if _, err := ParseCosts("c.yaml", []byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func run(subject, variant, load string, micros float64) result.Run {
	return result.Run{Subject: subject, Variant: variant, Load: load, Turn: 1, Phase: "all", Figures: result.Figures{Seconds: 1, Requests: 1, CPUMicros: micros}}
}

// sample is a report with something of each kind.
func sample() *result.Report {
	r := &result.Report{Started: time.Date(2026, 10, 3, 0, 0, 0, 0, time.UTC), Machine: result.Machine{OS: "Linux", CPU: "Example 3000", Cores: 2}}
	r.Scenarios = []result.Scenario{
		{Name: "throughput", Runs: []result.Run{
			run("polygate", "http1", "callers", 100), run("polygate", "http1", "callers", 104), run("polygate", "http1", "callers", 90),
		}},
		{Name: "throughput", Runs: []result.Run{ // as a suite has it: again, with credentials
			run("polygate", "http1, key", "callers", 110), run("polygate", "http1, jwt", "callers", 125),
		}},
		{Name: "throughput", Runs: []result.Run{
			run("polygate", "mcp, key", "callers", 200), run("polygate", "http2", "callers", 0), run("nginx", "http1", "callers", 25),
		}},
		{Name: "handshakes", Runs: []result.Run{run("polygate", "http1", "full", 500), run("polygate", "http1", "resumed", 90)}},
		{Name: "noisy-neighbour", Runs: []result.Run{run("polygate", "grpc", "victims", 1)}},
	}
	few, many := result.CapacityPoint{Subject: "polygate"}, result.CapacityPoint{Subject: "polygate", Registered: 100_000, PerRegistered: 1800, PerActive: 9000, PerConnected: 30_000, PerStream: 51_000}
	few.RSS.Start, few.PerConnected = 70<<20, 32_000
	r.Capacity = []result.CapacityPoint{few, many, {Subject: "polygate", Registered: 1000, PerRegistered: 3000}, {Subject: "caddy", Registered: 1_000_000, PerRegistered: 1}}
	return r
}

func TestCostsOf(t *testing.T) {
	c, missing, err := CostsOf(sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"cpu.request.http1":     100, // the median
		"cpu.credential.key":    10,
		"cpu.credential.jwt":    25,
		"cpu.request.mcp":       190, // without the key
		"cpu.handshake":         400, // without the request
		"cpu.handshake_resumed": 0,   // not below nothing
		"memory.base":           70 << 20,
		"memory.registered":     1800, // of the greatest number
		"memory.active":         9000,
		"memory.connection":     31_000,
		"memory.stream":         20_000, // without its connection
	} {
		if got := c.Costs[name]; got.Value != want || !got.Measured || !strings.Contains(got.From, "Example 3000") || got.Unit == "" {
			t.Errorf("%s: got %+v, want %v", name, got, want)
		}
	}
	if got, want := strings.Join(missing, " "), "cpu.request.grpc cpu.request.http2 cpu.request.sse cpu.request.websocket"; got != want {
		t.Errorf("missing: got %q, want %q", got, want)
	}
	if _, err := Compute(demand(nil), c, Machine{}); err != nil {
		t.Errorf("plan with them: %v", err)
	}
}

func TestCostsOfNothing(t *testing.T) {
	r := sample()
	r.Scenarios, r.Capacity = r.Scenarios[len(r.Scenarios)-1:], nil
	if _, _, err := CostsOf(r); err == nil || !strings.Contains(err.Error(), "measure them first") {
		t.Errorf("got %v", err)
	}
}
