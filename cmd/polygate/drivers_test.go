package main

import (
	"testing"

	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/tenant"
)

// TestSandboxQuotas: a tenant has its own quotas, else the platform's; a ceiling for GPUs gives nobody one.
func TestSandboxQuotas(t *testing.T) {
	cfg := config.Default()
	cfg.Quotas.Ceilings.SandboxGPUs = 8
	d := &daemon{cfg: cfg}
	if got := d.sandboxQuotas(tenant.Quotas{MaxSandboxes: 3}); got.SandboxGPUs != 0 || got.MaxSandboxes != 3 || got.SandboxCPU != int64(cfg.Quotas.SandboxCPU) {
		t.Errorf("got %+v", got)
	}
	if got := d.sandboxQuotas(tenant.Quotas{SandboxGPUs: 2}); got.SandboxGPUs != 2 {
		t.Errorf("its own GPUs: %d, want 2", got.SandboxGPUs)
	}
}
