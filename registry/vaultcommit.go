package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// etcdOps is how many conditions, reads and writes, each, etcd allows in a transaction by default.
const etcdOps = 128

// vaultChange is one change of the vault over all its attempts.
type vaultChange struct {
	owner  vault.Owner
	batch  vault.Batch
	entry  *audit.Entry // with the tenant's UID
	id     string       // tells it from others
	now    time.Time
	record KV // of a tenant, as it was found
}

// Commit applies a change as a whole or not at all, and returns the revision of what it put. The errors, of which each
// says that nothing was changed: fault.PreconditionFailed where an If does not hold; fault.Conflict wrapping
// vault.ErrFenced where a lock of Fences is lost; fault.NotFound where the owner is a tenant that is gone, or another one
// of the same id, so that nothing of a deleted tenant comes back (X41); fault.Invalid for names that cannot be and for a
// batch that contradicts itself; fault.TooLarge; fault.Unavailable, and it wraps ErrRejected where the store is full.
// It wraps ErrUnknown where it is not known whether the change was made: read before repeating it. It may still be made then,
// but not after another change of this replica, which bars it. A change that has begun is not abandoned when ctx ends.
func (v *Vault) Commit(ctx context.Context, o vault.Owner, b vault.Batch) (rev int64, err error) {
	c := &vaultChange{owner: o, batch: b, id: uuid.NewString(), now: v.store.cfg.Now().UTC()}
	if b.Audit != nil {
		e := *b.Audit
		if !o.Platform() && e.Tenant == o.Scope().ID() && e.TenantUID == "" {
			e.TenantUID = o.Scope().UID()
		}
		c.entry = &e
	}
	t, err := c.plan() // what is wrong with the batch is said before anything else
	if err != nil {
		return 0, err
	}
	if !o.Platform() {
		ad, refused := v.store.budgets.admitVault(ctx, o.Scope().ID(), t)
		if refused != nil {
			return 0, fmt.Errorf("change the vault of %s: %w", o.Segment(), refused)
		}
		defer func() { ad.settle(err) }()
	}
	if rev, err = v.commit(ctx, c, t); err != nil {
		return 0, fmt.Errorf("change the vault of %s: %w", o.Segment(), err)
	}
	if c.entry != nil {
		v.store.noteCommit()
	}
	return rev, nil
}

func (v *Vault) commit(ctx context.Context, c *vaultChange, t *Txn) (rev int64, err error) {
	if err := v.settle(ctx); err != nil {
		return 0, err
	}
	select {
	case l := <-v.lanes:
		defer func() {
			if errors.Is(err, ErrUnknown) {
				v.doubt.add(l)
			} else {
				v.lanes <- l
			}
		}()
		for range 3 {
			if rev, err = v.commitOn(ctx, l, c, t); !errors.Is(err, errRace) {
				return rev, err
			}
		}
		return 0, fault.New(fault.Unavailable, "others change the same all the time").After(retryAdvice)
	case <-ctx.Done():
		return 0, fault.From(ctx.Err())
	}
}

// commitOn adds to a planned change what it is bound to, and makes it.
func (v *Vault) commitOn(ctx context.Context, l *vaultLane, c *vaultChange, planned *Txn) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fault.From(err)
	}
	ses := v.store.session.Load()
	if ses == nil || !ses.live() {
		if len(c.batch.Fences) > 0 { // what was locked is lost with the session: to wait for the next one is of no use
			return 0, fenced(c.batch.Fences[0])
		}
		return 0, v.store.noSession()
	}
	if l.lease != ses.lease {
		l.lease, l.mod = ses.lease, 0
	}
	t := planned.clone()
	if err := v.bindTenant(ctx, c, t); err != nil {
		return 0, err
	}
	val, err := encode(markerValue{storedVersion, c.id})
	if err != nil {
		return 0, err
	}
	t.If = append(t.If, unchanged(l.key(), KV{ModRevision: l.mod}))
	t.Puts = append(t.Puts, Put{Key: l.key(), Value: val, Lease: l.lease})
	t.Else = append(t.Else, l.key())
	if err := checkOps(t); err != nil {
		return 0, err
	}
	res, err := v.store.commit(context.WithoutCancel(ctx), t)
	switch {
	case errors.Is(err, ErrLeaseNotFound) && !errors.Is(err, ErrUnknown):
		return 0, fault.Wrap(fault.Unavailable, err, "the replica's session is over").After(retryAdvice)
	case err != nil:
		return 0, err
	case res.OK:
		l.mod = res.Revision
		return res.Revision, nil
	}
	return c.refused(l, res)
}

