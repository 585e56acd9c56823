package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // the command was understood, and failed
	exitUsage   = 2 // the command line is wrong

	// exitRemote is that of commands that pass on the exit code of another, for all failures that are not the other's, as docker has it.
	exitRemote = 125
)

// passesOn marks, among its annotations, a command that passes on the exit code of another.
const passesOn = "polygate/passes-on" //nolint:gosec // G101: no credential

// exited is the exit code of another command, which has told itself what there is to tell.
type exited struct{ code int }

func (e *exited) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// failure marks an error that a command returned, in contrast to one of the command line.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usageError is a mistake of the command line that only the command itself could see.
type usageError struct{ msg string }

func (u *usageError) Error() string { return u.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errReported is a failure that the command has told in full already.
var errReported = errors.New("failed")

// run carries out one command line and returns the exit code. An error is one line on stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetIn(stdin)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	var other *exited
	if errors.As(err, &other) {
		return other.code
	}
	code := exitUsage
	var failed *failure
	var misused *usageError
	if errors.As(err, &failed) && !errors.As(err, &misused) {
		if err = reportConfig(stderr, failed.err); !errors.Is(err, errReported) {
			fmt.Fprintf(stderr, "polygate: %s\n", clean(err.Error()))
		}
		code = exitFailure
	} else {
		fmt.Fprintf(stderr, "polygate: %s (see: %s --help)\n", clean(err.Error()), cmd.CommandPath())
	}
	if cmd.Annotations[passesOn] != "" {
		return exitRemote
	}
	return code
}

// newRoot returns the whole tree of commands. It holds no state outside of it, so that tests run many at once.
func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := commandGroup("polygate", "A shared multi-tenant gateway",
		`Polygate is one gateway shared by many tenants: TLS, API keys, quotas and audit in front of each tenant's MCP servers.

"polygate serve" runs it. The other commands are for its operators (tenant, replicas, drain, status, config, audit), who hold an operator's token, for
tenants themselves (bot, authenticator, grant, host, policy, sandbox, server, whoami), who hold an API key or a token of their issuer, and
for both (cert, key, member, usage): operators name the tenant.

Settings of the client commands, each also a flag, and in profiles (see polygate profile):
  POLYGATE_ADMIN_URL    the operators' listener (default https://localhost:9443)
  POLYGATE_ADMIN_TOKEN  the operator token
  POLYGATE_URL          a tenant's host, such as https://team-a.localhost:8443
  POLYGATE_KEY          an API key of that tenant
  POLYGATE_TOKEN        in its place, a token of the tenant's issuer
  POLYGATE_TENANT       the tenant that an operator means, without POLYGATE_URL
  POLYGATE_PROFILE      the profile that holds what is not set otherwise
  POLYGATE_CA           a PEM file with the certificate authority to trust, in place of the system's

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong command line. "sandbox exec" passes on that of the command that it
runs, and has 125 for what is not the command's doing.`,
		newServeCommand(), newProfileCommand(), newReplicasCommand(), newDrainCommand(), newEtcdCommand(), newStatusCommand(),
		newTenantCommand(), newKeyCommand(), newMemberCommand(), newBotCommand(), newAuthenticatorCommand(), newGrantCommand(), newPolicyCommand(),
		newServerCommand(), newSandboxCommand(), newHostCommand(), newCertCommand(), newUsageCommand(), newWhoamiCommand(), newAuditCommand(), newBackupCommand(), newRestoreCommand(), newSecretCommand(), newConfigCommand(), newVersionCommand(), newSandboxInitCommand())
	root.Example = "  polygate serve --config polygate.yaml\n  polygate tenant list\n  polygate key create team-a --name ci --role editor"
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	markFailures(root)
	return root
}

// commandGroup is a command that only holds others.
func commandGroup(use, short, long string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = ": did you mean " + near[0] + "?"
		}
		return usage("unknown command %q for %s%s", args[0], cmd.CommandPath(), hint)
	}
	c.AddCommand(children...)
	return c
}

// markFailures wraps what the commands return, so that run can tell it from cobra's own errors.
func markFailures(c *cobra.Command) {
	if do := c.RunE; do != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if err := do(cmd, args); err != nil {
				return &failure{err}
			}
			return nil
		}
	}
	for _, child := range c.Commands() {
		markFailures(child)
	}
}
