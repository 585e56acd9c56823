package kube

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// installation is a gateway's rights on the real cluster as deploy/kubernetes gives them, under names of its own, and drivers that act with
// its ServiceAccount's token.
type installation struct {
	t       *testing.T
	id      string // begins all names that it has in the cluster
	admin   *kubernetes.Clientset
	dynamic dynamic.Interface
	gateway *kubernetes.Clientset // with the ServiceAccount's own token
	drivers *Drivers
	places  *places
}

// install applies deploy/kubernetes, but for the objects of which leave says so. leave may change the others. nil = all, as they are.
func install(t *testing.T, leave func(*unstructured.Unstructured) bool) *installation {
	t.Helper()
	path := os.Getenv("POLYGATE_KUBE_TEST")
	if path == "" {
		t.Skip("needs a real cluster: run `make kube`, and set POLYGATE_KUBE_TEST to the kubeconfig that it prints")
	}
	rc, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	rc.QPS, rc.Burst = 200, 400
	in := &installation{t: t, id: "n-" + random(), places: &places{}}
	if in.admin, err = kubernetes.NewForConfig(rc); err == nil {
		in.dynamic = dynamic.New(in.admin.CoreV1().RESTClient()) // the same connections
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.disconnect) // last of all
	in.apply(leave)
	in.drivers, in.gateway = in.asGateway(rc)
	t.Cleanup(in.sweep)
	return in
}

func random() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// apply makes the objects of the manifests that say what the gateway may do.
func (in *installation) apply(leave func(*unstructured.Unstructured) bool) {
	in.t.Helper()
	for _, file := range []string{"00-namespace.yaml", "10-rbac.yaml", "20-admission.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../../deploy/kubernetes", file))
		if err != nil {
			in.t.Fatal(err)
		}
		for _, doc := range strings.Split(string(text), "\n---\n") {
			in.applyDocument(doc, leave)
		}
	}
}

func (in *installation) applyDocument(doc string, leave func(*unstructured.Unstructured) bool) {
	in.t.Helper()
	doc = strings.NewReplacer("system:serviceaccount:polygate:polygate", "system:serviceaccount:"+in.id+":polygate",
		"'default'\"", "'"+in.id+"'\"", "\"'polygate-'\"", "\"'"+in.id+"-'\"", "\"'polygate-tenant'\"", "\""+"'"+in.role()+"'\"",
		"[polygate-tenant]", "["+in.role()+"]").Replace(doc)
	var o unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
		in.t.Fatal(err)
	}
	if leave != nil && leave(&o) {
		return
	}
	in.rename(&o)
	r := in.resource(&o)
	_, err := r.Create(in.t.Context(), &o, metav1.CreateOptions{})
	if err != nil {
		in.t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	in.t.Cleanup(func() { _ = r.Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}) })
}

func (in *installation) role() string { return in.id + "-tenant" }

// rename gives an object of a manifest this installation's names.
func (in *installation) rename(o *unstructured.Unstructured) {
	if o.GetNamespace() != "" {
		o.SetNamespace(in.id)
	} else {
		o.SetName(strings.Replace(o.GetName(), "polygate", in.id, 1))
	}
	for _, path := range [][]string{{"roleRef", "name"}, {"spec", "policyName"}} {
		if name, ok, _ := unstructured.NestedString(o.Object, path...); ok {
			_ = unstructured.SetNestedField(o.Object, strings.Replace(name, "polygate", in.id, 1), path...)
		}
	}
	if subjects, ok, _ := unstructured.NestedSlice(o.Object, "subjects"); ok {
		subjects[0].(map[string]any)["namespace"] = in.id
		_ = unstructured.SetNestedSlice(o.Object, subjects, "subjects")
	}
	variables, ok, _ := unstructured.NestedSlice(o.Object, "spec", "variables")
	for _, v := range variables {
		if v := v.(map[string]any); v["name"] == "own" {
			v["expression"] = "'" + in.id + "'"
		}
	}
	if ok {
		_ = unstructured.SetNestedSlice(o.Object, variables, "spec", "variables")
	}
}

func (in *installation) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	gvk := o.GroupVersionKind()
	plural := strings.ToLower(gvk.Kind) + "s"
	if strings.HasSuffix(plural, "ys") {
		plural = strings.TrimSuffix(plural, "ys") + "ies"
	}
	r := in.dynamic.Resource(schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: plural})
	if o.GetNamespace() != "" {
		return r.Namespace(o.GetNamespace())
	}
	return r
}

