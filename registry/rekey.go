package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
)

// ErrOwned says that a tenant has an owner, which alone writes its state.
var ErrOwned = errors.New("the tenant has an owner")

// EachWrapped calls f with each key whose value holds secrets that key-encryption keys wrapped, as of one revision, and the ids of
// these keys, sorted. All of what secrets are stored in is looked at, so nothing is overlooked that somebody came to wrap.
func (s *Store) EachWrapped(ctx context.Context, f func(key string, ids []string) error) error {
	rev, err := s.revision(ctx)
	if err != nil {
		return fmt.Errorf("look for wrapped secrets: %w", err)
	}
	for _, prefix := range []string{prefixData, prefixVault, prefixState} {
		err := s.eachKey(ctx, prefix, rev, func(kv KV) error {
			if ids := seal.KeyIDs(kv.Value); len(ids) > 0 {
				return f(kv.Key, ids)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for wrapped secrets: %w", err)
		}
	}
	return nil
}

// WrappedIn says of a key that EachWrapped found whose it is: a tenant's state, by kind and id; a value of the vault of a tenant, or
// of the platform (vault.PlatformOwner); or, with neither, the platform data of a name.
func WrappedIn(key string) (state, vaultOf string, name string) {
	if rest, ok := strings.CutPrefix(key, prefixState); ok {
		state, name, _ = strings.Cut(rest, "/")
		return state, "", name
	}
	if rest, ok := strings.CutPrefix(key, prefixVault); ok {
		vaultOf, name, _ = strings.Cut(rest, "/")
		return "", vaultOf, name
	}
	return "", "", strings.TrimPrefix(key, prefixData)
}

// EditUnowned changes one object of a tenant that nobody owns: the transaction compares that there is no owner, so it is as good as
// a claim that is taken and given back within it, and costs no lease and no memory. edit gets the value and returns the next one,
// nil to leave it. done says whether something was changed. The error wraps ErrOwned where the tenant has an owner by now, and is
// fault.NotFound for a tenant or an object that is not there.
func (s *Store) EditUnowned(ctx context.Context, scope tenant.Scope, kind, id string, entry audit.Entry, edit func([]byte) ([]byte, error)) (done bool, err error) {
	if err := tenant.CheckSegment(id); err != nil || !kindOK(kind) {
		return false, fault.Wrap(fault.Invalid, err, "%q %q cannot name an object", kind, id)
	}
	for range maxRaces {
		if done, err = s.editUnowned(ctx, scope, kindPrefix(scope.ID(), kind)+id, entry, edit); !errors.Is(err, errRace) {
			return done, err
		}
	}
	return false, fault.New(fault.Unavailable, "tenant %s is being changed all the time", scope).After(retryAdvice)
}

func (s *Store) editUnowned(ctx context.Context, scope tenant.Scope, key string, entry audit.Entry, edit func([]byte) ([]byte, error)) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, fault.From(err)
	}
	x, o := recordKey(scope.ID()), ownerKey(scope.ID())
	found, err := s.readKeys(ctx, x, o, key)
	if err != nil {
		return false, fmt.Errorf("read the state of %s: %w", scope, err)
	}
	if !isOf(found[x], scope.UID()) || found[key].Key == "" {
		return false, fault.New(fault.NotFound, "there is no tenant %s, or it has no such object", scope)
	}
	if found[o].Key != "" {
		return false, fault.Wrap(fault.Unavailable, ErrOwned, "tenant %s is being served", scope).After(retryAdvice)
	}
	next, err := edit(found[key].Value)
	if err != nil || next == nil {
		return false, err
	}
	if entry.Tenant == scope.ID() && entry.TenantUID == "" {
		entry.TenantUID = scope.UID()
	}
	t := &Txn{
		If:   []Cmp{{x, CreateIs, found[x].CreateRevision}, {Key: o, Kind: Absent}, unchanged(key, found[key])},
		Puts: []Put{{Key: key, Value: next}},
		Else: []string{key},
	}
	if err := t.record(entry, scope.ID()); err != nil {
		return false, err
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return false, fmt.Errorf("change the state of %s: %w", scope, err)
	}
	if !res.OK && (res.attempts == 1 || string(res.Else[key].Value) != string(next)) {
		return false, errRace
	}
	s.noteCommit()
	return true, nil
}

// Change replaces a value of revision ifRev, 0 = that there is none, together with the audit entry of the platform that says so;
// fault.PreconditionFailed if it has another. It returns the new revision.
func (p *Platform) Change(ctx context.Context, key string, ifRev int64, value []byte, entry audit.Entry) (rev int64, err error) {
	k, err := dataKey(key)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fault.From(err)
	}
	t := &Txn{If: []Cmp{unchanged(k, KV{ModRevision: ifRev})}, Puts: []Put{{Key: k, Value: value}}, Else: []string{k}}
	if err := t.record(entry, ""); err != nil {
		return 0, err
	}
	res, err := p.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	have := res.Else[k]
	if !res.OK && (res.attempts == 1 || string(have.Value) != string(value)) {
		return 0, fault.New(fault.PreconditionFailed, "%s has changed since", key)
	}
	p.store.noteCommit()
	if !res.OK {
		return have.ModRevision, nil
	}
	return res.Revision, nil
}

// LiveReplicas returns the names of the replicas that have a session now, sorted, from the store and not from the index: one that
// registered before this call is among them, and one that registers later sees what was written before it.
func (s *Store) LiveReplicas(ctx context.Context) ([]string, error) {
	var names []string
	_, err := s.eachPage(ctx, prefixReplica, 0, func(kv KV) { names = append(names, strings.TrimPrefix(kv.Key, prefixReplica)) })
	if err != nil {
		return nil, fmt.Errorf("list the replicas: %w", err)
	}
	return names, nil
}
