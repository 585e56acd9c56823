package vgw

import (
	"context"
	"errors"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a move. Who comes meanwhile waits for it.
const (
	decideIn = 2 * time.Second  // for handlers to decide; then they are broken off
	handIn   = 5 * time.Second  // for the hand-off in the store
	lately   = 10 * time.Second // a gateway that was used within is handed over open; another is closed, and opened when it is needed
)

// ErrNotOpen is within the error of a move of what this replica does not serve.
var ErrNotOpen = errors.New("vgw: the tenant has no gateway on this replica")

var errAway = errors.New("the tenant was given to another replica")

// Owner says where a path of the tenant's surface can be served. What is refused without the tenant's gateway is refused
// anywhere: paths that do not exist, and those of a suspended tenant.
func (m *Mux) Owner(e *tenant.Entry, method, path string) exchange.Owner {
	if e.Record.State == tenant.StateSuspended {
		return exchange.OwnerAny
	}
	route, _, err := match(m.routes, method, path)
	if err != nil {
		return exchange.OwnerAny
	}
	return route.Owner
}

// Move gives a tenant whose gateway is open here to another live replica. Requests that come meanwhile wait, and are then told
// where the tenant is; handlers end before, for which they have 2 s; relays and streams go on for Config.Streams, and end with
// the cause *exchange.Reconnect.
//
// The error is fault.Conflict wrapping ErrNotOpen if there is no gateway to give away. After any other error the tenant is
// served here as before, unless its claim is lost: then it is served where it is claimed next.
func (m *Mux) Move(ctx context.Context, id tenant.ID, to string) error {
	_, err := m.give(ctx, id, to, false)
	return err
}

// give is Move. With mayClose, a gateway that nobody used lately is closed and its claim released instead: it is opened where
// it is next needed. away says whether the tenant is at to.
func (m *Mux) give(ctx context.Context, id tenant.ID, to string, mayClose bool) (away bool, err error) {
	s, gw, op, err := m.beginMove(ctx, id)
	if err != nil {
		return false, err
	}
	if mayClose && s.idle(gw, m.cfg.Now()) {
		gw.close(errIdle)
		m.release(ctx, gw)
		m.endMove(s, op, nil)
		return false, nil
	}
	gw.away.Store(true)
	err = s.quiet(ctx, gw)
	if err == nil {
		err = m.handOver(ctx, gw, to)
	}
	if err == nil {
		m.moved(s, gw, op, to)
		return true, nil
	}
	m.stays(s, gw, op)
	return false, err
}

// beginMove takes the gateway of a tenant out of its place, which gets an operation to wait for instead.
func (m *Mux) beginMove(ctx context.Context, id tenant.ID) (*slot, *Gateway, *operation, error) {
	for {
		m.mu.RLock()
		s := m.slots[id]
		m.mu.RUnlock()
		if s == nil {
			return nil, nil, nil, notOpen(id)
		}
		gw, op, wait := s.beginMove()
		if gw != nil {
			return s, gw, op, nil
		}
		if wait == nil {
			return nil, nil, nil, notOpen(id)
		}
		select {
		case <-wait.done:
		case <-ctx.Done():
			return nil, nil, nil, left(ctx)
		}
	}
}

func notOpen(id tenant.ID) error {
	return fault.Wrap(fault.Conflict, ErrNotOpen, "tenant %s is not in use on this replica: there is nothing to move", id)
}

func (s *slot) beginMove() (gw *Gateway, op, wait *operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone != nil:
		return nil, nil, nil
	case s.op != nil:
		return nil, nil, s.op
	case s.gw == nil || s.gw.ctx.Err() != nil:
		return nil, nil, nil
	}
	gw, op = s.gw, &operation{done: make(chan struct{})}
	s.gw, s.op, s.moving = nil, op, gw
	return gw, op, nil
}

// idle says whether nobody has used a gateway lately.
func (s *slot) idle(gw *Gateway, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return gw.refs == 0 && !gw.busy() && now.Sub(gw.used) >= lately
}

// quiet waits until no handler decides any more: what it commits is committed, and what it spends is spent, before the next
// owner begins. One that takes too long is broken off by the loss of the claim. The error is that ctx ended before.
func (s *slot) quiet(ctx context.Context, gw *Gateway) error {
	s.mu.Lock()
	if gw.deciding == 0 {
		s.mu.Unlock()
		return nil
	}
	calm := make(chan struct{})
	gw.calm = calm
	s.mu.Unlock()
	timer := time.NewTimer(decideIn)
	defer timer.Stop()
	select {
	case <-calm:
	case <-timer.C:
	case <-gw.ctx.Done():
	case <-ctx.Done():
		return left(ctx)
	}
	return nil
}

// handOver gives the tenant away, with what it has spent. Its caller's leaving does not break it off: nobody would know then
// who owns the tenant.
func (m *Mux) handOver(ctx context.Context, gw *Gateway, to string) error {
	var state []byte
	if m.cfg.Limits != nil {
		state = m.cfg.Limits.Export(gw.scope)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handIn)
	defer cancel()
	return gw.claim.Handoff(ctx, to, state)
}

// moved ends a move that was made. What runs in the gateway goes on for a while, but for the streams that hang on a
// delegation: it can be taken back at the new owner alone.
func (m *Mux) moved(s *slot, gw *Gateway, op *operation, to string) {
	gw.cancel(errAway)
	again := &exchange.Reconnect{Err: errAway}
	gw.endHolds(again)
	s.mu.Lock()
	if gw.left = gw.refs > 0; gw.left {
		m.left.add(gw, m.cfg.Streams, again)
	} else {
		gw.end(errAway)
	}
	s.mu.Unlock()
	m.endMove(s, op, fault.Wrap(fault.Unavailable, &exchange.Elsewhere{Replica: to}, "this tenant is served by another replica now: try again").After(time.Second))
}

// stays ends a move that was not made: the gateway takes its place again, unless its claim is lost or it is to be closed.
func (m *Mux) stays(s *slot, gw *Gateway, op *operation) {
	gw.away.Store(false)
	s.mu.Lock()
	why := errors.Join(s.closing, s.gone)
	if why == nil && gw.ctx.Err() == nil {
		gw.calm = nil
		s.gw = gw
	}
	s.mu.Unlock()
	if why == nil && gw.ctx.Err() != nil {
		why = context.Cause(gw.ctx)
	}
	if why != nil {
		gw.close(why)
		m.release(context.Background(), gw)
	}
	m.endMove(s, op, nil)
}

// endMove lets those go on who wait; err is what they are told, or nil to look again.
func (m *Mux) endMove(s *slot, op *operation, err error) {
	s.mu.Lock()
	s.op, s.moving, s.closing = nil, nil, nil
	s.mu.Unlock()
	m.remove(s, errAway)
	op.err = err
	close(op.done)
}
