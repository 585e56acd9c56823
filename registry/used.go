package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// usedChunk is how many tenants one transaction of MarkUsed is about: two conditions and a write for each, of the 128 of
// each sort that etcd allows by default.
const usedChunk = 40

// usedValue is the value of c/used/<tenant>: when each key of the tenant was last used. It is bounded by the number of
// keys that a routing record can have, since those that the record does not hold are dropped with each write.
type usedValue struct {
	V    int                  `json:"v"`
	UID  string               `json:"uid"` // of the tenant; what is of another one of this id counts as nothing (X41)
	Used map[string]time.Time `json:"used"`
}

// MarkUsed records when keys, named by their ids, were last used. All replicas may call it at once, and again with the
// same times: the latest stays. Times are cut to seconds, and one that lies ahead counts as now, or a replica with a fast
// clock would hide every later use. Keys and tenants that are gone are passed over without an error. It is meant for what
// a minute or so has brought; after an error some of it may have been recorded: keep all of it for the next time.
func (s *Store) MarkUsed(ctx context.Context, marks map[tenant.Scope]map[string]time.Time) error {
	scopes := slices.SortedFunc(maps.Keys(marks), func(a, b tenant.Scope) int {
		return cmp.Or(cmp.Compare(a.ID(), b.ID()), cmp.Compare(a.UID(), b.UID()))
	})
	for chunk := range slices.Chunk(scopes, usedChunk) {
		if err := s.markChunk(ctx, chunk, marks); err != nil {
			return fmt.Errorf("record the last use of keys: %w", err)
		}
	}
	return nil
}

// markChunk records the uses of several tenants in one transaction. Where others were faster with one of them it goes on
// with halves, so that one tenant that is busy everywhere does not hold up the rest.
func (s *Store) markChunk(ctx context.Context, chunk []tenant.Scope, marks map[tenant.Scope]map[string]time.Time) error {
	for n := range maxRaces {
		done, err := s.markOnce(ctx, chunk, marks)
		if err != nil || done {
			return err
		}
		if half := len(chunk) / 2; half > 0 {
			if err := s.markChunk(ctx, chunk[:half], marks); err != nil {
				return err
			}
			return s.markChunk(ctx, chunk[half:], marks)
		}
		pause(ctx, rand.N(time.Duration(min(n+1, 20))*racePause)) //nolint:gosec // not a secret
	}
	return fault.New(fault.Unavailable, "the uses of %s are being recorded by others all the time", chunk[0]).After(retryAdvice)
}

// markOnce reads, merges and writes; false if others changed something meanwhile.
func (s *Store) markOnce(ctx context.Context, chunk []tenant.Scope, marks map[tenant.Scope]map[string]time.Time) (done bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, fault.From(err)
	}
	keys := make([]string, len(chunk))
	for i, scope := range chunk {
		keys[i] = usedKey(scope.ID())
	}
	found, err := s.readOf(ctx, chunk, keys...)
	if err != nil {
		return false, err
	}
	t := new(Txn)
	for i, scope := range chunk {
		if err := t.mark(scope, found[recordKey(scope.ID())], found[keys[i]], marks[scope], s.cfg.Now()); err != nil {
			return false, err
		}
	}
	if len(t.Puts) == 0 {
		return true, nil
	}
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return false, err
	}
	return res.OK, nil
}

// mark adds the uses of one tenant. It is bound to the tenant as it was read: a record that was deleted, or made again,
// takes no uses of its predecessor, and nothing of a deleted tenant comes back.
func (t *Txn) mark(scope tenant.Scope, record, stored KV, marks map[string]time.Time, now time.Time) error {
	e, err := decodeRecord(record)
	if err != nil || e.Scope != scope {
		return nil //nolint:nilerr // gone, or not for this build to serve
	}
	stored.Key = usedKey(scope.ID())
	val, err := mergeUsed(e.Record, stored, marks, now)
	if err != nil || val == nil {
		return err
	}
	t.If = append(t.If, Cmp{Key: record.Key, Kind: CreateIs, Revision: record.CreateRevision}, unchanged(stored.Key, stored))
	t.Puts = append(t.Puts, Put{Key: stored.Key, Value: val})
	return nil
}

// mergeUsed returns the value that takes the place of stored; nil if there is nothing new in marks.
func mergeUsed(r *tenant.Record, stored KV, marks map[string]time.Time, now time.Time) ([]byte, error) {
	old := decodeUsed(stored, r.UID)
	next := usedValue{V: max(old.V, storedVersion), UID: r.UID, Used: make(map[string]time.Time, len(r.Keys))}
	changed := false
	for i := range r.Keys {
		id := r.Keys[i].ID
		was, at := old.Used[id], marks[id]
		if at.After(now) {
			at = now
		}
		if at = at.UTC().Truncate(time.Second); at.After(was) {
			was, changed = at, true
		}
		if !was.IsZero() {
			next.Used[id] = was
		}
	}
	if !changed {
		return nil, nil
	}
	val, err := encode(next)
	if err != nil || old.V == 0 {
		return val, err
	}
	known, err := encode(old)
	if err != nil {
		return nil, err
	}
	return keepUnknown(stored.Value, known, val)
}

// decodeUsed reads a stored value. One that cannot be read, or is of another tenant, counts as none: it is a convenience,
// and what is lost of it comes back with the next use.
func decodeUsed(kv KV, uid string) usedValue {
	var v usedValue
	if len(kv.Value) == 0 || json.Unmarshal(kv.Value, &v) != nil || !accepts(v.V, storedVersion) || v.UID != uid {
		return usedValue{}
	}
	return v
}

// LastUsed returns when the keys of a tenant were last used, by their ids. A key that is not among them has not been used,
// or a replica has yet to record it. The error is fault.NotFound if the tenant is gone or is another one of the same id.
func (s *Store) LastUsed(ctx context.Context, scope tenant.Scope) (map[string]time.Time, error) {
	found, err := s.readOf(ctx, []tenant.Scope{scope}, usedKey(scope.ID()))
	if err != nil {
		return nil, fmt.Errorf("read the last use of keys of %s: %w", scope, err)
	}
	if !isScope(found[recordKey(scope.ID())], scope) {
		return nil, fault.New(fault.NotFound, "there is no tenant %s", scope)
	}
	used := decodeUsed(found[usedKey(scope.ID())], scope.UID()).Used
	if used == nil {
		used = make(map[string]time.Time)
	}
	return used, nil
}
