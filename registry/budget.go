package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Budgets bound what tenants may keep in the store and write to it. A store that is full stops every replica's leases, and
// so the placement of every tenant (X47): what one tenant or all of them together may do must end well before.
type Budgets struct {
	// Stored returns how many bytes a tenant with these quotas may keep; 0 = no bound. nil = no bounds for anybody.
	Stored func(tenant.Quotas) int64
	// Window is how long the store keeps what was superseded; 0 = 10 min. Within one a tenant may write at most four times
	// what it may keep.
	Window time.Duration
	// Reserve is how many percent of the store's quota tenants' changes leave free; 0 = none.
	Reserve int
	// Sample is the time between two looks at how full the store is; 0 = 3 s.
	Sample time.Duration
}

// Defaults of Budgets.
const (
	defaultWindow = 10 * time.Minute
	defaultSample = 3 * time.Second
)

// ErrStored is wrapped in the refusal of what would take a tenant over its budget of bytes.
var ErrStored = errors.New("over the tenant's budget of stored bytes")

// ErrStoreFull is wrapped in the refusal of a tenant's change because the store has no more room than its reserve.
var ErrStoreFull = fmt.Errorf("the store has no room but its reserve: %w", ErrRejected)

// StatusReader is what a Backend may be besides: one that can tell how full and how well its store is.
type StatusReader interface {
	// Status asks the store. A member that does not answer is in Members with an Error; the error is that none does.
	Status(ctx context.Context) (Status, error)
}

// Status is how full and how well the store is.
type Status struct {
	Version string // of the member that was asked, or the oldest of several
	DBSize  int64  // bytes of the database's file, at the member where it is largest
	DBInUse int64  // bytes of it that hold something; the rest is used again before the file grows
	Quota   int64  // bytes of the file at which the store takes no more writes; 0 = it does not say
	Alarms  []string
	Members []Member
}

// Member is one member of the store's cluster.
type Member struct {
	Name, Version   string
	Address         string // where it was asked
	Leader, Healthy bool
	Error           string // why it is not healthy
}

// StorageReport is what this replica knows of the store and of what tenants keep in it.
type StorageReport struct {
	Sampled  time.Time // of Status; zero = never yet
	Status   Status
	Error    string              // why the last sample failed; "" = it did not, or the store cannot tell
	Problems []string            // what is wrong, in words that say the way out
	Tenants  map[tenant.ID]int64 // bytes stored of the tenants that this replica has counted
}

// budgets is the state of Config.Budgets.
type budgets struct {
	store   *Store
	cfg     Budgets
	written atomic.Int64 // bytes that this replica wrote since the last sample

	mu       sync.Mutex // guards what follows
	accounts map[tenant.ID]*account
	report   StorageReport // all but Tenants
}

func newBudgets(s *Store, cfg Budgets) *budgets {
	if cfg.Window <= 0 {
		cfg.Window = defaultWindow
	}
	if cfg.Sample <= 0 {
		cfg.Sample = defaultSample
	}
	return &budgets{store: s, cfg: cfg, accounts: make(map[tenant.ID]*account)}
}

// Storage returns what is known of the store: from memory, as of the last sample.
func (s *Store) Storage() StorageReport {
	b := s.budgets
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.report
	r.Status.Alarms, r.Status.Members, r.Problems = slices.Clone(r.Status.Alarms), slices.Clone(r.Status.Members), slices.Clone(r.Problems)
	r.Tenants = make(map[tenant.ID]int64, len(b.accounts))
	for id, a := range b.accounts {
		if n, ok := a.stored(); ok {
			r.Tenants[id] = n
		}
	}
	return r
}

// TenantBytes returns how many bytes the store keeps of a tenant: its record, objects and certificates. known is false
// where this replica has not counted them, which it does when it owns the tenant and first changes something of it.
func (s *Store) TenantBytes(id tenant.ID) (stored int64, known bool) {
	s.budgets.mu.Lock()
	a := s.budgets.accounts[id]
	s.budgets.mu.Unlock()
	if a == nil {
		return 0, false
	}
	return a.stored()
}

