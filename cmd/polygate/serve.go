package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
)

func newServeCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway in the foreground, until SIGINT or SIGTERM: it then takes no new requests, gives those in flight
limits.shutdown_grace, and ends with exit code 0. SIGHUP reads tenants.yaml and its catalogs again, as does a change of one
of these files. The log goes to standard error, one JSON event per line.`,
		Example: "  polygate serve --config polygate.yaml",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVarP(&path, "config", "c", "polygate.yaml", "the platform's configuration `file`")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.LoadPlatform(path)
		if err != nil {
			return reportConfig(cmd.ErrOrStderr(), err)
		}
		err = newDaemon(cfg, cmd.OutOrStdout(), newLogger(cfg.Log, cmd.ErrOrStderr())).run(cmd.Context())
		return reportConfig(cmd.ErrOrStderr(), err)
	}
	return c
}

// newLogger makes the process's logger. The configuration has been validated.
func newLogger(cfg config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w, opts))
	}
	return slog.New(slog.NewJSONHandler(w, opts))
}
