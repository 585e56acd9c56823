package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/tenant"
)

// may asks the API server, as the gateway, whether RBAC lets it do something.
func (in *installation) may(t *testing.T, a authorizationv1.ResourceAttributes) bool {
	t.Helper()
	r, err := in.gateway.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Allowed
}

// TestX53AccessReviews asks for all that the gateway needs in a tenant's namespace, and for the same and more elsewhere.
func TestX53AccessReviews(t *testing.T) {
	in := install(t, nil)
	st := aTenant("team-a")
	d := in.open(st)
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	type ask struct{ verb, group, resource, sub, name string }
	needs := []ask{
		{"get", "", "pods", "log", ""}, {"get", "", "pods", "exec", ""}, {"create", "", "pods", "exec", ""}, {"list", "", "events", "", ""},
		{"get", rbacv1.GroupName, "rolebindings", "", bindingName}, {"delete", rbacv1.GroupName, "rolebindings", "", bindingName},
		{"list", "metrics.k8s.io", "pods", "", ""},
	}
	for _, verb := range []string{"get", "list", "watch", "create", "patch", "delete"} {
		for _, r := range [][2]string{{"", "pods"}, {"", "serviceaccounts"}, {"", "resourcequotas"}, {"", "limitranges"}, {"networking.k8s.io", "networkpolicies"}, {"agents.x-k8s.io", "sandboxes"}} {
			needs = append(needs, ask{verb, r[0], r[1], "", ""})
		}
	}
	never := []ask{
		{"get", "", "secrets", "", ""}, {"list", "", "secrets", "", ""}, {"get", "", "configmaps", "", ""}, {"create", "", "serviceaccounts", "token", ""},
		{"create", "", "pods", "portforward", ""}, {"create", "", "pods", "attach", ""}, {"patch", "", "pods", "ephemeralcontainers", ""}, {"create", "", "pods", "eviction", ""},
		{"create", rbacv1.GroupName, "roles", "", ""}, {"create", rbacv1.GroupName, "rolebindings", "", "another"}, {"escalate", rbacv1.GroupName, "roles", "", ""},
		{"impersonate", "", "serviceaccounts", "", ""}, {"get", "", "services", "", ""}, {"update", "", "pods", "status", ""},
	}
	for _, a := range needs {
		attributes := authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: a.resource, Subresource: a.sub, Name: a.name}
		for _, ns := range []string{d.namespace, "default", "kube-system", in.id, ""} {
			attributes.Namespace = ns
			if got, want := in.may(t, attributes), ns == d.namespace; got != want {
				t.Errorf("%+v in %q: %v, want %v", a, ns, got, want)
			}
		}
	}
	for _, a := range never {
		for _, ns := range []string{d.namespace, "kube-system", ""} {
			if in.may(t, authorizationv1.ResourceAttributes{Namespace: ns, Verb: a.verb, Group: a.group, Resource: a.resource, Subresource: a.sub, Name: a.name}) {
				t.Errorf("the gateway may %+v in %q", a, ns)
			}
		}
	}
	for _, a := range []ask{
		{"list", "", "namespaces", "", ""}, {"watch", "", "namespaces", "", ""}, {"update", "", "namespaces", "finalize", ""}, {"list", "", "nodes", "", ""},
		{"get", "", "nodes", "proxy", ""}, {"create", rbacv1.GroupName, "clusterrolebindings", "", ""}, {"bind", rbacv1.GroupName, "clusterroles", "", "cluster-admin"},
		{"bind", rbacv1.GroupName, "clusterroles", "", in.id + "-gateway"}, {"patch", rbacv1.GroupName, "clusterroles", "", in.role()},
		{"create", "certificates.k8s.io", "certificatesigningrequests", "", ""}, {"patch", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", in.id + "-pods"},
		{"delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings", "", in.id + "-pods"}, {"get", "", "persistentvolumes", "", ""},
	} {
		if in.may(t, authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: a.resource, Subresource: a.sub, Name: a.name}) {
			t.Errorf("the gateway may %+v", a)
		}
	}
	if !in.may(t, authorizationv1.ResourceAttributes{Verb: "create", Group: "authentication.k8s.io", Resource: "tokenreviews"}) {
		t.Error("the gateway may not review tokens")
	}
}

