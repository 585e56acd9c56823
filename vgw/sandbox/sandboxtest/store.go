package sandboxtest

import (
	"context"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
)

// Store is a tenant's state in memory. It is a sandbox.Store; Commit of a principal is Write.
type Store struct{}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{} }

// Load implements sandbox.Store.
func (s *Store) Load(_ context.Context, kind string) ([]tenant.Object, error) { return nil, nil }

// Commit implements sandbox.Store.
func (s *Store) Commit(_ context.Context, _ authz.Action, _ string, w ...tenant.Write) error {
	return s.Write(w...)
}

// Write writes without a record of it, as the commit of a Manager.Create or Manager.Ask.
func (s *Store) Write(w ...tenant.Write) error { return nil }
