package credential

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// cachedTokens bounds how many tokens are kept: some 100 MB of them.
const cachedTokens = 100_000

// pause is for how long nobody asks again for what could not be got: a load asks at its own speed, which no provider has to bear.
const pause = time.Second

// setback remembers a failure for the pause.
type setback struct{ last atomic.Pointer[failed] }

// failed is a failure with its end.
type failed struct {
	err   error
	until time.Time
}

// err returns the failure while its pause lasts.
func (s *setback) err() error {
	if f := s.last.Load(); f != nil && time.Now().Before(f.until) {
		return f.err
	}
	return nil
}

// begin starts a pause. A caller that has gone away is no failure of anybody's.
func (s *setback) begin(ctx context.Context, err error) {
	if !errors.Is(ctx.Err(), context.Canceled) {
		s.last.Store(&failed{err: err, until: time.Now().Add(pause)})
	}
}

// token is a credential with the time from which another is to be got.
type token struct {
	text  string
	renew time.Time
}

// renewal returns when a token is to be replaced: a tenth of its life before its end, at most a minute, so that one that is shown in time
// is not too old when it is read, and clocks may differ a little.
func renewal(from, ends time.Time) time.Time {
	return ends.Add(-min(ends.Sub(from)/10, time.Minute))
}

// cache keeps tokens by number. Each is got by one caller while others that want it wait.
type cache struct {
	slots *lru.Cache[int, *slot]
}

// slot is the place of one token.
type slot struct {
	current atomic.Pointer[token]
	failed  setback
	getting chan struct{} // holds one value while somebody gets a token
}

// newCache returns an empty cache.
func newCache() *cache {
	slots, err := lru.New[int, *slot](cachedTokens)
	if err != nil {
		panic(err) // the size is a constant above 0
	}
	return &cache{slots: slots}
}

// get returns a token that is still good, or gets one, unless that has just failed.
func (c *cache) get(ctx context.Context, n int, fetch func(context.Context, int) (token, error)) (string, error) {
	s := c.slot(n)
	if t := s.current.Load(); t != nil && time.Now().Before(t.renew) {
		return t.text, nil
	}
	select {
	case s.getting <- struct{}{}:
		defer func() { <-s.getting }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if t := s.current.Load(); t != nil && time.Now().Before(t.renew) { // got meanwhile
		return t.text, nil
	}
	if err := s.failed.err(); err != nil {
		return "", err
	}
	t, err := fetch(ctx, n)
	if err != nil {
		s.failed.begin(ctx, err)
		return "", err
	}
	s.current.Store(&t)
	return t.text, nil
}

// slot returns the place of a token.
func (c *cache) slot(n int) *slot {
	if s, ok := c.slots.Get(n); ok {
		return s
	}
	fresh := &slot{getting: make(chan struct{}, 1)}
	if s, found, _ := c.slots.PeekOrAdd(n, fresh); found {
		return s
	}
	return fresh
}
