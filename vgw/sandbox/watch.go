package sandbox

import (
	"context"
)

// ChangeKind says what a Change is about.
type ChangeKind string

// The kinds of changes; they are the names of server-sent events.
const (
	ChangeSandbox ChangeKind = "sandbox" // it is new, or changed
	ChangeDeleted ChangeKind = "deleted" // it is gone; Sandbox is what it was last
	ChangeResync  ChangeKind = "resync"  // changes were missed: list anew
)

// Change is one change of a sandbox.
type Change struct {
	Kind    ChangeKind
	Sandbox *Sandbox // nil with ChangeResync
	Version int64    // resource_version: rises with each change of any of the tenant's sandboxes
}

// Watcher reads the changes of a tenant's sandboxes. It is for one goroutine, and needs no closing.
type Watcher struct{}

// Watch begins after the change with version since, as far as changes are still known; 0 = with the next change. If changes after since
// are no longer known, the first is a ChangeResync.
func (m *Manager) Watch(since int64) *Watcher { return &Watcher{} }

// Next waits for the next change. A reader that is too slow gets a ChangeResync. The error is ctx's, or fault.Unavailable when the
// manager was closed.
func (w *Watcher) Next(ctx context.Context) (Change, error) { return Change{}, nil }

// Wait returns the sandbox as soon as done says so of it. done is called with nil when the sandbox is gone, and the result is nil then; if done
// does not accept that, the error is fault.NotFound. A manager that closes is a fault.Unavailable.
func (m *Manager) Wait(ctx context.Context, id string, done func(*Sandbox) bool) (*Sandbox, error) {
	return nil, nil
}
