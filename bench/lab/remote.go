package lab

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

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

	MaxRate        float64 // requests a second that may be asked for, all loads of a phase together
	MaxConcurrency int     // requests in flight, likewise
}

// Run sends a scenario to a target, turn by turn. The findings are valid beside an error.
func (l *Lab) Run(ctx context.Context, sc *scenario.Scenario, t Target, turns int) (result.Scenario, error) {
	out := result.Scenario{Name: sc.Name, About: sc.About, Notes: []string{"a target elsewhere: what it costs in processor time and memory is not known here"}}
	if err := t.check(ctx, sc); err != nil {
		return out, err
	}
	for turn := 1; turn <= turns; turn++ {
		s := &session{lab: l, sc: sc, subject: t.Name, turn: turn, tenants: t.Tenants, roots: t.Roots, own: t.Own, tokens: t.Tokens}
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

// checkLimits refuses loads that are more than the target may get.
func (t Target) checkLimits(sc *scenario.Scenario) error {
	loads := make(map[string]scenario.Load)
	for _, ld := range sc.Loads {
		loads[ld.Name] = ld
	}
	for _, ph := range sc.Phases {
		rate, callers := 0.0, 0
		for _, l := range loadsOf(sc, ph) {
			ld := loads[l.Load]
			if l.Concurrency == 0 {
				l.Concurrency = ld.Concurrency
			}
			if l.Rate == 0 {
				l.Rate = ld.Rate
			}
			rate, callers = rate+l.Rate, callers+l.Concurrency
		}
		if t.MaxRate > 0 && rate > t.MaxRate {
			return fmt.Errorf("scenario %s, phase %s asks for %g requests a second, and the target gets %g at most: raise --max-rate if it may get more", sc.Name, ph.Name, rate, t.MaxRate)
		}
		if t.MaxConcurrency > 0 && callers > t.MaxConcurrency {
			return fmt.Errorf("scenario %s, phase %s has %d requests in flight, and the target gets %d at most: raise --max-concurrency if it may get more, or lower --concurrency",
				sc.Name, ph.Name, callers, t.MaxConcurrency)
		}
	}
	return nil
}
