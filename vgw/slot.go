package vgw

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Why a gateway's context ends.
var (
	errIdle   = errors.New("vgw: gateway closed: idle")
	errClosed = errors.New("vgw: gateway closed: the tenant was suspended, deleted or replaced")
	errFails  = errors.New("vgw: gateway closed: it kept failing")
	errStop   = errors.New("vgw: gateway closed: the replica stops")
)

// The bounds of the back-off after a failure. The first protects the store from a tenant's retrying clients; an owner that
// is moving (fault.Unavailable) is asked again soon, since it may be ours any moment.
const (
	firstPause = 250 * time.Millisecond
	movePause  = time.Second
	maxPause   = 30 * time.Second
	maxStrikes = 5 // internal errors in a row that suspend a gateway
)

// slot is the place of one tenant in the Mux. At any time it has a gateway, or an operation that opens, releases or gives
// away one, or neither.
type slot struct {
	scope tenant.Scope
	born  int64 // revision of the record that it was made for

	mu       sync.Mutex // guards what follows, and refs and used of the gateway
	gw       *Gateway
	op       *operation
	moving   *Gateway  // what op gives away; nil if it does something else
	gone     error     // not nil: out of the Mux's map; why
	closing  error     // not nil: the gateway being opened or given away is to be closed; why
	strikes  int       // internal errors in a row
	failures int       // suspensions and failed opens in a row
	until    time.Time // nothing is opened before
	cause    error     // why not
}

// operation is an opening, a release or a move that callers wait for.
type operation struct {
	done chan struct{}
	err  error // set before done is closed: why opening failed, or where the tenant went
}

// stay is one use of a gateway.
type stay struct {
	m    *Mux
	slot *slot
	gw   *Gateway
	once sync.Once

	decided bool // the handler has: what goes on is a relay or a stream; guarded by the slot's mu
}

// enter returns the tenant's open gateway, in use until leave is called. The first caller has it opened, all wait for
// it, and no caller's end ends the opening.
func (m *Mux) enter(ctx context.Context, e *tenant.Entry) (*stay, error) {
	for {
		s, err := m.slot(e)
		if err != nil {
			return nil, err
		}
		gw, op, err := m.visit(s, e)
		if err != nil {
			return nil, err
		}
		if gw != nil {
			return &stay{m: m, slot: s, gw: gw}, nil
		}
		if op == nil { // the slot left the map meanwhile
			continue
		}
		select {
		case <-op.done:
		case <-ctx.Done():
			return nil, left(ctx)
		}
		if op.err != nil {
			return nil, op.err
		}
	}
}

// left returns why a caller went: the classified cause, such as its key's revocation, or plainly that it went.
func left(ctx context.Context) error {
	if cause := context.Cause(ctx); fault.KindOf(cause) != fault.Internal {
		return cause
	}
	return ctx.Err()
}

// slot returns the place of e's tenant. An entry older than the place's tenant is of one that was deleted since.
func (m *Mux) slot(e *tenant.Entry) (*slot, error) {
	m.mu.RLock()
	s := m.slots[e.Scope.ID()]
	m.mu.RUnlock()
	if s != nil && s.scope == e.Scope {
		return s, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fault.New(fault.Unavailable, "this replica stops").After(time.Second)
	}
	if s = m.slots[e.Scope.ID()]; s != nil {
		if s.scope == e.Scope {
			return s, nil
		}
		if s.born > e.Record.Revision {
			return nil, fault.New(fault.NotFound, "the tenant was deleted")
		}
		m.drop(s, errClosed)
	}
	s = &slot{scope: e.Scope, born: e.Record.Revision}
	m.slots[e.Scope.ID()] = s
	return s, nil
}

// visit takes a use of the slot's gateway, or says what to wait for, which it starts if nobody has.
func (m *Mux) visit(s *slot, e *tenant.Entry) (*Gateway, *operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.cfg.Now()
	switch {
	case s.gone != nil:
		return nil, nil, nil
	case s.gw != nil && s.gw.ctx.Err() == nil:
		s.gw.refs++
		s.gw.deciding++
		return s.gw, nil, nil
	case s.op != nil:
		return nil, s.op, nil
	case now.Before(s.until):
		return nil, nil, paused(s.cause, s.until.Sub(now))
	}
	s.gw = nil
	s.op = &operation{done: make(chan struct{})}
	m.opening.Add(1)
	go m.openSlot(s, s.op, e)
	return nil, s.op, nil
}

