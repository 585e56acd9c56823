package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
)

// object is what the gateway keeps of the cluster's kinds.
type object interface {
	metav1.Object
	runtime.Object
}

// reader and patcher are the parts of a typed client that are used here.
type reader[T object] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
}

type patcher[T object] interface {
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (T, error)
}

type keeper[T object] interface {
	reader[T]
	patcher[T]
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// apply makes an object or takes back the fields of it that the gateway owns (server-side apply). Fields of others stay.
func apply[T object](ctx context.Context, c patcher[T], want T) (T, error) {
	data, err := manifest(want)
	if err != nil {
		var none T
		return none, err
	}
	return c.Patch(ctx, want.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: manager, Force: new(true)})
}

// manifest is an object as it is applied: without a status, which is not the gateway's to own.
func manifest(want runtime.Object) ([]byte, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", want, err)
	}
	delete(fields, "status")
	return json.Marshal(fields)
}

// settle brings one object in shape. What differs is applied; what another added beside our fields, such as a rule in a policy
// that has none, survives that, and is then replaced as a whole. With observe nothing is written. It returns what was found.
func settle[T object](ctx context.Context, p *place, c keeper[T], want T, same func(got, want T) bool, observe bool) ([]string, error) {
	what := fmt.Sprintf("%s %s", want.GetObjectKind().GroupVersionKind().Kind, want.GetName())
	var got T
	found := true
	err := p.withRights(ctx, "read the "+what, func(ctx context.Context) (err error) {
		got, err = c.Get(ctx, want.GetName(), metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		found, err = false, nil
	}
	if err != nil {
		return nil, err
	}
	var lines []string
	switch {
	case !found:
		lines = []string{what + ": missing"}
	case !same(got, want):
		lines = []string{what + ": is not as it should be"}
	default:
		lines = differences(what, got.GetLabels(), want.GetLabels())
	}
	if len(lines) == 0 || observe {
		return lines, nil
	}
	err = p.withRights(ctx, "write the "+what, func(ctx context.Context) error { return write(ctx, c, want, same) })
	if found && apierrors.IsInvalid(err) { // something cannot be changed, or does not go with ours: it is made anew
		err = p.withRights(ctx, "replace the "+what, func(ctx context.Context) error {
			if err := c.Delete(ctx, want.GetName(), metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(got.GetUID()))}); err != nil {
				return err
			}
			return write(ctx, c, want, same)
		})
	}
	return lines, err
}

// write applies an object, and replaces its spec where that was not enough.
func write[T object](ctx context.Context, c keeper[T], want T, same func(got, want T) bool) error {
	got, err := apply(ctx, patcher[T](c), want)
	if err != nil || same(got, want) {
		return err
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(want)
	if err != nil {
		return err
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": got.GetUID()},
		{"op": "replace", "path": "/spec", "value": fields["spec"]},
	})
	if err != nil {
		return err
	}
	_, err = c.Patch(ctx, want.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: manager})
	return err
}

// withRights makes a call, and again for a while if the cluster says that the gateway may not: rights that were just given are not
// known to all of it at once.
func (p *place) withRights(ctx context.Context, what string, f func(context.Context) error) error {
	end := time.Now().Add(rightsWait)
	for pause := 20 * time.Millisecond; ; pause *= 2 {
		err := p.call(ctx, what, f)
		if !apierrors.IsForbidden(err) || terminating(err) || time.Now().Add(pause).After(end) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// settleBinding gives the gateway its rights in the namespace. It is applied without a look: the gateway may not read RoleBindings
// where it has no rights yet. One that somebody deleted is still in force by its finalizer; it is let go and made anew.
func (p *place) settleBinding(ctx context.Context, want *rbacv1.RoleBinding) error {
	c := p.rbac.RoleBindings(want.Namespace)
	err := p.withRights(ctx, "bind the gateway's rights in the tenant's namespace", func(ctx context.Context) error {
		got, err := apply(ctx, c, want)
		if err != nil || got.DeletionTimestamp == nil {
			return err
		}
		if _, err := c.Patch(ctx, want.Name, types.StrategicMergePatchType, withoutFinalizer(string(got.UID), finalizerBinding),
			metav1.PatchOptions{FieldManager: manager}); err != nil {
			return err
		}
		_, err = apply(ctx, c, want)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return fault.Wrap(fault.Unavailable, err, "the ClusterRole %s is missing in the cluster: apply deploy/kubernetes/10-rbac.yaml", want.RoleRef.Name)
	}
	return err
}

func samePolicy(got, want *networkingv1.NetworkPolicy) bool {
	return got.DeletionTimestamp == nil && equality.Semantic.DeepEqual(defaulted(got.Spec), defaulted(want.Spec))
}

// defaulted makes nil and empty rules one.
func defaulted(s networkingv1.NetworkPolicySpec) networkingv1.NetworkPolicySpec {
	if len(s.Ingress) == 0 {
		s.Ingress = nil
	}
	if len(s.Egress) == 0 {
		s.Egress = nil
	}
	return s
}

func sameQuota(got, want *corev1.ResourceQuota) bool {
	return got.DeletionTimestamp == nil && equality.Semantic.DeepEqual(got.Spec, want.Spec)
}

func sameLimits(got, want *corev1.LimitRange) bool {
	return got.DeletionTimestamp == nil && equality.Semantic.DeepEqual(got.Spec, want.Spec)
}

// strangers names the policies that the gateway did not make.
func strangers(all []networkingv1.NetworkPolicy) []string {
	var lines []string
	for _, n := range all {
		if !slices.Contains([]string{policyDeny, policyEgress, policyGateway}, n.Name) {
			lines = append(lines, "NetworkPolicy "+n.Name+": was made by somebody else, and may widen what pods can reach")
		}
	}
	slices.Sort(lines)
	return lines
}
