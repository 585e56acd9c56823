package share_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/quota/share"
)

const ms = int64(time.Millisecond)

// world is a platform of replicas that share one tenant's limits, in virtual time. Its network loses, delays and turns
// around what it is given; its clocks differ.
type world struct {
	now     int64 // true time
	limit   int   // of concurrency
	all     []*replica
	members []membership
	mail    []*letter
	born    int
	full    float64 // sum of the parts at all checks
}

// membership is the names of the live replicas since a time.
type membership struct {
	since int64
	live  []string
}

type replica struct {
	share.Peer
	skew    int64 // of its clock
	lag     int64 // of its view of the replicas
	seen    int64 // the time that its view shows: it never goes back
	census  *share.Census
	holder  share.Holder
	book    share.Book
	keepers map[string]share.Keeper
	asked   map[string]int64 // stamps of the asks under way
	busy    map[string]int64 // asks under way, by keeper: when they are given up
	keeper  string           // whom it takes for the keeper
	need    share.Part
	scarce  bool    // its keeper said so
	away    int64   // until when it has no session: it serves nothing
	flying  []int64 // when its requests in flight end
	seq     int64
}

// letter is an ask, or its answer.
type letter struct {
	at       int64
	from, to share.Peer
	ask      share.Ask
	answer   bool
	grant    share.Grant
	ok       bool
	scarce   bool
	room     bool
	stamp    int64 // of the answering keeper's clock
}

func (w *world) clock(r *replica) int64 { return w.now + r.skew }

func (w *world) live() []string { return w.members[len(w.members)-1].live }

// view is the replicas as r sees them.
func (w *world) view(r *replica) (live []string) {
	r.seen = max(r.seen, w.now-r.lag)
	for _, m := range w.members {
		if m.since <= r.seen {
			live = m.live
		}
	}
	return live
}

func (w *world) join(name string, skew, lag int64) {
	w.born++
	r := &replica{Peer: share.Peer{Name: name, Run: fmt.Sprintf("%08d", w.born)}, skew: skew, keepers: map[string]share.Keeper{}, busy: map[string]int64{}, asked: map[string]int64{}}
	live := slices.DeleteFunc(slices.Clone(w.liveOrNone()), func(n string) bool { return n == name })
	w.members = append(w.members, membership{w.now, append(live, name)})
	r.lag, r.seen = lag, w.now // it registered before it looked
	r.census = share.NewCensus(name, w.clock(r))
	r.look(w.clock(r), w.live())
	r.keeper = name
	w.all = append(w.all, r)
}

func (r *replica) look(now int64, live []string) {
	r.census.See(now, live)
	r.census.Applied(r.census.Mark())
}

func (w *world) liveOrNone() []string {
	if len(w.members) == 0 {
		return nil
	}
	return w.live()
}

func (w *world) leave(name string) {
	w.all = slices.DeleteFunc(w.all, func(r *replica) bool { return r.Name == name })
	w.members = append(w.members, membership{w.now, slices.DeleteFunc(slices.Clone(w.live()), func(n string) bool { return n == name })})
}

// lose has a replica without a session for a while, as when it was frozen or cut off from the registry: then it is in the
// registry again, and goes on once it has seen that.
func (w *world) lose(r *replica, d int64) {
	w.members = append(w.members, membership{w.now, slices.DeleteFunc(slices.Clone(w.live()), func(n string) bool { return n == r.Name })})
	r.away, r.lag = w.now+d, 0
}

func (w *world) back(r *replica) {
	r.look(w.clock(r), w.view(r)) // it sees that it is away, if it is not frozen for longer than others reckon with it
	if r.away <= w.now {
		w.members = append(w.members, membership{w.now, append(slices.Clone(w.live()), r.Name)})
		r.away = 0
		r.look(w.clock(r), w.view(r))
	}
}

