package registry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
)

// settleOps is how many operations one transaction of Settle has at most: etcd allows 128 by default.
const settleOps = 100

// Outbox holds the audit entries that were committed with their changes and are not drained yet, and the anchored heads
// of the chains, as one replica uses them. It implements audit.Outbox. outboxkeys.go says where both lie.
type Outbox struct {
	store *Store
	alone bool // no other replica drains: all that is there is this one's

	mu    sync.Mutex       // guards heads
	heads map[string]int64 // the ModRevision of each chain's head as last read or written; 0 = none

	leftovers leftovers
}

var _ audit.Outbox = (*Outbox)(nil)

// Outbox returns the outbox of a platform of one replica: what earlier ones left is its own too. One drain uses it at a time.
func (s *Store) Outbox() *Outbox {
	return &Outbox{store: s, alone: true, heads: make(map[string]int64)}
}

// ReplicaOutbox returns this replica's outbox among those of others. One drain uses it at a time.
func (s *Store) ReplicaOutbox() *Outbox { return &Outbox{store: s, heads: make(map[string]int64)} }

// headValue is the value of c/audit/….
type headValue struct {
	V    int        `json:"v"`
	Head audit.Head `json:"head"`
}

// Pending returns up to limit of the entries that are this replica's to drain, in the order of their commits. It reads those
// alone, however many others there are.
func (o *Outbox) Pending(ctx context.Context, limit int) ([]audit.Pending, error) {
	prefix := entriesOf(o.store.cfg.Replica)
	if o.alone {
		prefix = prefixAudit
	}
	return o.pending(ctx, Range{Prefix: prefix, Limit: limit, ByCreation: true})
}

