package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of one-time ids.
const (
	maxOnce   = 24 * time.Hour         // how far ahead until may lie
	onceGrace = 10 * time.Minute       // an id is kept for this long after until: replicas' clocks differ
	onceLook  = 32                     // how many ids a call looks at in order to forget those that are over
	sweepTime = 500 * time.Millisecond // for that
)

// onceValue is the value of c/once/<hash of the id>.
type onceValue struct {
	V     int       `json:"v"`
	Until time.Time `json:"until"`
	By    string    `json:"by"` // tells one call from another, for a call whose answer got lost
}

// onceSweep is where the search for ids that are over goes on.
type onceSweep struct {
	mu    sync.Mutex
	after string
}

// Once says whether this is the first call with id, of all calls on all replicas: exactly one gets true, and none does
// once until has passed. It makes a ticket good for one use. Whoever holds no proof that it handed out the ticket must not
// call it: each id costs a key in the store until until has passed, and no longer than a call or two after that: each call
// looks at a few ids and removes those that are over. On an error, the answer is not known and the ticket may be used up:
// refuse it. The id itself is not stored, only its hash.
func (s *Store) Once(ctx context.Context, id string, until time.Time) (first bool, err error) {
	now := s.cfg.Now()
	if id == "" || until.Sub(now) > maxOnce {
		return false, fault.New(fault.Invalid, "a one-time id must not be empty nor good for more than %v", maxOnce)
	}
	if err := ctx.Err(); err != nil {
		return false, fault.From(err)
	}
	if !now.Before(until) {
		return false, nil
	}
	sum := sha256.Sum256([]byte(id))
	key := prefixOnce + hex.EncodeToString(sum[:])
	val, err := encode(onceValue{V: storedVersion, Until: until.UTC(), By: uuid.NewString()})
	if err != nil {
		return false, err
	}
	t := new(Txn)
	t.putAbsent(Put{Key: key, Value: val})
	res, err := s.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return false, fmt.Errorf("use a one-time id: %w", err)
	}
	s.sweepOnce(ctx, now)
	return res.OK || res.attempts > 1 && string(res.Else[key].Value) == string(val), nil
}

// sweepOnce removes ids that are over from the next few. It may fail: what is left is found another time.
func (s *Store) sweepOnce(ctx context.Context, now time.Time) {
	if !s.once.mu.TryLock() {
		return // somebody is at it
	}
	defer s.once.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	res, err := s.backend.Range(ctx, Range{Prefix: prefixOnce, After: s.once.after, Limit: onceLook})
	if err != nil {
		return
	}
	s.once.after = ""
	if res.More && len(res.KVs) > 0 {
		s.once.after = res.KVs[len(res.KVs)-1].Key
	}
	t := new(Txn)
	for _, kv := range res.KVs {
		if over(kv, now) {
			t.If = append(t.If, unchanged(kv.Key, kv)) // else another replica has removed it
			t.Deletes = append(t.Deletes, kv.Key)
		}
	}
	if len(t.Deletes) == 0 {
		return
	}
	if _, err := s.backend.Txn(ctx, t); err != nil {
		s.log.Debug("registry: one-time ids that are over were not removed", "error", err)
	}
}

// over says whether a one-time id can be forgotten. One that cannot be read is kept: to forget it could be to let it be
// used again.
func over(kv KV, now time.Time) bool {
	var v onceValue
	return json.Unmarshal(kv.Value, &v) == nil && !v.Until.IsZero() && now.After(v.Until.Add(onceGrace))
}
