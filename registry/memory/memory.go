// Package memory is a registry.Backend that lives in one process and is gone with it: for tests, and for whatever needs
// the registry's behaviour without a disk. It has etcd's semantics as far as the registry uses them (revisions, history
// and its compaction, leases, watches), and starts no goroutine.
package memory

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/registry"
)

// Backend is a store in memory. Its leases run on the time of package time, so that in a testing/synctest bubble they
// expire by the bubble's clock. It is safe for concurrent use.
type Backend struct {
	mu        sync.Mutex // guards what follows
	rev       int64
	compacted int64                // what happened up to here can no longer be read or watched
	keys      []string             // of data, sorted
	data      map[string][]version // every key's history since the compaction, oldest first
	log       []logged             // every change since the compaction, oldest first
	leases    map[registry.LeaseID]*lease
	nextLease registry.LeaseID
	changed   chan struct{} // closed and replaced at each change
}

// version is what a key was from a revision on; a zero CreateRevision means absent.
type version struct {
	rev int64
	kv  registry.KV
}

type logged struct {
	rev int64
	ev  registry.Event
}

type lease struct {
	ttl   time.Duration
	timer *time.Timer
	keys  map[string]bool
}

var _ registry.Backend = (*Backend)(nil)

// New returns an empty store at revision 1.
func New() *Backend {
	return &Backend{
		rev: 1, data: make(map[string][]version), leases: make(map[registry.LeaseID]*lease),
		nextLease: 1000, changed: make(chan struct{}),
	}
}

// enter locks the store for a call, unless the call's time is over already.
func (b *Backend) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the registry was not asked: the time for it is over")
	}
	b.mu.Lock()
	return nil
}

// Range implements registry.Backend.
func (b *Backend) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	at := q.Revision
	if at == 0 {
		at = b.rev
	}
	if at < b.compacted {
		return nil, fmt.Errorf("read at %d: %w", at, registry.ErrCompacted)
	}
	res := &registry.RangeResult{Revision: b.rev}
	for _, k := range b.match(q) {
		if kv, ok := b.at(k, at); ok {
			res.KVs = append(res.KVs, kv)
		}
	}
	if q.ByCreation {
		sort.SliceStable(res.KVs, func(i, j int) bool { return res.KVs[i].CreateRevision < res.KVs[j].CreateRevision })
	}
	if q.Limit > 0 && len(res.KVs) > q.Limit {
		res.KVs, res.More = res.KVs[:q.Limit], true
	}
	return res, nil
}

// match returns the names that q asks for, whether they exist at its revision or not.
func (b *Backend) match(q registry.Range) []string {
	if q.Key != "" {
		return []string{q.Key}
	}
	i := sort.SearchStrings(b.keys, max(q.Prefix, q.After))
	j := i
	for j < len(b.keys) && strings.HasPrefix(b.keys[j], q.Prefix) && (q.Before == "" || b.keys[j] < q.Before) {
		j++
	}
	if i < j && b.keys[i] == q.After {
		i++
	}
	return b.keys[i:j]
}

// at returns a copy of a key as of a revision.
func (b *Backend) at(key string, rev int64) (registry.KV, bool) {
	vs := b.data[key]
	i := sort.Search(len(vs), func(i int) bool { return vs[i].rev > rev })
	if i == 0 || vs[i-1].kv.CreateRevision == 0 {
		return registry.KV{}, false
	}
	kv := vs[i-1].kv
	kv.Value = slices.Clone(kv.Value)
	return kv, true
}

// Txn implements registry.Backend.
func (b *Backend) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	if err := b.enter(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	if err := b.check(t); err != nil {
		return nil, err
	}
	for _, c := range t.If {
		if !b.holds(c) {
			return b.read(t.Else), nil
		}
	}
	for _, p := range t.Puts {
		if p.Lease != 0 && b.leases[p.Lease] == nil {
			return nil, fmt.Errorf("put %s: %w", p.Key, registry.ErrLeaseNotFound)
		}
	}
	return &registry.TxnResult{OK: true, Revision: b.write(t)}, nil
}

// check refuses what etcd refuses whether or not the comparisons hold.
func (b *Backend) check(t *registry.Txn) error {
	put := make(map[string]bool, len(t.Puts))
	for _, p := range t.Puts {
		if put[p.Key] {
			return fmt.Errorf("duplicate key %q in a transaction", p.Key)
		}
		put[p.Key] = true
		for _, prefix := range t.DeletePrefixes {
			if strings.HasPrefix(p.Key, prefix) {
				return fmt.Errorf("duplicate key %q in a transaction", p.Key)
			}
		}
	}
	for _, k := range t.Deletes {
		if put[k] {
			return fmt.Errorf("duplicate key %q in a transaction", k)
		}
	}
	return nil
}

func (b *Backend) holds(c registry.Cmp) bool {
	kv, ok := b.at(c.Key, b.rev)
	switch c.Kind {
	case registry.Absent:
		return !ok
	case registry.Exists:
		return ok
	case registry.ModIs:
		return kv.ModRevision == c.Revision
	case registry.CreateIs:
		return kv.CreateRevision == c.Revision
	}
	return false
}

