package load

import (
	"context"
	"errors"
	"time"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Config is what a Generator is made of.
type Config struct {
	Load    scenario.Load
	Tenants []string               // names by number
	New     func() (Caller, error) // called for each concurrent caller, by one goroutine at a time
	Seed    uint64                 // of the draws
}

// Generator is the callers of one load. It keeps them, and with them their connections, from phase to phase.
type Generator struct{ config Config }

// Span is one phase of a load.
type Span struct {
	Rate        float64       // open: requests a second; 0 = the load's
	From        float64       // open: the rate at which the ramp begins
	Concurrency int           // 0 = the load's
	Ramp        time.Duration // in which the rate goes from From to Rate; left out of the figures
	Warmup      time.Duration // left out of the figures
	Duration    time.Duration // of the measured part; 0 = until each tenant was drawn, with that draw
	// Measured is called as the measured part begins, with true, and as it ends, with false; may be nil.
	Measured func(begins bool)
}

// Live is what happened since the last look.
type Live struct {
	Seconds  float64
	Requests int64 // answered rightly
	Errors   int64
	P50, P99 float64 // microseconds
	InFlight int
}

// New checks a load against the tenants that there are. It starts nothing.
func New(c Config) (*Generator, error) { return &Generator{config: c}, nil }

// Run runs one phase, and returns when its last answer came. The figures are valid beside an error: of ctx, or one that is Stop.
// One goroutine runs phases at a time.
func (g *Generator) Run(ctx context.Context, s Span) (result.Figures, error) {
	return result.Figures{}, errors.ErrUnsupported
}

// Live returns what happened since the last call. It may be called while Run runs.
func (g *Generator) Live() Live { return Live{} }

// Handshake records that a new connection took d, if the measured part of a phase is on. It is safe for concurrent use.
func (g *Generator) Handshake(d time.Duration) {}

// Close closes the callers. No Run may be on.
func (g *Generator) Close() error { return nil }
