package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Labels of a tenant's namespace, beside LabelInstance, LabelTenant and LabelTenantUID. The admission policy in deploy/kubernetes holds
// the gateway to namespaces that carry those three.
const (
	LabelAdopt   = LabelPrefix + "adopt"   // set by a namespace's admin, and by nobody else: the tenant that may have it
	LabelAdopted = LabelPrefix + "adopted" // "true": it was there before, so it is never deleted
)

// Labels of Pod Security admission. The version is pinned to that of the library by which tests judge the pods that the gateway
// makes: a cluster that is upgraded does not refuse them overnight. An older cluster takes it for its own latest.
const (
	podSecurityPrefix  = "pod-security.kubernetes.io/"
	podSecurityVersion = "v1.37"
)

// site is what the objects of a namespace depend on beside its tenant: where the gateway is, and what it was told of the cluster.
type site struct {
	instance string
	prefix   string // of namespaces that the gateway makes
	gateway  Peers
	dns      Peers
	dnsPorts []int
	role     string // the ClusterRole that a tenant's namespace gives the gateway
}

// namespaceOf returns the name of a tenant's namespace. It comes from the routing record alone, and is refused where it could be
// somebody else's: the cluster's own, the gateway's, or one that the gateway may not make (X53).
func (s site) namespaceOf(t sandbox.Tenant) (string, error) {
	name := t.Namespace
	if name == "" {
		name = s.prefix + t.Scope.ID().String()
	}
	if err := tenant.CheckNamespace(name); err != nil || name == "" {
		return "", fault.Wrap(fault.Invalid, err, "%q cannot be the namespace of sandboxes", name)
	}
	switch {
	case s.reserved(name):
		return "", fault.New(fault.Invalid, "namespace %s belongs to the cluster or to the gateway itself: name another one", name)
	case !t.Settings.Adopted && !strings.HasPrefix(name, s.prefix):
		return "", fault.New(fault.Invalid, "namespace %s does not begin with %s, so the gateway does not make it: leave namespace out, or adopt it "+
			"(label it %s=%s, and set sandboxes.adopted)", name, s.prefix, LabelAdopt, t.Scope.ID())
	}
	return name, nil
}

// reserved says whether a namespace is one that no tenant can have. The admission policy has the same list.
func (s site) reserved(name string) bool {
	return name == "default" || name == "openshift" || strings.HasPrefix(name, "kube-") || strings.HasPrefix(name, "openshift-") ||
		name == s.gateway.Namespace || name == s.dns.Namespace
}

// namespace returns a tenant's namespace as it should be, as far as the gateway has a say in it.
func (s site) namespace(name string, t sandbox.Tenant) *corev1.Namespace {
	labels := map[string]string{LabelInstance: s.instance, LabelTenant: t.Scope.ID().String(), LabelTenantUID: t.Scope.UID()}
	if t.Settings.Adopted {
		labels[LabelAdopted] = "true"
	}
	if !t.Settings.Observed() {
		maps.Copy(labels, podSecurity(t.Settings.PodSecurity))
	}
	return &corev1.Namespace{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
	}
}

// annotationFound remembers the Pod Security labels that an adopted namespace had before it was hardened, for when it is given back.
const annotationFound = LabelPrefix + "found"

// remembered returns the annotations to be written with a namespace's labels.
func remembered(found *corev1.Namespace) map[string]string {
	if found.Labels[LabelAdopted] == "" {
		return nil
	}
	if was, ok := found.Annotations[annotationFound]; ok {
		return map[string]string{annotationFound: was}
	}
	had := maps.Clone(found.Labels)
	maps.DeleteFunc(had, func(k, _ string) bool { return !strings.HasPrefix(k, podSecurityPrefix) })
	text, err := json.Marshal(had)
	if err != nil { // strings are always encoded
		return nil
	}
	return map[string]string{annotationFound: string(text)}
}

