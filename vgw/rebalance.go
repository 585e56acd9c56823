package vgw

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/polygate/polygate/internal/placement"
	"github.com/polygate/polygate/internal/tenant"
)

// RebalancerConfig is what a Rebalancer is made with.
type RebalancerConfig struct {
	Mux  *Mux   // required
	Self string // this replica's name; required
	// Nodes returns the live replicas, from memory. Required.
	Nodes    func() []placement.Node
	Overload float64       // see placement.Plan; 0 = 1.25
	Moves    float64       // per second at most; 0 = 5
	Interval time.Duration // between two looks; 0 = 10 s

	// Owned returns the tenants that this replica owns by the index, Changed a channel that is closed with the next change of
	// an owner, and Entry a tenant's. nil = what is handed to this replica is opened at its first request.
	Owned   func() []tenant.ID
	Changed func() <-chan struct{}
	Entry   func(id tenant.ID) (*tenant.Entry, bool)

	Logger *slog.Logger // nil = slog.Default
}

// Rebalancer gives tenants to replicas that have too few, a few at a time, and opens what others give to this one.
type Rebalancer struct{ cfg RebalancerConfig }

// NewRebalancer checks cfg. It starts nothing.
func NewRebalancer(cfg RebalancerConfig) (*Rebalancer, error) {
	if cfg.Mux == nil || cfg.Self == "" || cfg.Nodes == nil {
		return nil, errors.New("vgw: Mux, Self and Nodes are required")
	}
	if cfg.Owned != nil && (cfg.Changed == nil || cfg.Entry == nil) {
		return nil, errors.New("vgw: Owned needs Changed and Entry beside it")
	}
	if cfg.Overload == 0 {
		cfg.Overload = 1.25
	}
	if cfg.Moves == 0 {
		cfg.Moves = 5
	}
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Rebalancer{cfg}, nil
}

// Run works until ctx ends.
func (r *Rebalancer) Run(ctx context.Context) error {
	adopted := make(chan struct{})
	go func() {
		defer close(adopted)
		if r.cfg.Owned != nil {
			r.adopt(ctx)
		}
	}()
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.round(ctx)
		case <-ctx.Done():
			<-adopted
			return nil
		}
	}
}

// round plans once, and makes the moves one by one in the time until the next look. Each is looked at again before it is made:
// the replica that it goes to may be gone by then.
func (r *Rebalancer) round(ctx context.Context) {
	for _, m := range r.plan() {
		if ctx.Err() != nil {
			return
		}
		if r.takes(m.To) {
			r.move(ctx, m)
		}
		wait(ctx, time.Duration(float64(time.Second)/r.cfg.Moves))
	}
}

func (r *Rebalancer) plan() []placement.Move {
	if !r.takes(r.cfg.Self) {
		return nil // it drains, or has no session: then nothing is its own to give
	}
	var owned []string
	for _, id := range r.cfg.Mux.Open() {
		owned = append(owned, string(id))
	}
	limit := max(1, int(math.Floor(r.cfg.Moves*r.cfg.Interval.Seconds())))
	return placement.Plan(r.cfg.Self, owned, r.cfg.Nodes(), r.cfg.Overload, limit)
}

// takes says whether a replica is live and does not drain.
func (r *Rebalancer) takes(name string) bool {
	for _, n := range r.cfg.Nodes() {
		if n.Name == name {
			return !n.Draining
		}
	}
	return false
}

func (r *Rebalancer) move(ctx context.Context, m placement.Move) {
	_, err := r.cfg.Mux.give(ctx, tenant.ID(m.Tenant), m.To, true)
	switch {
	case errors.Is(err, ErrNotOpen) || ctx.Err() != nil:
	case err != nil:
		r.cfg.Logger.Warn("a tenant could not be moved; it is served here", "tenant", m.Tenant, "to", m.To, "err", err)
	default:
		r.cfg.Logger.Info("a tenant was moved, since this replica has more than its share", "tenant", m.Tenant, "to", m.To)
	}
}

// adopt opens what is newly this replica's without its doing. What it claims itself has a place in the Mux before the index
// tells of it; what it gave up may be in the index a moment longer, but is not new there.
func (r *Rebalancer) adopt(ctx context.Context) {
	known := map[tenant.ID]bool{}
	for ctx.Err() == nil {
		changed := r.cfg.Changed()
		began := time.Now()
		now := make(map[tenant.ID]bool, len(known))
		for _, id := range r.cfg.Owned() {
			now[id] = true
			if known[id] || r.cfg.Mux.knows(id) {
				continue
			}
			if e, ok := r.cfg.Entry(id); ok {
				r.cfg.Mux.begin(e)
			}
		}
		known = now
		took := time.Since(began)
		select {
		case <-changed:
		case <-ctx.Done():
		}
		wait(ctx, max(minLook, lookShare*took))
	}
}

// Bounds of looking at what this replica owns: not more often than every few ms, and not for more than some percent of a core
// where it owns a hundred thousand.
const (
	minLook   = 5 * time.Millisecond
	lookShare = 20
)
