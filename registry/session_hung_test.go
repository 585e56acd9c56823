package registry_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// hung gives no answer to the first grant, as a proposal has none that went to a leader which froze.
type hung struct {
	*memory.Backend
	asked atomic.Int64
}

func (h *hung) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	if h.asked.Add(1) == 1 {
		<-ctx.Done()
		return 0, 0, ctx.Err()
	}
	return h.Backend.Grant(ctx, ttl)
}

// TestSessionAfterASilentMember: one question that is never answered keeps a replica from its session for a TTL at most: the
// next may reach a member that answers.
func TestSessionAfterASilentMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hung{Backend: memory.New()}
		defer b.Close()
		began := time.Now()
		r := registrytest.Start(t, b, "r1", registrytest.TTL(2*time.Second))
		defer r.Stop()
		if took := time.Since(began); took > 2500*time.Millisecond || b.asked.Load() < 2 {
			t.Errorf("the session began after %s and %d grants, with a TTL of 2s", took, b.asked.Load())
		}
	})
}