// attack is something that a gateway which was taken over would try with its token.
type attack struct {
	name string
	// stops is the admission policy that stops it; "" = RBAC, or the cluster's own admission.
	stops string
	try   func(ctx context.Context, in *installation, w world) error
}

// world is what attacks are aimed at.
type world struct {
	tenant  string // namespace of the gateway's tenant
	foreign string // of somebody else
	adopted string // of a tenant, adopted; it holds objects of others
	bare    string // of a tenant, without anything in it
	cluster string // of the cluster by its name, and labelled for adoption by mistake
}

// attacks are dry runs, so that one which gets through changes nothing for the next.
func attacks() []attack {
	return []attack{
		{"create a pod in default", "", createPod(func(world) string { return "default" }, nil)},
		{"create a pod in kube-system", "", createPod(func(world) string { return "kube-system" }, nil)},
		{"create a pod in another namespace", "", createPod(func(w world) string { return w.foreign }, nil)},
		{"read secrets of kube-system", "", func(ctx context.Context, in *installation, _ world) error {
			_, err := in.gateway.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})
			return err
		}},
		{"read secrets of its tenant", "", func(ctx context.Context, in *installation, w world) error {
			_, err := in.gateway.CoreV1().Secrets(w.tenant).List(ctx, metav1.ListOptions{})
			return err
		}},
		{"list all pods", "", func(ctx context.Context, in *installation, _ world) error {
			_, err := in.gateway.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		}},
		{"bind cluster-admin to itself", "", func(ctx context.Context, in *installation, _ world) error {
			_, err := in.gateway.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: in.id + "-x"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "polygate", Namespace: in.id}},
			}, dry())
			return err
		}},
		{"bind cluster-admin in its tenant's namespace", "", bind(func(w world) string { return w.bare }, func(b *rbacv1.RoleBinding) { b.RoleRef.Name = "cluster-admin" })},
		{"change its own role", "", func(ctx context.Context, in *installation, _ world) error {
			_, err := in.gateway.RbacV1().ClusterRoles().Patch(ctx, in.role(), types.MergePatchType, []byte(`{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`), dryPatch())
			return err
		}},
		{"remove the policy that holds it", "", func(ctx context.Context, in *installation, _ world) error {
			return in.gateway.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, in.id+"-pods", dryDelete())
		}},

		{"make a namespace without its prefix", "polygate-namespaces", makeNamespace(func(in *installation, n *corev1.Namespace) { n.Name = "other-" + in.id })},
		{"make a namespace kube-x", "polygate-namespaces", makeNamespace(func(in *installation, n *corev1.Namespace) { n.Name = "kube-" + in.id })},
		{"make a namespace without labels", "polygate-namespaces", makeNamespace(func(_ *installation, n *corev1.Namespace) { n.Labels = nil })},
		{"make a namespace without Pod Security", "polygate-namespaces", makeNamespace(func(_ *installation, n *corev1.Namespace) { delete(n.Labels, podSecurityPrefix+"enforce") })},
		{"make a privileged namespace", "polygate-namespaces", makeNamespace(func(_ *installation, n *corev1.Namespace) { n.Labels[podSecurityPrefix+"enforce"] = "privileged" })},
		{"make a namespace of another installation", "polygate-namespaces", makeNamespace(func(_ *installation, n *corev1.Namespace) { n.Labels[LabelInstance] = "another" })},
		{"make a namespace that asks for adoption", "polygate-namespaces", makeNamespace(func(_ *installation, n *corev1.Namespace) { n.Labels[LabelAdopt] = "team-a" })},
		{"label another namespace as its own", "polygate-namespaces", label(func(w world) string { return w.foreign }, ours)},
		{"label another namespace as adopted", "polygate-namespaces", label(func(w world) string { return w.foreign }, adopting)},
		{"ask for adoption itself", "polygate-namespaces", label(func(w world) string { return w.foreign }, func(l map[string]any, in *installation) { adopting(l, in); l[LabelAdopt] = "team-a" })},
		{"label kube-system as its own", "polygate-namespaces", label(func(world) string { return "kube-system" }, ours)},
		{"label default as its own", "polygate-namespaces", label(func(world) string { return "default" }, ours)},
		{"label its own namespace as a tenant's", "polygate-namespaces", label(nil, ours)},
		{"adopt a namespace of the cluster that is labelled for it", "polygate-namespaces", label(func(w world) string { return w.cluster }, adopting)},
		{"change the tenant of a namespace", "polygate-namespaces", label(func(w world) string { return w.tenant }, func(l map[string]any, _ *installation) { l[LabelTenant] = "team-b" })},
		{"change the tenant's UID", "polygate-namespaces", label(func(w world) string { return w.tenant }, func(l map[string]any, _ *installation) { l[LabelTenantUID] = "b" })},
		{"call an adopted namespace its own", "polygate-namespaces", label(func(w world) string { return w.adopted }, func(l map[string]any, _ *installation) { l[LabelAdopted] = nil })},
		{"allow privileged pods", "polygate-namespaces", label(func(w world) string { return w.tenant }, func(l map[string]any, _ *installation) { l[podSecurityPrefix+"enforce"] = "privileged" })},
		{"stop enforcing Pod Security", "polygate-namespaces", label(func(w world) string { return w.tenant }, func(l map[string]any, _ *installation) { l[podSecurityPrefix+"enforce"] = nil })},
		{"change labels of others", "polygate-namespaces", label(func(w world) string { return w.adopted }, func(l map[string]any, _ *installation) { l["team"] = "mine" })},
		{"delete another namespace", "polygate-namespaces", deleteNamespace(func(w world) string { return w.foreign })},
		{"delete kube-public", "", deleteNamespace(func(world) string { return "kube-public" })},
		{"delete an adopted namespace", "polygate-namespaces", deleteNamespace(func(w world) string { return w.adopted })},

		{"give itself rights in kube-system", "polygate-rights", bind(func(world) string { return "kube-system" }, nil)},
		{"give itself rights in default", "polygate-rights", bind(func(world) string { return "default" }, nil)},
		{"give itself rights in another namespace", "polygate-rights", bind(func(w world) string { return w.foreign }, nil)},
		{"give itself rights in its own namespace", "polygate-rights", bind(nil, nil)},
		{"give somebody else rights", "polygate-rights", bind(func(w world) string { return w.tenant }, func(b *rbacv1.RoleBinding) {
			b.Subjects = []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts"}}
		})},
		{"give somebody else rights too", "polygate-rights", bind(func(w world) string { return w.tenant }, func(b *rbacv1.RoleBinding) {
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "ServiceAccount", Name: "default", Namespace: "default"})
		})},

		{"delete a pod of others", "polygate-objects", func(ctx context.Context, in *installation, w world) error {
			return in.gateway.CoreV1().Pods(w.adopted).Delete(ctx, "theirs", dryDelete())
		}},
		{"change a service account of others", "polygate-objects", func(ctx context.Context, in *installation, w world) error {
			_, err := in.gateway.CoreV1().ServiceAccounts(w.adopted).Patch(ctx, "default", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), dryPatch())
			return err
		}},
		{"delete a network policy of others", "polygate-objects", func(ctx context.Context, in *installation, w world) error {
			return in.gateway.NetworkingV1().NetworkPolicies(w.adopted).Delete(ctx, "theirs", dryDelete())
		}},
		{"delete all service accounts", "polygate-objects", func(ctx context.Context, in *installation, w world) error {
			return in.gateway.CoreV1().ServiceAccounts(w.adopted).DeleteCollection(ctx, dryDelete(), metav1.ListOptions{})
		}},
		{"make a pod with another tenant's labels", "polygate-objects", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) { p.Labels[LabelTenant] = "team-b" })},

		{"make a pod that network policies do not know", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) { delete(p.Labels, LabelSandbox) })},
		{"mount a secret", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}})
		})},
		{"mount the token of a service account", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"}}},
			}}})
		})},
		{"have a token mounted", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = nil; p.Spec.ServiceAccountName = "default" })},
		{"take a variable from a secret", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}, Key: "k"}}}}
		})},
		{"take all variables from a secret", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}
		})},
		{"choose a node", "polygate-pods", createPod(func(w world) string { return w.tenant }, func(p *corev1.Pod) { p.Spec.NodeName = "node-1" })},
		{"mount the node's files where nothing is enforced", "polygate-pods", createPod(func(w world) string { return w.adopted }, func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
		})},
		{"use the node's network where nothing is enforced", "polygate-pods", createPod(func(w world) string { return w.adopted }, func(p *corev1.Pod) { p.Spec.HostNetwork = true })},
		{"run privileged where nothing is enforced", "polygate-pods", createPod(func(w world) string { return w.adopted }, func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext.Privileged, p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = new(true), nil
		})},
		{"run as root where nothing is enforced", "polygate-pods", createPod(func(w world) string { return w.adopted }, func(p *corev1.Pod) {
			p.Spec.SecurityContext.RunAsUser, p.Spec.SecurityContext.RunAsNonRoot = new(int64(0)), new(false)
			p.Spec.Containers[0].SecurityContext.RunAsNonRoot = nil
		})},
		{"take capabilities where nothing is enforced", "polygate-pods", createPod(func(w world) string { return w.adopted }, func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
		})},
	}
}

