//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSandboxFigures measures, for bench/sandbox.sh: POLYGATE_FIGURES is how many sandboxes are tracked.
func TestSandboxFigures(t *testing.T) {
	tracked, err := strconv.Atoi(os.Getenv("POLYGATE_FIGURES"))
	if err != nil {
		t.Skip("POLYGATE_FIGURES is not set: run bench/sandbox.sh")
	}
	w, f := newFaultyWorld(t, "    qps: 500\n    burst: 1000\n")
	w.tenants([]string{"team-a"}, "")
	m := w.member("team-a", "alice", "editor")
	m.startFigures(30)
	m.execFigures(50)
	w.trackFigures(f, tracked)
}

// spread is a list of durations.
type spread []time.Duration

func (s spread) String() string {
	slices.Sort(s)
	at := func(share float64) time.Duration {
		return s[min(len(s)-1, int(share*float64(len(s))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %s  p99 %s", at(0.50), at(0.99))
}

// moments is when a pod was first seen, and first seen running.
type moments struct{ made, running time.Time }

// observe watches pods, so that what is the gateway's part can be told from what is the cluster's.
func (w *world) observe(namespace string) func(sandbox string) moments {
	w.t.Helper()
	watch, err := w.kube.Client.CoreV1().Pods(namespace).Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(watch.Stop)
	var mu sync.Mutex
	seen := make(map[string]moments)
	go func() {
		for e := range watch.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			id := p.Labels["polygate.dev/sandbox"]
			if id == "" {
				id = p.Name
			}
			mu.Lock()
			now := seen[id]
			if now.made.IsZero() {
				now.made = time.Now()
			}
			if now.running.IsZero() && p.Status.Phase == corev1.PodRunning {
				now.running = time.Now()
			}
			seen[id] = now
			mu.Unlock()
		}
	}()
	return func(id string) (at moments) {
		w.eventually(90*time.Second, "running pod in the watch", func(context.Context) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			at = seen[id]
			return !at.running.IsZero(), nil
		})
		return at
	}
}

// startFigures makes sandboxes and equal plain pods in turn.
func (m *member) startFigures(n int) {
	m.t.Helper()
	first := m.createWith(sized("first"))
	m.await("first", "Running")
	ns := m.namespace("team-a")
	equal := m.podOf("team-a", first.ID)
	seen := m.observe(ns)
	var ours, part, pods, ends spread
	for i := range n {
		name := fmt.Sprintf("box-%d", i)
		began := time.Now()
		b := m.createWith(sized(name))
		if r := m.call("GET", "/api/v1/sandboxes/"+b.ID+"/wait?for=running&timeout=60s", nil); !strings.Contains(r.body, `"reached":true`) {
			m.t.Fatalf("wait: %s", r)
		}
		ended := time.Now()
		at := seen(b.ID)
		ours = append(ours, ended.Sub(began))
		part = append(part, at.made.Sub(began)+max(0, ended.Sub(at.running)))
		began = time.Now()
		m.call("DELETE", "/api/v1/sandboxes/"+b.ID, nil)
		m.await(b.ID, "")
		ends = append(ends, time.Since(began))

		plain := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "plain-" + strconv.Itoa(i)}, Spec: *equal.Spec.DeepCopy()}
		plain.Spec.NodeName = ""
		began = time.Now()
		if _, err := m.kube.Client.CoreV1().Pods(ns).Create(m.t.Context(), plain, metav1.CreateOptions{}); err != nil {
			m.t.Fatal(err)
		}
		pods = append(pods, seen(plain.Name).running.Sub(began))
		_ = m.kube.Client.CoreV1().Pods(ns).Delete(m.t.Context(), plain.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	}
	m.t.Logf("create → Running    %s", ours)
	m.t.Logf("  of it the gateway %s", part)
	m.t.Logf("an equal pod        %s", pods)
	m.t.Logf("delete → gone       %s", ends)
}

func (m *member) execFigures(n int) {
	m.t.Helper()
	p := m.podOf("team-a", m.get("first").ID)
	var ours, direct spread
	for range n {
		began := time.Now()
		m.exec("first", "echo", "x")
		ours = append(ours, time.Since(began))
		began = time.Now()
		if _, code := m.kube.Exec(m.t, p.Namespace, p.Name, "/tools", "echo", "x"); code != 0 {
			m.t.Fatalf("exec: %d", code)
		}
		direct = append(direct, time.Since(began))
	}
	m.t.Logf("exec round trip     %s", ours)
	m.t.Logf("straight            %s", direct)
}

// trackFigures has sandboxes that no node has room for: their pods exist and do not run.
func (w *world) trackFigures(f *faultyAPI, n int) {
	w.t.Helper()
	const tenants = 10
	var ids []string
	for i := range tenants {
		ids = append(ids, fmt.Sprintf("crowd-%d", i))
	}
	w.tenants(ids, fmt.Sprintf("    quotas: {max_sandboxes: %d, sandbox_cpu: 100000}\n", n))
	before := w.resident()
	began := time.Now()
	var wg sync.WaitGroup
	for _, id := range ids {
		m := w.member(id, "maker", "editor")
		wg.Go(func() {
			for range n / tenants {
				r, err := m.try(w.t.Context(), "POST", "/api/v1/sandboxes", map[string]any{"args": []string{"sleep"}, "resources": map[string]string{"cpu": "90"}})
				if err != nil || r.status != http.StatusCreated {
					w.t.Errorf("%s: %s %v", id, r, err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.t.Logf("%d creates answered after %s", n, time.Since(began).Round(time.Millisecond))
	w.eventually(10*time.Minute, "pods of all", func(ctx context.Context) (bool, error) {
		sum := 0
		for _, id := range ids {
			sum += len(w.pods(id))
		}
		return sum >= n/tenants*tenants, fmt.Errorf("%d pods", sum)
	})
	w.t.Logf("their pods exist after %s", time.Since(began).Round(time.Millisecond))
	calls := f.calls.Load()
	quiet := time.NewTimer(time.Minute)
	defer quiet.Stop()
	select {
	case <-quiet.C:
	case <-w.t.Context().Done():
	}
	after := w.resident()
	w.t.Logf("%d tracked: %d API-server requests in a minute; resident %d MiB, %d MiB before (%.1f KiB each)",
		n, f.calls.Load()-calls, after>>10, before>>10, float64(after-before)/float64(n))
}

// resident is the gateway's memory in KiB.
func (w *world) resident() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// sized is a sandbox with enough CPU: with less, the start of its process and of each command in it is what is measured.
func sized(name string) map[string]any {
	return map[string]any{"name": name, "args": []string{"sleep"}, "resources": map[string]string{"cpu": "400m"}}
}
