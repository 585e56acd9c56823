package admin_test

import (
	"context"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
)

// memoryStore is the real registry, on its backend in memory.
type memoryStore struct {
	*registry.Store
	*registry.Index
	*registry.Outbox
	t *testing.T
}

func newStore(t *testing.T) store {
	t.Helper()
	s, err := registry.New(registry.Config{Backend: memory.New(), Replica: "r1", BaseDomain: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("registry: %v", err)
		}
	})
	<-s.Ready()
	return &memoryStore{s, s.Index(), s.Outbox(), t}
}

// committed returns what no drain has taken: everything.
func (s *memoryStore) committed() []audit.Entry {
	s.t.Helper()
	pending, err := s.Pending(s.t.Context(), 10_000)
	if err != nil {
		s.t.Fatal(err)
	}
	entries := make([]audit.Entry, len(pending))
	for i, p := range pending {
		entries[i] = p.Entry
	}
	return entries
}
