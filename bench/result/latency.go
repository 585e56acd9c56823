package result

import (
	"cmp"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The quantiles of a spectrum are the same for every histogram, so that spectra of several runs can be laid over each other: the
// distance to 1 shrinks by a tenth of a decade each step.
const (
	stepsPerNine = 10
	mostNines    = 7
)

// LatencyOf returns the percentiles of a histogram that counts microseconds. The spectrum ends with the highest value at quantile 1;
// it has no quantile before that for which fewer than one request is left above it: such a point would say nothing but the highest.
func LatencyOf(h *hdrhistogram.Histogram) Latency {
	if h == nil || h.TotalCount() == 0 {
		return Latency{}
	}
	q := quantiles(h.TotalCount())
	percent := make([]float64, len(q))
	for i := range q {
		percent[i] = 100 * q[i]
	}
	l := Latency{Count: h.TotalCount(), Mean: h.Mean()}
	for i, v := range h.ValueAtPercentilesSlice(percent) {
		l.Spectrum = append(l.Spectrum, Point{Quantile: q[i], Micros: float64(v)})
	}
	four := h.ValueAtPercentilesSlice([]float64{50, 90, 99, 99.9})
	l.P50, l.P90, l.P99, l.P999 = float64(four[0]), float64(four[1]), float64(four[2]), float64(four[3])
	l.Max = float64(h.Max())
	return l
}

// quantiles returns those of a spectrum of so many values, ascending, with 0 and 1.
func quantiles(count int64) []float64 {
	var q []float64
	for i := range stepsPerNine*mostNines + 1 {
		left := math.Pow(10, -float64(i)/stepsPerNine)
		if left*float64(count) < 1 {
			break
		}
		q = append(q, round(1-left))
	}
	return append(q, 1)
}

// round cuts what a float64 has beyond the ninth decimal: quantiles are read by people too.
func round(q float64) float64 { return math.Round(q*1e9) / 1e9 }

// At returns the latency at a quantile, from the spectrum: that of the nearest point at or above it, so never less than it was. ok
// is false without a spectrum.
func (l Latency) At(q float64) (micros float64, ok bool) {
	i, _ := slices.BinarySearchFunc(l.Spectrum, q, func(p Point, q float64) int { return cmp.Compare(p.Quantile, q) })
	if i == len(l.Spectrum) {
		return 0, false
	}
	return l.Spectrum[i].Micros, true
}

// MedianSpectrum lays the spectra of several runs over each other: at each quantile the median of their latencies. What not all of
// them were long enough to see is left out, as the curve would jump where a run ends.
func MedianSpectrum(l []Latency) []Point {
	l = slices.DeleteFunc(slices.Clone(l), func(l Latency) bool { return len(l.Spectrum) == 0 })
	if len(l) == 0 {
		return nil
	}
	shortest := slices.MinFunc(l, func(a, b Latency) int { return len(a.Spectrum) - len(b.Spectrum) })
	var points []Point
	for _, p := range shortest.Spectrum {
		if at := allAt(l, p.Quantile); len(at) == len(l) {
			points = append(points, Point{Quantile: p.Quantile, Micros: median(at)})
		}
	}
	return points
}

// allAt returns the latencies at a quantile of those that have it.
func allAt(l []Latency, q float64) []float64 {
	at := make([]float64, 0, len(l))
	for _, one := range l {
		if v, ok := one.At(q); ok {
			at = append(at, v)
		}
	}
	return at
}
