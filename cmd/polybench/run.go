package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/client"
	"github.com/polygate/polygate/bench/credential"
	"github.com/polygate/polygate/bench/gateway"
	"github.com/polygate/polygate/bench/lab"
	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

// runner is the command "run".
type runner struct {
	bench
	target    targetFlags
	over      overrides
	turns     int
	maxErrors float64
}

func newRunCommand() *cobra.Command {
	r := &runner{}
	c := &cobra.Command{
		Use: "run SCENARIO", Short: "Send a scenario's load to a gateway",
		Long: `Send the load of a scenario, one that comes along (see polybench scenarios) or a YAML file, to a gateway: to one that is started for it on
loopback, or to --target.

A target is an installation with tenants of your own. One tenant is named by its URL and --key-file; several by a file:

  address: gateway.example.com:443       # that is dialled; default: each tenant's host
  tenants:
    - name: team-a                       # default: the host's first label
      host: team-a.example.com
      key_file: keys/team-a              # or key_env: TEAM_A_KEY
      canary: "served by team-a"         # what every right answer holds, and no other tenant's; default: the status says

Public addresses are refused unless you say that the target is yours to load. Ctrl-C ends the run and prints what was measured.`,
		Example: `  polybench run throughput
  polybench run latency-at-rate --turns 3 --html latency.html
  polybench run load.yaml --target https://team-a.example.com --key-file team-a.key --i-own-this-target
  polybench run load.yaml --tenants tenants.yaml --ca ca.pem`,
		Args:              exactly("a scenario: one that comes along, or a file"),
		ValidArgsFunction: completeScenario,
	}
	r.flags(c)
	r.target.flags(c)
	r.over.flags(c)
	c.Flags().IntVar(&r.turns, "turns", 1, "how many times it is measured")
	c.Flags().Float64Var(&r.maxErrors, "max-errors", 0.01, "the `share` of requests that may go wrong before the exit code says so; phases that do something to the gateway are not judged")
	c.RunE = func(cmd *cobra.Command, args []string) error { return r.do(cmd, args[0]) }
	return c
}

func (r *runner) do(cmd *cobra.Command, name string) error {
	if err := r.over.zero(cmd.Flags().Changed); err != nil {
		return err
	}
	sc, err := r.over.scenario(name)
	if err != nil {
		return err
	}
	if r.turns < 1 {
		return usage("--turns has to be at least 1")
	}
	if !(r.maxErrors >= 0 && r.maxErrors <= 1) {
		return usage("--max-errors is a share, from 0 to 1")
	}
	if err := r.target.alone(cmd.Flags().Changed); err != nil {
		return err
	}
	target, remote, err := r.target.target()
	if err != nil {
		return err
	}
	if err := r.open(cmd); err != nil {
		return err
	}
	defer r.close()
	if remote {
		err = r.remote(cmd.Context(), sc, target)
	} else {
		err = r.local(cmd.Context(), sc)
	}
	return r.finish(cmd.Context(), cmd, err)
}

func (r *runner) remote(ctx context.Context, sc *scenario.Scenario, t lab.Target) error {
	found, err := r.lab.Run(ctx, sc, t, r.turns)
	return r.add(sc, found, err)
}

// add keeps what was found, and judges it.
func (r *runner) add(sc *scenario.Scenario, found result.Scenario, err error) error {
	if len(found.Runs) > 0 {
		r.report.Scenarios = append(r.report.Scenarios, found)
	}
	if err != nil {
		return err
	}
	if err := lab.Judge(sc, found, r.maxErrors); err != nil { // all was measured all the same
		r.wrong = append(r.wrong, err)
	}
	return nil
}

func (r *runner) local(ctx context.Context, sc *scenario.Scenario) error {
	binary, err := r.gateway()
	if err != nil {
		return err
	}
	p := gateway.Polygate{Binary: binary}
	if r.report.Versions[p.Name()], err = p.Version(ctx); err != nil {
		return err
	}
	if sc.Capacity != nil {
		r.report.Capacity, err = r.lab.Capacity(ctx, binary, sc)
		return err
	}
	found, skipped, err := r.lab.Compare(ctx, lab.Job{Scenario: sc, Subjects: []peer.Peer{p}, Turns: r.turns})
	r.report.Skipped = skipped
	if err == nil && len(skipped) > 0 {
		err = errors.New(skipped[0].Why)
	}
	return r.add(sc, found, err)
}

// overrides are what a command line changes of a scenario; 0 and "" leave it as it is.
type overrides struct {
	protocol, credential string
	rate                 float64
	concurrency, tenants int
	warmup, duration     time.Duration
}

// zero refuses a 0 that was written: it would change nothing without a word.
func (o *overrides) zero(given func(name string) bool) error {
	for name, is := range map[string]bool{"rate": o.rate == 0, "concurrency": o.concurrency == 0, "tenant-count": o.tenants == 0, "warmup": o.warmup == 0, "duration": o.duration == 0} {
		if is && given(name) {
			return usage("--%s has to be above 0: leave it out for what the scenario says", name)
		}
	}
	return nil
}

