package authn

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/polygate/polygate/internal/tenant"
)

// Shares of the cache.
const (
	tenantShare = 8    // one tenant gets at most this part of the cache
	entryBytes  = 1024 // what an entry costs beside its texts: maps, lists, the entry itself
)

// tokenKey is the hash of a tenant's UID, its base URL and a token: two tenants never share an entry, whatever they are sent.
type tokenKey [sha256.Size]byte

// cacheKey makes the key without allocating for tokens of the usual size.
func cacheKey(uid, base, token string) tokenKey {
	var room [4096]byte
	b := append(room[:0], uid...)
	b = append(b, 0)
	b = append(b, base...)
	b = append(b, 0)
	b = append(b, token...)
	return sha256.Sum256(b)
}

// verified is a token that was proven, or that the API server refused.
type verified struct {
	user  *user // nil = refused by the API server, or not admitted by the record of the revision refused
	via   tenant.Via
	until time.Time // not believed from then on: the token's end, or earlier
	proof proof     // zero = not by an issuer's key

	refused int64

	set atomic.Pointer[keySet] // in which the proof's key was last seen

	// What the tenant's record says of the user, for the version of the shard's record. All three are guarded by shard.mu.
	version   uint64
	principal tenant.Principal
	good      bool
}

// current says whether the proof's key is known to be the issuer's now, without asking.
func (v *verified) current(now time.Time) bool {
	i := v.proof.issuer
	st := i.state.Load()
	return st != nil && st.set == v.set.Load() && now.Sub(st.fetched) < keysRefresh && !i.dropped.Load()
}

func (v *verified) size() int64 {
	n := entryBytes
	if v.user == nil {
		return int64(n)
	}
	c := v.user.claims
	for _, list := range [][]string{c.Groups, c.Scopes, {c.Subject, v.user.username}} {
		for _, s := range list {
			n += len(s) + 16
		}
	}
	for name, list := range c.Attributes {
		n += len(name) + 64
		for _, s := range list {
			n += len(s) + 16
		}
	}
	return int64(n)
}

// cache remembers proven tokens, bounded in bytes. A tenant gets at most its share, and where all together are too many the
// greatest loses first: a tenant below the mean never loses an entry to another.
type cache struct {
	limit int64
	total atomic.Int64

	mu sync.RWMutex
	of map[tenant.ID]*shard // guarded by mu
}

// shard is one tenant's part of the cache.
type shard struct {
	uid string

	mu      sync.Mutex
	lru     *simplelru.LRU[tokenKey, *verified] // guarded by mu, as is all that follows
	bytes   int64
	record  *tenant.Record // that version stands for: kept here once, and not by each entry
	version uint64
	gone    bool // forgotten by the cache: nothing is added any more, or it would be counted for ever
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, of: make(map[tenant.ID]*shard)}
}

// get returns what is remembered of a token, and the principal that it stands for by the entry's record; ok is false where the
// record does not trust it any more. The record is asked once for each version of it.
func (c *cache) get(e *tenant.Entry, k tokenKey, now time.Time) (v *verified, p tenant.Principal, ok bool) {
	s := c.find(e)
	if s == nil {
		return nil, p, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok = s.lru.Get(k); !ok {
		return nil, p, false
	}
	if !now.Before(v.until) {
		c.total.Add(-s.remove(k))
		return nil, p, false
	}
	if v.user == nil {
		if v.refused != e.Record.Revision { // who may come in has changed
			return nil, p, false
		}
		return v, p, false
	}
	s.judge(e, v, now)
	return v, v.principal, v.good
}

// judge brings what v says of the user up to the entry's record. s.mu is held.
func (s *shard) judge(e *tenant.Entry, v *verified, now time.Time) {
	if s.record != e.Record {
		s.record = e.Record
		s.version++
	}
	if v.version != s.version {
		v.principal, v.good = v.user.principal(e, v.via, now)
		v.version = s.version
	}
}

// put remembers a token, and returns as get does.
func (c *cache) put(e *tenant.Entry, k tokenKey, v *verified, now time.Time) (p tenant.Principal, ok bool) {
	s := c.make(e)
	s.mu.Lock()
	if v.user != nil {
		s.judge(e, v, now)
	}
	p, ok = v.principal, v.good
	if !s.gone && (v.user == nil || ok) {
		c.total.Add(s.add(k, v, c.limit/tenantShare))
	}
	s.mu.Unlock()
	if c.total.Load() > c.limit {
		c.shrink()
	}
	return p, ok
}

// drop forgets a token.
func (c *cache) drop(e *tenant.Entry, k tokenKey) {
	if s := c.find(e); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		c.total.Add(-s.remove(k))
	}
}

// changed forgets a tenant that is gone, or was made anew.
func (c *cache) changed(id tenant.ID, e *tenant.Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.of[id]; s != nil && (e == nil || e.Scope.UID() != s.uid) {
		c.forget(id, s)
	}
}

func (c *cache) find(e *tenant.Entry) *shard {
	c.mu.RLock()
	s := c.of[e.Scope.ID()]
	c.mu.RUnlock()
	if s == nil || s.uid != e.Scope.UID() {
		return nil
	}
	return s
}

func (c *cache) make(e *tenant.Entry) *shard {
	if s := c.find(e); s != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := e.Scope.ID()
	if s := c.of[id]; s != nil {
		if s.uid == e.Scope.UID() {
			return s
		}
		c.forget(id, s)
	}
	lru, _ := simplelru.NewLRU[tokenKey, *verified](1<<30, nil) // bounded in bytes; fails for a size of 0 only
	s := &shard{uid: e.Scope.UID(), lru: lru}
	c.of[id] = s
	return s
}

// forget drops a shard. c.mu is held.
func (c *cache) forget(id tenant.ID, s *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.total.Add(-s.evict(0))
	s.gone = true
	delete(c.of, id)
}

// shrink takes from the greatest shards until there is some room again, so that not every put must come here.
func (c *cache) shrink() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for goal := c.limit - c.limit/16; c.total.Load() > goal; {
		var most *shard
		var bytes int64
		for _, s := range c.of {
			if n := s.size(); n > bytes {
				most, bytes = s, n
			}
		}
		if most == nil {
			return
		}
		most.mu.Lock()
		c.total.Add(-most.evict(max(most.bytes/2, most.bytes-(c.total.Load()-goal))))
		most.mu.Unlock()
	}
}

func (s *shard) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// add returns by how much the shard grew. s.mu is held.
func (s *shard) add(k tokenKey, v *verified, limit int64) int64 {
	grown := -s.remove(k)
	s.lru.Add(k, v)
	s.bytes += v.size()
	grown += v.size()
	return grown - s.evict(limit)
}

// remove returns by how much the shard shrank. s.mu is held.
func (s *shard) remove(k tokenKey) int64 {
	v, ok := s.lru.Peek(k)
	if !ok {
		return 0
	}
	s.lru.Remove(k)
	n := v.size()
	s.bytes -= n
	return n
}

// evict removes the longest unused until limit is kept, and returns by how much the shard shrank. s.mu is held.
func (s *shard) evict(limit int64) (shrunk int64) {
	for s.bytes > limit {
		_, v, ok := s.lru.RemoveOldest()
		if !ok {
			break
		}
		n := v.size()
		s.bytes -= n
		shrunk += n
	}
	return shrunk
}
