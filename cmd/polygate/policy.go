package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/policy"
)

// policyCommands is what the policy commands share.
type policyCommands struct {
	*scoped
	atServer bool // check and test: there, not here
}

func newPolicyCommand() *cobra.Command {
	p := &policyCommands{scoped: newScoped(false)}
	cmd := commandGroup("policy", "Check, test, upload and explain a tenant's policy",
		`Manage the policy of a tenant: a folder of Rego modules that narrows what roles allow. "check" and "test" work on a folder
without any gateway; the rest is for the tenant's admins, on its host. "explain" tells why something is denied.

A version is named by its digest or the beginning of it.`,
		p.list(), p.get(), p.upload(), p.activate(), p.deactivate(), p.check(), p.test(), p.explain())
	cmd.Example = "  polygate policy check policies/\n  polygate policy test policies/\n  polygate policy upload policies/\n  polygate policy explain mcp.call server/docs/tool/search"
	p.bind(cmd)
	return cmd
}

// policyVersion is one version of the policy.
type policyVersion struct {
	Digest      string         `json:"digest"`
	Active      bool           `json:"active"`
	Created     time.Time      `json:"created"`
	By          string         `json:"created_by"`
	Modules     int            `json:"modules"`
	Bytes       int            `json:"bytes"`
	RegoVersion string         `json:"rego_version"`
	Warnings    []string       `json:"warnings"`
	Bundle      *policy.Bundle `json:"bundle"`
}

// policyList is the answer of GET /api/v1/policies.
type policyList struct {
	Active string          `json:"active"`
	Source string          `json:"source"`
	File   string          `json:"file"`
	Items  []policyVersion `json:"items"`
}

func (p *policyCommands) list() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the versions that are kept, and which is in force",
		Long:    "List the versions of the policy that the gateway keeps, newest first, and which of them is in force.",
		Example: "  polygate policy list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd, func(ctx context.Context, c *client) error {
				var list answered[policyList]
				if err := c.do(ctx, http.MethodGet, c.path("policies"), nil, &list); err != nil {
					return fmt.Errorf("list policies: %w", err)
				}
				rows := make([][]string, len(list.is.Items))
				for i, v := range list.is.Items {
					state := ""
					if v.Active {
						state = strings.TrimSpace("in force " + list.is.File)
					}
					rows[i] = []string{v.Digest, state, stamp(v.Created), v.By, strconv.Itoa(v.Modules), strconv.Itoa(v.Bytes), v.RegoVersion}
				}
				return p.out.print(cmd.OutOrStdout(), list, []string{"DIGEST", "STATE", "CREATED", "BY", "MODULES", "BYTES", "REGO"}, rows)
			})
		},
	}
}

// policyDigests lists the versions, for completion and prefixes.
func policyDigests(ctx context.Context, c *client) ([]string, error) {
	var list policyList
	if err := c.do(ctx, http.MethodGet, c.path("policies"), nil, &list); err != nil {
		return nil, err
	}
	out := make([]string, len(list.Items))
	for i, v := range list.Items {
		out[i] = v.Digest
	}
	return out, nil
}

// version returns the digest that a user of the command means.
func version(ctx context.Context, c *client, name string) (string, error) {
	if name == "active" {
		return name, nil
	}
	all, err := policyDigests(ctx, c)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(name, "sha256:") {
		name = "sha256:" + name
	}
	return byPrefix(all, name)
}

func (p *policyCommands) get() *cobra.Command {
	return &cobra.Command{
		Use: "get [digest]", Short: "Show the source of a version",
		Long:    "Show the source of the version in force, or of another one that is kept.",
		Example: "  polygate policy get\n  polygate policy get 3f2a -o yaml",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: p.complete(policyDigests),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "active"
			if len(args) == 1 {
				name = args[0]
			}
			return p.run(cmd, func(ctx context.Context, c *client) error {
				digest, err := version(ctx, c, name)
				var v answered[policyVersion]
				if err == nil {
					err = c.do(ctx, http.MethodGet, c.path("policies", digest), nil, &v)
				}
				if err != nil {
					return fmt.Errorf("policy %s: %w", name, err)
				}
				if p.out.isData() {
					return p.out.data(cmd.OutOrStdout(), v)
				}
				return printSource(cmd, &v.is)
			})
		},
	}
}