// round has r ask its keeper, and everybody else if it is new.
func (w *world) round(r *replica, delay func() (int64, bool)) {
	now := w.clock(r)
	r.look(now, w.view(r))
	to := []string{r.keeper}
	if !r.census.Settled() {
		to = append(to, r.census.Others()...)
	}
	for _, name := range slices.Compact(to) {
		if r.busy[name] > w.now {
			continue
		}
		k, known := r.keepers[name]
		if !known {
			k = share.Keeper{Peer: share.Peer{Name: name}}
		}
		r.seq++
		a := share.Ask{Stamp: now + r.seq}
		if name == r.keeper {
			want := share.Want{Need: r.need, InUse: share.Part(len(r.flying)) * share.Whole / share.Part(w.limit), Smallest: w.limit, Scarce: r.scarce}
			a = r.holder.Ask(now+r.seq, k, r.census.Owned(), want)
			r.census.Lend(r.holder.LentUntil())
		}
		r.busy[name] = w.now + 800*ms
		r.asked[name] = a.Stamp
		w.send(&letter{from: r.Peer, to: share.Peer{Name: name}, ask: a}, delay)
	}
}

func (w *world) send(l *letter, delay func() (int64, bool)) {
	d, lost := delay()
	if lost {
		return
	}
	l.at = w.now + d
	w.mail = append(w.mail, l)
}

// deliver hands out what has arrived, in the order of arrival.
func (w *world) deliver(delay func() (int64, bool)) {
	slices.SortStableFunc(w.mail, func(a, b *letter) int { return int(a.at - b.at) })
	for len(w.mail) > 0 && w.mail[0].at <= w.now {
		l := w.mail[0]
		w.mail = w.mail[1:]
		i := slices.IndexFunc(w.all, func(r *replica) bool { return r.Name == l.to.Name && (!l.answer || r.Run == l.to.Run) })
		if i < 0 {
			continue
		}
		if l.answer {
			w.take(w.all[i], l)
			continue
		}
		r := w.all[i]
		now := w.clock(r)
		r.census.Heard(now, l.from.Name)
		r.census.Applied(r.census.Mark())
		reply := &letter{answer: true, from: r.Peer, to: l.from, ask: l.ask, stamp: now, room: r.census.Room(now, l.from.Name)}
		if l.ask.Need > 0 || l.ask.LentUntil > 0 {
			reply.grant, reply.ok = r.book.Ask(now, l.from, l.ask, r.census.Quorum())
			reply.scarce = r.book.Scarce(now)
		}
		w.send(reply, delay)
	}
}

func (w *world) take(r *replica, l *letter) {
	if r.busy[l.from.Name] <= w.now || r.asked[l.from.Name] != l.ask.Stamp { // given up
		return
	}
	r.busy[l.from.Name] = 0
	now := w.clock(r)
	r.census.Told(l.from.Name, l.room)
	r.keepers[l.from.Name] = share.Keeper{Peer: l.from, Stamp: l.stamp, At: now}
	if l.ok {
		r.scarce = l.scarce
		r.holder.Take(now, l.from, l.ask.Stamp, l.grant)
	}
}

// serve lets requests in, as far as r may, and ends those whose time has come.
func (w *world) serve(r *replica, n int, takes int64) {
	r.flying = slices.DeleteFunc(r.flying, func(end int64) bool { return end <= w.now })
	if r.away > 0 {
		r.flying = nil
		return
	}
	s := r.holder.Share(w.clock(r), r.census.Owned())
	most := quota.Count(w.limit, float64(s.Part)/float64(share.Whole), s.Odd)
	for range n {
		if len(r.flying) < most {
			r.flying = append(r.flying, w.now+takes)
		}
	}
}

// check holds the bounds: the parts, the counts made of them, and what is in flight.
func (w *world) check(t interface{ Fatalf(string, ...any) }) {
	var sum share.Part
	flying, odd := 0, 0
	counts := map[int]int{}
	text := ""
	for _, r := range w.all {
		if r.away > 0 {
			continue
		}
		s := r.holder.Share(w.clock(r), r.census.Owned())
		sum += s.Part
		text += fmt.Sprintf(" %s=%.3f odd=%v own=%.3f", r.Name, part(s.Part), s.Odd, part(s.After))
		if s.Odd {
			odd++
		}
		for _, n := range []int{1, 2, 3, 7, 10, 1000} {
			counts[n] += max(0, quota.Count(n, part(s.Part), s.Odd))
		}
		flying += len(r.flying)
	}
	if w.full += part(sum); sum > share.Whole || odd > 1 || flying > w.limit {
		t.Fatalf("at %v: the parts are %.4f of the whole, %d round up, %d of %d in flight:%s", time.Duration(w.now), part(sum), odd, flying, w.limit, text)
	}
	for n, c := range counts {
		if c > n {
			t.Fatalf("at %v: %d of %d places:%s", time.Duration(w.now), c, n, text)
		}
	}
}

