package keep

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// unlockTimeout bounds how long a caller waits for a lock to be given back.
const unlockTimeout = 10 * time.Second

// Lock implements certmagic.Locker: it waits until no replica, this one included, holds the owner's lock of this name.
func (s *Storage) Lock(ctx context.Context, name string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	l, err := s.keeper.vault.Lock(ctx, lockName(s.owner.Segment(), name))
	if err != nil {
		return s.explain("lock", name, err)
	}
	s.hold(name, l)
	return nil
}

// TryLock implements certmagic.TryLocker: false means that somebody holds the lock.
func (s *Storage) TryLock(ctx context.Context, name string) (bool, error) {
	if err := ended(ctx); err != nil {
		return false, err
	}
	l, ok, err := s.keeper.vault.TryLock(ctx, lockName(s.owner.Segment(), name))
	if err != nil {
		return false, s.explain("lock", name, err)
	}
	if ok {
		s.hold(name, l)
	}
	return ok, nil
}

// Unlock implements certmagic.Locker. The end of ctx does not keep a lock from being given back. A lock that was lost is no
// error; one that was not taken through this view is. After any other error the vault goes on trying.
func (s *Storage) Unlock(ctx context.Context, name string) error {
	l, ok := s.drop(name)
	if !ok {
		return fault.New(fault.Conflict, "the lock %q was not taken here", name)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	if err := s.keeper.vault.Unlock(ctx, l); err != nil {
		return fmt.Errorf("unlock %q of %s: %w", name, s.owner.Segment(), err)
	}
	return nil
}

func (s *Storage) hold(name string, l vault.Lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = l
}

// drop forgets a lock before it is given back: afterwards another caller of this view may have it again.
func (s *Storage) drop(name string) (vault.Lock, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.held[name]
	delete(s.held, name)
	return l, ok
}

// fences returns the locks that are held through this view.
func (s *Storage) fences() []vault.Lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.held))
}
