// Package sandboxtest holds what tests of sandboxes share: one suite that every driver passes (Run), a driver in memory that fails as it
// is told to (Staged), and a store in memory (Store).
package sandboxtest

import (
	"testing"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// Caps says what a driver under test can do, and with what it is tried.
type Caps struct {
	Tenant sandbox.Tenant // the tenant that the runs are for
	Other  sandbox.Tenant // another one; zero = only one tenant is tried
	Image  string         // of the runs; holds Tool
	// Tool is the beginning of the commands: the path of the test program (test/kube/tools), which knows sleep, echo, exit, cat, env, oom, …
	Tool    []string
	TTY     bool          // exec can have a terminal
	Signals bool          // exec passes signals on
	OOM     bool          // memory limits are in force
	Release bool          // what ended stays until Release
	Events  bool          // Events tells something
	Within  time.Duration // how long a run may take to start or to end; 0 = 30 s
}

// Run has a driver pass the suite. newDrivers is called once for each test; what it makes is closed by its own clean-up.
func Run(t *testing.T, newDrivers func(t *testing.T) sandbox.Drivers, caps Caps) {
	t.Helper()
}
