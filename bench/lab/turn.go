package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// turn starts a subject, sends the scenario's loads through its phases, and ends it.
func (l *Lab) turn(ctx context.Context, st *site, sc *scenario.Scenario, p peer.Peer, turn int) (_ []result.Run, err error) {
	dir, err := l.folder(p.Name())
	if err != nil {
		return nil, err
	}
	defer l.clear(dir)
	mine := st.Site
	mine.Dir = dir
	run, err := fit(p, st, sc).Start(ctx, &mine)
	if err != nil {
		return nil, err
	}
	defer func() {
		if stop := run.Stop(); stop != nil && err == nil {
			err = fmt.Errorf("stop it: %w", stop)
		}
	}()
	s := &session{
		lab: l, sc: sc, subject: p.Name(), turn: turn, tenants: st.targets(run.Addr), roots: st.CA, tokens: st.tokens,
		pids: run.PIDs, act: &actions{running: run, upstream: st.upstream}, relayed: !ours(p) || !virtual(sc), groups: alike(),
	}
	return s.run(ctx)
}

// fit gives the product what a scenario asks of it beside the site.
func fit(p peer.Peer, st *site, sc *scenario.Scenario) peer.Peer {
	o := gateway.Options{Virtual: virtual(sc)}
	if speaks(sc, scenario.GRPC) {
		o.TLSPort = st.upstream.Ports.TLS
	}
	switch g := p.(type) {
	case gateway.Polygate:
		g.Replicas, g.Options = sc.Site.Replicas, o
		return g
	case gateway.Each:
		g.Options = o
		return g
	case direct:
		return peer.Direct(st.upstream.Ports.TLS, st.upstream.PID())
	}
	return p
}

// ours tells whether a subject is the product.
func ours(p peer.Peer) bool {
	switch p.(type) {
	case gateway.Polygate, gateway.Each:
		return true
	}
	return false
}

// virtual tells whether the loads are for tenants that the product serves itself.
func virtual(sc *scenario.Scenario) bool {
	for _, ld := range sc.Loads {
		if ld.Protocol != scenario.MCP || ld.Path != "" && ld.Path != mcpPath {
			return false
		}
	}
	return len(sc.Loads) > 0
}

// Where MCP is: at a virtual tenant, and at the upstream.
const (
	mcpPath         = "/servers/bench/mcp"
	mcpUpstreamPath = "/mcp"
)

// alike are the key exchanges that all subjects know, so that a handshake is the same work for each.
func alike() []tls.CurveID { return []tls.CurveID{tls.X25519} }

// session is one subject, or target, under the loads of one scenario.
type session struct {
	lab     *Lab
	sc      *scenario.Scenario
	subject string
	turn    int
	tenants []client.Tenant
	roots   *x509.CertPool
	own     bool // whoever runs this owns the target
	tokens  credential.Source
	pids    func() []int  // nil = not on this machine
	act     *actions      // nil = none possible
	relayed bool          // tenants' paths are those of the upstream
	groups  []tls.CurveID // that clients offer; nil = all
	callers []*caller
}

// caller is a load with what makes its requests.
type caller struct {
	load scenario.Load
	cl   *client.Client
	gen  *load.Generator
	rate float64 // of the phase before
}

func (s *session) run(ctx context.Context) ([]result.Run, error) {
	defer s.close()
	for _, ld := range s.sc.Loads {
		if err := s.add(ld); err != nil {
			return nil, fmt.Errorf("load %s: %w", ld.Name, err)
		}
	}
	for _, c := range s.callers {
		if err := s.probe(ctx, c); err != nil {
			return nil, err
		}
	}
	var runs []result.Run
	for _, ph := range s.sc.Phases {
		got, err := s.phase(ctx, ph)
		runs = append(runs, got...)
		if err != nil {
			return runs, err
		}
	}
	return runs, nil
}

func (s *session) close() {
	for _, c := range s.callers {
		_ = c.gen.Close()
		_ = c.cl.Close()
	}
}

