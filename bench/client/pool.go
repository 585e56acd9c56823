package client

import "sync"

// pool keeps what one tenant's requests leave behind for the next: the last that came goes first, so that what is not needed grows old
// and is closed by the server. It never holds more than were in use at once, which the load's concurrency bounds.
type pool[T any] struct {
	mu   sync.Mutex // guards idle
	idle []T
}

// take returns the one that was put last.
func (p *pool[T]) take() (T, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var none T
	n := len(p.idle)
	if n == 0 {
		return none, false
	}
	got := p.idle[n-1]
	p.idle[n-1] = none
	p.idle = p.idle[:n-1]
	return got, true
}

// put keeps one for the next request.
func (p *pool[T]) put(v T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, v)
}
