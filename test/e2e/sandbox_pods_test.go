//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/polygate/polygate/registry/etcd/etcdtest"
	"github.com/polygate/polygate/test/kube/kubetest"
)

// gatewayImage holds the program that make build made, and the tools, which can read a file in a pod without a shell.
const gatewayImage = "localhost/polygate:e2e"

// TestGatewayAsPods runs the gateway itself on the cluster, as deploy/kubernetes has it: two replicas, an etcd outside.
func TestGatewayAsPods(t *testing.T) {
	c := kubetest.Start(t)
	c.LoadImage(t, kubetest.PackImage(t, gatewayImage, filepath.Join(root, "bin/polygate"), c.Built(t, "images/tools")))
	store := strings.TrimPrefix(etcdtest.Start(t, 1, etcdtest.Options{}).Endpoints()[0], "http://")
	etcd := relayTo(t, kubetest.Host+":0", func(context.Context) string { return store })
	adminToken := "pgo_" + random()

	w := &world{t: t, kube: c, dir: t.TempDir(), env: map[string]string{"POLYGATE_ADMIN_TOKEN": adminToken}}
	w.program, _ = filepath.Abs(filepath.Join(root, "bin/polygate"))
	w.rights = c.Install(t, "t-", nil, func(o *unstructured.Unstructured) { asPods(t, o, "http://"+etcd) })
	makeSecrets(t, c, w.rights.ID, adminToken)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Kubectl(t, "-n", w.rights.ID, "get", "events", "--sort-by=.lastTimestamp"))
			t.Log(c.Kubectl(t, "-n", w.rights.ID, "logs", "--prefix", "--tail=20", "--selector=app.kubernetes.io/name=polygate"))
		}
	})
	c.Kubectl(t, "-n", w.rights.ID, "rollout", "status", "deployment/polygate", "--timeout=120s")
	w.reach()

	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	web := m.createWith(map[string]any{"name": "web", "args": []string{"listen", "8080"}, "ports": []map[string]any{{"name": "http", "port": 8080}}})
	m.await("web", "Running")
	uid := w.podOf("team-a", web.ID).UID
	for range 4 { // by either replica: the load balancer takes turns
		if out, said, code := m.cli(nil, "sandbox", "exec", "web", "--", "/tools", "echo", "here"); code != 0 || out != "here\n" {
			t.Errorf("exec: %d %q %s", code, out, said)
		}
	}
	t.Run("ports", func(t *testing.T) { gatewayPorts(t, w, m) })
	t.Run("each replica dies", func(t *testing.T) {
		for _, p := range w.gateways() {
			c.Kubectl(t, "-n", w.rights.ID, "delete", "pod", p.Name, "--force", "--grace-period=0")
			w.eventually(60*time.Second, "exec after a replica died", func(ctx context.Context) (bool, error) {
				r, err := m.try(ctx, "POST", "/api/v1/sandboxes/web/exec", map[string]any{"command": []string{"/tools", "id"}})
				return r.status == 200, errors.Join(err, errors.New(r.String()))
			})
			c.Kubectl(t, "-n", w.rights.ID, "rollout", "status", "deployment/polygate", "--timeout=120s")
		}
		if got := w.podOf("team-a", web.ID).UID; got != uid {
			t.Error("the sandbox was made again")
		}
	})
	m.run("sandbox", "delete", "web", "--wait")
	w.forward() // to a pod that is there now
	w.operator("tenant", "delete", "team-a", "--yes")
	c.Gone(t, w.namespace("team-a"))
}

// gatewayPorts: tenants' ports are everybody's, the others nobody's: neither a sandbox nor any pod of the cluster reaches them.
func gatewayPorts(t *testing.T, w *world, m *member) {
	t.Helper()
	free := w.kube.Namespace(t, "t-free-", nil)
	w.kube.Run(t, free, kubetest.Pod("client", "sleep"))
	for _, p := range w.gateways() {
		at := func(port string) string { return join(p.Status.PodIP, port) }
		for a, open := range w.kube.Dial(t, free, "client", at("8443"), at("9443"), at("9090"), at("7443")) {
			if open != (a == at("8443")) {
				t.Errorf("from a pod of others, %s is open: %v", a, open)
			}
		}
		for a, open := range m.dial("web", at("8443"), at("9443"), at("9090"), at("7443")) {
			if open {
				t.Errorf("from a sandbox, %s is open", a)
			}
		}
	}
}

