package registry

import (
	"maps"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// Owner says which replica serves a tenant.
type Owner struct {
	Replica string
	Epoch   int64
}

// spread is the part of the index that says which replicas are live and which tenants each owns. The index's mu guards it.
type spread struct {
	owners   map[tenant.ID]Owner
	owned    map[string]*holding
	replicas map[string]Replica
	sorted   []Replica     // by name; made anew at each change, so that it can be handed out
	changed  chan struct{} // closed at the next change; nil while nobody waits
}

// holding is what one replica owns.
type holding struct {
	replica string // one string for all its tenants
	tenants map[tenant.ID]struct{}
}

func newSpread() spread {
	return spread{owners: make(map[tenant.ID]Owner), owned: make(map[string]*holding), replicas: make(map[string]Replica)}
}

// wake tells whoever waits for a change.
func (s *spread) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *spread) setOwner(id tenant.ID, o Owner) {
	old, had := s.owners[id]
	if old == o {
		return
	}
	if had && old.Replica != o.Replica {
		s.giveUp(id, old.Replica)
	}
	if o == (Owner{}) {
		delete(s.owners, id)
	} else {
		o.Replica = s.take(id, o.Replica)
		s.owners[id] = o
	}
	s.wake()
}

// take notes that a replica owns a tenant, and returns the one string of its name.
func (s *spread) take(id tenant.ID, replica string) string {
	h := s.owned[replica]
	if h == nil {
		h = &holding{strings.Clone(replica), make(map[tenant.ID]struct{})}
		s.owned[h.replica] = h
	}
	h.tenants[id] = struct{}{}
	return h.replica
}

func (s *spread) giveUp(id tenant.ID, replica string) {
	h := s.owned[replica]
	if h == nil {
		return
	}
	if delete(h.tenants, id); len(h.tenants) == 0 {
		delete(s.owned, replica)
	}
}

func (s *spread) setReplica(name string, r Replica) {
	old, had := s.replicas[name]
	gone := r == Replica{}
	if gone && !had || had && old == r {
		return
	}
	if gone {
		delete(s.replicas, name)
	} else {
		s.replicas[name] = r
	}
	s.sorted = slices.SortedFunc(maps.Values(s.replicas), func(a, b Replica) int { return strings.Compare(a.Name, b.Name) })
	s.wake()
}

// retain removes what a full snapshot did not hold.
func (s *spread) retain(keep *snapshotNames) {
	for id := range s.owners {
		if !keep.owners[id] {
			s.setOwner(id, Owner{})
		}
	}
	for name := range s.replicas {
		if !keep.replicas[name] {
			s.setReplica(name, Replica{})
		}
	}
}

// Owner returns who serves a tenant, if anyone does.
func (ix *Index) Owner(id tenant.ID) (Owner, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	o, ok := ix.spread.owners[id]
	return o, ok
}

// Replica returns a replica whose session is live.
func (ix *Index) Replica(name string) (Replica, bool) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	r, ok := ix.spread.replicas[name]
	return r, ok
}

// Replicas returns the replicas whose sessions are live, sorted by name. The slice is shared: it must not be changed.
func (ix *Index) Replicas() []Replica {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return slices.Clip(ix.spread.sorted)
}

// ReplicaCount returns how many replicas' sessions are live.
func (ix *Index) ReplicaCount() int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	return len(ix.spread.replicas)
}

// OwnedBy returns the tenants that a replica owns, sorted. It takes time in their number.
func (ix *Index) OwnedBy(replica string) []tenant.ID {
	ids := ix.owned(replica)
	slices.Sort(ids)
	return ids
}

func (ix *Index) owned(replica string) []tenant.ID {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	h := ix.spread.owned[replica]
	if h == nil {
		return nil
	}
	return slices.AppendSeq(make([]tenant.ID, 0, len(h.tenants)), maps.Keys(h.tenants))
}

// OwnedCount returns how many tenants a replica owns.
func (ix *Index) OwnedCount(replica string) int {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	if h := ix.spread.owned[replica]; h != nil {
		return len(h.tenants)
	}
	return 0
}

// Changed returns a channel that is closed at the next change of any owner or replica. To miss none, take the channel
// before you look at what you wait for.
func (ix *Index) Changed() <-chan struct{} {
	ix.mu.RLock()
	changed := ix.spread.changed
	ix.mu.RUnlock()
	if changed != nil {
		return changed
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.spread.changed == nil {
		ix.spread.changed = make(chan struct{})
	}
	return ix.spread.changed
}

// setOwner records who serves a tenant; a zero Owner means nobody.
func (ix *Index) setOwner(id tenant.ID, o Owner) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.spread.setOwner(id, o)
}

// setReplica records a live replica; a zero Replica means that name is gone.
func (ix *Index) setReplica(name string, r Replica) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	ix.spread.setReplica(name, r)
}
