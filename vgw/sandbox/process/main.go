package process

import (
	"context"
	"io"
)

// The stages of Command.
const (
	stageShim = "shim" // outside: the parent of a run
	stageInit = "init" // inside: the first process of a run
	// inside, where no control group bounds memory: limits itself and becomes a command
	stageLimit = "limit"
)

// Main is Command: the shim of a run, or the first process within. args are those after Command. It returns the exit code.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	switch {
	case len(args) == 2 && args[0] == stageShim:
		return shimMain(ctx, args[1], stderr)
	case len(args) == 1 && args[0] == stageInit:
		return initMain()
	case len(args) >= 4 && args[0] == stageLimit:
		return limitMain(args[1:], stderr)
	}
	io.WriteString(stderr, Command+" is started by the gateway for its sandboxes, and is of no use otherwise\n") //nolint:errcheck // nobody to tell
	return 2
}