func part(p share.Part) float64 { return float64(p) / float64(share.Whole) }

// TestNeverMoreThanTheWhole: whatever the network, the clocks and the replicas do, and whomever each takes for the keeper.
func TestNeverMoreThanTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		newChaos(seed).run(t, 1000)
	})
}

// chaos drives a world by random numbers of one seed.
type chaos struct {
	*world
	rand *rand.Rand
	bad  int // percent of letters that are lost, and of those that are late
	torn int // percent of rounds in which a replica takes somebody else for the keeper
}

func newChaos(seed uint64) *chaos {
	r := rand.New(rand.NewPCG(seed, 1))
	c := &chaos{world: &world{now: 1e12, limit: []int{1, 2, 3, 5, 10, 50}[r.IntN(6)]}, rand: r, bad: []int{0, 5, 20, 40}[r.IntN(4)], torn: []int{0, 1, 5}[r.IntN(3)]}
	for i := range 1 + r.IntN(4) {
		c.enter(fmt.Sprint("r", i))
	}
	return c
}

func (c *chaos) enter(name string) {
	c.join(name, c.rand.Int64N(2000*ms)-1000*ms, c.lag())
}

func (c *chaos) lag() int64 {
	if c.rand.IntN(2) == 0 {
		return 0
	}
	return c.rand.Int64N(4000 * ms)
}

func (c *chaos) delay() (d int64, lost bool) {
	switch luck := c.rand.IntN(100); {
	case luck < c.bad/2:
		return 0, true
	case luck < c.bad:
		return c.rand.Int64N(2500 * ms), false
	}
	return c.rand.Int64N(5 * ms), false
}

func (c *chaos) run(t interface{ Fatalf(string, ...any) }, steps int) {
	for range steps {
		c.now += c.rand.Int64N(40 * ms)
		c.deliver(c.delay)
		r := c.all[c.rand.IntN(len(c.all))]
		if r.away > 0 {
			c.back(r)
			continue
		}
		c.act(r)
		c.round(r, c.delay)
		for _, r := range c.all {
			n := 0
			if r.need > 0 {
				n = c.rand.IntN(4)
			}
			c.serve(r, n, 1+c.rand.Int64N(int64(share.Grace)-100*ms))
		}
		c.check(t)
	}
}

// act changes something about r, or about who there is.
func (c *chaos) act(r *replica) {
	switch luck := c.rand.IntN(1000); {
	case luck < 30:
		r.need = 0
	case luck < 80:
		r.need = share.Whole
	case luck < 110:
		r.need = share.Part(c.rand.Int64N(int64(share.Whole)))
	case luck < 114 && len(c.live()) > 1:
		c.leave(r.Name)
	case luck < 118 && len(c.all) < 5:
		name := fmt.Sprint("r", c.rand.IntN(6)) // mostly one that was there before
		if !slices.ContainsFunc(c.all, func(r *replica) bool { return r.Name == name }) {
			c.enter(name)
		}
	case luck < 122 && len(c.live()) > 1:
		c.lose(r, c.rand.Int64N(8000*ms))
		return
	case luck < 130:
		r.lag = c.lag()
	}
	if c.rand.IntN(100) < c.torn {
		r.keeper = c.live()[c.rand.IntN(len(c.live()))]
	} else if c.rand.IntN(10) == 0 { // mostly they agree
		r.keeper = c.live()[0]
	}
}

// settled returns a world of n replicas that agree on the keeper r0, without faults.
func settled(n, limit int) *world {
	w := &world{now: 1e12, limit: limit}
	for i := range n {
		w.join(fmt.Sprint("r", i), int64(i)*300*ms, 0)
	}
	for _, r := range w.all {
		r.keeper = "r0"
	}
	w.run(nil, 10*time.Second)
	return w
}

