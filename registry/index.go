package registry

import (
	"crypto/subtle"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/polygate/polygate/internal/tenant"
)

// Index is the routing table: what the front needs to know of every tenant, in memory. It does no I/O; the store feeds
// it from its one watch. It is safe for concurrent use, and a lookup allocates nothing: it hands out the entries
// themselves, which are immutable.
type Index struct {
	suffix string                   // "." and the base domain: the hosts <id>.<base> are implied, and cost no memory
	sum    func(tenant.Hash) uint64 // a short hash of a key's, seeded, so that nobody can make two alike

	mu       sync.RWMutex // guards what follows
	byID     map[tenant.ID]*tenant.Entry
	byHost   map[string]*tenant.Entry      // custom hosts
	byKey    map[uint64]*tenant.Entry      // by sum, which takes half the memory; the entry itself has the hash in full
	byKeyToo map[tenant.Hash]*tenant.Entry // the rare keys whose sum another key has taken
	sorted   []*tenant.Entry               // by id
	spread   spread                        // who owns what
	awake    map[tenant.ID]*tenant.Entry   // those with Record.Awake, which are few

	notify sync.Mutex // held while subscribers are called, so that they see changes in order; guards subs
	subs   []*subscriber
}

type subscriber struct {
	f func(tenant.ID, *tenant.Entry)
}

// NewIndex returns an empty index for the hosts under baseDomain.
func NewIndex(baseDomain string) *Index {
	seed := maphash.MakeSeed()
	return &Index{
		suffix:   "." + baseDomain,
		sum:      func(h tenant.Hash) uint64 { return maphash.Bytes(seed, h[:]) },
		byID:     make(map[tenant.ID]*tenant.Entry),
		byHost:   make(map[string]*tenant.Entry),
		byKey:    make(map[uint64]*tenant.Entry),
		byKeyToo: make(map[tenant.Hash]*tenant.Entry),
		spread:   newSpread(),
		awake:    make(map[tenant.ID]*tenant.Entry),
	}
}

// ByHost returns the tenant of a host, its own or a custom one. The host is in lower case and has no port.
func (ix *Index) ByHost(host string) (*tenant.Entry, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if id, own := strings.CutSuffix(host, ix.suffix); own {
		e, ok := ix.byID[tenant.ID(id)]
		return e, ok
	}
	e, ok := ix.byHost[host]
	return e, ok
}

// ByKey returns the key of a hash, be it an API key or a bot's, and its tenant. Whether it has expired is the caller's to
// judge. The hash found is compared in constant time once more: the search's own comparison is not, though what it can tell
// of a SHA-256 helps nobody to find a key.
func (ix *Index) ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool) {
	sum := ix.sum(h)
	ix.mu.RLock()
	e := ix.byKey[sum]
	if !holds(e, h) {
		e = ix.byKeyToo[h]
	}
	ix.mu.RUnlock()
	if e == nil {
		return nil, nil, false
	}
	k, ok := e.Record.KeyByHash(h)
	if !ok || subtle.ConstantTimeCompare(k.Hash[:], h[:]) != 1 {
		return nil, nil, false
	}
	return e, k, true
}

// ByID returns the tenant of an id.
func (ix *Index) ByID(id tenant.ID) (*tenant.Entry, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	e, ok := ix.byID[id]
	return e, ok
}

// List returns up to limit tenants whose id is greater than after, sorted by id.
func (ix *Index) List(after tenant.ID, limit int) []*tenant.Entry {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	i, found := ix.search(after)
	if found {
		i++
	}
	return slices.Clone(ix.sorted[i:min(len(ix.sorted), i+max(limit, 0))])
}

// Awake returns the tenants that have work without requests, in no order.
func (ix *Index) Awake() []*tenant.Entry {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	list := make([]*tenant.Entry, 0, len(ix.awake))
	for _, e := range ix.awake {
		list = append(list, e)
	}
	return list
}

// Len returns the number of tenants.
func (ix *Index) Len() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.byID)
}

// Subscribe calls f after each change of a routing record, in order; e is nil when the tenant is gone. f must not block,
// and must not call Subscribe or cancel. It is not called for what the index holds already.
func (ix *Index) Subscribe(f func(id tenant.ID, e *tenant.Entry)) (cancel func()) {
	s := &subscriber{f}
	ix.notify.Lock()
	defer ix.notify.Unlock()
	ix.subs = append(slices.Clone(ix.subs), s)
	return func() {
		ix.notify.Lock()
		defer ix.notify.Unlock()
		ix.subs = slices.DeleteFunc(slices.Clone(ix.subs), func(o *subscriber) bool { return o == s })
	}
}

