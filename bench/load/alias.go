package load

import "math/bits"

// alias draws from weights in constant time (Walker's alias method, in Vose's form): each of n equal columns holds one value up to
// a share of its height, and another above it.
type alias struct {
	share []float64
	other []int32
}

func newAlias(weights []float64) *alias {
	n := len(weights)
	a := &alias{share: make([]float64, n), other: make([]int32, n)}
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	var small, large []int32 // columns that are not full, and that have something to give
	for i, w := range weights {
		a.share[i], a.other[i] = w/sum*float64(n), int32(i)
		if a.share[i] < 1 {
			small = append(small, int32(i))
		} else {
			large = append(large, int32(i))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.other[s] = l
		a.share[l] -= 1 - a.share[s]
		if a.share[l] < 1 {
			large, small = large[:len(large)-1], append(small, l)
		}
	}
	for _, i := range append(small, large...) { // full, but for an error of the sums
		a.share[i] = 1
	}
	return a
}

// pick returns the value that two random numbers choose: a column, and a height in it.
func (a *alias) pick(column, height uint64) int {
	i := below(column, len(a.share))
	if float64(height>>11)/(1<<53) < a.share[i] {
		return i
	}
	return int(a.other[i])
}

// mulHigh returns the upper half of a product.
func mulHigh(a, b uint64) uint64 {
	high, _ := bits.Mul64(a, b)
	return high
}
