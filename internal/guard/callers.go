package guard

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// callerKey names a principal, or, with the kind "apikey", the key that it used.
type callerKey struct {
	kind tenant.PrincipalKind
	id   string
}

const kindAPIKey tenant.PrincipalKind = "apikey"

// caller is what is kept of one principal or key: its budget, and what saves work for the next request.
type caller struct {
	key        callerKey
	ref        string // kind:id, as records name it; key.id is a part of it
	addr       netip.Addr
	addrText   string // of addr
	tat        int64  // see quota.Spend
	inFlight   int
	requests   uint64
	refused    uint64
	used       int64 // when it was last asked for, nanoseconds
	prev, next *caller
}

// idle says whether forgetting c changes nothing: nothing is in flight and its budget is full, as a new one's is.
func (c *caller) idle(now int64) bool { return c.inFlight == 0 && c.tat <= now }

const (
	callerOverhead = int64(320)       // bytes of a caller, its place in the map and the text of its address, without its name; a test holds it
	probes         = 8                // callers looked at for one that is idle
	forgetAfter    = 10 * time.Minute // an idle caller stays for the usage page this long
	keptCallers    = 16               // every tenant may have that many, whatever others have
)

// callers is the table of a tenant's callers. It is bounded in bytes: a million users cannot fill the memory. Where it is
// full, the least recently used of the idle makes room, which loses nothing. Where none is idle, newcomers share one
// budget, until there is room: nobody gets more than its limit, those who are known keep theirs, and nobody is locked out.
// Evicting somebody who is not idle would give it a full budget again, so that callers who come in turns had no limit.
type callers struct {
	total *atomic.Int64 // bytes of all tables
	most  int64         // bound of total

	mu                    sync.Mutex
	max                   int64                 // bytes; guarded by mu, as all below
	of                    map[callerKey]*caller // nil = empty
	root                  caller                // of the ring: next is the most recently used
	bytes                 int64
	overflow, overflowKey caller // what those share who are not in the table
	fresh, freshKey       int64  // the tat of a caller that never spent anything: full, but for what the replica's part grew by
	evicted               int    // by the request under way
}

// ticket is what one request holds in the table. Its zero value holds nothing.
type ticket struct {
	who, key         *caller // nil = not counted
	whoRate, keyRate quota.Limit
	ref, addrText    string // of who, if it is known
}

// refusal says which bound refused and for how long at least. Its zero value refuses nothing.
type refusal struct {
	refused bool
	by      quota.Reason
	wait    time.Duration
}

func (t *callers) init() {
	t.root.prev, t.root.next = &t.root, &t.root
	t.of = make(map[callerKey]*caller)
}

// enter counts a request of p under both limits, or under neither if one of them refuses. evicted is how many idle
// callers made room.
func (t *callers) enter(k *ticket, now int64, p *tenant.Principal, addr netip.Addr, l *Limits) (r refusal, evicted int) {
	if p.Kind != tenant.KindKey && p.Kind != tenant.KindBot && p.Kind != tenant.KindUser {
		return r, 0 // nobody in particular
	}
	k.key = nil // of an earlier try
	k.whoRate, k.keyRate = l.PerPrincipal.Rate, l.PerKey.Rate
	t.mu.Lock()
	defer t.mu.Unlock()
	t.evicted = 0
	k.who = t.get(now, callerKey{p.Kind, p.ID}, &t.overflow)
	k.who.inFlight++ // so that making room for its key does not evict it
	if p.KeyID != "" && l.PerKey != (Share{}) {
		k.key = t.get(now, callerKey{kindAPIKey, p.KeyID}, &t.overflowKey)
		k.key.inFlight++
	}
	if r = k.spend(now, l); r.refused {
		k.drop()
		return r, t.evicted
	}
	k.who.requests++
	if k.who != &t.overflow {
		k.ref, k.addrText = k.who.ref, k.who.address(addr)
	}
	return r, t.evicted
}

// spend takes one request out of both budgets, or says which is used up. The key comes first: it is the narrower.
func (k *ticket) spend(now int64, l *Limits) (r refusal) {
	keyTAT := int64(0)
	if k.key != nil {
		if keyTAT, r = k.key.judge(now, &l.PerKey, quota.KeyRate, quota.KeyConcurrency); r.refused {
			return r
		}
	}
	whoTAT, r := k.who.judge(now, &l.PerPrincipal, quota.CallerRate, quota.CallerConcurrent)
	if r.refused {
		return r
	}
	k.who.tat = whoTAT
	if k.key != nil {
		k.key.tat = keyTAT
	}
	return r
}