func (b *Backend) read(keys []string) *registry.TxnResult {
	res := &registry.TxnResult{Revision: b.rev, Else: make(map[string]registry.KV, len(keys))}
	for _, k := range keys {
		if kv, ok := b.at(k, b.rev); ok {
			res.Else[k] = kv
		}
	}
	return res
}

// write applies a transaction at the next revision, which it returns; one that changes nothing takes none.
func (b *Backend) write(t *registry.Txn) int64 {
	rev := b.rev + 1
	dead := slices.Clone(t.Deletes)
	for _, p := range t.DeletePrefixes {
		dead = append(dead, b.match(registry.Range{Prefix: p})...)
	}
	n := 0
	for _, k := range dead {
		n += b.delete(k, rev)
	}
	for _, p := range t.Puts {
		b.put(p, rev)
		n++
	}
	if n > 0 {
		b.commit(rev)
	}
	return b.rev
}

// commit makes a revision current and wakes the watches.
func (b *Backend) commit(rev int64) {
	b.rev = rev
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Backend) put(p registry.Put, rev int64) {
	kv := registry.KV{Key: p.Key, Value: slices.Clone(p.Value), CreateRevision: rev, ModRevision: rev, Lease: p.Lease}
	if old, ok := b.at(p.Key, rev); ok {
		kv.CreateRevision = old.CreateRevision
		b.detach(old)
	}
	if l := b.leases[p.Lease]; l != nil {
		l.keys[p.Key] = true
	}
	b.append(rev, registry.Event{KV: kv}, kv)
}

func (b *Backend) delete(key string, rev int64) int {
	old, ok := b.at(key, rev)
	if !ok {
		return 0
	}
	b.detach(old)
	b.append(rev, registry.Event{Delete: true, KV: registry.KV{Key: key, ModRevision: rev}}, registry.KV{})
	return 1
}

func (b *Backend) detach(kv registry.KV) {
	if l := b.leases[kv.Lease]; l != nil {
		delete(l.keys, kv.Key)
	}
}

func (b *Backend) append(rev int64, ev registry.Event, kv registry.KV) {
	key := ev.KV.Key
	if _, ok := b.data[key]; !ok {
		i := sort.SearchStrings(b.keys, key)
		b.keys = slices.Insert(b.keys, i, key)
	}
	b.data[key] = append(b.data[key], version{rev, kv})
	b.log = append(b.log, logged{rev, ev})
}

// Compact forgets the history up to and including rev, as etcd's compaction does: watches from before it fail.
func (b *Backend) Compact(ctx context.Context, rev int64) error {
	if err := b.enter(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	b.compacted = min(rev, b.rev)
	b.log = slices.Clone(b.log[sort.Search(len(b.log), func(i int) bool { return b.log[i].rev > b.compacted }):])
	b.keys = slices.DeleteFunc(b.keys, func(k string) bool { return b.compactKey(k) })
	return nil
}

// compactKey drops the versions of a key that no later read can want. It reports whether none is left.
func (b *Backend) compactKey(key string) bool {
	vs := b.data[key]
	i := sort.Search(len(vs), func(i int) bool { return vs[i].rev > b.compacted })
	if i > 0 && vs[i-1].kv.CreateRevision != 0 {
		i-- // what the key was at the compaction is still to be read
	}
	if vs = slices.Clone(vs[i:]); len(vs) == 0 {
		delete(b.data, key)
		return true
	}
	b.data[key] = vs
	return false
}

// Revision returns the current revision.
func (b *Backend) Revision() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rev
}

// Grant implements registry.Backend.
func (b *Backend) Grant(ctx context.Context, ttl time.Duration) (registry.LeaseID, time.Duration, error) {
	if err := b.enter(ctx); err != nil {
		return 0, 0, err
	}
	defer b.mu.Unlock()
	b.nextLease++
	id := b.nextLease
	b.leases[id] = &lease{ttl: ttl, keys: make(map[string]bool), timer: time.AfterFunc(ttl, func() { b.end(id) })}
	return id, ttl, nil
}

// KeepAlive implements registry.Backend.
func (b *Backend) KeepAlive(ctx context.Context, id registry.LeaseID) (time.Duration, error) {
	if err := b.enter(ctx); err != nil {
		return 0, err
	}
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil || !l.timer.Reset(l.ttl) {
		return 0, fmt.Errorf("renew lease %d: %w", id, registry.ErrLeaseNotFound)
	}
	return l.ttl, nil
}

// Revoke implements registry.Backend.
func (b *Backend) Revoke(ctx context.Context, id registry.LeaseID) error {
	if err := ctx.Err(); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the registry was not asked: the time for it is over")
	}
	b.end(id)
	return nil
}

// end removes a lease and its keys, in one revision.
func (b *Backend) end(id registry.LeaseID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.leases[id]
	if l == nil {
		return
	}
	l.timer.Stop()
	delete(b.leases, id)
	rev, n := b.rev+1, 0
	keys := make([]string, 0, len(l.keys))
	for k := range l.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		n += b.delete(k, rev)
	}
	if n > 0 {
		b.commit(rev)
	}
}

// Close stops the leases' timers.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.leases {
		l.timer.Stop()
	}
	return nil
}