func dry() metav1.CreateOptions { return metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}} }
func dryPatch() metav1.PatchOptions {
	return metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
}
func dryDelete() metav1.DeleteOptions {
	return metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
}

// createPod makes a pod that would do, but for what change makes of it.
func createPod(where func(world) string, change func(*corev1.Pod)) func(context.Context, *installation, world) error {
	return func(ctx context.Context, in *installation, w world) error {
		ns := where(w)
		p := goodPod(in, ns)
		if change != nil {
			change(p)
		}
		_, err := in.gateway.CoreV1().Pods(ns).Create(ctx, p, dry())
		return err
	}
}

// goodPod is one that the gateway may make: its service account is default, which is there.
func goodPod(in *installation, namespace string) *corev1.Pod {
	n, err := in.admin.CoreV1().Namespaces().Get(context.Background(), namespace, metav1.GetOptions{})
	if err != nil {
		in.t.Fatal(err)
	}
	d := &driver{Drivers: in.drivers, tenant: aTenant("team-x"), namespace: namespace}
	task := plainTask()
	task.Spec.RuntimeClass, task.Spec.Resources.GPUs = "", nil
	p := d.pod(task, "uid", d.config.Now())
	p.Labels = map[string]string{LabelInstance: in.id, LabelTenant: n.Labels[LabelTenant], LabelTenantUID: n.Labels[LabelTenantUID], LabelSandbox: "11111111"}
	p.OwnerReferences, p.Spec.ServiceAccountName = nil, "default"
	return p
}

