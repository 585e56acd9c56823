package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/policy"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// serverFlag adds --server.
func (p *policyCommands) serverFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.atServer, "server", false, "do it on the gateway, within its bounds, in place of this machine; so does --url")
}

// remote says whether the gateway is to do it.
func (p *policyCommands) remote(cmd *cobra.Command) bool {
	return p.atServer || cmd.Flags().Changed("url")
}

// checked is the outcome of a check, here or on the gateway.
type checked struct {
	OK          bool             `json:"ok"`
	Digest      string           `json:"digest,omitempty"`
	RegoVersion string           `json:"rego_version,omitempty"`
	Packages    []string         `json:"packages,omitempty"`
	Entrypoints []string         `json:"entrypoints,omitempty"`
	Tests       int              `json:"tests,omitempty"`
	Warnings    []string         `json:"warnings,omitempty"`
	Problems    []policy.Problem `json:"problems"`
}

func (p *policyCommands) check() *cobra.Command {
	cmd := &cobra.Command{
		Use: "check <folder>", Short: "Compile a policy and find every mistake",
		Long: `Compile the policy of a folder as the gateway would, here, with the default bounds, or with --server on the gateway itself. Each
mistake is one line on stderr, file:line:column: reason, and the exit code is 1.`,
		Example: "  polygate policy check policies/\n  polygate policy check policies/ --server",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.out.check(); err != nil {
				return err
			}
			b, err := p.bundle(cmd, args[0])
			if err != nil {
				return err
			}
			result, err := p.compile(cmd, b)
			if err != nil {
				return err
			}
			return p.showChecked(cmd, args[0], result)
		},
	}
	p.serverFlag(cmd)
	return cmd
}

func (p *policyCommands) compile(cmd *cobra.Command, b *policy.Bundle) (*checked, error) {
	var out checked
	if p.remote(cmd) {
		return &out, p.run(cmd, func(ctx context.Context, c *client) error {
			return c.do(ctx, http.MethodPost, c.path("policies", "check"), b, &out)
		})
	}
	r, err := policy.Check(cmd.Context(), b, policy.Limits{})
	if err != nil {
		if bad := compileError(err); bad != nil {
			return &checked{Problems: bad.Problems}, nil
		}
		return nil, plain(err)
	}
	return &checked{true, r.Digest, r.RegoVersion, r.Packages, r.Entrypoints, r.Tests, r.Warnings, []policy.Problem{}}, nil
}

func (p *policyCommands) showChecked(cmd *cobra.Command, dir string, r *checked) error {
	if p.out.isData() {
		if err := p.out.data(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	}
	if !r.OK {
		showProblems(cmd, dir, r.Problems)
		return errReported
	}
	warn(cmd, r.Warnings)
	if p.out.isData() {
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: %s, rego %s, %s, %d tests\n", clean(dir), r.Digest, r.RegoVersion,
		strings.Join(r.Entrypoints, " "), r.Tests)
	return err
}

// testRun is the outcome of a policy's tests, here or on the gateway.
type testRun struct {
	OK      bool       `json:"ok"`
	Passed  int        `json:"passed"`
	Failed  int        `json:"failed"`
	Skipped int        `json:"skipped"`
	Results []testLine `json:"results"`
}

type testLine struct {
	Package string  `json:"package"`
	Name    string  `json:"name"`
	File    string  `json:"file"`
	Line    int     `json:"line"`
	Pass    bool    `json:"pass"`
	Skip    bool    `json:"skip,omitempty"`
	Error   string  `json:"error,omitempty"`
	Millis  float64 `json:"ms"`
}

func (p *policyCommands) test() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test <folder>", Short: "Run a policy's tests",
		Long: `Run the tests of the policy in a folder: the rules in *_test.rego whose names begin with test_. Here, or with --server on the
gateway. The exit code is 1 if one fails.`,
		Example: "  polygate policy test policies/\n  polygate policy test policies/ -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.out.check(); err != nil {
				return err
			}
			b, err := p.bundle(cmd, args[0])
			if err != nil {
				return err
			}
			result, err := p.runTests(cmd, args[0], b)
			if err != nil {
				return err
			}
			return p.showTests(cmd, args[0], result)
		},
	}
	p.serverFlag(cmd)
	return cmd
}

func (p *policyCommands) runTests(cmd *cobra.Command, dir string, b *policy.Bundle) (*testRun, error) {
	out := testRun{Results: []testLine{}}
	if p.remote(cmd) {
		body := struct {
			Bundle *policy.Bundle `json:"bundle"`
		}{b}
		return &out, p.run(cmd, func(ctx context.Context, c *client) error {
			return c.do(ctx, http.MethodPost, c.path("policies", "test"), body, &out)
		})
	}
	results, err := policy.Test(cmd.Context(), b, policy.Limits{})
	if err != nil {
		return nil, p.problems(cmd, dir, err)
	}
	for _, r := range results {
		out.Results = append(out.Results, testLine{r.Package, r.Name, r.File, r.Line, r.Pass, r.Skip, r.Error, float64(r.Duration) / float64(time.Millisecond)})
		switch {
		case r.Skip:
			out.Skipped++
		case r.Pass:
			out.Passed++
		default:
			out.Failed++
		}
	}
	out.OK = out.Failed == 0
	return &out, nil
}

func (p *policyCommands) showTests(cmd *cobra.Command, dir string, r *testRun) error {
	if p.out.isData() {
		if err := p.out.data(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	}
	for _, one := range r.Results {
		if one.Pass || one.Skip {
			continue
		}
		why := one.Error
		if why == "" {
			why = "it is not true"
		}
		showProblems(cmd, dir, []policy.Problem{{File: one.File, Line: one.Line, Message: one.Name + " fails: " + why}})
	}
	if !p.out.isData() {
		fmt.Fprintf(cmd.OutOrStdout(), "%d passed, %d failed, %d skipped\n", r.Passed, r.Failed, r.Skipped)
	}
	if !r.OK {
		return errReported
	}
	return nil
}

// compileError returns the mistakes in err, or nil if it is of another kind.
func compileError(err error) *policy.CompileError {
	var bad *policy.CompileError
	if errors.As(err, &bad) {
		return bad
	}
	return nil
}
