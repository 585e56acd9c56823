//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/polygate/polygate/test/kube/kubetest"
)

// faultyAPI stands between the gateway and the cluster's API server, and fails as it is told. Others on the cluster notice nothing.
type faultyAPI struct {
	kubeconfig string
	fault      atomic.Value // func() string: "" for none, else what happens to the next request
	calls      atomic.Int64
}

// newFaultyAPI serves what the API server of a kubeconfig does, under another kubeconfig with the same credentials.
func newFaultyAPI(t *testing.T, w *world) *faultyAPI {
	t.Helper()
	config, err := clientcmd.LoadFromFile(w.rights.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(w.kube.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := rest.TLSConfigFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: w.kube.Config.CAData, CAFile: w.kube.Config.CAFile}})
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust.RootCAs, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	relay := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	f := &faultyAPI{}
	f.set(func() string { return "" })
	over := make(chan struct{})
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { f.serve(rw, r, relay, over) }))
	t.Cleanup(func() { close(over); srv.CloseClientConnections(); srv.Close() })
	for _, c := range config.Clusters {
		c.Server = srv.URL
		c.CertificateAuthorityData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	}
	f.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, f.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *faultyAPI) set(fault func() string) { f.fault.Store(fault) }

func (f *faultyAPI) serve(w http.ResponseWriter, r *http.Request, relay http.Handler, over <-chan struct{}) {
	f.calls.Add(1)
	switch f.fault.Load().(func() string)() {
	case "":
		relay.ServeHTTP(w, r)
	case "429":
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
	case "500":
		http.Error(w, "internal error", http.StatusInternalServerError)
	case "late": // it was done, and nobody hears of it
		relay.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case "hang":
		select {
		case <-r.Context().Done():
		case <-over:
		}
	default: // away
		panic(http.ErrAbortHandler)
	}
}

// newFaultyWorld starts a gateway whose way to the API server can fail.
func newFaultyWorld(t *testing.T, sandboxes string) (*world, *faultyAPI) {
	t.Helper()
	w := layOut(t)
	f := newFaultyAPI(t, w)
	w.configure(worldOptions{kubeconfig: f.kubeconfig, sandboxes: "    timeout: 3s\n" + sandboxes})
	w.start()
	return w, f
}

// TestGatewayKilledInEachState: a gateway that is killed finds its sandboxes again, does what was asked before, and makes nothing twice.
// Nobody calls the tenant meanwhile.
func TestGatewayKilledInEachState(t *testing.T) {
	w, f := newFaultyWorld(t, "")
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	image := "localhost/sandbox-tools:" + strings.ToLower(w.rights.ID) // imported late

	m.create("running", "loop", "100ms")
	m.create("stopped", "sleep")
	m.create("failed", "exit", "3")
	m.create("stopping", "stubborn")
	m.create("deleting", "stubborn")
	for _, name := range []string{"running", "stopped", "stopping", "deleting"} {
		m.await(name, "Running")
	}
	m.await("failed", "Failed")
	m.call("POST", "/api/v1/sandboxes/stopped/stop", nil)
	m.await("stopped", "Stopped")
	m.createWith(map[string]any{"name": "starting", "image": image, "args": []string{"sleep"}})
	m.await("starting", "Starting")
	before := make(map[string]box)
	for _, name := range []string{"running", "stopped", "failed", "starting"} {
		before[name] = m.get(name)
	}
	uid := w.podOf("team-a", before["running"].ID).UID

	f.set(func() string { return "away" })
	pending := m.create("pending", "sleep")
	m.call("POST", "/api/v1/sandboxes/stopping/stop", nil)
	m.call("DELETE", "/api/v1/sandboxes/deleting", nil)
	w.kill()
	f.set(func() string { return "" })
	w.start()

	w.eventually(90*time.Second, "the pods that were asked for, and the one whose log is kept", func(context.Context) (bool, error) {
		var names []string
		for _, p := range w.pods("team-a") {
			names = append(names, p.Annotations["polygate.dev/name"])
		}
		slices.Sort(names)
		return strings.Join(names, " ") == "failed pending running starting", errors.New(strings.Join(names, " "))
	})
	m.await("pending", "Running")
	m.await("stopping", "Stopped")
	m.await("deleting", "")
	if p := w.podOf("team-a", pending.ID); p.Status.Phase != corev1.PodRunning {
		t.Errorf("the pending one's pod is %s", p.Status.Phase)
	}
	for name, b := range before {
		if got := m.get(name); got.State != b.State || got.Run.Number != b.Run.Number || got.Run.Reason != b.Run.Reason {
			t.Errorf("%s before %+v, after %+v", name, b, got)
		}
	}
	if got := w.podOf("team-a", before["running"].ID).UID; got != uid {
		t.Error("the running one was made again")
	}
	if got := m.exec("running", "echo", "still"); got.Stdout != "still\n" {
		t.Errorf("exec: %+v", got)
	}
	w.kube.LoadImage(t, kubetest.PackImage(t, image, w.kube.Built(t, "images/tools")))
	m.call("POST", "/api/v1/sandboxes/starting/stop", nil)
	m.await("starting", "Stopped")
	m.call("POST", "/api/v1/sandboxes/starting/start", nil)
	m.await("starting", "Running")
}

