package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

func freshTask(n int) sandbox.Task {
	task := plainTask()
	task.Sandbox, task.Nonce = uuid.NewString(), fmt.Sprintf("run%d", n)
	return task
}

// TestX55 makes 1,000 runs while the cluster answers with 429, 500, and not at all, before and after it did what was asked. Each call
// that failed is made again, as the reconciler does: in the end there is one pod and one account a run, and what is then removed and
// released leaves nothing.
func TestX55(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a", func(c *Config) { c.Timeout = 100 * time.Millisecond })
	d.cluster.circuit, d.making = patient(), patient()
	var n atomic.Int64
	trouble := func(r *http.Request) *reply {
		switch n.Add(1) % 23 {
		case 1, 2:
			return &reply{code: 500, reason: metav1.StatusReasonInternalError, say: "etcdserver: request timed out"}
		case 5:
			return &reply{code: 429, reason: metav1.StatusReasonTooManyRequests, say: "slow down"}
		case 9:
			return &reply{} // hangs
		}
		return nil
	}
	s.fail(trouble, trouble)
	const runs, workers = 1000, 64
	tasks := make([]sandbox.Task, runs)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < runs; i += workers {
				tasks[i] = insist(t, freshTask(i), func(task *sandbox.Task) (err error) {
					task.UID, err = d.Create(t.Context(), *task)
					return err
				})
			}
		})
	}
	wg.Wait()
	if pods, accounts := len(s.have("pods")), len(s.have("serviceaccounts")); pods != runs || accounts != runs {
		t.Fatalf("%d pods and %d accounts for %d runs", pods, accounts, runs)
	}
	for w := range workers {
		wg.Go(func() {
			for i := w; i < runs; i += workers {
				insist(t, tasks[i], func(task *sandbox.Task) error { return d.Remove(t.Context(), *task, time.Second) })
				insist(t, tasks[i], func(task *sandbox.Task) error { return d.Release(t.Context(), *task) })
			}
		})
	}
	wg.Wait()
	if left := append(s.have("pods"), s.have("serviceaccounts")...); len(left) != 0 {
		t.Errorf("%d orphans, such as %v", len(left), left[:min(5, len(left))])
	}
}

// patient is a circuit that never opens: in this test failures come close together on purpose.
func patient() *circuit {
	return &circuit{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{ReadyToTrip: func(gobreaker.Counts) bool { return false }})}
}

// insist makes a call until it succeeds. All failures have to be of those that are worth a retry.
func insist(t *testing.T, task sandbox.Task, f func(*sandbox.Task) error) sandbox.Task {
	for range 200 {
		was := task.UID
		err := f(&task)
		if err == nil {
			return task
		}
		task.UID = was
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("a failure of the cluster is %v", err)
			return task
		}
	}
	t.Errorf("200 tries and no success")
	return task
}

// TestUnknownOutcome: the pod was made and nobody heard of it (X49). The next call finds it.
func TestUnknownOutcome(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a")
	task := freshTask(1)
	s.fail(nil, func(r *http.Request) *reply {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods") {
			return &reply{code: 504, reason: metav1.StatusReasonTimeout, say: "timed out"}
		}
		return nil
	})
	if _, err := d.Create(t.Context(), task); !errors.Is(err, sandbox.ErrUnreachable) {
		t.Fatalf("got %v, want ErrUnreachable", err)
	}
	s.fail(nil, nil)
	uid, err := d.Create(t.Context(), task)
	if err != nil || uid == "" || len(s.have("pods")) != 1 {
		t.Errorf("%q, %v, %v", uid, err, s.have("pods"))
	}
	if err := d.Remove(t.Context(), task, 0); err != nil || len(s.have("pods")) != 0 {
		t.Errorf("Remove without a grace, of a run whose UID was not stored: %v, %v", err, s.have("pods"))
	}
}

