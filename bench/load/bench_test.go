package load_test

import (
	"context"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

// nothing is a caller whose request costs nothing, so that what is left is the engine.
type nothing struct{}

func (nothing) Call(context.Context, int) error { return nil }
func (nothing) Close() error                    { return nil }

// BenchmarkEngine measures what the engine itself costs: CPU time of this process a request, and how late an open loop's are.
func BenchmarkEngine(b *testing.B) {
	for _, bc := range []struct {
		name string
		load scenario.Load
	}{
		{"closed", scenario.Load{Loop: scenario.Closed, Concurrency: 32}},
		{"open-500", scenario.Load{Loop: scenario.Open, Rate: 500}},
		{"open-4000", scenario.Load{Loop: scenario.Open, Rate: 4000}},
		{"open-20000", scenario.Load{Loop: scenario.Open, Rate: 20_000}},
		{"open-50000", scenario.Load{Loop: scenario.Open, Rate: 50_000}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.load.Tenants = scenario.Draw{Draw: scenario.Zipf, Skew: 1}
			g, err := load.New(load.Config{Load: bc.load, Tenants: names(1000), New: func() (load.Caller, error) { return nothing{}, nil }})
			if err != nil {
				b.Fatal(err)
			}
			defer g.Close()
			for b.Loop() {
				before := cpuTime(b)
				f, err := g.Run(context.Background(), load.Span{Duration: time.Second})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(f.Requests), "cpu-ns/request")
				b.ReportMetric(f.Rate, "requests/s")
				b.ReportMetric(f.Latency.P50, "p50-µs")
				b.ReportMetric(f.Latency.P99, "p99-µs")
				b.ReportMetric(float64(f.Late), "late")
			}
		})
	}
}