// asGateway returns drivers and a client that hold a real token of the gateway's ServiceAccount.
func (in *installation) asGateway(rc *rest.Config) (*Drivers, *kubernetes.Clientset) {
	in.t.Helper()
	token, err := in.admin.CoreV1().ServiceAccounts(in.id).CreateToken(in.t.Context(), "polygate", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		in.t.Fatal(err)
	}
	own := rest.AnonymousClientConfig(rc)
	own.BearerToken, own.QPS, own.Burst = token.Status.Token, 200, 400
	gateway, err := kubernetes.NewForConfig(own)
	if err != nil {
		in.t.Fatal(err)
	}
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: rc.Host, CertificateAuthority: rc.CAFile, CertificateAuthorityData: rc.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	path := filepath.Join(in.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		in.t.Fatal(err)
	}
	d, err := New(in.t.Context(), Config{
		Kubeconfig: path, Instance: in.id, NamespacePrefix: in.id + "-", Places: in.places, QPS: 200, Burst: 400,
		Gateway: Peers{Namespace: in.id, ServiceAccount: "polygate", PodLabels: map[string]string{"app": "polygate"}},
		DNS:     Peers{Namespace: "kube-system", PodLabels: map[string]string{"k8s-app": "kube-dns"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.88.0.2/32")}},
	})
	if err != nil {
		in.t.Fatal(err)
	}
	return d, gateway
}

// open returns the driver of a tenant, as install's ClusterRole is named.
func (in *installation) open(st sandbox.Tenant) *driver {
	in.t.Helper()
	d, err := in.drivers.open(st)
	if err != nil {
		in.t.Fatal(err)
	}
	d.place.site.role = in.role()
	return d
}

// erase is Erase with install's ClusterRole.
func (in *installation) erase(namespace, uid string) (bool, error) {
	s := in.drivers.config.site()
	s.role = in.role()
	return in.drivers.erase(in.t.Context(), s, namespace, uid)
}

// prepare looks again, however short ago the last look was.
func (in *installation) prepare(d *driver) error {
	d.place.spoil()
	return d.Prepare(in.t.Context())
}

// sweep removes what a test left, whatever holds it.
func (in *installation) sweep() {
	ctx := context.Background()
	all, err := in.admin.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		in.t.Error(err)
		return
	}
	for _, n := range all.Items {
		if !strings.Contains(n.Name, in.id) {
			continue
		}
		_ = in.admin.CoreV1().Namespaces().Delete(ctx, n.Name, metav1.DeleteOptions{})
		none := []byte(`{"metadata":{"finalizers":null}}`)
		pods, _ := in.admin.CoreV1().Pods(n.Name).List(ctx, metav1.ListOptions{})
		for _, p := range pods.Items {
			_, _ = in.admin.CoreV1().Pods(n.Name).Patch(ctx, p.Name, types.MergePatchType, none, metav1.PatchOptions{})
		}
		_, _ = in.admin.RbacV1().RoleBindings(n.Name).Patch(ctx, bindingName, types.MergePatchType, none, metav1.PatchOptions{})
	}
}

// places is the registry's note in memory.
type places struct {
	mu    sync.Mutex
	owner map[string]string // guarded by mu
}

func (p *places) Claim(_ context.Context, namespace string, s tenant.Scope, _ bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owner == nil {
		p.owner = make(map[string]string)
	}
	if had, ok := p.owner[namespace]; ok && had != s.UID() {
		return fault.New(fault.Conflict, "namespace %s is another tenant's", namespace)
	}
	p.owner[namespace] = s.UID()
	return nil
}

func (p *places) Release(_ context.Context, namespace string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owner, namespace)
	return nil
}

// aTenant is a tenant with small quotas. Its UID is new each time.
func aTenant(id string) sandbox.Tenant {
	return sandbox.Tenant{
		Scope:  tenant.Confine(tenant.ID(id), id+"-uid-"+random()),
		Quotas: tenant.Quotas{MaxSandboxes: 5, SandboxCPU: 2000, SandboxMemory: 1 << 30, SandboxStorage: 4 << 30},
	}
}

// eventually waits for what the cluster does on its own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// refused says whether the cluster did not let the gateway do something.
func refused(err error) bool { return apierrors.IsForbidden(err) }

// disconnect lets idle connections go, which client-go would keep.
func (in *installation) disconnect() {
	clients := []rest.Interface{in.admin.CoreV1().RESTClient()}
	if in.gateway != nil {
		clients = append(clients, in.gateway.CoreV1().RESTClient(), in.drivers.cluster.core.RESTClient())
	}
	for _, c := range clients {
		if r, ok := c.(*rest.RESTClient); ok {
			utilnet.CloseIdleConnectionsFor(r.Client.Transport)
		}
	}
}
