package vgw

import (
	"context"
	"errors"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

// KeeperConfig is what a Keeper is made with.
type KeeperConfig struct {
	Mux   *Mux                    // required
	Awake func() []*tenant.Entry  // required: the tenants with work that goes on without requests, of all replicas
	Here  func(tenant.Scope) bool // required: whether a tenant is served by this replica, or would be
	Every time.Duration           // between two looks; 0 = 1 s
}

// Keeper keeps the gateways open of tenants that have work without requests, such as sandboxes whose lifetime is to end: after
// the crash of their owner nobody else would ask for them. Which replica is to, placement says, as it does for requests.
type Keeper struct{ cfg KeeperConfig }

// NewKeeper checks cfg.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if cfg.Mux == nil || cfg.Awake == nil || cfg.Here == nil {
		return nil, errors.New("vgw: Mux, Awake and Here are required")
	}
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	return &Keeper{cfg}, nil
}

// Run looks until ctx ends. A look costs in the number of tenants that are awake, and nothing where there is none.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Every)
	defer tick.Stop()
	for {
		for _, e := range k.cfg.Awake() {
			if ctx.Err() == nil && k.cfg.Here(e.Scope) {
				k.cfg.Mux.begin(e) // nothing, where it is open, or was just tried
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
