package registry

import (
	"context"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a change that others are faster than.
const (
	raceTime  = opTimeout // so long it waits for its turn and is tried again
	racePause = time.Millisecond
	turnCount = 64
)

// errRace says that the record changed between the read and the write.
var errRace = errors.New("lost a race")

// turns has the changes of one routing record that this replica makes follow one another, so that only replicas race.
// Without it, of many changes at once each but one would lose, time and again. Tenants share turns, by hash.
type turns struct {
	seed  maphash.Seed
	taken [turnCount]chan struct{}
}

func (t *turns) init() {
	t.seed = maphash.MakeSeed()
	for i := range t.taken {
		t.taken[i] = make(chan struct{}, 1)
	}
}

// take waits for the turn of a tenant until ctx ends.
func (t *turns) take(ctx context.Context, id tenant.ID) (release func(), err error) {
	c := t.taken[maphash.String(t.seed, string(id))%turnCount]
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// race calls f, a change of a tenant's record that returns its revision, until it does not lose a race any more, a
// bounded time, which f's context bounds too. It then waits until this replica's index has the change.
func (s *Store) race(ctx context.Context, id tenant.ID, f func(context.Context) (int64, error)) error {
	rev, err := s.inTurn(ctx, id, f)
	if err == nil {
		s.noteCommit()
		s.awaitSeen(ctx, id, rev)
	}
	return err
}

func (s *Store) inTurn(ctx context.Context, id tenant.ID, f func(context.Context) (int64, error)) (int64, error) {
	wait, cancel := context.WithTimeout(ctx, raceTime)
	defer cancel()
	release, err := s.turns.take(wait, id)
	if err != nil {
		return 0, fault.From(err)
	}
	defer release()
	for n := 1; wait.Err() == nil; n++ {
		rev, err := f(wait)
		if !errors.Is(err, errRace) {
			return rev, err
		}
		pause(wait, rand.N(time.Duration(min(n, 20))*racePause)) //nolint:gosec // not a secret
	}
	return 0, fault.New(fault.Unavailable, "tenant %s is being changed by others all the time", id).After(retryAdvice)
}
