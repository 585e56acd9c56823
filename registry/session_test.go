package registry_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slow delays the answers to renewals, and notes when the last one that was answered was sent.
type slow struct {
	*memory.Backend
	delay atomic.Int64 // nanoseconds between the renewal and its answer
	deaf  atomic.Bool  // the delay is not cut short by the caller's context
	sent  atomic.Int64 // nanoseconds since 1970
}

func (s *slow) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	sent := time.Now()
	ttl, err := s.Backend.KeepAlive(ctx, id)
	wait, cancel := context.WithTimeout(context.Background(), time.Duration(s.delay.Load()))
	defer cancel()
	if s.deaf.Load() {
		<-wait.Done()
	} else {
		select {
		case <-wait.Done():
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err == nil {
		s.sent.Store(sent.UnixNano())
	}
	return ttl, err
}

// inBubble runs a story with one replica and one claimed tenant in synctest's time.
func inBubble(t *testing.T, story func(t *testing.T, b *slow, r *registrytest.Replica, c *registry.Claim)) {
	synctest.Test(t, func(t *testing.T) {
		b := &slow{Backend: memory.New()}
		defer b.Close()
		r := registrytest.Start(t, b, "r1", registrytest.TTL(5*time.Second))
		defer r.Stop()
		story(t, b, r, registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope))
	})
}

func ended(c *registry.Claim) bool { return c.Context().Err() != nil }

// TestSessionHolds: a session lives as long as renewals are answered, if late.
func TestSessionHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, b *slow, r *registrytest.Replica, c *registry.Claim) {
		b.delay.Store(int64(time.Second))
		time.Sleep(time.Hour)
		if ended(c) || r.Healthy() != nil {
			t.Errorf("after an hour of late answers: claim %v, %v", context.Cause(c.Context()), r.Healthy())
		}
	})
}

// TestSessionEndsFirst: the claim ends before the lease can expire in the store, whether renewals fail, hang, or hang
// past their contexts. The time counts from when the last renewal was sent, not from its answer.
func TestSessionEndsFirst(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		inBubble(t, func(t *testing.T, b *slow, r *registrytest.Replica, c *registry.Claim) {
			b.delay.Store(int64(time.Second)) // so that sent and answered differ
			time.Sleep(time.Minute)
			b.deaf.Store(deaf)
			b.delay.Store(int64(time.Hour))
			<-c.Context().Done()
			if cause := context.Cause(c.Context()); !errors.Is(cause, registry.ErrSessionLost) {
				t.Errorf("deaf=%v: cause %v", deaf, cause)
			}
			if since := time.Since(time.Unix(0, b.sent.Load())); since > 4*time.Second {
				t.Errorf("deaf=%v: the claim ended %v after the last good renewal was sent, want at most 4s of the TTL of 5s", deaf, since)
			}
			res, err := b.Range(t.Context(), registry.Range{Key: "o/alpha"})
			if err != nil || len(res.KVs) != 1 {
				t.Errorf("deaf=%v: the lease had expired in the store when the claim ended: %v, %v", deaf, res, err)
			}
			b.delay.Store(0)
		})
	}
}

// TestLateRenewal: an answer that comes after the session ended does not bring it back.
func TestLateRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, b *slow, r *registrytest.Replica, c *registry.Claim) {
		b.deaf.Store(true)
		b.delay.Store(int64(4500 * time.Millisecond))
		<-c.Context().Done()
		b.delay.Store(0)
		time.Sleep(time.Minute)
		if r.Healthy() != nil {
			t.Errorf("there is no new session: %v", r.Healthy())
		}
		c2 := registrytest.Claim(t, r, c.Scope())
		if c2 == c || c2.Epoch() <= c.Epoch() {
			t.Errorf("the old claim is back: epoch %d, %d", c.Epoch(), c2.Epoch())
		}
		err := c.Commit(t.Context(), registrytest.Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
		if !errors.Is(err, registry.ErrClaimLost) {
			t.Errorf("commit on the old claim: %v", err)
		}
	})
}

// TestNew: a configuration that cannot work is refused.
func TestNew(t *testing.T) {
	good := registry.Config{Backend: memory.New(), Replica: "r1", BaseDomain: "localhost"}
	if _, err := registry.New(good); err != nil {
		t.Errorf("New: %v", err)
	}
	for name, edit := range map[string]func(*registry.Config){
		"no backend":     func(c *registry.Config) { c.Backend = nil },
		"no replica":     func(c *registry.Config) { c.Replica = "" },
		"a bad replica":  func(c *registry.Config) { c.Replica = "a/b" },
		"no base domain": func(c *registry.Config) { c.BaseDomain = "" },
		"a short TTL":    func(c *registry.Config) { c.TTL = time.Millisecond },
	} {
		cfg := good
		edit(&cfg)
		if _, err := registry.New(cfg); err == nil {
			t.Errorf("%s: New accepts it", name)
		}
	}
	s, _ := registry.New(good)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("Run can be called twice")
	}
	if s.Healthy() == nil {
		t.Error("a store that does not run is healthy")
	}
}
