package load_test

import (
	"context"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

type null struct{}

func (null) Call(context.Context, int) error { return nil }
func (null) Close() error                    { return nil }

func BenchmarkNothing(b *testing.B) {
	for _, loop := range []scenario.Loop{scenario.Closed, scenario.Open} {
		b.Run(string(loop), func(b *testing.B) {
			g, _ := load.New(load.Config{Load: scenario.Load{Name: "x", Loop: loop, Rate: 50000, Concurrency: 32}, Tenants: make([]string, 100), New: func() (load.Caller, error) { return null{}, nil }})
			f, err := g.Run(context.Background(), load.Span{Duration: 2 * time.Second})
			b.Log(f.Requests, f.Rate, f.Late, f.Latency.P50, f.Latency.P99, f.Latency.Max, err)
		})
	}
}
