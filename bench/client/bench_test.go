package client

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/scenario"
)

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCall measures requests to the upstream in the same process: so cpu-us/op is of client and upstream together. Profiles tell
// them apart.
func BenchmarkCall(b *testing.B) {
	l := newLab(b)
	tenants := upstream(b, l, 8)
	for _, p := range protocols() {
		for _, connections := range []scenario.Connections{scenario.Kept, scenario.New} {
			b.Run(string(p)+"/"+string(connections), func(b *testing.B) {
				conf := loadOf(p)
				conf.Connections, conf.Concurrency = connections, 32
				benchmark(b, newClient(b, Config{Load: conf, Tenants: tenants, Roots: l.roots}))
			})
		}
	}
}

func benchmark(b *testing.B, c *Client) {
	b.ReportAllocs()
	b.SetParallelism(max(1, c.load.Concurrency/runtime.GOMAXPROCS(0)))
	var failed atomic.Int64
	begun := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		caller, err := c.Caller()
		if err != nil {
			b.Error(err)
			return
		}
		defer caller.Close()
		for n := 0; pb.Next(); n++ {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err := caller.Call(ctx, n%len(c.targets))
			cancel()
			if err != nil && failed.Add(1) == 1 {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpu(b)-begun).Microseconds())/float64(b.N), "cpu-us/op")
}
