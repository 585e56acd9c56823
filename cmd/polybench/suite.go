package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/lab"
	"github.com/polygate/polygate/bench/scenario"
)

// suite is the command "suite": the measurements whose figures the project keeps.
type suite struct {
	bench
	full bool
}

func newSuiteCommand() *cobra.Command {
	s := &suite{}
	c := &cobra.Command{
		Use: "suite", Short: "Measure what the project keeps figures of",
		Long: `Measure everything that bench/RESULTS.md holds: the generator's ceiling, throughput and cost beside the peers over HTTP/1.1 and HTTP/2, with
and without credentials, latency at rates, handshakes, a noisy neighbour, what tenants cost, and one process for all tenants beside
one for each. It takes some 10 minutes; with --full an hour, with more turns, all scenarios and up to 100,000 tenants.`,
		Example: "  polybench suite --markdown bench/RESULTS.md --json bench/results.json --html bench/results.html",
		Args:    cobra.NoArgs,
	}
	s.flags(c)
	c.Flags().BoolVar(&s.full, "full", false, "measure everything, for longer")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.open(cmd); err != nil {
			return err
		}
		defer s.close()
		return s.finish(cmd.Context(), cmd, s.all(cmd.Context()))
	}
	return c
}

// step is one part of the suite.
type step struct {
	scenario         string
	variants, peers  []string
	turns            int
	warmup, duration time.Duration // 0 = the scenario's
}

// steps returns the parts that compare. The short suite fits in ten minutes together with tenants and capacity.
func (s *suite) steps() []step {
	gateways := []string{"nginx", "haproxy", "polygate"}
	if !s.full {
		return []step{
			{"throughput", []string{"http1", "http2"}, nil, 3, time.Second, 3 * time.Second},
			{"throughput", []string{"http1+key", "http1+jwt"}, []string{"haproxy", "nginx", "polygate"}, 3, time.Second, 3 * time.Second},
			{"throughput", []string{"mcp+key", "websocket", "sse", "grpc"}, []string{"direct", "polygate"}, 1, time.Second, 3 * time.Second},
			{"latency-at-rate", nil, gateways, 1, time.Second, 3 * time.Second},
			{"handshakes", nil, append([]string{"direct"}, gateways...), 1, time.Second, 4 * time.Second},
			{"noisy-neighbour", nil, []string{"polygate"}, 1, time.Second, 5 * time.Second},
		}
	}
	return []step{
		{"throughput", []string{"http1", "http2", "http1+key", "http2+key", "http1+jwt", "http2+jwt"}, nil, 5, 2 * time.Second, 6 * time.Second},
		{"throughput", []string{"mcp+key", "websocket", "sse", "grpc"}, []string{"direct", "nginx", "polygate"}, 5, 2 * time.Second, 6 * time.Second},
		{"latency-at-rate", nil, gateways, 3, 0, 0},
		{"handshakes", nil, append([]string{"direct", "caddy"}, gateways...), 3, 0, 0},
		{"noisy-neighbour", nil, gateways, 3, 0, 0},
		{"cold-tenants", nil, []string{"polygate"}, 3, 0, 0},
		{"reload", nil, []string{"polygate"}, 3, 0, 0},
		{"failover", nil, []string{"polygate"}, 3, 0, 0},
		{"mixed-day", nil, []string{"polygate"}, 2, 0, 0},
	}
}

// sizes returns the numbers of tenants for one process beside one for each, and those that are registered.
func (s *suite) sizes() (sweep, registered []int) {
	if s.full {
		return []int{1, 4, 16, 50}, []int{0, 1000, 10000, 100000}
	}
	return []int{1, 4, 12}, []int{0, 1000, 10000}
}

func (s *suite) all(ctx context.Context) error {
	if err := s.ceilings(ctx, []scenario.Protocol{scenario.HTTP1, scenario.HTTP2}, 1, 3*time.Second); err != nil {
		return err
	}
	for _, st := range s.steps() {
		if err := s.step(ctx, st); err != nil {
			return err
		}
	}
	sweep, registered := s.sizes()
	subjects, err := s.subjects(ctx, nil, []string{"polygate", "polygate-each", "caddy-each"}, false)
	if err != nil {
		return err
	}
	if err := s.tenants(ctx, sweep, subjects); err != nil {
		return err
	}
	return s.capacity(ctx, registered)
}

func (s *suite) step(ctx context.Context, st step) error {
	sc, err := scenario.Read(st.scenario)
	if err != nil {
		return err
	}
	variants, err := parseVariants(st.variants)
	if err != nil {
		return err
	}
	subjects, err := s.subjects(ctx, st.peers, defaultPeers(), false)
	if err != nil {
		return err
	}
	return s.compare(ctx, lab.Job{Scenario: sc, Variants: variants, Subjects: subjects, Turns: st.turns, Warmup: st.warmup, Duration: st.duration, Notes: logNotes(false)})
}

func (s *suite) capacity(ctx context.Context, registered []int) error {
	sc, err := scenario.Read("capacity")
	if err != nil {
		return err
	}
	if sc.Capacity == nil {
		return fmt.Errorf("scenario %s measures no capacity", sc.Name)
	}
	sc.Capacity.Registered = registered
	binary, err := s.gateway()
	if err != nil {
		return err
	}
	s.report.Capacity, err = s.lab.Capacity(ctx, binary, sc)
	return err
}
