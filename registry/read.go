package registry

import (
	"context"
	"fmt"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Read returns one object of a tenant without a claim on it, as it was stored at one moment at which the tenant of this
// scope existed. The error is fault.NotFound if there is no such object, or if the tenant is gone or another one of the
// same id (X41). What is read may be changed by the tenant's owner at any time: decide nothing by it that a commit of the
// owner must not overtake.
func (s *Store) Read(ctx context.Context, scope tenant.Scope, kind, id string) (tenant.Object, error) {
	if err := tenant.CheckSegment(id); err != nil || !kindOK(kind) {
		return tenant.Object{}, fault.Wrap(fault.Invalid, err, "%q %q cannot name an object", kind, id)
	}
	key := kindPrefix(scope.ID(), kind) + id
	found, err := s.readOf(ctx, []tenant.Scope{scope}, key)
	if err != nil {
		return tenant.Object{}, fmt.Errorf("read %s %s of %s: %w", kind, id, scope, err)
	}
	if !isScope(found[recordKey(scope.ID())], scope) {
		return tenant.Object{}, fault.New(fault.NotFound, "there is no tenant %s", scope)
	}
	kv, ok := found[key]
	if !ok {
		return tenant.Object{}, fault.New(fault.NotFound, "there is no %s %s", kind, id)
	}
	return tenant.Object{Kind: kind, ID: id, Value: kv.Value, Revision: kv.ModRevision}, nil
}

// readOf reads the routing records of tenants and further keys as of one moment: by a transaction whose condition never
// holds, so that it writes nothing, and reads all of them as one act, which several calls of Range are not.
func (s *Store) readOf(ctx context.Context, scopes []tenant.Scope, keys ...string) (map[string]KV, error) {
	all := make([]string, 0, len(scopes)+len(keys))
	for _, scope := range scopes {
		all = append(all, recordKey(scope.ID()))
	}
	return s.readKeys(ctx, append(all, keys...)...)
}

// readKeys reads keys as of one moment; those that do not exist are missing from the result.
func (s *Store) readKeys(ctx context.Context, keys ...string) (map[string]KV, error) {
	t := &Txn{If: []Cmp{{Key: keys[0], Kind: ModIs, Revision: never}}, Else: keys}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	res, err := s.backend.Txn(ctx, t)
	if err != nil {
		return nil, err
	}
	return res.Else, nil
}

// never is a revision that no key has.
const never = -1

// isScope says whether a routing record is of the tenant of a scope, and one that this build can read.
func isScope(kv KV, scope tenant.Scope) bool {
	e, err := decodeRecord(kv)
	return err == nil && e.Scope == scope
}

// Exists says whether there is a tenant of this id and UID, as the store knows it now and not as the index did a moment ago:
// before what it left behind is removed for good.
func (s *Store) Exists(ctx context.Context, id tenant.ID, uid string) (bool, error) {
	kv, ok, err := s.get(ctx, recordKey(id))
	if err != nil {
		return false, fmt.Errorf("look for tenant %s: %w", id, err)
	}
	return ok && isOf(kv, uid), nil
}