// paused is the answer while the gateway may not be opened.
func paused(cause error, d time.Duration) error {
	if e := fault.From(cause); e.Kind != fault.Internal {
		return e.After(max(d, e.RetryAfter))
	}
	return fault.Wrap(fault.Unavailable, cause, "this tenant's gateway keeps failing and is suspended for a moment").After(d)
}

// openSlot opens the slot's gateway and ends op.
func (m *Mux) openSlot(s *slot, op *operation, e *tenant.Entry) {
	defer m.opening.Done()
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.OpenIn)
	defer cancel()
	gw, err := m.openIn(ctx, e)
	s.mu.Lock()
	if s.closing != nil || s.gone != nil {
		why := errors.Join(s.closing, s.gone)
		s.mu.Unlock()
		if gw != nil {
			gw.close(why)
			m.release(ctx, gw)
		}
		s.mu.Lock()
		gw, err = nil, moved(why)
	}
	s.op, s.closing = nil, nil
	if op.err = err; err != nil {
		s.fail(m.cfg.Now(), err)
	} else {
		gw.used = m.cfg.Now()
		s.gw, s.cause = gw, nil
		context.AfterFunc(gw.ctx, func() { s.lose(gw) })
	}
	s.mu.Unlock()
	if fault.Is(err, fault.NotFound) || elsewhere(err) { // the tenant is gone: keep nothing of it
		m.remove(s, err)
	}
	close(op.done)
}

// openIn opens a gateway when a place is free.
func (m *Mux) openIn(ctx context.Context, e *tenant.Entry) (gw *Gateway, err error) {
	defer func() {
		if p := recover(); p != nil {
			gw, err = nil, m.panicked(e.Scope, p)
		}
	}()
	select {
	case m.opens <- struct{}{}:
		defer func() { <-m.opens }()
	case <-ctx.Done():
		return nil, fault.Wrap(fault.Unavailable, ctx.Err(), "too many gateways are being opened").After(time.Second)
	}
	gw, err = m.open(ctx, e)
	if err != nil && ctx.Err() != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "this tenant's gateway could not be opened in time").After(time.Second)
	}
	if err != nil {
		return nil, fmt.Errorf("open the gateway of %s: %w", e.Scope, err)
	}
	return gw, nil
}

// fail notes a failure. That another replica has the tenant is none: it may be handed to this one any moment, and is then
// not to be refused for what was. s.mu is held.
func (s *slot) fail(now time.Time, cause error) {
	if elsewhere(cause) {
		return
	}
	limit := maxPause
	if fault.Is(cause, fault.Unavailable) {
		limit = movePause
	}
	pause := min(firstPause<<min(s.failures, 7), limit)
	s.failures++
	s.until, s.cause = now.Add(pause), cause
}

// lose forgets a gateway whose context has ended: its claim was lost, or it was closed.
func (s *slot) lose(gw *Gateway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gw == gw {
		s.gw = nil
	}
}

// leave ends the use.
func (in *stay) leave() {
	in.once.Do(func() {
		in.slot.mu.Lock()
		defer in.slot.mu.Unlock()
		in.settle()
		in.gw.refs--
		in.gw.used = in.m.cfg.Now()
		if in.gw.left && in.gw.refs == 0 {
			in.m.left.drop(in.gw)
		}
	})
}

// stream says that the handler has decided, and the use goes on as a relay or a stream.
func (in *stay) stream() {
	in.slot.mu.Lock()
	defer in.slot.mu.Unlock()
	in.settle()
}

// settle notes once that the handler has decided. The slot's mu is held.
func (in *stay) settle() {
	if in.decided {
		return
	}
	in.decided = true
	in.gw.deciding--
	if in.gw.deciding == 0 && in.gw.calm != nil {
		close(in.gw.calm)
		in.gw.calm = nil
	}
}

// judge counts how a request went. A gateway that fails every request, through a defect of ours or its own state, is
// closed and stays so for a while: it may come up whole, and until then costs the others nothing.
func (in *stay) judge(err error) {
	if !in.slot.strike(in, err) {
		return
	}
	in.m.trips.Add(1)
	in.m.cfg.Logger.Error("a virtual gateway keeps failing and is suspended", "tenant", in.slot.scope.String(), "err", err)
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	in.m.shut(in.slot, errFails)
}

// strike notes a request's outcome and says whether it is one failure too many.
func (s *slot) strike(in *stay, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gw != in.gw {
		return false
	}
	if err == nil || fault.KindOf(err) != fault.Internal {
		s.strikes, s.failures = 0, 0
		return false
	}
	if s.strikes++; s.strikes < maxStrikes {
		return false
	}
	s.strikes = 0
	s.fail(in.m.cfg.Now(), err)
	return true
}
