package audit

import "sync"

// Buffer holds the entries of the data plane until the drain writes them. It is bounded: what does not fit is dropped
// and counted, and the drain writes the count into the platform's chain. It is a guard.Recorder, safe for concurrent use.
type Buffer struct {
	half chan struct{} // has a value when the ring became half full

	mu      sync.Mutex
	ring    []Entry // guarded by mu, as all below
	first   int     // index of the oldest
	n       int     // how many are held
	dropped uint64  // since the start
}

// NewBuffer returns a buffer of size entries, which it allocates at once, at some 300 bytes each. A size below 1 is 1.
func NewBuffer(size int) *Buffer {
	return &Buffer{ring: make([]Entry, max(size, 1)), half: make(chan struct{}, 1)}
}

// Record takes e, or drops and counts it if the buffer is full. It never blocks and never allocates: it is on the path
// of every request.
func (b *Buffer) Record(e Entry) {
	b.mu.Lock()
	if b.n == len(b.ring) {
		b.dropped++
		b.mu.Unlock()
		return
	}
	i := b.first + b.n
	if i >= len(b.ring) {
		i -= len(b.ring)
	}
	b.ring[i] = e
	b.n++
	wake := b.n == len(b.ring)/2
	b.mu.Unlock()
	if wake {
		select {
		case b.half <- struct{}{}:
		default:
		}
	}
}

// crowded says whether the buffer is half full or more, so that it has to be emptied before anything else.
func (b *Buffer) crowded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n >= len(b.ring)/2
}

// Dropped returns how many entries were dropped since the start.
func (b *Buffer) Dropped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// Len returns how many entries are held.
func (b *Buffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// peek appends up to limit of the oldest entries to dst and leaves them in place, so that a failed write loses none.
func (b *Buffer) peek(dst []Entry, limit int) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(limit, b.n)
	head := b.ring[b.first:min(b.first+n, len(b.ring))]
	dst = append(dst, head...)
	return append(dst, b.ring[:n-len(head)]...)
}

// discard forgets the n oldest entries, which peek returned.
func (b *Buffer) discard(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range n {
		b.ring[b.first] = Entry{} // lets go of the strings
		b.first = (b.first + 1) % len(b.ring)
	}
	b.n -= n
}
