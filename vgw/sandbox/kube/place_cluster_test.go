package kube

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// inShape fails the test unless all of a tenant's namespace is as it should be.
func (in *installation) inShape(t *testing.T, d *driver) {
	t.Helper()
	ctx, s, ns := t.Context(), d.place.site, d.namespace
	n, err := in.admin.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lines := differences("namespace", n.Labels, s.namespace(ns, d.tenant).Labels); lines != nil {
		t.Error(lines)
	}
	for _, want := range s.policies(ns, d.tenant) {
		got, err := in.admin.NetworkingV1().NetworkPolicies(ns).Get(ctx, want.Name, metav1.GetOptions{})
		if err != nil || !samePolicy(got, want) || differences("", got.Labels, want.Labels) != nil {
			t.Errorf("policy %s: %v %+v", want.Name, err, got)
		}
	}
	if got, err := in.admin.CoreV1().ResourceQuotas(ns).Get(ctx, quotaName, metav1.GetOptions{}); err != nil || !sameQuota(got, s.quota(ns, d.tenant)) {
		t.Errorf("quota: %v %+v", err, got)
	}
	if got, err := in.admin.CoreV1().LimitRanges(ns).Get(ctx, quotaName, metav1.GetOptions{}); err != nil || !sameLimits(got, s.limits(ns, d.tenant)) {
		t.Errorf("limits: %v %+v", err, got)
	}
	b, err := in.admin.RbacV1().RoleBindings(ns).Get(ctx, bindingName, metav1.GetOptions{})
	want := s.binding(ns, d.tenant.Scope.ID().String(), d.tenant.Scope.UID())
	if err != nil || b.DeletionTimestamp != nil || !slices.Equal(b.Subjects, want.Subjects) || b.RoleRef != want.RoleRef {
		t.Errorf("binding: %v %+v", err, b)
	}
}

