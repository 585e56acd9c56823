package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/polygate/polygate/internal/fault"
)

// relayBody is a relay's request body: the part that was judged, then the rest. net/http reads it in a goroutine of its
// own, perhaps still when the relay is over.
type relayBody struct {
	c      *call
	prefix []byte // what is left of it
	begun  atomic.Bool
	over   atomic.Bool
	n      atomic.Int64
	failed atomic.Pointer[fault.Error] // why the client's part could not be read
}

// Read implements io.Reader.
func (b *relayBody) Read(p []byte) (int, error) {
	first := &b.c.body // what a rewound body reads counts with the first
	if first.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.read(p)
	first.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		first.failed.Store(fault.From(err))
	}
	b.c.rearm()
	return n, err
}

func (b *relayBody) read(p []byte) (int, error) {
	if len(b.prefix) > 0 {
		n := copy(p, b.prefix)
		b.prefix = b.prefix[n:]
		return n, nil
	}
	if b.c.d.Rest == nil {
		return 0, io.EOF
	}
	b.c.body.begun.Store(true)
	return b.c.d.Rest.Read(p)
}

// Close implements io.Closer. The rest belongs to whoever made the relay.
func (b *relayBody) Close() error { return nil }

// answerBody counts a response body and remembers how it ended.
type answerBody struct {
	io.ReadCloser
	src   io.Reader // the same, or a tail of it
	n     int64
	ended bool
	err   error
}

// Read implements io.Reader.
func (a *answerBody) Read(p []byte) (int, error) {
	n, err := a.src.Read(p)
	a.n += int64(n)
	if err == io.EOF {
		a.ended = true
	} else if err != nil {
		a.err = err
	}
	return n, err
}
