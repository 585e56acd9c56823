package report

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/polygate/polygate/bench/result"
)

// subject is what a sample's runs are drawn from.
type subject struct {
	name      string
	cpu, rate float64
	half      float64 // median latency in microseconds
}

func subjects() []subject {
	return []subject{
		{"direct", 0, 41000, 300}, {"nginx", 24, 39500, 420}, {"haproxy", 21, 33000, 390}, {"caddy", 121, 8100, 2900},
		{"polygate", 61, 15200, 1400},
	}
}

// latency returns a distribution with a tail.
func latency(r *rand.Rand, half float64, n int) result.Latency {
	h := hdrhistogram.New(1, 60_000_000, 3)
	for range n {
		_ = h.RecordValue(int64(half * math.Exp(0.3*r.NormFloat64()) * math.Pow(r.Float64(), -0.12)))
	}
	return result.LatencyOf(h)
}

func run(r *rand.Rand, s subject, variant, phase, load string, turn int) result.Run {
	noise := func(v float64) float64 { return v * (1 + 0.02*r.NormFloat64()) }
	f := result.Figures{Seconds: 10, Rate: noise(s.rate), CPUMicros: noise(s.cpu), RSS: int64(noise(s.rate) * 1000), Latency: latency(r, noise(s.half), 5000)}
	f.Requests = int64(10 * f.Rate)
	return result.Run{Subject: s.name, Variant: variant, Phase: phase, Load: load, Turn: turn, Figures: f}
}

// sample is a report with everything in it, the same at each call.
func sample() *result.Report {
	r := rand.New(rand.NewPCG(1, 2))
	rep := &result.Report{V: result.Version, Command: "polybench compare --turns 3 <all>", Started: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Seconds: 421, Complete: true,
		Machine:  result.Machine{OS: "Linux 6.1", CPU: "Example CPU @ 2.0GHz", Cores: 2, Memory: 8 << 30, Load: 0.12},
		Versions: map[string]string{"nginx": "1.22.1", "polygate": "0.8.0"},
		Ceilings: []result.Ceiling{{Protocol: "http1", Rate: 41500, CPUMicros: 23.5}},
		Skipped:  []result.Skipped{{Subject: "caddy-each", Why: "not on this machine: run polybench install"}}}
	rep.Scenarios = []result.Scenario{throughput(r), neighbour(r)}
	rep.Tenants = tenants()
	rep.Capacity = capacity()
	return rep
}

func throughput(r *rand.Rand) result.Scenario {
	s := result.Scenario{Name: "throughput", About: "Closed loop of 32 callers over 8 tenants.", Notes: []string{"nginx wrote no log line a request."}}
	for _, variant := range []string{"http1", "http2, key"} {
		for turn := range 3 {
			for _, who := range subjects() {
				s.Runs = append(s.Runs, run(r, who, variant, "steady", "all", turn+1))
			}
		}
	}
	s.Runs[3].Figures.Errors = map[string]int64{"status 502": 12, "timeout": 3, "a|b\x1b[31m<script>": 1}
	return s
}

func neighbour(r *rand.Rand) result.Scenario {
	s := result.Scenario{Name: "noisy-neighbour", About: "Victims alone, then beside an aggressor."}
	shake := latency(r, 900, 500)
	for turn := range 3 {
		for _, who := range subjects()[1:] {
			who.rate = 500
			alone := run(r, who, "http1", "alone", "victims", turn+1)
			alone.Asked, alone.Figures.Rate, alone.Figures.Handshake = 500, 500, &shake
			who.half, who.rate = 2.2*who.half, 480
			beside := run(r, who, "http1", "beside", "victims", turn+1)
			beside.Asked, beside.Figures.Late = 500, 200
			s.Runs = append(s.Runs, alone, beside, run(r, who, "http1", "beside", "aggressor", turn+1))
		}
	}
	return s
}

func tenants() []result.TenantsPoint {
	var out []result.TenantsPoint
	for _, n := range []int{1, 10, 100} {
		out = append(out, result.TenantsPoint{Subject: "polygate", Tenants: n, Processes: 1, StartSecs: 0.9, RSS: 90<<20 + int64(n)*10000, PSS: 88 << 20, CPUMicros: 61, IdleCPU: 0.004},
			result.TenantsPoint{Subject: "polygate-each", Tenants: n, Processes: n, StartSecs: 0.9 * float64(n), RSS: int64(n) * 90 << 20, PSS: int64(n) * 70 << 20, CPUMicros: 66, IdleCPU: 0.004 * float64(n)},
			result.TenantsPoint{Subject: "nginx", Tenants: n, Processes: 2, StartSecs: 0.1, RSS: 9<<20 + int64(n)*30000, IdleCPU: 0})
	}
	return out
}

func capacity() []result.CapacityPoint {
	var out []result.CapacityPoint
	for _, n := range []int{0, 1000, 10000, 100000} {
		p := result.CapacityPoint{Subject: "polygate", Registered: n, Active: min(n, 1000), Connected: 1000, StartSecs: 0.8 + float64(n)/20000, StoreBytes: int64(n)*1500 + 1<<20}
		p.RSS.Start = 80<<20 + int64(n)*1900
		p.RSS.Active = p.RSS.Start + 17<<20
		p.RSS.Connected = p.RSS.Active + 40<<20
		p.Heap.Start, p.Heap.Active, p.Heap.Connected = p.RSS.Start/3, p.RSS.Active/3, p.RSS.Connected/3
		if n > 0 {
			p.PerRegistered, p.PerActive, p.PerConnected = 1900, 17<<10, 40<<10
			p.HeapPerRegistered, p.HeapPerActive, p.HeapPerConnected = 1000, 9<<10, 18<<10
		}
		out = append(out, p)
	}
	return out
}
