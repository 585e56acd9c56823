package certs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

const (
	pollEvery = 2 * time.Second // how soon another replica finds what is due
	pageDue   = 256             // marks of one read
	pagesPoll = 16              // reads of one poll; the next one goes on where it ended
	maxWaits  = 16384           // hosts that wait to be put on the queue
	kickers   = 4               // of them at once
	lostLock  = 2 * time.Second // until a host is looked at again whose lock another replica holds
	badLook   = time.Minute     // until a host is looked at again whose look failed before it could be written down
)

// wait is a host that may have to be put on the queue.
type wait struct {
	host  string
	entry *tenant.Entry
	plan  plan
}

// board is what this replica's queue has in hand. It is safe for concurrent use.
type board struct {
	mu      sync.Mutex
	waits   map[string]wait               // guarded by mu
	busy    map[string]bool               // guarded by mu: owner/host of looks in progress, and whether they have a place
	places  int                           // guarded by mu: of them, that are taken
	asking  map[string]bool               // guarded by mu: owners of which a responder is asked
	held    map[string]time.Time          // guarded by mu: owner/host not to be looked at before
	issuers map[string]*issuer            // guarded by mu: by directory
	rates   *rates                        // guarded by mu
	marked  *lru.Cache[string, time.Time] // when marks of overdue hosts were set again
	asked   *lru.Cache[string, request]   // by owner/host: what issuers asked for
	cursor  string                        // of the poll loop alone: where the next poll goes on

	kicked chan struct{} // something is in waits
	wake   chan struct{} // something may be due, or a place is free
}

// issuer is what this replica knows of an ACME server.
type issuer struct {
	active  int
	failing bool // the last order failed for a reason of its own
}

// request is what an issuer asked for with Retry-After. It is in the host's record too; but that can be replaced, by a
// certificate that somebody provides and removes again.
type request struct {
	directory string
	until     time.Time
}

// left returns how long an issuer is to be left alone with a host.
func (b *board) left(key, directory string, now time.Time) time.Duration {
	p, ok := b.asked.Peek(key)
	if !ok || p.directory != directory {
		return 0
	}
	return p.until.Sub(now)
}

func newBoard(cfg *Config) *board {
	marked, _ := lru.New[string, time.Time](maxSeen) // fails only for a size of 0
	asked, _ := lru.New[string, request](maxSeen)
	return &board{
		marked: marked, asked: asked, waits: make(map[string]wait), busy: make(map[string]bool), asking: make(map[string]bool), held: make(map[string]time.Time), issuers: make(map[string]*issuer),
		rates: newRates(cfg.Limits, cfg.Replicas), kicked: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
}

// poke sends unless something is there already.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// enqueue has a host put on the queue, if it needs to be. It does not block, and forgets what is too much: the next handshake
// asks again.
func (m *Manager) enqueue(host string, e *tenant.Entry, p plan) {
	if m.cfg.Keeper == nil || !p.ordered {
		return
	}
	key := name(p.owner, host)
	m.board.mu.Lock()
	_, ok := m.board.waits[key]
	if ok || len(m.board.waits) < maxWaits {
		m.board.waits[key] = wait{host, e, p}
	}
	m.board.mu.Unlock()
	poke(m.board.kicked)
}

// name of a host of an owner, on the board and as a lock. It is another one for a tenant that was made again: what is still
// under way for the former one must not keep its orders back (X41).
func name(o vault.Owner, host string) string {
	if o.Platform() {
		return o.Segment() + "/" + host
	}
	return o.Segment() + "/" + o.Scope().UID() + "/" + host
}

// next takes a wait.
func (b *board) next() (wait, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, w := range b.waits {
		delete(b.waits, key)
		return w, true
	}
	return wait{}, false
}

// kick puts waiting hosts on the queue until ctx ends.
func (m *Manager) kick(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.board.kicked:
		}
		for w, ok := m.board.next(); ok && ctx.Err() == nil; w, ok = m.board.next() {
			poke(m.board.kicked) // the others help
			if err := m.ensure(ctx, w); err != nil && ctx.Err() == nil {
				m.cfg.Logger.Warn("a host cannot be put on the queue for its certificate; its next handshake tries again", "host", w.host,
					"tenant", w.plan.owner.Segment(), "error", err)
			}
		}
	}
}

