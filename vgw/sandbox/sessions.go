package sandbox

import (
	"context"
	"io"
)

// Exec runs a command in a sandbox. It counts as a session: the sandbox is not idle meanwhile. ctx ends it; the manager's end does not.
// A sandbox that does not run is a fault.Conflict that says what to do, an absent one fault.NotFound, too many sessions fault.RateLimited.
func (m *Manager) Exec(ctx context.Context, id string, x Exec) (Exit, error) { return Exit{}, nil }

// Logs reads what the run of a sandbox wrote, the last one's as long as something of it is left. A followed log counts as a session.
// The caller closes it.
func (m *Manager) Logs(ctx context.Context, id string, q LogQuery) (io.ReadCloser, error) {
	return nil, nil
}

// Events tells what the cluster did with the run of a sandbox, oldest first.
func (m *Manager) Events(ctx context.Context, id string) ([]Event, error) { return nil, nil }
