package placement

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cluster is who owns what.
type cluster map[string][]string

func (c cluster) nodes(of []Node) []Node {
	out := slices.Clone(of)
	for i := range out {
		out[i].Tenants = len(c[out[i].Name])
	}
	return out
}

// round has every replica plan from the same picture, and makes the moves.
func (c cluster) round(t *rapid.T, of []Node, overload float64, limit int) (moves []Move) {
	seen := c.nodes(of)
	before := maps.Clone(c)
	for _, n := range of {
		plan := Plan(n.Name, before[n.Name], seen, overload, limit)
		if len(plan) > limit {
			t.Fatalf("%s plans %d moves, at most %d are allowed", n.Name, len(plan), limit)
		}
		for _, m := range plan {
			at := slices.Index(c[n.Name], m.Tenant)
			if at < 0 || m.To == n.Name {
				t.Fatalf("%s plans to give %s to %s", n.Name, m.Tenant, m.To)
			}
			c[n.Name] = slices.Delete(slices.Clone(c[n.Name]), at, at+1)
			c[m.To] = append(slices.Clone(c[m.To]), m.Tenant)
		}
		moves = append(moves, plan...)
	}
	return moves
}

// From any state the plans end, within the overload, no tenant having moved twice.
func TestPlansEndEvenAndNeverGoBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawNodes(t, 1)
		overload := rapid.SampledFrom([]float64{1, 1.1, 1.25, 2}).Draw(t, "overload")
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		c := cluster{}
		for _, id := range tenants(rapid.IntRange(0, 150).Draw(t, "tenants")) {
			n := nodes[rapid.IntRange(0, len(nodes)-1).Draw(t, "at")].Name
			c[n] = append(c[n], id)
		}
		moved := map[string]bool{}
		for range 200 {
			moves := c.round(t, nodes, overload, limit)
			for _, m := range moves {
				if moved[m.Tenant] {
					t.Fatalf("%s moved twice", m.Tenant)
				}
				moved[m.Tenant] = true
			}
			if len(moves) == 0 {
				break
			}
		}
		if even := level(c.nodes(nodes), overload); even.skewed {
			t.Fatalf("ends at %v, overload %v", c.nodes(nodes), overload)
		}
	})
}

// What is within the overload is left alone: tenants stick to their owners.
func TestPlanIsSticky(t *testing.T) {
	c := cluster{"a": tenants(110)[:40], "b": tenants(110)[40:75], "c": tenants(110)[75:]}
	nodes := c.nodes([]Node{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	for _, n := range nodes {
		if got := Plan(n.Name, c[n.Name], nodes, 1.25, 100); got != nil {
			t.Errorf("%s plans %v", n.Name, got)
		}
	}
}

func TestPlanAfterAJoin(t *testing.T) {
	all := tenants(90)
	c := cluster{"a": all[:45], "b": all[45:]}
	nodes := c.nodes([]Node{{Name: "a"}, {Name: "b"}, {Name: "c"}})
	total := 0
	for _, n := range []string{"a", "b"} {
		moves := Plan(n, c[n], nodes, 1.25, 100)
		total += len(moves)
		for _, m := range moves {
			if m.To != "c" {
				t.Errorf("%s goes to %s", m.Tenant, m.To)
			}
		}
	}
	if total != 30 {
		t.Errorf("%d moves, want 30: the share of the one that joined", total)
	}
	if got := Plan("c", nil, nodes, 1.25, 100); got != nil {
		t.Errorf("who joined plans %v", got)
	}
}

func TestNobodyGivesToWhoDrains(t *testing.T) {
	c := cluster{"a": tenants(60), "b": nil, "c": nil}
	nodes := c.nodes([]Node{{Name: "a"}, {Name: "b", Draining: true}, {Name: "c"}})
	moves := Plan("a", c["a"], nodes, 1.25, 100)
	if len(moves) != 30 || slices.ContainsFunc(moves, func(m Move) bool { return m.To != "c" }) {
		t.Errorf("%d moves: %v", len(moves), moves)
	}
	for i := range nodes {
		nodes[i].Draining = true
	}
	if got := Plan("a", c["a"], nodes, 1.25, 100); got != nil {
		t.Errorf("all drain: %v", got)
	}
	if got := Plan("unknown", tenants(5), nodes[:0], 1.25, 100); got != nil {
		t.Errorf("nobody there: %v", got)
	}
}