// TestAPIServerAway: while the cluster does not answer, what runs is shown as it was known, requests that need the cluster are refused
// soon and in plain words, everything else goes on, and all is made up for when the cluster is back.
func TestAPIServerAway(t *testing.T) {
	w, f := newFaultyWorld(t, "")
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	m.create("web", "loop", "100ms")
	m.await("web", "Running")
	for _, fault := range []string{"away", "hang", "500"} {
		t.Run(fault, func(t *testing.T) {
			f.set(func() string { return fault })
			for range 8 {
				began := time.Now()
				r := m.call("POST", "/api/v1/sandboxes/web/exec", map[string]any{"command": []string{"/tools", "id"}})
				if took := time.Since(began); r.status != 503 || took > 12*time.Second {
					t.Errorf("exec after %s: %s", took, r)
				}
			}
			began := time.Now()
			if got := m.get("web"); got.State != "Running" {
				t.Errorf("it is %s", got.State)
			}
			if r := m.call("GET", "/servers", nil); r.status != 200 {
				t.Errorf("the catalog: %s", r)
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("what needs no cluster took %s", took)
			}
			name := "late-" + fault
			m.create(name, "sleep")
			w.eventually(60*time.Second, "condition ClusterReached=false", func(context.Context) (bool, error) {
				b := m.get(name)
				return strings.HasPrefix(b.condition("ClusterReached"), "false"), fmt.Errorf("%+v", b)
			})
			f.set(func() string { return "" })
			m.await(name, "Running")
			w.eventually(60*time.Second, "exec", func(ctx context.Context) (bool, error) {
				r, err := m.try(ctx, "POST", "/api/v1/sandboxes/web/exec", map[string]any{"command": []string{"/tools", "id"}})
				return r.status == 200, errors.Join(err, errors.New(r.String()))
			})
		})
	}
	if got := m.get("web"); got.Run.Number != 1 {
		t.Errorf("it was started again: %+v", got)
	}
}

// TestAPIServerKilled: the API server itself is killed, and comes back by itself.
func TestAPIServerKilled(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	web := m.create("web", "sleep")
	m.await("web", "Running")
	uid := w.podOf("team-a", web.ID).UID
	w.kube.Kill(t, "kube-apiserver")
	m.create("late", "sleep")
	if got := m.get("web"); got.State != "Running" {
		t.Errorf("it is %s", got.State)
	}
	m.await("late", "Running")
	w.eventually(30*time.Second, "exec", func(ctx context.Context) (bool, error) {
		r, err := m.try(ctx, "POST", "/api/v1/sandboxes/web/exec", map[string]any{"command": []string{"/tools", "id"}})
		return r.status == 200, errors.Join(err, errors.New(r.String()))
	})
	if got := w.podOf("team-a", web.ID).UID; got != uid {
		t.Error("another pod runs in its place")
	}
}

