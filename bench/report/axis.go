package report

import "math"

// axis maps figures to coordinates.
type axis struct {
	lo, hi   float64 // of the figures; above 0 on a logarithmic axis
	from, to float64 // where they lie
	log      bool
}

// at returns where v lies. What is outside lies at the nearer end.
func (a axis) at(v float64) float64 {
	lo, hi, v := a.scale(a.lo), a.scale(a.hi), a.scale(min(max(v, a.lo), a.hi))
	if hi == lo {
		return a.from
	}
	return a.from + (v-lo)/(hi-lo)*(a.to-a.from)
}

func (a axis) scale(v float64) float64 {
	if a.log {
		return math.Log10(v)
	}
	return v
}

// logAxis returns an axis for figures above 0, from a round number below them to one above.
func logAxis(values []float64, from, to float64) axis {
	lo, hi := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	if hi == 0 {
		lo, hi = 1, 10
	}
	return axis{lo: roundDown(lo), hi: roundUp(hi, roundDown(lo)), from: from, to: to, log: true}
}

// steps are the round numbers of a decade.
func steps() []float64 { return []float64{1, 2, 5} }

// roundDown returns the highest of 1, 2 and 5 times a power of ten that is not above v.
func roundDown(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	best := decade
	for _, s := range steps() {
		if s*decade <= v*(1+1e-9) {
			best = s * decade
		}
	}
	return best
}

// roundUp returns the lowest such number that is not below v, and above lo; v itself where there is none, as of what is no number.
func roundUp(v, lo float64) float64 {
	for decade := math.Pow(10, math.Floor(math.Log10(v))); decade > 0 && decade < math.MaxFloat64; decade *= 10 {
		for _, s := range steps() {
			if up := s * decade; up*(1+1e-9) >= v && up > lo*(1+1e-9) {
				return up
			}
		}
	}
	return v
}

// ticks returns round figures to write at an axis: some five of them.
func (a axis) ticks() []float64 {
	if a.log {
		return a.logTicks()
	}
	step := roundUp((a.hi-a.lo)/5, 0)
	var out []float64
	for v := math.Ceil(a.lo/step) * step; v <= a.hi*(1+1e-9) && len(out) < mostTicks; v += step {
		out = append(out, v)
	}
	return out
}

// mostTicks is more than any axis has, and bounds one that is no axis.
const mostTicks = 60

// logTicks has 1, 2 and 5 of each decade where there are few, else the decades.
func (a axis) logTicks() []float64 {
	within := steps()
	if math.Log10(a.hi/a.lo) > 3 {
		within = within[:1]
	}
	var out []float64
	for decade := math.Pow(10, math.Floor(math.Log10(a.lo)+1e-9)); decade > 0 && decade <= a.hi*(1+1e-9) && len(out) < mostTicks; decade *= 10 {
		for _, s := range within {
			if v := s * decade; v >= a.lo*(1-1e-9) && v <= a.hi*(1+1e-9) {
				out = append(out, v)
			}
		}
	}
	return out
}
