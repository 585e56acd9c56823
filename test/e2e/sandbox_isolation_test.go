//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/test/kube/kubetest"
)

// TestForeignSandboxLooksAbsent: A's credentials at B's sandbox, by name, id and host, get what they would get if there were none (S-R3, X36).
func TestForeignSandboxLooksAbsent(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a", "team-b"}, "")
	alice, eve, bob := w.member("team-a", "alice", "admin"), w.member("team-a", "eve", "editor"), w.member("team-b", "bob", "editor")
	theirs := bob.create("web", "sleep")
	own := alice.create("mine", "sleep")
	bob.await("web", "Running")
	alice.await("mine", "Running")

	requests := []struct {
		method, path string
		body         any
	}{
		{"GET", "", nil}, {"GET", "/logs", nil}, {"GET", "/events", nil}, {"GET", "/wait?timeout=1", nil},
		{"POST", "/exec", map[string]any{"command": []string{"/tools", "id"}}}, {"POST", "/stop", nil}, {"POST", "/start", nil}, {"DELETE", "", nil},
	}
	for _, q := range requests {
		for _, who := range []*member{alice, eve} {
			absent := who.call(q.method, "/api/v1/sandboxes/"+absentID+q.path, q.body)
			for _, name := range []string{theirs.ID, "web"} {
				got := who.call(q.method, "/api/v1/sandboxes/"+name+q.path, q.body)
				if got.status != absent.status || blank(got.body, name) != blank(absent.body, absentID) || got.status < 400 {
					t.Errorf("%s %s of B's %s: %s; of none: %s", q.method, q.path, name, got, absent)
				}
			}
		}
		// Within the tenant: what is another's looks absent to who is no admin.
		absent, got := eve.call(q.method, "/api/v1/sandboxes/zilch"+q.path, q.body), eve.call(q.method, "/api/v1/sandboxes/mine"+q.path, q.body)
		if got.status != absent.status || blank(got.body, "mine") != blank(absent.body, "zilch") || got.status < 400 {
			t.Errorf("%s %s of a colleague's: %s; of none: %s", q.method, q.path, got, absent)
		}
		// At B's host: as a key that nobody has.
		stranger := *alice
		stranger.tenant = "team-b"
		nobody := stranger
		nobody.secret = "pg_nobody"
		got, absent = stranger.call(q.method, "/api/v1/sandboxes/web"+q.path, q.body), nobody.call(q.method, "/api/v1/sandboxes/web"+q.path, q.body)
		if got.status != http.StatusUnauthorized || absent.status != got.status || blank(got.body, "") != blank(absent.body, "") {
			t.Errorf("%s %s at B's host: %s; with no key at all: %s", q.method, q.path, got, absent)
		}
	}
	if list := eve.call("GET", "/api/v1/sandboxes?limit=500", nil); strings.Contains(list.body, theirs.ID) || strings.Contains(list.body, own.ID) {
		t.Errorf("eve's list: %s", list)
	}
	if got := bob.get("web"); got.State != "Running" || got.Run.Number != 1 {
		t.Errorf("B's sandbox after all that: %+v", got)
	}
	if got := alice.call("POST", "/api/v1/sandboxes/mine/exec", map[string]any{"command": []string{"/tools", "id"}}); got.status != 200 {
		t.Errorf("the owner's own exec: %s", got)
	}
}

const absentID = "01234567-89ab-4cde-8f01-23456789abcd"

