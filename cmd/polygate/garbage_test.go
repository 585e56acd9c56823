package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbagePercent(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		alive, room uint64
		want        int
	}{
		{16 * mib, 32 * mib, 200},
		{32 * mib, 32 * mib, 100},
		{1024 * mib, 32 * mib, 100}, // no more than Go's own
		{1 * mib, 32 * mib, 1000},
		{0, 32 * mib, 1000},
		{3 * mib, 1 << 62, 1000},
	} {
		if got := garbagePercent(c.alive, c.room); got != c.want {
			t.Errorf("%d of %d: %d, want %d", c.room, c.alive, got, c.want)
		}
	}
}

func TestHeadroom(t *testing.T) {
	h := &headroom{bytes: 1 << 40, percent: leastGarbage} // more than any test has alive
	h.watch()
	waitForPercent(t, mostGarbage)
	if err := h.end(); err != nil {
		t.Fatal(err)
	}
	waitForPercent(t, leastGarbage)
}

// waitForPercent collects until the process's setting is what it should be.
func waitForPercent(t *testing.T, want uint64) {
	t.Helper()
	now := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	for deadline := time.Now().Add(10 * time.Second); ; {
		runtime.GC()
		metrics.Read(now)
		got := now[0].Value.Uint64()
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the collector waits for %d percent, want %d", got, want)
		}
		time.Sleep(time.Millisecond)
	}
}
