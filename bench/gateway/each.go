package gateway

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/polygate/polygate/bench/peer"
)

// Each is a gateway per tenant: one process for each, with a registry of its own inside.
type Each struct {
	Binary string
	Options
}

var _ peer.Peer = Each{}

// Name implements peer.Peer.
func (Each) Name() string { return "polygate-each" }

// Version implements peer.Peer.
func (e Each) Version(ctx context.Context) (string, error) { return version(ctx, e.Binary) }

// atATime is how many processes are started at a time.
const atATime = 4

// EachRunning is gateways, one for each tenant.
type EachRunning struct{ gateways []*Running }

// Start implements peer.Peer. What it returns is an *EachRunning. Each process is started once: it has one tenant to take in.
func (e Each) Start(ctx context.Context, s *peer.Site) (peer.Running, error) {
	o := e.Options
	o.Once = true
	r := &EachRunning{gateways: make([]*Running, len(s.Tenants))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	for i := range s.Tenants {
		g.Go(func() (err error) {
			one := *s
			one.Dir, one.Tenants = filepath.Join(s.Dir, s.Tenants[i].Name), s.Tenants[i:i+1]
			r.gateways[i], err = Polygate{Binary: e.Binary, Options: o}.run(ctx, &one)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, errors.Join(fmt.Errorf("a gateway for each tenant: %w", err), r.Stop())
	}
	return r, nil
}

// Addr implements peer.Running.
func (r *EachRunning) Addr(tenant int) string { return r.gateways[tenant].Addr(0) }

// PIDs implements peer.Running.
func (r *EachRunning) PIDs() []int {
	var pids []int
	for _, g := range r.gateways {
		pids = append(pids, g.PIDs()...)
	}
	return pids
}

// Stop implements peer.Running.
func (r *EachRunning) Stop() error {
	var errs []error
	for _, g := range r.gateways {
		if g != nil {
			errs = append(errs, g.Stop())
		}
	}
	return errors.Join(errs...)
}
