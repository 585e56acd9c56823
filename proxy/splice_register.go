package proxy

import (
	"context"
	"sync"

	"github.com/polygate/polygate/internal/tenant"
)

// splices holds the connections that are spliced, by tenant: they are bounded, ended when their right to run has ended, and
// waited for. It is safe for concurrent use.
type splices struct {
	mu     sync.Mutex
	of     map[tenant.ID]map[*splice]struct{} // guarded by mu
	open   int                                // guarded by mu: of all tenants
	closed bool                               // guarded by mu: none is let in any more

	running sync.WaitGroup
	buffers sync.Pool // of *[]byte, for bytes that pass
}

func newSplices() *splices { return &splices{of: make(map[tenant.ID]map[*splice]struct{})} }

// add gives a connection its place, or says why there is none.
func (l *splices) add(x *splice, p *Passthrough) error {
	id := x.entry.Record.ID
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errShutdown
	case l.open >= p.MaxConnections:
		return errSplices
	case len(l.of[id]) >= p.MaxPerTenant:
		return errOwnSplices
	}
	if l.of[id] == nil {
		l.of[id] = make(map[*splice]struct{})
	}
	l.of[id][x] = struct{}{}
	l.open++
	l.running.Add(1)
	return nil
}

// remove takes out what add put in. What runs of it is waited for until running is told.
func (l *splices) remove(x *splice) {
	id := x.entry.Record.ID
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of[id], x)
	if len(l.of[id]) == 0 {
		delete(l.of, id)
	}
	l.open--
}

// ofTenant returns the connections of one tenant.
func (l *splices) ofTenant(id tenant.ID) []*splice {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*splice, 0, len(l.of[id]))
	for x := range l.of[id] {
		all = append(all, x)
	}
	return all
}

// kill ends, without the lock, those for which why gives a cause. why must not block.
func (l *splices) kill(why func(*splice) error) {
	type due struct {
		x     *splice
		cause error
	}
	var picked []due
	l.mu.Lock()
	for _, of := range l.of {
		for x := range of {
			if err := why(x); err != nil {
				picked = append(picked, due{x, err})
			}
		}
	}
	l.mu.Unlock()
	for _, d := range picked {
		d.x.kill(d.cause)
	}
}

// sweep ends those whose time is over; now is in Unix nanoseconds.
func (l *splices) sweep(now int64, p *Passthrough) {
	l.kill(func(x *splice) error { return x.overdue(now, p) })
}

// close lets none in any more.
func (l *splices) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// shutdown waits for those that there are until ctx ends, cuts the rest, and returns when all have ended; close comes first.
func (l *splices) shutdown(ctx context.Context) (cut int) {
	waitFor(ctx, &l.running)
	l.kill(func(*splice) error { cut++; return errShutdown })
	l.running.Wait()
	return cut
}

func (l *splices) buffer() *[]byte {
	if b, ok := l.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, smallPiece)
	return &b
}

func (l *splices) release(b *[]byte) { l.buffers.Put(b) }