// printSource writes the modules of a version as files are shown one after the other.
func printSource(cmd *cobra.Command, v *policyVersion) error {
	out := cmd.OutOrStdout()
	if err := printFields(out, [][2]string{{"Digest", v.Digest}, {"Created", stamp(v.Created)}, {"By", v.By}, {"Rego", v.RegoVersion}}); err != nil || v.Bundle == nil {
		return err
	}
	for _, name := range sortedKeys(v.Bundle.Modules) {
		fmt.Fprintf(out, "\n# %s\n", clean(name))
		for line := range strings.Lines(v.Bundle.Modules[name]) {
			fmt.Fprintln(out, cleanSource(strings.TrimRight(line, "\r\n")))
		}
	}
	if len(v.Bundle.Data) > 0 {
		fmt.Fprintf(out, "\n# data.json\n%s\n", cleanJSON(v.Bundle.Data))
	}
	return nil
}

// cleanSource is clean but for tabs, which sources are indented by.
func cleanSource(line string) string {
	parts := strings.Split(line, "\t")
	for i := range parts {
		parts[i] = clean(parts[i])
	}
	return strings.Join(parts, "\t")
}

// uploaded is the answer to an upload, a check on the server and an activation.
type uploaded struct {
	Digest      string   `json:"digest"`
	Active      bool     `json:"active"`
	RegoVersion string   `json:"rego_version"`
	Entrypoints []string `json:"entrypoints"`
	Tests       int      `json:"tests"`
	Warnings    []string `json:"warnings"`
}

func (p *policyCommands) upload() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "upload <folder>", Short: "Put the policy of a folder in force",
		Long: `Compile the policy of a folder here, then on the gateway, and put it in force there. One that does not compile leaves the policy
in force as it is. With --dry-run nothing is changed.`,
		Example: "  polygate policy upload policies/\n  polygate policy upload policies/ --dry-run",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := p.bundle(cmd, args[0])
			if err != nil {
				return err
			}
			return p.run(cmd, func(ctx context.Context, c *client) error {
				path, done := c.path("policies"), "in force"
				if dry {
					path, done = path+"?dry_run=1", "sound, and not put in force"
				}
				var u answered[uploaded]
				if err := c.do(ctx, http.MethodPost, path, b, &u); err != nil {
					return fmt.Errorf("upload %s: %w", args[0], err)
				}
				warn(cmd, u.is.Warnings)
				return said(cmd, &p.out, &u, "policy %s is %s", u.is.Digest, done)
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check it on the gateway, and change nothing")
	return cmd
}

func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		_ = tell(cmd, "warning: %s", w)
	}
}

// bundle reads a folder. Mistakes are told with the path of the file.
func (p *policyCommands) bundle(cmd *cobra.Command, dir string) (*policy.Bundle, error) {
	b, _, err := policy.ReadDir(dir, policy.Limits{})
	if err != nil {
		return nil, p.problems(cmd, dir, err)
	}
	return b, nil
}

// problems prints each reason why a bundle is refused, as file:line:column; any other error it returns as it is.
func (p *policyCommands) problems(cmd *cobra.Command, dir string, err error) error {
	bad := compileError(err)
	if bad == nil {
		return plain(err)
	}
	showProblems(cmd, dir, bad.Problems)
	return errReported
}

func showProblems(cmd *cobra.Command, dir string, list []policy.Problem) {
	for _, one := range list {
		at := dir
		if one.File != "" {
			at = filepath.Join(dir, filepath.FromSlash(one.File))
		}
		if one.Line > 0 {
			at += fmt.Sprintf(":%d:%d", one.Line, max(one.Column, 1))
		}
		_ = tell(cmd, "%s: %s", at, one.Message)
	}
}

func (p *policyCommands) activate() *cobra.Command {
	return &cobra.Command{
		Use: "activate <digest>", Short: "Put an earlier version in force again",
		Long:    "Put a version that is kept in force again: the way back from an upload.",
		Example: "  polygate policy activate 3f2a",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: p.complete(policyDigests),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.run(cmd, func(ctx context.Context, c *client) error {
				digest, err := version(ctx, c, args[0])
				var u answered[uploaded]
				if err == nil {
					err = c.do(ctx, http.MethodPost, c.path("policies", digest, "activate"), nil, &u)
				}
				if err != nil {
					return fmt.Errorf("activate policy %q: %w", args[0], err)
				}
				return said(cmd, &p.out, &u, "policy %s is in force", u.is.Digest)
			})
		},
	}
}

func (p *policyCommands) deactivate() *cobra.Command {
	return &cobra.Command{
		Use: "deactivate", Short: "Take the policy out of force",
		Long:    "Take the policy out of force: roles and grants alone decide then. The versions are kept.",
		Example: "  polygate policy deactivate",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.run(cmd, func(ctx context.Context, c *client) error {
				if err := c.do(ctx, http.MethodDelete, c.path("policies", "active"), nil, nil); err != nil {
					return fmt.Errorf("take the policy out of force: %w", err)
				}
				return tell(cmd, "no policy is in force")
			})
		},
	}
}
