package audit

import (
	"bytes"
	"context"
	"io"
	"sync"
	"time"
)

// Mirror gets the lines that the drain has written, after they are durable in the file. It must neither block nor keep
// lines, whose memory is used again: a copy goes to a bounded queue, and what does not fit is dropped and counted.
type Mirror interface {
	Mirror(lines []byte)
}

// Queue holds whole lines for a slow reader, up to a bound in bytes. What does not fit is dropped and counted. It is safe
// for concurrent use; the mirrors are made of it.
type Queue struct {
	limit int
	ready chan struct{} // has a value when there may be something

	mu      sync.Mutex
	text    []byte // guarded by mu
	dropped uint64 // guarded by mu: lines
}

// NewQueue returns a queue of up to limit bytes.
func NewQueue(limit int) *Queue { return &Queue{limit: limit, ready: make(chan struct{}, 1)} }

// Mirror implements Mirror: it copies lines, or drops and counts all of them if they do not fit.
func (q *Queue) Mirror(lines []byte) {
	q.mu.Lock()
	if len(q.text)+len(lines) > q.limit {
		q.dropped += uint64(bytes.Count(lines, []byte("\n")))
	} else {
		q.text = append(q.text, lines...)
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// Take returns whole lines, at most limit bytes of them but at least one line, and nil if there are none.
func (q *Queue) Take(limit int) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.text) == 0 {
		q.text = nil // lets go of a burst's memory
		return nil
	}
	n := len(q.text)
	if n > limit {
		n = bytes.LastIndexByte(q.text[:limit], '\n') + 1
		if n == 0 {
			n = bytes.IndexByte(q.text, '\n') + 1
		}
	}
	out := bytes.Clone(q.text[:n])
	q.text = q.text[n:]
	return out
}

// Ready has a value when lines may have come since Take returned nil.
func (q *Queue) Ready() <-chan struct{} { return q.ready }

// Drop counts lines that were taken and reached nobody.
func (q *Queue) Drop(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += uint64(lines)
}

// Dropped returns how many lines were dropped since the start.
func (q *Queue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

const (
	defaultWriterQueue = 4 << 20
	writeChunk         = 64 << 10
	writerClose        = 2 * time.Second // for what is left at the end
)

// WriterMirror writes the lines to a writer such as standard output, for a log shipper to pick up. A writer that blocks
// or fails costs lines of this copy and nothing else.
type WriterMirror struct {
	*Queue
	w io.Writer
}

// NewWriterMirror returns a mirror that holds up to queue bytes which the writer has not taken; 0 = 4 MiB.
func NewWriterMirror(w io.Writer, queue int) *WriterMirror {
	if queue <= 0 {
		queue = defaultWriterQueue
	}
	return &WriterMirror{Queue: NewQueue(queue), w: w}
}

// Run writes until ctx ends, and then for 2 s what is left. A write that blocks cannot be ended: Run returns without it,
// and its goroutine ends with the write.
func (m *WriterMirror) Run(ctx context.Context) error {
	ended := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(ended)
		m.run(stop)
	}()
	<-ctx.Done()
	close(stop)
	patience := time.NewTimer(writerClose)
	defer patience.Stop()
	select {
	case <-ended:
	case <-patience.C:
	}
	return nil
}

func (m *WriterMirror) run(stop <-chan struct{}) {
	for {
		m.writeAll()
		select {
		case <-stop:
			m.writeAll()
			return
		case <-m.Ready():
		}
	}
}

func (m *WriterMirror) writeAll() {
	for text := m.Take(writeChunk); text != nil; text = m.Take(writeChunk) {
		if n, err := m.w.Write(text); err != nil {
			m.Drop(bytes.Count(text[min(max(n, 0), len(text)):], []byte("\n")))
		}
	}
}
