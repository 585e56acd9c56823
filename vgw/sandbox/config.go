package sandbox

import (
	"context"
	"log/slog"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/tenant"
)

// Store is a tenant's state under its claim, as far as sandboxes need it. A lost claim refuses every commit.
type Store interface {
	// Load returns all stored objects of a kind.
	Load(ctx context.Context, kind string) ([]tenant.Object, error)
	// Commit writes all or nothing, with a record of the action on resource in the same transaction, on the system's behalf.
	Commit(ctx context.Context, action authz.Action, resource string, w ...tenant.Write) error
}

// Sealer seals values with the tenant's data key, bound to where they belong.
type Sealer interface {
	Seal(plain []byte, context ...string) ([]byte, error)
	Open(sealed []byte, context ...string) ([]byte, error)
}

// Config is what a Manager is built from. Driver, Store and Tenant are required.
type Config struct {
	Driver Driver
	Store  Store
	Tenant Tenant
	Rules  Rules
	Sealer Sealer // seals what is stored; nil = it is stored in the clear
	Meter  *Meter // nil = use is not added up
	Pace   Pace
	Logger *slog.Logger     // nil = none
	Now    func() time.Time // nil = time.Now

	// MaxSessions bounds the exec and log streams that are open of one sandbox; 0 = 16.
	MaxSessions int
	// Calls bounds the driver's calls that run at once, sessions not counted; 0 = 8.
	Calls int
	// SampleEvery is how often the driver is asked what runs use; 0 = 1 minute.
	SampleEvery time.Duration
	// OrphanGrace is for how long a run that no record knows is left alone; 0 = 2 minutes.
	OrphanGrace time.Duration

	// Awake is told whether there is work to do without requests: something lives, is to be removed or added up, or may be left of a call of
	// unknown outcome. It is told true before what makes work is stored, and false when nothing was found for a while after the last work. It
	// may block for a moment; it must not call the manager. nil = nobody asks.
	Awake func(bool)
	// Worked is what Awake was told last, here or by the last owner. If true, there may be runs although there is no sandbox: they are looked
	// for, from when the cluster is reached and for OrphanGrace and a minute, before Awake is told false. If false, a tenant without
	// sandboxes costs nothing.
	Worked bool
	// Forgets returns what else is deleted with a sandbox's record, in the same transaction, such as delegations. nil = nothing.
	Forgets func(*Sandbox) []tenant.Write
	// Changed is told of every change after it was stored, in order; it must not block, nor call the manager. nil = nobody asks.
	Changed func(Change)
}

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&c.MaxSessions, 16}, {&c.Calls, 8}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.SampleEvery, time.Minute}, {&c.OrphanGrace, 2 * time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.Pace = c.Pace.withDefaults()
	return c
}
