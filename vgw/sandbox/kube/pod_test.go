package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	psaapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

const uidOfA = "5f0c7a52-8c1e-4b9e-9d5e-0d6a3f1b7c11"

// paperDriver is a driver that calls nobody, for what is pure.
func paperDriver() *driver {
	d := &Drivers{config: Config{}.withDefaults()}
	return &driver{Drivers: d, tenant: sandbox.Tenant{Scope: tenant.Confine("a", uidOfA)}, namespace: "k-a", names: newNames()}
}

func plainTask() sandbox.Task {
	return sandbox.Task{
		Sandbox: "0b9f1c2d-1111-4222-8333-444455556666", Nonce: "n0nce123", Name: "work", Owner: "0123456789abcdef", Session: "s-1",
		Spec: sandbox.Spec{
			Image: "registry.example/team/agent@sha256:abc", Command: []string{"/bin/agent"}, Args: []string{"--serve"},
			Env:          []sandbox.Var{{Name: "B", Value: "1"}, {Name: "A", Value: "2"}},
			Resources:    sandbox.Resources{CPU: 500, Memory: 512 << 20, Storage: 1 << 30, GPUs: map[string]int64{"nvidia.com/gpu": 2}},
			Ports:        []sandbox.Port{{Name: "http", Number: 8080}},
			RuntimeClass: "gvisor", Labels: map[string]string{"team": "x"},
		},
		Until: time.Date(2026, 11, 22, 16, 0, 0, 1, time.UTC),
	}
}

func atThree() time.Time { return time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC) }

// TestPodFields holds each line of the checklist for pods.
func TestPodFields(t *testing.T) {
	p := paperDriver().pod(plainTask(), "anchor-uid", atThree())
	s, c := p.Spec, p.Spec.Containers[0]
	yes := func(b *bool) bool { return b != nil && *b }
	no := func(b *bool) bool { return b != nil && !*b }
	for _, check := range []struct {
		what string
		ok   bool
	}{
		{"automountServiceAccountToken is false", no(s.AutomountServiceAccountToken)},
		{"enableServiceLinks is false", no(s.EnableServiceLinks)},
		{"restartPolicy is Never", s.RestartPolicy == corev1.RestartPolicyNever},
		{"activeDeadlineSeconds is what is left, rounded up", s.ActiveDeadlineSeconds != nil && *s.ActiveDeadlineSeconds == 3601},
		{"terminationGracePeriodSeconds is small", s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds <= 30},
		{"runtimeClassName is the task's", s.RuntimeClassName != nil && *s.RuntimeClassName == "gvisor"},
		{"no host network, PID or IPC", !s.HostNetwork && !s.HostPID && !s.HostIPC && s.ShareProcessNamespace == nil},
		{"no node is named", s.NodeName == "" && s.NodeSelector == nil && s.Affinity == nil && s.Tolerations == nil},
		{"pod: runAsNonRoot", yes(s.SecurityContext.RunAsNonRoot)},
		{"pod: user, group and fsGroup of no image", *s.SecurityContext.RunAsUser >= 10000 && *s.SecurityContext.RunAsGroup >= 10000 && *s.SecurityContext.FSGroup >= 10000},
		{"pod: seccomp RuntimeDefault", s.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault},
		{"allowPrivilegeEscalation is false", no(c.SecurityContext.AllowPrivilegeEscalation)},
		{"privileged is false", no(c.SecurityContext.Privileged)},
		{"all capabilities are dropped, none added", slices.Equal(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}) && c.SecurityContext.Capabilities.Add == nil},
		{"the root file system is read-only", yes(c.SecurityContext.ReadOnlyRootFilesystem)},
		{"workspace and /tmp are bounded", len(s.Volumes) == 2 && s.Volumes[0].EmptyDir.SizeLimit.Value() == 1<<30 && s.Volumes[1].EmptyDir.SizeLimit.Value() == 1<<30},
		{"and mounted", len(c.VolumeMounts) == 2 && c.VolumeMounts[0].MountPath == "/workspace" && c.VolumeMounts[1].MountPath == "/tmp"},
		{"requests are limits", maps.EqualFunc(c.Resources.Requests, c.Resources.Limits, func(a, b resource.Quantity) bool { return a.Equal(b) })},
		{"cpu", c.Resources.Limits.Cpu().MilliValue() == 500},
		{"memory", c.Resources.Limits.Memory().Value() == 512<<20},
		{"ephemeral-storage", c.Resources.Limits.StorageEphemeral().Value() == 1<<30},
		{"GPUs by resource name", amount(c.Resources.Limits, "nvidia.com/gpu") == 2},
		{"no hostPort", len(c.Ports) == 1 && c.Ports[0].HostPort == 0 && c.Ports[0].ContainerPort == 8080},
		{"a probe of the first port", c.ReadinessProbe != nil && c.ReadinessProbe.TCPSocket.Port.IntValue() == 8080 && c.LivenessProbe == nil},
		{"one container, no other", len(s.Containers) == 1 && s.InitContainers == nil && s.EphemeralContainers == nil},
		{"deterministic name", p.Name == "sb-0b9f1c2d-n0nce123"},
		{"own service account", s.ServiceAccountName == p.Name},
		{"anchor", len(p.OwnerReferences) == 1 && p.OwnerReferences[0].UID == "anchor-uid" && p.OwnerReferences[0].Kind == "ServiceAccount"},
		{"finalizer", slices.Equal(p.Finalizers, []string{Finalizer})},
		{"env in its order, HOME first", names3(c.Env) == "HOME,B,A"},
		{"no secret is pulled with", s.ImagePullSecrets == nil && c.EnvFrom == nil},
	} {
		if !check.ok {
			t.Errorf("not so: %s", check.what)
		}
	}
	want := map[string]string{
		LabelManagedBy: "polygate", LabelInstance: "default", LabelTenant: "a", LabelTenantUID: uidOfA,
		LabelSandbox: plainTask().Sandbox, LabelRun: "n0nce123", LabelOwner: "0123456789abcdef", LabelSession: "s-1",
	}
	if !maps.Equal(p.Labels, want) {
		t.Errorf("labels %v, want %v", p.Labels, want)
	}
}