func makeNamespace(change func(*installation, *corev1.Namespace)) func(context.Context, *installation, world) error {
	return func(ctx context.Context, in *installation, _ world) error {
		n := in.drivers.config.site().namespace(in.id+"-new", aTenant("team-n"))
		change(in, n)
		_, err := in.gateway.CoreV1().Namespaces().Create(ctx, n, dry())
		return err
	}
}

func ours(l map[string]any, in *installation) {
	l[LabelInstance], l[LabelTenant], l[LabelTenantUID] = in.id, "team-a", "a"
}

func adopting(l map[string]any, in *installation) {
	ours(l, in)
	l[LabelAdopted] = "true"
}

func label(where func(world) string, change func(map[string]any, *installation)) func(context.Context, *installation, world) error {
	return func(ctx context.Context, in *installation, w world) error {
		name := in.id
		if where != nil {
			name = where(w)
		}
		labels := map[string]any{}
		change(labels, in)
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
		if err != nil {
			return err
		}
		_, err = in.gateway.CoreV1().Namespaces().Patch(ctx, name, types.MergePatchType, patch, dryPatch())
		return err
	}
}

func deleteNamespace(where func(world) string) func(context.Context, *installation, world) error {
	return func(ctx context.Context, in *installation, w world) error {
		return in.gateway.CoreV1().Namespaces().Delete(ctx, where(w), dryDelete())
	}
}

