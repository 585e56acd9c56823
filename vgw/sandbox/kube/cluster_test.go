package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

const toolsImage = "localhost/sandbox-tools:1"

// realDrivers returns drivers of the cluster that POLYGATE_KUBE_TEST names.
func realDrivers(t *testing.T, change ...func(*Config)) *Drivers {
	t.Helper()
	path := os.Getenv("POLYGATE_KUBE_TEST")
	if path == "" {
		t.Skip("POLYGATE_KUBE_TEST does not name an admin kubeconfig of a cluster: run make kube and set it to what that prints")
	}
	c := Config{
		Kubeconfig: path, NamespacePrefix: "k-", Instance: "k-test", QPS: 500, Burst: 1000,
		Places: &notedPlaces{}, Gateway: Peers{Namespace: "k-gateway", PodLabels: map[string]string{"app": "polygate"}},
		DNS:    Peers{Namespace: "kube-system", PodLabels: map[string]string{"k8s-app": "kube-dns"}},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&c)
	}
	d, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIdle(d) })
	return d
}

// closeIdle lets connections go that nobody uses, which client-go would keep for the next client.
func closeIdle(d *Drivers) {
	if r, ok := d.cluster.core.RESTClient().(*rest.RESTClient); ok {
		utilnet.CloseIdleConnectionsFor(r.Client.Transport)
	}
}

// realTenant returns a tenant with a namespace of its own, which is deleted at the end.
func realTenant(t *testing.T, ds *Drivers) *driver {
	t.Helper()
	id := tenant.ID("t" + strings.ToLower(rand.Text()[:8]))
	ten := sandbox.Tenant{
		Scope:  tenant.Confine(id, uuid.NewString()),
		Quotas: tenant.Quotas{MaxSandboxes: 50, SandboxCPU: 4000, SandboxMemory: 4 << 30, SandboxStorage: 50 << 30, SandboxGPUs: 2},
	}
	d, err := ds.open(ten)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eraseAll(t, ds, d) })
	if err := d.Prepare(t.Context()); err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	return d
}

func eraseAll(t *testing.T, ds *Drivers, d *driver) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	for range 3 {
		if done, err := ds.Erase(ctx, d.namespace, d.tenant.Scope.UID()); done || err != nil {
			if err != nil {
				t.Logf("Erase: %v", err)
			}
			return
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}

type notedPlaces struct{}

func (*notedPlaces) Claim(context.Context, string, tenant.Scope, bool) error { return nil }
func (*notedPlaces) Release(context.Context, string) error                   { return nil }

func toolsTask(args ...string) sandbox.Task {
	return sandbox.Task{
		Sandbox: uuid.NewString(), Nonce: strings.ToLower(rand.Text()[:10]), Name: "work", Owner: "0123456789abcdef",
		Spec: sandbox.Spec{
			Image: toolsImage, Args: args,
			Resources: sandbox.Resources{CPU: 200, Memory: 32 << 20, Storage: 64 << 20},
		},
		Until: time.Now().Add(10 * time.Minute),
	}
}

// watched keeps what a driver's Watch tells.
type watched struct {
	mu   sync.Mutex
	last map[string]sandbox.Observation // guarded by mu
	all  []sandbox.Observation          // guarded by mu
	news chan struct{}
}

func watchAll(t *testing.T, d *driver) *watched {
	t.Helper()
	w := &watched{last: make(map[string]sandbox.Observation), news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	synced, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- d.Watch(ctx, w.seen, func() { close(synced) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	select {
	case <-synced:
	case <-time.After(20 * time.Second):
		t.Fatal("Watch is not synced")
	}
	return w
}

func (w *watched) seen(o sandbox.Observation) {
	w.mu.Lock()
	w.last[o.Nonce] = o
	w.all = append(w.all, o)
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *watched) wait(t *testing.T, task sandbox.Task, what string, ok func(sandbox.Observation) bool) sandbox.Observation {
	t.Helper()
	limit := time.After(60 * time.Second)
	for {
		w.mu.Lock()
		o, there := w.last[task.Nonce]
		w.mu.Unlock()
		if there && ok(o) {
			return o
		}
		select {
		case <-w.news:
		case <-limit:
			t.Fatalf("waited in vain for %s: last seen %+v", what, o)
		}
	}
}

func in(p sandbox.Phase) func(sandbox.Observation) bool {
	return func(o sandbox.Observation) bool { return o.Phase == p }
}

// start makes a run and waits until it runs.
func start(t *testing.T, d *driver, w *watched, args ...string) sandbox.Task {
	t.Helper()
	task := toolsTask(args...)
	uid, err := d.Create(t.Context(), task)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	task.UID = uid
	w.wait(t, task, "it to run", in(sandbox.PhaseRunning))
	return task
}

func TestClusterLife(t *testing.T) {
	d := realTenant(t, realDrivers(t))
	w := watchAll(t, d)
	task := start(t, d, w, "loop", "100ms")
	again := task
	again.UID = ""
	if uid, err := d.Create(t.Context(), again); err != nil || uid != task.UID {
		t.Fatalf("Create again = %q, %v, want %q", uid, err, task.UID)
	}
	var out bytes.Buffer
	exit, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"/tools", "echo", "hello"}, Stdout: &out})
	if err != nil || exit.Code != 0 || strings.TrimSpace(out.String()) != "hello" {
		t.Errorf("Exec = %+v, %v, %q", exit, err, out.String())
	}
	logs, err := d.Logs(t.Context(), task, sandbox.LogQuery{Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(logs)
	logs.Close()
	if err != nil || !strings.HasPrefix(string(b), "line 1\n") {
		t.Errorf("log %q, %v", b, err)
	}
	ev, err := d.Events(t.Context(), task)
	if err != nil || len(ev) == 0 {
		t.Errorf("Events = %v, %v", ev, err)
	}
	if err := d.Remove(t.Context(), task, 2*time.Second); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	o := w.wait(t, task, "its end", in(sandbox.PhaseEnded))
	if o.Exit == nil || o.Ended.IsZero() || o.Started.IsZero() || !o.Deleting {
		t.Errorf("end %+v", o)
	}
	if err := d.Release(t.Context(), task); err != nil {
		t.Fatalf("Release: %v", err)
	}
	w.wait(t, task, "it to be gone", in(sandbox.PhaseAbsent))
	if l, err := d.accounts().List(t.Context(), metav1.ListOptions{LabelSelector: d.selector()}); err != nil || len(l.Items) != 0 {
		t.Errorf("service accounts left: %v, %v", l, err)
	}
	for what, err := range map[string]error{
		"Remove": d.Remove(t.Context(), task, 0), "Release": d.Release(t.Context(), task),
	} {
		if err != nil {
			t.Errorf("%s of what is gone: %v", what, err)
		}
	}
	if _, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"/tools", "id"}}); !errors.Is(err, sandbox.ErrGone) || !fault.Is(err, fault.NotFound) {
		t.Errorf("Exec of what is gone: %v", err)
	}
}
