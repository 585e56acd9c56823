package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/polygate/polygate/internal/fault"
)

// body is a request's body as gateways and engines see it: bounded, and with errors that say whose fault they are. An
// error of the client's framing is the client's (400): without that, one tenant's broken requests would count as failures
// of its upstream (case X15). It is read by one goroutine at a time, which may not be the handler's.
type body struct {
	f       *flight
	src     io.Reader
	limit   int64
	n       atomic.Int64                // bytes read
	done    atomic.Bool                 // the end was seen
	failed  atomic.Pointer[fault.Error] // why it cannot be read on
	waiting atomic.Uint32               // the tick at which a pending Read began; 0 = none is pending
	reading sync.Mutex                  // held while src is read
}

// open makes the body readable.
func (b *body) open(f *flight, src io.Reader, limit int64) {
	b.f, b.src, b.limit = f, src, limit
	if src == nil || src == http.NoBody {
		b.src = http.NoBody
		b.done.Store(true)
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if e := b.failed.Load(); e != nil {
		return 0, e
	}
	if b.done.Load() {
		return 0, io.EOF
	}
	n, err := b.read(p)
	if b.n.Add(int64(n)) > b.limit {
		return 0, b.fail(fault.New(fault.TooLarge, "the body is longer than %d bytes", b.limit))
	}
	if errors.Is(err, io.EOF) {
		b.done.Store(true)
		return n, err
	}
	if err != nil {
		return n, b.fail(bodyFault(err))
	}
	return n, nil
}

func (b *body) read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.failed.Load() != nil {
		return 0, http.ErrBodyReadAfterClose
	}
	b.waiting.Store(b.f.s.tick.Load())
	n, err := b.src.Read(p)
	b.waiting.Store(0)
	b.f.account(n, 0)
	return n, err
}

// leave returns when nobody reads any more, and lets nobody begin to. The connection's read deadline has to be past: a
// Read that net/http itself has to break off takes the deadline with it, and what comes after would wait for good.
func (b *body) leave() {
	b.failed.CompareAndSwap(nil, errOver)
	b.reading.Lock()
	defer b.reading.Unlock()
}

// errOver is the error of reading a body after its request.
var errOver = fault.New(fault.Canceled, "the request is over")

func (b *body) fail(e *fault.Error) error {
	b.failed.Store(e)
	return e
}

// pending says whether a Read is under way.
func (b *body) pending() bool { return b.waiting.Load() != 0 }

// bodyFault classifies an error of reading a client's body.
func bodyFault(err error) *fault.Error {
	var ne net.Error
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout():
		return fault.Wrap(fault.Invalid, err, "the request's body stopped arriving")
	case errors.As(err, &op) || errors.Is(err, net.ErrClosed):
		return fault.Wrap(fault.Canceled, err, "the client went away")
	case errors.Is(err, http.ErrBodyReadAfterClose):
		return errOver
	}
	return fault.Wrap(fault.Invalid, err, "the request's body is malformed or was cut off")
}
