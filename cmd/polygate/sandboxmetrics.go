package main

import (
	"github.com/polygate/polygate/internal/telemetry"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
)

// sandboxMetrics counts what a tenant's sandboxes use in the units of metrics.
type sandboxMetrics struct{ *telemetry.TenantMetrics }

func (d *daemon) sandboxMetrics(id tenant.ID) vgw.SandboxMetrics {
	return sandboxMetrics{d.metrics.Tenant(id)}
}

// SandboxUsed implements vgw.SandboxMetrics.
func (s sandboxMetrics) SandboxUsed(owner string, a sandbox.Amounts) {
	const gib = 1 << 30
	u := telemetry.SandboxUse{
		Seconds: a.Seconds(), GPUSeconds: a.GPUSeconds(), StorageByteSeconds: a.StorageGiBSeconds() * gib, Sessions: float64(a.Sessions),
		SessionBytes: float64(a.Bytes),
	}
	u.CPU, u.CPUUsed = a.CoreSeconds()
	memory, used := a.MemoryGiBSeconds()
	u.MemoryBytes, u.MemoryBytesUsed = memory*gib, used*gib
	s.TenantMetrics.SandboxUsed(owner, u)
}
