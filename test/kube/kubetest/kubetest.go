// Package kubetest gives tests the real Kubernetes of test/kube: its client, namespaces that end with the test, pods of the image
// of tools, and ways to disturb the cluster. It is for tests alone.
package kubetest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Variable is the environment variable with the path of an administrator's kubeconfig.
const Variable = "POLYGATE_KUBE_TEST"

// Image holds the program of test/kube/images/tools; its first argument is a subcommand.
const Image = "localhost/sandbox-tools:1"

// Where things are in the cluster of test/kube.
const (
	Host      = "10.88.0.1"     // this machine, as pods see it
	Node      = "10.88.0.2"     // the node, and the API server at port 6443
	Pods      = "10.244.0.0/24" // addresses of pods
	Services  = "10.96.0.0/16"  // addresses of services
	APIServer = "10.96.0.1"     // the API server's service, at port 443
)

// Cluster is the running cluster.
type Cluster struct {
	Kubeconfig string // path
	Config     *rest.Config
	Client     *kubernetes.Clientset
}

// Start returns the cluster. The test is skipped where there is none.
func Start(t testing.TB) *Cluster {
	t.Helper()
	path := os.Getenv(Variable)
	if path == "" {
		t.Skip(Variable + " names no kubeconfig: run `make kube`, and set it to the path that this prints")
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatalf("%s: %v", Variable, err)
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Fatalf("the cluster of %s does not answer (run `make kube`): %v", Variable, err)
	}
	t.Cleanup(func() { closeIdle(config) })
	return &Cluster{Kubeconfig: path, Config: config, Client: client}
}

// closeIdle ends the connections that tests would otherwise be told of as leaks.
func closeIdle(config *rest.Config) {
	if c, err := rest.HTTPClientFor(config); err == nil {
		c.CloseIdleConnections()
	}
}

// Namespace makes a namespace whose name begins with prefix, and deletes it with the test. It can be used for pods at once.
func (c *Cluster) Namespace(t testing.TB, prefix string, labels map[string]string) string {
	t.Helper()
	ns, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.DeleteNamespace(t, ns.Name) })
	Eventually(t, 20*time.Second, "the namespace's default account", func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, ignoreAbsent(err)
	})
	return ns.Name
}

// DeleteNamespace deletes a namespace with all that is in it, and the finalizers of pods and role bindings there whose gateway is gone.
// It does not wait until it is gone.
func (c *Cluster) DeleteNamespace(t testing.TB, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); ignoreAbsent(err) != nil {
		t.Errorf("delete namespace %s: %v", name, err)
	}
	none := []byte(`{"metadata":{"finalizers":null}}`)
	_, _ = c.Client.RbacV1().RoleBindings(name).Patch(ctx, "polygate-gateway", "application/merge-patch+json", none, metav1.PatchOptions{})
	const let = `{"metadata":{"finalizers":null}}`
	if pods, err := c.Client.CoreV1().Pods(name).List(ctx, metav1.ListOptions{}); err == nil {
		for _, p := range pods.Items {
			if len(p.Finalizers) > 0 {
				_, _ = c.Client.CoreV1().Pods(name).Patch(ctx, p.Name, types.MergePatchType, []byte(let), metav1.PatchOptions{})
			}
		}
	}
	if bindings, err := c.Client.RbacV1().RoleBindings(name).List(ctx, metav1.ListOptions{}); err == nil {
		for _, b := range bindings.Items {
			if len(b.Finalizers) > 0 {
				_, _ = c.Client.RbacV1().RoleBindings(name).Patch(ctx, b.Name, types.MergePatchType, []byte(let), metav1.PatchOptions{})
			}
		}
	}
}

// Gone waits until a namespace is no more.
func (c *Cluster) Gone(t testing.TB, name string) {
	t.Helper()
	Eventually(t, 60*time.Second, "the end of namespace "+name, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), ignoreAbsent(err)
	})
}

func ignoreAbsent(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Eventually waits until done says so, and fails the test after the time given, with the last error.
func Eventually(t testing.TB, limit time.Duration, what string, done func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := done(ctx)
		if ok {
			return
		}
		if ctx.Err() == nil { // else it says only that the time is over
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s within %s: %v", what, limit, last)
		}
	}
}

// PackImage packs static programs into an image archive with the image's name; the first program is its entry point. An image
// archive is what LoadImage takes.
func PackImage(t testing.TB, name string, programs ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	run(t, "go", append([]string{"run", "./images/mkimage", "-name", name, "-o", file}, absolute(t, programs)...)...)
	return file
}

func absolute(t testing.TB, paths []string) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = abs
	}
	return all
}

// LoadImage imports an image archive into the cluster.
func (c *Cluster) LoadImage(t testing.TB, file string) {
	t.Helper()
	run(t, "./load.sh", filepath.Dir(c.Kubeconfig), file)
}

// run runs a program in test/kube.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = recipe(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// recipe returns the folder test/kube, from wherever in the module the test runs.
func recipe(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "test/kube")
		}
	}
	t.Fatal("no go.mod above the test's folder")
	return ""
}
