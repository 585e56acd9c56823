package admin_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// fakeStore is a registry of a few lines.
type fakeStore struct {
	mu      sync.Mutex
	rev     int64
	entries map[tenant.ID]*tenant.Entry
	log     []audit.Entry
}

func newStore(*testing.T) store { return &fakeStore{entries: map[tenant.ID]*tenant.Entry{}} }

func (s *fakeStore) put(r *tenant.Record, e audit.Entry) *tenant.Entry {
	s.rev++
	r.Revision, r.Updated = s.rev, time.Now()
	en := &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
	s.entries[r.ID] = en
	s.log = append(s.log, e)
	return en
}

func (s *fakeStore) CreateTenant(_ context.Context, r *tenant.Record, e audit.Entry) (*tenant.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.Validate("localhost"); err != nil {
		return nil, err
	}
	if s.entries[r.ID] != nil {
		return nil, fault.New(fault.Conflict, "tenant %q exists", r.ID)
	}
	r = r.Clone()
	r.UID, r.Created = uuid.NewString(), time.Now()
	e.TenantUID = r.UID
	return s.put(r, e), nil
}

func (s *fakeStore) UpdateTenant(_ context.Context, id tenant.ID, rev int64, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries[id]
	if old == nil {
		return nil, fault.New(fault.NotFound, "no tenant")
	}
	if rev != 0 && rev != old.Record.Revision {
		return nil, fault.New(fault.PreconditionFailed, "it is at %d", old.Record.Revision)
	}
	r := old.Record.Clone()
	if err := edit(r); err != nil {
		return nil, err
	}
	if err := r.Validate("localhost"); err != nil {
		return nil, fmt.Errorf("update %s: %w", id, err)
	}
	if reflect.DeepEqual(r, old.Record) {
		return old, nil
	}
	return s.put(r, e), nil
}

func (s *fakeStore) DeleteTenant(_ context.Context, id tenant.ID, rev int64, e audit.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries[id]
	if old == nil {
		return fault.New(fault.NotFound, "no tenant")
	}
	if rev != 0 && rev != old.Record.Revision {
		return fault.New(fault.PreconditionFailed, "it is at %d", old.Record.Revision)
	}
	delete(s.entries, id)
	s.log = append(s.log, e)
	return nil
}

func (s *fakeStore) ByID(id tenant.ID) (*tenant.Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[id]
	return e, ok
}

func (s *fakeStore) List(after tenant.ID, limit int) []*tenant.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*tenant.Entry
	for id, e := range s.entries {
		if id > after {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *tenant.Entry) int { return strings.Compare(string(a.Scope.ID()), string(b.Scope.ID())) })
	return list[:min(limit, len(list))]
}

func (s *fakeStore) Heads(context.Context) (map[string]audit.Head, error) {
	return map[string]audit.Head{"team-a": {Seq: 3}}, nil
}

func (s *fakeStore) committed() []audit.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}
