package guard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

// engine is what a guard needs of a compiled policy. *policy.Engine implements it.
type engine interface {
	Decide(ctx context.Context, in *policy.Input) policy.Decision
	Explain(ctx context.Context, in *policy.Input) (*policy.Explanation, error)
	Close()
}

type opener func(ctx context.Context, s tenant.Scope, digest string) (engine, error)

var (
	errNoOpener = errors.New("this replica has no way to load policies")
	errNoEngine = errors.New("no policy was loaded, and no reason given")
	errSlow     = errors.New("the policy was not loaded within 2 s")
)

// openWith makes an opener that returns no typed nil.
func openWith(f func(context.Context, tenant.Scope, string) (*policy.Engine, error)) opener {
	return func(ctx context.Context, s tenant.Scope, digest string) (engine, error) {
		if f == nil {
			return nil, errNoOpener
		}
		e, err := f(ctx, s, digest)
		if err == nil && e == nil {
			err = errNoEngine
		}
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

const (
	openTime  = 2 * time.Second  // what loading a policy may take
	openAgain = 2 * time.Second  // after which a load that failed is tried again
	idleAfter = 10 * time.Minute // after which Sweep closes an engine that nobody asks
)

// loaded is the policy of one digest: being loaded, loaded, or failed. Whoever uses it holds it; the engine is closed when
// nobody does any more, so that a decision under way never meets a closed engine, which would deny.
type loaded struct {
	digest string
	began  time.Time
	holds  atomic.Int64  // the guard's own, the opener's while it runs, and one for each use; at 0 it is closed
	used   atomic.Int64  // when it was last asked for, in nanoseconds
	done   chan struct{} // closed when engine or err is set
	engine engine
	err    error
	again  time.Time // with err: when to try again
}

// hold takes part in l's life; false if that is over.
func (l *loaded) hold() bool {
	for {
		n := l.holds.Load()
		if n == 0 {
			return false
		}
		if l.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (l *loaded) release() {
	if l.holds.Add(-1) == 0 && l.engine != nil {
		l.engine.Close()
	}
}

// failed says whether loading failed long enough ago to be tried again.
func (l *loaded) failed(now time.Time) bool {
	select {
	case <-l.done:
		return l.err != nil && !now.Before(l.again)
	default:
		return false
	}
}

// open loads the policy. A panic of the loader is an error: this runs in a goroutine of its own, where it would end the
// process for all tenants (X39).
func (l *loaded) open(g *Guard) {
	defer l.release()
	defer close(l.done)
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			l.engine, l.err = nil, fmt.Errorf("loading the policy panicked: %v", r)
		}
		if l.err != nil {
			l.again = g.set.cfg.Now().Add(openAgain)
		}
	}()
	l.engine, l.err = g.set.open(ctx, g.scope, l.digest)
	if l.err != nil {
		l.engine = nil
	}
}

// wait waits until the policy is loaded, for the rest of what loading may take.
func (l *loaded) wait() (engine, error) {
	select {
	case <-l.done:
		return l.engine, l.err
	default:
	}
	t := time.NewTimer(max(0, openTime-time.Since(l.began)))
	defer t.Stop()
	select {
	case <-l.done:
		return l.engine, l.err
	case <-t.C:
		return nil, errSlow
	}
}

// holdPolicy returns the policy that is in force, held; nil if there is none in force. The first to need a digest starts
// loading it, the others wait for that. Which policy is in force is read after what is loaded, never before: so nobody who
// was told of an older digest can put it in the place of a newer one.
func (g *Guard) holdPolicy() *loaded {
	now := g.set.cfg.Now()
	for {
		cur := g.policy.Load()
		digest := g.settings.Load().digest
		if digest == "" {
			return nil
		}
		if cur != nil && cur.digest == digest && !cur.failed(now) {
			if cur.hold() {
				cur.used.Store(now.UnixNano())
				return cur
			}
			continue // just retired
		}
		next := &loaded{digest: digest, began: time.Now(), done: make(chan struct{})}
		next.used.Store(now.UnixNano())
		next.holds.Store(3) // the guard's, the opener's, ours
		if !g.policy.CompareAndSwap(cur, next) {
			continue
		}
		if cur != nil {
			cur.release()
		}
		go next.open(g)
		if g.gone.Load() { // close has looked already, or will
			g.retirePolicy(next)
		}
		return next
	}
}

// retirePolicy takes l out of the guard, if it is there still.
func (g *Guard) retirePolicy(l *loaded) {
	if l != nil && g.policy.CompareAndSwap(l, nil) {
		l.release()
	}
}

// sweepPolicy closes an engine that nobody has asked for a while, or that is in force no more.
func (g *Guard) sweepPolicy(now time.Time) {
	l := g.policy.Load()
	if l == nil || l.digest == g.settings.Load().digest && now.Sub(time.Unix(0, l.used.Load())) < idleAfter {
		return
	}
	g.retirePolicy(l)
}

// loadedPolicy returns the digest of the policy that is loaded, "" if none is.
func (g *Guard) loadedPolicy() string {
	l := g.policy.Load()
	if l == nil {
		return ""
	}
	select {
	case <-l.done:
		if l.err == nil {
			return l.digest
		}
	default:
	}
	return ""
}

// unavailable is what a tenant whose policy cannot be asked is told.
func unavailable(err error) *fault.Error {
	return fault.Wrap(fault.Unavailable, err, "the tenant's policy cannot be asked; nothing is allowed without it: try again, or have an admin look at /api/v1/policies").After(openAgain)
}
