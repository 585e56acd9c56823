package kube

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

var _ sandbox.Eraser = (*Drivers)(nil)

// eraser removes what is left of one tenant in one namespace. It keeps nothing between calls: each goes by what the cluster shows,
// so that any replica goes on where another stopped.
type eraser struct {
	*cluster
	site      site
	namespace string
	id, uid   string // of the tenant, as the namespace's labels say
}

// Erase implements sandbox.Eraser. A namespace that the gateway made goes as a whole; of an adopted one, what the gateway put there
// and its labels. A namespace that does not carry the tenant's UID and this installation's name is not touched: nothing of
// the tenant is left in it. The caller releases its claim on the place when done is true.
func (d *Drivers) Erase(ctx context.Context, place, tenantUID string) (done bool, err error) {
	return d.erase(ctx, d.config.site(), place, tenantUID)
}

func (d *Drivers) erase(ctx context.Context, s site, place, tenantUID string) (done bool, err error) {
	if tenantUID == "" || s.reserved(place) {
		return false, fault.New(fault.Invalid, "namespace %s is not a tenant's: nothing was erased", place)
	}
	e := eraser{cluster: d.cluster, site: s, namespace: place, uid: tenantUID}
	var found *corev1.Namespace
	err = e.call(ctx, "read the tenant's namespace", func(ctx context.Context) error {
		found, err = e.core.Namespaces().Get(ctx, place, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, err
	case found.Labels[LabelTenantUID] != tenantUID || found.Labels[LabelInstance] != s.instance:
		return true, nil
	}
	e.id = found.Labels[LabelTenant]
	switch {
	case found.DeletionTimestamp != nil:
		return false, e.finish(ctx)
	case found.Labels[LabelAdopted] != "":
		return e.giveBack(ctx, found)
	}
	return false, e.remove(ctx, found)
}

// remove has the cluster delete the namespace.
func (e *eraser) remove(ctx context.Context, found *corev1.Namespace) error {
	if err := e.rights(ctx); err != nil {
		return err
	}
	if _, err := e.freePods(ctx); err != nil {
		return err
	}
	return e.gone(ctx, "delete the tenant's namespace", func(ctx context.Context) error {
		return e.core.Namespaces().Delete(ctx, e.namespace, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(found.UID))})
	})
}

// finish takes away what keeps a namespace that is being deleted: the finalizers of pods, and when they are gone that of the rights by
// which they were taken away.
func (e *eraser) finish(ctx context.Context) error {
	left, err := e.freePods(ctx)
	switch {
	case apierrors.IsForbidden(err):
		// The rights went before, and so did the pods' finalizers. Were there any left, nobody but the cluster's admin could help.
	case err != nil || len(left) > 0:
		return err
	}
	return e.dropRights(ctx)
}

// giveBack leaves an adopted namespace to its admin as it was found. The labels go last: as long as they are there, a call that
// comes after a crash does the rest again.
func (e *eraser) giveBack(ctx context.Context, found *corev1.Namespace) (done bool, err error) {
	if err := e.rights(ctx); err != nil {
		return false, err
	}
	if err := e.removeAgents(ctx); err != nil {
		return false, err
	}
	left, err := e.freePods(ctx)
	if err != nil {
		return false, err
	}
	for _, pod := range left {
		if err := e.gone(ctx, "delete a pod", func(ctx context.Context) error {
			return e.core.Pods(e.namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		}); err != nil {
			return false, err
		}
	}
	if len(left) > 0 {
		return false, nil // their processes run until the node has ended them, and until then the policies stay
	}
	if err := e.removeContents(ctx); err != nil {
		return false, err
	}
	if err := e.dropRights(ctx); err != nil {
		return false, err
	}
	return e.unlabel(ctx, found)
}

// unlabel takes the gateway's labels off an adopted namespace.
func (e *eraser) unlabel(ctx context.Context, found *corev1.Namespace) (done bool, err error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": found.UID, "resourceVersion": found.ResourceVersion,
		"labels": givenBack(found), "annotations": map[string]any{annotationFound: nil},
	}})
	if err != nil {
		return false, err
	}
	err = e.call(ctx, "give the namespace back", func(ctx context.Context) error {
		_, err := e.core.Namespaces().Patch(ctx, e.namespace, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
		return err
	})
	return err == nil, err
}

// selector selects what the gateway put into the namespace for the tenant.
func (e *eraser) selector() string {
	return LabelInstance + "=" + e.site.instance + "," + LabelTenantUID + "=" + e.uid
}

// gone makes a call that deletes. What is gone already, or became another's, is no error.
func (e *eraser) gone(ctx context.Context, what string, f func(context.Context) error) error {
	err := e.call(ctx, what, f)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// pods lists the tenant's pods.
func (e *eraser) pods(ctx context.Context) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	err := e.call(ctx, "list the tenant's pods", func(ctx context.Context) error {
		list, err := e.core.Pods(e.namespace).List(ctx, metav1.ListOptions{LabelSelector: e.selector()})
		if err == nil {
			pods = list.Items
		}
		return err
	})
	return pods, err
}

