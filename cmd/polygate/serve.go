package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/internal/config"
)

func newServeCommand() *cobra.Command {
	var path, advertise string
	var cluster bool
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway in the foreground, until SIGINT or SIGTERM. With other replicas it then drains, as the section drain of the
configuration says: it is not ready any more, hands its tenants over and has streams come again elsewhere, while it serves on. Then, or
alone at once, it takes no new requests, gives those in flight limits.shutdown_grace, and ends with exit code 0. SIGHUP reads tenants.yaml and its catalogs again, as does a change of one
of these files. With --cluster the etcd inside this process is one member of those in etcd.embedded.cluster: start it on each of them; the first
time, all must be there. The log goes to standard error, one JSON event per line.`,
		Example: "  polygate serve --config polygate.yaml\n  polygate serve --cluster --config polygate.yaml",
		Args:    cobra.NoArgs,
	}
	c.Flags().BoolVar(&cluster, "cluster", false, "make the embedded etcd one member of etcd.embedded.cluster")
	c.Flags().StringVar(&advertise, "advertise", "", "`host:port` at which the other replicas reach this one, in place of replica.advertise: in a pod, its address")
	c.Flags().StringVarP(&path, "config", "c", "polygate.yaml", "the platform's configuration `file`")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.LoadPlatform(path)
		if err != nil {
			return reportConfig(cmd.ErrOrStderr(), err)
		}
		if err := checkCluster(cfg, cluster); err != nil {
			return err
		}
		if err := setAdvertise(cfg, advertise); err != nil {
			return err
		}
		err = newDaemon(cfg, cmd.OutOrStdout(), newLogger(cfg.Log, cmd.ErrOrStderr())).run(cmd.Context())
		return reportConfig(cmd.ErrOrStderr(), err)
	}
	return c
}

// checkCluster insists that the flag and the configuration say the same: a replica that begins alone where it should be one
// of several, or the other way round, would serve other data than its fellows.
func checkCluster(cfg *config.Platform, flag bool) error {
	configured := len(cfg.Etcd.Embedded.Cluster.Members) > 0
	switch {
	case flag && len(cfg.Etcd.Endpoints) > 0:
		return errors.New("--cluster is for the etcd inside this process, and etcd.endpoints names another: leave one of them out")
	case flag && !configured:
		return errors.New("--cluster needs etcd.embedded.cluster.members in the configuration: name all members, this one included")
	case configured && !flag:
		return errors.New("etcd.embedded.cluster has members: start with --cluster, or leave them out for a single replica")
	}
	return nil
}

// setAdvertise puts the flag in the place of the configuration, which is one for all replicas where each is a pod with an address of its own.
func setAdvertise(cfg *config.Platform, advertise string) error {
	if advertise == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(advertise)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("--advertise %q is not host:port with both parts", advertise)
	}
	cfg.Replica.Advertise = advertise
	return nil
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
