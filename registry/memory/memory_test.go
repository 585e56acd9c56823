package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	registrytest.Run(t, func(t *testing.T) registrytest.Backend {
		b := memory.New()
		t.Cleanup(func() { _ = b.Close() })
		return b
	})
}