// blank takes out of an answer what was in the request, and what is different each time.
func blank(body, name string) string {
	if name != "" {
		body = strings.ReplaceAll(body, name, "NAME")
	}
	var kept []string
	for _, part := range strings.Split(body, ",") {
		if !strings.Contains(part, "request_id") {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ",")
}

// TestX52EscapesCannotBeExpressed: what a sandbox must not have cannot be asked for, and its pod has nothing of it.
func TestX52EscapesCannotBeExpressed(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "admin")
	for _, field := range []string{"namespace", "node_name", "host_network", "host_pid", "privileged", "service_account", "service_account_name", "volumes",
		"host_path", "security_context", "owner_references", "annotations", "tolerations", "image_pull_policy", "pod", "uid", "owner", "run", "state", "session"} {
		if r := m.call("POST", "/api/v1/sandboxes", map[string]any{"name": "x", field: "default"}); r.status != 400 {
			t.Errorf("field %s: %s", field, r)
		}
	}
	for what, body := range map[string]map[string]any{
		"an image of others":             {"image": "localhost/pause:1"},
		"an image that begins alike":     {"image": "localhost/sandbox-tools-evil:1"},
		"an image below":                 {"image": "localhost/sandbox-tools/evil:1"},
		"an image by a detour":           {"image": "localhost/sandbox-tools/../pause:1"},
		"a port of the system":           {"ports": []map[string]any{{"name": "ssh", "port": 22}}},
		"a runtime class":                {"runtime_class": "runc"},
		"a name of two labels":           {"name": "a.b"},
		"a name with a dash pair":        {"name": "web--team-b"},
		"a name that is a path":          {"name": "../team-b"},
		"a name in UUID form":            {"name": absentID},
		"a variable with a line break":   {"env": []map[string]string{{"name": "A\nB", "value": "x"}}},
		"a working directory by detours": {"working_dir": "../../proc"},
		"more memory than the limit":     {"resources": map[string]string{"memory": "1000Gi"}},
		"storage without end":            {"resources": map[string]string{"storage": "-1"}},
	} {
		if r := m.call("POST", "/api/v1/sandboxes", body); r.status < 400 || r.status >= 500 {
			t.Errorf("%s: %s", what, r)
		}
	}
	// Labels of its owner's are that and nothing else.
	r := m.call("POST", "/api/v1/sandboxes", map[string]any{"name": "box", "args": []string{"sleep"},
		"labels": map[string]string{"app": "kube-dns", "k8s-app": "kube-dns", "example.com/tenant": "team-b"},
		"env":    []map[string]string{{"name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1"}}})
	if r.status != 201 {
		t.Fatalf("create: %s", r)
	}
	for _, key := range []string{"polygate.dev/tenant", "agents.x-k8s.io/sandbox-name-hash", "app.kubernetes.io/managed-by"} {
		got := m.call("POST", "/api/v1/sandboxes", map[string]any{"name": "labelled", "args": []string{"sleep"}, "labels": map[string]string{key: "team-b"}})
		if got.status == 201 {
			m.await("labelled", "Running")
			if p := w.podOf("team-a", m.get("labelled").ID); p.Labels[key] == "team-b" {
				t.Errorf("the label %s is the pod's", key)
			}
			m.call("DELETE", "/api/v1/sandboxes/labelled", nil)
			m.await("labelled", "")
		}
	}
	m.await("box", "Running")
	checkConfined(t, w, m)
}

// checkConfined looks at the pod of the sandbox box, and from within it.
func checkConfined(t *testing.T, w *world, m *member) {
	t.Helper()
	p := w.podOf("team-a", m.get("box").ID)
	for _, key := range []string{"app", "k8s-app", "example.com/tenant"} {
		if v, ok := p.Labels[key]; ok {
			t.Errorf("the owner's label %s=%s is the pod's", key, v)
		}
	}
	s := p.Spec
	if s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken || s.HostNetwork || s.HostPID || s.HostIPC || len(s.Containers) != 1 {
		t.Errorf("pod: %+v", s)
	}
	if sc := s.Containers[0].SecurityContext; sc == nil || sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
		t.Errorf("its root can be written: %+v", sc) // which from within cannot be told from its being another user's
	}
	for _, v := range s.Volumes {
		if v.EmptyDir == nil {
			t.Errorf("volume %s: %+v", v.Name, v.VolumeSource)
		}
	}
	ns, err := w.kube.Client.CoreV1().Namespaces().Get(t.Context(), w.namespace("team-a"), metav1.GetOptions{})
	if err != nil || ns.Labels["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Errorf("namespace: %v %v", ns.Labels, err)
	}
	id := m.exec("box", "id").Stdout
	for _, want := range []string{"CapEff=0000000000000000", "CapBnd=0000000000000000", "NoNewPrivs=1", "Seccomp=2"} {
		if !strings.Contains(id, want+"\n") {
			t.Errorf("no %s in the sandbox:\n%s", want, id)
		}
	}
	if strings.Contains(id, "uid=0\n") || strings.Contains(id, "gid=0\n") {
		t.Errorf("it is root:\n%s", id)
	}
	for _, file := range []string{"/var/run/secrets/kubernetes.io/serviceaccount/token", "/etc/shadow", "/dev/mem"} {
		if x := m.exec("box", "cat", file); x.Exit == 0 {
			t.Errorf("cat %s: %q", file, x.Stdout)
		}
	}
	for file, want := range map[string]int{"/x": 1, "/tools": 1, "/proc/sys/kernel/hostname": 1, "/tmp/x": 0, "/workspace/x": 0} {
		if x := m.exec("box", "write", file, "x"); x.Exit != want {
			t.Errorf("write %s: exit %d %s", file, x.Exit, x.Stderr)
		}
	}
}

