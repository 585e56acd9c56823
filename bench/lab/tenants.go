package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/proc"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Times of the measurement of cost against tenants.
const (
	sweepLoad = 3 * time.Second
	sweepIdle = 3 * time.Second
)

// Tenants measures what a number of tenants costs in each subject, be it one process for all or one for each: started, each tenant
// asked, loaded for a while, and idle. Skippable subjects are skipped; points are valid beside an error.
func (l *Lab) Tenants(ctx context.Context, counts []int, subjects []peer.Peer, cores int) ([]result.TenantsPoint, []result.Skipped, error) {
	var points []result.TenantsPoint
	var skipped []result.Skipped
	out := make(map[string]bool)
	if err := l.take(cores); err != nil {
		return nil, nil, err
	}
	for _, n := range counts {
		sc := sweep(n, cores)
		st, err := l.layOut(ctx, sc)
		if err != nil {
			return points, skipped, err
		}
		for _, p := range subjects {
			if out[p.Name()] {
				continue
			}
			point, err := l.cost(ctx, st, sc, p)
			if peer.Skippable(err) {
				out[p.Name()] = true
				skipped = append(skipped, result.Skipped{Subject: p.Name(), Why: fmt.Sprintf("tenants: %v", err)})
				continue
			}
			if err != nil {
				st.close()
				return points, skipped, fmt.Errorf("%d tenants, %s: %w", n, p.Name(), err)
			}
			points = append(points, point)
		}
		st.close()
	}
	return points, skipped, nil
}

// sweep is the load for so many tenants: first each once, then all alike.
func sweep(n, cores int) *scenario.Scenario {
	ld := scenario.Load{
		Protocol: scenario.HTTP1, Loop: scenario.Closed, Concurrency: 16, Connections: scenario.Kept, Credential: scenario.NoCredential, Timeout: 10 * time.Second,
	}
	each, all := ld, ld
	each.Name, each.Tenants = "each", scenario.Draw{Draw: scenario.Each}
	all.Name, all.Tenants = "all", scenario.Draw{Draw: scenario.Uniform}
	return &scenario.Scenario{
		Name: fmt.Sprintf("%d tenants", n), Site: scenario.Site{Tenants: n, AnswerBytes: 520, Replicas: 1, Cores: cores}, Loads: []scenario.Load{each, all},
		Phases: []scenario.Phase{
			{Name: "each", Loads: []scenario.PhaseLoad{{Load: "each"}}},
			{Name: "all", Loads: []scenario.PhaseLoad{{Load: "all"}}, Warmup: time.Second, Duration: sweepLoad},
		},
	}
}

// cost measures one number of tenants in one subject. Its start is the time that Start takes, of every subject: once, from nothing, with
// the writing of configuration, the tenants' certificates taken in, and a tenant's host greeted.
func (l *Lab) cost(ctx context.Context, st *site, sc *scenario.Scenario, p peer.Peer) (_ result.TenantsPoint, err error) {
	point := result.TenantsPoint{Subject: p.Name(), Tenants: sc.Site.Tenants}
	dir, err := l.folder(p.Name())
	if err != nil {
		return point, err
	}
	defer l.clear(dir)
	mine := st.Site
	mine.Dir = dir
	fitted := fit(p, st, sc)
	if g, ok := fitted.(gateway.Polygate); ok { // like the others: its start is measured
		g.Once = true
		fitted = g
	}
	began := time.Now()
	run, err := fitted.Start(ctx, &mine)
	if err != nil {
		return point, err
	}
	point.StartSecs = time.Since(began).Seconds()
	defer func() {
		if stop := run.Stop(); stop != nil && err == nil {
			err = fmt.Errorf("stop it: %w", stop)
		}
	}()
	s := &session{
		lab: l, sc: sc, subject: p.Name(), turn: 1, tenants: st.targets(run.Addr), roots: st.CA, pids: run.PIDs,
		act: &actions{running: run, upstream: st.upstream}, relayed: true, groups: alike(),
	}
	runs, err := s.run(ctx)
	if err != nil {
		return point, err
	}
	if len(runs) == 0 {
		return point, errors.New("no request was measured")
	}
	for _, r := range runs {
		point.Errors += r.Figures.ErrorCount()
	}
	point.CPUMicros = runs[len(runs)-1].Figures.CPUMicros
	return point, l.idle(ctx, run, &point)
}

// idle waits with nothing to do, and reads what that costs.
func (l *Lab) idle(ctx context.Context, run peer.Running, point *result.TenantsPoint) error {
	before, err := proc.CPU(run.PIDs())
	if err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-time.After(sweepIdle):
	case <-ctx.Done():
		return ctx.Err()
	}
	u, err := proc.Measure(run.PIDs())
	if err != nil {
		return err
	}
	point.IdleCPU = float64(u.CPU-before) / float64(time.Since(began))
	point.RSS, point.PSS, point.Processes = u.RSS, u.PSS, u.Processes
	return nil
}
