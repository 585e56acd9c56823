//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/test/kube/kubetest"
)

const audience = "polygate"

// TestA3KubernetesCallers: tokens of the cluster's own pods and users, judged by the real API server.
func TestA3KubernetesCallers(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ns, foreign := w.kube.Namespace(t, "t-callers-", nil), w.kube.Namespace(t, "t-foreign-", nil)
	w.tenants([]string{"team-a", "team-b"}, "")
	w.vouches("team-a", accountsOf(ns))
	w.vouches("team-a", "{name: openshift, type: kubernetes, default_role: none, kubernetes: {}}")
	w.vouches("team-b", accountsOf(foreign))
	w.operator("member", "add", "group:openshift/developers", "--role", "editor", "--tenant", "team-a")
	w.operator("member", "add", "group:openshift/system:serviceaccounts:"+ns, "--role", "viewer", "--tenant", "team-a")

	mine := w.callerPod(ns, "caller", audience)
	theirs := w.callerPod(foreign, "caller", audience)
	other := w.callerPod(ns, "other-audience", "somebody-else")
	doomed := w.callerPod(ns, "doomed", audience)
	if err := w.kube.Client.CoreV1().Pods(ns).Delete(t.Context(), "doomed", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	w.eventually(20*time.Second, "end of the pod", func(ctx context.Context) (bool, error) {
		_, err := w.kube.Client.CoreV1().Pods(ns).Get(ctx, "doomed", metav1.GetOptions{})
		return err != nil, nil
	})
	ownAudience := w.kube.Token(t, ns, "default", nil) // as every pod's token has it: for the API server itself

	for _, c := range []struct {
		what, tenant, token string
		status              int
		role                string
	}{
		{"a pod's token", "team-a", mine, 200, "editor"},
		{"a pod's token of another namespace", "team-a", theirs, 401, ""},
		{"that at its own tenant", "team-b", theirs, 200, "editor"},
		{"a token for somebody else", "team-a", other, 401, ""},
		{"a token of a pod that is deleted", "team-a", doomed, 401, ""},
		{"a token that has expired", "team-a", w.resigned(mine, func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), 401, ""},
		{"a token signed by nobody", "team-a", mine[:len(mine)-8] + "AAAAAAAA", 401, ""},
		{"a token for the API server, by a group of accounts", "team-a", ownAudience, 200, "viewer"},
		{"that at a tenant without such an authenticator", "team-b", ownAudience, 401, ""},
		{"an OpenShift-style user's, by a group", "team-a", userToken, 200, "editor"},
		{"one that nobody has", "team-a", "sha256~nobody", 401, ""},
	} {
		r := w.bearer(c.tenant, c.token).call("GET", "/api/v1/whoami", nil)
		if r.status != c.status && !(c.status == 401 && r.status == 403) || c.role != "" && !strings.Contains(r.body, `"`+c.role+`"`) {
			t.Errorf("%s: %s, want %d %s", c.what, r, c.status, c.role)
		}
	}
	w.owned(mine, theirs, ownAudience)
}

// vouches gives a tenant an authenticator.
func (w *world) vouches(tenant, yaml string) {
	w.t.Helper()
	file := w.write("authenticator.yaml", yaml+"\n")
	w.member(tenant, "for-"+random()[:8], "admin").run("authenticator", "add", "-f", file)
}

// accountsOf is an authenticator that lets the accounts of a namespace in, with tokens meant for us.
func accountsOf(namespace string) string {
	return fmt.Sprintf("{name: cluster, type: kubernetes, default_role: editor, kubernetes: {audiences: [%s], namespaces: [%s]}}", audience, namespace)
}

// owned: a ServiceAccount's sandboxes are its own, for other accounts as for other tenants'.
func (w *world) owned(mine, theirs, viewer string) {
	w.t.Helper()
	m := w.bearer("team-a", mine)
	b := m.create("of-a-pod", "sleep")
	if !strings.Contains(b.Owner, "cluster/system:serviceaccount:") {
		w.t.Errorf("the owner is %s", b.Owner)
	}
	m.await("of-a-pod", "Running")
	if x := m.exec("of-a-pod", "echo", "mine"); x.Stdout != "mine\n" {
		w.t.Errorf("exec: %+v", x)
	}
	for what, who := range map[string]*member{"another tenant's account": w.bearer("team-b", theirs), "a viewer": w.bearer("team-a", viewer)} {
		for _, name := range []string{b.ID, b.Name} {
			if r := who.call("GET", "/api/v1/sandboxes/"+name, nil); r.status != 404 {
				w.t.Errorf("%s reads %s: %s", what, name, r)
			}
			if r := who.call("POST", "/api/v1/sandboxes/"+name+"/exec", map[string]any{"command": []string{"/tools", "id"}}); r.status != 403 {
				w.t.Errorf("%s runs a command in %s: %s", what, name, r)
			}
		}
	}
	if r := w.bearer("team-b", mine).call("GET", "/api/v1/sandboxes/"+b.ID, nil); r.status != 401 && r.status != 403 {
		w.t.Errorf("A's account at B's host: %s", r)
	}
}

// callerPod runs a pod with a projected token, as a workload has one, and returns the token.
func (w *world) callerPod(namespace, name, audience string) string {
	w.t.Helper()
	pod := kubetest.Pod(name, "sleep")
	expire := int64(3600)
	pod.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: &expire, Path: "token"}}}}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "token", MountPath: "/token"}}
	group := int64(10001)
	pod.Spec.SecurityContext.FSGroup = &group
	w.kube.Run(w.t, namespace, pod)
	out, code := w.kube.Exec(w.t, namespace, name, "/tools", "cat", "/token/token")
	if code != 0 {
		w.t.Fatalf("read the token of %s/%s: %s", namespace, name, out)
	}
	return strings.TrimSpace(out)
}

// resigned changes a token's claims and signs it again with the cluster's own key: the API server never issued it, and knows its key.
func (w *world) resigned(token string, edit func(claims map[string]any)) string {
	w.t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	claims := make(map[string]any)
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		w.t.Fatalf("no JWT: %v", err)
	}
	edit(claims)
	if payload, err = json.Marshal(claims); err != nil {
		w.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(w.kube.Kubeconfig), "service-account.key"))
	if err != nil {
		w.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		w.t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		w.t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// userToken is an opaque token of the user alice in the group developers, as OpenShift issues them: see test/kube/node.sh.
const userToken = "sha256~token-of-alice-for-tests"

// TestRefusedTokensEnd: a token that was good ends with its pod, within the time that a review is believed.
func TestRefusedTokensEnd(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ns := w.kube.Namespace(t, "t-callers-", nil)
	w.tenants([]string{"team-a"}, "")
	w.vouches("team-a", accountsOf(ns))
	pod := w.kube.Run(t, ns, kubetest.Pod("caller", "sleep"))
	token := w.kube.Token(t, ns, "default", func(s *authenticationv1.TokenRequestSpec) {
		s.Audiences = []string{audience}
		s.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	})
	m := w.bearer("team-a", token)
	if r := m.call("GET", "/api/v1/whoami", nil); r.status != 200 {
		t.Fatalf("before: %s", r)
	}
	if err := w.kube.Client.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.eventually(90*time.Second, "end of the token", func(ctx context.Context) (bool, error) {
		r, err := m.try(ctx, "GET", "/api/v1/whoami", nil)
		return r.status == 401, err
	})
	t.Logf("refused %s after its pod was deleted", time.Since(began).Round(time.Second))
}
