package vgw_test

import (
	"context"
	"errors"
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
	"github.com/polygate/polygate/vgw"
)

// store is a registry in memory, of just what a Mux needs. Its hooks, where set, fail or watch an operation.
type store struct {
	mu       sync.Mutex
	entries  map[tenant.ID]*tenant.Entry
	objects  map[tenant.Scope]map[string]tenant.Object // by kind/id
	claims   map[tenant.Scope]*claim
	revision int64
	entriesA []audit.Entry // committed with changes
	commits  int
	acquired int

	onClaim  func(ctx context.Context, s tenant.Scope) error
	onLoad   func(s tenant.Scope, kind string) error
	onCommit func(s tenant.Scope, w []tenant.Write) (before, after error) // after: applied, but reported as failed
	onUpdate func(id tenant.ID) error

	onRelease func()
}

var errLost = errors.New("claim lost")

func newStore() *store {
	return &store{
		entries: map[tenant.ID]*tenant.Entry{}, objects: map[tenant.Scope]map[string]tenant.Object{}, claims: map[tenant.Scope]*claim{},
	}
}

// add makes a tenant with one key for each role.
func (s *store) add(id tenant.ID) *tenant.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	uid := uuid.NewString()
	r := &tenant.Record{
		V: 1, UID: uid, ID: id, State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceFile, File: "tenants.yaml",
		Created: time.Now(), Updated: time.Now(), Revision: s.revision,
	}
	for _, role := range []tenant.Role{tenant.Viewer, tenant.Editor, tenant.Admin} {
		r.Keys = append(r.Keys, tenant.Key{
			ID: uuid.NewString(), Name: "file-" + role.String(), Role: role, Source: tenant.SourceFile, Created: time.Now(),
			Hash: tenant.HashKey(uid + role.String()),
		})
	}
	e := &tenant.Entry{Record: r, Scope: tenant.Confine(id, uid)}
	s.entries[id] = e
	s.objects[e.Scope] = map[string]tenant.Object{}
	return e
}

// erase deletes a tenant and all of its state.
func (s *store) erase(id tenant.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	delete(s.entries, id)
	delete(s.objects, e.Scope)
	if c := s.claims[e.Scope]; c != nil {
		c.cancel(errLost)
		delete(s.claims, e.Scope)
	}
}

// edit changes a routing record, as an operator does.
func (s *store) edit(id tenant.ID, f func(r *tenant.Record)) *tenant.Entry {
	e, err := s.UpdateTenant(context.Background(), id, 0, func(r *tenant.Record) error { f(r); return nil }, audit.Entry{ID: "x", Action: "x"})
	if err != nil {
		panic(err)
	}
	return e
}

func (s *store) entry(id tenant.ID) *tenant.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[id]
}

// beforeUpdate sets onUpdate: gateways update their own records meanwhile.
func (s *store) beforeUpdate(f func(id tenant.ID) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onUpdate = f
}

func (s *store) UpdateTenant(_ context.Context, id tenant.ID, _ int64, edit func(*tenant.Record) error, e audit.Entry) (*tenant.Entry, error) {
	s.mu.Lock()
	onUpdate := s.onUpdate
	s.mu.Unlock()
	if onUpdate != nil {
		if err := onUpdate(id); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.entries[id]
	if old == nil {
		return nil, fault.New(fault.NotFound, "no tenant")
	}
	r := old.Record.Clone()
	if err := edit(r); err != nil {
		return nil, fmt.Errorf("update %s: %w", id, err)
	}
	if reflect.DeepEqual(r, old.Record) {
		return old, nil
	}
	for other, have := range s.entries {
		for _, h := range r.Hosts {
			if other != id && slices.Contains(have.Record.Hosts, h) {
				return nil, fault.New(fault.Conflict, "host %s is in use", h)
			}
		}
	}
	s.revision++
	r.Revision = s.revision
	s.entriesA = append(s.entriesA, e)
	s.entries[id] = &tenant.Entry{Record: r, Scope: old.Scope}
	return s.entries[id], nil
}

func (s *store) Claim(ctx context.Context, scope tenant.Scope) (vgw.Claim, error) {
	if s.onClaim != nil {
		if err := s.onClaim(ctx, scope); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[scope.ID()]; e == nil || e.Scope != scope {
		return nil, fault.New(fault.NotFound, "no tenant")
	}
	if c := s.claims[scope]; c != nil {
		return c, nil
	}
	s.acquired++
	c := &claim{store: s, scope: scope}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	s.claims[scope] = c
	return c, nil
}

// lose ends a tenant's claim, as if another replica had taken it.
func (s *store) lose(scope tenant.Scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims[scope].cancel(errLost)
	delete(s.claims, scope)
}

func (s *store) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.claims)
}