// TestAdoption: what has the name of a run and does not carry its labels is neither adopted nor touched.
func TestAdoptedByLabels(t *testing.T) {
	task := freshTask(1)
	name := runName(task.Sandbox, task.Nonce)
	for what, spoil := range map[string]func(l map[string]string){
		"no labels":            func(l map[string]string) { clear(l) },
		"another sandbox":      func(l map[string]string) { l[LabelSandbox] = uuid.NewString() },
		"another run":          func(l map[string]string) { l[LabelRun] = "other" },
		"another tenant":       func(l map[string]string) { l[LabelTenant] = "b" },
		"an earlier tenant":    func(l map[string]string) { l[LabelTenantUID] = "other" },
		"another installation": func(l map[string]string) { l[LabelInstance] = "other" },
	} {
		for _, kind := range []string{"pods", "serviceaccounts"} {
			s := newStage(t)
			d := s.open(t, "a")
			labels := d.labels(task)
			spoil(labels)
			meta := metav1.ObjectMeta{Name: name, Namespace: "k-a", Labels: labels, UID: "foreign"}
			path := "/api/v1/namespaces/k-a/" + kind + "/" + name
			s.put(path, &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: meta})
			if kind == "serviceaccounts" {
				s.put(path, &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"}, ObjectMeta: meta})
			}
			if uid, err := d.Create(t.Context(), task); !errors.Is(err, sandbox.ErrNotOurs) || !fault.Is(err, fault.Conflict) {
				t.Errorf("%s, %s: Create = %q, %v, want ErrNotOurs", what, kind, uid, err)
			}
			if err := d.Remove(t.Context(), task, time.Second); err != nil {
				t.Errorf("%s, %s: Remove: %v", what, kind, err)
			}
			if err := d.Release(t.Context(), task); err != nil {
				t.Errorf("%s, %s: Release: %v", what, kind, err)
			}
			if have := s.have(kind); len(have) != 1 {
				t.Errorf("%s, %s: what is not ours was touched: %v", what, kind, have)
			}
		}
	}
}

// TestAnotherUID: once a run's UID is known, nothing else of its name is touched, though its labels are right.
func TestAnotherUID(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a")
	task := freshTask(1)
	name := runName(task.Sandbox, task.Nonce)
	task.UID = "ours"
	s.put("/api/v1/namespaces/k-a/pods/"+name, &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "k-a", Labels: d.labels(task), UID: "other", Finalizers: []string{Finalizer}},
	})
	if err := d.Remove(t.Context(), task, time.Second); err != nil {
		t.Errorf("Remove: %v", err)
	}
	if err := d.Release(t.Context(), task); err != nil {
		t.Errorf("Release: %v", err)
	}
	if _, err := d.Create(t.Context(), task); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("Create: %v", err)
	}
	if _, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"id"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("Exec: %v", err)
	}
	if _, err := d.Logs(t.Context(), task, sandbox.LogQuery{}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("Logs: %v", err)
	}
	for _, r := range s.requests() {
		if strings.HasPrefix(r, http.MethodPatch) || strings.HasPrefix(r, http.MethodPost) {
			t.Errorf("%s", r)
		}
	}
	if len(s.have("pods")) != 1 {
		t.Error("another's pod was deleted")
	}
}

// TestX53 has hostile tasks try to leave the tenant's namespace: no request goes elsewhere.
func TestX53(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a")
	hostile := []string{"../../kube-system/pods/x", "x/../../kube-system", "kube-system", "x?namespace=kube-system", "%2e%2e%2fkube-system", "a b", ""}
	for _, text := range hostile {
		for _, task := range []sandbox.Task{
			{Sandbox: text, Nonce: "abc", Name: text, Owner: text, Session: text},
			{Sandbox: uuid.NewString(), Nonce: text, Name: text},
			{Sandbox: uuid.NewString(), Nonce: "abc", Name: text, Owner: text, Session: text, Spec: sandbox.Spec{Image: text, RuntimeClass: text}},
		} {
			_, _ = d.Create(t.Context(), task)
			_ = d.Remove(t.Context(), task, time.Second)
			_ = d.Release(t.Context(), task)
			_, _ = d.Logs(t.Context(), task, sandbox.LogQuery{})
			_, _ = d.Events(t.Context(), task)
			_, _ = d.Exec(t.Context(), task, sandbox.Exec{Command: []string{text}})
		}
	}
	for _, r := range s.requests() {
		_, path, _ := strings.Cut(r, " ")
		if rest, ok := strings.CutPrefix(path, "/api/v1/namespaces/k-a/"); !ok || strings.Contains(rest, "..") || strings.Count(rest, "/") > 2 {
			t.Errorf("left the namespace: %s", r)
		}
	}
	if len(s.requests()) == 0 {
		t.Error("nothing was asked at all")
	}
}

