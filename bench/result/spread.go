package result

import (
	"cmp"
	"math"
	"slices"
)

// Spread is a figure over several runs.
type Spread struct {
	Median float64
	Low    float64 // lowest and highest of all runs
	High   float64
	N      int // runs that have the figure; 0: nothing is known, and the others are 0
}

// Width is how far the runs lie apart. It is the printed spread: the median of a repeat is expected to differ from Median by less,
// which for runs that vary by chance alone holds 8 times of 10 with three runs, and 97 times of 100 with five.
func (s Spread) Width() float64 { return s.High - s.Low }

// Known tells whether any run has the figure.
func (s Spread) Known() bool { return s.N > 0 }

// SpreadOf returns the spread of values. Those that are no finite number are left out: they stand for what is not known.
func SpreadOf(values []float64) Spread {
	known := slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(known) == 0 {
		return Spread{}
	}
	return Spread{Median: median(known), Low: slices.Min(known), High: slices.Max(known), N: len(known)}
}

// Over returns the spread of one figure over runs. f returns NaN where a run does not have it.
func Over(runs []Run, f func(Figures) float64) Spread {
	values := make([]float64, 0, len(runs))
	for _, r := range runs {
		values = append(values, f(r.Figures))
	}
	return SpreadOf(values)
}

// Ratio returns the spread of a's figure divided by b's, over pairs of runs of the same turn, phase and load: they ran next to each
// other, so what slowed the machine meanwhile slowed both, and the ratio varies less than the figures. a and b are of one subject and
// variant each. A run without its partner, or whose figure is not known or not above 0, is left out.
func Ratio(a, b []Run, f func(Figures) float64) Spread {
	return ratio(a, b, f, func(r Run) pair { return pair{turn: r.Turn, phase: r.Phase, load: r.Load} })
}

// Change is Ratio between two phases of the same subject: the pairs are of the same turn and load.
func Change(after, before []Run, f func(Figures) float64) Spread {
	return ratio(after, before, f, func(r Run) pair { return pair{turn: r.Turn, load: r.Load} })
}

// pair is what two runs have in common that are compared.
type pair struct {
	turn        int
	phase, load string
}

func ratio(a, b []Run, f func(Figures) float64, key func(Run) pair) Spread {
	below := make(map[pair]float64, len(b))
	for _, r := range b {
		if v := f(r.Figures); v > 0 {
			below[key(r)] = v
		}
	}
	var ratios []float64
	for _, r := range a {
		if d, ok := below[key(r)]; ok && f(r.Figures) > 0 {
			ratios = append(ratios, f(r.Figures)/d)
		}
	}
	return SpreadOf(ratios)
}

// median of at least one number; between the middle two if their number is even. It is computed so that it can overflow no sum.
func median(v []float64) float64 {
	s := slices.SortedFunc(slices.Values(v), cmp.Compare[float64])
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return s[mid-1]/2 + s[mid]/2
}
