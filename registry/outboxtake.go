package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// leftoversLock is held by the replica that takes over what dead ones left. It saves the others the work; what keeps an entry
// from being taken twice, or taken and drained, is each transaction's own comparison.
const leftoversLock = "audit-leftovers"

// Bounds of taking over.
const (
	takeBatch = 24   // entries in one transaction, at four operations each
	takePage  = 1000 // entries looked at in one call, of each dead replica
)

// leftovers is what the outbox remembers between two looks. One drain uses it.
type leftovers struct {
	lock vault.Lock
	gone map[string]time.Time // since when a replica with entries was seen to be without a session
}

// takenValue is the value of a c/taken/ key.
type takenValue struct {
	V  int    `json:"v"`
	By string `json:"by"`
}

// TakeOver makes entries this replica's that replicas left which have been without a session for a time, and those that name
// none, and returns how many. One replica at a time does so. Each entry moves in one transaction, with a mark for the one that
// left it: what that had written into its log without settling it, it must take out again, see Taken.
func (o *Outbox) TakeOver(ctx context.Context, patience time.Duration) (n int, err error) {
	if o.alone {
		return 0, nil
	}
	dead, err := o.dead(ctx, patience)
	if err != nil {
		return 0, fmt.Errorf("look for audit entries of dead replicas: %w", err)
	}
	ranges := unnamed(prefixAudit)
	for _, name := range dead {
		ranges = append(ranges, Range{Prefix: entriesOf(name)})
	}
	for i, q := range ranges {
		from := ""
		if i >= len(ranges)-len(dead) {
			from = dead[i-(len(ranges)-len(dead))]
		}
		moved, err := o.takeRange(ctx, from, q)
		n += moved
		if err != nil {
			return n, fmt.Errorf("take over audit entries of %s: %w", from, err)
		}
	}
	return n, nil
}

// dead returns the replicas with entries that have had no session for a time.
func (o *Outbox) dead(ctx context.Context, patience time.Duration) ([]string, error) {
	names, err := o.store.replicasBelow(ctx, prefixAudit)
	if err != nil {
		return nil, err
	}
	now, was := time.Now(), o.leftovers.gone
	o.leftovers.gone = make(map[string]time.Time)
	var out []string
	for _, name := range names {
		if _, live := o.store.index.Replica(name); live || name == o.store.cfg.Replica {
			continue
		}
		since, known := was[name]
		if !known {
			since = now
		}
		o.leftovers.gone[name] = since
		if now.Sub(since) >= patience {
			out = append(out, name)
		}
	}
	return out, nil
}

// takeRange takes over what a read finds. The lock is asked for once there is something.
func (o *Outbox) takeRange(ctx context.Context, from string, q Range) (n int, err error) {
	q.Limit, q.ByCreation = takePage, true
	res, err := o.store.read(ctx, q)
	if err != nil || len(res.KVs) == 0 {
		return 0, err
	}
	if held, err := o.holdLeftovers(ctx); err != nil || !held {
		return 0, err
	}
	for some := range slices.Chunk(res.KVs, takeBatch) {
		moved, err := o.take(ctx, from, some)
		if n += moved; err != nil {
			return n, err
		}
	}
	return n, nil
}

// holdLeftovers takes the lock, unless this replica has it. It is kept until the session ends.
func (o *Outbox) holdLeftovers(ctx context.Context) (bool, error) {
	if o.leftovers.lock.Revision != 0 {
		kv, ok, err := o.store.get(ctx, lockKey(leftoversLock))
		if err != nil {
			return false, err
		}
		if ok && kv.ModRevision == o.leftovers.lock.Revision {
			return true, nil
		}
		o.leftovers.lock = vault.Lock{}
	}
	l, ok, err := o.store.vault.TryLock(ctx, leftoversLock)
	if ok {
		o.leftovers.lock = l
	}
	return ok, err
}