// Unnamed returns entries that name no replica, as a version wrote them that knew of one replica alone. Which replica has written
// them into its log already, only that one can find out.
func (o *Outbox) Unnamed(ctx context.Context, limit int) (out []audit.Pending, err error) {
	if o.alone {
		return nil, nil // they are among Pending
	}
	for _, q := range unnamed(prefixAudit) {
		q.Limit, q.ByCreation = limit, true
		some, err := o.pending(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}

func (o *Outbox) pending(ctx context.Context, q Range) ([]audit.Pending, error) {
	res, err := o.store.read(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the audit outbox: %w", err)
	}
	out := make([]audit.Pending, 0, len(res.KVs))
	for _, kv := range res.KVs {
		var v outboxValue
		if err := decode(kv, &v); err != nil {
			return nil, err
		}
		out = append(out, audit.Pending{Key: kv.Key, Entry: v.Entry})
	}
	return out, nil
}

// Heads returns the anchored heads of all replicas' chains, by chain.
func (o *Outbox) Heads(ctx context.Context) (map[string]audit.Head, error) {
	return o.readHeads(ctx, Range{Prefix: prefixHeads})
}

// OwnHeads returns those of the chains that can be in this replica's log: its own, and those without a replica's name.
func (o *Outbox) OwnHeads(ctx context.Context) (map[string]audit.Head, error) {
	return o.readHeads(ctx, append(unnamed(prefixHeads), Range{Prefix: headsOf(o.store.cfg.Replica)})...)
}

func (o *Outbox) readHeads(ctx context.Context, ranges ...Range) (map[string]audit.Head, error) {
	out := make(map[string]audit.Head)
	mods := make(map[string]int64)
	for _, q := range ranges {
		err := o.store.eachIn(ctx, q, func(kv KV) error {
			var v headValue
			if err := decode(kv, &v); err != nil {
				return err
			}
			chain := headChain(kv.Key)
			out[chain], mods[chain] = v.Head, kv.ModRevision
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read the audit heads: %w", err)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.Copy(o.heads, mods)
	return out, nil
}

// Committed has a value when this replica committed something since it was last received from.
func (o *Outbox) Committed() <-chan struct{} { return o.store.committed }

// Settle anchors heads and removes drained entries. A chain's head goes with its entries in one transaction; if those
// are too many for one, the head goes with the first of them. Removing what is gone is no error, unless another replica took it
// over: then nothing of that transaction is done, and the error wraps audit.ErrTaken. A head that is older than the anchored
// one is refused with fault.Conflict: another drain is at work.
func (o *Outbox) Settle(ctx context.Context, heads map[string]audit.Head, drained []audit.Pending) error {
	byChain := make(map[string][]string)
	for i := range drained {
		p := &drained[i]
		if !isEntryKey(p.Key, &p.Entry) {
			return fault.Wrap(fault.Internal, fmt.Errorf("outbox key %q is not of an entry of chain %q", p.Key, p.Entry.Chain()), "")
		}
		byChain[p.InChain()] = append(byChain[p.InChain()], p.Key)
	}
	for chain := range heads {
		if _, ok := byChain[chain]; !ok {
			byChain[chain] = nil // heads without entries are settled too
		}
	}
	b := &batch{outbox: o, heads: make(map[string]audit.Head)}
	for _, chain := range slices.SortedFunc(maps.Keys(byChain), lastCheckpoints) {
		head, hasHead := heads[chain]
		if err := b.add(ctx, chain, head, hasHead, byChain[chain]); err != nil {
			return err
		}
	}
	return b.flush(ctx)
}

// lastCheckpoints orders chains by name, and those of checkpoints behind the others: one may be anchored only once all is that it
// vouches for, or what another replica takes over could not be taken out of the log any more.
func lastCheckpoints(a, b string) int {
	rank := func(chain string) int {
		if base, _ := audit.SplitChain(chain); base == audit.CheckpointChain {
			return 1
		}
		return 0
	}
	return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b))
}

// batch collects chains into one transaction.
type batch struct {
	outbox *Outbox
	heads  map[string]audit.Head
	keys   []string
}

func (b *batch) add(ctx context.Context, chain string, head audit.Head, hasHead bool, keys []string) error {
	if n := len(b.heads) + len(b.keys); n > 0 && n+len(keys)+1 > settleOps {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	if hasHead {
		b.heads[chain] = head
	}
	for len(keys) >= settleOps {
		b.keys = keys[:settleOps-1]
		keys = keys[settleOps-1:]
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.keys = append(b.keys, keys...)
	return nil
}

func (b *batch) flush(ctx context.Context) error {
	heads, keys := b.heads, b.keys
	b.heads, b.keys = make(map[string]audit.Head), nil
	if len(heads) == 0 && len(keys) == 0 {
		return nil
	}
	return b.outbox.settle(ctx, heads, keys)
}

// settle writes one transaction. The heads are compared with what was last known of them, so that a late repetition of
// an earlier Settle cannot set a chain back.
func (o *Outbox) settle(ctx context.Context, heads map[string]audit.Head, keys []string) error {
	for range 3 {
		t, err := o.plan(heads, keys)
		if err != nil {
			return err
		}
		res, err := o.store.commit(context.WithoutCancel(ctx), t)
		if err != nil {
			return fmt.Errorf("settle the audit outbox: %w", err)
		}
		if res.OK {
			o.note(heads, func(string) int64 { return res.Revision })
			return nil
		}
		if err := checkTaken(keys, res); err != nil {
			return err
		}
		if err := checkHeads(heads, res); err != nil {
			return err
		}
		o.note(heads, func(chain string) int64 { return res.Else[headKey(chain)].ModRevision })
	}
	return fault.New(fault.Unavailable, "the audit heads are being changed by others all the time").After(retryAdvice)
}

func (o *Outbox) plan(heads map[string]audit.Head, keys []string) (*Txn, error) {
	t := &Txn{Deletes: keys}
	for _, k := range keys {
		taken := takenKey(entryReplica(k), entryOf(k))
		t.If = append(t.If, Cmp{Key: taken, Kind: Absent})
		t.Else = append(t.Else, taken)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for chain, h := range heads {
		val, err := encode(headValue{storedVersion, h})
		if err != nil {
			return nil, err
		}
		k := headKey(chain)
		t.If = append(t.If, unchanged(k, KV{ModRevision: o.heads[chain]}))
		t.Puts = append(t.Puts, Put{Key: k, Value: val})
		t.Else = append(t.Else, k)
	}
	return t, nil
}

// checkTaken says whether another replica took an entry over.
func checkTaken(keys []string, res outcome) error {
	for _, k := range keys {
		if _, ok := res.Else[takenKey(entryReplica(k), entryOf(k))]; ok {
			return fault.Wrap(fault.Conflict, audit.ErrTaken, "another replica took over the audit entry %s", entryOf(k))
		}
	}
	return nil
}

// checkHeads refuses to set a chain back.
func checkHeads(heads map[string]audit.Head, res outcome) error {
	for chain, h := range heads {
		kv, ok := res.Else[headKey(chain)]
		if !ok {
			continue
		}
		var v headValue
		if err := decode(kv, &v); err != nil {
			return err
		}
		if v.Head.Seq > h.Seq || v.Head.Seq == h.Seq && v.Head.Hash != h.Hash {
			return fault.New(fault.Conflict, "the audit chain %s is anchored at %d already: is another drain at work?", chain, v.Head.Seq)
		}
	}
	return nil
}

func (o *Outbox) note(heads map[string]audit.Head, mod func(chain string) int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for chain := range heads {
		o.heads[chain] = mod(chain)
	}
}