func (o *overrides) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.protocol, "protocol", "", "of all loads, in place of the scenario's: http1, http2, websocket, sse, mcp or grpc")
	c.Flags().StringVar(&o.credential, "credential", "", "of all loads, likewise: none, key, jwt or oidc")
	c.Flags().Float64Var(&o.rate, "rate", 0, "requests a second of all open loops, a `number`, likewise")
	c.Flags().IntVar(&o.concurrency, "concurrency", 0, "of all loads, likewise")
	c.Flags().IntVar(&o.tenants, "tenant-count", 0, "how many tenants a gateway that is started gets, likewise")
	c.Flags().DurationVar(&o.warmup, "warmup", 0, "of each phase, likewise")
	c.Flags().DurationVar(&o.duration, "duration", 0, "of what is measured of each phase, likewise")
}

// scenario reads one and changes it.
func (o *overrides) scenario(name string) (*scenario.Scenario, error) {
	if o.rate < 0 || o.concurrency < 0 || o.tenants < 0 || o.warmup < 0 || o.duration < 0 {
		return nil, usage("--rate, --concurrency, --tenant-count, --warmup and --duration are not below 0")
	}
	sc, err := scenario.Read(name)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	for i := range sc.Loads {
		o.load(&sc.Loads[i])
	}
	for i := range sc.Phases {
		ph := &sc.Phases[i]
		if o.warmup > 0 {
			ph.Warmup = o.warmup
		}
		if o.duration > 0 && ph.Duration > 0 {
			ph.Duration = o.duration
		}
		for j := range ph.Loads {
			of, _ := sc.LoadNamed(ph.Loads[j].Load)
			if o.rate > 0 && of.Loop == scenario.Open {
				ph.Loads[j].Rate = o.rate
			}
			if o.concurrency > 0 {
				ph.Loads[j].Concurrency = o.concurrency
			}
		}
	}
	if o.tenants > 0 {
		sc.Site.Tenants = o.tenants
	}
	if err := sc.Validate(); err != nil {
		return nil, &usageError{fmt.Sprintf("scenario %s, as the command line changes it: %v", sc.Name, err)}
	}
	return sc, nil
}

func (o *overrides) load(ld *scenario.Load) {
	if o.protocol != "" {
		*ld = ld.With(scenario.Protocol(o.protocol))
	}
	if o.credential != "" {
		ld.Credential = scenario.Credential(o.credential)
	}
	if o.rate > 0 && ld.Loop == scenario.Open {
		ld.Rate = o.rate
	}
	if o.concurrency > 0 {
		ld.Concurrency = o.concurrency
	}
}

// targetFlags name an installation elsewhere and who calls it.
type targetFlags struct {
	url, file, ca, keyFile                     string
	own                                        bool
	maxRate                                    float64
	maxConcurrency                             int
	jwtKey, jwtIssuer, jwtAudience, jwtSubject string
	jwtKeyID                                   string
	oidcIssuer, oidcClient, oidcSecretFile     string
	oidcAudience                               string
	oidcScopes                                 []string
}

func (t *targetFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&t.url, "target", "", "the `URL` of a tenant of an installation that runs, such as https://team-a.example.com")
	f.StringVar(&t.file, "tenants", "", "a `file` with the target's tenants, as described above")
	f.StringVar(&t.ca, "ca", "", "a PEM `file` with the authority that the target's certificates are from (default: the system's)")
	f.StringVar(&t.keyFile, "key-file", "", "the `file` with the API key of --target's tenant")
	f.BoolVar(&t.own, "i-own-this-target", false, "load public addresses too: the target is yours, or its owner agreed")
	f.StringVar(&t.jwtKey, "jwt-key", "", "for loads with the credential jwt: a PEM `file` with the private key to sign tokens with")
	f.StringVar(&t.jwtKeyID, "jwt-key-id", "", "its `id`, the tokens' kid")
	f.StringVar(&t.jwtIssuer, "jwt-issuer", "", "the tokens' iss")
	f.StringVar(&t.jwtAudience, "jwt-audience", "{tenant}", "the tokens' aud; {tenant} is the tenant's name")
	f.StringVar(&t.jwtSubject, "jwt-subject", "bench", "the tokens' sub")
	f.StringVar(&t.oidcIssuer, "oidc-issuer", "", "for loads with the credential oidc: the issuer's `URL`; tokens are fetched by the client credentials grant")
	f.StringVar(&t.oidcClient, "oidc-client-id", "", "the client's `id` there")
	f.StringVar(&t.oidcSecretFile, "oidc-client-secret-file", "", "the `file` with its secret")
	f.StringVar(&t.oidcAudience, "oidc-audience", "", "an audience to ask for; {tenant} is the tenant's name, and each gets a token of its own (default: one token for all)")
	f.Float64Var(&t.maxRate, "max-rate", 2000, "requests a second that a target gets at most, a `number`; closed loops are held to what open ones leave")
	f.IntVar(&t.maxConcurrency, "max-concurrency", 256, "requests that a target may have in flight at most")
	f.StringSliceVar(&t.oidcScopes, "oidc-scope", nil, "scopes to ask for")
	for _, name := range []string{"tenants", "ca", "key-file", "jwt-key", "oidc-client-secret-file"} {
		_ = c.MarkFlagFilename(name)
	}
}

