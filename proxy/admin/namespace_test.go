package admin

import (
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// TestNamespaceUnderSandboxes: a tenant whose sandboxes run keeps its namespace.
func TestNamespaceUnderSandboxes(t *testing.T) {
	r := &tenant.Record{ID: "a", Namespace: "one", Awake: true}
	if err := (&TenantSpec{Namespace: "two"}).applySandboxes(r); err == nil || r.Namespace != "one" {
		t.Errorf("moved to %q: %v", r.Namespace, err)
	}
	if err := (&TenantSpec{Namespace: "one"}).applySandboxes(r); err != nil {
		t.Error(err)
	}
}
