package gateway

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/polygate/polygate/bench/scenario"
)

// TestCapacity measures few tenants, and that each stage is of what it says.
func TestCapacity(t *testing.T) {
	var steps []string
	points, err := Capacity(t.Context(), CapacityConfig{Binary: testBinary(), Dir: t.TempDir()},
		scenario.Capacity{Registered: []int{0, 1000}, Active: 200, Connected: 100, Streams: 50}, func(s string) { steps = append(steps, s); t.Log(time.Now().Format("05.000"), s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(points) != 2 {
		t.Fatalf("%d points, want 2", len(points))
	}
	if none := points[0]; none.Registered != 0 || none.Active != 0 || none.Connected != 0 || none.Streams != 0 || none.RSS.Start <= 0 || none.StartSecs <= 0 {
		t.Errorf("without tenants: %+v", none)
	}
	p := points[1]
	if p.Registered != 1000 || p.Active != 200 || p.Connected != 100 || p.Streams != 50 {
		t.Errorf("with tenants: %+v", p)
	}
	for what, bytes := range map[string]int64{
		"an active tenant": p.Heap.Active - p.Heap.Start, "a connection": p.Heap.Connected - p.Heap.Active, "a stream": p.Heap.Streams - p.Heap.Connected,
		"a registered tenant": p.Heap.Start - points[0].Heap.Start, "the store": p.StoreBytes,
	} {
		if bytes <= 0 {
			t.Errorf("%s costs %d bytes", what, bytes)
		}
	}
	t.Logf("%+v\n%q", points, steps)
}

// TestCapacityEnds: what was measured is returned, and the logs that an error points to are left to the caller.
func TestCapacityEnds(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	points, err := Capacity(ctx, CapacityConfig{Binary: testBinary(), Dir: dir},
		scenario.Capacity{Registered: []int{0, 10}}, func(s string) {
			if s == "10 registered: restore" {
				stop()
			}
		})
	if err == nil || len(points) != 1 {
		t.Errorf("%d points, %v; want the one that was measured, and why there are no more", len(points), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "registered-0", "replica-0", "polygate.log")); err != nil {
		t.Errorf("its log: %v", err)
	}
}
