package kube

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// paperSite is an installation that is in no cluster.
func paperSite() site {
	return site{
		instance: "default", prefix: "polygate-", role: roleName,
		gateway:  Peers{Namespace: "polygate", ServiceAccount: "polygate", PodLabels: map[string]string{"app": "polygate"}},
		dns:      Peers{Namespace: "kube-system", PodLabels: map[string]string{"k8s-app": "kube-dns"}},
		dnsPorts: []int{53},
	}
}

func paperTenant() sandbox.Tenant {
	return sandbox.Tenant{
		Scope:  tenant.Confine("team-a", uidOfA),
		Quotas: tenant.Quotas{MaxSandboxes: 5, SandboxCPU: 2500, SandboxMemory: 3 << 30, SandboxStorage: 1 << 29, SandboxGPUs: 2},
	}
}

// TestX53NamespaceOf: the namespace follows from the routing record, and is never one of the cluster's or the gateway's.
func TestX53NamespaceOf(t *testing.T) {
	for _, c := range []struct {
		record  string
		adopted bool
		want    string
	}{
		{"", false, "polygate-team-a"},
		{"polygate-x", false, "polygate-x"},
		{"team-a", true, "team-a"},
		{"team-a", false, ""}, // not with the prefix
		{"kube-system", false, ""},
		{"kube-system", true, ""},
		{"kube-node-lease", true, ""},
		{"default", true, ""},
		{"openshift", true, ""},
		{"openshift-ingress", true, ""},
		{"polygate", true, ""},
		{"polygate-", false, ""}, // no name
		{"a/b", true, ""},
		{"UPPER", true, ""},
		{"-a", true, ""},
		{strings.Repeat("a", 64), true, ""},
	} {
		st := paperTenant()
		st.Namespace, st.Settings.Adopted = c.record, c.adopted
		got, err := paperSite().namespaceOf(st)
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q, adopted %v: %q, %v; want %q", c.record, c.adopted, got, err, c.want)
		}
	}
}

// TestX53Judge: a namespace is the tenant's only if it says so in every way.
func TestX53Judge(t *testing.T) {
	mine := func() map[string]string {
		return map[string]string{LabelInstance: "default", LabelTenant: "team-a", LabelTenantUID: uidOfA}
	}
	with := func(pairs ...string) map[string]string {
		l := mine()
		for i := 0; i < len(pairs); i += 2 {
			if l[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
				delete(l, pairs[i])
			}
		}
		return l
	}
	adopt := map[string]string{LabelAdopt: "team-a"}
	for _, c := range []struct {
		name    string
		adopted bool
		labels  map[string]string // nil = there is none
		want    verdict
		kind    fault.Kind // Internal = no error
	}{
		{"none", false, nil, makeIt, fault.Internal},
		{"none to adopt", true, nil, 0, fault.Conflict},
		{"ours", false, mine(), keepIt, fault.Internal},
		{"nobody's", false, map[string]string{}, 0, fault.Conflict},
		{"nobody's, labelled for us", false, adopt, 0, fault.Conflict},
		{"to adopt", true, adopt, takeIt, fault.Internal},
		{"not labelled", true, map[string]string{}, 0, fault.Conflict},
		{"labelled for another", true, map[string]string{LabelAdopt: "team-b"}, 0, fault.Conflict},
		{"adopted", true, with(LabelAdopt, "team-a", LabelAdopted, "true"), keepIt, fault.Internal},
		{"taken back", true, with(LabelAdopted, "true"), 0, fault.Conflict},
		{"given to another", true, with(LabelAdopt, "team-b", LabelAdopted, "true"), 0, fault.Conflict},
		{"adopted, and not said so any more", false, with(LabelAdopt, "team-a", LabelAdopted, "true"), 0, fault.Conflict},
		{"another tenant's", false, with(LabelTenant, "team-b", LabelTenantUID, "b"), 0, fault.Conflict},
		{"an earlier tenant's", false, with(LabelTenantUID, "b"), 0, fault.Conflict},
		{"another's UID", false, with(LabelTenant, "team-b"), 0, fault.Conflict},
		{"another installation's", false, with(LabelInstance, "other"), 0, fault.Conflict},
		{"half labelled", true, with(LabelTenantUID, "", LabelAdopt, "team-a"), 0, fault.Conflict},
	} {
		st := paperTenant()
		st.Settings.Adopted = c.adopted
		var found *corev1.Namespace
		if c.labels != nil {
			found = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: c.labels}}
		}
		got, err := paperSite().judge("n", st, found)
		if c.kind == fault.Internal {
			if got != c.want || err != nil {
				t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
			}
			continue
		}
		if !fault.Is(err, c.kind) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.kind)
		}
	}
	ending := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Labels: mine(), DeletionTimestamp: new(metav1.Now())}}
	if _, err := paperSite().judge("n", paperTenant(), ending); !errors.Is(err, sandbox.ErrTerminating) {
		t.Errorf("being deleted: %v", err)
	}
}

// TestNamespaceLabels holds the levels of Pod Security, and that an observed namespace keeps its own.
func TestNamespaceLabels(t *testing.T) {
	for _, c := range []struct {
		settings tenant.Sandboxes
		enforce  string
	}{
		{tenant.Sandboxes{}, "restricted"},
		{tenant.Sandboxes{PodSecurity: tenant.PodBaseline}, "baseline"},
		{tenant.Sandboxes{PodSecurity: tenant.PodPrivileged}, "privileged"},
		{tenant.Sandboxes{Adopted: true}, ""},
		{tenant.Sandboxes{Adopted: true, Hardened: true}, "restricted"},
	} {
		st := paperTenant()
		st.Settings = c.settings
		l := paperSite().namespace("n", st).Labels
		if l["pod-security.kubernetes.io/enforce"] != c.enforce || (c.enforce != "") != (l["pod-security.kubernetes.io/enforce-version"] == podSecurityVersion) {
			t.Errorf("%+v: %v", c.settings, l)
		}
		if l[LabelTenant] != "team-a" || l[LabelTenantUID] != uidOfA || l[LabelInstance] != "default" || (l[LabelAdopted] == "true") != c.settings.Adopted {
			t.Errorf("%+v: %v", c.settings, l)
		}
	}
}

// TestGivenBack: what an adopted namespace enforced before is what it enforces after, and nothing else can be smuggled in by the note.
func TestGivenBack(t *testing.T) {
	found := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Labels:      map[string]string{LabelAdopted: "true"},
		Annotations: map[string]string{annotationFound: `{"pod-security.kubernetes.io/enforce":"baseline","polygate.dev/tenant":"x","team":"y"}`},
	}}
	got := givenBack(found)
	if got["pod-security.kubernetes.io/enforce"] != "baseline" || got[LabelTenant] != nil {
		t.Errorf("givenBack: %v", got)
	}
	if _, ok := got["team"]; ok {
		t.Errorf("givenBack: %v", got)
	}
	if v, ok := got["pod-security.kubernetes.io/warn"]; !ok || v != nil {
		t.Errorf("givenBack keeps a label of ours: %v", got)
	}
}
