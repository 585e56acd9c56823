package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// commit is a transaction; whose it is, and with which record, is its maker's business.
type commit = func(w ...tenant.Write) error

// Create begins a sandbox. The caller has set ID, Name ("" = the default), Owner, Epoch, Spec (judged), Session, Key and Request. Name and
// quotas are checked, and the run begun, in the same transaction: commit is the caller's, with the record of its permit, and is called at
// most once. If one was made under the same Key already, with the same Request, that sandbox is returned, created is false, and commit is not called; another
// Request is a fault.Conflict.
func (m *Manager) Create(ctx context.Context, s *Sandbox, commit func(w ...tenant.Write) error) (stored *Sandbox, created bool, err error) {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.fresh(ctx); err != nil {
		return nil, false, err
	}
	if old := m.madeUnder(s.Key); old != nil {
		if old.Request != s.Request {
			return nil, false, fault.New(fault.Conflict, "the idempotency key was used for another request, which made sandbox %q: use a new key", old.Name)
		}
		return old, false, nil
	}
	next := *s
	if next.Name == "" {
		next.Name = DefaultName(next.ID)
	}
	if err := m.admissible(&next); err != nil {
		return nil, false, err
	}
	now := m.cfg.Now().UTC()
	next.V, next.Created, next.Used = Version, now, now
	m.setAwake(true)
	stored, err = m.store(&next, commit, m.begun)
	return stored, err == nil, err
}

// madeUnder returns the sandbox that was made under an idempotency key; nil if there is none.
func (m *Manager) madeUnder(key string) *Sandbox {
	if key == "" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, it := range m.items {
		if it.s.Key == key {
			return it.s
		}
	}
	return nil
}

// admissible checks what a new sandbox may collide with.
func (m *Manager) admissible(s *Sandbox) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !IsID(s.ID) {
		return fault.New(fault.Internal, "sandbox id %q is no UUID", s.ID)
	}
	if m.items[s.ID] != nil {
		return fault.New(fault.Internal, "sandbox id %q was given already", s.ID)
	}
	if err := CheckName(s.Name, m.tenant.Scope.ID()); err != nil {
		return err
	}
	if id, taken := m.names[s.Name]; taken {
		if m.items[id].s.Want == WantDeleted {
			return fault.New(fault.Conflict, "a sandbox named %q is being deleted: wait until it is gone", s.Name)
		}
		return fault.New(fault.Conflict, "there is a sandbox named %q: choose another name", s.Name)
	}
	if most := m.tenant.Quotas.MaxSandboxes; most > 0 && len(m.items) >= most {
		return fault.New(fault.Conflict, "quota max_sandboxes: %d exist, and %d are allowed: delete one", len(m.items), most)
	}
	return m.room(s)
}

// Ask has a sandbox started, stopped or deleted. pre, which may be nil, is asked first about the resource version. If the sandbox is
// wanted so already, commit is not called, and the sandbox returned as it is. A sandbox that is absent is a fault.NotFound.
func (m *Manager) Ask(ctx context.Context, id string, want Want, pre func(version int64) error, commit func(w ...tenant.Write) error) (*Sandbox, error) {
	m.changes.Lock()
	defer m.changes.Unlock()
	if err := m.fresh(ctx); err != nil {
		return nil, err
	}
	s, ok := m.Find(id)
	if !ok {
		return nil, absent()
	}
	if pre != nil {
		if err := pre(s.Version); err != nil {
			return nil, err
		}
	}
	if want == WantRunning && s.AtRest() && s.Want != WantDeleted {
		return m.start(s, commit)
	}
	next, err := m.asked(s, want)
	if err != nil || next == s {
		return next, err
	}
	m.setAwake(true)
	return m.store(next, commit, nil)
}

// start begins a new run of a sandbox at rest, or has the loop begin it once nothing is left of the last one. The caller holds changes.
func (m *Manager) start(s *Sandbox, commit commit) (*Sandbox, error) {
	m.mu.Lock()
	err := m.room(s)
	seen := m.items[s.ID].seen
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	now := m.cfg.Now().UTC()
	next, edit := toStart(s, now), m.begun
	if _, acts := Step(next, seen, now, m.cfg.Pace); !slices.Contains(acts, Act{Kind: ActBegin}) {
		edit = nil
	}
	m.setAwake(true)
	return m.store(next, commit, edit)
}