// Upsert adds a tenant or replaces its entry. Where the tenant is not the one that the index knew by this id (it was
// deleted and made again), subscribers hear of its end first.
func (ix *Index) Upsert(e *tenant.Entry) {
	ix.notify.Lock()
	defer ix.notify.Unlock()
	old := ix.set(e)
	if old != nil && old.Scope != e.Scope {
		ix.tell(e.Scope.ID(), nil)
	}
	ix.tell(e.Scope.ID(), e)
}

// Delete removes a tenant.
func (ix *Index) Delete(id tenant.ID) {
	ix.notify.Lock()
	defer ix.notify.Unlock()
	if ix.drop(id) {
		ix.tell(id, nil)
	}
}

// tell calls the subscribers. The caller holds notify.
func (ix *Index) tell(id tenant.ID, e *tenant.Entry) {
	for _, s := range ix.subs {
		s.f(id, e)
	}
}

func (ix *Index) set(e *tenant.Entry) (old *tenant.Entry) {
	id := e.Scope.ID()
	ix.mu.Lock()
	defer ix.mu.Unlock()
	old = ix.byID[id]
	if old != nil {
		ix.unname(old)
	}
	ix.byID[id] = e
	if delete(ix.awake, id); e.Record.Awake {
		ix.awake[id] = e
	}
	for _, h := range e.Record.Hosts {
		ix.byHost[h] = e
	}
	for i := range e.Record.Keys {
		ix.nameKey(e.Record.Keys[i].Hash, e)
	}
	i, found := ix.search(id)
	if found {
		ix.sorted[i] = e
	} else {
		ix.sorted = slices.Insert(ix.sorted, i, e)
	}
	return old
}

func (ix *Index) drop(id tenant.ID) bool {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	old := ix.byID[id]
	if old == nil {
		return false
	}
	ix.unname(old)
	delete(ix.byID, id)
	delete(ix.awake, id)
	if i, found := ix.search(id); found {
		ix.sorted = slices.Delete(ix.sorted, i, i+1)
	}
	return true
}

// unname removes the hosts and keys of an entry, unless another tenant has taken them since. The caller holds mu.
func (ix *Index) unname(e *tenant.Entry) {
	for _, h := range e.Record.Hosts {
		if ix.byHost[h] == e {
			delete(ix.byHost, h)
		}
	}
	for i := range e.Record.Keys {
		h := e.Record.Keys[i].Hash
		if sum := ix.sum(h); ix.byKey[sum] == e {
			delete(ix.byKey, sum)
		}
		if ix.byKeyToo[h] == e {
			delete(ix.byKeyToo, h)
		}
	}
}

// nameKey makes h a key of e. The caller holds mu.
func (ix *Index) nameKey(h tenant.Hash, e *tenant.Entry) {
	sum := ix.sum(h)
	if other := ix.byKey[sum]; other != nil && !holds(other, h) {
		ix.byKeyToo[h] = e
		return
	}
	ix.byKey[sum] = e
}

// holds says whether h is of a key of e.
func holds(e *tenant.Entry, h tenant.Hash) bool {
	if e == nil {
		return false
	}
	_, ok := e.Record.KeyByHash(h)
	return ok
}

// search finds the place of id in sorted. The caller holds mu.
func (ix *Index) search(id tenant.ID) (int, bool) {
	return slices.BinarySearchFunc(ix.sorted, id, func(e *tenant.Entry, id tenant.ID) int {
		return strings.Compare(string(e.Scope.ID()), string(id))
	})
}

// retain removes the tenants, owners and replicas that keep does not name: after a new full snapshot, what was deleted
// while nobody watched.
func (ix *Index) retain(keep *snapshotNames) {
	ix.mu.Lock()
	var gone []tenant.ID
	for id := range ix.byID {
		if !keep.tenants[id] {
			gone = append(gone, id)
		}
	}
	ix.spread.retain(keep)
	ix.mu.Unlock()
	slices.Sort(gone)
	for _, id := range gone {
		ix.Delete(id)
	}
}
