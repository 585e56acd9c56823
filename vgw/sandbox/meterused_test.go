package sandbox

import (
	"math"
	"testing"
	"time"
)

// use is a constant, or a ramp, as a driver would tell it.
func use(m *Meter, at time.Time, cores float64, memory int64) {
	m.Sample(at, map[string]Used{"u1": {CPU: cores, Memory: memory}})
}

func TestUseIsMeasured(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		name              string
		samples           func(m *Meter)
		minutes           int // that the run took
		cores, gibs, seen float64
	}{
		{"nobody measures: what was set aside", func(*Meter) {}, 10, 300, 300, 0},
		{"a straight line between two samples", func(m *Meter) { use(m, noon(), 0, 0); use(m, noon().Add(2*time.Minute), 1, gib) }, 2, 60, 60, 120},
		{"before the first and after the last for a minute", func(m *Meter) { use(m, noon().Add(2*time.Minute), 2, 2*gib) }, 4, 60 + 240, 60 + 240, 120},
		{"far apart: nothing is known between", func(m *Meter) { use(m, noon(), 1, gib); use(m, noon().Add(10*time.Minute), 1, gib) }, 10, 120 + 240, 120 + 240, 120},
		{"what cannot be", func(m *Meter) { use(m, noon(), math.NaN(), gib); use(m, noon().Add(time.Minute), math.Inf(1), gib) }, 10, 300, 300, 0},
		{"less than nothing is nothing", func(m *Meter) { use(m, noon(), -1, -5); use(m, noon().Add(time.Minute), -1, -5) }, 1, 0, 0, 60},
		{"a clock that went back", func(m *Meter) { use(m, noon().Add(5*time.Minute), 9, 9*gib); use(m, noon().Add(time.Minute), 1, gib) }, 2, 120, 120, 120},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMeter(t, MeterConfig{})
			s := runningSince(noon())
			s.Spec.Resources.Memory = gib / 2
			tt.samples(m)
			s.Run.Ended = noon().Add(time.Duration(tt.minutes) * time.Minute)
			keep(t, m, s.Run.Ended, s)
			sum := total(t, m)
			_, cores := sum.CoreSeconds()
			_, gibs := sum.MemoryGiBSeconds()
			if cores != tt.cores || gibs != tt.gibs || sum.MeasuredSeconds() != tt.seen {
				t.Errorf("used %g core seconds and %g GiB seconds, measured %g s; want %g, %g, %g", cores, gibs, sum.MeasuredSeconds(), tt.cores, tt.gibs, tt.seen)
			}
		})
	}
}

// A curve is under the same area whether it is billed at once or in pieces, and whatever else is billed meanwhile.
func TestMeasuredUseInPieces(t *testing.T) {
	whole, pieces := newMeter(t, MeterConfig{}), newMeter(t, MeterConfig{})
	a, b := runningSince(noon()), runningSince(noon())
	for i := range 241 {
		at := noon().Add(time.Duration(i) * 30 * time.Second)
		cores := 0.25 + 0.2*math.Sin(float64(i)/7)
		use(whole, at, cores, 100<<20)
		use(pieces, at, cores, 100<<20)
		if i%7 == 0 {
			b = keep(t, pieces, at, b)[0]
		}
		if i == 100 {
			pieces.Bill(at, b).Dropped()
		}
	}
	end := noon().Add(2 * time.Hour)
	a.Run.Ended = end
	last := *b
	last.Run.Ended = end
	keep(t, whole, end, a)
	keep(t, pieces, end, &last)
	_, x := total(t, whole).CoreSeconds()
	_, y := total(t, pieces).CoreSeconds()
	if got := total(t, pieces); got.Measured != 7_200_000 || math.Abs(x-y) > x/1000 || x < 1700 || x > 1900 {
		t.Errorf("at once %g core seconds, in pieces %g; measured %d ms", x, y, got.Measured)
	}
}

func TestSamplesAreBounded(t *testing.T) {
	m := newMeter(t, MeterConfig{})
	for i := range 10_000 {
		use(m, noon().Add(time.Duration(i)*time.Second), 1, 0)
	}
	if n := len(m.measured["u1"].samples); n > maxSamples {
		t.Errorf("%d samples are kept, at most %d are wanted", n, maxSamples)
	}
	m.Sample(noon().Add(24*time.Hour), nil)
	if len(m.measured) != 0 {
		t.Error("a run that is gone is still measured")
	}
}
