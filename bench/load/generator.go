package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Callers and timeout of a load that says none; those of a scenario that was parsed say both.
const (
	closedCallers  = 32
	openCallers    = 256
	defaultTimeout = 10 * time.Second
)

// Config is what a Generator is made of.
type Config struct {
	Load    scenario.Load
	Tenants []string               // names by number
	New     func() (Caller, error) // called for each concurrent caller, as it is first needed, by one goroutine at a time
	Seed    uint64                 // of the draws
}

// Generator is the callers of one load. It keeps them, and with them their connections, from phase to phase.
type Generator struct {
	load   scenario.Load
	create func() (Caller, error)
	drawer *Drawer
	tally  *tally
	alarm  func() (alarm, error)

	measuring atomic.Bool // the measured part of a phase is on
	inFlight  atomic.Int64
	round     uint64 // of the phases, so that each draws anew

	mu      sync.Mutex // guards what follows
	callers []Caller   // all, to be closed
	free    []Caller   // those of them that nobody uses
	looked  time.Time  // when Live was last called
}

// New checks a load against the tenants that there are. It starts nothing.
func New(c Config) (*Generator, error) {
	if c.New == nil {
		return nil, errors.New("a generator without callers: set New")
	}
	drawer, err := NewDrawer(c.Load.Tenants, c.Tenants, c.Seed)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", c.Load.Name, err)
	}
	g := &Generator{load: c.Load, create: c.New, drawer: drawer, tally: newTally(), alarm: newAlarm, looked: time.Now()}
	if g.load.Timeout <= 0 {
		g.load.Timeout = defaultTimeout
	}
	if g.load.Concurrency <= 0 {
		g.load.Concurrency = closedCallers
		if g.open() {
			g.load.Concurrency = openCallers
		}
	}
	return g, nil
}

func (g *Generator) open() bool { return g.load.Loop == scenario.Open }

// Span is one phase of a load.
type Span struct {
	Rate        float64       // open: requests a second; 0 = the load's
	From        float64       // open: the rate at which the ramp begins
	Concurrency int           // 0 = the load's
	Ramp        time.Duration // in which the rate goes from From to Rate; left out of the figures
	Warmup      time.Duration // left out of the figures; there is neither where each tenant is drawn once
	Duration    time.Duration // of the measured part; 0 = until each tenant was drawn, with that draw
	// Pace, of a closed loop, is asked before each request for how long it has to wait; it is not a part of the request's time. nil = not
	// at all. Loads may share one; it must be safe for concurrent use.
	Pace func() time.Duration
	// Measured is called as the measured part begins, with true, and as it ends, with false; may be nil. It holds up no request.
	Measured func(begins bool)
}

// complete fills in what the load says, and checks.
func (g *Generator) complete(s Span) (Span, error) {
	if s.Rate == 0 {
		s.Rate = g.load.Rate
	}
	if s.Concurrency == 0 {
		s.Concurrency = g.load.Concurrency
	}
	_, ends := g.drawer.Length()
	if ends { // what it would draw before would never be measured
		s.Ramp, s.Warmup = 0, 0
	}
	switch {
	case g.open() && (!(s.Rate > 0) || math.IsInf(s.Rate, 0)):
		return s, fmt.Errorf("load %s: an open loop at %v requests a second: give it a rate above 0", g.load.Name, s.Rate)
	case g.open() && (!(s.From >= 0) || math.IsInf(s.From, 0)):
		return s, fmt.Errorf("load %s: a ramp from %v requests a second: begin at 0 or above", g.load.Name, s.From)
	case s.Concurrency < 0:
		return s, fmt.Errorf("load %s: %d callers: use 1 at least", g.load.Name, s.Concurrency)
	case s.Ramp < 0 || s.Warmup < 0 || s.Duration < 0:
		return s, fmt.Errorf("load %s: a phase with a time below 0", g.load.Name)
	case s.Duration == 0 && !ends:
		return s, fmt.Errorf("load %s: the phase has no end: give it a duration, or draw each tenant once", g.load.Name)
	}
	return s, nil
}

// Run runs one phase, and returns when its last answer came. What is counted are the requests that are due (open loop) or that start
// (closed) in the measured part. It lasts longer than told only where an open loop could not send all in time: until the last was
// sent, so that a rate is not said to have been reached that was not. The figures are valid beside an error, which is that of ctx, one
// that is Stop, or that a caller could not be made. One goroutine runs phases at a time.
func (g *Generator) Run(ctx context.Context, s Span) (result.Figures, error) {
	s, err := g.complete(s)
	if err != nil {
		return result.Figures{}, err
	}
	g.round++
	p := newPhase(ctx, g, s)
	defer p.cancel(nil)
	defer g.measuring.Store(false)
	var seconds float64
	if g.open() {
		seconds, err = p.runOpen()
	} else {
		seconds = p.runClosed()
	}
	if err == nil {
		err = context.Cause(p.ctx)
	}
	return g.tally.takeSpan(seconds), err
}

// Live is what happened since the last look.
type Live struct {
	Seconds  float64
	Requests int64 // answered rightly
	Errors   int64
	P50, P99 float64 // microseconds
	InFlight int
}

// Live returns what happened since the last call, warm-up and all. It may be called while Run runs.
func (g *Generator) Live() Live {
	g.mu.Lock()
	now := time.Now()
	l := Live{Seconds: now.Sub(g.looked).Seconds(), InFlight: int(g.inFlight.Load())}
	g.looked = now
	g.mu.Unlock()
	c := g.tally.takeLive()
	l.Requests = c.times.TotalCount()
	for _, n := range c.errors {
		l.Errors += n
	}
	if l.Requests > 0 {
		l.P50, l.P99 = float64(c.times.ValueAtQuantile(50)), float64(c.times.ValueAtQuantile(99))
	}
	return l
}

// Handshake records that a new connection took d, if the measured part of a phase is on. It is safe for concurrent use.
func (g *Generator) Handshake(d time.Duration) {
	if g.measuring.Load() {
		g.tally.addHandshake(d)
	}
}

// Close closes the callers. No Run may be on.
func (g *Generator) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var failed []error
	for _, c := range g.callers {
		failed = append(failed, c.Close())
	}
	g.callers, g.free = nil, nil
	return errors.Join(failed...)
}

// caller returns one that nobody uses.
func (g *Generator) caller() (Caller, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.free); n > 0 {
		c := g.free[n-1]
		g.free = g.free[:n-1]
		return c, nil
	}
	c, err := g.create()
	if err != nil {
		return nil, fmt.Errorf("load %s: make a caller: %w", g.load.Name, err)
	}
	g.callers = append(g.callers, c)
	return c, nil
}

func (g *Generator) release(c Caller) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.free = append(g.free, c)
}
