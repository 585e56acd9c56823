// Package shares divides tenants' limits among the replicas: it asks the keepers for shares of what tenants want here, and
// answers for the tenants whose keeper this replica is. What is decided is in quota/share; here are the messages, the clock
// and the loop.
package shares

import (
	"context"
	"log/slog"
	"time"

	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/tenant"
)

// Guards know what tenants want, and spend by the parts that they have. *guard.Set implements it.
type Guards interface {
	Demands(all []guard.Demand) []guard.Demand
	PartChanged(s tenant.Scope)
	PartsChanged()
}

// Config is what Shares are made with.
type Config struct {
	Replica string // this replica's name; required
	// Replicas returns the names of the live replicas, this one among them. nil or an empty answer = this one alone.
	Replicas func() []string
	// Keeper returns which replica keeps the shares of a tenant: its owner, else the one that placement prefers. "" = nobody
	// now.
	Keeper func(id tenant.ID) string
	Caller peer.Caller   // required where there are others
	Period time.Duration // between two rounds; 0 = 200 ms
	Logger *slog.Logger  // nil = nothing is logged
}

// Shares is one replica's part in dividing limits. It is safe for concurrent use.
type Shares struct {
	cfg Config
}

// New returns Shares that divide nothing before Run.
func New(cfg Config) *Shares {
	return &Shares{cfg: cfg}
}

// Part implements guard.Config.Part.
func (s *Shares) Part(tenant.Scope) guard.Part { return guard.Whole() }

// Wanting implements guard.Config.Wanting: the next round comes at once.
func (s *Shares) Wanting(tenant.Scope) {}

// Handle answers peer.Shares.
func (s *Shares) Handle(ctx context.Context, from string, body []byte) ([]byte, error) {
	return nil, nil
}

// Run asks the keepers, until ctx ends.
func (s *Shares) Run(ctx context.Context, g Guards) error {
	<-ctx.Done()
	return nil
}