// TestPlaceIsPutBack changes each thing in a tenant's namespace, as its admin could, and has it put back.
func TestPlaceIsPutBack(t *testing.T) {
	in := install(t, nil)
	st := aTenant("team-a")
	st.Settings.Egress = []string{"internet:443", "10.20.0.0/16"}
	d := in.open(st)
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.inShape(t, d)
	if lines := d.Drift(); lines != nil {
		t.Errorf("Drift of a new namespace: %q", lines)
	}
	ns, none := d.namespace, metav1.DeleteOptions{}
	network, core := in.admin.NetworkingV1().NetworkPolicies(ns), in.admin.CoreV1()
	merge := func(data string) ([]byte, metav1.PatchOptions) { return []byte(data), metav1.PatchOptions{} }
	for _, c := range []struct {
		name, report string
		change       func(ctx context.Context) error
	}{
		{"default deny deleted", policyDeny + ": missing", func(ctx context.Context) error { return network.Delete(ctx, policyDeny, none) }},
		{"default deny opened", policyDeny + ": is not", func(ctx context.Context) error {
			data, o := merge(`{"spec":{"ingress":[{}],"egress":[{}]}}`)
			_, err := network.Patch(ctx, policyDeny, types.MergePatchType, data, o)
			return err
		}},
		{"default deny narrowed", policyDeny + ": is not", func(ctx context.Context) error {
			data, o := merge(`{"spec":{"podSelector":{"matchLabels":{"a":"b"}},"policyTypes":["Ingress"]}}`)
			_, err := network.Patch(ctx, policyDeny, types.MergePatchType, data, o)
			return err
		}},
		{"egress widened", policyEgress + ": is not", func(ctx context.Context) error {
			data, o := merge(`{"spec":{"egress":[{}]}}`)
			_, err := network.Patch(ctx, policyEgress, types.MergePatchType, data, o)
			return err
		}},
		{"labels off a policy", "label " + LabelTenant, func(ctx context.Context) error {
			data, o := merge(`{"metadata":{"labels":{"` + LabelTenant + `":null,"` + LabelInstance + `":null}}}`)
			_, err := network.Patch(ctx, policyGateway, types.MergePatchType, data, o)
			return err
		}},
		{"quota raised", "ResourceQuota polygate: is not", func(ctx context.Context) error {
			data, o := merge(`{"spec":{"hard":{"pods":"1000","limits.cpu":"900","services":"3"}}}`)
			_, err := core.ResourceQuotas(ns).Patch(ctx, quotaName, types.MergePatchType, data, o)
			return err
		}},
		{"quota scoped", "ResourceQuota polygate: is not", func(ctx context.Context) error {
			if err := core.ResourceQuotas(ns).Delete(ctx, quotaName, none); err != nil {
				return err
			}
			_, err := core.ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: quotaName}, Spec: corev1.ResourceQuotaSpec{
				Hard: corev1.ResourceList{corev1.ResourcePods: hard(st.Quotas)[corev1.ResourcePods]}, Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort},
			}}, metav1.CreateOptions{})
			return err
		}},
		{"quota deleted", "ResourceQuota polygate: missing", func(ctx context.Context) error { return core.ResourceQuotas(ns).Delete(ctx, quotaName, none) }},
		{"limits changed", "LimitRange polygate: is not", func(ctx context.Context) error {
			data, o := merge(`{"spec":{"limits":[{"type":"Pod","max":{"cpu":"1m"}}]}}`)
			_, err := core.LimitRanges(ns).Patch(ctx, quotaName, types.MergePatchType, data, o)
			return err
		}},
		{"Pod Security taken off", "enforce is missing", func(ctx context.Context) error {
			data, o := merge(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":null}}}`)
			_, err := core.Namespaces().Patch(ctx, ns, types.MergePatchType, data, o)
			return err
		}},
		{"Pod Security weakened", "enforce is privileged", func(ctx context.Context) error {
			data, o := merge(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`)
			_, err := core.Namespaces().Patch(ctx, ns, types.MergePatchType, data, o)
			return err
		}},
		{"rights given to others", "", func(ctx context.Context) error {
			data, o := merge(`{"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}`)
			_, err := in.admin.RbacV1().RoleBindings(ns).Patch(ctx, bindingName, types.MergePatchType, data, o)
			return err
		}},
		{"rights taken away", "", func(ctx context.Context) error {
			return in.admin.RbacV1().RoleBindings(ns).Delete(ctx, bindingName, none)
		}},
		{"rights taken away by force", "", func(ctx context.Context) error {
			data, o := merge(`{"metadata":{"finalizers":null}}`)
			_, err := in.admin.RbacV1().RoleBindings(ns).Patch(ctx, bindingName, types.MergePatchType, data, o)
			return errors.Join(err, in.admin.RbacV1().RoleBindings(ns).Delete(ctx, bindingName, none))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.change(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := in.prepare(d); err != nil {
				t.Fatal(err)
			}
			in.inShape(t, d)
			if got := strings.Join(d.Drift(), "\n"); !strings.Contains(got, c.report) {
				t.Errorf("Drift is %q, want %q in it", got, c.report)
			}
			if err := in.prepare(d); err != nil || c.report != "" && d.Drift() != nil {
				t.Errorf("again: %v, %q", err, d.Drift())
			}
		})
	}
	extra := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "open"}, Spec: networkingv1.NetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{}}}}
	if _, err := network.Create(t.Context(), extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := in.prepare(d); err != nil || len(d.Drift()) != 1 || !strings.Contains(d.Drift()[0], "NetworkPolicy open") {
		t.Errorf("a policy of somebody else: %v, %q", err, d.Drift())
	}
}