// bindTenant compares that the tenant is the one that is meant.
func (v *Vault) bindTenant(ctx context.Context, c *vaultChange, t *Txn) error {
	if c.owner.Platform() {
		return nil
	}
	x := recordKey(c.owner.Scope().ID())
	kv, _, err := v.store.get(ctx, x)
	if err != nil {
		return err
	}
	if !isOf(kv, c.owner.Scope().UID()) {
		return ownerGone(c.owner)
	}
	c.record = kv
	t.If = append(t.If, Cmp{Key: x, Kind: CreateIs, Revision: kv.CreateRevision})
	t.Else = append(t.Else, x)
	return nil
}

// refused says what a failed comparison means.
func (c *vaultChange) refused(l *vaultLane, res outcome) (int64, error) {
	marker := res.Else[l.key()]
	if was := l.mod; marker.ModRevision != was {
		var m markerValue
		l.mod = marker.ModRevision
		switch {
		case json.Unmarshal(marker.Value, &m) == nil && m.Entry == c.id:
			return marker.ModRevision, nil // an earlier attempt was applied
		case res.attempts > 1: // perhaps it was, and the session that had the marker is over
			return 0, unknown(errLane)
		}
		return 0, errRace
	}
	if !c.owner.Platform() && res.Else[c.record.Key].CreateRevision != c.record.CreateRevision {
		return 0, ownerGone(c.owner)
	}
	for _, f := range c.batch.Fences {
		if res.Else[lockKey(f.Name)].ModRevision != f.Revision {
			return 0, fenced(f)
		}
	}
	for _, i := range c.batch.If {
		if got := res.Else[vaultPrefix(c.owner.Segment())+i.Key].ModRevision; got != i.Revision {
			return 0, changedSince(i, got)
		}
	}
	if c.entry != nil {
		if _, ok := res.Else[auditKey(c.entry)]; ok {
			return 0, fault.Wrap(fault.Internal, errRecordReused, "")
		}
	}
	return 0, errRace
}

func fenced(l vault.Lock) error {
	return fault.Wrap(fault.Conflict, vault.ErrFenced, "the lock %s was lost before the change: take it anew, and read again what the change was made from", l.Name)
}

func changedSince(c vault.Compare, got int64) error {
	switch {
	case c.Revision == 0:
		return fault.New(fault.PreconditionFailed, "%s exists already", c.Key)
	case got == 0:
		return fault.New(fault.PreconditionFailed, "%s is gone: read it again", c.Key)
	}
	return fault.New(fault.PreconditionFailed, "%s has changed since: read it again", c.Key)
}

