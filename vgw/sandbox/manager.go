package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// Manager has one tenant's sandboxes: it keeps their records, and brings each to where its owner wants it. All its methods can be called
// at the same time.
type Manager struct {
	cfg  Config
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup // the loop, the watch and the driver's calls
	kick chan struct{}  // has one when the loop is to look again
	prep preparing

	changes sync.Mutex  // held from a check until its commit is in memory
	stale   bool        // guarded by changes: nobody knows what came of a commit, so the records are read before the next
	awake   wakefulness // written under changes and mu, read under either

	mu       sync.Mutex
	driver   *lent             // guarded by mu, as all below
	tenant   Tenant            //
	rules    Rules             //
	items    map[string]*item  // by id
	names    map[string]string // id by name
	version  int64             // the highest resource version that was used
	told     int64             // that of the last change
	floor    int64             // all changes after it are in recent
	recent   []Change          // the last ones, oldest first
	news     chan struct{}     // closed with the next change
	view     view              // what the driver shows
	calls    int               // under way
	looping  bool
	closed   bool
	storeOff time.Time // after a failed commit the loop stores nothing until then
	storeBad int       // failed in a row
	visitsAt time.Time // when sessions and bytes are stored next
	sampleAt time.Time // when use is sampled next
}

// item is a sandbox in memory.
type item struct {
	s    *Sandbox     // as stored
	seen *Observation // of its run; nil = nothing is known

	dirty bool      // to be looked at
	wake  time.Time // to be looked at then; zero = when something is heard
	todo  bool      // it asks for something, now or later

	starved bool // it waits for another call to end

	busy  bool      // a call of the driver for it is under way
	after uint64    // only a watch with a higher number can show that its run is absent
	retry time.Time // nothing is asked of the driver before
	tries int       // calls that failed in a row
	last  ActKind   // the last call that succeeded, of this run
	when  time.Time // and when
	uid   string    // what Create returned, not stored yet
	err   error     // what the last call failed with, not stored yet
	erred ActKind   // which it was

	sessions int
	used     time.Time // last exec or log stream
}

// Open reads the tenant's sandboxes, and goes on where the last owner left them. ctx is for the reading alone.
func Open(ctx context.Context, c Config) (*Manager, error) {
	c = c.withDefaults()
	m := &Manager{cfg: c, kick: make(chan struct{}, 1), driver: lend(c.Driver), tenant: c.Tenant, rules: c.Rules,
		items: map[string]*item{}, names: map[string]string{}, news: make(chan struct{}), awake: wakefulness{is: c.Worked}}
	m.ctx, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.prep.slot = make(chan struct{}, 1)
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.reload(ctx); err != nil {
		m.stop()
		return nil, err
	}
	m.mu.Lock()
	m.recent, m.floor = nil, m.nextVersion() // what the last owner deleted is not known of
	m.told = m.floor
	for _, it := range m.items {
		it.used = c.Now() // nor its sessions
	}
	m.mu.Unlock()
	m.look()
	return m, nil
}

// Close ends the loop and waits for it. What runs in the cluster goes on, and so do exec and log streams: their callers end them.
// The driver is closed when the last of them has ended.
func (m *Manager) Close() {
	m.mu.Lock()
	was := m.closed
	m.closed = true
	if !was {
		m.tell()
	}
	m.mu.Unlock()
	m.stop()
	m.work.Wait()
	if !was {
		m.driver.giveUp()
	}
}

// Renew puts new settings of the tenant in force. The driver is one that was opened with them.
func (m *Manager) Renew(d Driver, t Tenant, r Rules) {
	m.mu.Lock()
	old := m.driver
	m.driver, m.tenant, m.rules = lend(d), t, r
	if m.view.restart != nil {
		m.view.restart()
	}
	m.mu.Unlock()
	m.prep.again()
	old.giveUp()
}

// Snapshot returns all sandboxes, sorted by name. They are not to be changed.
func (m *Manager) Snapshot() []*Sandbox {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*Sandbox, 0, len(m.items))
	for _, it := range m.items {
		all = append(all, it.s)
	}
	slices.SortFunc(all, func(a, b *Sandbox) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Find returns a sandbox by its name or id.
func (m *Manager) Find(nameOrID string) (*Sandbox, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := nameOrID
	if !IsID(id) {
		id = m.names[nameOrID]
	}
	it, ok := m.items[id]
	if !ok {
		return nil, false
	}
	return it.s, true
}

// Version returns the resource version of the last change.
func (m *Manager) Version() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told
}

// Judge is Spec.Judge with the tenant's rules of now.
func (m *Manager) Judge(s Spec) (Spec, error) {
	m.mu.Lock()
	r := m.rules
	m.mu.Unlock()
	return s.Judge(r)
}

