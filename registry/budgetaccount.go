package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

// perKey is what a key takes in the store besides its name and its value.
const perKey = 64

// accountIdle is how long an account is kept after it was last used; a budget of writes is whole again after two windows.
const accountIdle = 30 * time.Minute

// account is what this replica knows of the bytes of one tenant.
//
// What the tenant's gateway keeps (t/) is counted by the owner: once by a read when it first changes something, and kept
// up to date by its own commits, since nobody else writes there. The vault (v/) is written by any replica: it is counted
// likewise, and kept up to date by the watch. The two have the same budget each, so that objects cannot keep certificates
// from being renewed.
type account struct {
	mu     sync.Mutex // guards what follows
	state  tally
	vault  tally
	record int64 // bytes of x/; 0 = not known
	used   time.Time

	own quota.Debt // of writes under the claim
	any quota.Debt // of those that any replica makes
}

// tally is the size of each key under a prefix.
type tally struct {
	sizes   map[string]int64 // nil = not counted
	total   int64
	pending int64 // of changes under way, which are not in total
}

func (t *tally) set(key string, size int64) {
	t.total += size - t.sizes[key]
	if size == 0 {
		delete(t.sizes, key)
	} else {
		t.sizes[key] = size
	}
}

func (t *tally) apply(x *Txn, prefix string) {
	if t.sizes == nil {
		return
	}
	for _, p := range x.DeletePrefixes {
		for k := range t.sizes {
			if strings.HasPrefix(k, p) {
				t.set(k, 0)
			}
		}
	}
	for _, k := range x.Deletes {
		t.set(k, 0)
	}
	for _, p := range x.Puts {
		if strings.HasPrefix(p.Key, prefix) {
			t.set(p.Key, sizeOf(p.Key, p.Value))
		}
	}
}

// growth returns by how much a change makes the tally larger, or smaller, and how many bytes it writes under the prefix.
func (t *tally) growth(x *Txn, prefix string) (grows, writes int64) {
	for _, p := range x.Puts {
		if strings.HasPrefix(p.Key, prefix) {
			n := sizeOf(p.Key, p.Value)
			grows += n - t.sizes[p.Key]
			writes += n
		}
	}
	for _, k := range x.Deletes {
		grows -= t.sizes[k]
	}
	for _, p := range x.DeletePrefixes {
		for k, n := range t.sizes {
			if strings.HasPrefix(k, p) {
				grows -= n
			}
		}
	}
	return grows, writes
}

func sizeOf(key string, value []byte) int64 { return int64(len(key)+len(value)) + perKey }

// stored returns the tenant's bytes, and whether they are known.
func (a *account) stored() (int64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state.sizes == nil {
		return 0, false
	}
	return a.state.total + a.vault.total + a.record, true
}

func (b *budgets) account(id tenant.ID) *account {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[id]
	if a == nil {
		a = new(account)
		b.accounts[id] = a
	}
	return a
}

// known returns an account that exists; nil if there is none.
func (b *budgets) known(id tenant.ID) *account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accounts[id]
}

// sweep forgets accounts that nobody has used for long.
func (b *budgets) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, a := range b.accounts {
		a.mu.Lock()
		idle := now.Sub(a.used) > max(accountIdle, 2*b.cfg.Window)
		a.mu.Unlock()
		if idle {
			delete(b.accounts, id)
		}
	}
}

// claimed forgets what was counted of a tenant before this claim: another replica may have owned it since.
func (b *budgets) claimed(id tenant.ID) {
	if a := b.known(id); a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.state.sizes, a.state.total = nil, 0
	}
}