// take moves entries as one act, if they are all there and the replica they are of is still without a session. If it is not so,
// nothing is moved: the next look finds what there is.
func (o *Outbox) take(ctx context.Context, from string, entries []KV) (int, error) {
	mark, err := encode(takenValue{storedVersion, o.store.cfg.Replica})
	if err != nil {
		return 0, err
	}
	t := new(Txn)
	if from != "" {
		t.If = append(t.If, Cmp{Key: replicaKey(from), Kind: Absent})
	}
	for _, kv := range entries {
		var v outboxValue
		if err := decode(kv, &v); err != nil {
			return 0, err
		}
		t.If = append(t.If, Cmp{kv.Key, ModIs, kv.ModRevision})
		t.Puts = append(t.Puts,
			Put{Key: entriesOf(o.store.cfg.Replica) + v.Entry.Chain() + "/" + v.Entry.ID, Value: kv.Value},
			Put{Key: takenKey(from, v.Entry.ID), Value: mark})
		// It may have been ours before, and taken from us: it is ours again.
		t.Deletes = append(t.Deletes, kv.Key, takenKey(o.store.cfg.Replica, v.Entry.ID))
	}
	res, err := o.store.commit(context.WithoutCancel(ctx), t)
	if err != nil {
		return 0, err
	}
	if !res.OK {
		return 0, nil
	}
	return len(entries), nil
}

// Taken returns the ids of entries that others took over from this replica, or that named none, and may be in its log. Asked for
// after Pending, it holds every one that was taken before.
func (o *Outbox) Taken(ctx context.Context) (map[string]bool, error) {
	out := make(map[string]bool)
	for _, from := range []string{o.store.cfg.Replica, ""} {
		err := o.store.eachIn(ctx, Range{Prefix: takenFrom(from)}, func(kv KV) error {
			var v takenValue
			if err := decode(kv, &v); err != nil {
				return err
			}
			if v.By != o.store.cfg.Replica { // what named none and this replica took is its own
				out[entryOf(kv.Key)] = true
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read which audit entries were taken over: %w", err)
		}
	}
	return out, nil
}

// Forget removes the marks of entries that are not in this replica's log, or not any more.
func (o *Outbox) Forget(ctx context.Context, ids map[string]bool) error {
	for some := range slices.Chunk(slices.Sorted(maps.Keys(ids)), settleOps) {
		t := new(Txn)
		for _, id := range some {
			t.Deletes = append(t.Deletes, takenKey(o.store.cfg.Replica, id))
		}
		if _, err := o.store.commit(context.WithoutCancel(ctx), t); err != nil {
			return fmt.Errorf("forget which audit entries were taken over: %w", err)
		}
	}
	return nil
}

// Writers returns the replicas that have written a chain of this name, and "" if it was written before chains had the names of
// replicas; and those without a session that have left entries of it which nobody has taken over yet: they are in no log.
func (o *Outbox) Writers(ctx context.Context, chain string) (out []string, err error) {
	names, err := o.store.replicasBelow(ctx, prefixHeads)
	if err == nil && len(names) > maxWriters {
		err = fault.New(fault.TooLarge, "%d replicas have written audit chains: at most %d are looked at", len(names), maxWriters)
	}
	if err != nil {
		return nil, fmt.Errorf("look who wrote the audit chain %s: %w", chain, err)
	}
	names = append(names, "")
	keys := make([]string, 0, len(names))
	for _, name := range names {
		keys = append(keys, headKey(audit.ChainName(chain, name)))
	}
	found, err := o.store.readKeys(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("look who wrote the audit chain %s: %w", chain, err)
	}
	for i, name := range names {
		if _, ok := found[keys[i]]; ok {
			out = append(out, name)
		}
	}
	left, err := o.leftBehind(ctx, chain)
	if err != nil {
		return nil, fmt.Errorf("look who has left entries of the audit chain %s: %w", chain, err)
	}
	for _, name := range left {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// leftBehind returns the replicas without a session that have entries of a chain.
func (o *Outbox) leftBehind(ctx context.Context, chain string) (out []string, err error) {
	names, err := o.store.replicasBelow(ctx, prefixAudit)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, live := o.store.index.Replica(name); live || name == o.store.cfg.Replica {
			continue
		}
		res, err := o.store.read(ctx, Range{Prefix: entriesOf(name) + chain + "/", Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(res.KVs) > 0 {
			out = append(out, name)
		}
	}
	return out, nil
}

// maxWriters bounds what one transaction reads.
const maxWriters = 120
