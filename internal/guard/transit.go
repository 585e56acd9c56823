package guard

import (
	"sync"
	"time"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// Transit is a request that another replica serves and this one passes on. It holds a place of what this replica shares
// among tenants, and spends none of the tenant's limits: those are spent where it is served.
type Transit struct {
	guard *Guard
	in    bool

	mu          sync.Mutex
	place       quota.Place // guarded by mu, as all below
	streamPlace quota.Place
	stream      streamState
}

// Transit takes a place for a request of p that is passed on. Where there is none, the error is fault.RateLimited. The
// caller must Leave.
func (g *Guard) Transit(p tenant.Principal) (*Transit, error) {
	t := &Transit{guard: g}
	if g.scope.ID() == "" || p.Kind == tenant.KindOperator || p.Kind == tenant.KindSystem {
		return t, nil
	}
	if t.place = g.set.requests.Enter(&g.requestShare); t.place == quota.NoPlace {
		return nil, g.refuse(refusal{true, quota.PoolRequests, time.Second})
	}
	t.in = true
	return t, nil
}

// Stream makes it a stream, as Visit.Stream does.
func (t *Transit) Stream() error {
	if !t.in {
		return nil
	}
	g := t.guard
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream != noStream {
		return nil
	}
	if t.streamPlace = g.set.streams.Enter(&g.streamShare); t.streamPlace == quota.NoPlace {
		return g.refuse(refusal{true, quota.PoolStreams, time.Second})
	}
	g.set.requests.Leave(&g.requestShare, t.place)
	t.place, t.stream = quota.NoPlace, openStream
	return nil
}

// Bytes takes bytes that pass. The replica that serves the request counts them, and asks for the pauses.
func (t *Transit) Bytes(int, int) time.Duration { return 0 }

// Leave gives the place back. It may be called once only.
func (t *Transit) Leave() {
	if !t.in {
		return
	}
	g := t.guard
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stream == openStream {
		t.stream = endedStream
		g.set.streams.Leave(&g.streamShare, t.streamPlace)
	}
	g.set.requests.Leave(&g.requestShare, t.place)
}