// TestX53NamespaceIsTheRecordsAlone: no tenant gets a namespace of the cluster, of the gateway or of another tenant.
func TestX53NamespaceIsTheRecordsAlone(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-b"}, "")
	bob := w.member("team-b", "bob", "editor")
	bob.create("web", "sleep")
	bob.await("web", "Running")
	foreign := w.kube.Namespace(t, "t-other-", nil)
	for i, ns := range []string{"kube-system", "default", w.rights.ID, w.namespace("team-b"), foreign} {
		id := fmt.Sprintf("team-%d", i)
		_, said, code := w.command([]string{"POLYGATE_ADMIN_URL=https://localhost:" + w.admin, "POLYGATE_ADMIN_TOKEN=" + w.env["POLYGATE_ADMIN_TOKEN"]}, nil,
			"tenant", "apply", "-f", w.write("x53.yaml", "tenants:\n  - {id: "+id+", namespace: "+ns+"}\n"))
		if code != 0 {
			t.Logf("namespace %s: %s", ns, strings.TrimSpace(said))
			continue
		}
		m := w.member(id, "alice", "admin")
		r := m.call("POST", "/api/v1/sandboxes", map[string]any{"name": "web", "args": []string{"sleep"}})
		if r.status != 201 {
			t.Logf("namespace %s: %s", ns, r)
			continue
		}
		var b box
		w.eventually(30*time.Second, "refusal of namespace "+ns, func(context.Context) (bool, error) {
			b = m.get("web")
			return strings.HasPrefix(b.condition("PlaceReady"), "false"), fmt.Errorf("%+v", b)
		})
		t.Logf("namespace %s: %s", ns, b.condition("PlaceReady"))
		pods, err := w.kube.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "polygate.dev/tenant=" + id})
		if err != nil || len(pods.Items) != 0 {
			t.Errorf("namespace %s has pods of %s: %v", ns, id, err)
		}
		m.call("DELETE", "/api/v1/sandboxes/web", nil)
	}
	got, err := w.kube.Client.CoreV1().Namespaces().Get(t.Context(), foreign, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key := range got.Labels {
		if strings.HasPrefix(key, "polygate.dev/") {
			t.Errorf("a namespace of others was labelled: %v", got.Labels)
		}
	}
	if b := bob.get("web"); b.State != "Running" {
		t.Errorf("B's sandbox: %+v", b)
	}
}

// TestX54NetworkOfSandboxes: from a sandbox nothing is reached but the cluster's DNS and what an operator allowed. A pod without
// policies reaches all of it: so it is the policies that shut it.
func TestX54NetworkOfSandboxes(t *testing.T) {
	w := newWorld(t, worldOptions{})
	metadataService(t, w.kube)
	w.tenants([]string{"team-a", "team-b"}, "")
	w.tenants([]string{"team-c"}, fmt.Sprintf("    sandboxes: {egress: [\"%s/32:%s\", \"0.0.0.0/0:80\"]}\n", kubetest.Host, w.public))
	free := w.kube.Namespace(t, "t-free-", nil)
	outside := w.kube.Run(t, free, kubetest.Pod("server", "listen", "8080"))
	w.kube.Run(t, free, kubetest.Pod("client", "sleep"))

	alice, bob, carol := w.member("team-a", "alice", "editor"), w.member("team-b", "bob", "editor"), w.member("team-c", "carol", "editor")
	web := map[string]any{"name": "web", "args": []string{"listen", "8080"}, "ports": []map[string]any{{"name": "http", "port": 8080}}}
	address := make(map[*member]string)
	for _, m := range []*member{alice, bob, carol} {
		b := m.createWith(web)
		m.await("web", "Running")
		address[m] = join(w.podOf(m.tenant, b.ID).Status.PodIP, "8080")
	}
	const metadata, dns = "169.254.169.254:80", kubetest.Node + ":53"
	public := join(kubetest.Host, w.public)
	shut := []string{
		join(kubetest.APIServer, "443"), join(kubetest.Node, "6443"), join(kubetest.Node, "10250"), metadata, join(outside.Status.PodIP, "8080"),
		public, join(kubetest.Host, w.admin), join(kubetest.Host, w.metrics), join(kubetest.Host, w.peer),
	}
	for a, open := range w.kube.Dial(t, free, "client", append([]string{dns}, shut...)...) {
		if !open {
			t.Errorf("a pod without policies does not reach %s: the test would prove nothing", a)
		}
	}
	w.eventually(10*time.Second, "the enforcer's rules for the newest pods", func(context.Context) (bool, error) {
		return !carol.dial("web", join(kubetest.APIServer, "443"))[join(kubetest.APIServer, "443")], nil
	})
	for a, open := range alice.dial("web", append([]string{dns, address[bob], address[carol]}, shut...)...) {
		if open != (a == dns) {
			t.Errorf("A's sandbox reaches %s: %v", a, open)
		}
	}
	for a, open := range carol.dial("web", append([]string{dns, address[bob]}, shut...)...) {
		if want := a == dns || a == public; open != want {
			t.Errorf("from the sandbox that may reach the public port and port 80 of everything but metadata, %s is open: %v", a, open)
		}
	}
	for a, open := range w.kube.Dial(t, free, "client", address[alice], address[bob]) {
		if open {
			t.Errorf("a pod of others reaches the sandbox at %s", a)
		}
	}
	for _, m := range []*member{alice, bob} {
		conn, err := net.DialTimeout("tcp", address[m], 2*time.Second)
		if err != nil {
			t.Errorf("the gateway does not reach its sandbox: %v", err)
			continue
		}
		conn.Close()
	}
}

