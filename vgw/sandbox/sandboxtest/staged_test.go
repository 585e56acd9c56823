package sandboxtest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStaged: the driver in memory is one, so that what is tested with it is tested.
func TestStaged(t *testing.T) {
	sandboxtest.Run(t, func(*testing.T) sandbox.Drivers { return sandboxtest.NewStaged() }, sandboxtest.Caps{
		Tenant: sandbox.Tenant{Scope: tenant.Confine("acme", "uid-acme")}, Image: "tools", Tool: []string{"/tools"},
		Release: true, Events: true, Within: 5 * time.Second,
	})
}
