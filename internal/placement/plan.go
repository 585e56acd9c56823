package placement

import (
	"cmp"
	"math"
	"slices"
)

// Move is a tenant and the replica that it should be given to.
type Move struct{ Tenant, To string }

// Plan returns up to limit moves by which self gives tenants of its own to replicas that have too few. Each replica plans for
// itself, from the same nodes, and what it plans fits what the others plan at the same time: together they fill no replica
// above its fair share and empty none below.
//
// Nothing is moved as long as every replica is within overload of its fair share, above and below: a tenant that moves costs
// its clients a pause. Beyond that, moves go from above the fair share to below it, and so never back. Replicas that drain
// take no part: their tenants are counted as the others' to come.
func Plan(self string, owned []string, nodes []Node, overload float64, limit int) []Move {
	even := level(nodes, max(overload, 1))
	if limit <= 0 || !even.skewed {
		return nil
	}
	quota := even.given(self)
	var moves []Move
	taken := make(map[string]bool)
	me, _ := find(nodes, self)
	for _, q := range quota {
		if len(moves) >= limit {
			break
		}
		to, _ := find(nodes, q.to)
		n := min(q.n, limit-len(moves))
		for _, t := range nearest(owned, taken, me, to, n) {
			taken[t] = true
			moves = append(moves, Move{Tenant: t, To: q.to})
		}
	}
	return moves
}

// side is a replica and how many tenants it has too many, or too few.
type side struct {
	name string
	off  int
}

// balance is who has too many and who too few. Fair shares are seldom whole numbers: beyond the nearest one above it a replica
// has too many, below the nearest one under it too few, and in between it may give or take one where another's needs it.
type balance struct {
	skewed    bool // somebody is beyond the overload
	many, few []side
	needed    int // moves after which nobody has too many or too few
}

// level compares the replicas that do not drain with their fair shares.
func level(nodes []Node, overload float64) (b balance) {
	list := serving(nodes)
	if len(list) == 0 || list[0].Draining {
		return b // all drain: there is nobody to give anything to
	}
	total, weight := sums(nodes, list)
	var mayGive, mayTake []side
	give, take := 0, 0
	for _, n := range list {
		fair := float64(total) * n.weight() / weight
		low, high := int(math.Floor(fair+1e-9)), int(math.Ceil(fair-1e-9))
		if n.Tenants > int(math.Ceil(fair*overload-1e-9)) || n.Tenants < int(math.Floor(fair/overload+1e-9)) {
			b.skewed = true
		}
		over, under := max(n.Tenants-high, 0), max(low-n.Tenants, 0)
		give, take = give+over, take+under
		b.many, b.few = add(b.many, n.Name, over), add(b.few, n.Name, under)
		mayGive, mayTake = add(mayGive, n.Name, n.Tenants-over-low), add(mayTake, n.Name, high-n.Tenants-under)
	}
	b.needed = max(give, take)
	b.many, b.few = append(sorted(b.many), sorted(mayGive)...), append(sorted(b.few), sorted(mayTake)...)
	return b
}

func add(list []side, name string, off int) []side {
	if off <= 0 {
		return list
	}
	return append(list, side{name, off})
}

func sorted(list []side) []side {
	slices.SortFunc(list, func(x, y side) int { return cmp.Or(cmp.Compare(y.off, x.off), cmp.Compare(x.name, y.name)) })
	return list
}

// part is how many tenants a replica is to be given.
type part struct {
	to string
	n  int
}

// given lays what some have too many beside what others have too few, in the order of who is off the most, and returns the
// parts that lie beside self's. All replicas lay them alike, so no part is given twice.
func (b *balance) given(self string) (parts []part) {
	from := 0
	for _, s := range b.many {
		till := min(from+s.off, b.needed)
		if s.name == self {
			parts = append(parts, b.beside(from, till)...)
		}
		from += s.off
	}
	return parts
}

// beside returns whose need lies from one place to another.
func (b *balance) beside(from, till int) (parts []part) {
	at := 0
	for _, s := range b.few {
		if n := min(till, at+s.off) - max(from, at); n > 0 {
			parts = append(parts, part{s.name, n})
		}
		at += s.off
	}
	return parts
}

// nearest returns up to n of the owned tenants that are not taken: those that would rather be at to than at me come first, so
// that after the move most are where rendezvous would put them, and stay there when they lose their owner.
func nearest(owned []string, taken map[string]bool, me, to Node, n int) []string {
	type bid struct {
		tenant string
		more   float64
	}
	bids := make([]bid, 0, len(owned))
	for _, t := range owned {
		if !taken[t] {
			bids = append(bids, bid{t, score(t, to) / score(t, me)})
		}
	}
	slices.SortFunc(bids, func(a, b bid) int {
		return cmp.Or(cmp.Compare(b.more, a.more), cmp.Compare(a.tenant, b.tenant))
	})
	out := make([]string, 0, n)
	for _, b := range bids[:min(n, len(bids))] {
		out = append(out, b.tenant)
	}
	return out
}

func find(nodes []Node, name string) (Node, bool) {
	for _, n := range nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}