// metadataService puts a server at the address where clouds have their metadata, in the cluster's network.
func metadataService(t *testing.T, c *kubetest.Cluster) {
	t.Helper()
	const netns, address = "kube-test", "169.254.169.254/32"
	if out, err := exec.Command("ip", "-n", netns, "address", "replace", address, "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "-n", netns, "address", "delete", address, "dev", "lo").Run() })
	server := exec.Command("nsenter", "--net=/run/netns/"+netns, c.Built(t, "images/tools"), "listen", "80", "credentials of the node")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
}

// TestGatewayHasNoRightsElsewhere: with the gateway's own credentials nothing outside of its tenants' namespaces can be touched, and
// in them no secret read.
func TestGatewayHasNoRightsElsewhere(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	m.create("web", "sleep")
	m.await("web", "Running")
	other := w.kube.Namespace(t, "t-other-", nil)
	gw, ctx, ours := w.rights.Client(t), t.Context(), w.namespace("team-a")
	if list, err := gw.CoreV1().Pods(ours).List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 {
		t.Errorf("pods of the tenant: %v", err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "polygate-gateway"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "polygate-tenant"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: kubetest.Account, Namespace: w.rights.ID}}}
	label := []byte(fmt.Sprintf(`{"metadata":{"labels":{"polygate.dev/tenant":"team-a","polygate.dev/tenant-uid":"x","polygate.dev/instance":%q}}}`, w.rights.ID))
	errs := make(map[string]error)
	for _, ns := range []string{other, "kube-system", "default", w.rights.ID} {
		_, errs["list pods of "+ns] = gw.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		_, errs["make a pod in "+ns] = gw.CoreV1().Pods(ns).Create(ctx, kubetest.Pod("x", "sleep"), metav1.CreateOptions{})
		_, errs["take rights in "+ns] = gw.RbacV1().RoleBindings(ns).Create(ctx, binding, metav1.CreateOptions{})
		_, errs["label "+ns] = gw.CoreV1().Namespaces().Patch(ctx, ns, "application/merge-patch+json", label, metav1.PatchOptions{})
		errs["delete "+ns] = gw.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
		_, errs["secrets of "+ns] = gw.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	}
	_, errs["secrets of the tenant"] = gw.CoreV1().Secrets(ours).List(ctx, metav1.ListOptions{})
	_, errs["secrets of all"] = gw.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	_, errs["pods of all"] = gw.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	_, errs["all namespaces"] = gw.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	_, errs["nodes"] = gw.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	_, errs["a pod that is not labelled"] = gw.CoreV1().Pods(ours).Create(ctx, kubetest.Pod("x", "sleep"), metav1.CreateOptions{})
	_, errs["a namespace of no tenant"] = gw.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.rights.Prefix + "x"}}, metav1.CreateOptions{})
	for what, err := range errs {
		if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v, want: forbidden", what, err)
		}
	}
}
