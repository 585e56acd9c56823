package vgw

import (
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

// leftovers are the gateways of tenants that were given away, as long as relays or streams that began there go on. They hold
// no claim, so nothing that they still do can be written. The zero value is ready.
type leftovers struct {
	mu sync.Mutex
	of map[tenant.ID][]*leftover // guarded by mu
}

type leftover struct {
	gw    *Gateway
	timer *time.Timer
}

// add keeps a gateway that is in use, and ends what runs there after a while.
func (l *leftovers) add(gw *Gateway, after time.Duration, cause *exchange.Reconnect) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[tenant.ID][]*leftover)
	}
	id := gw.scope.ID()
	l.of[id] = append(l.of[id], &leftover{gw, time.AfterFunc(after, func() { gw.end(cause) })})
}

// drop forgets a gateway that is not used any more.
func (l *leftovers) drop(gw *Gateway) {
	l.remove(gw.scope.ID(), func(o *leftover) bool { return o.gw == gw }, errAway)
}

// changed ends what runs for a tenant that is gone, suspended or another by now.
func (l *leftovers) changed(id tenant.ID, e *tenant.Entry) {
	l.remove(id, func(o *leftover) bool {
		return e == nil || e.Scope != o.gw.scope || e.Record.State == tenant.StateSuspended
	}, errClosed)
}

// remove ends and forgets gateways of a tenant.
func (l *leftovers) remove(id tenant.ID, which func(*leftover) bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.of[id]) == 0 {
		return
	}
	rest := slices.DeleteFunc(l.of[id], func(o *leftover) bool {
		if !which(o) {
			return false
		}
		o.timer.Stop()
		o.gw.end(why)
		return true
	})
	if l.of[id] = rest; len(rest) == 0 {
		delete(l.of, id)
	}
}

// stop ends everything, since the replica stops.
func (l *leftovers) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range l.of {
		for _, o := range list {
			o.timer.Stop()
			o.gw.end(&exchange.Reconnect{Err: errStop})
		}
	}
	clear(l.of)
}

// size returns how many gateways there are.
func (l *leftovers) size() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range l.of {
		n += len(list)
	}
	return n
}

// endHolds ends the streams that hang on a delegation.
func (g *Gateway) endHolds(cause error) {
	g.holdsMu.Lock()
	defer g.holdsMu.Unlock()
	for h := range g.holds {
		h.end(cause)
	}
}