// asPods changes the example manifests to this cluster: image, settings, an etcd without TLS.
func asPods(t *testing.T, o *unstructured.Unstructured, etcd string) {
	t.Helper()
	switch o.GetKind() {
	case "ConfigMap":
		_ = unstructured.SetNestedField(o.Object, podSettings(o.GetNamespace(), etcd), "data", "polygate.yaml")
	case "Deployment":
		containers, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			t.Fatalf("containers: %v", err)
		}
		containers[0].(map[string]any)["image"] = gatewayImage
		containers[0].(map[string]any)["imagePullPolicy"] = "Never"
		containers[0].(map[string]any)["resources"] = map[string]any{"requests": map[string]any{"cpu": "50m", "memory": "64Mi"}, "limits": map[string]any{"memory": "512Mi"}}
		_ = unstructured.SetNestedSlice(o.Object, containers, "spec", "template", "spec", "containers")
	}
}

func podSettings(namespace, etcd string) string {
	return fmt.Sprintf(`
data_dir: /var/lib/polygate
base_domain: localhost
shared_hosts: [localhost]
listen: {public: ":8443", plain: ":8080", admin: ":9443", telemetry: ":9090", peer: ":7443"}
etcd: {endpoints: [%[1]q]}
kek_file: /etc/polygate/keys/kek
admin: {token_file: /etc/polygate/keys/admin-token}
replica: {ttl: 3s}
authn: {kubernetes: {in_cluster: true}}
sandboxes:
  driver: kube
  default_image: %[2]s
  images: [localhost/sandbox-tools]
  defaults: {cpu: 100m, memory: 32MiB, storage: 32MiB}
  kube:
    in_cluster: true
    namespace_prefix: %[3]s-
    instance: %[3]s
    service_account: %[4]s
    gateway: {namespace: %[3]s, pod_labels: {app.kubernetes.io/name: polygate}}
    dns: {addresses: [%[5]s/32]}
`, etcd, kubetest.Image, namespace, kubetest.Account, kubetest.Node)
}

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// makeSecrets makes what an operator makes by hand.
func makeSecrets(t *testing.T, c *kubetest.Cluster, namespace, adminToken string) {
	t.Helper()
	kek := "polygate-kek-v1:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)) + "\n"
	for name, data := range map[string]map[string]string{
		"polygate-keys": {"kek": kek, "admin-token": adminToken + "\n"},
		"polygate-etcd": {"ca.crt": "", "tls.crt": "", "tls.key": ""},
	} {
		_, err := c.Client.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// gateways are the replicas' pods that are ready.
func (w *world) gateways() []corev1.Pod {
	list, err := w.kube.Client.CoreV1().Pods(w.rights.ID).List(context.Background(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=polygate"})
	if err != nil {
		return nil
	}
	var ready []corev1.Pod
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				ready = append(ready, p)
			}
		}
	}
	return ready
}

// reach lets the test be a tenant, through a load balancer of its own, and an operator, through kubectl port-forward.
func (w *world) reach() {
	w.t.Helper()
	var turn atomic.Int64
	public := relayTo(w.t, "127.0.0.1:0", func(context.Context) string {
		all := w.gateways()
		if len(all) == 0 {
			return ""
		}
		return join(all[int(turn.Add(1))%len(all)].Status.PodIP, "8443")
	})
	_, w.public, _ = net.SplitHostPort(public)
	w.forward()
	pem, code := w.kube.Exec(w.t, w.rights.ID, w.gateways()[0].Name, "/tools", "cat", "/var/lib/polygate/ca.pem")
	if code != 0 {
		w.t.Fatalf("the authority's certificate: %s", pem)
	}
	w.env["POLYGATE_CA"] = w.write("ca.pem", pem)
	w.http = httpsClient(w.t, []byte(pem))
}

// forward opens a way to the operators' listener of a replica.
func (w *world) forward() {
	w.t.Helper()
	w.admin = freePort(w.t)
	cmd := exec.Command(w.kube.Built(w.t, "bin/kubectl"), "--kubeconfig", w.kube.Kubeconfig, "-n", w.rights.ID, "port-forward", "service/polygate-admin", w.admin+":9443")
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w.eventually(20*time.Second, "port-forward", func(context.Context) (bool, error) {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+w.admin, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil, err
	})
}

// relayTo listens and copies each connection to where target says; it returns its address.
func relayTo(t *testing.T, listen string, target func(context.Context) string) string {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.DialTimeout("tcp", target(t.Context()), 2*time.Second)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return ln.Addr().String()
}