// dump returns everything that is stored, as text.
func (s *store) dump() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for scope, objects := range s.objects {
		for key, o := range objects {
			lines = append(lines, fmt.Sprintf("%s/%s %s", scope, key, o.Value))
		}
	}
	for _, e := range s.entriesA {
		lines = append(lines, fmt.Sprintf("%+v", e))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

type claim struct {
	store  *store
	scope  tenant.Scope
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (c *claim) Context() context.Context { return c.ctx }
func (c *claim) Scope() tenant.Scope      { return c.scope }

func (c *claim) Load(_ context.Context, kind string) ([]tenant.Object, error) {
	if f := c.store.onLoad; f != nil {
		if err := f(c.scope, kind); err != nil {
			return nil, err
		}
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	var out []tenant.Object
	for _, o := range c.store.objects[c.scope] {
		if o.Kind == kind {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b tenant.Object) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (c *claim) Commit(_ context.Context, e audit.Entry, w ...tenant.Write) error {
	var after error
	if f := c.store.onCommit; f != nil {
		var before error
		if before, after = f(c.scope, w); before != nil {
			return before
		}
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.ctx.Err() != nil {
		return fault.Wrap(fault.Unavailable, context.Cause(c.ctx), "moved")
	}
	if e.ID == "" || e.Action == "" {
		return errors.New("commit without a record")
	}
	c.store.commits++
	c.store.entriesA = append(c.store.entriesA, e)
	for _, w := range w {
		c.store.revision++
		key := w.Kind + "/" + w.ID
		if w.Value == nil {
			delete(c.store.objects[c.scope], key)
			continue
		}
		c.store.objects[c.scope][key] = tenant.Object{Kind: w.Kind, ID: w.ID, Value: w.Value, Revision: c.store.revision}
	}
	return after
}

func (c *claim) CommitIf(ctx context.Context, record int64, e audit.Entry, w ...tenant.Write) error {
	c.store.mu.Lock()
	have := c.store.entries[c.scope.ID()]
	c.store.mu.Unlock()
	if record != 0 && have != nil && have.Record.Revision != record {
		return fault.New(fault.PreconditionFailed, "the record has changed")
	}
	return c.Commit(ctx, e, w...)
}

func (c *claim) Handoff(context.Context, string, []byte) error {
	return fault.New(fault.NotFound, "there is no such replica")
}

func (c *claim) Handed() []byte { return nil }

func (c *claim) Release(context.Context) error {
	if f := c.store.onRelease; f != nil {
		f()
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.store.claims[c.scope] == c {
		delete(c.store.claims, c.scope)
	}
	c.cancel(errLost)
	return nil
}

// recorder keeps the data plane's records.
type recorder struct {
	mu      sync.Mutex
	entries []audit.Entry
}

func (r *recorder) Record(e audit.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
}

// last returns the newest record of an action.
func (r *recorder) last(t testing.TB, action string) audit.Entry {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.entries) - 1; i >= 0; i-- {
		if r.entries[i].Action == action {
			return r.entries[i]
		}
	}
	t.Fatalf("no record of %s", action)
	return audit.Entry{}
}