// TestPlaceIsKept has the watch of a tenant's sandboxes put back what is changed of its policies, without anybody asking, also when it began
// before the namespace was there.
func TestPlaceIsKept(t *testing.T) {
	in := install(t, nil)
	d := in.open(aTenant("team-a"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { // as the manager does
		defer close(ended)
		for pause(ctx, 100*time.Millisecond) == nil {
			_ = d.Watch(ctx, func(sandbox.Observation) {}, func() {})
		}
	}()
	defer func() { cancel(); <-ended }()
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	policies := in.admin.NetworkingV1().NetworkPolicies(d.namespace)
	for range 2 {
		if err := policies.Delete(t.Context(), policyDeny, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the policy is put back", func() bool {
			_, err := policies.Get(t.Context(), policyDeny, metav1.GetOptions{})
			return err == nil
		})
	}
	if _, err := in.admin.CoreV1().Namespaces().Get(t.Context(), in.id+"-team-b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error("a namespace was made that nobody needs")
	}
}

// TestPlaceIsHeldWhileUsed deletes a namespace from outside: as long as there are pods it waits for the gateway, and without any it does not.
func TestPlaceIsHeldWhileUsed(t *testing.T) {
	in := install(t, nil)
	d := in.open(aTenant("team-a"))
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	held := func() bool {
		b, err := in.admin.RbacV1().RoleBindings(d.namespace).Get(t.Context(), bindingName, metav1.GetOptions{})
		return err == nil && slices.Contains(b.Finalizers, finalizerBinding)
	}
	watch := func() { // as a manager does that closes at once
		ctx, cancel := context.WithCancel(t.Context())
		_ = d.Watch(ctx, func(sandbox.Observation) {}, cancel)
	}
	task := in.run(t, d)
	watch()
	if !held() {
		t.Fatal("not held while a pod runs")
	}
	if err := d.Remove(t.Context(), task, time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is gone", func() bool {
		_ = d.Release(t.Context(), task)
		_, err := in.admin.CoreV1().Pods(d.namespace).Get(t.Context(), runName(task.Sandbox, task.Nonce), metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	watch()
	if held() {
		t.Error("held though nothing runs")
	}
	if err := in.prepare(d); err != nil || !held() {
		t.Errorf("not held before the next pod: %v", err)
	}
	watch()
	if err := in.admin.CoreV1().Namespaces().Delete(t.Context(), d.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace is gone, without the gateway", func() bool {
		_, err := in.admin.CoreV1().Namespaces().Get(t.Context(), d.namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// TestX53PlacesRefused has tenants' records name namespaces that are not theirs.
func TestX53PlacesRefused(t *testing.T) {
	in := install(t, nil)
	w := in.populate()
	for name, c := range map[string]struct {
		namespace string
		adopted   bool
		kind      fault.Kind
	}{
		"kube-system":              {"kube-system", false, fault.Invalid},
		"default":                  {"default", false, fault.Invalid},
		"the gateway's own":        {in.id, false, fault.Invalid},
		"adopted kube-system":      {"kube-system", true, fault.Invalid},
		"adopted own":              {in.id, true, fault.Invalid},
		"another's, made":          {w.tenant, false, fault.Conflict},
		"another's, adopted":       {w.adopted, true, fault.Conflict},
		"nobody's, not labelled":   {w.foreign, true, fault.Conflict},
		"nobody's, with a prefix":  {w.foreign, false, fault.Conflict},
		"labelled for another":     {w.bare, true, fault.Conflict},
		"labelled by hand":         {w.bare, false, fault.Conflict},
		"adopted and not there":    {in.id + "-none", true, fault.Conflict},
		"without the prefix":       {"other-" + in.id, false, fault.Invalid},
		"of the cluster, labelled": {w.cluster, true, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			st := aTenant("team-z")
			st.Namespace, st.Settings.Adopted = c.namespace, c.adopted
			before, errBefore := in.admin.CoreV1().Namespaces().Get(t.Context(), c.namespace, metav1.GetOptions{})
			in.places.owner = nil // what the cluster shows must do by itself
			if err := in.open(st).Prepare(t.Context()); !fault.Is(err, c.kind) {
				t.Errorf("Prepare: %v, want %v", err, c.kind)
			}
			after, errAfter := in.admin.CoreV1().Namespaces().Get(t.Context(), c.namespace, metav1.GetOptions{})
			if (errBefore == nil) != (errAfter == nil) || errBefore == nil && before.ResourceVersion != after.ResourceVersion {
				t.Error("the namespace was touched")
			}
		})
	}
}

// TestX53PlaceClaimed has two tenants' records name one namespace that is not there yet: the registry gives it to one.
func TestX53PlaceClaimed(t *testing.T) {
	in := install(t, nil)
	a, b := aTenant("team-a"), aTenant("team-b")
	a.Namespace, b.Namespace = in.id+"-shared", in.id+"-shared"
	da, db := in.open(a), in.open(b)
	errs := make(chan error, 2)
	for _, d := range []*driver{da, db} {
		go func() { errs <- d.Prepare(t.Context()) }()
	}
	err1, err2 := <-errs, <-errs
	if (err1 == nil) == (err2 == nil) || !fault.Is(errors.Join(err1, err2), fault.Conflict) {
		t.Errorf("Prepare of two: %v, %v", err1, err2)
	}
}

// TestAdoption is the story of a namespace that was there before: observed, hardened, given back.
func TestAdoption(t *testing.T) {
	in := install(t, nil)
	ctx, ns := t.Context(), in.id+"-theirs"
	namespaces := in.admin.CoreV1().Namespaces()
	found, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{
		"team": "c", "pod-security.kubernetes.io/enforce": "baseline",
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	st := aTenant("team-c")
	st.Namespace, st.Settings = ns, tenant.Sandboxes{Adopted: true}
	d := in.open(st)
	if err := d.Prepare(ctx); !errors.Is(err, sandbox.ErrNotOurs) || !strings.Contains(err.Error(), LabelAdopt+"=team-c") {
		t.Errorf("before it is labelled: %v", err)
	}
	if _, err := namespaces.Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+LabelAdopt+`":"team-c"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	n, _ := namespaces.Get(ctx, ns, metav1.GetOptions{})
	policies, _ := in.admin.NetworkingV1().NetworkPolicies(ns).List(ctx, metav1.ListOptions{})
	quotas, _ := in.admin.CoreV1().ResourceQuotas(ns).List(ctx, metav1.ListOptions{})
	if n.Labels["pod-security.kubernetes.io/enforce"] != "baseline" || n.Labels["team"] != "c" || n.Labels[LabelAdopted] != "true" || len(policies.Items)+len(quotas.Items) > 0 {
		t.Errorf("observed: labels %v, %d policies, %d quotas", n.Labels, len(policies.Items), len(quotas.Items))
	}
	report := strings.Join(d.Drift(), "\n")
	for _, want := range []string{"enforce is baseline, and should be restricted", policyDeny + ": missing", policyEgress + ": missing", "ResourceQuota polygate: missing", "LimitRange polygate: missing"} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
	st.Settings.Hardened = true
	d = in.open(st)
	if err := d.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	in.inShape(t, d)

	eventually(t, "the namespace is given back", func() bool {
		done, err := in.erase(ns, st.Scope.UID())
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
	n, err = namespaces.Get(ctx, ns, metav1.GetOptions{})
	if err != nil || n.DeletionTimestamp != nil || n.UID != found.UID {
		t.Fatalf("given back: %v %v", err, n)
	}
	for k := range n.Labels {
		if strings.HasPrefix(k, LabelPrefix) && k != LabelAdopt || strings.HasPrefix(k, podSecurityPrefix) && k != podSecurityPrefix+"enforce" {
			t.Errorf("given back with label %s", k)
		}
	}
	if n.Labels[podSecurityPrefix+"enforce"] != "baseline" || n.Annotations[annotationFound] != "" {
		t.Errorf("given back with %v %v", n.Labels, n.Annotations)
	}
	in.nothingLeft(t, ns)
}

// nothingLeft fails unless a namespace holds nothing that the gateway made.
func (in *installation) nothingLeft(t *testing.T, ns string) {
	t.Helper()
	ctx, o := t.Context(), metav1.ListOptions{LabelSelector: LabelInstance}
	pods, err1 := in.admin.CoreV1().Pods(ns).List(ctx, o)
	accounts, err2 := in.admin.CoreV1().ServiceAccounts(ns).List(ctx, o)
	policies, err3 := in.admin.NetworkingV1().NetworkPolicies(ns).List(ctx, o)
	quotas, err4 := in.admin.CoreV1().ResourceQuotas(ns).List(ctx, o)
	limits, err5 := in.admin.CoreV1().LimitRanges(ns).List(ctx, o)
	bindings, err6 := in.admin.RbacV1().RoleBindings(ns).List(ctx, o)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		t.Fatal(err)
	}
	if n := len(pods.Items) + len(accounts.Items) + len(policies.Items) + len(quotas.Items) + len(limits.Items) + len(bindings.Items); n > 0 {
		t.Errorf("%d objects are left", n)
	}
}

// run makes a pod of the tenant, as the gateway does, and waits until it runs or is not to.
func (in *installation) run(t *testing.T, d *driver) sandbox.Task {
	t.Helper()
	task := toolsTask("sleep", "600s")
	uid, err := d.Create(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	task.UID = uid
	eventually(t, "the pod runs", func() bool {
		p, err := in.admin.CoreV1().Pods(d.namespace).Get(t.Context(), runName(task.Sandbox, task.Nonce), metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	})
	return task
}

// TestErase removes tenants with pods that run, and goes on after each step by another replica.
func TestErase(t *testing.T) {
	in := install(t, nil)
	erased := func(t *testing.T, d *driver) {
		t.Helper()
		eventually(t, "erased", func() bool {
			done, err := in.erase(d.namespace, d.tenant.Scope.UID())
			if err != nil {
				t.Fatal(err)
			}
			return done
		})
	}
	gone := func(t *testing.T, d *driver) {
		t.Helper()
		if _, err := in.admin.CoreV1().Namespaces().Get(t.Context(), d.namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace is left: %v", err)
		}
	}
	t.Run("made", func(t *testing.T) {
		d := in.open(aTenant("team-a"))
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in.run(t, d)
		erased(t, d)
		gone(t, d)
	})
	t.Run("deleted by its admin", func(t *testing.T) {
		d := in.open(aTenant("team-b"))
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in.run(t, d)
		if err := in.admin.CoreV1().Namespaces().Delete(t.Context(), d.namespace, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := in.prepare(d); !errors.Is(err, sandbox.ErrTerminating) || !fault.Is(err, fault.Unavailable) {
			t.Errorf("Prepare while it is deleted: %v", err)
		}
		erased(t, d)
		gone(t, d)
		again := aTenant("team-b") // a tenant of that name comes again
		in.places.owner = nil
		if err := in.open(again).Prepare(t.Context()); err != nil {
			t.Error(err)
		}
		if done, err := in.erase(d.namespace, d.tenant.Scope.UID()); !done || err != nil {
			t.Errorf("Erase of the old one: %v, %v", done, err)
		}
		in.inShape(t, func() *driver { n := in.open(again); return n }())
	})
	t.Run("deleted by its admin while it is used", func(t *testing.T) {
		d := in.open(aTenant("team-d"))
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		task := in.run(t, d)
		if err := in.admin.CoreV1().Namespaces().Delete(t.Context(), d.namespace, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the run is released, and the namespace made anew", func() bool {
			_ = d.Release(t.Context(), task) // as the manager does until it has no error
			return in.prepare(d) == nil
		})
		in.inShape(t, d)
	})
	t.Run("adopted", func(t *testing.T) {
		st := aTenant("team-c")
		st.Namespace, st.Settings = in.id+"-theirs", tenant.Sandboxes{Adopted: true, Hardened: true}
		if _, err := in.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: st.Namespace, Labels: map[string]string{LabelAdopt: "team-c"}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		d := in.open(st)
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in.run(t, d)
		data := []byte(`{"metadata":{"finalizers":null}}`) // as if a replica had ended after it gave its rights back
		_, err1 := in.admin.RbacV1().RoleBindings(d.namespace).Patch(t.Context(), bindingName, types.MergePatchType, data, metav1.PatchOptions{})
		err2 := in.admin.RbacV1().RoleBindings(d.namespace).Delete(t.Context(), bindingName, metav1.DeleteOptions{})
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		erased(t, d)
		in.nothingLeft(t, d.namespace)
		n, err := in.admin.CoreV1().Namespaces().Get(t.Context(), d.namespace, metav1.GetOptions{})
		if err != nil || n.Labels[LabelTenant] != "" || n.Labels[LabelAdopt] == "" {
			t.Errorf("the namespace of others: %v, %v", err, n.Labels)
		}
	})
	t.Run("not a tenant's", func(t *testing.T) {
		for _, ns := range []string{"kube-system", "default", in.id} {
			if done, err := in.erase(ns, "x"); done || !fault.Is(err, fault.Invalid) {
				t.Errorf("Erase of %s: %v, %v", ns, done, err)
			}
		}
	})
}

// TestTwoInstallations has two platforms on one cluster, each with a tenant team-a, keep off each other's.
func TestTwoInstallations(t *testing.T) {
	a, b := install(t, nil), install(t, nil)
	st := aTenant("team-a")
	da, db := a.open(st), b.open(aTenant("team-a"))
	if err := errors.Join(da.Prepare(t.Context()), db.Prepare(t.Context())); err != nil {
		t.Fatal(err)
	}
	a.inShape(t, da)
	b.inShape(t, db)
	meddler := st // the same tenant and namespace, by the other's rights and configuration
	meddler.Namespace = da.namespace
	b.drivers.config.NamespacePrefix = a.id + "-"
	if err := b.open(meddler).Prepare(t.Context()); !errors.Is(err, sandbox.ErrNotOurs) {
		t.Errorf("Prepare of the other's namespace: %v", err)
	}
	if done, err := b.erase(da.namespace, st.Scope.UID()); !done || err != nil {
		t.Errorf("Erase of the other's namespace: %v, %v", done, err)
	}
	a.inShape(t, da)
	b.id, a.id = a.id, b.id // b's token with a's labels: the rights stop it, not the drivers
	w := world{tenant: da.namespace, foreign: da.namespace, adopted: da.namespace, bare: da.namespace, cluster: "default"}
	for _, at := range attacks() {
		if strings.Contains(at.name, "rights in another") || strings.Contains(at.name, "delete another namespace") || strings.Contains(at.name, "change the tenant of") {
			eventually(t, at.name+" of the other installation: refused", func() bool { return refused(at.try(t.Context(), b, w)) })
		}
	}
	b.id, a.id = a.id, b.id
}
