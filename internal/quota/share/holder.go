package share

// Holder is one replica's side for one tenant: what it lent and what it was granted. The zero value has neither.
type Holder struct {
	keeper Peer   // whom it lends to
	lent   leases // by its own clock
	last   lease  // of lent
	shrunk int64  // when it last lent less than before
	grant  held
}

// held is a grant of a keeper. The zero value is none.
type held struct {
	Grant
	keeper Peer
	stamp  int64 // of the ask
	until  int64
}

// Want is what a tenant needs here.
type Want struct {
	Need, InUse Part
	Smallest    int
	Scarce      bool // the keeper has less than others need: no more is kept than must be
}

// Keeper is the keeper of a tenant as a replica knows it by the keeper's last answer.
type Keeper struct {
	Peer
	Stamp int64 // of the answer, by the keeper's clock; 0 = there was none
	At    int64 // when it came, by the replica's clock
}

// Own returns what the replica has of its own part at now.
func (h *Holder) Own(now int64, owned Part) Part { return max(0, owned-h.lent.at(now)) }

// Ask makes the question for the keeper k. What it lends is missing to this replica from now on, whether the ask arrives or
// not. A replica lends to one keeper at a time: the others have its vote only when what it lent is over.
func (h *Holder) Ask(now int64, k Keeper, owned Part, w Want) Ask {
	a := Ask{Stamp: now, Need: w.Need, InUse: w.InUse, Smallest: w.Smallest}
	if h.grant.keeper == k.Peer && h.grant.until > now {
		a.Have = h.grant.stamp
	}
	if h.mayLend(now, k) && owned > 0 {
		a.Lent, a.LentUntil = h.lend(now, owned, w), k.Stamp+int64(Loan)
		h.last = lease{a.Lent, k.At + int64(Loan)}
		h.keeper, h.lent = k.Peer, h.lent.with(now, h.last)
	}
	a.Own = h.Own(now, owned)
	return a
}

// LentUntil returns when all that is lent is over.
func (h *Holder) LentUntil() int64 { return h.lent.until() }

func (h *Holder) mayLend(now int64, k Keeper) bool {
	return k.Stamp > 0 && now-k.At < int64(Loan) && (h.keeper == k.Peer || h.lent.until() < now)
}

// lend returns how much to lend. What is lent comes back in small steps, one a loan: a step is nobody's until it is over, and while
// the keeper answers, its grants are as good.
func (h *Holder) lend(now int64, owned Part, w Want) Part {
	amount := owned - keep(owned, w)
	if h.last.until < now || amount >= h.last.amount {
		return amount
	}
	before := min(h.last.amount, owned-owned/reserve)
	if now-h.shrunk < int64(Loan) {
		return before
	}
	h.shrunk = now
	if back := before - 4*step; !w.Scarce {
		return max(amount, back)
	}
	return max(amount, before-step)
}

// keep returns what a replica keeps of its own part: what it needs and a quarter more; and where others do not need it, half
// of it, so that a tenant that moves here finds something. What is too little to let one request in is not kept: the keeper
// can do more with it, by giving all of it to one replica.
func keep(owned Part, w Want) Part {
	least := owned / reserve
	kept := w.Need + w.Need/4 + step - 1
	kept -= kept % step
	place := Part(0)
	if w.Smallest > 0 {
		place = Whole/Part(w.Smallest) + 1
	}
	if !w.Scarce {
		kept = max(kept, owned/2, place)
	}
	if kept = min(max(kept, least), owned); w.Smallest > 0 && kept < place {
		return least
	}
	return kept
}

// Holds says whether the replica holds a grant: it goes on asking until that is given back.
func (h *Holder) Holds(now int64) bool {
	return h.grant.until > now && (h.grant.Part > 0 || h.grant.Odd)
}

// Take takes the answer of keeper k to the ask of that stamp. A greater grant of another keeper stays till it ends.
func (h *Holder) Take(now int64, k Peer, stamp int64, g Grant) {
	if h.grant.keeper != k && h.grant.until > now && h.grant.Part > g.Part {
		return
	}
	h.grant = held{Grant: g, keeper: k, stamp: stamp, until: stamp + int64(Lease)}
}

// Share is what a replica may spend.
type Share struct {
	Part  Part
	Odd   bool  // counts are rounded up
	Until int64 // when the grant in it ends; 0 = there is none
	After Part  // the part from then on
}

// Share returns what the replica may spend at now.
func (h *Holder) Share(now int64, owned Part) Share {
	own := h.Own(now, owned)
	if h.grant.until <= now || h.grant.Part == 0 && !h.grant.Odd {
		return Share{Part: own}
	}
	return Share{Part: own + h.grant.Part, Odd: h.grant.Odd, Until: h.grant.until, After: own}
}

// Idle says whether nothing is lent or granted.
func (h *Holder) Idle(now int64) bool { return h.grant.until <= now && h.lent.until() < now }
