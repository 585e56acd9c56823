package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/lab"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// comparer is the command "compare".
type comparer struct {
	bench
	over      overrides
	peers     []string
	variants  []string
	sweep     []int
	turns     int
	noLog     bool
	noCeiling bool
}

func newCompareCommand() *cobra.Command {
	c := &comparer{}
	cmd := &cobra.Command{
		Use: "compare [SCENARIO…]", Short: "Measure Polygate beside its peers",
		Long: `Start Polygate and its peers on loopback, one at a time, with the same certificates, in front of the same upstream, and send the same load
to each: in turns, A B A B, so that whatever else the machine does happens to all. Peers that are not installed, or cannot do
what a variant asks, are skipped with a note.

The peers are the upstream itself (direct), nginx, haproxy, caddy, Go's own reverse proxy (httputil), and a gateway per tenant (polygate-each,
caddy-each). Every figure is the median over the turns with the lowest and the highest; ratios are of the same turn.

Variants are protocols with a credential, such as http1, http2, http1+key, http2+jwt. --tenants measures memory and cost against numbers of
tenants, one process for all beside one for each.`,
		Example: `  polybench compare
  polybench compare throughput --variants http1,http2,http1+jwt --turns 5 --html compare.html
  polybench compare --tenants 1,4,16 --peers polygate,polygate-each,caddy-each`,
		ValidArgsFunction: completeScenario,
	}
	c.flags(cmd)
	c.over.flags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&c.peers, "peers", nil, "what to measure (default: direct, nginx, haproxy, caddy, httputil, polygate; with --tenants polygate, polygate-each, caddy-each)")
	f.StringSliceVar(&c.variants, "variants", nil, "protocols with a credential (default: the scenario's own)")
	f.IntSliceVar(&c.sweep, "tenants", nil, "numbers of tenants to measure memory and cost against, in place of a scenario")
	f.IntVar(&c.turns, "turns", 3, "how many times each is measured")
	f.BoolVar(&c.noLog, "no-access-log", false, "peers write no line per request (Polygate does)")
	f.BoolVar(&c.noCeiling, "no-ceiling", false, "do not measure first what the generator itself reaches")
	_ = cmd.RegisterFlagCompletionFunc("peers", cobra.FixedCompletions(peerNames(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.do(cmd, args) }
	return cmd
}

func (c *comparer) do(cmd *cobra.Command, names []string) error {
	if len(c.sweep) > 0 && len(names) > 0 {
		return usage("--tenants is in place of a scenario")
	}
	if len(names) == 0 {
		names = []string{"throughput"}
	}
	if c.turns < 1 {
		return usage("--turns has to be at least 1")
	}
	if len(c.sweep) > 0 && (len(c.variants) > 0 || c.over != overrides{}) {
		return usage("--tenants measures with a load of its own: leave out --variants and what changes a scenario")
	}
	if err := c.over.zero(cmd.Flags().Changed); err != nil {
		return err
	}
	variants, err := parseVariants(c.variants)
	if err != nil {
		return err
	}
	var all []*scenario.Scenario
	for _, n := range names {
		sc, err := c.over.scenario(n)
		if err == nil && sc.Capacity != nil {
			err = usage("scenario %s is of Polygate alone: polybench run %s", n, n)
		}
		if err != nil {
			return err
		}
		all = append(all, sc)
	}
	if err := c.open(cmd); err != nil {
		return err
	}
	defer c.close()
	if len(c.sweep) > 0 {
		err = c.tenants(cmd.Context())
	} else {
		err = c.scenarios(cmd.Context(), all, variants)
	}
	return c.finish(cmd.Context(), cmd, err)
}

func (c *comparer) scenarios(ctx context.Context, all []*scenario.Scenario, variants []lab.Variant) error {
	subjects, err := c.subjects(ctx, c.peers, defaultPeers(), c.noLog)
	if err != nil {
		return err
	}
	if err := c.ceilings(ctx, all, variants, 4*time.Second); err != nil {
		return err
	}
	for _, sc := range all {
		if err := c.compare(ctx, lab.Job{Scenario: sc, Variants: variants, Subjects: subjects, Turns: c.turns, Notes: logNotes(c.noLog)}); err != nil {
			return err
		}
	}
	return nil
}

func logNotes(noLog bool) []string {
	if noLog {
		return []string{"the peers write no access log, polygate does"}
	}
	return []string{"all write a line for each request to a file, but direct"}
}

// compare measures a job and keeps what was found.
func (b *bench) compare(ctx context.Context, job lab.Job) error {
	found, skipped, err := b.lab.Compare(ctx, job)
	if len(found.Runs) > 0 {
		b.report.Scenarios = append(b.report.Scenarios, found)
	}
	b.report.Skipped = append(b.report.Skipped, skipped...)
	for _, s := range skipped {
		b.progress.Note("%s is skipped: %s", s.Subject, s.Why)
	}
	if err != nil || len(found.Runs) == 0 && len(skipped) > 0 {
		return err
	}
	if err := lab.Judge(job.Scenario, found, tolerated); err != nil { // the rest is measured all the same
		b.wrong = append(b.wrong, err)
	}
	return nil
}

// tolerated is the share of requests that may go wrong without a word beside the report.
const tolerated = 0.01

// ceilings finds out what the generator reaches by itself, for each protocol that is to be measured.
func (c *comparer) ceilings(ctx context.Context, all []*scenario.Scenario, variants []lab.Variant, of time.Duration) error {
	if c.noCeiling {
		return nil
	}
	var protocols []scenario.Protocol
	for _, v := range variants {
		protocols = append(protocols, v.Protocol)
	}
	cores := 1
	for _, sc := range all {
		cores = sc.Site.Cores
		for _, ld := range sc.Loads {
			if len(variants) == 0 {
				protocols = append(protocols, ld.Protocol)
			}
		}
	}
	return c.bench.ceilings(ctx, protocols, cores, of)
}

func (b *bench) ceilings(ctx context.Context, protocols []scenario.Protocol, cores int, of time.Duration) error {
	slices.Sort(protocols)
	for _, p := range slices.Compact(protocols) {
		ceiling, err := b.lab.Ceiling(ctx, p, cores, of)
		if err != nil {
			return err
		}
		b.report.Ceilings = append(b.report.Ceilings, ceiling)
	}
	return nil
}

func (c *comparer) tenants(ctx context.Context) error {
	subjects, err := c.subjects(ctx, c.peers, []string{"polygate", "polygate-each", "caddy-each"}, c.noLog)
	if err != nil {
		return err
	}
	return c.bench.tenants(ctx, c.sweep, subjects)
}

func (b *bench) tenants(ctx context.Context, counts []int, subjects []peer.Peer) error {
	points, skipped, err := b.lab.Tenants(ctx, counts, subjects, 1)
	b.report.Tenants = append(b.report.Tenants, points...)
	b.report.Skipped = append(b.report.Skipped, skipped...)
	return err
}

func defaultPeers() []string {
	return []string{"direct", "nginx", "haproxy", "caddy", "httputil", "polygate"}
}

func peerNames() []string { return append(defaultPeers(), "polygate-each", "caddy-each") }

// subjects returns the peers with these names that are there. Those that are not are noted as skipped.
func (b *bench) subjects(ctx context.Context, names, standard []string, noLog bool) ([]peer.Peer, error) {
	if len(names) == 0 {
		names = standard
	}
	var out []peer.Peer
	for _, name := range names {
		p, err := b.peer(name, noLog)
		if err != nil {
			return nil, err
		}
		v, err := p.Version(ctx)
		if errors.Is(err, peer.ErrMissing) {
			b.report.Skipped = append(b.report.Skipped, result.Skipped{Subject: name, Why: err.Error()})
			b.progress.Note("%s is skipped: %v", name, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if v != "" {
			b.report.Versions[p.Name()] = v
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("none of the peers is there: see polybench peers")
	}
	return out, nil
}

// peer returns the subject with that name.
func (b *bench) peer(name string, noLog bool) (peer.Peer, error) {
	var o []peer.Option
	if noLog {
		o = append(o, peer.WithoutLog())
	}
	switch name {
	case "direct":
		return lab.Direct(), nil
	case "nginx":
		return peer.Nginx(o...), nil
	case "haproxy":
		return peer.HAProxy(o...), nil
	case "caddy", "caddy-each":
		cache, err := cacheDir()
		if err != nil {
			return nil, err
		}
		if name == "caddy" {
			return peer.Caddy(cache, o...), nil
		}
		return peer.CaddyEach(cache, o...), nil
	case "httputil":
		self, err := os.Executable()
		return peer.ReverseProxy([]string{self, reverseProxyWord}, o...), err
	case "polygate", "polygate-each":
		binary, err := b.gateway()
		if name == "polygate" {
			return gateway.Polygate{Binary: binary}, err
		}
		return gateway.Each{Binary: binary}, err
	}
	return nil, usage("there is no peer %q: there are %s", name, strings.Join(peerNames(), ", "))
}

// cacheDir is where programs are kept that had to be built.
func cacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for programs that have to be built: %w", err)
	}
	return filepath.Join(dir, "polybench"), nil
}

// parseVariants reads protocols with a credential.
func parseVariants(words []string) ([]lab.Variant, error) {
	var out []lab.Variant
	for _, w := range words {
		protocol, credential, _ := strings.Cut(w, "+")
		if credential == "" {
			credential = string(scenario.NoCredential)
		}
		v := lab.Variant{Name: strings.ReplaceAll(w, "+", ", "), Protocol: scenario.Protocol(protocol), Credential: scenario.Credential(credential)}
		if !slices.Contains(protocols(), v.Protocol) {
			return nil, usage("--variants: there is no protocol %q: there are http1, http2, websocket, sse, mcp, grpc", protocol)
		}
		if !slices.Contains([]scenario.Credential{scenario.NoCredential, scenario.Key, scenario.JWT, scenario.OIDC}, v.Credential) {
			return nil, usage("--variants: there is no credential %q: there are none, key, jwt, oidc", credential)
		}
		out = append(out, v)
	}
	return out, nil
}

func protocols() []scenario.Protocol {
	return []scenario.Protocol{scenario.HTTP1, scenario.HTTP2, scenario.WebSocket, scenario.SSE, scenario.MCP, scenario.GRPC}
}
