package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/polygate/polygate/vgw/sandbox"
)

const (
	containerName = "sandbox"
	workspace     = "/workspace" // writable, as /tmp is; the rest of the file system is not
	runAs         = 10001        // no user of any image, and not root
	ownGrace      = 10           // seconds, where something else than Remove ends the pod
)

// pod returns the pod of a run. It is pure, and all that a pod can be: whatever is not set here cannot be asked for, and what a user
// wrote is in the image, command, args, env, working directory, ports and one annotation, and nowhere else (X52). It passes
// the Pod Security Standard restricted. anchor is the UID of the run's ServiceAccount, whose removal takes the pod with it.
func (d *driver) pod(t sandbox.Task, anchor types.UID, now time.Time) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:            runName(t.Sandbox, t.Nonce),
			Namespace:       d.namespace,
			Labels:          d.labels(t),
			Annotations:     annotations(t),
			Finalizers:      []string{Finalizer},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: runName(t.Sandbox, t.Nonce), UID: anchor}},
		},
		Spec: podSpec(t, now),
	}
}

func podSpec(t sandbox.Task, now time.Time) corev1.PodSpec {
	s := corev1.PodSpec{
		ServiceAccountName:            runName(t.Sandbox, t.Nonce),
		AutomountServiceAccountToken:  new(false),
		EnableServiceLinks:            new(false), // no names and addresses of others in its environment
		RestartPolicy:                 corev1.RestartPolicyNever,
		ActiveDeadlineSeconds:         deadline(t.Until, now),
		TerminationGracePeriodSeconds: new(int64(ownGrace)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot:        new(true),
			RunAsUser:           new(int64(runAs)),
			RunAsGroup:          new(int64(runAs)),
			FSGroup:             new(int64(runAs)),
			FSGroupChangePolicy: new(corev1.FSGroupChangeOnRootMismatch),
			SeccompProfile:      &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{container(t)},
		Volumes:    []corev1.Volume{scratch("workspace", t.Spec.Resources.Storage), scratch("tmp", t.Spec.Resources.Storage)},
	}
	if t.Spec.RuntimeClass != "" {
		s.RuntimeClassName = new(t.Spec.RuntimeClass)
	}
	if isName(t.Name) {
		s.Hostname = t.Name
	}
	return s
}

func container(t sandbox.Task) corev1.Container {
	c := corev1.Container{
		Name:       containerName,
		Image:      t.Spec.Image,
		Command:    literals(t.Spec.Command),
		Args:       literals(t.Spec.Args),
		WorkingDir: t.Spec.WorkingDir,
		Env:        environment(t.Spec.Env),
		Ports:      containerPorts(t.Spec.Ports),
		Resources:  containerResources(t.Spec.Resources),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "workspace", MountPath: workspace},
			{Name: "tmp", MountPath: "/tmp"},
		},
		ReadinessProbe: readiness(t.Spec.Ports),
		// Not Always, though a tag can move: a registry that is away must not keep what a node has from starting. Who wants the very
		// image names its digest. In a cluster whose images are private by pull secret, the operator enables AlwaysPullImages.
		ImagePullPolicy: corev1.PullIfNotPresent,
		SecurityContext: &corev1.SecurityContext{
			Privileged:               new(false),
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(true),
			RunAsNonRoot:             new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if c.WorkingDir == "" {
		c.WorkingDir = workspace
	}
	return c
}

// literals has the cluster take texts as they are: it would put variables in the place of $(NAME).
func literals(texts []string) []string {
	if texts == nil {
		return nil
	}
	out := make([]string, len(texts))
	for i, s := range texts {
		out[i] = literal(s)
	}
	return out
}

// literal doubles each dollar, of which the cluster makes one again.
func literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }

// environment keeps the order. HOME is the workspace unless it is given: the user of the pod has no other place to write to.
func environment(vars []sandbox.Var) []corev1.EnvVar {
	var out []corev1.EnvVar
	if !slices.ContainsFunc(vars, func(v sandbox.Var) bool { return v.Name == "HOME" }) {
		out = append(out, corev1.EnvVar{Name: "HOME", Value: workspace})
	}
	for _, v := range vars {
		out = append(out, corev1.EnvVar{Name: v.Name, Value: literal(v.Value)})
	}
	return out
}

func containerPorts(list []sandbox.Port) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, p := range list {
		// A name of a port has at most 15 characters there, here up to 63: the number tells them apart anyway.
		out = append(out, corev1.ContainerPort{ContainerPort: int32(p.Number), Protocol: corev1.ProtocolTCP})
	}
	return out
}

// readiness asks the first port whether somebody listens. It kills nothing.
func readiness(list []sandbox.Port) *corev1.Probe {
	if len(list) == 0 {
		return nil
	}
	return &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(list[0].Number)}},
		PeriodSeconds:  5,
		TimeoutSeconds: 2,
	}
}

// containerResources sets aside what is the limit: a sandbox is counted by what it has, and takes nothing from its neighbours.
func containerResources(r sandbox.Resources) corev1.ResourceRequirements {
	l := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(r.CPU, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(r.Memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(r.Storage, resource.BinarySI),
	}
	for name, n := range r.GPUs {
		l[corev1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return corev1.ResourceRequirements{Requests: l, Limits: maps.Clone(l)}
}

func scratch(name string, size int64) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(size, resource.BinarySI)},
	}}
}

// deadline returns the seconds that are left until t, at least one; nil for no end. The cluster counts them from when the pod was
// seen by its node, so that it ends a little after t: the gateway, if it is there, is first.
func deadline(t, now time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return new(max(1, int64((t.Sub(now)+time.Second-1)/time.Second)))
}

// annotations hold what people want to see. What users wrote is JSON in one value, which no selector and no controller reads.
func annotations(t sandbox.Task) map[string]string {
	a := map[string]string{AnnotationName: t.Name}
	if len(t.Spec.Labels) > 0 {
		if b, err := json.Marshal(t.Spec.Labels); err == nil {
			a[AnnotationLabels] = string(b)
		}
	}
	return a
}

// account returns the run's ServiceAccount: an identity that no other run has, without a token, and the anchor of all that is the run's.
func (d *driver) account(t sandbox.Task) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		ObjectMeta:                   metav1.ObjectMeta{Name: runName(t.Sandbox, t.Nonce), Namespace: d.namespace, Labels: d.labels(t)},
		AutomountServiceAccountToken: new(false),
	}
}
