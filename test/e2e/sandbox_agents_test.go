//go:build e2e

package e2e

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/test/kube/kubetest"
)

// TestAgentSandbox: where the cluster serves agents.x-k8s.io, sandboxes are made through it. Its real controller runs.
func TestAgentSandbox(t *testing.T) {
	installAgents(t, kubetest.Start(t))
	w := newWorld(t, worldOptions{sandboxes: "    agent_sandbox: require\n"})
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	b := m.create("web", "loop", "100ms")
	m.await("web", "Running")
	p := w.podOf("team-a", b.ID)
	if o := metav1.GetControllerOf(&p); o == nil || o.Kind != "Sandbox" || !strings.HasPrefix(o.APIVersion, "agents.x-k8s.io/") {
		t.Errorf("the pod is of %+v", o)
	}
	if p.Spec.AutomountServiceAccountToken == nil || *p.Spec.AutomountServiceAccountToken || *p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("the pod is not confined: %+v", p.Spec)
	}
	if x := m.exec("web", "echo", "here"); x.Stdout != "here\n" {
		t.Errorf("exec: %+v", x)
	}
	if r := m.call("GET", "/api/v1/sandboxes/web/logs?tail=2", nil); r.status != http.StatusOK || strings.Count(r.body, "line ") != 2 {
		t.Errorf("logs: %s", r)
	}
	m.run("sandbox", "stop", "web", "--wait")
	m.run("sandbox", "start", "web", "--wait")
	m.run("sandbox", "delete", "web", "--wait")
	w.eventually(30*time.Second, "end of all that was made", func(context.Context) (bool, error) {
		left := w.kube.Kubectl(t, "-n", w.namespace("team-a"), "get", "sandboxes.agents.x-k8s.io,pods", "-o", "name")
		return strings.TrimSpace(left) == "", errors.New(left)
	})
}

// installAgents runs the controller of kubernetes-sigs/agent-sandbox, as its own manifests have it.
func installAgents(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	at := c.Built(t, "agents")
	c.LoadImage(t, filepath.Join(at, "controller.tar"))
	args := []string{"-f", filepath.Join(at, "crds.yaml"), "-f", filepath.Join(at, "rbac.yaml"), "-f", filepath.Join(at, "controller.yaml")}
	t.Cleanup(func() { c.Kubectl(t, append([]string{"delete", "--ignore-not-found", "--timeout=60s"}, args...)...) })
	c.Kubectl(t, append([]string{"apply", "--server-side"}, args...)...)
	c.Kubectl(t, "-n", "agent-sandbox-system", "rollout", "status", "deployment/agent-sandbox-controller", "--timeout=60s")
	c.Kubectl(t, "wait", "--for=condition=Established", "--timeout=30s", "crd/sandboxes.agents.x-k8s.io")
}