func soon() (int64, bool) { return 2 * ms, false }

// run lets time pass, with a round of everybody each 200 ms.
func (w *world) run(t *testing.T, d time.Duration) {
	for end := w.now + int64(d); w.now < end; w.now += 10 * ms {
		w.deliver(soon)
		for i, r := range w.all {
			if w.now/(10*ms)%20 == int64(i) {
				w.round(r, soon)
			}
		}
		if t != nil {
			w.check(t)
		}
	}
}

func (w *world) parts() (all []float64) {
	for _, r := range w.all {
		all = append(all, part(r.holder.Share(w.clock(r), r.census.Owned()).Part))
	}
	return all
}

// TestSharesFollowDemand: within a second of a change, the parts are as the needs are.
func TestSharesFollowDemand(t *testing.T) {
	w := settled(3, 1000)
	for _, c := range []struct {
		name  string
		needs []float64
		least []float64
	}{
		{"nobody", []float64{0, 0, 0}, []float64{0.03, 0.03, 0.03}},
		{"one alone", []float64{0, 1, 0}, []float64{0.03, 0.87, 0.03}},
		{"it moves", []float64{0, 0, 1}, []float64{0.03, 0.03, 0.90}},
		{"all want all", []float64{1, 1, 1}, []float64{0.30, 0.30, 0.30}},
		{"the small first", []float64{0.1, 0.2, 1}, []float64{0.1, 0.2, 0.63}},
		{"it is enough for all", []float64{0.5, 0.2, 0.1}, []float64{0.5, 0.2, 0.1}},
	} {
		for i, r := range w.all {
			r.need = share.Part(c.needs[i] * float64(share.Whole))
		}
		w.run(t, time.Second)
		for i, p := range w.parts() {
			if p < c.least[i]-0.001 {
				t.Errorf("%s: the parts are %.3f, want at least %.3f", c.name, w.parts(), c.least)
				break
			}
		}
	}
}

// TestWithoutKeeper: when it is gone, each has its own part again once what it lent is over; the others divide what the dead
// one had once it cannot be serving any more.
func TestWithoutKeeper(t *testing.T) {
	w := settled(3, 1000)
	w.all[1].need = share.Whole
	w.run(t, time.Second)
	w.leave("r0")
	w.run(t, share.Loan+100*time.Millisecond)
	if p := w.parts(); p[0] < 0.333 || p[1] < 0.333 {
		t.Errorf("the parts are %.3f, want a third each", p)
	}
	for _, r := range w.all {
		r.keeper = "r1"
	}
	w.run(t, share.Window+time.Second)
	if p := w.parts(); p[0] < 0.9 {
		t.Errorf("the parts are %.3f, want nearly all for the one that needs it", p)
	}
}

// TestNewReplica lives on grants at once, and has a part of its own soon.
func TestNewReplica(t *testing.T) {
	w := settled(2, 1000)
	for _, r := range w.all {
		r.need = share.Whole
	}
	w.run(t, 2*time.Second)
	w.join("r2", 0, 0)
	w.all[2].keeper, w.all[2].need = "r0", share.Whole
	w.run(t, 4*time.Second)
	for _, p := range w.parts() {
		if p < 0.3 {
			t.Errorf("the parts are %.3f, want a third each", w.parts())
			break
		}
	}
}

// TestOnePlace: a limit of 1 is one replica's at a time, and goes around among those who want it.
func TestOnePlace(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 4} {
		w := settled(3, limit)
		for _, r := range w.all {
			r.need = share.Whole
		}
		had, most := map[string]int{}, 0
		for range 100 {
			w.run(t, 100*time.Millisecond)
			places := 0
			for _, r := range w.all {
				s := r.holder.Share(w.clock(r), r.census.Owned())
				n := max(0, quota.Count(limit, part(s.Part), s.Odd))
				had[r.Name] += n
				places += n
			}
			most = max(most, places)
		}
		if len(had) != 3 || had["r0"] == 0 || had["r1"] == 0 || had["r2"] == 0 || most != limit {
			t.Errorf("a limit of %d: %d places at most, by replica over the time: %v", limit, most, had)
		}
	}
}