// waits says whether the cluster waits for the gateway to let go of a pod.
func waits(p corev1.Pod) bool {
	for _, f := range p.Finalizers {
		if f == Finalizer {
			return true
		}
	}
	return false
}

// freePods takes the gateway's finalizer off the tenant's pods, and returns all that are there.
func (e *eraser) freePods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := e.pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if !waits(pod) {
			continue
		}
		if err := e.gone(ctx, "let go of a pod", func(ctx context.Context) error {
			_, err := e.core.Pods(e.namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, withoutFinalizer(string(pod.UID), Finalizer), metav1.PatchOptions{FieldManager: manager})
			return err
		}); err != nil {
			return nil, err
		}
	}
	return pods, nil
}

// withoutFinalizer is a strategic merge patch that removes one finalizer, from the object of that UID alone ("" = whichever).
func withoutFinalizer(uid, finalizer string) []byte {
	metadata := map[string]any{"$deleteFromPrimitiveList/finalizers": []string{finalizer}}
	if uid != "" {
		metadata["uid"] = uid
	}
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil { // strings are always encoded
		return nil
	}
	return data
}

// rights gives the gateway its rights in the namespace once more, where an earlier call took them away and then something failed.
func (e *eraser) rights(ctx context.Context) error {
	b := e.site.binding(e.namespace, e.id, e.uid)
	if b == nil {
		return nil
	}
	p := &place{cluster: e.cluster}
	if err := p.settleBinding(ctx, b); err != nil {
		return err
	}
	return p.withRights(ctx, "list the tenant's pods", func(ctx context.Context) error {
		_, err := e.core.Pods(e.namespace).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// dropRights deletes the gateway's RoleBinding for good.
func (e *eraser) dropRights(ctx context.Context) error {
	if e.site.binding(e.namespace, e.id, e.uid) == nil {
		return nil
	}
	c := e.rbac.RoleBindings(e.namespace)
	// Deleted while it is held, and then let go: in between it still gives the right to do so.
	err := e.gone(ctx, "delete the gateway's rights", func(ctx context.Context) error {
		return c.Delete(ctx, bindingName, metav1.DeleteOptions{})
	})
	if err != nil && !apierrors.IsForbidden(err) { // Forbidden: gone already, and the right to delete it with it
		return err
	}
	return e.unhold(ctx)
}

// unhold takes the finalizer off the gateway's RoleBinding.
func (e *eraser) unhold(ctx context.Context) error {
	return e.gone(ctx, "let go of the gateway's rights", func(ctx context.Context) error {
		_, err := e.rbac.RoleBindings(e.namespace).Patch(ctx, bindingName, types.StrategicMergePatchType, withoutFinalizer("", finalizerBinding), metav1.PatchOptions{FieldManager: manager})
		return err
	})
}

// removeContents deletes what the gateway keeps in an adopted namespace, and what is left of its runs.
func (e *eraser) removeContents(ctx context.Context) error {
	opts := metav1.ListOptions{LabelSelector: e.selector()}
	none := metav1.DeleteOptions{}
	for _, one := range []struct {
		what   string
		delete func(context.Context) error
	}{
		{"network policies", func(ctx context.Context) error {
			return e.network.NetworkPolicies(e.namespace).DeleteCollection(ctx, none, opts)
		}},
		{"quotas", func(ctx context.Context) error {
			return e.core.ResourceQuotas(e.namespace).DeleteCollection(ctx, none, opts)
		}},
		{"limits", func(ctx context.Context) error {
			return e.core.LimitRanges(e.namespace).DeleteCollection(ctx, none, opts)
		}},
		{"service accounts", func(ctx context.Context) error {
			return e.core.ServiceAccounts(e.namespace).DeleteCollection(ctx, none, opts)
		}},
	} {
		if err := e.gone(ctx, "delete the tenant's "+one.what, one.delete); err != nil {
			return err
		}
	}
	return nil
}

// removeAgents deletes the tenant's objects of agents.x-k8s.io, of whichever version the cluster serves; its controller removes their pods.
func (e *eraser) removeAgents(ctx context.Context) error {
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		c := e.dynamic.Resource(schema.GroupVersionResource{Group: "agents.x-k8s.io", Version: version, Resource: "sandboxes"}).Namespace(e.namespace)
		served := true
		err := e.gone(ctx, "delete the tenant's sandboxes", func(ctx context.Context) error {
			err := c.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: e.selector()})
			served = !apierrors.IsNotFound(err)
			return err
		})
		if err != nil || served {
			return err
		}
	}
	return nil
}