// givenBack returns the change of labels, nil = removed, that undoes what the gateway did to an adopted namespace.
func givenBack(found *corev1.Namespace) map[string]any {
	labels := map[string]any{LabelInstance: nil, LabelTenant: nil, LabelTenantUID: nil, LabelAdopted: nil}
	was, hardened := found.Annotations[annotationFound]
	if !hardened {
		return labels
	}
	for k := range podSecurity("") {
		labels[k] = nil
	}
	had := make(map[string]string)
	if json.Unmarshal([]byte(was), &had) != nil {
		return labels
	}
	for k, v := range had {
		if strings.HasPrefix(k, podSecurityPrefix) {
			labels[k] = v
		}
	}
	return labels
}

// podSecurity returns the labels that enforce a level. What restricted would refuse is always audited and warned of.
func podSecurity(level tenant.PodSecurity) map[string]string {
	if level == "" {
		level = tenant.PodRestricted
	}
	labels := make(map[string]string)
	for mode, l := range map[string]tenant.PodSecurity{"enforce": level, "audit": tenant.PodRestricted, "warn": tenant.PodRestricted} {
		labels[podSecurityPrefix+mode] = string(l)
		labels[podSecurityPrefix+mode+"-version"] = podSecurityVersion
	}
	return labels
}

// verdict says what is to be done about a tenant's namespace as it was found.
type verdict uint8

const (
	makeIt verdict = iota // there is none
	keepIt                // it is this tenant's
	takeIt                // it was labelled for adoption
)

// judge says what may be done with a namespace of the tenant's name, nil = there is none. Whatever does not say clearly that it is
// this tenant's is left alone, however it came to be there: its objects are somebody's (X53).
func (s site) judge(name string, t sandbox.Tenant, found *corev1.Namespace) (verdict, error) {
	if found == nil {
		if t.Settings.Adopted {
			return 0, fault.New(fault.Conflict, "namespace %s is to be adopted, but does not exist: make it, and label it %s=%s", name, LabelAdopt, t.Scope.ID())
		}
		return makeIt, nil
	}
	l := found.Labels
	switch {
	case found.DeletionTimestamp != nil:
		return 0, fault.Wrap(fault.Unavailable, sandbox.ErrTerminating, "namespace %s is being deleted: sandboxes wait until it is gone", name)
	case l[LabelTenantUID] == "" && l[LabelTenant] == "" && l[LabelInstance] == "":
		return takeIt, s.adoptable(name, t, l)
	case l[LabelInstance] != s.instance:
		return 0, fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "namespace %s belongs to another installation of Polygate on this cluster: set sandboxes.kube.namespace_prefix", name)
	case l[LabelTenantUID] != t.Scope.UID() || l[LabelTenant] != t.Scope.ID().String():
		return 0, fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "namespace %s belongs to another tenant, or to an earlier one of this name and is not erased yet", name)
	case t.Settings.Adopted:
		return keepIt, s.adoptable(name, t, l)
	case l[LabelAdopted] != "":
		return 0, fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "namespace %s was adopted, and the tenant's settings do not say so any more: set sandboxes.adopted", name)
	}
	return keepIt, nil
}

// adoptable says whether a namespace's admin has given it to the tenant, and not taken it back.
func (s site) adoptable(name string, t sandbox.Tenant, labels map[string]string) error {
	id := t.Scope.ID().String()
	switch {
	case !t.Settings.Adopted:
		return fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "namespace %s exists and was not made by the gateway: have it adopted (label it %s=%s, and set sandboxes.adopted), or name another one",
			name, LabelAdopt, id)
	case labels[LabelAdopt] != id:
		return fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "namespace %s is not given to tenant %s: its admin has to label it %s=%s", name, id, LabelAdopt, id)
	}
	return nil
}

// differences returns a line for each label that is not as wanted, sorted.
func differences(what string, got, want map[string]string) []string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		switch v, ok := got[k]; {
		case !ok:
			lines = append(lines, what+": label "+k+" is missing, and should be "+want[k])
		case v != want[k]:
			lines = append(lines, what+": label "+k+" is "+v+", and should be "+want[k])
		}
	}
	return lines
}
