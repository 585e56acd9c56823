package process

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also what the driver starts: the shim of a run, and the first process within.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == Command {
		os.Exit(Main(context.Background(), os.Args[2:], os.Stderr))
	}
	if len(os.Args) > 2 && os.Args[1] == gatewayCommand {
		gatewayMain(os.Args[2:])
	}
	remove, err := unwatched()
	if err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		remove()
		os.Exit(code)
	}))
}

// selfVariable names the program that the shims and first processes are; empty = this one.
const selfVariable = "POLYGATE_TEST_SELF"

func self() string { return os.Getenv(selfVariable) }
