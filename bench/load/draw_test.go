package load_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/scenario"
)

func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("t%d", i)
	}
	return list
}

func drawer(t *testing.T, d scenario.Draw, n int, seed uint64) *load.Drawer {
	t.Helper()
	w, err := load.NewDrawer(d, names(n), seed)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestFrequencies: each tenant is drawn as often as its weight says, to within five standard deviations, and no other one ever.
func TestFrequencies(t *testing.T) {
	const draws = 200_000
	zipf := func(skew float64) func(k int) float64 {
		return func(k int) float64 { return math.Pow(float64(k+1), -skew) }
	}
	same := func(int) float64 { return 1 }
	for _, tc := range []struct {
		name         string
		draw         scenario.Draw
		first, count int
		weight       func(k int) float64
	}{
		{"uniform", scenario.Draw{}, 0, 50, same},
		{"uniform, a part", scenario.Draw{Draw: scenario.Uniform, First: 3, Count: 7}, 3, 7, same},
		{"zipf, flat", scenario.Draw{Draw: scenario.Zipf, Skew: 0.3}, 0, 50, zipf(0.3)},
		{"zipf", scenario.Draw{Draw: scenario.Zipf, Skew: 1}, 0, 50, zipf(1)},
		{"zipf, steep, a part", scenario.Draw{Draw: scenario.Zipf, Skew: 2.5, First: 40}, 40, 10, zipf(2.5)},
		{"list", scenario.Draw{Draw: scenario.List, List: []string{"t9", "t7", "t8"}}, 7, 3, same},
		{"one", scenario.Draw{Draw: scenario.Zipf, Skew: 1, First: 49}, 49, 1, same},
	} {
		w, got := drawer(t, tc.draw, 50, 1), make([]int, 50)
		for i := range uint64(draws) {
			got[w.Tenant(1, i)]++
		}
		sum := 0.0
		for k := range tc.count {
			sum += tc.weight(k)
		}
		for n := range got {
			p := 0.0
			if n >= tc.first && n < tc.first+tc.count {
				p = tc.weight(n-tc.first) / sum
			}
			want, sigma := draws*p, math.Sqrt(draws*p*(1-p))
			if math.Abs(float64(got[n])-want) > 5*sigma {
				t.Errorf("%s: tenant %d was drawn %d times, want %.0f ± %.0f", tc.name, n, got[n], want, 5*sigma)
			}
		}
	}
}

func TestEachIsDrawnOnceInOrder(t *testing.T) {
	w := drawer(t, scenario.Draw{Draw: scenario.Each, First: 5, Count: 20}, 50, 1)
	if n, ends := w.Length(); n != 20 || !ends {
		t.Errorf("got %d, %v, want 20, true", n, ends)
	}
	for i := range uint64(20) {
		if got := w.Tenant(3, i); got != 5+int(i) {
			t.Errorf("draw %d: got %d, want %d", i, got, 5+i)
		}
	}
	if _, ends := drawer(t, scenario.Draw{}, 50, 1).Length(); ends {
		t.Error("a uniform draw ends")
	}
}

// TestDrawsAreOfTheSeed: the same seed draws the same whoever asks first, another seed or round draws another.
func TestDrawsAreOfTheSeed(t *testing.T) {
	sequence := func(seed, round uint64) string {
		w := drawer(t, scenario.Draw{Draw: scenario.Zipf, Skew: 1}, 50, seed)
		list := make([]int, 40)
		for i := len(list) - 1; i >= 0; i-- {
			list[i] = w.Tenant(round, uint64(i))
		}
		return fmt.Sprint(list)
	}
	first := sequence(1, 1)
	if again := sequence(1, 1); again != first {
		t.Errorf("the same seed draws %v, and then %v", first, again)
	}
	if first == sequence(2, 1) {
		t.Error("another seed draws the same sequence")
	}
	if first == sequence(1, 2) {
		t.Error("another round draws the same sequence")
	}
}

func TestDrawsThatCannotBe(t *testing.T) {
	for _, tc := range []struct {
		draw scenario.Draw
		n    int
		want string
	}{
		{scenario.Draw{}, 0, "there are no tenants"},
		{scenario.Draw{First: 8}, 8, "change first or count"},
		{scenario.Draw{First: 1, Count: 8}, 8, "change first or count"},
		{scenario.Draw{Count: -1}, 8, "change first or count"},
		{scenario.Draw{Draw: scenario.Zipf}, 8, "above 0"},
		{scenario.Draw{Draw: scenario.Zipf, Skew: math.NaN()}, 8, "above 0"},
		{scenario.Draw{Draw: "poisson"}, 8, "known are uniform, zipf, list, each"},
		{scenario.Draw{Draw: scenario.List}, 8, "name one tenant"},
		{scenario.Draw{Draw: scenario.List, List: []string{"t8"}}, 8, `"t8", which is not one of the 8 tenants (t0, …)`},
	} {
		if _, err := load.NewDrawer(tc.draw, names(tc.n), 1); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: got %v, want %s", tc.draw, err, tc.want)
		}
	}
}

func BenchmarkDraw(b *testing.B) {
	w, err := load.NewDrawer(scenario.Draw{Draw: scenario.Zipf, Skew: 1}, names(100_000), 1)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		w.Tenant(1, uint64(i))
	}
}
