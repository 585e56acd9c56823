package shares

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/polygate/polygate/internal/quota/share"
)

// Handle answers peer.Shares.
func (s *Shares) Handle(ctx context.Context, from string, body []byte) ([]byte, error) {
	q, err := readQuestion(body)
	if err != nil {
		return nil, err
	}
	s.lendAtOnce(ctx, &q)
	return json.Marshal(s.answer(from, &q))
}

// lendAtOnce has this replica lend what it has of the tenants that it is asked for, so that the first to ask need not come
// again.
func (s *Shares) lendAtOnce(ctx context.Context, q *question) {
	g, call, touched := s.ownLoan(q)
	if call == nil {
		return
	}
	for _, n := range touched {
		g.PartChanged(n.ID, n.UID)
	}
	s.offer(g, call)
	s.exchange(ctx, g, call)
}

func (s *Shares) ownLoan(q *question) (g Guards, call *asking, touched []name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, owned := s.clock(), s.census.Owned()
	if s.guards == nil || owned == 0 || s.busy[s.cfg.Replica] {
		return nil, nil, nil
	}
	to := map[string]*asking{}
	for i := range q.Items {
		it := &q.Items[i]
		if it.Need == 0 || s.books[it.name] != nil && s.books[it.name].Hears(now, s.cfg.Replica) {
			continue
		}
		s.wanted(it.name, s.cfg.Replica, now)
		s.put(to, s.cfg.Replica, it.name, s.account(it.name), now, owned)
		touched = append(touched, it.name)
	}
	if call = to[s.cfg.Replica]; call != nil {
		s.busy[s.cfg.Replica] = true
	}
	return s.guards, call, touched
}

// answer is that of this replica as a keeper. It answers whoever takes it for one: it grants what was lent to it, and no
// more, so that nobody has to agree on who the keeper is.
func (s *Shares) answer(from string, q *question) answer {
	live := slices.Contains(s.replicas(), from) // what others lend is not counted: they may have stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if s.census.Heard(now, from); s.census.Stale() {
		s.hurry()
	}
	if q.Now > 0 && q.Run != "" && from != s.cfg.Replica {
		s.keepers[from] = share.Keeper{Peer: share.Peer{Name: from, Run: q.Run}, Stamp: q.Now, At: now}
	}
	a := answer{V: version, Run: s.run, Stamp: now, Room: s.census.Room(now, from), Grants: make([]grant, len(q.Items))}
	for i := range q.Items {
		it := &q.Items[i]
		ask := it.ask()
		if !live || q.To != s.run {
			ask.Lent, ask.LentUntil = 0, 0
		}
		b := s.book(it.name)
		g, ok := b.Ask(now, share.Peer{Name: from, Run: q.Run}, ask, s.census.Quorum())
		if ask.Need > 0 && !b.Hears(now, s.cfg.Replica) || b.Scarce(now) {
			s.hurry()
		}
		a.Grants[i] = grant{OK: ok, Part: g.Part, Odd: g.Odd, More: b.Wants(now), All: b.Scarce(now)}
	}
	for _, n := range q.Wants {
		if live {
			s.wanted(n, from, now)
		}
	}
	return a
}

// wanted takes note that a keeper wants what this replica can lend.
func (s *Shares) wanted(n name, keeper string, now int64) {
	a := s.account(n)
	if a.wanted <= now && keeper != s.cfg.Replica {
		s.hurry()
	}
	a.wanted, a.by = now+int64(share.Lease), keeper
}

// lenders adds to the calls what this replica, as a keeper, wants of those that lend it nothing.
func (s *Shares) lenders(now int64, to map[string]*asking) {
	others := s.census.Others()
	for n, b := range s.books {
		if !b.Wants(now) {
			continue
		}
		if !b.Hears(now, s.cfg.Replica) {
			s.wanted(n, s.cfg.Replica, now)
		}
		for _, other := range others {
			if b.Hears(now, other) {
				continue
			}
			if call := s.to(to, other); call != nil && len(call.q.Wants) < maxItems {
				call.q.Wants = append(call.q.Wants, n)
			}
		}
	}
}

func (s *Shares) book(n name) *share.Book {
	b := s.books[n]
	if b == nil {
		b = new(share.Book)
		s.books[n] = b
	}
	return b
}