func bind(where func(world) string, change func(*rbacv1.RoleBinding)) func(context.Context, *installation, world) error {
	return func(ctx context.Context, in *installation, w world) error {
		ns := in.id
		if where != nil {
			ns = where(w)
		}
		s := in.drivers.config.site()
		s.role = in.role()
		b := s.binding(ns, "team-a", "a")
		if change != nil {
			change(b)
		}
		data, err := manifest(b)
		if err != nil {
			return err
		}
		o := dryPatch()
		o.FieldManager, o.Force = manager, new(true)
		_, err = in.gateway.RbacV1().RoleBindings(ns).Patch(ctx, b.Name, types.ApplyPatchType, data, o)
		return err
	}
}

// populate makes what attacks are aimed at.
func (in *installation) populate() world {
	in.t.Helper()
	ctx := in.t.Context()
	w := world{foreign: in.id + "-foreign", adopted: in.id + "-adopted", bare: in.id + "-bare", cluster: "openshift-" + in.id}
	for name, labels := range map[string]map[string]string{
		w.foreign: {"team": "b"}, w.adopted: {"team": "c", LabelAdopt: "team-c"}, w.cluster: {LabelAdopt: "team-a"},
		w.bare: {LabelInstance: in.id, LabelTenant: "team-d", LabelTenantUID: "d"},
	} {
		if _, err := in.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
			in.t.Fatal(err)
		}
	}
	eventually(in.t, "service accounts of new namespaces", func() bool {
		_, err1 := in.admin.CoreV1().ServiceAccounts(w.foreign).Get(ctx, "default", metav1.GetOptions{})
		_, err2 := in.admin.CoreV1().ServiceAccounts(w.adopted).Get(ctx, "default", metav1.GetOptions{})
		return err1 == nil && err2 == nil
	})
	theirs := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "localhost/none:1"}}, NodeSelector: map[string]string{"no": "node"},
	}}
	if _, err := in.admin.CoreV1().Pods(w.adopted).Create(ctx, theirs, metav1.CreateOptions{}); err != nil {
		in.t.Fatal(err)
	}
	if _, err := in.admin.NetworkingV1().NetworkPolicies(w.adopted).Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{}); err != nil {
		in.t.Fatal(err)
	}
	a, c := aTenant("team-a"), aTenant("team-c")
	c.Namespace, c.Settings = w.adopted, tenant.Sandboxes{Adopted: true}
	for _, st := range []*driver{in.open(a), in.open(c)} {
		if err := st.Prepare(ctx); err != nil {
			in.t.Fatal(err)
		}
		w.tenant = in.id + "-team-a"
	}
	eventually(in.t, "service account of the tenant's namespace", func() bool {
		_, err := in.admin.CoreV1().ServiceAccounts(w.tenant).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	in.inForce(w)
	return w
}

// inForce waits until the policies are in force: the API server compiles them a moment after they are stored.
func (in *installation) inForce(w world) {
	in.t.Helper()
	for _, policy := range []string{"polygate-namespaces", "polygate-rights", "polygate-objects", "polygate-pods"} {
		eventually(in.t, policy+" is in force", func() bool {
			for _, a := range attacks() {
				if a.stops == policy && refused(a.try(in.t.Context(), in, w)) {
					return true
				}
			}
			return false
		})
	}
}

// TestX53Attacks has a gateway that was taken over try, with its own token, to leave the namespaces of its tenants.
func TestX53Attacks(t *testing.T) {
	in := install(t, nil)
	w := in.populate()
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			if err := a.try(t.Context(), in, w); !refused(err) {
				t.Errorf("not refused: %v", err)
			}
		})
	}
	for _, ns := range []string{w.tenant, w.adopted} { // what it needs is not among them
		if err := createPod(func(world) string { return ns }, nil)(t.Context(), in, w); err != nil {
			t.Errorf("a pod in %s: %v", ns, err)
		}
	}
}

