package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// watched are the prefixes of the one watch.
func watched() []string { return append(listed(), prefixVault) }

// listed are those of which a snapshot is taken. What is in the vault is read when it is asked for, so that the start
// does not take the longer the more certificates there are.
func listed() []string { return []string{prefixRecord, prefixOwner, prefixReplica} }

// pageSize is how many keys are read at once, and a snapshot reads at first.
const pageSize = 1000

// What a snapshot, of the index or for a backup, reads at once, by what the page before held. Large pages, since etcd looks at all keys that are left for
// each of them: 1,000 pages of a million tenants would be half a billion looks.
const (
	pageBytes = 8 << 20
	maxPage   = 20_000
)

// nextPage returns how many keys to read after a page of n, which held so many bytes.
func nextPage(n, bytes int) int {
	return max(1, min(maxPage, 2*n, pageBytes*n/max(bytes, 1)))
}

// follower is what the store knows of its watch.
type follower struct {
	fresh   *freshness           // told of what is heard
	listed  atomic.Int64         // keys that snapshots brought, complete or not
	mu      sync.Mutex           // guards what follows
	seen    map[string]int64     // by prefix: every change up to this revision is in the index
	heard   map[string]time.Time // by prefix: when the watch last delivered, be it only progress
	loaded  bool                 // a full snapshot has been applied
	advance chan struct{}        // closed and replaced whenever seen grows
}

func (f *follower) init(fresh *freshness) {
	f.fresh = fresh
	f.seen, f.heard, f.advance = make(map[string]int64), make(map[string]time.Time), make(chan struct{})
}

func (f *follower) isLoaded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loaded
}

// seenUpTo returns the revision up to which changes under prefix are in the index.
func (f *follower) seenUpTo(prefix string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[prefix]
}

// resumeAt returns the revision from which a watch must continue.
func (f *follower) resumeAt() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	least := f.seen[prefixRecord]
	for _, p := range watched() {
		least = min(least, f.seen[p])
	}
	return least + 1
}

// mark records that everything under prefix up to rev is in the index, and wakes whoever waits for it.
func (f *follower) mark(prefix string, rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hear(prefix)
	if rev <= f.seen[prefix] {
		return
	}
	f.seen[prefix] = rev
	close(f.advance)
	f.advance = make(chan struct{})
}

// hear notes that the watch of a prefix delivered. The caller holds mu.
func (f *follower) hear(prefix string) {
	f.heard[prefix] = time.Now()
	oldest := f.heard[prefix]
	for _, p := range watched() {
		if at := f.heard[p]; at.Before(oldest) {
			oldest = at // the zero time of what was never heard too
		}
	}
	if !oldest.IsZero() {
		f.fresh.heard.Store(f.fresh.at(oldest))
	}
}

// load records that a full snapshot at rev is in the index. A store restored from a backup may have gone back: seen
// follows it.
func (f *follower) load(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range watched() {
		f.seen[p] = rev
		f.hear(p)
	}
	f.loaded = true
	close(f.advance)
	f.advance = make(chan struct{})
}

// await waits until everything under prefix up to rev is in the index, a bounded time.
func (f *follower) await(ctx context.Context, prefix string, rev int64) bool {
	timer := time.NewTimer(seenTimeout)
	defer timer.Stop()
	for {
		f.mu.Lock()
		done, advance := f.seen[prefix] >= rev, f.advance
		f.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-advance:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// healthy returns nil while the watch is current.
func (f *follower) healthy() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.loaded {
		return fault.New(fault.Unavailable, "the index is still loading").After(retryAdvice)
	}
	for _, p := range watched() {
		if silent := time.Since(f.heard[p]); silent > staleAfter {
			return fault.New(fault.Unavailable, "the index may be out of date: the registry has been silent for %v", silent.Round(time.Second)).After(retryAdvice)
		}
	}
	return nil
}

// runFollow keeps the index equal to the store until ctx ends: a snapshot, then the watch from the revision after it;
// after a break, the watch from where it broke, or, if that has been compacted, a new snapshot.
func (s *Store) runFollow(ctx context.Context) {
	fresh := true
	for ctx.Err() == nil {
		err := s.followOnce(ctx, &fresh)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrCompacted) {
			s.log.Info("registry: the watch fell behind a compaction; listing anew")
			fresh = true
			continue
		}
		s.log.Warn("registry: the watch broke; it will be resumed", "error", err)
		pause(ctx, 200*time.Millisecond)
	}
}

// followOnce takes a snapshot if a fresh one is needed, which it is until one is complete: after half of one, a watch
// from before it would set the index back. Then it watches.
func (s *Store) followOnce(ctx context.Context, fresh *bool) error {
	if *fresh {
		if err := s.loadSnapshot(ctx); err != nil {
			return err
		}
		*fresh = false
		s.checkReady()
	}
	return s.backend.Watch(ctx, s.follow.resumeAt(), watched(), s.deliver)
}

// snapshotNames is what a snapshot held; whatever else the index knows was deleted unseen.
type snapshotNames struct {
	tenants  map[tenant.ID]bool
	owners   map[tenant.ID]bool
	replicas map[string]bool
}

