package result

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"pgregory.net/rapid"
)

// runsOf makes a run of each figure, in turns.
func runsOf(figures ...float64) []Run {
	var out []Run
	for i, v := range figures {
		out = append(out, Run{Subject: "s", Turn: i + 1, Phase: "p", Load: "l", Figures: Figures{Rate: v}})
	}
	return out
}

func rate(f Figures) float64 { return f.Rate }

// near tells whether a figure is another but for rounding.
func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want)) }

func TestSpread(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name   string
		values []float64
		want   Spread
	}{
		{"nothing", nil, Spread{}},
		{"one", []float64{3}, Spread{3, 3, 3, 1}},
		{"odd", []float64{9, 1, 4}, Spread{4, 1, 9, 3}},
		{"even", []float64{9, 1, 4, 6}, Spread{5, 1, 9, 4}},
		{"unknown ones are left out", []float64{nan, 4, math.Inf(1), 2, 3}, Spread{3, 2, 4, 3}},
		{"all unknown", []float64{nan}, Spread{}},
		{"zero is a figure", []float64{0, 0, 5}, Spread{0, 0, 5, 3}},
		{"no sum overflows", []float64{math.MaxFloat64, math.MaxFloat64}, Spread{math.MaxFloat64, math.MaxFloat64, math.MaxFloat64, 2}},
	} {
		if got := Over(runsOf(c.values...), rate); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSpreadProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(0, 1e9), 1, 20).Draw(t, "v")
		before := slices.Clone(v)
		s := SpreadOf(v)
		if !slices.Equal(v, before) {
			t.Fatal("the values were changed")
		}
		if s.Low > s.Median || s.Median > s.High || s.N != len(v) {
			t.Fatalf("not in order: %+v", s)
		}
		slices.Reverse(v)
		if SpreadOf(v) != s {
			t.Fatal("the order of the runs matters")
		}
		for i := range v {
			v[i] *= 2
		}
		if twice := SpreadOf(v); twice.Median != 2*s.Median || twice.Width() != 2*s.Width() {
			t.Fatalf("in another unit it is another spread: %+v, %+v", s, twice)
		}
	})
}

// TestRepeatDiffersByLess holds what is printed below each report, for runs that vary by chance alone.
func TestRepeatDiffersByLess(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	turns := func(n int) Spread {
		v := make([]float64, n)
		for i := range v {
			v[i] = 100 + 5*r.NormFloat64()
		}
		return SpreadOf(v)
	}
	for _, c := range []struct {
		turns int
		least float64
	}{{3, 0.8}, {5, 0.97}} {
		const rounds = 20000
		held := 0
		for range rounds {
			if first, again := turns(c.turns), turns(c.turns); math.Abs(again.Median-first.Median) < first.Width() {
				held++
			}
		}
		if share := float64(held) / rounds; share < c.least-0.005 || share > c.least+0.05 {
			t.Errorf("%d turns: a repeat differs by less than the spread in %.3f of the cases, want %.2f", c.turns, share, c.least)
		}
	}
}

func TestRatio(t *testing.T) {
	a := []Run{
		{Turn: 1, Phase: "x", Load: "l", Figures: Figures{Rate: 10}},
		{Turn: 2, Phase: "x", Load: "l", Figures: Figures{Rate: 40}},
		{Turn: 3, Phase: "x", Load: "l", Figures: Figures{Rate: 7}},   // b has no turn 3
		{Turn: 4, Phase: "x", Load: "l", Figures: Figures{}},          // not known
		{Turn: 5, Phase: "x", Load: "l", Figures: Figures{Rate: 3}},   // b's is 0
		{Turn: 1, Phase: "y", Load: "l", Figures: Figures{Rate: 100}}, // another phase
		{Turn: 1, Phase: "x", Load: "m", Figures: Figures{Rate: 100}}, // another load
	}
	b := []Run{
		{Turn: 2, Phase: "x", Load: "l", Figures: Figures{Rate: 10}},
		{Turn: 1, Phase: "x", Load: "l", Figures: Figures{Rate: 5}},
		{Turn: 4, Phase: "x", Load: "l", Figures: Figures{Rate: 5}},
		{Turn: 5, Phase: "x", Load: "l"},
	}
	if got, want := Ratio(a, b, rate), (Spread{3, 2, 4, 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := Ratio(a, nil, rate); got.Known() {
		t.Errorf("a ratio to nothing: %+v", got)
	}
	if got, want := Change(a[5:6], a[:2], rate), (Spread{10, 10, 10, 1}); got != want {
		t.Errorf("between phases: got %+v, want %+v", got, want)
	}
}

// TestRatioProperties holds why turns are paired: what slows a turn slows both subjects, and is not in the ratio.
func TestRatioProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SliceOfN(rapid.Float64Range(1, 1e6), 1, 9).Draw(t, "base")
		slow := rapid.SliceOfN(rapid.Float64Range(0.1, 10), len(base), len(base)).Draw(t, "slow")
		k := rapid.Float64Range(0.01, 100).Draw(t, "k")
		a, b := runsOf(base...), runsOf(base...)
		for i := range base {
			a[i].Figures.Rate *= k * slow[i]
			b[i].Figures.Rate *= slow[i]
		}
		rand.Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
		s := Ratio(a, b, rate)
		if s.N != len(base) || !near(s.Low, k) || !near(s.High, k) {
			t.Fatalf("got %+v, want %v each time", s, k)
		}
		if back := Ratio(b, a, rate); !near(back.Median*s.Median, 1) {
			t.Fatalf("%v and back %v", s.Median, back.Median)
		}
	})
}

