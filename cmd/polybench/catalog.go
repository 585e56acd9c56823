package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/peer"
	"github.com/polygate/polygate/bench/report"
	"github.com/polygate/polygate/bench/result"
	"github.com/polygate/polygate/bench/scenario"
)

func newScenariosCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "scenarios [NAME]", Short: "List the scenarios that come along, or print one", ValidArgsFunction: completeScenario,
		Long:    `List the scenarios that come along. With a name, print its YAML: the beginning of a file of your own. Every field is described in the file of "throughput" and in the package bench/scenario.`,
		Example: "  polybench scenarios\n  polybench scenarios noisy-neighbour > mine.yaml",
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			b, ok := scenario.BuiltinFiles()[args[0]+".yaml"]
			if !ok {
				return usage("there is no scenario %q: see polybench scenarios", args[0])
			}
			_, err := cmd.OutOrStdout().Write(b)
			return err
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, sc := range scenario.Builtin() {
			fmt.Fprintf(w, "%s\t%s\n", sc.Name, sc.About)
		}
		return w.Flush()
	}
	c.Args = cobra.MaximumNArgs(1)
	return c
}

func completeScenario(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, sc := range scenario.Builtin() {
		names = append(names, sc.Name+"\t"+sc.About)
	}
	return names, cobra.ShellCompDirectiveDefault // files too
}

func newPeersCommand() *cobra.Command {
	var install bool
	c := &cobra.Command{
		Use: "peers", Short: "Say which peers are there, and build Caddy", Args: cobra.NoArgs,
		Long: `Say which programs are there to be measured beside Polygate, and how to get the others. nginx and haproxy are taken from the path
(on Debian: apt install nginx-light haproxy); Caddy is built from its Go module by --install, which needs Go and takes minutes.`,
	}
	c.Flags().BoolVar(&install, "install", false, "build Caddy into this user's cache folder")
	b := &bench{}
	c.Flags().StringVar(&b.polygate, "polygate", "", "the gateway's `program`")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if install {
			cache, err := cacheDir()
			if err != nil {
				return err
			}
			if err := peer.Install(cmd.Context(), cache, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) }); err != nil {
				return err
			}
		}
		return b.listPeers(cmd)
	}
	return c
}

func (b *bench) listPeers(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, name := range peerNames() {
		p, err := b.peer(name, false)
		version := ""
		if err == nil {
			version, err = p.Version(cmd.Context())
		}
		switch {
		case errors.Is(err, peer.ErrMissing):
			version = "missing: " + err.Error()
		case err != nil:
			version = err.Error()
		}
		fmt.Fprintf(w, "%s\t%s\n", name, version)
	}
	return w.Flush()
}

func newReportCommand() *cobra.Command {
	var out outputs
	c := &cobra.Command{
		Use: "report FILE", Short: "Print a report that was written as JSON, or turn it into HTML or Markdown",
		Example: "  polybench report results.json --html results.html",
		Args:    exactly("the JSON file of a report"),
	}
	c.Flags().StringVar(&out.html, "html", "", "write it as one HTML page with plots to this `file`")
	c.Flags().StringVar(&out.markdown, "markdown", "", "write it as Markdown to this `file`")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := result.Read(f)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if out.html == "" && out.markdown == "" {
			return report.Text(cmd.OutOrStdout(), r)
		}
		if out.html != "" {
			err = writeFile(out.html, r, report.HTML)
		}
		if out.markdown != "" {
			err = errors.Join(err, writeFile(out.markdown, r, report.Markdown))
		}
		return err
	}
	return c
}
