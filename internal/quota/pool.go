package quota

import "sync/atomic"

// Pool shares a number of places on this replica among tenants. Half of it is owned: whoever holds less than its share of
// that half always gets a place, whatever the others hold. The other half is lent, to whoever asks first, but to nobody
// more than four times what is left. It is O(1), takes no lock, and is safe for concurrent use.
//
// The share is capacity/(16·active), where active is the number of tenants that hold owned places, and at least one. It is
// a sixteenth and not a half because places are never taken back: a tenant that came when few were active keeps what it
// got. Of the tenants that hold owned places, the j-th by the time of its last admission to one was admitted when at least
// j were active, so it holds at most capacity/(16·j), or one. The sum over n tenants is at most
// capacity/16·(1+1/2+…+1/n), which stays within the owned half of 10,000 places up to some 1,200 tenants that are active
// at the same moment; each one beyond can add one place. What a tenant holds beyond its share is lent, and goes to
// whoever asks next when it is given back, so tenants that all want more end with equal parts of the lent half.
type Pool struct {
	capacity int64
	active   atomic.Int64 // members that hold owned places
	lent     atomic.Int64 // places lent
}

// NewPool returns a pool of that many places; 0 or less is no bound.
func NewPool(capacity int) *Pool { return &Pool{capacity: int64(capacity)} }

// Member is one tenant's part in a pool. The zero value holds nothing.
type Member struct {
	own, lent atomic.Int64
}

// Held returns how many places it holds.
func (m *Member) Held() int64 { return m.own.Load() + m.lent.Load() }

// Place says what kind of place was given. It is to be given back as it was.
type Place uint8

// The kinds of place.
const (
	NoPlace Place = iota // refused
	Owned                // within the share
	Lent                 // beyond it
)

const (
	shareDivisor = 16 // see Pool
	lentFactor   = 4  // one tenant alone gets four fifths of what can be lent
)

// Share returns how many places each of so many active tenants is guaranteed.
func Share(capacity, active int64) int64 { return max(1, capacity/(shareDivisor*max(1, active))) }

// Choose decides which place somebody gets who holds own and lent places, while active tenants, itself included, hold owned
// places and so many are lent altogether.
func Choose(own, lent, active, lentTotal, capacity int64) Place {
	if own < Share(capacity, active) {
		return Owned
	}
	if left := capacity/2 - lentTotal; left > 0 && lent < lentFactor*left {
		return Lent
	}
	return NoPlace
}

// Enter takes a place for m. All but NoPlace are to be paired with a Leave.
func (p *Pool) Enter(m *Member) Place {
	if p.capacity <= 0 {
		return Owned
	}
	for {
		own, active := m.own.Load(), p.active.Load()
		if own == 0 {
			active++
		}
		total := p.lent.Load()
		switch Choose(own, m.lent.Load(), active, total, p.capacity) {
		case Owned: // by comparing: a place that is taken and put back would be missing to others meanwhile
			if m.own.CompareAndSwap(own, own+1) {
				if own == 0 {
					p.active.Add(1)
				}
				return Owned
			}
		case Lent:
			if p.lent.CompareAndSwap(total, total+1) {
				m.lent.Add(1)
				return Lent
			}
		default:
			return NoPlace
		}
	}
}

// Leave gives back a place that Enter gave.
func (p *Pool) Leave(m *Member, place Place) {
	if p.capacity <= 0 {
		return
	}
	switch place {
	case Owned:
		if m.own.Add(-1) == 0 {
			p.active.Add(-1)
		}
	case Lent:
		m.lent.Add(-1)
		p.lent.Add(-1)
	}
}

// Share returns how many places a tenant is guaranteed now, itself counted among the active; 0 = no bound.
func (p *Pool) Share(m *Member) int64 {
	if p.capacity <= 0 {
		return 0
	}
	active := p.active.Load()
	if m.own.Load() == 0 {
		active++
	}
	return Share(p.capacity, active)
}

// Active returns how many members hold owned places, and how many places are lent.
func (p *Pool) Active() (members, lent int64) { return p.active.Load(), p.lent.Load() }
