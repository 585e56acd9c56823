package process

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// ticks is USER_HZ, which Linux shows to programs as 100 on all machines that Go runs on.
const ticks = 100

// Used implements sandbox.Driver: by the control groups, and by /proc where there are none.
func (d *driver) Used(context.Context) (map[string]sandbox.Used, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil && !gone(err) {
		return nil, fault.Wrap(fault.Unavailable, err, "the tenant's folder of sandboxes cannot be read")
	}
	used := map[string]sandbox.Used{}
	var all map[int]stat // read once, if at all
	for _, e := range entries {
		if _, _, ok := parseRunFolder(e.Name()); !ok {
			continue
		}
		path := filepath.Join(d.dir, e.Name())
		st, err := readStatus(path)
		if err != nil || st == nil || st.Phase != sandbox.PhaseRunning && st.Phase != sandbox.PhaseStopping || !st.Shim.alive() {
			continue
		}
		o, err := readOrder(path)
		if err != nil {
			continue
		}
		cpu, memory, ok := o.Groups.of(o.UID).usage()
		if !ok {
			if all == nil {
				all = processes()
			}
			cpu, memory = usageOf(all, st.First)
		}
		used[o.UID] = sandbox.Used{CPU: d.all.rate(o.UID, cpu, st.Started), Memory: memory}
	}
	return used, nil
}

// usageOf adds up a process and all below it. Pure.
func usageOf(all map[int]stat, root identity) (cpu time.Duration, memory int64) {
	if all[root.PID].start != root.Start {
		return 0, 0
	}
	for _, pid := range append(descendants(all, root.PID), root.PID) {
		cpu += time.Duration(all[pid].cpu) * time.Second / ticks
		memory += all[pid].memory
	}
	return cpu, memory
}

// rate makes cores of a counter: since the last reading, or else since the start.
func (d *Drivers) rate(uid string, cpu time.Duration, started time.Time) float64 {
	now := d.cfg.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	last, ok := d.used[uid]
	if ok && now.Sub(last.at) < time.Second {
		return last.rate
	}
	if !ok {
		last = sample{at: started}
		if now.Sub(started) < 2*time.Second { // what it took to start would be most of it
			return 0
		}
	}
	next := sample{at: now, cpu: cpu}
	if span := now.Sub(last.at); span > 0 && cpu > last.cpu {
		next.rate = float64(cpu-last.cpu) / float64(span)
	}
	d.used[uid] = next
	return next.rate
}

// sample is a reading of a counter, and what it made.
type sample struct {
	at   time.Time
	cpu  time.Duration
	rate float64
}