// secondLines are rules that nothing reaches while the first lines hold.
func secondLines() map[string]string {
	return map[string]string{
		"polygate-namespaces/1": "RBAC gives no subresource of namespaces",
		"polygate-rights/0":     "RBAC gives one name of a RoleBinding",
		"polygate-rights/2":     "RBAC gives bind on one ClusterRole",
		"polygate-objects/0":    "RBAC gives these in namespaces of tenants alone",
		"polygate-pods/2":       "the volume of a token that is mounted is refused as well",
		"polygate-pods/4":       "the cluster serves no agents.x-k8s.io",
	}
}

// TestX53EachRuleIsNeeded leaves out one rule of the admission policies at a time: something that TestX53Attacks tries gets through then, so that
// it would tell of it.
func TestX53EachRuleIsNeeded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for policy, rules := range map[string]int{"polygate-namespaces": 7, "polygate-rights": 4, "polygate-objects": 3, "polygate-pods": 8} {
		for rule := range rules {
			name := fmt.Sprint(policy, "/", rule)
			t.Run(name, func(t *testing.T) {
				if why, ok := secondLines()[name]; ok {
					t.Skip("a second line: " + why)
				}
				in := install(t, func(o *unstructured.Unstructured) bool {
					if o.GetKind() == "ValidatingAdmissionPolicy" && o.GetName() == policy {
						all, _, _ := unstructured.NestedSlice(o.Object, "spec", "validations")
						if len(all) != rules {
							t.Fatalf("%s has %d rules, the test knows %d", policy, len(all), rules)
						}
						t.Logf("without: %v", all[rule].(map[string]any)["message"])
						_ = unstructured.SetNestedSlice(o.Object, slices.Delete(all, rule, rule+1), "spec", "validations")
					}
					return false
				})
				w := in.populate()
				var through []string
				for _, a := range attacks() {
					if err := a.try(t.Context(), in, w); !refused(err) {
						through = append(through, a.name)
					}
				}
				t.Logf("gets through: %q", through)
				if len(through) == 0 {
					t.Error("nothing gets through: no attack is for this rule")
				}
			})
		}
	}
}

// TestX53EachRightIsBounded gives the gateway's roles more than they have, one at a time: TestX53Attacks would tell of each.
func TestX53EachRightIsBounded(t *testing.T) {
	for name, more := range map[string]struct{ role, group, resource, verb string }{
		"secrets of tenants":    {"polygate-tenant", "", "secrets", "list"},
		"secrets of all":        {"polygate-gateway", "", "secrets", "list"},
		"pods of all":           {"polygate-gateway", "", "pods", "list"},
		"the policies it obeys": {"polygate-gateway", "admissionregistration.k8s.io", "validatingadmissionpolicies", "delete"},
	} {
		t.Run(name, func(t *testing.T) {
			in := install(t, func(o *unstructured.Unstructured) bool {
				if o.GetKind() == "ClusterRole" && o.GetName() == more.role {
					rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
					rules = append(rules, map[string]any{"apiGroups": []any{more.group}, "resources": []any{more.resource}, "verbs": []any{more.verb}})
					_ = unstructured.SetNestedSlice(o.Object, rules, "rules")
				}
				return false
			})
			w := in.populate()
			var through []string
			for _, a := range attacks() {
				if err := a.try(t.Context(), in, w); !refused(err) {
					through = append(through, a.name)
				}
			}
			t.Logf("gets through: %q", through)
			if len(through) == 0 {
				t.Error("nothing gets through")
			}
		})
	}
}