// plan turns the batch into a transaction, all but the lane's part and the tenant's.
func (c *vaultChange) plan() (*Txn, error) {
	if err := checkOwner(c.owner); err != nil {
		return nil, err
	}
	t := new(Txn)
	for _, f := range c.batch.Fences {
		if f.Revision == 0 || !segmentsOK(f.Name, maxLockName) {
			return nil, fault.New(fault.Invalid, "%q is not a lock that was taken", f.Name)
		}
		t.If = append(t.If, Cmp{Key: lockKey(f.Name), Kind: ModIs, Revision: f.Revision})
		t.Else = append(t.Else, lockKey(f.Name))
	}
	for _, i := range c.batch.If {
		k, err := vaultKey(c.owner, i.Key)
		if err != nil {
			return nil, err
		}
		t.If = append(t.If, unchanged(k, KV{ModRevision: i.Revision}))
		t.Else = append(t.Else, k)
	}
	for _, add := range []func(*Txn) error{c.planPuts, c.planDeletes, c.planMoves} {
		if err := add(t); err != nil {
			return nil, err
		}
	}
	if err := t.checkOnce(); err != nil {
		return nil, err
	}
	if c.entry != nil {
		if err := t.record(*c.entry, c.owner.Scope().ID()); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (c *vaultChange) planPuts(t *Txn) error {
	for _, p := range c.batch.Puts {
		k, err := vaultKey(c.owner, p.Key)
		if err != nil {
			return err
		}
		val, err := encode(vaultValue{storedVersion, c.now, c.owner.Scope().UID(), p.Value})
		if err != nil {
			return err
		}
		t.Puts = append(t.Puts, Put{Key: k, Value: val})
	}
	return nil
}

func (c *vaultChange) planDeletes(t *Txn) error {
	for _, d := range c.batch.Deletes {
		k, err := vaultKey(c.owner, d)
		if err != nil {
			return err
		}
		t.Deletes = append(t.Deletes, k)
	}
	for _, d := range c.batch.Trees {
		k, err := vaultKey(c.owner, d)
		if err != nil {
			return err
		}
		t.Deletes = append(t.Deletes, k)
		t.DeletePrefixes = append(t.DeletePrefixes, k+"/")
	}
	return nil
}

func (c *vaultChange) planMoves(t *Txn) error {
	val, err := encode(dueValue{storedVersion})
	if err != nil {
		return err
	}
	owner := c.owner.Segment()
	seen := make(map[string]bool, len(c.batch.Moves))
	for _, m := range c.batch.Moves {
		if !dueNameOK(m.Name) || seen[m.Name] {
			return fault.New(fault.Invalid, "%q cannot be due, or is moved twice", m.Name)
		}
		seen[m.Name] = true
		from, to := "", ""
		if !m.From.IsZero() {
			from = dueKey(owner, m.Name, m.From)
		}
		if !m.To.IsZero() {
			to = dueKey(owner, m.Name, m.To)
			t.Puts = append(t.Puts, Put{Key: to, Value: val})
		}
		if from != "" && from != to {
			t.Deletes = append(t.Deletes, from)
		}
	}
	return nil
}

// checkOnce refuses what the store would: a key that is put twice, or put and deleted.
func (t *Txn) checkOnce() error {
	put := make(map[string]bool, len(t.Puts))
	for _, p := range t.Puts {
		if put[p.Key] {
			return fault.New(fault.Invalid, "%s is written twice in one change", p.Key)
		}
		put[p.Key] = true
		for _, tree := range t.DeletePrefixes {
			if strings.HasPrefix(p.Key, tree) {
				return fault.New(fault.Invalid, "%s is written and deleted in one change", p.Key)
			}
		}
	}
	for _, k := range t.Deletes {
		if put[k] {
			return fault.New(fault.Invalid, "%s is written and deleted in one change", k)
		}
	}
	return nil
}

func (t *Txn) clone() *Txn {
	c := *t
	c.If = append([]Cmp(nil), t.If...)
	c.Puts = append([]Put(nil), t.Puts...)
	c.Else = append([]string(nil), t.Else...)
	return &c
}

// checkOps refuses what etcd does as it is configured by default.
func checkOps(t *Txn) error {
	n := max(len(t.If), len(t.Else), len(t.Puts)+len(t.Deletes)+len(t.DeletePrefixes))
	if n > etcdOps {
		return fault.New(fault.TooLarge, "a change of %d parts: at most %d are allowed at once; make several", n, etcdOps)
	}
	return nil
}
