package config_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/config"
)

// TestSandboxSettings: what cannot be meant is refused with its place, and what can be has its value.
func TestSandboxSettings(t *testing.T) {
	for text, want := range map[string]string{
		"driver: docker": "sandboxes.driver",
		"driver: kube":   "names no cluster",
		"{driver: kube, kube: {kubeconfig: a, in_cluster: true}}":                 "choose one",
		"{driver: kube, kube: {in_cluster: true, namespace_prefix: kube-}}":       "namespace_prefix",
		"{driver: kube, kube: {in_cluster: true, instance: A}}":                   "instance",
		"{driver: kube, kube: {in_cluster: true, agent_sandbox: maybe}}":          "agent_sandbox",
		"{driver: kube, kube: {in_cluster: true, gateway: {pod_labels: {a: b}}}}": "no namespace",
		"{driver: kube, kube: {in_cluster: true, qps: 0}}":                        "qps",
		"{driver: kube, kube: {in_cluster: true, dns: {ports: []}}}":              "dns.ports",
		"{driver: kube, kube: {in_cluster: true, dns: {ports: [0]}}}":             "dns.ports",
		"{driver: kube, kube: {in_cluster: true, timeout: 1ms}}":                  "timeout",
		"start_timeout: 1s":       "start_timeout",
		"max_sessions: 0":         "max_sessions",
		"max_exec_output: 1GiB":   "max_exec_output",
		"defaults: {cpu: 0}":      "every sandbox has a limit",
		"defaults: {cpu: lots}":   "number of cores",
		"images: ['*']":           "repository",
		"images: [a/b@sha256:ab]": "repository",
	} {
		_, err := config.LoadPlatform(write(t, "polygate.yaml", "base_domain: gw.example.com\nsandboxes:\n  "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p, err := config.LoadPlatform(write(t, "polygate.yaml", "base_domain: gw.example.com\nsandboxes: {driver: kube, defaults: {cpu: 1.5}, kube: {in_cluster: true}}\nquotas: {sandbox_cpu: 250m}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if dns := p.Sandboxes.Kube.DNS; dns.Namespace != "kube-system" || len(dns.PodLabels) != 1 || !slices.Equal(dns.Ports, []int{53}) {
		t.Errorf("DNS without settings: %+v", dns)
	}
	if p.Sandboxes.Defaults.CPU != 1500 || p.Quotas.SandboxCPU != 250 || p.Quotas.Tenant().SandboxLifetime != 24*3600 {
		t.Errorf("got %+v, %+v", p.Sandboxes.Defaults, p.Quotas)
	}
}

// TestDNSOfOpenShift: what is said of the cluster's DNS takes the place of the default, labels included, and the example tells how.
func TestDNSOfOpenShift(t *testing.T) {
	p, err := config.LoadPlatform(write(t, "polygate.yaml", `
base_domain: gw.example.com
sandboxes:
  driver: kube
  kube: {in_cluster: true, dns: {namespace: openshift-dns, pod_labels: {dns.operator.openshift.io/daemonset-dns: default}, ports: [5353]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	dns := p.Sandboxes.Kube.DNS
	if dns.Namespace != "openshift-dns" || !maps.Equal(dns.PodLabels, map[string]string{"dns.operator.openshift.io/daemonset-dns": "default"}) || !slices.Equal(dns.Ports, []int{5353}) {
		t.Errorf("got %+v", dns)
	}
}

// TestHardeningStays: a reload keeps that an adopted namespace was hardened, and forgets it with the namespace.
func TestHardeningStays(t *testing.T) {
	r := newRegistry(t)
	for _, step := range []struct {
		namespace string
	}{{"one"}, {"two"}} {
		r.load("tenants:\n  - {id: a, display_name: " + step.namespace + ", namespace: " + step.namespace + ", sandboxes: {adopted: true}}\n")
		if got := r.records["a"].Sandboxes.Hardened; got && step.namespace == "two" {
			t.Error("another namespace is taken for a hardened one")
		}
		r.records["a"].Sandboxes.Hardened = true
		r.load("tenants:\n  - {id: a, display_name: again, namespace: " + step.namespace + ", sandboxes: {adopted: true}}\n")
		if !r.records["a"].Sandboxes.Hardened {
			t.Error("a reload softened the namespace")
		}
	}
}
