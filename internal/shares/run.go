package shares

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/quota/share"
)

// Run asks the keepers for what tenants want here, a few times a second, until ctx ends. A replica that is alone asks nobody.
func (s *Shares) Run(ctx context.Context, g Guards) error {
	defer s.calls.Wait()
	s.mu.Lock()
	s.guards = g
	s.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.poke:
			if wait := leastPeriod - time.Since(last); wait > 0 {
				timer.Reset(wait)
				continue
			}
		}
		last = time.Now()
		s.round(ctx, g)
		timer.Reset(s.pause())
	}
}

// pause returns when the next round is due: soon, while a grant is held that another may wait for.
func (s *Shares) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holding {
		return s.cfg.Period / 2
	}
	return s.cfg.Period
}

// round asks each keeper once that is not being asked still. The order is what makes it safe: what is lent is missing to the
// guards before it is offered, and what is in flight is read after that.
func (s *Shares) round(ctx context.Context, g Guards) {
	mark, changed, divided := s.look()
	if changed {
		g.PartsChanged()
	}
	s.applied(mark)
	var demands []guard.Demand
	if divided {
		demands = g.Demands(nil)
	}
	calls, touched := s.questions(demands)
	for _, n := range touched {
		g.PartChanged(n.ID, n.UID)
	}
	for _, c := range calls {
		s.offer(g, c)
		s.calls.Go(func() { s.exchange(ctx, g, c) })
	}
}

// offer says what is in flight, once what is lent is missing to the guards.
func (s *Shares) offer(g Guards, c *asking) {
	for i := range c.q.Items {
		c.q.Items[i].InUse = inUse(g.InUse(c.q.Items[i].ID, c.q.Items[i].UID))
	}
}

// inUse may be more than the whole, of a limit that was lowered.
func inUse(f float64) share.Part { return share.Part(min(f, 1000) * float64(share.Whole)) }

// look sees which replicas there are, whether the guards spend by other parts than those that follow, and whether this one
// has others beside it.
func (s *Shares) look() (mark int, changed, divided bool) {
	live := s.replicas()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.census.See(s.clock(), live)
	return s.census.Mark(), s.census.Stale(), s.census.Owned() < share.Whole
}

// applied lets others know that the guards spend by the parts as they were at that mark.
func (s *Shares) applied(mark int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.census.Applied(mark)
}

// asking is one call to be made.
type asking struct {
	keeper string
	q      question
}

// questions takes what tenants want, and returns what to ask of whom and the tenants whose parts may be others by it.
func (s *Shares) questions(demands []guard.Demand) (calls []*asking, touched []name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, owned := s.clock(), s.census.Owned()
	s.demand(demands)
	to := map[string]*asking{}
	if !s.census.Settled() {
		for _, other := range s.census.Others() {
			s.to(to, other) // it is told that we are there, and says whether there is room
		}
	}
	s.holding = false
	for n, a := range s.tenants {
		touched = append(touched, n)
		s.holding = s.holding || a.holder.Holds(now)
		if owned < share.Whole && a.asks(now, owned) {
			s.put(to, s.keeperOf(n, a, now), n, a, now, owned)
		}
	}
	s.lenders(now, to)
	s.forget(now)
	for _, call := range to {
		calls = append(calls, call)
		s.busy[call.keeper] = true
	}
	return calls, touched
}

// keeperOf returns whom to ask about a tenant: its keeper, or, where it needs nothing here, who wants what can be lent. The
// keeper is the one that all replicas come to by themselves, so that who stands in for one that cannot be asked stays the
// keeper when that one is gone.
func (s *Shares) keeperOf(n name, a *account, now int64) string {
	if a.want.Need == 0 && a.wanted > now {
		return a.by
	}
	keeper := s.cfg.Keeper(n.ID)
	if keeper != "" && s.failing[keeper] <= now {
		return keeper
	}
	var best uint64
	for _, name := range append([]string{s.cfg.Replica}, s.census.Others()...) { // all come to the same one
		h := fnv.New64a()
		_, _ = h.Write([]byte(string(n.ID) + "\x00" + name))
		if sum := h.Sum64(); sum >= best && s.failing[name] <= now {
			best, keeper = sum, name
		}
	}
	return keeper
}

// put adds a tenant to the call to a keeper.
func (s *Shares) put(to map[string]*asking, keeper string, n name, a *account, now int64, owned share.Part) {
	if keeper == "" {
		return
	}
	call := s.to(to, keeper)
	if call == nil || len(call.q.Items) >= maxItems {
		return
	}
	k, known := s.keepers[keeper]
	if !known {
		k.Name = keeper
	}
	if keeper == s.cfg.Replica {
		k = share.Keeper{Peer: share.Peer{Name: keeper, Run: s.run}, Stamp: now, At: now}
	}
	ask := a.holder.Ask(now, k, owned, a.want)
	s.census.Lend(a.holder.LentUntil())
	call.q.Items = append(call.q.Items, item{
		name: n, Need: ask.Need, Own: ask.Own, Smallest: ask.Smallest, Stamp: ask.Stamp, Have: ask.Have, Lent: ask.Lent, LentUntil: ask.LentUntil,
	})
}

