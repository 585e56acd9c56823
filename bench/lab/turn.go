package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/load"
	"github.com/polygate/polygate/bench/peer"
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
	if err := able(p, sc); err != nil {
		return nil, err
	}
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

// able returns ErrCannot for a subject that a scenario's events cannot be done to.
func able(p peer.Peer, sc *scenario.Scenario) error {
	if _, ok := p.(gateway.Polygate); ok {
		return nil
	}
	for _, ph := range sc.Phases {
		for _, ev := range ph.Events {
			if ev.Do != scenario.Stall {
				return fmt.Errorf("%s is something that only polygate itself can be measured with: %w", ev.Do, peer.ErrCannot)
			}
		}
	}
	return nil
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
	own     bool    // whoever runs this owns the target
	maxRate float64 // of all loads of a phase together; 0 = any
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
		if err := s.add(ld); err != nil { // it names the load
			return nil, err
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
		if n := c.cl.Retried(); n > 0 && s.lab.repeated != nil {
			s.lab.repeated[s.subject] += n
		}
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

// ReadRoots reads the authorities to trust from a PEM file.
func ReadRoots(path string) (*x509.CertPool, error) {
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
