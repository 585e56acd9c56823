package kube

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// served remembers what the cluster serves beside its core.
type served struct{}

func (d *driver) agents(ctx context.Context) (string, error) { return "", nil }
func (d *driver) makeAgent(ctx context.Context, version string, t sandbox.Task, anchor types.UID) (string, error) {
	return "", fault.New(fault.NotImplemented, "agents")
}
func (d *driver) removeAgent(ctx context.Context, what string, t sandbox.Task, grace time.Duration) error {
	return fault.New(fault.NotImplemented, "agents")
}
func (d *driver) watchAgents(ctx context.Context, version string, seen func(sandbox.Observation), synced func()) error {
	return fault.New(fault.NotImplemented, "agents")
}
func runUID(p *corev1.Pod) string { return string(p.UID) }