// run looks at the store every now and then until ctx ends.
func (b *budgets) run(ctx context.Context) {
	st, ok := b.store.backend.(StatusReader)
	tick := time.NewTicker(b.cfg.Sample)
	defer tick.Stop()
	for {
		if ok {
			b.sample(ctx, st)
		}
		b.sweep(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *budgets) sample(ctx context.Context, from StatusReader) {
	sctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	written := b.written.Load()
	st, err := from.Status(sctx)
	if ctx.Err() != nil {
		return
	}
	b.mu.Lock()
	was := b.report.Problems
	if err != nil {
		b.report.Error = fault.From(err).Error()
	} else {
		b.written.Add(-written)
		b.report = StorageReport{Sampled: time.Now(), Status: st, Problems: problems(st, b.cfg.Reserve)}
	}
	now := b.report.Problems
	b.mu.Unlock()
	for _, p := range now {
		if !slices.Contains(was, p) {
			b.store.log.Warn("registry: the store is not well: " + p)
		}
	}
}

// room says whether the store has room for a change of a tenant. share is the part of the reserve, in tenths, that the
// change may use.
func (b *budgets) room(share int) error {
	b.mu.Lock()
	st := b.report.Status
	b.mu.Unlock()
	written := b.written.Load() * int64(max(1, b.store.index.ReplicaCount()))
	return roomIn(st, written, b.cfg.Reserve, share)
}

// roomIn decides by the last sample, and what all replicas may have written since, whether tenants may still write. What
// is free in the file of the database is used before it grows, so what it holds counts; but etcd refuses everything when
// the file alone comes near the quota, so that has a bound too, which only a defragmentation takes it below.
func roomIn(st Status, written int64, reserve, share int) error {
	if slices.Contains(st.Alarms, alarmSpace) {
		return full("the store of the platform is full")
	}
	if st.Quota <= 0 || reserve <= 0 {
		return nil
	}
	kept := st.Quota / 1000 * int64(reserve) * int64(10-share) // bytes that must stay free
	if st.DBInUse+written < st.Quota-kept && st.DBSize < st.Quota-kept/4 {
		return nil
	}
	return full("the store of the platform has no room left but what it keeps for itself")
}

// fullAdvice is when it is worth while to try again where the store is full: somebody has to do something first.
const fullAdvice = 30 * time.Second

func full(why string) error {
	return fault.Wrap(fault.Unavailable, ErrStoreFull, "%s: nothing can be added or changed now; to delete works, and the platform's operators see what to do", why).After(fullAdvice)
}

// Names of alarms.
const (
	alarmSpace   = "NOSPACE"
	alarmCorrupt = "CORRUPT"
)

// problems says in words what is wrong with the store, and the way out.
func problems(st Status, reserve int) []string {
	var out []string
	if slices.Contains(st.Alarms, alarmSpace) {
		out = append(out, "it is full and takes no changes, not even leases, so no tenant can move (alarm NOSPACE): delete what is not needed, then compact, defragment every member and take the alarm back: `polygate etcd defrag`, or with an etcd of your own `etcdctl compact`, `etcdctl defrag --cluster`, `etcdctl alarm disarm`; then raise its quota, or lower quotas.max_stored_bytes")
	}
	if slices.Contains(st.Alarms, alarmCorrupt) {
		out = append(out, "members have different data (alarm CORRUPT): stop the member whose log says so, remove it, and add it anew with an empty folder; or restore a backup")
	}
	out = append(out, memberProblems(st.Members)...)
	if st.Quota <= 0 || slices.Contains(st.Alarms, alarmSpace) {
		return out
	}
	bound := st.Quota / 100 * int64(100-reserve)
	switch {
	case reserve > 0 && st.DBInUse >= bound:
		out = append(out, fmt.Sprintf("it holds %d of %d bytes, and tenants' changes are refused from %d on (etcd.reserve): delete what is not needed, raise the quota, or lower quotas.max_stored_bytes", st.DBInUse, st.Quota, bound))
	case reserve > 0 && st.DBSize >= st.Quota-st.Quota/100*int64(reserve)/4:
		out = append(out, fmt.Sprintf("its file has %d bytes of %d allowed, of which %d hold something: defragment it with `polygate etcd defrag` or `etcdctl defrag --cluster`", st.DBSize, st.Quota, st.DBInUse))
	}
	return out
}

func memberProblems(ms []Member) []string {
	var out []string
	well := 0
	for _, m := range ms {
		if m.Healthy {
			well++
			continue
		}
		out = append(out, fmt.Sprintf("its member %s is not well: %s", m.Name, m.Error))
	}
	if need := len(ms)/2 + 1; len(ms) > 1 && well == need {
		out = append(out, fmt.Sprintf("%d of its %d members are well: if one more goes, nothing can be changed", well, len(ms)))
	}
	return out
}
