package gateway

import (
	"context"

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

// Start implements peer.Peer.
func (e Each) Start(ctx context.Context, s *peer.Site) (peer.Running, error) { return nil, errLater }
