package lab

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/bench/backend"
	"github.com/polygate/polygate/bench/peer"
)

// TestMain lets this program be the upstream and the reverse proxy too, as polybench is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "upstream":
			end(backend.Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout))
		case "reverseproxy":
			end(peer.ReverseProxyMain(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// newLab returns a lab in a folder of the test's own.
func newLab(t *testing.T) (*Lab, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(Config{Dir: t.TempDir(), Self: self})
	if err != nil {
		t.Fatal(err)
	}
	return l, self
}