// observe takes what the watch saw of a tenant's record or vault.
func (b *budgets) observe(id tenant.ID, prefix string, ev Event) {
	a := b.known(id)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	size := sizeOf(ev.KV.Key, ev.KV.Value)
	if ev.Delete {
		size = 0
	}
	switch {
	case prefix == prefixRecord && ev.Delete: // whoever comes next under this id has nothing to do with it
		a.state, a.vault, a.record = tally{pending: a.state.pending}, tally{pending: a.vault.pending}, 0
	case prefix == prefixRecord:
		a.record = size
	case a.vault.sizes != nil:
		a.vault.set(ev.KV.Key, size)
	}
}

// missed forgets what the watch keeps up to date, after a gap.
func (b *budgets) missed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		a.mu.Lock()
		a.vault.sizes, a.vault.total = nil, 0
		a.mu.Unlock()
	}
}

// count reads the sizes of what is under a prefix, if they are not known.
func (b *budgets) count(ctx context.Context, a *account, t *tally, prefix string) error {
	a.mu.Lock()
	known := t.sizes != nil
	a.mu.Unlock()
	if known {
		return nil
	}
	sizes, total := make(map[string]int64), int64(0)
	_, err := b.store.eachPage(ctx, prefix, 0, func(kv KV) {
		if n := sizeOf(kv.Key, kv.Value); !strings.Contains(kv.Key, "/"+markerKind+"/") {
			sizes[kv.Key] = n
			total += n
		}
	})
	if err != nil {
		return fmt.Errorf("count what the tenant has stored: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.sizes == nil {
		t.sizes, t.total = sizes, total
	}
	return nil
}

// admission is a change that was let in; settle must be called with its outcome.
type admission struct {
	budgets *budgets
	account *account
	tally   *tally
	txn     *Txn
	prefix  string
	owed    bool // it counts against the budget and is not refused for it
	grows   int64
}

// settle books the outcome of a change.
func (ad *admission) settle(err error) {
	if ad == nil {
		return
	}
	a := ad.account
	a.mu.Lock()
	defer a.mu.Unlock()
	ad.tally.pending -= max(0, ad.grows)
	switch {
	case err == nil:
		ad.tally.apply(ad.txn, ad.prefix)
	case errors.Is(err, ErrUnknown): // it is counted anew
		ad.tally.sizes, ad.tally.total = nil, 0
	}
}

// of returns a tenant's budget; 0 = it has none.
func (b *budgets) of(id tenant.ID) int64 {
	if b.cfg.Stored == nil {
		return 0
	}
	e, ok := b.store.index.ByID(id)
	if !ok {
		return 0
	}
	return b.cfg.Stored(e.Record.Quotas)
}

// admitState judges a change under the tenant's claim, and reserves what it adds. One that is owed may use half of the store's
// reserve, as certificates may: were an end not stored, its sandbox would go on, and could not be deleted.
func (b *budgets) admitState(ctx context.Context, id tenant.ID, t *Txn, owed bool) (*admission, error) {
	a, share := b.account(id), 0
	if owed {
		share = 5
	}
	ad := &admission{budgets: b, account: a, tally: &a.state, txn: t, prefix: statePrefix(id), owed: owed}
	return ad, b.admit(ctx, id, ad, b.writes(b.of(id), 3), &a.own, share)
}

// admitVault judges a change of a tenant's vault, which any replica makes. It may use half of the store's reserve, so that
// certificates are renewed while tenants have to wait.
func (b *budgets) admitVault(ctx context.Context, id tenant.ID, t *Txn) (*admission, error) {
	a := b.account(id)
	ad := &admission{budgets: b, account: a, tally: &a.vault, txn: t, prefix: vaultPrefix(string(id))}
	return ad, b.admit(ctx, id, ad, b.shared(b.of(id)), &a.any, 5)
}

// shared is this replica's part of the limit on what any replica writes.
func (b *budgets) shared(budget int64) quota.Limit {
	l, n := b.writes(budget, 1), float64(max(1, b.store.index.ReplicaCount()))
	return quota.Limit{PerSecond: l.PerSecond / n, Burst: int(float64(l.Burst) / n)}
}

// writes returns the limit of bytes written for a part, in quarters, of four times the budget in each window: half of it
// at once, half by and by.
func (b *budgets) writes(budget int64, quarters int) quota.Limit {
	half := float64(budget) * float64(quarters) / 2
	return quota.Limit{PerSecond: half / b.cfg.Window.Seconds(), Burst: int(half)}
}

func (b *budgets) admit(ctx context.Context, id tenant.ID, ad *admission, l quota.Limit, debt *quota.Debt, share int) error {
	budget, now := b.of(id), time.Now()
	if budget > 0 {
		if err := b.count(ctx, ad.account, ad.tally, ad.prefix); err != nil {
			return err
		}
	}
	roomErr := b.room(share)
	x := *ad.txn // as it is now: the lane's part, which is added to it, does not count
	ad.txn = &x
	a := ad.account
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = now
	grows, writes := ad.tally.growth(ad.txn, ad.prefix)
	switch {
	case grows <= -writes: // it frees at least what it writes. To make something smaller byte by byte would fill the store all the same
	case roomErr != nil:
		return roomErr
	case budget > 0 && !ad.owed:
		if err := judge(ad.tally.total+ad.tally.pending, grows, budget, debt.Owed(now, l)); err != nil {
			return err
		}
	}
	all := txnBytes(ad.txn)
	b.written.Add(all)
	if budget > 0 && (!ad.owed || debt.Owed(now, l) == 0) { // what nobody refuses must not keep what comes after it waiting for hours
		debt.Add(now, all, l)
	}
	ad.grows = grows
	ad.tally.pending += max(0, grows)
	return nil
}

func txnBytes(t *Txn) (n int64) {
	for _, p := range t.Puts {
		n += sizeOf(p.Key, p.Value)
	}
	return n
}

// judge decides on a change that does not free as much as it writes. What a count does not allow is a Conflict, as with other
// quotas of numbers.
func judge(stored, grows, budget int64, owed time.Duration) error {
	if grows > 0 && stored+grows > budget {
		return fault.Wrap(fault.Conflict, ErrStored, "over the quota of stored bytes: %d are stored and the change adds %d, max_stored_bytes is %d; delete something first, or ask the platform's operators for more", stored, grows, budget)
	}
	if owed > 0 {
		return fault.New(fault.RateLimited, "over the quota of bytes written: what is overwritten takes room for a while too; at most four times max_stored_bytes (%d) may be written in that time", budget).After(owed)
	}
	return nil
}

// admitSettings judges a change of a tenant's routing record; old is nil for a new tenant. What leaves the settings as they
// are, such as to suspend the tenant or to revoke a credential, is always taken, and so is what the platform's operators
// do of their own accord, which is recorded in the platform's chain.
func (b *budgets) admitSettings(old, next *tenant.Record, entry audit.Entry) error {
	is, err := settingsOf(next)
	if err != nil {
		return err
	}
	var was []byte
	if old != nil {
		if was, err = settingsOf(old); err != nil {
			return err
		}
	}
	b.written.Add(int64(len(is)))
	if bytes.Equal(was, is) || 2*len(is) <= len(was) || old != nil && entry.Tenant == "" {
		return nil
	}
	if err := b.room(0); err != nil || b.cfg.Stored == nil {
		return err
	}
	budget := b.cfg.Stored(next.Quotas)
	if budget <= 0 {
		return nil
	}
	return b.spendSettings(next.ID, budget, int64(len(was)), int64(len(is)))
}

func (b *budgets) spendSettings(id tenant.ID, budget, was, is int64) error {
	a, now, l := b.account(id), time.Now(), b.shared(budget)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used = now
	owed := a.any.Owed(now, l)
	if was == 0 { // a new tenant owes nothing of what the one before it wrote
		owed = 0
	}
	if err := judge(a.state.total+was, is-was, budget, owed); err != nil {
		return err
	}
	a.any.Add(now, is, l)
	return nil
}