// TestHang: a cluster that hangs costs a call its timeout, and after some of them nothing: the circuit is open.
func TestHang(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a", func(c *Config) { c.Timeout = 30 * time.Millisecond })
	s.fail(func(*http.Request) *reply { return &reply{} }, nil)
	for i := range circuitFailures + 20 {
		if _, err := d.Create(t.Context(), freshTask(i)); !errors.Is(err, sandbox.ErrUnreachable) || !fault.Is(err, fault.Unavailable) {
			t.Fatalf("got %v, want ErrUnreachable", err)
		}
	}
	if n := len(s.requests()); n > circuitFailures {
		t.Errorf("%d requests to a cluster that hangs, want at most %d", n, circuitFailures)
	}
}

// TestWebhook: an admission webhook that hangs in one tenant's namespace cuts off nobody else.
func TestWebhook(t *testing.T) {
	for name, answer := range map[string]*reply{
		"hangs": {},
		"fails": {code: 500, reason: metav1.StatusReasonInternalError, say: `failed calling webhook "x": refused`},
		"500":   {code: 500, reason: metav1.StatusReasonInternalError, say: "oh"},
	} {
		s := newStage(t)
		a := s.open(t, "a", func(c *Config) { c.Timeout = 200 * time.Millisecond })
		b := ofTenant(t, a.Drivers, "b")
		s.fail(func(r *http.Request) *reply {
			if r.Method == http.MethodPost && r.URL.Path == "/api/v1/namespaces/k-a/pods" {
				return answer
			}
			return nil
		}, nil)
		var wg sync.WaitGroup // at once: what succeeds comes first then, and the failures are all in a row
		for i := range 2 * circuitFailures {
			wg.Go(func() {
				if _, err := a.Create(t.Context(), freshTask(i)); !fault.Is(err, fault.Unavailable) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		wg.Wait()
		if _, err := b.Create(t.Context(), freshTask(100)); err != nil {
			t.Errorf("%s: another tenant is cut off: %v", name, err)
		}
	}
}

// TestCircuit: it opens after failures in a row, lets one call try after a while, and what tells nothing of the cluster counts for nothing.
func TestCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit("test", Config{}.withDefaults().Logger)
		calls := 0
		do := func(err error) error { return c.do(func() error { calls++; return err }) }
		away := errors.New("connection refused")
		for range 3 * circuitFailures {
			_ = do(context.Canceled)
			_ = do(errors.New("client rate limiter Wait returned an error: rate: Wait(n=1) would exceed context deadline"))
			_ = do(forbidden("exceeded quota"))
		}
		if c.open() {
			t.Fatal("open though the cluster answered")
		}
		for range circuitFailures {
			_ = do(away)
		}
		calls = 0
		if err := do(nil); !errors.Is(err, errOpen) || calls != 0 || !c.open() {
			t.Errorf("%v after %d failures, %d calls", err, circuitFailures, calls)
		}
		time.Sleep(circuitPause + time.Second)
		if err := do(away); !errors.Is(err, away) || calls != 1 {
			t.Errorf("the one that tries: %v, %d calls", err, calls)
		}
		if err := do(nil); !errors.Is(err, errOpen) {
			t.Errorf("%v after a try that failed", err)
		}
		time.Sleep(circuitPause + time.Second)
		if err := errors.Join(do(nil), do(nil)); err != nil {
			t.Errorf("%v though the cluster is back", err)
		}
	})
}
