package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// probed is how many tenants are asked all the time, to see for how long they are away.
const probed = 10

const (
	probeEvery    = 250 * time.Millisecond
	probePatience = 1500 * time.Millisecond
)

// gap is a time in which a tenant was not served.
type gap struct {
	tenant   int
	from, to time.Duration // since the run began
	why      string        // the first failure
}

func (g gap) length() time.Duration { return g.to - g.from }

// probes ask for some tenants all the time.
type probes struct {
	f    *fleet
	quit chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex // guards what follows
	gaps []gap
	sent int
}

func (f *fleet) startProbes() *probes {
	p := &probes{f: f, quit: make(chan struct{})}
	for tenant := range probed {
		p.wg.Go(func() { p.probe(tenant) })
	}
	return p
}

func (p *probes) stop() {
	close(p.quit)
	p.wg.Wait()
}

// probe asks for one tenant. A gap is from the sending of the first request that failed to the first good answer.
func (p *probes) probe(tenant int) {
	rng := rand.New(rand.NewPCG(p.f.settings.seed, 1<<34+uint64(tenant)))
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	var away *gap
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
		}
		call := time.Since(p.f.clock)
		got := p.f.balanced(rng, false, probePatience, tenant, http.MethodGet, "/api/v1/servers/c-"+tenantName(tenant)+"-base", nil)
		p.mu.Lock()
		p.sent++
		switch {
		case got.status == http.StatusOK && away != nil:
			away.to = time.Since(p.f.clock)
			p.gaps, away = append(p.gaps, *away), nil
		case got.status != http.StatusOK && away == nil:
			away = &gap{tenant: tenant, from: call, why: fmt.Sprintf("%s: %d %.200s %v", got.replica, got.status, got.body, got.err)}
		}
		p.mu.Unlock()
		if got.status != http.StatusOK {
			tick.Reset(probeEvery / 4)
		} else {
			tick.Reset(probeEvery)
		}
	}
}

// during returns the longest gap of each tenant that lies within a time, and 0 of those that had none.
func (p *probes) during(from, to time.Duration) []gap {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]gap, probed)
	for _, g := range p.gaps {
		if g.from < to && g.to > from && g.length() > out[g.tenant].length() {
			out[g.tenant] = g
		}
	}
	return out
}

// quantile returns the q-th part of sorted lengths.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// check fails where a tenant was away much longer than a fault explains.
func (p *probes) check(t *testing.T, n *nemesis) {
	for _, in := range n.injected {
		for _, g := range p.during(in.from, in.to) {
			if limit := in.lasted + n.patience(); g.length() > limit {
				t.Errorf("%s was away for %s in %s (%s), which itself lasted %s; want at most %s: %s",
					tenantName(g.tenant), g.length().Round(time.Millisecond), in.fault, in.what, in.lasted.Round(time.Millisecond), limit.Round(time.Millisecond), g.why)
			}
		}
	}
}

func sortedLengths(gaps []gap) (out []time.Duration) {
	for _, g := range gaps {
		if g.length() > 0 {
			out = append(out, g.length())
		}
	}
	slices.Sort(out)
	return out
}