func amount(l corev1.ResourceList, name corev1.ResourceName) int64 {
	q := l[name]
	return q.Value()
}

func names3(vars []corev1.EnvVar) string {
	var n []string
	for _, v := range vars {
		n = append(n, v.Name)
	}
	return strings.Join(n, ",")
}

// evaluator judges by the Pod Security Standard restricted, as the cluster's own admission does.
func evaluator(t *testing.T) func(p *corev1.Pod) []string {
	t.Helper()
	e, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return func(p *corev1.Pod) []string {
		var bad []string
		for _, r := range e.EvaluatePod(psaapi.LevelVersion{Level: psaapi.LevelRestricted, Version: psaapi.LatestVersion()}, &p.ObjectMeta, &p.Spec) {
			if !r.Allowed {
				bad = append(bad, r.ForbiddenReason+": "+r.ForbiddenDetail)
			}
		}
		return bad
	}
}

// TestX52 tries to get a right by what users write: hostile texts in every field that a Task has. The pod that comes of it must be
// that of a harmless task but for the places that are meant for users' texts, and pass the standard restricted.
func TestX52(t *testing.T) {
	restricted := evaluator(t)
	d := paperDriver()
	hostile := rapid.OneOf(rapid.SampledFrom([]string{
		"hostPath: /", `{"hostNetwork":true}`, "privileged", "serviceAccountName: admin", "nodeName", "kube-system", "ownerReferences", "$(KUBERNETES)",
		"polygate.dev/tenant", "polygate.dev/tenant-uid", "agents.x-k8s.io/claim-uid", "\n  hostPID: true", "app.kubernetes.io/managed-by", "../../etc",
	}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		task := plainTask()
		text := func(name string) string { return hostile.Draw(t, name) }
		task.Name, task.Session, task.Owner = text("name"), text("session"), text("owner")
		task.Spec.Image, task.Spec.WorkingDir = text("image"), text("dir")
		task.Spec.Command, task.Spec.Args = []string{text("command")}, []string{text("arg")}
		task.Spec.Env = []sandbox.Var{{Name: text("var"), Value: text("value")}}
		task.Spec.Labels = map[string]string{text("label"): text("label value"), LabelTenantUID: "another", LabelSandbox: "another"}
		p := d.pod(task, "anchor-uid", atThree())
		if bad := restricted(p); bad != nil {
			t.Fatalf("not restricted: %v", bad)
		}
		if !d.carries(p.Labels, task) || len(p.Labels) > len(d.labels(plainTask())) {
			t.Fatalf("labels were forged: %v", p.Labels)
		}
		got, want := textless(p), textless(d.pod(plainTask(), "anchor-uid", atThree()))
		if got != want {
			t.Fatalf("a text reached further than it may:\n got %s\nwant %s", got, want)
		}
	})
}