func histogram(values []int64) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, 60_000_000, 3)
	for _, v := range values {
		_ = h.RecordValue(v)
	}
	return h
}

func TestLatencyOf(t *testing.T) {
	if got := LatencyOf(nil); got.Count != 0 || got.Spectrum != nil {
		t.Errorf("of nothing: %+v", got)
	}
	if got := LatencyOf(histogram(nil)); got.Count != 0 || got.Spectrum != nil {
		t.Errorf("of an empty one: %+v", got)
	}
	var values []int64
	for i := range 1000 {
		values = append(values, int64(i+1))
	}
	got := LatencyOf(histogram(values))
	for _, c := range []struct {
		name      string
		got, want float64
	}{{"p50", got.P50, 500}, {"p90", got.P90, 900}, {"p99", got.P99, 990}, {"p99.9", got.P999, 999}, {"max", got.Max, 1000}, {"mean", got.Mean, 500.5}} {
		if math.Abs(c.got-c.want) > c.want/1000+1 {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
	if n := len(got.Spectrum); n != 32 || got.Spectrum[n-1] != (Point{1, got.Max}) || got.Spectrum[n-2].Quantile != 0.999 {
		t.Errorf("the spectrum of 1000 has %d points and ends %+v", n, got.Spectrum[n-2:])
	}
}

// TestLatencyProperties compares with the sorted values themselves, within the histogram's three digits.
func TestLatencyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(1, 50_000_000), 1, 300).Draw(t, "values")
		l := LatencyOf(histogram(values))
		if err := l.validate(); err != nil {
			t.Fatal(err)
		}
		slices.Sort(values)
		for _, p := range l.Spectrum {
			rank := max(1, int(p.Quantile*float64(len(values))+0.5))
			if want := float64(values[rank-1]); math.Abs(p.Micros-want) > want/500+1 {
				t.Fatalf("at %v: got %v, want %v", p.Quantile, p.Micros, want)
			}
			if got, ok := l.At(p.Quantile); !ok || got < p.Micros {
				t.Fatalf("At(%v) = %v, %v; the point says %v", p.Quantile, got, ok, p.Micros)
			}
			if left := (1 - p.Quantile) * float64(len(values)); p.Quantile < 1 && left < 0.999 {
				t.Fatalf("a point at %v, above which there are %v of %d", p.Quantile, left, len(values))
			}
		}
	})
}

func TestMedianSpectrum(t *testing.T) {
	if got := MedianSpectrum([]Latency{{}}); got != nil {
		t.Errorf("of none: %v", got)
	}
	short := Latency{Spectrum: []Point{{0, 1}, {0.5, 10}, {1, 30}}}
	long := Latency{Spectrum: []Point{{0, 2}, {0.5, 20}, {0.9, 25}, {0.99, 70}, {1, 90}}}
	got := MedianSpectrum([]Latency{long, {}, short, short})
	if want := []Point{{0, 1}, {0.5, 10}, {1, 30}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		var all []Latency
		for _, v := range rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(1, 1e6), 1, 200), 1, 5).Draw(t, "runs") {
			all = append(all, LatencyOf(histogram(v)))
		}
		if err := (Latency{Spectrum: MedianSpectrum(all)}).validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestErrorsOf(t *testing.T) {
	runs := []Run{{Figures: Figures{Errors: map[string]int64{"timeout": 2, "reset": 1, "none": 0}}}, {Figures: Figures{Errors: map[string]int64{"reset": 4}}}}
	if got, want := ErrorsOf(runs), []ClassCount{{"reset", 5}, {"timeout", 2}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := runs[0].Figures.ErrorCount(); got != 3 {
		t.Errorf("got %d errors, want 3", got)
	}
}

func TestUnknownFigures(t *testing.T) {
	var f Figures
	p99 := Percentile(func(l Latency) float64 { return l.P99 })
	for name, v := range map[string]float64{"CPU": f.CPU(), "RSS": f.Resident(), "p99": p99(f)} {
		if !math.IsNaN(v) {
			t.Errorf("%s that was not measured is %v", name, v)
		}
	}
	f = Figures{CPUMicros: 3, RSS: 4, Latency: Latency{Count: 1, P99: 5}}
	if f.CPU() != 3 || f.Resident() != 4 || p99(f) != 5 {
		t.Errorf("got %v, %v, %v", f.CPU(), f.Resident(), p99(f))
	}
}