func (s *session) add(ld scenario.Load) error {
	if ld.Protocol == scenario.MCP && (ld.Path == "" || ld.Path == mcpPath) && s.relayed {
		ld.Path = mcpUpstreamPath
	}
	names := make([]string, len(s.tenants))
	for i, t := range s.tenants {
		names[i] = t.Name
	}
	c := &caller{load: ld}
	var err error
	c.cl, err = client.New(client.Config{
		Load: ld, Tenants: s.tenants, Roots: s.roots, Credential: s.credential(ld), Own: s.own,
		Handshake: func(d time.Duration) { c.gen.Handshake(d) }, Groups: s.groups,
	})
	if err != nil {
		return err
	}
	c.gen, err = load.New(load.Config{Load: ld, Tenants: names, New: c.cl.Caller, Seed: uint64(s.turn)})
	if err != nil {
		return errors.Join(err, c.cl.Close())
	}
	s.callers = append(s.callers, c)
	return nil
}

func (s *session) credential(ld scenario.Load) credential.Source {
	if ld.Credential == scenario.JWT || ld.Credential == scenario.OIDC {
		return s.tokens
	}
	return nil
}

// probeTime bounds a request before the load: a target that is slower is no target for a load.
const probeTime = 10 * time.Second

// probe makes one request for the first and the last of a load's tenants, so that what is wrong is said before anything is measured.
func (s *session) probe(ctx context.Context, c *caller) error {
	for _, n := range edges(c.load.Tenants, s.tenants) {
		if err := s.probeOne(ctx, c, n); err != nil {
			return fmt.Errorf("load %s: %w", c.load.Name, err)
		}
	}
	return nil
}

func (s *session) probeOne(ctx context.Context, c *caller, n int) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return c.cl.Probe(ctx, n)
}

// edges returns the first and the last tenant of a draw.
func edges(d scenario.Draw, tenants []client.Tenant) []int {
	first, last := d.First, len(tenants)-1
	if d.Count > 0 {
		last = min(last, d.First+d.Count-1)
	}
	if d.Draw == scenario.List {
		for i, t := range tenants {
			if t.Name == d.List[0] {
				first, last = i, i
			}
		}
	}
	if first >= len(tenants) || last <= first {
		return []int{min(first, len(tenants)-1)}
	}
	return []int{first, last}
}

// phase runs the loads of one phase together. The figures are valid beside an error.
func (s *session) phase(ctx context.Context, ph scenario.Phase) ([]result.Run, error) {
	span := ph.Ramp + ph.Warmup + ph.Duration
	s.lab.cfg.Watcher.Begin(fmt.Sprintf("%s, %s, %s, turn %d", s.sc.Name, s.subject, ph.Name, s.turn), span)
	defer s.lab.cfg.Watcher.End()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &window{s: s, began: make(chan struct{})}
	var g errgroup.Group
	runs := make([]result.Run, 0, len(s.callers))
	figures := make([]result.Figures, 0, len(s.callers))
	ended := make(chan struct{})
	side := s.beside(ctx, cancel, ph, w, ended)
	type one struct {
		c *caller
		l scenario.PhaseLoad
	}
	var all []one
	for _, l := range loadsOf(s.sc, ph) {
		all = append(all, one{s.byName(l.Load), l})
		figures = append(figures, result.Figures{})
	}
	for i, o := range all {
		g.Go(func() (err error) {
			figures[i], err = o.c.run(ctx, ph, o.l, w)
			if err != nil {
				cancel() // the others of the phase have no more to say
			}
			return err
		})
	}
	err := g.Wait()
	close(ended)
	if e := side.Wait(); e != nil { // it is why the loads were ended
		err = e
	}
	w.share(figures)
	for i, o := range all {
		runs = append(runs, result.Run{Subject: s.subject, Turn: s.turn, Phase: ph.Name, Load: o.c.load.Name, Protocol: string(o.c.load.Protocol), Asked: o.c.rate, Figures: figures[i]})
	}
	return runs, err
}

func (s *session) byName(name string) *caller {
	for _, c := range s.callers {
		if c.load.Name == name {
			return c
		}
	}
	return s.callers[0] // a scenario that was parsed names none that is not there
}

// loadsOf returns what calls in a phase: all loads, if it names none.
func loadsOf(sc *scenario.Scenario, ph scenario.Phase) []scenario.PhaseLoad {
	if len(ph.Loads) > 0 {
		return ph.Loads
	}
	var out []scenario.PhaseLoad
	for _, ld := range sc.Loads {
		out = append(out, scenario.PhaseLoad{Load: ld.Name})
	}
	return out
}

