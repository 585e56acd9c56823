package load

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/polygate/polygate/bench/scenario"
)

// Drawer chooses the tenant of each request. It has no state: the tenant of a request is a function of the seed and of the request's
// number, so that a run can be repeated whichever caller comes first.
type Drawer struct {
	seed   uint64
	first  int
	count  int
	list   []int  // with List: the tenants' numbers
	alias  *alias // with Zipf
	inTurn bool   // with Each
}

// NewDrawer returns a drawer of the tenants with those names, whose place is their number.
func NewDrawer(d scenario.Draw, tenants []string, seed uint64) (*Drawer, error) {
	if len(tenants) == 0 {
		return nil, fmt.Errorf("there are no tenants to draw from: name one at least")
	}
	if d.Draw == scenario.List {
		return listDrawer(d.List, tenants, seed)
	}
	if d.First < 0 || d.Count < 0 || d.First >= len(tenants) || d.Count > len(tenants)-d.First {
		return nil, fmt.Errorf("the draw begins at tenant %d and takes %d, but there are %d, from 0 on: change first or count, or use more tenants", d.First, d.Count, len(tenants))
	}
	first, count := d.Range(len(tenants))
	w := &Drawer{seed: seed, first: first, count: count}
	switch d.Draw {
	case scenario.Uniform, "":
	case scenario.Each:
		w.inTurn = true
	case scenario.Zipf:
		if !(d.Skew > 0) || math.IsInf(d.Skew, 0) {
			return nil, fmt.Errorf("a zipf draw with a skew of %v: it has to be above 0", d.Skew)
		}
		w.alias = newAlias(zipfWeights(count, d.Skew))
	default:
		return nil, fmt.Errorf("there is no draw %q: known are uniform, zipf, list, each", d.Draw)
	}
	return w, nil
}

func listDrawer(list, tenants []string, seed uint64) (*Drawer, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("the draw's list is empty: name one tenant at least")
	}
	number := make(map[string]int, len(tenants))
	for n, name := range tenants {
		number[name] = n
	}
	w := &Drawer{seed: seed, count: len(list)}
	for _, name := range list {
		n, ok := number[name]
		if !ok {
			return nil, fmt.Errorf("the draw's list names %q, which is not one of the %d tenants (%s, …): write their names as they are there", name, len(tenants), tenants[0])
		}
		w.list = append(w.list, n)
	}
	return w, nil
}

// Length is how many requests there are to draw for. ok is false if there is no end.
func (w *Drawer) Length() (n uint64, ok bool) { return uint64(w.count), w.inTurn }

// Tenant returns the tenant of the request with that number in the round: another round draws anew.
func (w *Drawer) Tenant(round, number uint64) int {
	if w.inTurn {
		return w.first + int(number%uint64(w.count))
	}
	var source rand.PCG
	source.Seed(w.seed+round*0x9e3779b97f4a7c15, number)
	x := source.Uint64()
	switch {
	case w.alias != nil:
		return w.first + w.alias.pick(x, source.Uint64())
	case w.list != nil:
		return w.list[below(x, w.count)]
	}
	return w.first + below(x, w.count)
}

// below maps a random x to 0…n-1, each as likely but for n/2⁶⁴.
func below(x uint64, n int) int {
	return int(mulHigh(x, uint64(n)))
}

// zipfWeights returns 1/k^skew for k from 1 to n.
func zipfWeights(n int, skew float64) []float64 {
	w := make([]float64, n)
	for k := range w {
		w[k] = math.Pow(float64(k+1), -skew)
	}
	return w
}