// reload reads all records anew. The caller holds changes.
func (m *Manager) reload(ctx context.Context) error {
	stored, err := m.load(ctx)
	if err != nil {
		return err
	}
	if m.cfg.Meter != nil {
		periods, err := m.cfg.Store.Load(ctx, KindPeriod)
		if err != nil {
			return fmt.Errorf("load periods: %w", err)
		}
		if err := m.cfg.Meter.Reload(periods); err != nil {
			return fmt.Errorf("read periods: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slices.SortedFunc(maps.Values(stored), func(a, b *Sandbox) int { return cmp.Compare(a.Version, b.Version) }) {
		m.put(s)
	}
	for id, it := range m.items {
		if _, ok := stored[id]; !ok {
			m.drop(it.s, m.nextVersion())
		}
	}
	m.stale = false
	return nil
}

// load reads what is stored.
func (m *Manager) load(ctx context.Context) (map[string]*Sandbox, error) {
	objects, err := m.cfg.Store.Load(ctx, Kind)
	if err != nil {
		return nil, fmt.Errorf("load sandboxes: %w", err)
	}
	all := make(map[string]*Sandbox, len(objects))
	for _, o := range objects {
		s, err := m.cfg.decode(o.ID, o.Value)
		if err != nil {
			return nil, fmt.Errorf("read sandbox %s: %w", o.ID, err)
		}
		all[s.ID] = s
	}
	return all, nil
}

// fresh reads the records if memory may be behind them. The caller holds changes.
func (m *Manager) fresh(ctx context.Context) error {
	if m.ctx.Err() != nil {
		return moving()
	}
	if !m.stale {
		return nil
	}
	return m.reload(ctx)
}

// put has a stored sandbox in memory. The caller holds mu.
func (m *Manager) put(s *Sandbox) {
	it, ok := m.items[s.ID]
	if ok && it.s.Version == s.Version {
		return
	}
	if !ok {
		it = &item{after: m.view.number}
		m.items[s.ID], m.names[s.Name] = it, s.ID
	}
	if ok && it.s.Run.Nonce != s.Run.Nonce {
		m.view.leave(it, m.cfg.Now())
		*it = item{after: m.view.number, sessions: it.sessions, used: it.used}
	}
	if s.Run.UID != "" {
		it.uid = ""
	}
	it.s, it.dirty = s, true
	m.version = max(m.version, s.Version)
	m.changed(Change{Kind: ChangeSandbox, Sandbox: s, Version: s.Version})
	m.nudge()
}

// drop takes a deleted sandbox out of memory. The caller holds mu.
func (m *Manager) drop(s *Sandbox, version int64) {
	if it := m.items[s.ID]; it != nil {
		m.view.leave(it, m.cfg.Now())
	}
	delete(m.items, s.ID)
	if m.names[s.Name] == s.ID {
		delete(m.names, s.Name)
	}
	m.changed(Change{Kind: ChangeDeleted, Sandbox: s, Version: version})
	m.nudge()
}

// nextVersion returns a resource version that was never used: the clock in microseconds, or one more than the highest. The caller holds mu.
func (m *Manager) nextVersion() int64 {
	m.version = max(m.version+1, m.cfg.Now().UnixMicro())
	return m.version
}

// sealed is a sandbox as it lies in the store: sealed, since its environment and its command may hold somebody's credentials.
type sealed struct {
	V      int    `json:"v"`
	Sealed []byte `json:"sealed"`
}

// decode reads what encode wrote.
func (c *Config) decode(id string, b []byte) (*Sandbox, error) {
	if c.Sealer != nil {
		var outer sealed
		if err := json.Unmarshal(b, &outer); err != nil {
			return nil, err
		}
		if outer.V > Version+1 {
			return nil, fmt.Errorf("its version is %d: this build reads %d and %d", outer.V, Version, Version+1)
		}
		plain, err := c.Sealer.Open(outer.Sealed, c.Tenant.Scope.UID(), Kind, id)
		if err != nil {
			return nil, err
		}
		b = plain
	}
	s := &Sandbox{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, err
	}
	if s.V < Version || s.V > Version+1 {
		return nil, fmt.Errorf("its version is %d: this build reads %d and %d", s.V, Version, Version+1)
	}
	return s, nil
}

func (c *Config) encode(s *Sandbox) (tenant.Write, error) {
	b, err := json.Marshal(s)
	if err == nil && c.Sealer != nil {
		if b, err = c.Sealer.Seal(b, c.Tenant.Scope.UID(), Kind, s.ID); err == nil {
			b, err = json.Marshal(sealed{Version, b})
		}
	}
	return tenant.Write{Kind: Kind, ID: s.ID, Value: b}, err
}
