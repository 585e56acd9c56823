// Package share divides a tenant's limits among replicas: pure decisions, without clock, lock or message of its own.
//
// Each replica owns an equal part of every limit, and needs nobody to spend it. What a replica does not need it lends to the
// tenant's keeper, and the keeper grants what was lent to it to those who need more, as leases. A keeper has nothing but
// what was lent to it, so that two replicas that both take themselves for the keeper do no harm, and without any keeper each
// has its own part again. The parts that are valid at any moment are never more than the whole, whichever messages are lost,
// late or out of order, if the replicas agree on how many they are; see Census for how they come to.
//
// There is no time that two clocks must agree on. A grant begins, for its holder, when the question was sent, and for the
// keeper when it was answered, which is later. A loan ends, for the keeper, some time after an answer that the keeper gave,
// by the keeper's own clock, and for the lender the same time after that answer arrived, which is later.
package share

import "time"

// Part is a part of a limit, of which there are Whole. Whole is divisible by all numbers up to 16, and by 10 after that.
type Part int64

// Whole is all of a limit.
const Whole Part = 7_207_200

// The times. A loan outlasts the grants that are made of it by Grace, in which requests in flight come to their end, and
// has some rounds between two answers to spare.
const (
	Lease  = time.Second            // of a grant
	Grace  = 500 * time.Millisecond // requests that take no longer never exceed a limit of concurrency, whatever fails
	Loan   = 2 * time.Second        // of what is lent
	Window = 5 * time.Second        // for which a view of the replicas may be old before whoever has it stops by itself
)

// reserve is the share of its own part that a replica never lends: what it has at once when a tenant comes to it.
const reserve = 10

// step is what loans are rounded to, so that they do not change with every request.
const step = Whole / 64

// Peer is one run of a replica.
type Peer struct {
	Name string
	Run  string // rises with each start of the replica
}

// Ask is what a replica wants of a tenant's keeper, and lends it. It is made by Holder.Ask.
type Ask struct {
	Stamp     int64 // when it was sent, by the sender's clock
	Need      Part  // what would suffice, of the whole
	InUse     Part  // what requests in flight hold
	Own       Part  // what it has without a grant
	Smallest  int   // the smallest count among the limits; 0 = there is none
	Have      int64 // the Stamp of the ask whose grant it holds; 0 = none
	Lent      Part  // what it lends
	LentUntil int64 // by the keeper's clock; 0 = it lends nothing, and takes somebody else for the keeper
}

// Grant is the answer, which holds for Lease since the ask was sent.
type Grant struct {
	Part Part
	Odd  bool // counts are rounded up, by this replica alone
}

// lease is something of which an amount is given until a time.
type lease struct {
	amount Part
	until  int64
}

// leases are what was given one after the other of the same thing: what counts at a time is the most of those that last.
type leases []lease

// at returns what is given that lasts until t.
func (l leases) at(t int64) (most Part) {
	for _, e := range l {
		if e.until >= t {
			most = max(most, e.amount)
		}
	}
	return most
}

// until returns when the last ends.
func (l leases) until() (last int64) {
	for _, e := range l {
		last = max(last, e.until)
	}
	return last
}

// with returns the leases and one more, without those that count no more.
func (l leases) with(now int64, add lease) leases {
	kept := l[:0]
	for _, e := range l {
		if e.until >= now && (e.amount > add.amount || e.until > add.until) {
			kept = append(kept, e)
		}
	}
	return append(kept, add)
}
