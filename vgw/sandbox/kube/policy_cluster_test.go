package kube

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/polygate/polygate/vgw/sandbox"
)

// tools makes a pod that runs the tools, with the labels and in the namespace given, and returns its address.
func (in *installation) tools(t *testing.T, namespace, name string, labels map[string]string, args ...string) string {
	t.Helper()
	task := toolsTask(args...)
	d := &driver{Drivers: in.drivers, tenant: aTenant("team-x"), namespace: namespace}
	p := d.pod(task, "uid", d.config.Now())
	p.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}
	p.Spec.ServiceAccountName = "default"
	eventually(t, "the account of "+namespace, func() bool {
		_, err := in.admin.CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	if _, err := in.admin.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return in.address(t, namespace, name)
}

func (in *installation) address(t *testing.T, namespace, name string) (address string) {
	t.Helper()
	eventually(t, name+" runs", func() bool {
		p, err := in.admin.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || p.Status.Phase != corev1.PodRunning {
			return false
		}
		address = p.Status.PodIP
		return address != ""
	})
	return address
}

// dials has the tools of a sandbox try addresses, and returns those that are open.
func dials(t *testing.T, d *driver, task sandbox.Task, addresses ...string) []string {
	t.Helper()
	var out bytes.Buffer
	if _, err := d.Exec(t.Context(), task, sandbox.Exec{Command: append([]string{"/tools", "dial"}, addresses...), Stdout: &out, Stderr: &out}); err != nil {
		t.Fatal(err)
	}
	return openOnes(out.String())
}

func openOnes(text string) []string {
	var open []string
	for line := range strings.Lines(text) {
		if a, ok := strings.CutSuffix(strings.TrimSpace(line), " open"); ok {
			open = append(open, a)
		}
	}
	return open
}

// adminDials is dials in a pod that is no sandbox: the gateway has no right to enter it.
func (in *installation) adminDials(t *testing.T, namespace, pod string, addresses ...string) []string {
	t.Helper()
	c := in.drivers.config
	c.Kubeconfig = os.Getenv("POLYGATE_KUBE_TEST")
	ds, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIdle(ds)
	var out bytes.Buffer
	rc := in.admin.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: append([]string{"/tools", "dial"}, addresses...), Stdout: true, Stderr: true}, scheme.ParameterCodec)
	x, err := remotecommand.NewWebSocketExecutor(ds.cluster.rest, "GET", rc.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	err = x.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &out})
	var exit utilexec.CodeExitError
	switch {
	case err == nil: // what it printed may be lost where it ends at once, its exit code is not
		return addresses
	case !errors.As(err, &exit) || exit.Code != 1:
		t.Fatal(err)
	}
	return openOnes(out.String())
}

// TestX54OnTheWire has sandboxes dial what they are not to reach, on a cluster that enforces policies.
func TestX54OnTheWire(t *testing.T) {
	in := install(t, nil)
	da, db := in.open(aTenant("team-a")), in.open(aTenant("team-b"))
	for _, d := range []*driver{da, db} {
		if err := d.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	host, err := net.Listen("tcp", "10.88.0.1:0") // as an etcd or a gateway's admin port outside the cluster
	if err != nil {
		t.Skip("this machine is not the cluster's host: ", err)
	}
	defer host.Close()
	a, b := toolsTask("listen", "8080"), toolsTask("listen", "8080")
	for d, task := range map[*driver]*sandbox.Task{da: &a, db: &b} {
		if task.UID, err = d.Create(t.Context(), *task); err != nil {
			t.Fatal(err)
		}
	}
	addressA := in.address(t, da.namespace, runName(a.Sandbox, a.Nonce))
	addressB := in.address(t, db.namespace, runName(b.Sandbox, b.Nonce))
	gateway := in.tools(t, in.id, "gateway", map[string]string{"app": "polygate"}, "listen", "9443")
	in.tools(t, in.id, "stranger", nil, "listen", "8080")

	targets := []string{"10.96.0.1:443", "10.88.0.2:6443", host.Addr().String(), "169.254.169.254:80", addressB + ":8080", gateway + ":9443"}
	const dns = "10.88.0.2:53" // on the node, whose other ports stay shut
	eventually(t, "the sandbox is ready to dial", func() bool { return len(dials(t, da, a, dns)) == 1 })
	if open := dials(t, da, a, targets...); open != nil {
		t.Errorf("a sandbox reaches %q", open)
	}
	// Others that dial in: who is the gateway, and who is not.
	ask := func(pod, address string) []string { return in.adminDials(t, in.id, pod, address) }
	eventually(t, "the gateway reaches the sandbox", func() bool { return len(ask("gateway", addressA+":8080")) == 1 })
	if open := ask("stranger", addressA+":8080"); open != nil {
		t.Error("a pod beside the gateway reaches the sandbox")
	}
	if open := ask("stranger", "10.96.0.1:443"); len(open) != 1 {
		t.Error("a pod without policies does not reach the API server: the test proves nothing")
	}
	// Without the policies, all of it is open.
	for _, d := range []*driver{da, db} {
		if err := in.admin.NetworkingV1().NetworkPolicies(d.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	reachable := []string{"10.96.0.1:443", "10.88.0.2:6443", host.Addr().String(), addressB + ":8080", gateway + ":9443"}
	eventually(t, "all is open without the policies", func() bool { return len(dials(t, da, a, reachable...)) == len(reachable) })
	if err := in.prepare(da); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is open once they are back", func() bool { return dials(t, da, a, reachable...) == nil })
}
