package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// Direct returns the upstream itself as a subject: its TLS port, with nothing between. What the generator reaches there is the most
// that it can find out about anything else.
func Direct() peer.Peer { return direct{peer.Direct(0)} }

// direct stands for the upstream of the site that is laid out: its port is known then only.
type direct struct{ peer.Peer }

// Ceiling finds out what generator and upstream reach by themselves, on the processors that they have beside a subject.
func (l *Lab) Ceiling(ctx context.Context, p scenario.Protocol, cores int, of time.Duration) (result.Ceiling, error) {
	out := result.Ceiling{Protocol: string(p)}
	sc := &scenario.Scenario{
		Name: "ceiling", Site: scenario.Site{Tenants: 8, AnswerBytes: 520, Replicas: 1, Cores: cores},
		Loads:  []scenario.Load{{Name: "all", Protocol: p, Loop: scenario.Closed, Concurrency: 32, Connections: scenario.Kept, Credential: scenario.NoCredential, Tenants: scenario.Draw{Draw: scenario.Uniform}, Messages: 10, Timeout: 10 * time.Second}},
		Phases: []scenario.Phase{{Name: "all", Warmup: of / 4, Duration: of}},
	}
	if err := l.take(cores); err != nil {
		return out, err
	}
	st, err := l.layOut(ctx, sc)
	if err != nil {
		return out, err
	}
	defer st.close()
	runs, err := l.turn(ctx, st, sc, Direct(), 1)
	if err != nil {
		return out, fmt.Errorf("ceiling, %s: %w", p, err)
	}
	if err := Judge(sc, result.Scenario{Runs: runs}, 0); err != nil {
		return out, err
	}
	f := runs[0].Figures
	out.Rate, out.CPUMicros = f.Rate, f.CPUMicros+f.Generator
	return out, nil
}
