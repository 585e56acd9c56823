package config

import (
	"slices"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

func (s Sandboxes) check(cs *checks) {
	const at = "sandboxes"
	switch s.Driver {
	case DriverNone, DriverProcess, DriverKube:
	default:
		cs.fail(at+".driver", "is %q: use kube, process or none", clip(s.Driver))
	}
	checkSandboxSettings(cs, at, tenant.Sandboxes{Images: s.Images, RuntimeClasses: s.RuntimeClasses})
	if s.StartTimeout < 10*time.Second || s.StartTimeout > 24*time.Hour {
		cs.fail(at+".start_timeout", "is %s: 10s to 24h are allowed", s.StartTimeout)
	}
	if s.MaxSessions < 1 || s.MaxSessions > 1000 {
		cs.fail(at+".max_sessions", "is %d: 1 to 1000 are allowed", s.MaxSessions)
	}
	if s.MaxExecOutput < 1<<10 || s.MaxExecOutput > 16<<20 {
		cs.fail(at+".max_exec_output", "is %d bytes: 1KiB to 16MiB are allowed", s.MaxExecOutput)
	}
	if s.Defaults.CPU <= 0 || s.Defaults.Memory <= 0 || s.Defaults.Storage <= 0 {
		cs.fail(at+".defaults", "cpu, memory and storage must be above 0: every sandbox has a limit")
	}
	if s.Process.Pids < 8 || s.Process.Pids > 100_000 {
		cs.fail(at+".process.pids", "is %d: 8 to 100000 are allowed", s.Process.Pids)
	}
	if s.Driver == DriverKube {
		s.Kube.check(cs, at+".kube")
	}
}

func (k SandboxKube) check(cs *checks, at string) {
	switch {
	case k.Kubeconfig != "" && k.InCluster:
		cs.fail(at+".kubeconfig", "is set, and in_cluster is true: choose one of them")
	case k.Kubeconfig == "" && !k.InCluster:
		cs.fail(at, "names no cluster: set kubeconfig, or in_cluster: true in a pod")
	}
	if k.Timeout < time.Second || k.Timeout > time.Minute {
		cs.fail(at+".timeout", "is %s: 1s to 1m are allowed", k.Timeout)
	}
	if !(k.QPS >= 1 && k.QPS <= 10_000) {
		cs.fail(at+".qps", "is %v: 1 to 10000 are allowed", k.QPS)
	}
	if k.Burst < 1 || k.Burst > 100_000 {
		cs.fail(at+".burst", "is %d: 1 to 100000 are allowed", k.Burst)
	}
	if err := tenant.CheckNamespace(k.NamespacePrefix + "x"); err != nil || k.NamespacePrefix == "" || len(k.NamespacePrefix) > 24 {
		cs.fail(at+".namespace_prefix", "%q does not begin the name of a namespace: use 1 to 24 of a-z, 0-9 and -", clip(k.NamespacePrefix))
	}
	if err := tenant.CheckNamespace(k.Instance); k.Instance == "" || err != nil && k.Instance != "default" {
		cs.fail(at+".instance", "%q is no name: use a-z, 0-9 and -", clip(k.Instance))
	}
	if k.ServiceAccount != "" && k.Gateway.Namespace == "" {
		cs.fail(at+".service_account", "is set, and gateway.namespace is not: name the namespace that it is in")
	}
	switch k.AgentSandbox {
	case "auto", "require", "off":
	default:
		cs.fail(at+".agent_sandbox", "is %q: use auto, require or off", clip(k.AgentSandbox))
	}
	for name, p := range map[string]KubePeers{".gateway": k.Gateway, ".dns": k.DNS.KubePeers} {
		if len(p.PodLabels) > 0 && p.Namespace == "" {
			cs.fail(at+name, "has pod_labels and no namespace: pods of every namespace that carry them would be let in")
		}
	}
	if n := len(k.DNS.Ports); n < 1 || n > 8 || slices.Min(k.DNS.Ports) < 1 || slices.Max(k.DNS.Ports) > 65535 {
		cs.fail(at+".dns.ports", "is %v: 1 to 8 ports are allowed, such as [53]", k.DNS.Ports)
	}
}

// checkSandboxSettings applies the rules of a routing record.
func checkSandboxSettings(cs *checks, at string, s tenant.Sandboxes) {
	r := tenant.Record{ID: "x", State: tenant.StateActive, Mode: tenant.ModeVirtual, Namespace: "x", Sandboxes: &s}
	if err := r.Validate(""); err != nil {
		cs.fail(at, "%s", fileFields(reason(err)))
	}
}
