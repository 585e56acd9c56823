package share

import (
	"slices"
	"strings"
)

// Book is what a keeper knows of one tenant: what the replicas lent it, what it granted them, and what they need. The zero
// value is empty.
type Book struct {
	of      []*account // by name and run
	oddLast Peer       // who was told to round up last
	oddAt   int64      // since when
}

// account is one replica's.
type account struct {
	peer          Peer
	stamp         int64 // of the last ask
	seen          int64 // when it came
	loans         leases
	held, pending granted // what it is known to hold, and what it was answered last
	ask           Ask
}

// granted is a grant as the keeper reckons it. The zero value is none.
type granted struct {
	Grant
	stamp int64
	until int64
}

// counts says whether requests that came in by the grant may be in flight still. That they are not, the next ask says.
func (g *granted) counts(now int64) bool { return g.until+int64(Grace) > now }

// Ask answers a replica's ask while it counts that many replicas. ok is false for one that comes too late, after others of
// the same replica: its sender listens to no answer any more.
func (b *Book) Ask(now int64, from Peer, a Ask, count int) (g Grant, ok bool) {
	me, ok := b.account(from)
	if !ok || a.Stamp <= me.stamp {
		return g, false
	}
	me.stamp, me.seen, me.ask = a.Stamp, now, a
	me.settle(a.Have)
	if a.LentUntil > 0 {
		me.loans = me.loans.with(now, lease{a.Lent, a.LentUntil})
	}
	pool, taken := Part(0), Part(0)
	for _, c := range b.of {
		pool += c.loans.at(now + int64(Lease+Grace))
		if c != me {
			taken += c.outstanding(now)
		}
	}
	odd := b.odd(now, me, count)
	g = Grant{Part: max(0, min(b.target(now, me, pool, odd), pool-taken)), Odd: odd}
	if near(g.Part, me.held.Part) && me.held.until > now && me.held.Part <= pool-taken && g.Part > 0 {
		g.Part = me.held.Part
	}
	me.pending = granted{g, a.Stamp, now + int64(Lease)}
	return g, true
}

// near says whether a change is not worth it: what a share grows by starts spent.
func near(a, b Part) bool { return a-b < step && b-a < step }

// account returns the account of a replica. An ask of an earlier run, which came late, has none.
func (b *Book) account(from Peer) (*account, bool) {
	for _, c := range b.of {
		switch {
		case c.peer == from:
			return c, true
		case c.peer.Name == from.Name && c.peer.Run > from.Run:
			return nil, false
		case c.peer.Name == from.Name:
			c.loans, c.ask = nil, Ask{} // it lends by its new run; what the old one was granted counts till it ends
		}
	}
	c := &account{peer: from}
	b.of = append(b.of, c)
	slices.SortFunc(b.of, func(x, y *account) int {
		return strings.Compare(x.peer.Name+"\x00"+x.peer.Run, y.peer.Name+"\x00"+y.peer.Run)
	})
	return c, true
}

// settle reckons with what the replica says that it holds. It asks one question after the other, so what it does not hold
// now of what it was granted before, it never will.
func (c *account) settle(have int64) {
	switch {
	case have != 0 && have == c.pending.stamp:
		c.held = c.pending
	case have == 0 || have != c.held.stamp:
		c.held = granted{}
	}
	c.pending = granted{}
}

// outstanding returns what the replica may be spending of what was lent.
func (c *account) outstanding(now int64) (p Part) {
	for _, g := range []granted{c.held, c.pending} {
		if g.counts(now) {
			p = max(p, g.Part)
		}
	}
	if c.heard(now) {
		p = max(p, c.ask.InUse-c.ask.Own) // requests in flight that came in under a greater grant
	}
	return p
}

// heard says whether what the replica asked for is still to be reckoned with.
func (c *account) heard(now int64) bool { return c.seen > now-int64(Loan) }