// TestX55CreatesWhileTheClusterFails: a thousand creates while the API server answers 429, 500, not at all, or does it and does not say so;
// the gateway is killed in between. The quota holds, and a minute later there is a pod for each sandbox, and no other.
func TestX55CreatesWhileTheClusterFails(t *testing.T) {
	const quota, calls = 20, 1000
	w, f := newFaultyWorld(t, "")
	w.tenants([]string{"team-a"}, fmt.Sprintf("    quotas: {max_sandboxes: %d}\n", quota))
	m := w.member("team-a", "alice", "editor")
	f.set(func() string {
		return []string{"", "", "429", "500", "late", "away", "hang"}[rand.IntN(7)]
	})
	answers := make(map[int]int)
	var mu sync.Mutex
	storm := func(n int) {
		var wg sync.WaitGroup
		turns := make(chan struct{}, 16)
		for range n {
			turns <- struct{}{}
			wg.Go(func() {
				defer func() { <-turns }()
				r, err := m.try(t.Context(), "POST", "/api/v1/sandboxes", map[string]any{"args": []string{"sleep"}, "resources": map[string]string{"cpu": "20m"}})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					r.status = -1
				}
				answers[r.status]++
			})
		}
		wg.Wait()
	}
	storm(calls / 2)
	m.deleteSome(5)
	killed := make(chan struct{})
	go func() { defer close(killed); w.kill() }()
	storm(calls / 4)
	<-killed
	w.start()
	storm(calls / 4)
	w.eventually(60*time.Second, "tries of what was accepted", func(context.Context) (bool, error) { return f.calls.Load() > 2*quota, nil })
	t.Logf("answers: %v; %d calls of the API server", answers, f.calls.Load())
	if n := m.exist(); n > quota {
		t.Errorf("%d sandboxes with a quota of %d", n, quota)
	}
	f.set(func() string { return "" })
	w.kill() // with all that was under way
	w.start()
	began := time.Now()
	w.eventually(60*time.Second, "pod for each sandbox, and no other", func(ctx context.Context) (bool, error) {
		pods := make(map[string]int)
		for _, p := range w.pods("team-a") {
			pods[p.Labels["polygate.dev/sandbox"]]++
		}
		all := m.list()
		for _, b := range all {
			if pods[b.ID] != 1 {
				return false, fmt.Errorf("%d pods of %+v", pods[b.ID], b)
			}
		}
		return len(pods) == len(all), fmt.Errorf("%d sandboxes, pods of %d", len(all), len(pods))
	})
	t.Logf("all in order after %s", time.Since(began).Round(time.Millisecond))
	w.eventually(2*time.Minute, "start of all", func(ctx context.Context) (bool, error) {
		n := m.count(ctx, "Running")
		return n == m.exist(), fmt.Errorf("%d run", n)
	})
	accounts, err := w.kube.Client.CoreV1().ServiceAccounts(w.namespace("team-a")).List(t.Context(), metav1.ListOptions{LabelSelector: "polygate.dev/sandbox"})
	if err != nil || len(accounts.Items) > quota {
		t.Errorf("%d service accounts of sandboxes: %v", len(accounts.Items), err)
	}
}

// list are the member's sandboxes.
func (m *member) list() []box {
	m.t.Helper()
	r := m.call("GET", "/api/v1/sandboxes?limit=500", nil)
	var list struct{ Items []box }
	if err := json.Unmarshal([]byte(r.body), &list); err != nil || r.status != 200 {
		m.t.Fatalf("list: %s", r)
	}
	return list.Items
}

func (m *member) exist() int { return len(m.list()) }

func (m *member) deleteSome(n int) {
	m.t.Helper()
	all := m.list()
	for _, b := range all[:min(n, len(all))] {
		m.call("DELETE", "/api/v1/sandboxes/"+b.ID, nil)
	}
}

// TestDeletedTenantLeavesNothing: with a tenant go its namespace and everything in it; another tenant of the same id begins anew (X41).
func TestDeletedTenantLeavesNothing(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.tenants([]string{"team-a", "team-b"}, "")
	alice, bob := w.member("team-a", "alice", "editor"), w.member("team-b", "bob", "editor")
	alice.create("one", "sleep")
	alice.create("two", "stubborn")
	bob.create("web", "sleep")
	for _, name := range []string{"one", "two"} {
		alice.await(name, "Running")
	}
	bob.await("web", "Running")
	old := w.podOf("team-a", alice.get("one").ID)
	w.operator("tenant", "delete", "team-a", "--yes")
	w.kube.Gone(t, w.namespace("team-a"))
	if got := bob.get("web"); got.State != "Running" {
		t.Errorf("another tenant's sandbox is %s", got.State)
	}
	bindings, err := w.kube.Client.RbacV1().RoleBindings("").List(t.Context(), metav1.ListOptions{LabelSelector: "polygate.dev/tenant-uid=" + old.Labels["polygate.dev/tenant-uid"]})
	if err != nil || len(bindings.Items) != 0 {
		t.Errorf("%d role bindings are left: %v", len(bindings.Items), err)
	}
	w.tenants([]string{"team-a"}, "")
	if r := alice.call("GET", "/api/v1/sandboxes", nil); r.status != 401 {
		t.Errorf("the old key: %s", r)
	}
	again := w.member("team-a", "alice", "editor")
	if n := again.exist(); n != 0 {
		t.Errorf("%d sandboxes of the tenant before", n)
	}
	again.create("one", "sleep")
	again.await("one", "Running")
	if p := w.podOf("team-a", again.get("one").ID); p.Labels["polygate.dev/tenant-uid"] == old.Labels["polygate.dev/tenant-uid"] {
		t.Error("the new tenant has the UID of the old")
	}
}
