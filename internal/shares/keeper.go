package shares

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/polygate/polygate/internal/quota/share"
)

// Handle answers peer.Shares.
func (s *Shares) Handle(_ context.Context, from string, body []byte) ([]byte, error) {
	q, err := readQuestion(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s.answer(from, &q))
}

// answer is that of this replica as a keeper. Who asks about a tenant that another keeps gets nothing, and what it lent
// comes back to it.
func (s *Shares) answer(from string, q *question) answer {
	live := slices.Contains(s.replicas(), from) // what others lend is not counted: they may have stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	a := answer{V: version, Run: s.run, Stamp: now, Count: s.tell, Grants: make([]grant, len(q.Items))}
	for i := range q.Items {
		it := &q.Items[i]
		if s.cfg.Keeper(it.ID) != s.cfg.Replica {
			continue
		}
		ask := it.ask()
		if !live || q.To != s.run {
			ask.Lent, ask.LentUntil = 0, 0
		}
		b := s.book(it.name)
		g, ok := b.Ask(now, share.Peer{Name: from, Run: q.Run}, ask, s.census.Count())
		a.Grants[i] = grant{OK: ok, Part: g.Part, Odd: g.Odd, More: b.Wants(now)}
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
	if s.cfg.Keeper(n.ID) != keeper {
		return
	}
	a := s.account(n)
	if a.wanted <= now {
		s.hurry()
	}
	a.wanted = now + int64(share.Lease)
}

// lenders adds to the calls what this replica, as the keeper, wants of those that lend it nothing.
func (s *Shares) lenders(now int64, to map[string]*asking) {
	others := s.census.Others()
	for n, b := range s.books {
		if !b.Wants(now) || s.cfg.Keeper(n.ID) != s.cfg.Replica {
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