// alone refuses flags that mean nothing without another that is not there: they would be left out without a word.
func (t *targetFlags) alone(given func(name string) bool) error {
	for _, name := range []string{"ca", "i-own-this-target", "max-rate", "max-concurrency", "key-file", "jwt-key", "oidc-issuer"} {
		if given(name) && t.url == "" && t.file == "" {
			return usage("--%s is of a target, and there is no target: name it with --target or --tenants", name)
		}
	}
	for _, name := range []string{"jwt-key-id", "jwt-issuer", "jwt-audience", "jwt-subject"} {
		if given(name) && t.jwtKey == "" {
			return usage("--%s is of tokens that are signed here: name the key to sign them with by --jwt-key", name)
		}
	}
	for _, name := range []string{"oidc-client-id", "oidc-client-secret-file", "oidc-audience", "oidc-scope"} {
		if given(name) && t.oidcIssuer == "" {
			return usage("--%s is of tokens that an issuer gives: name it with --oidc-issuer", name)
		}
	}
	if t.keyFile != "" && t.file != "" {
		return usage("--key-file is of --target's tenant: name those of --tenants in that file, with key_file or key_env")
	}
	return nil
}

// target returns what the flags name. remote is false if they name none.
func (t *targetFlags) target() (out lab.Target, remote bool, err error) {
	if t.url == "" && t.file == "" {
		return out, false, nil
	}
	if !(t.maxRate > 0) || t.maxConcurrency < 1 {
		return out, true, usage("--max-rate and --max-concurrency are above 0")
	}
	if out.Tenants, err = t.tenants(); err != nil {
		return out, true, err
	}
	out.Own, out.MaxRate, out.MaxConcurrency = t.own, t.maxRate, t.maxConcurrency
	if out.Name = "target"; t.url != "" {
		out.Name = out.Tenants[0].Host
	}
	if t.ca != "" {
		if out.Roots, err = lab.ReadRoots(t.ca); err != nil {
			return out, true, fmt.Errorf("--ca: %w", err)
		}
	}
	out.Tokens, err = t.tokens(out.Tenants, out.Roots)
	return out, true, err
}

func (t *targetFlags) tenants() ([]client.Tenant, error) {
	if t.file != "" && t.url != "" {
		return nil, usage("--target and --tenants are alternatives: the file names the address")
	}
	if t.file != "" {
		return lab.ReadTarget(t.file, os.Getenv)
	}
	u, err := url.Parse(t.url)
	if err != nil || u.User != nil || u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return nil, usage("--target is not the URL of a tenant, such as https://team-a.example.com, without anything behind or before the host")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	one := client.Tenant{Host: u.Hostname(), Addr: lab.Address(u.Hostname(), port)}
	one.Name, _, _ = strings.Cut(one.Host, ".")
	if t.keyFile != "" {
		b, err := os.ReadFile(t.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--key-file: %w", err)
		}
		if one.Key = strings.TrimSpace(string(b)); one.Key == "" {
			return nil, fmt.Errorf("--key-file: %s is empty", t.keyFile)
		}
	}
	return []client.Tenant{one}, nil
}

// tokens returns who gives tokens; nil = nobody.
func (t *targetFlags) tokens(tenants []client.Tenant, roots *x509.CertPool) (credential.Source, error) {
	switch {
	case t.jwtKey != "" && t.oidcIssuer != "":
		return nil, usage("--jwt-key and --oidc-issuer are alternatives")
	case t.jwtKey != "":
		key, err := credential.LoadKey(t.jwtKey)
		if err != nil {
			return nil, fmt.Errorf("--jwt-key: %w", err)
		}
		return credential.NewMinter(credential.MinterConfig{
			Key: key, KeyID: t.jwtKeyID, Issuer: t.jwtIssuer, Subject: func(int) string { return t.jwtSubject },
			Audience: func(n int) []string { return []string{strings.ReplaceAll(t.jwtAudience, "{tenant}", tenants[n].Name)} },
		})
	case t.oidcIssuer != "":
		var secret []byte
		if t.oidcSecretFile != "" {
			var err error
			if secret, err = os.ReadFile(t.oidcSecretFile); err != nil {
				return nil, fmt.Errorf("--oidc-client-secret-file: %w", err)
			}
		}
		cfg := credential.OIDCConfig{
			Issuer: t.oidcIssuer, ClientID: t.oidcClient, ClientSecret: strings.TrimSpace(string(secret)), Scopes: t.oidcScopes, Roots: roots, Own: t.own,
		}
		if t.oidcAudience != "" {
			cfg.Audience = func(n int) string { return strings.ReplaceAll(t.oidcAudience, "{tenant}", tenants[n].Name) }
		}
		return credential.NewOIDC(cfg)
	}
	return nil, nil
}

// exactly demands one argument, and says what it is.
func exactly(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("it takes %s", what)
		}
		return nil
	}
}
