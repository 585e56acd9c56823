package gateway

import (
	"context"
	"errors"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// CapacityConfig is where capacity is measured.
type CapacityConfig struct {
	Binary   string
	Dir      string // empty, for all state and logs
	Domain   string // "" = localhost
	Upstream string // host:port of an HTTP upstream with /mcp, /events; "" = none, streams cannot be held then
	Canary   string // what its answers hold
	Cores    []int  // that the gateway may run on; nil = all
}

// Capacity starts the gateway once for each number of registered tenants and measures its memory, at the start and with some of them
// active and connected. Points that were measured are returned beside an error.
func Capacity(ctx context.Context, c CapacityConfig, s scenario.Capacity, progress func(string)) ([]result.CapacityPoint, error) {
	return nil, errors.New("not there yet")
}
