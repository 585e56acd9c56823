package kube

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// quotaName is the name of the ResourceQuota and of the LimitRange.
const quotaName = "polygate"

// quota returns the ResourceQuota of a tenant's namespace: the tenant's quotas once more, where a gateway that is broken or taken
// over cannot look away from them. What sandboxes never need is 0: volumes that outlive them, and ways in from outside the cluster.
func (s site) quota(namespace string, t sandbox.Tenant) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ResourceQuota"},
		ObjectMeta: s.meta(namespace, quotaName, t.Scope.ID().String(), t.Scope.UID()),
		Spec:       corev1.ResourceQuotaSpec{Hard: hard(t.Quotas)},
	}
}

// hard returns the limits of a namespace. A quota that is 0, the platform's default filled in, is no limit; but for GPUs, of which
// none are meant.
func hard(q tenant.Quotas) corev1.ResourceList {
	zero := *resource.NewQuantity(0, resource.DecimalSI)
	list := corev1.ResourceList{
		corev1.ResourcePersistentVolumeClaims: zero,
		corev1.ResourceServicesNodePorts:      zero,
		corev1.ResourceServicesLoadBalancers:  zero,
	}
	if q.MaxSandboxes > 0 {
		list[corev1.ResourcePods] = *resource.NewQuantity(int64(q.MaxSandboxes), resource.DecimalSI)
	}
	for name, amount := range most(q) {
		list["requests."+name], list["limits."+name] = amount, amount
	}
	for _, gpu := range knownGPUs() {
		list[corev1.ResourceName("requests."+gpu)] = *resource.NewQuantity(int64(q.SandboxGPUs), resource.DecimalSI)
	}
	return list
}

// most returns what a tenant's sandboxes may have together.
func most(q tenant.Quotas) corev1.ResourceList {
	list := corev1.ResourceList{}
	if q.SandboxCPU > 0 {
		list[corev1.ResourceCPU] = *resource.NewMilliQuantity(q.SandboxCPU, resource.DecimalSI)
	}
	if q.SandboxMemory > 0 {
		list[corev1.ResourceMemory] = *resource.NewQuantity(q.SandboxMemory, resource.BinarySI)
	}
	if q.SandboxStorage > 0 {
		list[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(q.SandboxStorage, resource.BinarySI)
	}
	return list
}

// knownGPUs are the resource names under which devices are usually offered. A ResourceQuota cannot say "any other": devices of
// another name are counted by the gateway alone.
func knownGPUs() []string {
	return []string{"nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "habana.ai/gaudi", "google.com/tpu", "aws.amazon.com/neuron"}
}

// limits returns the LimitRange of a tenant's namespace. Sandboxes always say what they need; it is for what else is in an adopted
// namespace, which the quota would refuse if it said nothing.
func (s site) limits(namespace string, t sandbox.Tenant) *corev1.LimitRange {
	usual, highest := usualLimits(), most(t.Quotas)
	for _, name := range slices.Collect(maps.Keys(usual)) {
		if m, ok := highest[name]; ok && m.Cmp(usual[name]) < 0 {
			usual[name] = m
		}
	}
	item := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Default: usual, DefaultRequest: usual.DeepCopy()}
	if len(highest) > 0 {
		item.Max = highest
	}
	return &corev1.LimitRange{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "LimitRange"},
		ObjectMeta: s.meta(namespace, quotaName, t.Scope.ID().String(), t.Scope.UID()),
		Spec:       corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}},
	}
}

// usualLimits are those of a container that names none.
func usualLimits() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(500, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(512<<20, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(1<<30, resource.BinarySI),
	}
}
