package vgw

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a drain.
const (
	drainers   = 4                      // moves at a time: each is a few calls of the store, which the others need as well
	drainPause = 100 * time.Millisecond // between two rounds
)

// Open returns the tenants whose gateways are open here, or are being opened or closed, in no order.
func (m *Mux) Open() []tenant.ID {
	var ids []tenant.ID
	for _, s := range m.all() {
		s.mu.Lock()
		if s.gw != nil || s.op != nil {
			ids = append(ids, s.scope.ID())
		}
		s.mu.Unlock()
	}
	return ids
}

// DrainAll gives all tenants away, each to the replica that pick names: those in use by Move, the others are closed and left to
// whoever needs them next. each hears of every attempt, with to "" where nothing was given to anybody; it may be nil. Neither
// is called twice at a time. What fails, and what is opened meanwhile, is tried again until ctx ends.
//
// The error says how many tenants are still here: ctx has ended, or pick names nobody for any of them.
func (m *Mux) DrainAll(ctx context.Context, pick func(id tenant.ID) (to string, ok bool), each func(id tenant.ID, to string, err error)) error {
	d := drain{m: m, pick: pick, each: each}
	for {
		ids := m.Open()
		if len(ids) == 0 {
			return nil
		}
		slices.Sort(ids)
		if ctx.Err() == nil && d.round(ctx, ids) {
			continue
		}
		if n := len(m.Open()); n > 0 && (ctx.Err() != nil || d.stuck == n) {
			return fault.New(fault.Unavailable, "%d tenants could not be given to another replica: they end with this one's session, and are served again where they are asked for", n)
		}
		wait(ctx, drainPause)
	}
}

// drain is one call of DrainAll.
type drain struct {
	m    *Mux
	pick func(tenant.ID) (string, bool)
	each func(tenant.ID, string, error)

	mu    sync.Mutex // held for the callbacks; guards what follows
	stuck int        // tenants of this round for which there is nobody
	bad   int        // those that failed, with the stuck ones
}

// round tries each tenant once and says whether all went.
func (d *drain) round(ctx context.Context, ids []tenant.ID) bool {
	d.stuck, d.bad = 0, 0
	todo := make(chan tenant.ID)
	var wg sync.WaitGroup
	for range min(drainers, len(ids)) {
		wg.Go(func() {
			for id := range todo {
				d.one(ctx, id)
			}
		})
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		todo <- id
	}
	close(todo)
	wg.Wait()
	return d.bad == 0 && ctx.Err() == nil
}

func (d *drain) one(ctx context.Context, id tenant.ID) {
	d.mu.Lock()
	to, ok := d.pick(id)
	d.mu.Unlock()
	err := error(fault.New(fault.Unavailable, "there is no other replica for tenant %s: start one", id))
	away := false
	if ok {
		away, err = d.m.give(ctx, id, to, true)
	}
	if errors.Is(err, ErrNotOpen) {
		return // it went by itself
	}
	if !away {
		to = ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.bad++
	}
	if !ok && err != nil {
		d.stuck++
	}
	if d.each != nil {
		d.each(id, to, err)
	}
}

// wait waits, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Adopt opens the gateway of a tenant, if it is not open, so that the tenant is served here. The error is what a request would
// get, such as *exchange.Elsewhere.
func (m *Mux) Adopt(ctx context.Context, e *tenant.Entry) error {
	if e.Record.State == tenant.StateSuspended {
		return suspended(e.Record)
	}
	in, err := m.enter(ctx, e)
	if err != nil {
		return err
	}
	in.leave()
	return nil
}

// begin is Adopt in the background, for a tenant that was handed to this replica: whoever gave it up had it in use.
func (m *Mux) begin(e *tenant.Entry) {
	if e.Record.State == tenant.StateSuspended {
		return
	}
	s, err := m.slot(e)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone != nil || s.gw != nil || s.op != nil || m.cfg.Now().Before(s.until) {
		return
	}
	s.op = &operation{done: make(chan struct{})}
	m.opening.Add(1)
	go m.openSlot(s, s.op, e)
}

// knows says whether there is anything of the tenant here.
func (m *Mux) knows(id tenant.ID) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.slots[id] != nil
}