func (c *caller) run(ctx context.Context, ph scenario.Phase, l scenario.PhaseLoad, w *window) (result.Figures, error) {
	span := load.Span{
		Rate: l.Rate, From: c.rate, Concurrency: l.Concurrency, Ramp: ph.Ramp, Warmup: ph.Warmup, Duration: ph.Duration, Measured: w.mark,
	}
	if c.load.Loop == scenario.Open {
		if span.Rate == 0 {
			span.Rate = c.load.Rate
		}
		c.rate = span.Rate
	}
	before := c.cl.BytesIn()
	f, err := c.gen.Run(ctx, span)
	f.BytesIn = c.cl.BytesIn() - before
	return f, err
}

// beside runs what goes on beside a phase's loads: the live view and the events. It ends when the phase has, and ends the phase if
// something fails.
func (s *session) beside(ctx context.Context, cancel func(), ph scenario.Phase, w *window, ended <-chan struct{}) *errgroup.Group {
	var g errgroup.Group
	try := func(f func() error) {
		g.Go(func() error {
			err := f()
			if err != nil {
				cancel()
			}
			return err
		})
	}
	try(func() error { return s.watch(ended, len(ph.Events) > 0) })
	for _, ev := range ph.Events {
		try(func() error { return s.event(ctx, ev, w, ended) })
	}
	return &g
}

// hopeless is after how many seconds with nothing but errors a load is given up.
const hopeless = 3

// watch tells the watcher how it goes, each second. It returns an error when a load gets nothing but errors, unless that is what
// is measured.
func (s *session) watch(ended <-chan struct{}, forgiving bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	bad := make([]int, len(s.callers))
	for {
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
		for i, c := range s.callers {
			live := c.gen.Live()
			s.lab.cfg.Watcher.Live(c.load.Name, live)
			switch {
			case live.Requests > 0:
				bad[i] = 0
			case live.Errors > 0:
				bad[i]++
			}
			if bad[i] >= hopeless && !forgiving {
				return fmt.Errorf("load %s gets nothing but errors since %d seconds: %w", c.load.Name, hopeless, errHopeless)
			}
		}
	}
}

var errHopeless = errors.New("the target does not answer it rightly")

// window is the measured part of a phase: from when the first load's begins to when the last one's ends. All loads of a phase have
// the same ramp, warm-up and length, so theirs are one.
type window struct {
	s     *session
	mu    sync.Mutex
	began chan struct{} // closed as it begins
	open  int           // loads in their measured part
	pids  []int         // of the subject as it began
	done  bool          // it has begun
	cost0 time.Duration
	self0 time.Duration
	cost  time.Duration // of the subject
	self  time.Duration // of this process
	mem   proc.Usage    // at its end
}

// mark is called by each load as its measured part begins and ends.
func (w *window) mark(begins bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if begins {
		w.open++
		if !w.done {
			w.done = true
			if w.s.pids != nil {
				w.pids = w.s.pids()
			}
			w.cost0, w.self0 = w.cpu()
			close(w.began)
		}
		return
	}
	if w.open--; w.open > 0 {
		return
	}
	cost, self := w.cpu()
	w.cost, w.self = cost-w.cost0, self-w.self0
	if w.s.pids == nil {
		return
	}
	now := w.s.pids()
	w.mem, _ = proc.Measure(now)
	if !slices.Equal(w.pids, now) { // a process ended meanwhile, and what it had spent is not known any more
		w.cost = 0
	}
}

func (w *window) cpu() (cost, self time.Duration) {
	if w.s.pids != nil {
		cost, _ = proc.CPU(w.s.pids())
	}
	self, _ = proc.Self()
	return cost, self
}

// share divides what the subject and the generator spent among all right answers of the phase.
func (w *window) share(figures []result.Figures) {
	var n int64
	for _, f := range figures {
		n += f.Requests
	}
	for i := range figures {
		f := &figures[i]
		f.RSS, f.PSS = w.mem.RSS, w.mem.PSS
		if n > 0 && w.cost > 0 {
			f.CPUMicros = float64(w.cost.Microseconds()) / float64(n)
		}
		if n > 0 {
			f.Generator = float64(w.self.Microseconds()) / float64(n)
		}
	}
}

func readRoots(path string) (*x509.CertPool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the roots to trust: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}