// textless renders a pod without what users may write in it.
func textless(p *corev1.Pod) string {
	p = p.DeepCopy()
	c := &p.Spec.Containers[0]
	c.Image, c.WorkingDir, c.Command, c.Args, c.Env = "", "", nil, nil, nil
	p.Spec.Hostname = "" // the sandbox's name, if it is a DNS label
	delete(p.Annotations, AnnotationLabels)
	delete(p.Annotations, AnnotationName)
	delete(p.Labels, LabelOwner)   // digests where they
	delete(p.Labels, LabelSession) // are not fit
	b, err := json.Marshal(p)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestX52Missing has each field that keeps a pod confined taken away: the evaluator, which the test above relies on, must notice.
func TestX52Missing(t *testing.T) {
	restricted := evaluator(t)
	for what, spoil := range map[string]func(p *corev1.Pod){
		"runAsNonRoot": func(p *corev1.Pod) {
			p.Spec.SecurityContext.RunAsNonRoot, p.Spec.Containers[0].SecurityContext.RunAsNonRoot = nil, nil
		},
		"allowPrivilegeEscalation": func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
		"capabilities":             func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Capabilities = nil },
		"seccomp": func(p *corev1.Pod) {
			p.Spec.SecurityContext.SeccompProfile, p.Spec.Containers[0].SecurityContext.SeccompProfile = nil, nil
		},
		"hostNetwork": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"hostPath": func(p *corev1.Pod) {
			p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}
		},
	} {
		p := paperDriver().pod(plainTask(), "anchor-uid", atThree())
		if bad := restricted(p); bad != nil {
			t.Fatalf("the pod itself is not restricted: %v", bad)
		}
		if spoil(p); restricted(p) == nil {
			t.Errorf("%s is wrong and nobody notices", what)
		}
	}
}

func TestDeadline(t *testing.T) {
	now := atThree()
	for _, c := range []struct {
		until time.Time
		want  int64 // 0 = none
	}{
		{time.Time{}, 0}, {now.Add(time.Hour), 3600}, {now.Add(1500 * time.Millisecond), 2}, {now, 1}, {now.Add(-time.Hour), 1},
	} {
		got := deadline(c.until, now)
		if c.want == 0 && got != nil || c.want != 0 && (got == nil || *got != c.want) {
			t.Errorf("deadline(%v) = %v, want %d", c.until, got, c.want)
		}
	}
}

func TestCheckTask(t *testing.T) {
	for _, c := range []struct {
		id, nonce string
		ok        bool
	}{
		{"0b9f1c2d-1111-4222-8333-444455556666", "abc123", true},
		{"", "abc123", false},
		{"0b9f", "abc123", false},
		{"0b9f1c2d-1111", "", false},
		{"0b9f1c2d-1111", "../x", false},
		{"0b9f1c2d-1111", "ABC", false},
		{"0b9f1c2d-1111", strings.Repeat("a", 64), false},
	} {
		if err := checkTask(sandbox.Task{Sandbox: c.id, Nonce: c.nonce}); (err == nil) != c.ok {
			t.Errorf("checkTask(%q, %q) = %v, want ok %v", c.id, c.nonce, err, c.ok)
		}
	}
}

func TestLabelValue(t *testing.T) {
	for in, want := range map[string]string{"abc": "abc", "a.b_c-d": "a.b_c-d"} {
		if got := labelValue(in); got != want {
			t.Errorf("labelValue(%q) = %q, want %q", in, got, want)
		}
	}
	seen := make(map[string]string)
	for _, in := range []string{"a b", "-a", "a-", "ä", strings.Repeat("a", 64), "a/b", "x=y,z"} {
		got := labelValue(in)
		if !isLabelValue(got) {
			t.Errorf("labelValue(%q) = %q is no label", in, got)
		}
		if was, ok := seen[got]; ok {
			t.Errorf("%q and %q share the label %q", in, was, got)
		}
		seen[got] = in
	}
}
