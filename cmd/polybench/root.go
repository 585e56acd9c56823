package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/client"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitForeign     = 3
	exitInterrupted = 130
)

// usageError is a wrong command line.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// failure is what went wrong while a command was carried out, after its command line was understood.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// run carries out one command line and returns the exit code. An error is told on stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetIn(stdin)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	switch code {
	case exitUsage:
		fmt.Fprintf(stderr, "polybench: %v (see: %s --help)\n", err, cmd.CommandPath())
	case exitInterrupted:
		fmt.Fprintln(stderr, "polybench: interrupted")
	default:
		fmt.Fprintf(stderr, "polybench: %v\n", err)
	}
	return code
}

func exitCode(ctx context.Context, err error) int {
	var failed *failure
	var misused *usageError
	if errors.As(err, &misused) || !errors.As(err, &failed) {
		return exitUsage
	}
	var foreign *client.Foreign
	switch {
	case errors.As(err, &foreign):
		return exitForeign
	case ctx.Err() != nil:
		return exitInterrupted
	}
	return exitFailure
}

// newRoot returns the whole tree of commands. It holds no state outside of it.
func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use: "polybench", Short: "Load gateways, compare them, size installations",
		Long: `Polybench loads a gateway as many tenants at once would, and checks every answer: it holds the mark of the tenant's own upstream, and
of no other. It starts what it measures by itself, on loopback, beside the peers that are installed, or loads an installation that
you name.

Exit codes: 0 done; 1 failed, or the target did not answer rightly; 2 wrong command line or scenario; 3 an answer held what belongs
to another tenant; 130 interrupted (what was measured until then is printed).`,
		Example: `  polybench compare                            # throughput beside nginx, HAProxy, Caddy and the upstream itself
  polybench run noisy-neighbour --html report.html
  polybench run my-scenario.yaml --target https://team-a.example.com --key-file team-a.key --credential key
  polybench plan demand.yaml`,
	}
	root.AddCommand(newRunCommand(), newCompareCommand(), newSuiteCommand(), newScenariosCommand(), newPeersCommand(), newReportCommand(),
		newPlanCommand(), newVersionCommand(), newUpstreamCommand(), newReverseProxyCommand())
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("there is no command %q", args[0])
		}
		return cmd.Help()
	}
	root.Args = cobra.ArbitraryArgs
	markFailures(root)
	return root
}

// markFailures wraps what commands return, so that it is told from a wrong command line.
func markFailures(c *cobra.Command) {
	for _, sub := range c.Commands() {
		if do := sub.RunE; do != nil {
			sub.RunE = func(cmd *cobra.Command, args []string) error {
				if err := do(cmd, args); err != nil {
					return &failure{err}
				}
				return nil
			}
		}
		markFailures(sub)
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "polybench "+version())
			return err
		},
	}
}

// version is the module's, with the revision that it was built from where that is known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	i := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.revision" })
	if i >= 0 && !strings.Contains(v, info.Settings[i].Value[:12]) {
		v += " " + info.Settings[i].Value[:12]
	}
	return v
}
