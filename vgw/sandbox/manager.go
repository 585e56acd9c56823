package sandbox

import (
	"context"

	"github.com/polygate/polygate/internal/tenant"
)

// Manager has one tenant's sandboxes: it keeps their records, and brings each to where its owner wants it. All its methods can be called
// at the same time.
type Manager struct {
	cfg Config
}

// Open reads the tenant's sandboxes, and goes on where the last owner left them. ctx is for the reading alone.
func Open(ctx context.Context, c Config) (*Manager, error) {
	return &Manager{cfg: c.withDefaults()}, nil
}

// Close ends the loop and waits for it. What runs in the cluster goes on, and so do exec and log streams: their callers end them.
// The driver is closed when the last of them has ended.
func (m *Manager) Close() {}

// Renew puts new settings of the tenant in force. The driver is one that was opened with them.
func (m *Manager) Renew(d Driver, t Tenant, r Rules) {}

// Snapshot returns all sandboxes, sorted by name. They are not to be changed.
func (m *Manager) Snapshot() []*Sandbox { return nil }

// Find returns a sandbox by its name or id.
func (m *Manager) Find(nameOrID string) (*Sandbox, bool) { return nil, false }

// Judge is Spec.Judge with the tenant's rules of now.
func (m *Manager) Judge(s Spec) (Spec, error) { return s.Judge(m.cfg.Rules) }

// Create begins a sandbox. The caller has set ID, Name ("" = the default), Owner, Epoch, Spec (judged), Session and Request. Name and
// quotas are checked, and the run begun, in the same transaction: commit is the caller's, with the record of its permit, and is called at
// most once. If the id exists already, with the same Request, that sandbox is returned, created is false, and commit is not called; another
// Request is a fault.Conflict.
func (m *Manager) Create(ctx context.Context, s *Sandbox, commit func(w ...tenant.Write) error) (stored *Sandbox, created bool, err error) {
	return nil, false, nil
}

// Ask has a sandbox started, stopped or deleted. pre, which may be nil, is asked first about the resource version. If the sandbox is
// wanted so already, commit is not called, and the sandbox returned as it is. A sandbox that is absent is a fault.NotFound.
func (m *Manager) Ask(ctx context.Context, id string, want Want, pre func(version int64) error, commit func(w ...tenant.Write) error) (*Sandbox, error) {
	return nil, nil
}