// toStart is a sandbox at rest that is wanted to run. Step has a run begun when it is seen that nothing is left of the last one.
func toStart(s *Sandbox, now time.Time) *Sandbox {
	n := *s
	n.Want, n.State, n.Conditions = WantRunning, Pending, nil
	t := &turn{s: &n, now: now}
	t.set(Ready, false, ReasonWaiting, "it waits until what the run before left is removed")
	return &n
}

// begun begins a run.
func (m *Manager) begun(s *Sandbox) *Sandbox {
	now := m.cfg.Now().UTC()
	n := Begin(s, nonce(), now)
	n.Used = now
	return n
}

// nonce returns what nobody can guess, and fits in a name: 10 hex digits.
func nonce() string {
	var b [5]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func absent() error { return fault.New(fault.NotFound, "there is no such sandbox") }

// asked returns what becomes of a sandbox that its owner wants otherwise; s itself if it is wanted so already.
func (m *Manager) asked(s *Sandbox, want Want) (*Sandbox, error) {
	now := m.cfg.Now().UTC()
	if s.Want == WantDeleted && want != WantDeleted {
		return nil, fault.New(fault.Conflict, "sandbox %q is being deleted", s.Name)
	}
	if want == WantRunning {
		return restarted(s), nil
	}
	if s.Want == want {
		return s, nil
	}
	n := *s
	n.Want = want
	t := &turn{s: &n, now: now}
	switch {
	case n.Run.Live():
		t.wanted()
	case want == WantDeleted:
		n.State = Deleting
	case n.State == Pending:
		n.State = Stopped
	}
	return &n, nil
}

// restarted is a sandbox that is to run and is not at rest. One that is stopping is started anew once its run is over.
func restarted(s *Sandbox) *Sandbox {
	if s.State != Stopping || s.Want == WantRunning && s.Run.Reason == ReasonStopped {
		return s
	}
	n := *s
	n.Want, n.Run.Reason = WantRunning, ReasonStopped
	return &n
}

// store commits a sandbox and has it in memory. edit, which may be nil, is what is to be made of it once what its run used is
// billed. The caller holds changes, and memory is fresh.
func (m *Manager) store(s *Sandbox, commit commit, edit func(*Sandbox) *Sandbox) (*Sandbox, error) {
	now := m.cfg.Now().UTC()
	bill, s := m.bill(now, s)
	if edit != nil {
		s = edit(s)
	}
	next := *s
	m.mu.Lock()
	next.Version, next.Updated = m.nextVersion(), now
	m.mu.Unlock()
	w, err := m.cfg.encode(&next)
	if err != nil {
		bill.Dropped()
		return nil, err
	}
	if err := commit(append([]tenant.Write{w}, writesOf(bill)...)...); err != nil {
		m.doubt()
		return nil, err
	}
	bill.Kept()
	m.mu.Lock()
	m.put(&next)
	m.mu.Unlock()
	return &next, nil
}

// doubt has the records read before the next commit, and by the loop if there is none: nobody knows what came of the last. The caller holds changes.
func (m *Manager) doubt() {
	m.stale = true
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nudge()
}

// forget deletes a record, and with it what hangs on it. What its last run still owes is stored before, in a transaction of its own: both
// together may be more than one can hold. The caller holds changes, and memory is fresh.
func (m *Manager) forget(ctx context.Context, s *Sandbox) error {
	if m.owes(s) {
		_, err := m.store(s, m.commit(ctx, s.Name), nil)
		return err
	}
	w := []tenant.Write{{Kind: Kind, ID: s.ID}}
	if m.cfg.Forgets != nil {
		w = append(w, m.cfg.Forgets(s)...)
	}
	if err := m.commit(ctx, s.Name)(w...); err != nil {
		m.doubt()
		return err
	}
	m.mu.Lock()
	m.drop(s, m.nextVersion())
	m.mu.Unlock()
	return nil
}

// commit returns a transaction of the system's own.
func (m *Manager) commit(ctx context.Context, name string) commit {
	return func(w ...tenant.Write) error {
		return m.cfg.Store.Commit(ctx, authz.SandboxTransition, "sandbox/"+name, w...)
	}
}
