package proxy

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// The causes with which a request is ended before its time. A caller sees what it would get if it asked now.
var (
	errRevoked  = fault.New(fault.Unauthenticated, "the credential was revoked or changed while the request ran")
	errGone     = fault.New(fault.Unauthenticated, "the tenant was deleted while the request ran")
	errExpired  = fault.New(fault.Unauthenticated, "the credential expired while the request ran")
	errShutdown = fault.New(fault.Unavailable, "this replica is shutting down").After(shutdownRetry)
	errBodyIdle = fault.New(fault.Invalid, "the request's body stopped arriving")
	errUnread   = fault.New(fault.Canceled, "the client stopped reading")
)

// liveShards is the number of locks that the requests in flight are spread over, by tenant.
const liveShards = 64

// leave is errShutdown for streams.
func leave() *exchange.Reconnect { return &exchange.Reconnect{After: shutdownRetry, Err: errShutdown} }

// live holds the requests in flight, by tenant, so that those whose right to run has ended can be ended. It is safe for
// concurrent use. Requests are linked through fields of their own: a request costs no allocation here.
type live struct {
	seed   maphash.Seed
	shards [liveShards]liveShard
}

type liveShard struct {
	mu    sync.Mutex
	heads map[tenant.ID]*flight // guarded by mu, and so are the links of the flights
}

func newLive() *live {
	l := &live{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].heads = make(map[tenant.ID]*flight)
	}
	return l
}

func (l *live) shard(id tenant.ID) *liveShard {
	return &l.shards[maphash.String(l.seed, string(id))%liveShards]
}

// add links f under its tenant.
func (l *live) add(f *flight) {
	id := f.place.entry.Record.ID
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.heads[id]
	f.next = head
	if head != nil {
		head.prev = f
	}
	s.heads[id] = f
}

// remove takes out what add put in.
func (l *live) remove(f *flight) {
	id := f.place.entry.Record.ID
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.prev != nil:
		f.prev.next = f.next
	case f.next != nil:
		s.heads[id] = f.next
	default:
		delete(s.heads, id)
	}
	if f.next != nil {
		f.next.prev = f.prev
	}
	f.next, f.prev = nil, nil
}

// of returns the requests of one tenant.
func (l *live) of(id tenant.ID) []*flight {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*flight
	for f := s.heads[id]; f != nil; f = f.next {
		all = append(all, f)
	}
	return all
}

// each calls do, without a lock held, with every request that pick chooses. pick must not block.
func (l *live) each(pick func(*flight) bool, do func(*flight)) {
	var picked []*flight
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, f := range s.heads {
			for ; f != nil; f = f.next {
				if pick(f) {
					picked = append(picked, f)
				}
			}
		}
		s.mu.Unlock()
	}
	for _, f := range picked {
		do(f)
	}
}

// Revalidate ends, within milliseconds, the requests in flight of a tenant whose right to run has ended: their key is gone
// or has another role, the tenant is suspended or deleted (e is nil), or it demands other certificates of clients. In that
// case the connections go too, idle ones included (case X08). It is to be called on each change of a routing record, after
// the Directory shows it. Requests that a change of mode finds in flight finish as they began, and spliced connections
// stay, for passthrough.max_drain if that is set.
func (s *Server) Revalidate(id tenant.ID, e *tenant.Entry) {
	for _, f := range s.live.of(id) {
		if err := f.stillValid(e); err != nil {
			f.kill(err)
		}
	}
	s.cutStale(id, e)
	for _, x := range s.splices.ofTenant(id) {
		x.revalidate(e)
	}
}

// stillValid says whether a request that runs would be let in by e as well.
func (f *flight) stillValid(e *tenant.Entry) error {
	if e == nil || e.Scope != f.place.entry.Scope {
		return errGone
	}
	if f.place.own {
		if err := f.onTerms(e); err != nil {
			return err
		}
	}
	if f.who.Kind != tenant.KindAnonymous {
		if role, ok := e.Record.Standing(f.who, time.Now()); !ok || role != f.who.Role {
			return errRevoked
		}
	}
	if k := f.place.key; k != nil { // a declared key may get another value under its name
		if now, ok := e.Record.KeyByHash(k.Hash); !ok || now.ID != k.ID {
			return errRevoked
		}
	}
	return refuseSuspended(e.Record)
}

// expired says whether the caller's credential, or what its connection was let in with, has ended by itself: streams do
// not outlive it (case X21).
func (f *flight) expired(now time.Time) bool {
	return !f.who.Expires.IsZero() && !now.Before(f.who.Expires) || !f.shownUntil.IsZero() && now.After(f.shownUntil)
}
