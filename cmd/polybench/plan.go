package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/plan"
	"github.com/polygate/polygate/bench/result"
)

// planner is the command "plan".
type planner struct {
	costs, memory   string
	cores, headroom float64
	json, example   bool
}

func newPlanCommand() *cobra.Command {
	p := &planner{}
	c := &cobra.Command{
		Use: "plan FILE", Short: "Size an installation on paper",
		Long: `Turn a described load (tenants, the active share of them, requests a second, streams, certificates, sandboxes) into replicas, memory, the
size of etcd and its write rate, and say which limit binds. What a request or a tenant costs is measured: by a report of your own
(--costs, written by compare or suite with --json), or by the figures that come along. bench/plan/DESIGN.md says what it assumes.

- as FILE is standard input. --example prints a file to begin with.`,
		Example: "  polybench plan --example > demand.yaml\n  polybench plan demand.yaml --cores 4 --memory 8GiB\n  polybench plan demand.yaml --costs results.json --json",
	}
	c.Flags().StringVar(&p.costs, "costs", "", "a `file` with a report as JSON, measured on machines like those that are planned for")
	c.Flags().Float64Var(&p.cores, "cores", 0, "cores of one replica, in place of the file's")
	c.Flags().StringVar(&p.memory, "memory", "", "memory of one replica, such as 8GiB, likewise")
	c.Flags().Float64Var(&p.headroom, "headroom", 0, "the `share` of a machine that the peak may take, likewise")
	c.Flags().BoolVar(&p.json, "json", false, "print the plan as JSON")
	c.Flags().BoolVar(&p.example, "example", false, "print a commented example of a file")
	c.Args = func(_ *cobra.Command, args []string) error {
		if p.example && len(args) == 0 || !p.example && len(args) == 1 {
			return nil
		}
		return usage("it takes a file that describes the load, or --example")
	}
	c.RunE = p.do
	return c
}

func (p *planner) do(cmd *cobra.Command, args []string) error {
	if p.example {
		_, err := cmd.OutOrStdout().Write(plan.Example())
		return err
	}
	demand, err := readDemand(args[0], cmd.InOrStdin())
	if err != nil {
		return err
	}
	costs, err := p.readCosts(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	m := plan.Machine{Cores: p.cores, Headroom: p.headroom}
	if p.memory != "" {
		if err := m.Memory.UnmarshalText([]byte(p.memory)); err != nil {
			return usage("--memory: %v", err)
		}
	}
	found, err := plan.Compute(*demand, costs, m)
	if err != nil && !errors.Is(err, plan.ErrNone) {
		return &usageError{err.Error()}
	}
	if p.json {
		return errors.Join(found.JSON(cmd.OutOrStdout()), err)
	}
	return errors.Join(found.Text(cmd.OutOrStdout()), err)
}

func readDemand(path string, stdin io.Reader) (*plan.Demand, error) {
	var b []byte
	var err error
	if path == "-" {
		path = "standard input"
		b, err = io.ReadAll(stdin)
	} else {
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the load: %w", err)
	}
	d, err := plan.Parse(path, b)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	return d, nil
}

// readCosts returns the costs of a report, or those that come along. What a report does not hold is taken from those, which is said.
func (p *planner) readCosts(notes io.Writer) (*plan.Costs, error) {
	if p.costs == "" {
		return plan.DefaultCosts()
	}
	f, err := os.Open(p.costs)
	if err != nil {
		return nil, fmt.Errorf("--costs: %w", err)
	}
	defer f.Close()
	r, err := result.Read(f)
	if err != nil {
		return nil, fmt.Errorf("--costs: %s: %w", p.costs, err)
	}
	c, missing, err := plan.CostsOf(r)
	if err != nil {
		return nil, fmt.Errorf("--costs: %s: %w", p.costs, err)
	}
	for _, m := range missing {
		fmt.Fprintf(notes, "polybench: not in %s, taken from the figures that come along: %s\n", p.costs, m)
	}
	return c, nil
}
