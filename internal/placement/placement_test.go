package placement

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func tenants(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("t%d", i)
	}
	return out
}

func names(nodes []Node) (out []string) {
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return out
}

func drawNodes(t *rapid.T, least int) []Node {
	n := rapid.IntRange(least, 7).Draw(t, "nodes")
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprintf("r%d", i), Capacity: rapid.IntRange(0, 4).Draw(t, "capacity")}
	}
	return nodes
}

// A replica that comes takes tenants for itself alone; one that goes leaves the others' where they are.
func TestMinimalDisruption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t, 2)
		gone := rapid.IntRange(0, len(nodes)-1).Draw(t, "gone")
		rest := slices.Delete(slices.Clone(nodes), gone, gone+1)
		for _, id := range tenants(200) {
			with, without := Prefer(id, nodes, 0), Prefer(id, rest, 0)
			if with[0] != nodes[gone].Name && with[0] != without[0] {
				t.Fatalf("%s goes from %s to %s since %s went", id, with[0], without[0], nodes[gone].Name)
			}
			kept := slices.DeleteFunc(slices.Clone(with), func(n string) bool { return n == nodes[gone].Name })
			if !slices.Equal(kept, without) {
				t.Fatalf("%s: the others' order was %v and is %v", id, kept, without)
			}
		}
	})
}

// The order holds every replica once, and does not hang on the order in which they are named.
func TestPreferIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t, 1)
		for i := range nodes {
			nodes[i].Tenants = rapid.IntRange(0, 50).Draw(t, "tenants")
		}
		id := rapid.StringMatching(`[a-z][a-z0-9]{0,20}`).Draw(t, "tenant")
		got := Prefer(id, nodes, 1.25)
		if again := Prefer(id, rapid.Permutation(nodes).Draw(t, "order"), 1.25); !slices.Equal(got, again) {
			t.Fatalf("%v and %v", got, again)
		}
		sorted := slices.Sorted(slices.Values(got))
		if !slices.Equal(sorted, names(nodes)) {
			t.Fatalf("%v of %v", got, nodes)
		}
	})
}

// Tenants placed one by one stay within the overload, whatever is there already is within it.
func TestPreferIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t, 1)
		overload := rapid.SampledFrom([]float64{1, 1.1, 1.25, 2}).Draw(t, "overload")
		for i, id := range tenants(300) {
			at := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == Prefer(id, nodes, overload)[0] })
			nodes[at].Tenants++
			_, weight := sums(nodes, nodes)
			if most := bound(i+1, nodes[at].weight()/weight, overload); nodes[at].Tenants > most {
				t.Fatalf("%s has %d of %d tenants, over %d", nodes[at].Name, nodes[at].Tenants, i+1, most)
			}
		}
	})
}

// Without a bound, tenants fall to replicas as their capacities are.
func TestWeights(t *testing.T) {
	nodes := []Node{{Name: "a", Capacity: 1}, {Name: "b", Capacity: 2}, {Name: "c", Capacity: 5}}
	got := map[string]int{}
	const n = 20_000
	for _, id := range tenants(n) {
		got[Prefer(id, nodes, 0)[0]]++
	}
	for _, node := range nodes {
		want := n * node.weight() / 8
		if math.Abs(float64(got[node.Name])-want) > 0.06*want {
			t.Errorf("%s has %d, want about %.0f", node.Name, got[node.Name], want)
		}
	}
}

func TestDrainingIsNotPreferred(t *testing.T) {
	nodes := []Node{{Name: "a"}, {Name: "b", Draining: true}, {Name: "c"}}
	for _, id := range tenants(100) {
		if got := Prefer(id, nodes, 1.25); len(got) != 2 || slices.Contains(got, "b") {
			t.Fatalf("%s: %v", id, got)
		}
	}
	if got := Prefer("x", []Node{{Name: "a", Draining: true}}, 1.25); !slices.Equal(got, []string{"a"}) {
		t.Errorf("all drain: %v", got)
	}
	if got := Prefer("x", nil, 1.25); len(got) != 0 {
		t.Errorf("nobody there: %v", got)
	}
}

// The order is written down: replicas of two versions have to agree.
func TestPreferStays(t *testing.T) {
	nodes := []Node{{Name: "gw-1"}, {Name: "gw-2"}, {Name: "gw-3", Capacity: 2}}
	for id, want := range map[string][]string{
		"team-a": {"gw-1", "gw-2", "gw-3"}, "team-b": {"gw-1", "gw-3", "gw-2"}, "acme": {"gw-1", "gw-3", "gw-2"},
	} {
		if got := Prefer(id, nodes, 0); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
}

func BenchmarkPrefer(b *testing.B) {
	nodes := []Node{{Name: "gw-1"}, {Name: "gw-2"}, {Name: "gw-3", Capacity: 2}}
	b.ReportAllocs()
	for b.Loop() {
		Prefer("team-a", nodes, 1.25)
	}
}
