package result

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// ErrorCount is the number of requests that were not answered rightly, whatever their class.
func (f Figures) ErrorCount() int64 {
	var n int64
	for _, c := range f.Errors {
		n += c
	}
	return n
}

// CPU is the subject's CPU time of a request in microseconds, for Over and Ratio; NaN = not known.
func (f Figures) CPU() float64 { return known(f.CPUMicros) }

// Resident is the subject's RSS in bytes, for Over and Ratio; NaN = not known.
func (f Figures) Resident() float64 { return known(float64(f.RSS)) }

// Percentile returns a function for Over and Ratio: a percentile, such as Latency's P99, of runs that have answers; else NaN.
func Percentile(of func(Latency) float64) func(Figures) float64 {
	return func(f Figures) float64 {
		if f.Latency.Count == 0 {
			return math.NaN()
		}
		return of(f.Latency)
	}
}

// known turns the zero of a figure that is never 0 into what it means.
func known(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

// ClassCount is how many requests failed in one way.
type ClassCount struct {
	Class string
	Count int64
}

// ErrorsOf adds up the errors of runs by class, the most frequent first.
func ErrorsOf(runs []Run) []ClassCount {
	sum := map[string]int64{}
	for _, r := range runs {
		for class, n := range r.Figures.Errors {
			sum[class] += n
		}
	}
	var counts []ClassCount
	for _, class := range slices.Sorted(maps.Keys(sum)) {
		if sum[class] > 0 {
			counts = append(counts, ClassCount{class, sum[class]})
		}
	}
	slices.SortStableFunc(counts, func(a, b ClassCount) int { return cmp.Compare(b.Count, a.Count) })
	return counts
}
