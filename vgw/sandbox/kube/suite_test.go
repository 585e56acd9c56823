package kube

import (
	"testing"

	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// TestSuite has the driver pass the suite of all drivers, on a real cluster, with plain pods. Signals take a shell, which the
// image of tests does not have: see TestClusterExec for those that a terminal sends.
func TestSuite(t *testing.T) {
	suite(t, AgentOff)
}

func suite(t *testing.T, agents string) {
	drivers := func(t *testing.T) sandbox.Drivers {
		return realDrivers(t, func(c *Config) { c.AgentSandbox = agents })
	}
	ds := realDrivers(t, func(c *Config) { c.AgentSandbox = agents })
	sandboxtest.Run(t, drivers, sandboxtest.Caps{
		Tenant: realTenant(t, ds).tenant, Other: realTenant(t, ds).tenant,
		Image: toolsImage, Tool: []string{"/tools"},
		TTY: true, OOM: true, Release: agents == AgentOff, Events: true, Since: true,
	})
}
