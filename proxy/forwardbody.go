package proxy

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/polygate/polygate/internal/fault"
)

// keptBody is how much of a request's body is kept while it is forwarded, so that it can be sent again.
const keptBody = 64 << 10

// replay is the body of a request that may be forwarded more than once. What was read for an attempt that failed is there for
// the next; that one's reader may be at it still, since net/http lets go of a body when it likes.
type replay struct {
	src io.Reader

	mu    sync.Mutex // held while src is read
	kept  []byte     // guarded by mu: all that was read, while it is not spent
	end   error      // guarded by mu: of src
	spent atomic.Bool
}

// errBodySpent is for a request whose body is gone before anybody did anything with it.
var errBodySpent = fault.New(fault.Unavailable, "this tenant has just moved to another replica: try again").After(moveRetry)

// attempt returns the body from its beginning; ok is false if that is gone.
func (r *replay) attempt() (a *attempt, ok bool) {
	if r.spent.Load() {
		return nil, false
	}
	return &attempt{of: r}, true
}

// attempt is the body as one attempt reads it.
type attempt struct {
	of   *replay
	at   int // guarded by of.mu
	read atomic.Bool
	over atomic.Bool
}

// Read implements io.Reader.
func (a *attempt) Read(p []byte) (int, error) {
	r := a.of
	a.read.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.over.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if a.at < len(r.kept) {
		n := copy(p, r.kept[a.at:])
		a.at += n
		return n, nil
	}
	if r.end != nil {
		return 0, r.end
	}
	n, err := r.src.Read(p)
	r.end = err
	r.keep(p[:n])
	a.at += n
	return n, err
}

// keep is called with mu held.
func (r *replay) keep(p []byte) {
	if r.spent.Load() || len(p) == 0 {
		return
	}
	if len(r.kept)+len(p) > keptBody {
		r.kept = nil
		r.spent.Store(true)
		return
	}
	r.kept = append(r.kept, p...)
}

// Close implements io.Closer: nothing more is read for this attempt. It does not wait for a Read.
func (a *attempt) Close() error {
	a.over.Store(true)
	return nil
}