// ensure puts a host on the durable queue unless it is there, or has what it needs.
func (m *Manager) ensure(ctx context.Context, w wait) (err error) {
	defer caught(&err)
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	if w.plan.wild && m.wildcard(ctx).serves(plan{}, m.cfg.Now()) {
		return nil
	}
	h, ifRev, err := m.loadOrNew(ctx, w.host, w.plan)
	if err != nil {
		return err
	}
	now := m.cfg.Now()
	at := now
	switch want := orderAt(h, w.plan, now); {
	case h.Revision == 0 && ifRev != nil:
		if err := m.room(ctx, w.plan); err != nil {
			return err
		}
	case h.Revision == 0: // it is damaged
	case overdue(h, w.plan, now) && due(h.Order.Next, now):
		return m.remark(ctx, w, h.Order.Next, now)
	case overdue(h, w.plan, now):
	case want.After(now) && want.Before(h.Order.Next): // the settings changed a moment after an order failed under others
		at = want
	default:
		return nil
	}
	if m.board.isBusy(name(w.plan.owner, w.host)) {
		return nil
	}
	was := h.Order.Next
	h.Order.Next = mark(at)
	err = m.cfg.Keeper.Save(ctx, w.plan.owner, h, keep.SaveOptions{IfRevision: ifRev, WasDue: was, Due: h.Order.Next})
	if fault.Is(err, fault.PreconditionFailed) || isNotFound(err) { // another replica did, or the tenant is gone
		return nil
	}
	m.board.release(name(w.plan.owner, w.host))
	poke(m.board.wake)
	return err
}

// remark sets the mark of an overdue host again, should it have been lost, and where it was: with a later one, hosts that
// are asked for would go behind those that nobody asks for, as long as orders wait for the rates.
func (m *Manager) remark(ctx context.Context, w wait, at, now time.Time) error {
	key := name(w.plan.owner, w.host)
	if last, ok := m.board.marked.Get(key); ok && now.Sub(last) < overdueGrace || m.board.isBusy(key) {
		return nil
	}
	m.board.marked.Add(key, now)
	_, err := m.cfg.Vault.Commit(ctx, w.plan.owner, vault.Batch{Moves: []vault.Move{{Name: w.host, To: mark(at)}}})
	poke(m.board.wake)
	if isNotFound(err) {
		return nil
	}
	return err
}

// loadOrNew returns a host's record, or a new one if there is none or it is damaged, and the revision that a change of it
// asks for.
func (m *Manager) loadOrNew(ctx context.Context, host string, p plan) (*keep.Host, *int64, error) {
	h, err := m.cfg.Keeper.Load(ctx, p.owner, host)
	switch {
	case err == nil:
	case isNotFound(err):
		h = &keep.Host{Host: host, Source: p.source}
	case isDamaged(err):
		return &keep.Host{Host: host, Source: p.source}, nil, nil
	default:
		return nil, nil, err
	}
	rev := h.Revision
	return h, &rev, nil
}

// TenantChanged is to be called with each new or changed record, not for each tenant at the start: hosts that need an order
// are put on the queue. It does not block.
func (m *Manager) TenantChanged(_ tenant.ID, e *tenant.Entry) {
	if e == nil || m.cfg.Keeper == nil {
		return
	}
	for _, host := range m.hostsOf(e) {
		p := m.cfg.planFor(host, e)
		if known, ok := m.seen.Get(host); ok && known == p || !p.ordered {
			continue // something else of the record changed
		}
		m.seen.Add(host, p)
		m.enqueue(host, e, p)
	}
}

// hostsOf returns the hosts of a tenant, its own first; of the platform for nil.
func (m *Manager) hostsOf(e *tenant.Entry) []string {
	if e == nil {
		list := append([]string(nil), m.extraHosts...)
		if m.wildHost != "" && m.cfg.Wildcard {
			list = append(list, m.wildHost)
		}
		return list
	}
	var list []string
	if m.cfg.BaseDomain != "" {
		list = append(list, tenant.OwnHost(e.Record.ID, m.cfg.BaseDomain))
	}
	return append(list, e.Record.Hosts...)
}

// poll looks at what is due until ctx ends, and then waits for the looks in progress.
func (m *Manager) poll(ctx context.Context) {
	var looks sync.WaitGroup
	defer looks.Wait()
	for {
		if err := m.pollOnce(ctx, &looks); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("what certificates are due cannot be read", "error", err)
		}
		t := time.NewTimer(pollEvery - pollEvery/4 + rand.N(pollEvery/2)) //nolint:gosec // spreads load
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		case <-m.board.wake:
			t.Stop()
		}
	}
}

// pollOnce starts looks at what is due, oldest first, as far as there are places. What must wait is passed over, and a poll
// that sees too much of it goes on the next time, so that it hides nobody.
func (m *Manager) pollOnce(ctx context.Context, looks *sync.WaitGroup) (err error) {
	defer caught(&err)
	for range pagesPoll {
		list, next, err := m.cfg.Vault.Due(ctx, m.cfg.Now(), m.board.cursor, pageDue)
		if err != nil {
			return fmt.Errorf("certs: %w", err)
		}
		for _, d := range list {
			if !m.offer(ctx, d, looks) {
				m.board.cursor = ""
				return nil
			}
		}
		if m.board.cursor = next; next == "" {
			return nil
		}
	}
	return nil
}

