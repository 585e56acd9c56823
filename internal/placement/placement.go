// Package placement says which replica a tenant should be on: weighted rendezvous hashing, so that a replica which comes or
// goes moves its own share of the tenants and no other, with a bound on how much more than its share one may get. It is
// arithmetic: who is there comes in as an argument, and what is to be done about it is done elsewhere.
package placement

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
)

// Node is a replica as placement sees it.
type Node struct {
	Name     string
	Capacity int // its weight; below 1 = 1
	Tenants  int // that it serves now
	Draining bool
}

func (n Node) weight() float64 { return float64(max(n.Capacity, 1)) }

// Prefer returns the names of the replicas that a tenant without an owner may be on, the one it should be on first. A replica
// that would come above overload times its fair share goes behind those that would not; overload below 1 is no bound, and the
// order then hangs on the names and capacities alone. Replicas that drain are left out, unless all do: somebody has to serve.
//
// It is the same on every replica and in every version for the same nodes: two replicas that disagree cost a request a hop.
func Prefer(tenant string, nodes []Node, overload float64) []string {
	list := serving(nodes)
	total, weight := sums(nodes, list)
	scored := make([]scoredNode, len(list))
	for i, n := range list {
		scored[i] = scoredNode{
			name: n.Name, score: score(tenant, n),
			full: overload >= 1 && n.Tenants+1 > bound(total+1, n.weight()/weight, overload),
		}
	}
	slices.SortFunc(scored, compareScored)
	names := make([]string, len(scored))
	for i, s := range scored {
		names[i] = s.name
	}
	return names
}

type scoredNode struct {
	name  string
	score float64
	full  bool
}

func compareScored(a, b scoredNode) int {
	switch {
	case a.full != b.full && b.full:
		return -1
	case a.full != b.full:
		return 1
	case a.score != b.score:
		return cmp.Compare(b.score, a.score)
	}
	return cmp.Compare(a.name, b.name)
}

// serving returns the nodes that may get tenants.
func serving(nodes []Node) []Node {
	out := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		if !n.Draining {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nodes
	}
	return out
}

// sums returns how many tenants there are on all nodes, also on those that are about to give theirs up, and the weight of
// those that share them.
func sums(all, sharing []Node) (tenants int, weight float64) {
	for _, n := range all {
		tenants += max(n.Tenants, 0)
	}
	for _, n := range sharing {
		weight += n.weight()
	}
	return tenants, weight
}

// bound returns the most tenants of total that a node may have whose part of the weight is share. The bounds of all nodes
// add up to total at least, for overload ≥ 1: there is always one that is not full.
func bound(total int, share, overload float64) int {
	return int(math.Ceil(float64(total)*share*overload - 1e-9))
}

// score is the node's bid for the tenant. With -w/ln(h), h uniform in (0,1), a node wins with the probability of its weight's
// part of all, and what others bid changes nothing of its own bid: hence a node that comes wins tenants for itself alone, and
// one that goes leaves its own alone. SHA-256 since the names are chosen by tenants, and the same in every version.
func score(tenant string, n Node) float64 {
	var buf [128]byte
	b := append(buf[:0], tenant...)
	b = append(b, 0)
	b = append(b, n.Name...)
	sum := sha256.Sum256(b)
	h := (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53)
	return -n.weight() / math.Log(h)
}
