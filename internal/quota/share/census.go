package share

import "slices"

// Census is how many replicas there are, as one of them sees it. What each owns is the whole divided by that number, so
// none may reckon with fewer than there are:
//
//   - one that is gone counts for a Window longer: by then it has stopped by its own clock, and what it lent is over;
//   - one that is new owns nothing until all others have told it that they count at least as many as it does, which they say
//     only when nothing is lent or in flight any more by a smaller number. Nor does it before what those lent is over who
//     went just before it came. It lives on grants until then.
//
// After a Window and a Loan it owns its part even if others say nothing: by then they have seen it or have stopped.
type Census struct {
	self    string
	born    int64
	hold    int64 // until when one that is gone may have lent something
	settled bool
	seen    []sighting
	others  []string
	told    map[string]int

	lentUntil  int64 // until when something is lent
	tight      int   // by which number of replicas, at least, if that was before the number grew; 0 = the number now
	tightUntil int64
}

type sighting struct {
	count int
	last  int64
}

// NewCensus begins at now.
func NewCensus(self string, now int64) *Census {
	return &Census{self: self, born: now, told: map[string]int{}}
}

// See takes the names of the live replicas, and says whether what each owns is another number by it.
func (c *Census) See(now int64, live []string) (changed bool) {
	before, owned := c.Count(), c.Owned()
	gone := slices.ContainsFunc(c.others, func(name string) bool { return !slices.Contains(live, name) })
	if gone || before == 0 && len(live) > 1 {
		c.hold = now + int64(Loan)
	}
	c.others = slices.DeleteFunc(slices.Clone(live), func(name string) bool { return name == c.self })
	n := len(c.others) + 1
	c.seen = slices.DeleteFunc(c.seen, func(s sighting) bool { return s.count == n || s.last < now-int64(Window) })
	c.seen = append(c.seen, sighting{n, now})
	if before > 0 && c.Count() > before && c.settled {
		if c.tightUntil < now || c.tight > before {
			c.tight = before
		}
		c.tightUntil = max(c.lentUntil, now+int64(Grace))
	}
	for name := range c.told {
		if !slices.Contains(c.others, name) {
			delete(c.told, name)
		}
	}
	c.settle(now)
	return c.Owned() != owned
}

func (c *Census) settle(now int64) {
	if c.settled {
		return
	}
	c.settled = now-c.born >= int64(Window+Loan) || now >= c.hold && !slices.ContainsFunc(c.others, func(name string) bool { return c.told[name] < len(c.others)+1 })
}

// Settled says whether this replica owns its part.
func (c *Census) Settled() bool { return c.settled }

// Others returns the names of the other live replicas.
func (c *Census) Others() []string { return c.others }

// Told takes what another replica answered to a question of ours about the number of replicas.
func (c *Census) Told(from string, count int) { c.told[from] = count }

// Count returns the number of replicas to reckon with.
func (c *Census) Count() (n int) {
	for _, s := range c.seen {
		n = max(n, s.count)
	}
	return n
}

// Tell returns the number that nothing of ours is reckoned below.
func (c *Census) Tell(now int64) int {
	if now <= c.tightUntil {
		return min(c.tight, c.Count())
	}
	return c.Count()
}

// Lend takes note that something is lent until then.
func (c *Census) Lend(until int64) { c.lentUntil = max(c.lentUntil, until) }

// Owned returns the part that is this replica's own.
func (c *Census) Owned() Part {
	if !c.settled || c.Count() == 0 {
		return 0
	}
	return Whole / Part(c.Count())
}