// offer starts a look if there is a place for it. false = nobody can have one.
func (m *Manager) offer(ctx context.Context, d vault.Due, looks *sync.WaitGroup) bool {
	e, owns, exists := m.ownerOf(d)
	p := m.cfg.planFor(d.Name, e)
	key := name(p.owner, d.Name)
	if !exists {
		key = d.Owner + "/" + d.Name
	}
	switch m.board.admit(key, d.Owner, p, &m.cfg) {
	case notAny:
		return false
	case notThis:
		return true
	}
	l := &look{m: m, due: d, host: d.Name, entry: e, owns: owns, exists: exists, plan: p, key: key}
	looks.Go(func() {
		defer m.board.leave(key, d.Owner, p.directory)
		l.guarded(ctx)
	})
	return true
}

// admit takes a place for a look: of all, and of its issuer.
func (b *board) admit(key, owner string, p plan, cfg *Config) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := cfg.Now()
	_, busy := b.busy[key]
	if until, ok := b.held[key]; ok && now.Before(until) || busy {
		return notThis
	}
	delete(b.held, key)
	if b.places >= cfg.Limits.Concurrent {
		return notAny
	}
	i := b.issuer(p.directory)
	if i.active >= i.most(cfg.Limits.PerIssuer) {
		return notThis
	}
	if p.ordered {
		if v := b.rates.may(owner, i.failing, now); v != yes {
			return v
		}
	}
	b.busy[key] = true
	b.places++
	i.active++
	return yes
}

// most is how many places an issuer may have. One that fails or hangs has few: several that do have not all of them together.
func (i *issuer) most(limit int) int {
	if i.failing {
		return max(1, limit/4)
	}
	return limit
}

// aside gives back the place of a look that only asks an OCSP responder. Certificates that people bring name those, so that one
// which hangs, on purpose, must not hold up orders; nor others' questions: an owner has one at a time, all have most. It
// says whether the look may go on.
func (b *board) aside(key, owner, directory string, most int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asking[owner] || len(b.asking) >= most {
		return false
	}
	b.asking[owner] = true
	b.busy[key] = false
	b.vacate(directory)
	poke(b.wake)
	return true
}

// vacate gives a place back. The caller holds mu.
func (b *board) vacate(directory string) {
	b.places--
	i := b.issuer(directory)
	if i.active--; i.active == 0 && !i.failing {
		delete(b.issuers, directory)
	}
}

// issuer returns the state of a directory. The caller holds mu.
func (b *board) issuer(directory string) *issuer {
	i := b.issuers[directory]
	if i == nil {
		i = new(issuer)
		b.issuers[directory] = i
	}
	return i
}

// leave ends a look.
func (b *board) leave(key, owner, directory string) {
	b.mu.Lock()
	if b.busy[key] {
		b.vacate(directory)
	} else {
		delete(b.asking, owner)
	}
	delete(b.busy, key)
	b.mu.Unlock()
	poke(b.wake)
}

// hold keeps a host from being looked at for a while, on this replica.
func (b *board) hold(key string, now time.Time, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) >= maxWaits {
		for k, until := range b.held {
			if !now.Before(until) {
				delete(b.held, k)
			}
		}
	}
	if len(b.held) < maxWaits {
		b.held[key] = now.Add(d)
	}
}

// isBusy says whether a look is in progress on this replica.
func (b *board) isBusy(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.busy[key]
	return ok
}

// release ends a hold: somebody changed the host.
func (b *board) release(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.held, key)
}

// take spends the rates of one order.
func (b *board) take(owner string, p plan, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rates.take(owner, p.owner.Platform(), b.issuer(p.directory).failing, now)
}

// ended notes how an order at an issuer ended.
func (b *board) ended(directory string, failing bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issuer(directory).failing = failing
}

// ownerOf finds whose a mark is, by the index: owns says whether the host is the owner's now, exists whether the owner is
// still there. A tenant is found through the host that it always has.
func (m *Manager) ownerOf(d vault.Due) (e *tenant.Entry, owns, exists bool) {
	if d.Owner == vault.PlatformOwner {
		return nil, m.extra[d.Name] || d.Name == m.wildHost && m.wildHost != "", true
	}
	if e, ok := m.lookup(d.Name); ok && e != nil && string(e.Scope.ID()) == d.Owner {
		return e, true, true
	}
	if e, ok := m.lookup(tenant.OwnHost(tenant.ID(d.Owner), m.cfg.BaseDomain)); ok && e != nil && string(e.Scope.ID()) == d.Owner {
		return e, false, true
	}
	return nil, false, false
}
