package gateway

import (
	"context"
	"errors"

	"github.com/polygate/polygate/bench/peer"
)

// Running is a started gateway, with what scenarios do to it. One goroutine uses its actions at a time; Addr, PIDs and StoreBytes may
// be called meanwhile.
type Running struct{}

var _ peer.Running = (*Running)(nil)

// errLater is what parts return that are not there yet.
var errLater = errors.New("not there yet")

// Start implements peer.Peer. What it returns is a *Running.
func (p Polygate) Start(ctx context.Context, s *peer.Site) (peer.Running, error) {
	return nil, errLater
}

// Addr implements peer.Running.
func (r *Running) Addr(tenant int) string { return "" }

// PIDs implements peer.Running: those of the replicas that run. An etcd of their own is none of them.
func (r *Running) PIDs() []int { return nil }

// Stop implements peer.Running.
func (r *Running) Stop() error { return nil }

// Reload changes one tenant in the tenants file, has it read again (SIGHUP), and returns when the change is in force on all replicas.
func (r *Running) Reload(ctx context.Context) error { return errLater }

// Crash kills (SIGKILL) the replica that owns most of the tenants with these numbers, of all if there are none. It is started again
// 2 s later; Crash returns when it is ready.
func (r *Running) Crash(ctx context.Context, tenants []int) error { return errLater }

// Drain ends that replica as an operator does (SIGTERM), and starts it again when it has ended. It returns when it is ready.
func (r *Running) Drain(ctx context.Context, tenants []int) error { return errLater }

// StoreBytes is how much of the registry's database is in use.
func (r *Running) StoreBytes(ctx context.Context) (int64, error) { return 0, errLater }
