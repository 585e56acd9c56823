package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"
)

// Installation is a gateway's rights as deploy/kubernetes gives them, under names of its own, so that several can be on one cluster.
type Installation struct {
	ID         string // begins all its names: its namespace is ID, its tenants' namespaces and its policies begin with it
	Kubeconfig string // of the gateway's ServiceAccount, with a token of some hours
	Prefix     string // of tenants' namespaces
	objects    string // file with what was applied
}

// Account is the gateway's ServiceAccount in the installation's namespace.
const Account = "polygate"

// Install applies those manifests of deploy/kubernetes whose names begin with one of files (all without), and edit is called with
// each object first. Everything is deleted with the test.
func (c *Cluster) Install(t testing.TB, prefix string, files []string, edit func(*unstructured.Unstructured)) *Installation {
	t.Helper()
	random := make([]byte, 3)
	_, _ = rand.Read(random)
	id := prefix + hex.EncodeToString(random)
	in := &Installation{ID: id, Prefix: id + "-", objects: filepath.Join(t.TempDir(), "objects.json")}
	own, shared := in.manifests(t, files, edit)
	writeList(t, in.objects, own)
	writeList(t, in.objects+".shared", shared)
	t.Cleanup(func() { c.uninstall(t, in) })
	c.Kubectl(t, "apply", "-f", in.objects+".shared", "-f", in.objects)
	in.Kubeconfig = c.accountConfig(t, id, Account)
	c.inForce(t, in)
	return in
}

func writeList(t testing.TB, file string, objects []any) {
	t.Helper()
	if objects == nil {
		objects = []any{}
	}
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err == nil {
		err = os.WriteFile(file, list, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tenantRole is the ClusterRole that gateways bind in tenants' namespaces. All installations on a cluster have this one, and it stays.
const tenantRole = "polygate-tenant"

// manifests reads the objects of deploy/kubernetes and gives them the installation's names, but for what installations share.
func (in *Installation) manifests(t testing.TB, files []string, edit func(*unstructured.Unstructured)) (own, shared []any) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(recipe(t), "../../deploy/kubernetes/*.yaml"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range all {
		if len(files) > 0 && !slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(filepath.Base(file), f) }) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(text, []byte("\n---\n")) {
			var o unstructured.Unstructured
			if err := yaml.Unmarshal(in.words(doc), &o.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o.GetKind() == "" {
				continue
			}
			if o.GetName() == tenantRole {
				shared = append(shared, o.Object)
				continue
			}
			in.rename(&o)
			if edit != nil {
				edit(&o)
			}
			own = append(own, o.Object)
		}
	}
	return own, shared
}

// words replaces names within expressions and rules.
func (in *Installation) words(doc []byte) []byte {
	return []byte(strings.NewReplacer(
		"system:serviceaccount:polygate:polygate", "system:serviceaccount:"+in.ID+":polygate",
		`"'default'"`, `"'`+in.ID+`'"`,
		`"'polygate-'"`, `"'`+in.Prefix+`'"`,
	).Replace(string(doc)))
}

// rename gives an object the installation's names: of the namespace, and of what is not in one.
func (in *Installation) rename(o *unstructured.Unstructured) {
	switch {
	case o.GetNamespace() != "":
		o.SetNamespace(in.ID)
	default:
		o.SetName(strings.Replace(o.GetName(), "polygate", in.ID, 1))
	}
	for _, path := range [][]string{{"roleRef", "name"}, {"spec", "policyName"}} {
		if name, ok, _ := unstructured.NestedString(o.Object, path...); ok {
			_ = unstructured.SetNestedField(o.Object, strings.Replace(name, "polygate", in.ID, 1), path...)
		}
	}
	if subjects, ok, _ := unstructured.NestedSlice(o.Object, "subjects"); ok {
		for _, s := range subjects {
			s.(map[string]any)["namespace"] = in.ID
		}
		_ = unstructured.SetNestedSlice(o.Object, subjects, "subjects")
	}
	in.ownNamespace(o)
}

// ownNamespace replaces the variable "own" of a policy, the gateway's namespace.
func (in *Installation) ownNamespace(o *unstructured.Unstructured) {
	variables, ok, _ := unstructured.NestedSlice(o.Object, "spec", "variables")
	if !ok {
		return
	}
	for _, v := range variables {
		if v := v.(map[string]any); v["name"] == "own" {
			v["expression"] = "'" + in.ID + "'"
		}
	}
	_ = unstructured.SetNestedSlice(o.Object, variables, "spec", "variables")
}

// inForce waits until the admission policies are: the API server compiles them a moment after they are stored.
func (c *Cluster) inForce(t testing.TB, in *Installation) {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(in.config(t))
	Eventually(t, 30*time.Second, "policies in force", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x-" + in.ID}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.Contains(err.Error(), "its prefix"), err
	})
}

func (in *Installation) config(t testing.TB) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", in.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Client acts with the gateway's own credentials.
func (in *Installation) Client(t testing.TB) *kubernetes.Clientset {
	t.Helper()
	return kubernetes.NewForConfigOrDie(in.config(t))
}

// accountConfig writes a kubeconfig for a ServiceAccount.
func (c *Cluster) accountConfig(t testing.TB, namespace, account string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: c.Config.Host, CertificateAuthorityData: c.authority(t)}
	config.AuthInfos["account"] = &clientcmdapi.AuthInfo{Token: c.Token(t, namespace, account, nil)}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "account"}
	config.CurrentContext = "test"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func (c *Cluster) authority(t testing.TB) []byte {
	t.Helper()
	if len(c.Config.CAData) > 0 {
		return c.Config.CAData
	}
	b, err := os.ReadFile(c.Config.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Token asks for a token of a ServiceAccount: for the API server itself and 6 hours, or as edit wants it.
func (c *Cluster) Token(t testing.TB, namespace, account string, edit func(*authenticationv1.TokenRequestSpec)) string {
	t.Helper()
	hours := int64(6 * 3600)
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}
	if edit != nil {
		edit(&r.Spec)
	}
	r, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, r, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// uninstall deletes what Install applied, and tenants' namespaces that are still there.
func (c *Cluster) uninstall(t testing.TB, in *Installation) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	all, err := c.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Errorf("list namespaces: %v", err)
		return
	}
	for _, ns := range all.Items {
		if strings.HasPrefix(ns.Name, in.Prefix) {
			c.DeleteNamespace(t, ns.Name)
		}
	}
	if out, err := c.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", in.objects); err != nil {
		t.Errorf("uninstall: %v\n%s", err, out)
	}
}

// Kubectl runs kubectl as the cluster's administrator and returns what it prints.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (c *Cluster) kubectl(args ...string) (string, error) {
	program, err := c.built("bin/kubectl")
	if err != nil {
		return "", err
	}
	out, err := exec.Command(program, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...).CombinedOutput() //nolint:gosec // what build.sh made
	return string(out), err
}

// Built returns the path of something that build.sh made, such as bin/kubectl or images/tools.
func (c *Cluster) Built(t testing.TB, name string) string {
	t.Helper()
	path, err := c.built(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *Cluster) built(name string) (string, error) {
	cache, err := os.ReadFile(filepath.Join(filepath.Dir(c.Kubeconfig), "cache"))
	if err != nil {
		return "", fmt.Errorf("where the cluster's programs are: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(cache)), name), nil
}
