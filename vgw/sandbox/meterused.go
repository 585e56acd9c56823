package sandbox

import (
	"math"
	"time"
)

// Bounds of measurements.
const (
	maxGap     = 3 * time.Minute // two samples that lie further apart say nothing of what is between them
	maxHold    = time.Minute     // a sample stands for so long before it, and after it, where there is no other
	maxSamples = 128             // of one run, until they are used up: beyond, every other one goes
)

// sample is what a run used at a moment.
type sample struct {
	at     time.Time
	cpu    float64 // thousandths of a core
	memory float64 // MiB
}

// measurements are the samples of one run, oldest first. What was used between two samples is taken to have gone from one to the
// other in a straight line; before the first and after the last it is taken to be as there, for a short time.
type measurements struct {
	samples []sample
	seen    time.Time // when a sample last came
}

// sample keeps what runs use. Runs that are not among those any more are forgotten after a while.
func (m *Meter) sample(at time.Time, used map[string]Used) {
	for uid, u := range used {
		x := m.measured[uid]
		if x == nil {
			if len(m.measured) >= maxMeasured {
				continue
			}
			x = &measurements{}
			m.measured[uid] = x
		}
		x.put(sample{at, max(u.CPU, 0) * 1000, float64(max(u.Memory, 0)) / mebibyte})
	}
	for uid, x := range m.measured {
		if at.Sub(x.seen) > 2*m.cfg.Every+maxGap {
			delete(m.measured, uid)
		}
	}
}

// put adds a sample. One that is not after the last, since the clock went back, begins anew: of the time between nobody knows.
func (x *measurements) put(s sample) {
	if math.IsNaN(s.cpu) || math.IsInf(s.cpu, 0) {
		return
	}
	x.seen = s.at
	if n := len(x.samples); n > 0 && !s.at.After(x.samples[n-1].at) {
		x.samples = x.samples[:0]
	}
	if x.samples = append(x.samples, s); len(x.samples) > maxSamples {
		x.thin()
	}
}

// thin drops every other sample, but not the last.
func (x *measurements) thin() {
	kept := x.samples[:0]
	for i, s := range x.samples {
		if i%2 == 0 || i == len(x.samples)-1 {
			kept = append(kept, s)
		}
	}
	x.samples = kept
}

// forget drops what lies before a time, but for the last sample of it.
func (x *measurements) forget(until time.Time) {
	if x == nil {
		return
	}
	n := 0
	for n+1 < len(x.samples) && !x.samples[n+1].at.After(until) {
		n++
	}
	x.samples = append(x.samples[:0], x.samples[n:]...)
}

// amounts is what a run used in a time: what was measured, and for the rest of it what was set aside.
func (x *measurements) amounts(r Resources, from, to time.Time) Amounts {
	a := setAside(r, to.Sub(from).Milliseconds())
	if x == nil || len(x.samples) == 0 {
		return a
	}
	var known, cpu, memory float64 // milliseconds, and what is under the curve
	for _, l := range x.lines() {
		k, c, m := l.area(from, to)
		known, cpu, memory = known+k, cpu+c, memory+m
	}
	a.Measured = min(int64(math.Round(known)), a.Millis)
	rest := setAside(r, a.Millis-a.Measured)
	a.CPUUsed, a.MemoryUsed = rest.CPU+int64(math.Round(cpu)), rest.Memory+int64(math.Round(memory))
	return a
}

// line is a part of the curve of use.
type line struct{ a, b sample }

func (x *measurements) lines() (all []line) {
	first, last := x.samples[0], x.samples[len(x.samples)-1]
	all = append(all, line{first.moved(-maxHold), first})
	for i, b := range x.samples[1:] {
		if a := x.samples[i]; b.at.Sub(a.at) <= maxGap {
			all = append(all, line{a, b})
		} else {
			all = append(all, line{a, a.moved(maxHold)}, line{b.moved(-maxHold), b})
		}
	}
	return append(all, line{last, last.moved(maxHold)})
}

func (s sample) moved(d time.Duration) sample {
	s.at = s.at.Add(d)
	return s
}

// area returns how long the part of a line is that lies in a time, and what is under it.
func (l line) area(from, to time.Time) (millis, cpu, memory float64) {
	begin, end := latest(from, l.a.at), earliest(to, l.b.at)
	if !begin.Before(end) {
		return 0, 0, 0
	}
	x, y := l.at(begin), l.at(end)
	millis = float64(end.Sub(begin)) / float64(time.Millisecond)
	return millis, (x.cpu + y.cpu) / 2 * millis, (x.memory + y.memory) / 2 * millis
}

func (l line) at(t time.Time) sample {
	part := float64(t.Sub(l.a.at)) / float64(l.b.at.Sub(l.a.at))
	return sample{t, l.a.cpu + (l.b.cpu-l.a.cpu)*part, l.a.memory + (l.b.memory-l.a.memory)*part}
}
