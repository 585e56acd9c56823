package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// The share of what is alive that may become garbage before it is collected, in percent.
const (
	leastGarbage = 100  // Go's own
	mostGarbage  = 1000 // of next to nothing alive, even a small garbage is many times that
)

// headroom lets the collector wait until there is some garbage, however little is alive: with some 15 MiB alive, as with few
// tenants, Go alone would collect with each 15 MiB, which is several times a second under load, and each time requests wait
// for what shares their processor. Beyond that much alive it does nothing, so memory stays below twice what is alive there.
type headroom struct {
	bytes uint64

	mu      sync.Mutex
	percent int  // guarded by mu: the setting of the process
	ended   bool // guarded by mu
}

// openGarbage gives the process the headroom of the configuration. Whoever sets GOGC knows better, and is left alone.
func (d *daemon) openGarbage(context.Context) error {
	if d.cfg.Limits.GarbageHeadroom > 0 && os.Getenv("GOGC") == "" {
		h := &headroom{bytes: uint64(d.cfg.Limits.GarbageHeadroom), percent: leastGarbage}
		h.watch()
		d.parts.onStop("garbage", h.end)
	}
	return nil
}

// watched becomes garbage at once, so that each collection finds one. Its field keeps it from being packed with other objects.
type watched struct{ _ *headroom }

// watch has the next collection followed by tune.
func (h *headroom) watch() { runtime.AddCleanup(&watched{}, (*headroom).tune, h) }

// tune sets the share for what the last collection left alive.
func (h *headroom) tune() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	alive := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(alive)
	if p := garbagePercent(alive[0].Value.Uint64(), h.bytes); p < h.percent*19/20 || p > h.percent*21/20 { // to set it stops the world
		h.percent = p
		debug.SetGCPercent(p)
	}
	h.watch()
}

// garbagePercent returns the share at which garbage of the size of room is collected, or of the size of what is alive if that is more.
func garbagePercent(alive, room uint64) int {
	if alive == 0 || room/alive >= mostGarbage/100 {
		return mostGarbage
	}
	return max(int(room*100/alive), leastGarbage)
}

// end puts the process back as it was.
func (h *headroom) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	debug.SetGCPercent(leastGarbage)
	return nil
}
