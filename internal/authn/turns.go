package authn

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// turnWait bounds how long a token waits for its signature to be checked.
const turnWait = 2 * time.Second

// turns bounds how many signatures of one tenant's tokens are checked at a time: half of the processors. Tokens with a bad
// signature cost the check of it, before anybody is known whose quota could be spent, and whoever sends many of them to one
// tenant must not take the time of all (C-1). Tokens that were verified before need no turn.
type turns struct {
	limit int
	mu    sync.Mutex
	of    map[string]*turn // guarded by mu: by tenant uid; only of tenants with a check under way
}

// turn is one tenant's.
type turn struct {
	places chan struct{}
	users  int // guarded by the turns' mu
}

func newTurns() *turns {
	return &turns{limit: max(1, runtime.GOMAXPROCS(0)/2), of: make(map[string]*turn)}
}

// enter waits for a place; leave is to be called once. Without a tenant there is no bound: platform operators are few.
func (t *turns) enter(ctx context.Context, uid string) (leave func(), err error) {
	if uid == "" {
		return func() {}, nil
	}
	own := t.join(uid)
	select {
	case own.places <- struct{}{}:
		return func() { <-own.places; t.part(uid, own) }, nil
	default:
	}
	wait := time.NewTimer(turnWait)
	defer wait.Stop()
	select {
	case own.places <- struct{}{}:
		return func() { <-own.places; t.part(uid, own) }, nil
	case <-wait.C:
		err = fault.New(fault.Unavailable, "too many new tokens are being verified for this tenant").After(time.Second)
	case <-ctx.Done():
		err = fault.From(context.Cause(ctx))
	}
	t.part(uid, own)
	return nil, err
}

func (t *turns) join(uid string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.of[uid]
	if own == nil {
		own = &turn{places: make(chan struct{}, t.limit)}
		t.of[uid] = own
	}
	own.users++
	return own
}

func (t *turns) part(uid string, own *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(t.of, uid)
	}
}