// to returns the call that is to be made to a replica, nil if one is under way.
func (s *Shares) to(calls map[string]*asking, replica string) *asking {
	if s.busy[replica] {
		return nil
	}
	if calls[replica] == nil {
		run := s.keepers[replica].Run
		if replica == s.cfg.Replica {
			run = s.run
		}
		calls[replica] = &asking{keeper: replica, q: question{V: version, Run: s.run, To: run, Now: s.clock(), Items: []item{}}}
	}
	return calls[replica]
}

// asks says whether there is something to say to the keeper. Who is far from its limits costs no messages.
func (a *account) asks(now int64, owned share.Part) bool {
	if a.wanted > now || a.holder.Holds(now) {
		return true
	}
	own := a.holder.Own(now, owned)
	return a.want.Need > own/2 || a.want.Need > 0 && own*share.Part(a.want.Smallest) < share.Whole
}

// halfLife is that of a need that is not there any more.
const halfLife = 250 * time.Millisecond

// demand takes a reading. A need comes at once, and goes by and by, so that shares do not follow every pause.
func (s *Shares) demand(demands []guard.Demand) {
	now := s.clock()
	fade := math.Exp2(-float64(now-s.faded) / float64(halfLife))
	s.faded = now
	for _, a := range s.tenants {
		a.want.Need, a.want.InUse = share.Part(float64(a.want.Need)*fade), 0
		if a.want.Need < share.Whole/1000 {
			a.want.Need = 0
		}
	}
	for _, d := range demands {
		a := s.account(nameOf(d.Scope))
		a.want.Need = max(a.want.Need, s.lendable(d.Need))
		a.want.InUse, a.want.Smallest = inUse(d.InUse), d.Smallest
	}
}

func (s *Shares) account(n name) *account {
	a := s.tenants[n]
	if a == nil {
		a = new(account)
		s.tenants[n] = a
	}
	return a
}

// forget drops what is over.
func (s *Shares) forget(now int64) {
	for n, a := range s.tenants {
		if a.want.Need == 0 && a.wanted <= now && a.holder.Idle(now) {
			delete(s.tenants, n)
		}
	}
	for n, b := range s.books {
		if b.Idle(now) {
			delete(s.books, n)
		}
	}
}

// exchange asks one keeper and takes its answer.
func (s *Shares) exchange(ctx context.Context, g Guards, call *asking) {
	a, err := s.call(ctx, call)
	for _, n := range s.take(call, &a, err) {
		g.PartChanged(n.ID, n.UID)
	}
}

func (s *Shares) call(ctx context.Context, call *asking) (a answer, err error) {
	if call.keeper == s.cfg.Replica {
		return s.answer(s.cfg.Replica, &call.q), nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(call.q)
	if err != nil {
		return a, err
	}
	reply, err := s.cfg.Caller.Call(ctx, call.keeper, peer.Shares, body)
	if err != nil {
		return a, err
	}
	return readAnswer(reply, &call.q)
}

// take takes an answer, and returns the tenants whose parts are others by it.
func (s *Shares) take(call *asking, a *answer, err error) (changed []name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[call.keeper] = false
	s.report(call.keeper, err)
	if err != nil {
		return nil
	}
	now := s.clock()
	keeper := share.Peer{Name: call.keeper, Run: a.Run}
	s.keepers[call.keeper] = share.Keeper{Peer: keeper, Stamp: a.Stamp, At: now}
	if call.keeper != s.cfg.Replica {
		s.census.Told(call.keeper, a.Room)
	}
	for i := range call.q.Items {
		it, g := &call.q.Items[i], a.Grants[i]
		acc := s.tenants[it.name]
		if acc == nil || !g.OK {
			continue
		}
		acc.holder.Take(now, keeper, it.Stamp, share.Grant{Part: g.Part, Odd: g.Odd})
		if acc.scarce(now, g.All); g.More {
			acc.wanted, acc.by = now+int64(share.Lease), call.keeper
		}
		changed = append(changed, it.name)
	}
	return changed
}

// scarceFor is for how long a tenant must need more than was lent before replicas lend nearly all.
const scarceFor = time.Second

func (a *account) scarce(now int64, yes bool) {
	if !yes {
		a.scarceSince = 0
	} else if a.scarceSince == 0 {
		a.scarceSince = now
	}
	a.want.Scarce = yes && now-a.scarceSince >= int64(scarceFor)
}

// retryAfter is when a replica that could not be asked is asked again. Another stands in for it meanwhile.
const retryAfter = time.Second

// report takes note whether a replica can be asked, and logs it when that changes.
func (s *Shares) report(replica string, err error) {
	_, failed := s.failing[replica]
	if err == nil {
		if delete(s.failing, replica); failed {
			s.cfg.Logger.Info("a keeper of limits answers again", "replica", replica)
		}
		return
	}
	s.failing[replica] = s.clock() + int64(retryAfter)
	if !slices.Contains(s.census.Others(), replica) {
		delete(s.failing, replica)
	} else if !failed {
		s.hurry()
		s.cfg.Logger.Warn("a keeper of limits cannot be asked: another stands in for it", "replica", replica, "error", err)
	}
}
