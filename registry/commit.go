package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// laneCount is how many commits of one claim can be under way at once.
const laneCount = 8

// lane is a place for one commit at a time. Each commit rewrites the lane's marker, t/<tenant>/_/<lane>, with the id of
// its audit entry, and compares that nobody has since the last one. So a commit that is repeated because its answer was
// lost applies once, and the marker says whether it did, after the outbox has been drained as well as before.
type lane struct {
	key string
	mod int64 // the marker's ModRevision; 0 = there is none
}

// errMarkerGone says that an earlier attempt may have been applied, before the next owner removed the markers.
var errMarkerGone = errors.New("the claim ended while the commit was under way")

// markerValue is the value of a marker.
type markerValue struct {
	V     int    `json:"v"`
	Entry string `json:"entry"` // the id of the audit entry
}

// Load returns all objects of a kind, sorted by id, as of one moment at which the claim held.
func (c *Claim) Load(ctx context.Context, kind string) ([]tenant.Object, error) {
	if !kindOK(kind) {
		return nil, fault.New(fault.Invalid, "%q is not a kind of object", kind)
	}
	if !c.live() {
		return nil, c.lost()
	}
	for {
		objs, err := c.loadOnce(ctx, kind)
		if !errors.Is(err, ErrCompacted) {
			return objs, err
		}
	}
}

func (c *Claim) loadOnce(ctx context.Context, kind string) ([]tenant.Object, error) {
	prefix := kindPrefix(c.scope.ID(), kind)
	var objs []tenant.Object
	rev, err := c.store.eachPage(ctx, prefix, 0, func(kv KV) {
		objs = append(objs, tenant.Object{Kind: kind, ID: kv.Key[len(prefix):], Value: kv.Value, Revision: kv.ModRevision})
	})
	if err != nil {
		return nil, fmt.Errorf("load %s of %s: %w", kind, c.scope, err)
	}
	// The fence of reads: without it, a claim on a tenant that was deleted could read the next one of the same id (X41).
	o, err := c.store.read(ctx, Range{Key: ownerKey(c.scope.ID()), Revision: rev})
	if err != nil {
		return nil, fmt.Errorf("load %s of %s: %w", kind, c.scope, err)
	}
	if len(o.KVs) == 0 || o.KVs[0].ModRevision != c.epoch {
		c.lose(ErrClaimLost)
		return nil, c.lost()
	}
	return objs, nil
}

// Commit makes the writes and the audit entry durable in one transaction that compares the claim's epoch: nil means
// that all of it is stored. If the claim is lost, nothing is stored and the error is fault.Unavailable wrapping
// ErrClaimLost. If the store does not say in time whether the commit was applied, or the claim ends meanwhile, the error
// is fault.Unavailable wrapping ErrUnknown, and the claim is given up, so that memory is loaded anew and cannot differ
// from the store. A commit that has begun is not abandoned when ctx ends.
//
// A change whose writes are all Owed is taken beyond the tenant's budget: what ends is how room is made. It is for what the
// changes that were let in bring with them, which bound it.
func (c *Claim) Commit(ctx context.Context, entry audit.Entry, writes ...tenant.Write) error {
	return c.CommitIf(ctx, 0, entry, writes...)
}

// CommitIf is Commit where record is the revision of the tenant's routing record by which the change was allowed: if the
// record has changed since, nothing is stored and the error is fault.PreconditionFailed wrapping ErrRecordChanged. So a
// revocation that was acknowledged anywhere holds against what is written anywhere; whoever is refused judges again, by
// the record as it is now. 0 compares nothing.
func (c *Claim) CommitIf(ctx context.Context, record int64, entry audit.Entry, writes ...tenant.Write) (err error) {
	t, err := c.plan(entry, writes)
	if err != nil {
		return err
	}
	if record != 0 {
		x := recordKey(c.scope.ID())
		t.If = append(t.If, Cmp{x, ModIs, record})
		t.Else = append(t.Else, x)
	}
	ad, err := c.store.budgets.admitState(ctx, c.scope.ID(), t, owed(writes))
	if err != nil {
		return err
	}
	defer func() { ad.settle(err) }()
	select {
	case l := <-c.lanes:
		defer func() { c.lanes <- l }()
		return c.commitOn(l, t, entry, record)
	case <-c.ctx.Done():
		return c.lost()
	case <-ctx.Done():
		return fault.From(ctx.Err())
	}
}

