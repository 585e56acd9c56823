package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

// TestClusterFailures has a real cluster fail in each way that one node can: each has its phase, its reason and words that help.
func TestClusterFailures(t *testing.T) {
	d := realTenant(t, realDrivers(t))
	w := watchAll(t, d)
	for name, c := range map[string]struct {
		change func(*sandbox.Task)
		args   []string
		phase  sandbox.Phase
		reason string
		say    string
	}{
		"image": {func(task *sandbox.Task) { task.Spec.Image = "localhost/no-such-image:1" }, nil,
			sandbox.PhaseWaiting, sandbox.ReasonImage, "localhost/no-such-image"},
		"image name": {func(task *sandbox.Task) { task.Spec.Image = "NOT AN IMAGE" }, nil,
			sandbox.PhaseWaiting, sandbox.ReasonImage, "InvalidImageName"},
		"unschedulable": {func(task *sandbox.Task) { task.Spec.Resources.GPUs = map[string]int64{"nvidia.com/gpu": 1} }, []string{"sleep"},
			sandbox.PhaseWaiting, sandbox.ReasonUnschedulable, "nvidia.com/gpu"},
		"command": {func(task *sandbox.Task) { task.Spec.Command = []string{"/nope"} }, nil,
			sandbox.PhaseEnded, sandbox.ReasonError, "could not be started"},
		"crash":     {nil, []string{"exit", "3"}, sandbox.PhaseEnded, sandbox.ReasonError, "ended with 3"},
		"completed": {nil, []string{"exit", "0"}, sandbox.PhaseEnded, sandbox.ReasonCompleted, "0"},
		"memory":    {nil, []string{"oom"}, sandbox.PhaseEnded, sandbox.ReasonOOM, "more memory"},
		"lifetime":  {func(task *sandbox.Task) { task.Until = time.Now().Add(3 * time.Second) }, []string{"sleep"}, sandbox.PhaseEnded, sandbox.ReasonLifetime, "lifetime"},
		"storage": {nil, []string{"fill-disk", "/workspace", "80"},
			sandbox.PhaseEnded, sandbox.ReasonEvicted, "exceeds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "storage" && testing.Short() {
				t.Skip("its node looks every ten seconds or so")
			}
			task := toolsTask(c.args...)
			if c.change != nil {
				c.change(&task)
			}
			uid, err := d.Create(t.Context(), task)
			if err != nil {
				t.Fatal(err)
			}
			task.UID = uid
			o := w.wait(t, task, c.reason, func(o sandbox.Observation) bool {
				// A process that ends with 0 when it is told to looks completed, should its node report that before the eviction.
				return o.Phase == c.phase && (o.Reason == c.reason || name == "storage" && o.Reason == sandbox.ReasonCompleted)
			})
			if o.Reason == c.reason && !strings.Contains(o.Message, c.say) {
				t.Errorf("message %q, want %q in it", o.Message, c.say)
			}
			if c.phase == sandbox.PhaseWaiting {
				if _, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"/tools", "id"}}); !errors.Is(err, sandbox.ErrNotRunning) || !fault.Is(err, fault.Conflict) {
					t.Errorf("Exec: %v", err)
				}
				if _, err := d.Logs(t.Context(), task, sandbox.LogQuery{Tail: -1}); !errors.Is(err, sandbox.ErrNotRunning) {
					t.Errorf("Logs: %v", err)
				}
			}
			if err := d.Remove(t.Context(), task, time.Second); err != nil {
				t.Errorf("Remove: %v", err)
			}
			w.wait(t, task, "its end", in(sandbox.PhaseEnded))
			if err := d.Release(t.Context(), task); err != nil {
				t.Errorf("Release: %v", err)
			}
			w.wait(t, task, "it to be gone", in(sandbox.PhaseAbsent))
		})
	}
}

// TestClusterOutside: what others do to a run and its namespace behind the gateway's back is seen, and no run is made where it cannot be.
func TestClusterOutside(t *testing.T) {
	ds := realDrivers(t)
	d := realTenant(t, ds)
	w := watchAll(t, d)
	task := start(t, d, w, "sleep")
	name := runName(task.Sandbox, task.Nonce)
	if err := d.pods().Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}); err != nil {
		t.Fatal(err)
	}
	o := w.wait(t, task, "its end", in(sandbox.PhaseEnded))
	if o.Reason != sandbox.ReasonDeleted && o.Reason != sandbox.ReasonCompleted || !o.Deleting {
		t.Errorf("deleted outside: %+v", o)
	}
	if err := d.Release(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	big := toolsTask("sleep")
	big.Spec.Resources.CPU = 1e6
	if _, err := d.Create(t.Context(), big); !errors.Is(err, sandbox.ErrQuota) || !fault.Is(err, fault.Conflict) {
		t.Errorf("over the namespace's quota: %v", err)
	}
	if err := d.Remove(t.Context(), big, time.Second); err != nil {
		t.Errorf("Remove of what was refused: %v", err)
	}
	pinned := start(t, d, w, "sleep")
	if err := d.cluster.core.Namespaces().Delete(t.Context(), d.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.wait(t, pinned, "its end with the namespace", in(sandbox.PhaseEnded))
	if _, err := d.Create(t.Context(), toolsTask("sleep")); !errors.Is(err, sandbox.ErrTerminating) || !fault.Is(err, fault.Unavailable) {
		t.Errorf("in a namespace that is being deleted: %v", err)
	}
	if err := d.Release(t.Context(), pinned); err != nil {
		t.Errorf("Release in a namespace that is being deleted: %v", err)
	}
	none := ofTenant(t, ds, tenant.ID("none"))
	if _, err := none.Create(t.Context(), toolsTask("sleep")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without a namespace: %v", err)
	}
}

// TestX54 looks at the objects that keep a sandbox from what it must not reach: policies that deny by default, and a pod without a
// credential. That they are in force is for the tests of the whole platform.
func TestX54(t *testing.T) {
	d := realTenant(t, realDrivers(t))
	w := watchAll(t, d)
	task := start(t, d, w, "sleep")
	p, err := d.find(t.Context(), "look", task)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir == nil {
			t.Errorf("the cluster gave the pod a volume: %+v", v)
		}
	}
	out := newScreen()
	if exit, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"/tools", "ls", "/var/run/secrets"}, Stdout: out}); err != nil || exit.Code == 0 {
		t.Errorf("there are secrets in the pod: %+v, %v, %s", exit, err, out)
	}
	if _, err := d.Exec(t.Context(), task, sandbox.Exec{Command: []string{"/tools", "id"}, Stdout: out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"uid=10001", "gid=10001", "CapEff=0000000000000000", "CapBnd=0000000000000000", "NoNewPrivs=1", "Seccomp=2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the process is not confined: no %s in\n%s", want, out)
		}
	}
	l, err := d.cluster.network.NetworkPolicies(d.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	deny := false
	for _, n := range l.Items {
		deny = deny || len(n.Spec.PodSelector.MatchLabels)+len(n.Spec.PodSelector.MatchExpressions) == 0 &&
			len(n.Spec.PolicyTypes) == 2 && n.Spec.Ingress == nil && n.Spec.Egress == nil
	}
	if !deny {
		t.Errorf("no policy denies all by default: %d policies", len(l.Items))
	}
}