func (c *caller) judge(now int64, may *Share, rate, concurrent quota.Reason) (tat int64, r refusal) {
	if may.MaxConcurrent > 0 && c.inFlight > may.MaxConcurrent {
		return c.tat, refusal{true, concurrent, time.Second}
	}
	tat, d := quota.Spend(c.tat, now, may.Rate)
	if !d.OK {
		return tat, refusal{true, rate, d.RetryAfter}
	}
	return tat, r
}

// drop gives back the places; the caller holds mu.
func (k *ticket) drop() {
	k.who.inFlight--
	if k.key != nil {
		k.key.inFlight--
	}
}

// leave ends a request.
func (t *callers) leave(k *ticket) {
	if k.who == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k.drop()
}

// refuse counts a refusal of a request whose ticket came to nothing.
func (t *callers) refuse(k *ticket) {
	if k.who == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k.who.refused++
}

// undo takes back a request that a wider bound refused: it costs its caller nothing.
func (t *callers) undo(k *ticket) {
	if k.who == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k.drop()
	k.who.tat = quota.Refund(k.who.tat, k.whoRate)
	k.who.requests--
	if k.key != nil {
		k.key.tat = quota.Refund(k.key.tat, k.keyRate)
	}
}

// get returns the caller of that name, new if need be, as the most recently used; overflow if there is no room.
func (t *callers) get(now int64, key callerKey, overflow *caller) *caller {
	if c := t.of[key]; c != nil {
		c.used = now
		t.toFront(c)
		return c
	}
	if t.of == nil {
		t.init()
	}
	size := callerOverhead + int64(len(key.kind)+1+len(key.id))
	if !t.room(now, size) {
		return overflow
	}
	ref := strings.Clone(string(key.kind) + ":" + key.id)
	key.id = ref[len(key.kind)+1:] // not the request's memory
	c := &caller{key: key, ref: ref, used: now, tat: t.fresh}
	if key.kind == kindAPIKey {
		c.tat = t.freshKey
	}
	t.of[key] = c
	t.link(c)
	t.bytes += size
	t.total.Add(size)
	return c
}

func (c *caller) size() int64 { return callerOverhead + int64(len(c.ref)) }

// room makes room for size bytes, if it can.
func (t *callers) room(now, size int64) bool {
	for range probes {
		if !t.full(size) {
			return true
		}
		c := t.root.prev
		if len(t.of) == 0 {
			return false
		}
		if c.idle(now) {
			t.evict(c)
			continue
		}
		t.toFront(c) // a second chance, and the next newcomer looks at others
	}
	return !t.full(size)
}

func (t *callers) full(size int64) bool {
	return t.bytes+size > t.max || len(t.of) >= keptCallers && t.total.Load()+size > t.most
}

func (t *callers) evict(c *caller) {
	t.evicted++
	c.prev.next, c.next.prev = c.next, c.prev
	delete(t.of, c.key)
	t.bytes -= c.size()
	t.total.Add(-c.size())
}

func (t *callers) link(c *caller) {
	c.prev, c.next = &t.root, t.root.next
	c.prev.next, c.next.prev = c, c
}

func (t *callers) toFront(c *caller) {
	if t.root.next == c {
		return
	}
	c.prev.next, c.next.prev = c.next, c.prev
	t.link(c)
}

// address returns a's text, which it keeps: a caller mostly comes from one place.
func (c *caller) address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	if c.addr != a {
		c.addr, c.addrText = a, addrText(a)
	}
	return c.addrText
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().WithZone("").String()
}

// sweep forgets the callers that have been idle for a while, and returns how many.
func (t *callers) sweep(now int64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, c := range t.of {
		if c.idle(now) && c.used < now-int64(forgetAfter) {
			t.evict(c)
			n++
		}
	}
	if len(t.of) == 0 {
		t.of = nil // maps do not shrink
	}
	return n
}

// close empties the table for good, when its tenant is gone: what a late request brings is not kept.
func (t *callers) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = 0
	for _, c := range t.of {
		t.evict(c)
	}
	t.of = nil
}
