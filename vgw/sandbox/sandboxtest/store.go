package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
)

// Store is a tenant's state in memory. It is a sandbox.Store; the commit of a principal is Write.
type Store struct {
	mu       sync.Mutex
	objects  map[string]tenant.Object
	revision int64
	commits  int
	lost     bool

	// Before, if set, is asked before each commit, with its number from 1 on; an error refuses it. It must be set before the store is used.
	Before func(n int, w []tenant.Write) error
	// After, if set, is asked after each commit that was made; an error is what the caller gets to see of it: it cannot tell whether it was.
	After func(n int, w []tenant.Write) error
}

// NewStore returns an empty store.
func NewStore() *Store { return &Store{objects: map[string]tenant.Object{}} }

// ErrLost is what a store says whose claim was lost.
var ErrLost = errors.New("the claim was lost")

// Lose has all commits from now on refused, as for an owner that lost its claim. What is stored stays, for Heir.
func (s *Store) Lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
}

// Heir returns the store of the next owner, with all that is stored. This one refuses all commits from now on.
func (s *Store) Heir() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	h := NewStore()
	for k, o := range s.objects {
		h.objects[k] = o
	}
	h.revision = s.revision
	return h
}

// Commits returns how many commits were made.
func (s *Store) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// Load implements sandbox.Store.
func (s *Store) Load(ctx context.Context, kind string) ([]tenant.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []tenant.Object
	for _, o := range s.objects {
		if o.Kind == kind {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b tenant.Object) int { return int(a.Revision - b.Revision) })
	return all, nil
}

// Commit implements sandbox.Store.
func (s *Store) Commit(ctx context.Context, _ authz.Action, _ string, w ...tenant.Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Write(w...)
}

// Write writes without a record of it, as the commit of a Manager.Create or Manager.Ask.
func (s *Store) Write(w ...tenant.Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits++
	n := s.commits
	if s.lost {
		return ErrLost
	}
	if s.Before != nil {
		if err := s.Before(n, w); err != nil {
			return err
		}
	}
	if err := s.apply(w); err != nil {
		return err
	}
	if s.After != nil {
		return s.After(n, w)
	}
	return nil
}

// apply holds to what the real store refuses: two writes of one key, and what cannot be a key.
func (s *Store) apply(w []tenant.Write) error {
	keys := map[string]bool{}
	for _, x := range w {
		k := x.Kind + "/" + x.ID
		if err := errors.Join(tenant.CheckSegment(x.Kind), tenant.CheckSegment(x.ID)); err != nil || keys[k] {
			return fmt.Errorf("a transaction that writes %s twice, or wrongly: %w", k, err)
		}
		keys[k] = true
	}
	s.revision++
	for _, x := range w {
		if k := x.Kind + "/" + x.ID; x.Value == nil {
			delete(s.objects, k)
		} else {
			s.objects[k] = tenant.Object{Kind: x.Kind, ID: x.ID, Value: slices.Clone(x.Value), Revision: s.revision}
		}
	}
	return nil
}
