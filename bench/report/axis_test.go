package report

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestAxes holds what a plot relies on: each figure lies within the drawing, in order, and so does each tick, of which there are some.
func TestAxes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(1, 1e15), 1, 20).Draw(t, "v")
		slices.Sort(v)
		for name, a := range map[string]axis{"log": logAxis(v, 10, 500), "linear": {hi: v[len(v)-1], from: 10, to: 500}, "doubled": powersOfTwo(v, 10, 500)} {
			last := math.Inf(-1)
			for _, one := range v {
				at := a.at(one)
				if !(at >= 10-1e-6 && at <= 500+1e-6) || at < last {
					t.Fatalf("%s: %v lies at %v, the one before at %v", name, one, at, last)
				}
				last = at
			}
			ticks := a.ticks()
			if name == "doubled" {
				ticks = doubled(a)
			}
			if len(ticks) < 1 || len(ticks) > 20 || !slices.IsSorted(ticks) {
				t.Fatalf("%s: ticks %v from %v to %v", name, ticks, a.lo, a.hi)
			}
		}
	})
}

func TestRound(t *testing.T) {
	for _, c := range []struct{ got, want float64 }{
		{roundDown(1), 1}, {roundDown(1.9), 1}, {roundDown(499), 200}, {roundDown(0.07), 0.05},
		{roundUp(1, 0), 1}, {roundUp(1, 1), 2}, {roundUp(499, 0), 500}, {roundUp(501, 0), 1000}, {roundUp(10, 100), 200},
	} {
		if math.Abs(c.got-c.want) > 1e-9*c.want {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), 0, -1} { // that it ends is the test
		roundUp(v, 0)
		axis{hi: v, from: 10, to: 500}.ticks()
		axis{lo: v, hi: v, from: 10, to: 500, log: true}.ticks()
	}
	if a := logAxis(nil, 0, 1); a.lo != 1 || a.hi != 10 {
		t.Errorf("an axis of nothing: %+v", a)
	}
}

func TestApart(t *testing.T) {
	for _, c := range []struct {
		at, want []float64
	}{
		{nil, nil},
		{[]float64{50}, []float64{50}},
		{[]float64{50, 52, 51}, []float64{50, 70, 60}},
		{[]float64{95, 96, 97}, []float64{80, 90, 100}},
		{[]float64{10, 20, 20}, []float64{10, 20, 30}},
	} {
		if got := apart(c.at, 10, 0, 100); !slices.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", c.at, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.SliceOfN(rapid.Float64Range(0, 100), 1, 12).Draw(t, "at")
		out := apart(at, 15, 0, 100)
		slices.Sort(out)
		for i := 1; i < len(out); i++ {
			if out[i]-out[i-1] < 15-1e-9 {
				t.Fatalf("two names lie over each other: %v", out)
			}
		}
	})
}
