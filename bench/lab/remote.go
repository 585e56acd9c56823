package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Target is an installation that somebody else runs.
type Target struct {
	Name    string // in reports
	Tenants []client.Tenant
	Roots   *x509.CertPool    // nil = the system's
	Tokens  credential.Source // for loads that show tokens
	Own     bool              // whoever runs this owns it: its addresses may be public

	MaxRate        float64 // requests a second that it may get, all loads of a phase together; closed loops are held to what open ones leave; 0 = any
	MaxConcurrency int     // requests in flight, all loads of a phase together; 0 = any
}

// Run sends a scenario to a target, turn by turn. The findings are valid beside an error.
func (l *Lab) Run(ctx context.Context, sc *scenario.Scenario, t Target, turns int) (result.Scenario, error) {
	out := result.Scenario{Name: sc.Name, About: sc.About, Notes: []string{"a target elsewhere: what it costs in processor time and memory is not known here"}}
	if err := t.check(ctx, sc); err != nil {
		return out, err
	}
	if t.MaxRate > 0 && slices.ContainsFunc(sc.Loads, func(ld scenario.Load) bool { return ld.Loop != scenario.Open }) {
		out.Notes = append(out.Notes, fmt.Sprintf("closed loops were held to what open ones leave of %g requests a second (--max-rate): at that rate, it says nothing about the target", t.MaxRate))
	}
	for turn := 1; turn <= turns; turn++ {
		s := &session{lab: l, sc: sc, subject: t.Name, turn: turn, tenants: t.Tenants, roots: t.Roots, own: t.Own, tokens: t.Tokens, maxRate: t.MaxRate}
		runs, err := s.run(ctx)
		for i := range runs {
			runs[i].Variant = describe(sc)
		}
		out.Runs = append(out.Runs, runs...)
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// check refuses what cannot be done to this target, and targets that a load must not go to.
func (t Target) check(ctx context.Context, sc *scenario.Scenario) error {
	if len(t.Tenants) == 0 {
		return errors.New("the target has no tenants: list them in a file, see polybench run --help")
	}
	if sc.Capacity != nil {
		return fmt.Errorf("scenario %s starts gateways of its own: leave out --target", sc.Name)
	}
	for _, ph := range sc.Phases {
		if len(ph.Events) > 0 {
			return fmt.Errorf("scenario %s, phase %s: %s can only be done to a gateway that polybench started itself: leave out --target",
				sc.Name, ph.Name, ph.Events[0].Do)
		}
	}
	for _, ld := range sc.Loads {
		if ld.Credential == scenario.Key {
			if err := t.checkKeys(ld); err != nil {
				return err
			}
		}
		if (ld.Credential == scenario.JWT || ld.Credential == scenario.OIDC) && t.Tokens == nil {
			return fmt.Errorf("scenario %s, load %s shows a token: say who signs it with --jwt-key or --oidc-issuer", sc.Name, ld.Name)
		}
	}
	if err := t.checkLimits(sc); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, tn := range t.Tenants {
		if seen[tn.Addr] {
			continue
		}
		seen[tn.Addr] = true
		if err := client.GuardTarget(ctx, tn.Addr, t.Own); err != nil {
			return err
		}
	}
	return nil
}

// checkKeys finds a tenant that a load would show no key to.
func (t Target) checkKeys(ld scenario.Load) error {
	first, count := ld.Tenants.Range(len(t.Tenants))
	for n, tn := range t.Tenants {
		drawn := n >= first && n < first+count
		if ld.Tenants.Draw == scenario.List {
			drawn = slices.Contains(ld.Tenants.List, tn.Name)
		}
		if drawn && tn.Key == "" {
			return fmt.Errorf("load %s shows the tenants' keys, and there is none for %s: name its file with --key-file, or with key_file or key_env in the file of --tenants", ld.Name, tn.Name)
		}
	}
	return nil
}

// checkLimits refuses loads that are more than the target may get.
func (t Target) checkLimits(sc *scenario.Scenario) error {
	for _, ph := range sc.Phases {
		rate, closed := ratesOf(sc, ph)
		callers := 0
		for _, l := range loadsOf(sc, ph) {
			if l.Concurrency == 0 {
				ld, _ := sc.LoadNamed(l.Load)
				l.Concurrency = ld.Concurrency
			}
			callers += l.Concurrency
		}
		if t.MaxRate > 0 && (rate > t.MaxRate || closed && rate == t.MaxRate) {
			return fmt.Errorf("scenario %s, phase %s asks for %g requests a second%s, and the target gets %g at most: raise --max-rate if it may get more",
				sc.Name, ph.Name, rate, map[bool]string{true: " beside a closed loop"}[closed], t.MaxRate)
		}
		if t.MaxConcurrency > 0 && callers > t.MaxConcurrency {
			return fmt.Errorf("scenario %s, phase %s has %d requests in flight, and the target gets %d at most: raise --max-concurrency if it may get more, or lower --concurrency",
				sc.Name, ph.Name, callers, t.MaxConcurrency)
		}
	}
	return nil
}

// ratesOf returns what the open loops of a phase ask for together, and whether there is a closed one beside them.
func ratesOf(sc *scenario.Scenario, ph scenario.Phase) (open float64, closed bool) {
	for _, l := range loadsOf(sc, ph) {
		ld, _ := sc.LoadNamed(l.Load)
		switch {
		case ld.Loop != scenario.Open:
			closed = true
		case l.Rate > 0:
			open += l.Rate
		default:
			open += ld.Rate
		}
	}
	return open, closed
}

// pacer spaces the requests of closed loops out, so that there are no more than so many a second, of all of them together.
type pacer struct {
	every time.Duration

	mu   sync.Mutex // guards next
	next time.Time  // when the next request may start
}

// pacerOf returns who holds the closed loops of a phase to what its open ones leave of the target's rate.
func pacerOf(sc *scenario.Scenario, ph scenario.Phase, most float64) *pacer {
	open, _ := ratesOf(sc, ph)
	return &pacer{every: time.Duration(min(float64(time.Second)/(most-open), float64(time.Hour)))}
}

// wait gives out the next start, and returns how far off it is.
func (p *pacer) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	d := p.next.Sub(now)
	p.next = p.next.Add(p.every)
	return d
}
