package main

import (
	"github.com/spf13/cobra"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/peer"
)

// newUpstreamCommand is the process behind everything that a lab measures.
func newUpstreamCommand() *cobra.Command {
	return &cobra.Command{
		Use: "upstream", Short: "Answer as every tenant's upstream", Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return backend.Main(cmd.Context(), args, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

// newReverseProxyCommand is Go's own reverse proxy, a yardstick.
func newReverseProxyCommand() *cobra.Command {
	return &cobra.Command{
		Use: reverseProxyWord, Short: "Relay as net/http/httputil does", Hidden: true, DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error { return peer.ReverseProxyMain(args) },
	}
}

const reverseProxyWord = "reverseproxy"