// loadSnapshot applies all listed keys, as of one revision, to the index, and removes from it what is no longer there,
// so that no deletion is missed in a gap of the watch (X48).
func (s *Store) loadSnapshot(ctx context.Context) error {
	names := &snapshotNames{make(map[tenant.ID]bool), make(map[tenant.ID]bool), make(map[string]bool)}
	var rev int64
	for _, p := range listed() {
		at, err := s.eachPage(ctx, p, rev, func(kv KV) { s.applySnapshot(names, p, kv) })
		if err != nil {
			return fmt.Errorf("list %s: %w", p, err)
		}
		rev = at
	}
	s.index.retain(names)
	s.claims.retain(names.owners, rev)
	s.follow.load(rev)
	s.budgets.missed()
	s.vault.changed("", "") // before the watch begins, so that nothing lies between
	return nil
}

// eachPage calls f for each key under prefix as of one revision (0 = now), which it returns.
func (s *Store) eachPage(ctx context.Context, prefix string, rev int64, f func(KV)) (int64, error) {
	q := Range{Prefix: prefix, Limit: pageSize, Revision: rev}
	for {
		res, err := s.read(ctx, q)
		if err != nil {
			return 0, err
		}
		if q.Revision == 0 {
			q.Revision = res.Revision
		}
		bytes := 0
		for _, kv := range res.KVs {
			bytes += len(kv.Key) + len(kv.Value)
			f(kv)
		}
		if !res.More || len(res.KVs) == 0 {
			return q.Revision, nil
		}
		q.After, q.Limit = res.KVs[len(res.KVs)-1].Key, nextPage(len(res.KVs), bytes)
	}
}

func (s *Store) applySnapshot(names *snapshotNames, prefix string, kv KV) {
	s.follow.listed.Add(1)
	name := strings.TrimPrefix(kv.Key, prefix)
	switch prefix {
	case prefixRecord:
		id := tenant.ID(name)
		names.tenants[id] = true
		if e, ok := s.index.ByID(id); ok && e.Record.Revision == kv.ModRevision {
			return // subscribers hear of changes only
		}
	case prefixOwner:
		names.owners[tenant.ID(name)] = true
	case prefixReplica:
		names.replicas[name] = true
	}
	s.apply(prefix, Event{KV: kv})
}

// deliver applies a batch of the watch. After a resumed watch some of it may have been applied before.
func (s *Store) deliver(b Batch) {
	seen := s.follow.seenUpTo(b.Prefix)
	for _, ev := range b.Events {
		if ev.KV.ModRevision > seen {
			s.apply(b.Prefix, ev)
		}
	}
	s.follow.mark(b.Prefix, b.Revision)
}

func (s *Store) apply(prefix string, ev Event) {
	name := strings.TrimPrefix(ev.KV.Key, prefix)
	switch prefix {
	case prefixRecord:
		s.applyRecord(tenant.ID(name), ev)
		s.budgets.observe(tenant.ID(name), prefix, ev)
	case prefixOwner:
		s.applyOwner(tenant.ID(name), ev)
	case prefixReplica:
		s.applyReplica(name, ev)
	case prefixVault:
		if owner, key, ok := strings.Cut(name, "/"); ok {
			s.budgets.observe(tenant.ID(owner), prefix, ev)
			s.vault.changed(owner, key)
		}
	}
}

// applyRecord updates the routing table. A record that this build cannot read is not served: guessing at a newer
// record's meaning could open what it closes.
func (s *Store) applyRecord(id tenant.ID, ev Event) {
	if ev.Delete {
		s.index.Delete(id)
		return
	}
	e, err := decodeRecord(ev.KV)
	if err != nil {
		s.log.Error("registry: a tenant is not served", "tenant", string(id), "error", err)
		s.index.Delete(id)
		return
	}
	s.index.Upsert(s.compact.compact(e))
}

func (s *Store) applyOwner(id tenant.ID, ev Event) {
	var o ownerValue
	if !ev.Delete && json.Unmarshal(ev.KV.Value, &o) != nil {
		s.log.Error("registry: an owner cannot be read", "tenant", string(id))
	}
	if ev.Delete {
		s.index.setOwner(id, Owner{})
	} else {
		s.index.setOwner(id, Owner{Replica: o.Replica, Epoch: ev.KV.ModRevision})
	}
	s.claims.observe(id, ev, o.Replica)
}

func (s *Store) applyReplica(name string, ev Event) {
	if ev.Delete {
		s.index.setReplica(name, Replica{})
		return
	}
	r, err := readReplica(name, ev.KV)
	if err != nil {
		s.log.Error("registry: a replica's record cannot be read; nothing is sent to it", "replica", name, "error", err)
	}
	s.index.setReplica(name, r)
}

// read is one bounded read.
func (s *Store) read(ctx context.Context, q Range) (*RangeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return s.backend.Range(ctx, q)
}

// get reads one key, linearizably.
func (s *Store) get(ctx context.Context, key string) (kv KV, ok bool, err error) {
	res, err := s.read(ctx, Range{Key: key})
	if err != nil || len(res.KVs) == 0 {
		return KV{}, false, err
	}
	return res.KVs[0], true, nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