// owed says whether all that is written has to be.
func owed(writes []tenant.Write) bool {
	return len(writes) > 0 && !slices.ContainsFunc(writes, func(w tenant.Write) bool { return !w.Owed })
}

// plan turns writes into a transaction, all but the lane's part.
func (c *Claim) plan(entry audit.Entry, writes []tenant.Write) (*Txn, error) {
	if len(writes) > maxWrites {
		return nil, fault.New(fault.TooLarge, "%d objects in one change: at most %d are allowed", len(writes), maxWrites)
	}
	key := ownerKey(c.scope.ID())
	t := &Txn{If: []Cmp{{key, ModIs, c.epoch}}, Else: []string{key}}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if err := tenant.CheckSegment(w.ID); err != nil || !kindOK(w.Kind) {
			return nil, fault.Wrap(fault.Invalid, err, "%q %q cannot name an object", w.Kind, w.ID)
		}
		k := kindPrefix(c.scope.ID(), w.Kind) + w.ID
		if seen[k] {
			return nil, fault.New(fault.Invalid, "%s %s is written twice in one change", w.Kind, w.ID)
		}
		seen[k] = true
		if w.Value == nil {
			t.Deletes = append(t.Deletes, k)
		} else {
			t.Puts = append(t.Puts, Put{Key: k, Value: w.Value})
		}
	}
	if entry.Tenant == c.scope.ID() && entry.TenantUID == "" {
		entry.TenantUID = c.scope.UID()
	}
	return t, t.record(entry, c.scope.ID())
}

func (c *Claim) commitOn(l *lane, t *Txn, entry audit.Entry, record int64) error {
	if !c.live() {
		return c.lost()
	}
	val, err := encode(markerValue{storedVersion, entry.ID})
	if err != nil {
		return err
	}
	t.If = append(t.If, unchanged(l.key, KV{ModRevision: l.mod}))
	t.Puts = append(t.Puts, Put{Key: l.key, Value: val})
	t.Else = append(t.Else, l.key)
	res, err := c.store.commit(c.ctx, t)
	switch {
	case err != nil:
		return c.commitErr(err)
	case res.OK:
		l.mod = res.Revision
		c.store.noteCommit()
		return nil
	}
	return c.commitRefused(l, res, entry, record)
}

// commitErr handles a commit without an answer. Unless the store refused it for what it is, it may still be applied, as
// long as the epoch holds: so the claim is given up.
func (c *Claim) commitErr(err error) error {
	if errors.Is(err, ErrUnknown) {
		c.store.log.Warn("registry: a commit's outcome is unknown; its claim is given up", "tenant", c.scope.String(), "error", err)
		c.lose(ErrClaimLost)
	}
	return fmt.Errorf("commit to %s: %w", c.scope, err)
}

// commitRefused says what a failed comparison means.
func (c *Claim) commitRefused(l *lane, res outcome, entry audit.Entry, record int64) error {
	marker := res.Else[l.key]
	var m markerValue
	if marker.ModRevision != l.mod && json.Unmarshal(marker.Value, &m) == nil && m.Entry == entry.ID {
		l.mod = marker.ModRevision // an earlier attempt was applied
		c.store.noteCommit()
		return nil
	}
	if res.Else[ownerKey(c.scope.ID())].ModRevision == c.epoch && marker.ModRevision == l.mod {
		// No attempt was applied; nor can a late one be, since the record's revision does not come again.
		if record != 0 && res.Else[recordKey(c.scope.ID())].ModRevision != record {
			return fault.Wrap(fault.PreconditionFailed, ErrRecordChanged, "tenant %s has changed since: try again", c.scope)
		}
		return fault.Wrap(fault.Internal, errRecordReused, "")
	}
	c.lose(ErrClaimLost)
	if untouched := l.mod != 0 && marker.ModRevision == l.mod; res.attempts > 1 && !untouched {
		return unknown(errMarkerGone)
	}
	return c.lost()
}
