package kube

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// roleName is the ClusterRole that a tenant's namespace gives the gateway. The gateway may bind it and no other.
	roleName = "polygate-tenant"
	// bindingName is the one name under which the gateway may make RoleBindings at all.
	bindingName = "polygate-gateway"
	// finalizerBinding keeps the gateway's rights in a namespace that somebody deletes until the gateway has let go of its pods: without
	// rights it could not take its finalizers off them, and the namespace would never be gone.
	finalizerBinding = "polygate.dev/rights"
)

// binding returns the RoleBinding by which the gateway has its rights in one tenant's namespace; nil for a gateway that does not
// run as a ServiceAccount of the cluster.
func (s site) binding(namespace, id, uid string) *rbacv1.RoleBinding {
	if s.gateway.ServiceAccount == "" || s.gateway.Namespace == "" {
		return nil
	}
	meta := s.meta(namespace, bindingName, id, uid)
	meta.Finalizers = []string{finalizerBinding}
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
		ObjectMeta: meta,
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: s.gateway.ServiceAccount, Namespace: s.gateway.Namespace}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: s.role},
	}
}
