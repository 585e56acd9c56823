package share

import "slices"

// Census is whom one replica counts. It owns the whole divided by their number and its own, so what must hold is: whoever
// owns a part is counted by everybody else who owns one, until all that it lent is over.
//
// Of any two replicas that are in the registry, the later one saw the earlier at its first look. So the later one owns
// nothing until all that it sees have told it that they count it (Room), which they do from its first question on, whether
// their own view shows it yet or not, and say when nothing is lent or in flight any more that was reckoned without it. Nor
// does it before what those lent is over who went before its first look. It lives on grants until then.
//
// After a Window and a Loan it owns its part even if others say nothing: by then they have seen it, or have stopped.
type Census struct {
	self    string
	born    int64 // when it began to ask for room
	looked  bool
	settled bool
	last    int64 // when it looked last
	lost    bool  // it was not in the registry when it looked last
	mates   map[string]*mate
	others  []string // in the registry

	lentUntil int64 // until when something is lent
	mark      int   // rises when somebody is counted who was not, or what is owned changes
	applied   int   // the mark by which the guards spend
}

// mate is another replica that is counted.
type mate struct {
	live  bool  // in the registry
	until int64 // counted until then at least
	room  int64 // until when something may be in use that was reckoned without it
	mark  int
	ours  bool // it told that it counts this replica
}

// NewCensus begins at now.
func NewCensus(self string, now int64) *Census {
	return &Census{self: self, born: now, mates: map[string]*mate{}}
}

// See takes the names of the replicas in the registry. A replica that was not among them, or did not look for so long that
// others may have stopped counting it, is as good as a new one.
func (c *Census) See(now int64, live []string) {
	owned := c.Owned()
	if in := slices.Contains(live, c.self); !in {
		c.lost = true // it keeps what it has: without a session it serves little, or as it was told to
		return
	}
	if c.looked && (c.lost || now-c.last > int64(Window)/2) {
		c.renew(now)
	}
	c.lost, c.last = false, now
	c.others = slices.DeleteFunc(slices.Clone(live), func(name string) bool { return name == c.self })
	for name, m := range c.mates {
		if m.live && !slices.Contains(c.others, name) {
			m.live, m.until = false, max(m.until, now+int64(Loan))
		}
		if !m.live && m.until < now {
			delete(c.mates, name)
		}
	}
	for _, name := range c.others {
		c.count(now, name).live = true
	}
	c.settle(now)
	c.looked = true
	if c.Owned() != owned {
		c.mark++
	}
}

// renew begins anew: others may not count this replica any more.
func (c *Census) renew(now int64) {
	c.born, c.settled, c.looked = now, false, false
	for _, m := range c.mates {
		m.ours = false
	}
}

// count returns the mate of that name, who is counted from now on.
func (c *Census) count(now int64, name string) *mate {
	m := c.mates[name]
	if m == nil {
		c.mark++
		m = &mate{mark: c.mark, room: max(c.lentUntil, now+int64(Grace))}
		if !c.settled {
			m.room = c.lentUntil
		}
		c.mates[name] = m
	}
	return m
}

// Heard takes note that a replica asks. It is counted until the view must show it.
func (c *Census) Heard(now int64, from string) {
	if from != c.self {
		m := c.count(now, from)
		m.until = max(m.until, now+int64(Window+Loan))
	}
}

func (c *Census) settle(now int64) {
	switch age := now - c.born; {
	case c.settled:
	case !c.looked && len(c.mates) == 0: // whoever comes will ask
		c.settled = true
	case age > int64(Window+Loan):
		c.settled = true
	case age > int64(Loan):
		c.settled = !slices.ContainsFunc(c.others, func(name string) bool { return !c.mates[name].ours })
	}
}

// Settled says whether this replica owns its part.
func (c *Census) Settled() bool { return c.settled }

// Others returns the names of the other replicas in the registry.
func (c *Census) Others() []string { return c.others }

// Room says whether a replica is counted, and nothing is in use any more that was reckoned without it.
func (c *Census) Room(now int64, name string) bool {
	m := c.mates[name]
	return m != nil && m.room < now && m.mark <= c.applied
}

// Told takes another replica's answer to a question of ours about room.
func (c *Census) Told(from string, room bool) {
	if m := c.mates[from]; m != nil && room {
		m.ours = true
	}
}

// Mark returns what stands for the parts as they are now; see Applied.
func (c *Census) Mark() int { return c.mark }

// Applied takes note that the guards spend by the parts as they were at that mark.
func (c *Census) Applied(mark int) { c.applied = max(c.applied, mark) }

// Stale says whether the guards spend by other parts.
func (c *Census) Stale() bool { return c.applied < c.mark }

// Count returns the number of replicas to reckon with.
func (c *Census) Count() int { return len(c.mates) + 1 }

// Quorum is Count for a replica that counts all who may have lent something; a new one does not, and has no majority.
func (c *Census) Quorum() int {
	if !c.settled {
		return 1 << 20
	}
	return c.Count()
}

// Lend takes note that something is lent until then.
func (c *Census) Lend(until int64) { c.lentUntil = max(c.lentUntil, until) }

// Owned returns the part that is this replica's own.
func (c *Census) Owned() Part {
	if !c.settled {
		return 0
	}
	return Whole / Part(c.Count())
}
