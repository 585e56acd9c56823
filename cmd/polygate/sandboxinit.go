package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/polygate/polygate/vgw/sandbox/process"
)

// newSandboxInitCommand is the hidden command under which the process driver's shims, and the first processes of its sandboxes, run.
func newSandboxInitCommand() *cobra.Command {
	return &cobra.Command{
		Use: process.Command, Hidden: true, Short: "Started by the gateway for its sandboxes", DisableFlagParsing: true,
		Run: func(cmd *cobra.Command, args []string) {
			os.Exit(process.Main(cmd.Context(), args, cmd.ErrOrStderr()))
		},
	}
}
