package kubetest

import (
	"context"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCluster holds what other tests build on: pods of the tools run, can be spoken to, and NetworkPolicies and limits are enforced.
func TestCluster(t *testing.T) {
	c := Start(t)
	ns := c.Namespace(t, "t-self-", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	server := c.Run(t, ns, Pod("server", "listen", "8080", "here"))
	client := c.Run(t, ns, Pod("client", "sleep"))

	out, code := c.Exec(t, ns, "client", "/tools", "id")
	if code != 0 || !strings.Contains(out, "uid=10001") || !strings.Contains(out, "NoNewPrivs=1") || !strings.Contains(out, "CapEff=0000000000000000") {
		t.Errorf("id: %d %s", code, out)
	}
	if _, code := c.Exec(t, ns, "client", "/tools", "exit", "7"); code != 7 {
		t.Errorf("exit 7: %d", code)
	}
	Eventually(t, 10*time.Second, "answer of the server", func(context.Context) (bool, error) {
		return c.Dial(t, ns, client.Name, server.Status.PodIP+":8080")[server.Status.PodIP+":8080"], nil
	})
	if pids, err := c.programs("kube-apiserver"); err != nil || len(pids) != 1 {
		t.Errorf("API servers: %v %v", pids, err)
	}
}

// TestInstall: the manifests apply under other names, and the gateway's account has the rights of its tenants' namespaces alone.
func TestInstall(t *testing.T) {
	c := Start(t)
	in := c.Install(t, "t-self-", []string{"00", "10", "20"}, nil)
	if _, err := in.Client(t).CoreV1().Pods("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("pods of kube-system: %v", err)
	}
}
