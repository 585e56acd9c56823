package sandboxtest

import (
	"context"
	"io"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// Staged is a driver in memory, for all tenants at once, which fails as it is told to. It is a sandbox.Drivers and its sandbox.Driver.
type Staged struct{}

// NewStaged returns a driver whose runs start at once.
func NewStaged() *Staged { return &Staged{} }

// Name implements sandbox.Drivers.
func (s *Staged) Name() string { return "staged" }

// Open implements sandbox.Drivers.
func (s *Staged) Open(sandbox.Tenant) (sandbox.Driver, error) { return s, nil }

// Prepare implements sandbox.Driver.
func (s *Staged) Prepare(context.Context) error { return nil }

// Create implements sandbox.Driver.
func (s *Staged) Create(context.Context, sandbox.Task) (string, error) { return "", nil }

// Remove implements sandbox.Driver.
func (s *Staged) Remove(context.Context, sandbox.Task, time.Duration) error { return nil }

// Release implements sandbox.Driver.
func (s *Staged) Release(context.Context, sandbox.Task) error { return nil }

// Watch implements sandbox.Driver.
func (s *Staged) Watch(ctx context.Context, seen func(sandbox.Observation), synced func()) error {
	synced()
	<-ctx.Done()
	return ctx.Err()
}

// Exec implements sandbox.Driver.
func (s *Staged) Exec(context.Context, sandbox.Task, sandbox.Exec) (sandbox.Exit, error) {
	return sandbox.Exit{}, nil
}

// Logs implements sandbox.Driver.
func (s *Staged) Logs(context.Context, sandbox.Task, sandbox.LogQuery) (io.ReadCloser, error) {
	return nil, nil
}

// Events implements sandbox.Driver.
func (s *Staged) Events(context.Context, sandbox.Task) ([]sandbox.Event, error) { return nil, nil }

// Used implements sandbox.Driver.
func (s *Staged) Used(context.Context) (map[string]sandbox.Used, error) {
	return nil, sandbox.ErrUnmetered
}

// Close implements sandbox.Driver.
func (s *Staged) Close() {}