// target returns what me should have of the pool: the needs of the smallest first, and what nobody needs in equal parts
// among those who need anything, for bursts. Where the tenant is far from its limits, half of that stays for who comes next.
func (b *Book) target(now int64, me *account, pool Part, odd bool) Part {
	if me.ask.Need == 0 {
		return 0
	}
	level := b.level(now, pool)
	var mine, sum, needy Part
	for _, c := range b.of {
		if !c.heard(now) || c.ask.Need == 0 {
			continue
		}
		needy++
		p := whole(max(0, min(level, c.ask.Need)-c.ask.Own), c, c == me && odd || c != me && c.isOdd(now))
		sum += p
		if c == me {
			mine = p
		}
	}
	if me.ask.Smallest > 0 && Part(me.ask.Smallest) <= 2*needy { // a part of what is left would be rounded away
		if odd {
			return mine + max(0, pool-sum)
		}
		return mine
	}
	spare := max(0, pool-sum)
	if !b.Scarce(now) {
		spare /= 2
	}
	return mine + spare/needy
}

// whole rounds a part of few places down to what lets requests in; the replica that rounds up takes what is left over.
func whole(p Part, c *account, odd bool) Part {
	n := Part(c.ask.Smallest)
	if odd || n == 0 || n > 16 {
		return p
	}
	total := p + c.ask.Own
	places := total * n / Whole
	return max(0, (places*Whole+n-1)/n-c.ask.Own)
}

// level returns the need up to which the pool suffices for all.
func (b *Book) level(now int64, pool Part) Part {
	low, high := Part(0), Whole
	for low < high {
		mid := (low + high + 1) / 2
		var sum Part
		for _, c := range b.of {
			if c.heard(now) {
				sum += max(0, min(mid, c.ask.Need)-c.ask.Own)
			}
		}
		if sum <= pool {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// odd decides whether me is told to round up: one replica at most, by a keeper that more than half of the replicas lend
// to, so that there is no other such keeper. If nobody else has a place by that, it goes around, once a lease.
func (b *Book) odd(now int64, me *account, count int) bool {
	votes := 0
	for _, c := range b.of {
		if c.loans.until() >= now+int64(Lease+Grace) {
			votes++
		}
		if c != me && (c.isOdd(now) || c.over(now)) {
			return false
		}
	}
	if 2*votes <= count || me.ask.Need == 0 || me.ask.Smallest == 0 {
		return false
	}
	if b.oddLast == me.peer && now-b.oddAt > int64(Lease) && b.starving(now, me) {
		return false
	}
	if b.oddLast != me.peer {
		b.oddLast, b.oddAt = me.peer, now
	}
	return true
}

func (c *account) isOdd(now int64) bool {
	return c.held.Odd && c.held.counts(now) || c.pending.Odd && c.pending.counts(now)
}

// over says whether the replica has more in flight than it may have without rounding up.
func (c *account) over(now int64) bool {
	return c.heard(now) && c.ask.InUse > c.ask.Own+max(c.held.Part, c.pending.Part)
}

// starving says whether a replica other than me needs something and has not one place.
func (b *Book) starving(now int64, me *account) bool {
	return slices.ContainsFunc(b.of, func(c *account) bool {
		return c != me && c.heard(now) && c.ask.Need > 0 && (c.ask.Own+c.held.Part)*Part(c.ask.Smallest) < Whole
	})
}

// Wants says whether somebody needs what others could lend.
func (b *Book) Wants(now int64) bool {
	return slices.ContainsFunc(b.of, func(c *account) bool { return c.heard(now) && c.ask.Need > 0 })
}

// Scarce says whether the tenant comes near its limits, or needs more than was lent.
func (b *Book) Scarce(now int64) bool {
	var need, pool Part
	for _, c := range b.of {
		if c.heard(now) {
			need += c.ask.Need
		}
		pool += c.loans.at(now + int64(Lease+Grace))
	}
	return need > Whole/4*3 || b.level(now, pool) < Whole
}

// Hears says whether a replica has asked of late.
func (b *Book) Hears(now int64, replica string) bool {
	return slices.ContainsFunc(b.of, func(c *account) bool { return c.peer.Name == replica && c.seen > now-int64(Lease) })
}

// Idle forgets the accounts that are over, and says whether none is left.
func (b *Book) Idle(now int64) bool {
	b.of = slices.DeleteFunc(b.of, func(c *account) bool {
		return !c.heard(now) && c.loans.until() < now && !c.held.counts(now) && !c.pending.counts(now)
	})
	return len(b.of) == 0
}
