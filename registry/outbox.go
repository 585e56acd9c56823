package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
)

// settleOps is how many operations one transaction of Settle has at most: etcd allows 128 by default.
const settleOps = 100

// Outbox holds the audit entries that were committed with their changes and are not drained yet, and the anchored heads
// of the chains. It implements audit.Outbox.
type Outbox struct {
	store *Store

	mu    sync.Mutex       // guards heads
	heads map[string]int64 // the ModRevision of each chain's head as last read or written; 0 = none
}

var _ audit.Outbox = (*Outbox)(nil)

// Outbox returns the outbox. One drain uses it at a time.
func (s *Store) Outbox() *Outbox { return &Outbox{store: s, heads: make(map[string]int64)} }

// headValue is the value of c/audit/<chain>.
type headValue struct {
	V    int        `json:"v"`
	Head audit.Head `json:"head"`
}

// Pending returns up to limit entries of all chains, in the order of their commits.
func (o *Outbox) Pending(ctx context.Context, limit int) ([]audit.Pending, error) {
	res, err := o.store.read(ctx, Range{Prefix: prefixAudit, Limit: limit, ByCreation: true})
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

// Heads returns the anchored heads by chain.
func (o *Outbox) Heads(ctx context.Context) (map[string]audit.Head, error) {
	out := make(map[string]audit.Head)
	mods := make(map[string]int64)
	var bad error
	_, err := o.store.eachPage(ctx, prefixHeads, 0, func(kv KV) {
		var v headValue
		if err := decode(kv, &v); err != nil && bad == nil {
			bad = err
		}
		chain := strings.TrimPrefix(kv.Key, prefixHeads)
		out[chain], mods[chain] = v.Head, kv.ModRevision
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit heads: %w", err)
	}
	if bad != nil {
		return nil, bad
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heads = mods
	return out, nil
}

// Committed has a value when this replica committed something since it was last received from.
func (o *Outbox) Committed() <-chan struct{} { return o.store.committed }

// Settle anchors heads and removes drained entries. A chain's head goes with its entries in one transaction; if those
// are too many for one, the head goes with the first of them. Removing what is gone is no error. A head that is older
// than the anchored one is refused with fault.Conflict: another drain is at work.
func (o *Outbox) Settle(ctx context.Context, heads map[string]audit.Head, drained []audit.Pending) error {
	byChain := make(map[string][]string)
	for i := range drained {
		if !strings.HasPrefix(drained[i].Key, auditKey(drained[i].Entry.Chain(), "")) {
			return fault.Wrap(fault.Internal, fmt.Errorf("outbox key %q is not of chain %q", drained[i].Key, drained[i].Entry.Chain()), "")
		}
		byChain[drained[i].Entry.Chain()] = append(byChain[drained[i].Entry.Chain()], drained[i].Key)
	}
	for chain := range heads {
		if _, ok := byChain[chain]; !ok {
			byChain[chain] = nil // heads without entries are settled too
		}
	}
	b := &batch{outbox: o, heads: make(map[string]audit.Head)}
	for _, chain := range slices.Sorted(maps.Keys(byChain)) {
		head, hasHead := heads[chain]
		if err := b.add(ctx, chain, head, hasHead, byChain[chain]); err != nil {
			return err
		}
	}
	return b.flush(ctx)
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
		if err := checkHeads(heads, res); err != nil {
			return err
		}
		o.note(heads, func(chain string) int64 { return res.Else[headKey(chain)].ModRevision })
	}
	return fault.New(fault.Unavailable, "the audit heads are being changed by others all the time").After(retryAdvice)
}

func (o *Outbox) plan(heads map[string]audit.Head, keys []string) (*Txn, error) {
	t := &Txn{Deletes: keys}
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
