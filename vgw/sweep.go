package vgw

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// releaseIn bounds giving up one claim.
const releaseIn = 5 * time.Second

// Run closes idle gateways, and gives up the claims of closed ones, until ctx ends. Then it closes all gateways, and
// returns when nothing is being opened any more. It leaves their claims to the registry, which gives up all of a replica's
// at once.
func (m *Mux) Run(ctx context.Context) error {
	tick := time.NewTicker(max(m.cfg.IdleAfter/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.stop()
			return nil
		case <-m.wake:
		case <-tick.C:
			m.sweep(ctx)
		}
		m.releaseQueued(ctx)
	}
}

// sweep closes the gateways that are idle and forgets the places of failures that are past.
func (m *Mux) sweep(ctx context.Context) {
	for _, s := range m.all() {
		if ctx.Err() != nil {
			return
		}
		m.sweepSlot(ctx, s)
		m.releaseQueued(ctx) // many may be idle, and each release is a call to the store: nobody is to wait for all of them
	}
}

func (m *Mux) sweepSlot(ctx context.Context, s *slot) {
	s.mu.Lock()
	now := m.cfg.Now()
	gw := s.gw
	if gw == nil {
		stale := s.op == nil && now.Sub(s.until) > m.cfg.IdleAfter
		s.mu.Unlock()
		if stale {
			m.remove(s, errIdle)
		}
		return
	}
	if gw.refs > 0 || gw.busy() || now.Sub(gw.used) < m.cfg.IdleAfter {
		s.mu.Unlock()
		return
	}
	op := &operation{done: make(chan struct{})} // who comes now waits for the release, and opens anew
	s.gw, s.op = nil, op
	s.mu.Unlock()
	gw.close(errIdle)
	m.release(ctx, gw)
	m.finish(s, op)
	m.remove(s, errIdle)
}

// finish ends an operation of the slot.
func (m *Mux) finish(s *slot, op *operation) {
	s.mu.Lock()
	if s.op == op {
		s.op, s.closing = nil, nil
	}
	s.mu.Unlock()
	close(op.done)
}

// release gives up the claim of a closed gateway.
func (m *Mux) release(ctx context.Context, gw *Gateway) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseIn)
	defer cancel()
	if err := gw.claim.Release(ctx); err != nil { // its lease ends it, then
		m.cfg.Logger.Warn("a claim could not be released", "tenant", gw.scope.String(), "err", err)
	}
}

// remove takes a place that holds nothing out of the map, unless it came into use again or remembers a failure.
func (m *Mux) remove(s *slot, why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := s.gw != nil || s.op != nil || m.cfg.Now().Before(s.until) && !fault.Is(why, fault.NotFound)
	if busy || m.slots[s.scope.ID()] != s {
		return
	}
	s.gone = why
	delete(m.slots, s.scope.ID())
}

// Changed follows a change of a tenant's routing record; e is nil if the tenant is gone. The gateway of a tenant that is
// gone, suspended, or not the same any more is closed at once, which ends what is in flight there, also what goes on after the
// tenant was given away. Changed never blocks.
func (m *Mux) Changed(id tenant.ID, e *tenant.Entry) {
	m.changed(id, e)
	m.left.changed(id, e) // after the place: a move that ends meanwhile sees the one or the other
}

func (m *Mux) changed(id tenant.ID, e *tenant.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.slots[id]
	switch {
	case s == nil:
	case e == nil, e.Scope != s.scope && e.Record.Revision > s.born:
		m.drop(s, errClosed)
	case e.Scope == s.scope && e.Record.State == tenant.StateSuspended:
		m.shut(s, errClosed)
	case e.Scope == s.scope:
		s.follow(e)
	}
}

// follow tells a gateway of its record's change.
func (s *slot) follow(e *tenant.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gw != nil && s.gw.boxes != nil {
		s.gw.boxes.follow(e)
	}
}

// drop takes a place out of the map and closes its gateway. m.mu is held.
func (m *Mux) drop(s *slot, why error) {
	delete(m.slots, s.scope.ID())
	s.mu.Lock()
	gw := s.gw
	s.gw, s.gone = nil, why
	if s.moving != nil {
		s.moving.close(why) // who gives it away sees to its claim
	}
	s.mu.Unlock()
	if gw != nil {
		gw.close(why)
		m.queue(func() { m.release(context.Background(), gw) })
	}
}

// shut closes the gateway of a place that stays: the tenant may come back, and then has to wait for the release.
// m.mu is held.
func (m *Mux) shut(s *slot, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gw := s.gw
	if gw == nil {
		if s.op != nil {
			s.closing = why
		}
		if s.moving != nil {
			s.moving.close(why)
		}
		return
	}
	op := &operation{done: make(chan struct{})}
	s.gw, s.op = nil, op
	gw.close(why)
	m.queue(func() {
		m.release(context.Background(), gw)
		m.finish(s, op)
		m.remove(s, why)
	})
}

// queue has Run call f. m.mu is held.
func (m *Mux) queue(f func()) {
	if m.closed {
		return
	}
	m.releases = append(m.releases, f)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Mux) releaseQueued(ctx context.Context) {
	m.mu.Lock()
	queued := m.releases
	m.releases = nil
	m.mu.Unlock()
	for _, f := range queued {
		f()
	}
}

// stop closes every gateway and waits for those that are being opened.
func (m *Mux) stop() {
	m.mu.Lock()
	m.closed = true
	queued := m.releases
	m.releases = nil
	for _, s := range m.slots {
		s.mu.Lock()
		if s.gw != nil {
			s.gw.close(errStop)
			s.gw = nil
		}
		if s.moving != nil {
			s.moving.close(errStop)
		}
		s.gone = errStop
		s.mu.Unlock()
	}
	clear(m.slots)
	m.mu.Unlock()
	for _, f := range queued {
		f()
	}
	m.left.stop()
	m.opening.Wait()
}

func (m *Mux) all() []*slot {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]*slot, 0, len(m.slots))
	for _, s := range m.slots {
		out = append(out, s)
	}
	return out
}
