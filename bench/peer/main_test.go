package peer

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the process of ReverseProxy.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "reverseproxy" {
		if err := ReverseProxyMain(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
