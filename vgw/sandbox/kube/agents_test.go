package kube

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

func TestAgentVersions(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                                    "",
		`{"versions":[{"version":"v1alpha1"}]}`: "v1alpha1",
		`{"versions":[{"version":"v1alpha1"},{"version":"v1beta1"}]}`: "v1beta1",
		`{"versions":[{"version":"v9"}]}`:                             "",
	} {
		if got, err := bestVersion([]byte(body)); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", body, got, err, want)
		}
	}
	if _, err := bestVersion([]byte("<html>")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestAgentModes(t *testing.T) {
	for _, c := range []struct {
		mode  string
		serve *reply
		want  string
		bad   bool
		asks  int
	}{
		{AgentOff, nil, "", false, 0},
		{AgentAuto, nil, "", false, 1}, // 404
		{AgentAuto, &reply{code: 200, body: `{"versions":[{"version":"v1beta1"}]}`}, "v1beta1", false, 1},
		{AgentRequire, nil, "", true, 1},
		{AgentAuto, &reply{code: 500, reason: metav1.StatusReasonInternalError}, "", true, 3}, // not taken for "none"
	} {
		s := newStage(t)
		d := s.open(t, "a", func(k *Config) { k.AgentSandbox = c.mode })
		s.fail(func(*http.Request) *reply { return c.serve }, nil)
		for range 3 {
			got, err := d.agents(t.Context())
			if got != c.want || (err != nil) != c.bad || c.bad && !fault.Is(err, fault.Unavailable) {
				t.Errorf("%+v: %q, %v", c, got, err)
			}
		}
		if n := len(s.requests()); n != c.asks {
			t.Errorf("%+v: asked %d times", c, n)
		}
	}
}

// TestAgentTemplate: the template of a Sandbox is the pod that would be made without it.
func TestAgentTemplate(t *testing.T) {
	d := paperDriver()
	u, err := d.agent("v1beta1", plainTask(), "anchor-uid", atThree())
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Spec struct {
			PodTemplate struct {
				Metadata struct{ Labels, Annotations map[string]string }
				Spec     corev1.PodSpec
			}
		}
	}
	b, err := json.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	p := d.pod(plainTask(), "anchor-uid", atThree())
	same := &corev1.Pod{ObjectMeta: *p.ObjectMeta.DeepCopy(), Spec: got.Spec.PodTemplate.Spec}
	if textless(same) != textless(p) {
		t.Errorf("template\n%s\nwant\n%s", textless(same), textless(p))
	}
	if !d.carries(u.GetLabels(), plainTask()) || !d.carries(got.Spec.PodTemplate.Metadata.Labels, plainTask()) || len(u.GetOwnerReferences()) != 1 {
		t.Errorf("labels %v and %v", u.GetLabels(), got.Spec.PodTemplate.Metadata.Labels)
	}
	if bad := evaluator(t)(same); bad != nil {
		t.Errorf("not restricted: %v", bad)
	}
}

// TestAgentPairs plays what the two watches tell, in the orders that happen.
func TestAgentPairs(t *testing.T) {
	d := paperDriver()
	object := func(deleting bool) *metav1.PartialObjectMetadata {
		m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: runName(plainTask().Sandbox, plainTask().Nonce), UID: "run-uid", Labels: d.labels(plainTask())}}
		if deleting {
			m.DeletionTimestamp = new(metav1.NewTime(atThree()))
		}
		return m
	}
	pod := func(uid string, changes ...func(*corev1.Pod)) *corev1.Pod {
		p := shown(changes...)
		p.UID, p.Finalizers = types.UID(uid), nil
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "agents.x-k8s.io/v1beta1", Kind: "Sandbox", Name: p.Name, UID: "run-uid", Controller: new(true)}}
		return p
	}
	for name, c := range map[string]struct {
		play func(w *pairs)
		want string // phases and reasons
	}{
		"a life": {func(w *pairs) {
			w.object(object(false), true)
			w.pod(pod("1"), true)
			w.pod(pod("1", running), true)
			w.object(object(false), true)
			w.pod(pod("1", terminated(0, "Completed")), true)
			w.object(object(true), false)
			w.pod(pod("1", terminated(0, "Completed"), deleted(0)), false)
		}, "1 Waiting, 1 Waiting, 2 , 3 Completed, 0 DeletedOutside"},
		"its pod is deleted and made anew": {func(w *pairs) {
			w.pod(pod("1", running), true)
			w.object(object(false), true)
			w.pod(pod("1", running, deleted(10)), true)
			w.pod(pod("1", running, deleted(10)), false)
			w.pod(pod("2"), true)
			w.pod(pod("2", running), true)
			w.object(object(false), true)
			w.object(object(false), false)
			w.pod(pod("2", running), false)
		}, "2 , 4 , 3 DeletedOutside, 0 , 0 DeletedOutside"},
		"the object goes first": {func(w *pairs) {
			w.pod(pod("1", running), true)
			w.object(object(false), true)
			w.object(object(true), false)
			w.pod(pod("1", terminated(137, "OOMKilled"), deleted(0)), false)
		}, "2 , 0 OutOfMemory"},
		"no controller": {func(w *pairs) {
			w.object(object(false), true)
			w.object(object(true), false)
		}, "1 Waiting, 0 "},
	} {
		var got []string
		w := &pairs{d: d, runs: make(map[string]*pair), seen: func(o sandbox.Observation) {
			if o.UID != "run-uid" {
				t.Errorf("%s: UID %s", name, o.UID)
			}
			got = append(got, string(rune('0'+o.Phase))+" "+o.Reason)
		}}
		c.play(w)
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
		if len(w.runs) > 1 || name != "its pod is deleted and made anew" && len(w.runs) != 0 {
			t.Errorf("%s: %d runs are kept for ever", name, len(w.runs))
		}
	}
}

// TestClusterAgents has the driver pass the suite through agents.x-k8s.io, where the cluster of tests serves it.
func TestClusterAgents(t *testing.T) {
	ds := realDrivers(t, func(c *Config) { c.AgentSandbox = AgentRequire })
	if _, err := ofTenant(t, ds, "x").agents(t.Context()); err != nil {
		t.Skipf("the cluster does not serve agents.x-k8s.io: %v", err)
	}
	suite(t, AgentRequire)
	t.Run("the controller makes no second life", func(t *testing.T) {
		d := realTenant(t, ds)
		w := watchAll(t, d)
		task := start(t, d, w, "sleep")
		p, err := d.find(t.Context(), "look", task)
		if err != nil || string(p.UID) == task.UID || agentOf(p) == nil {
			t.Fatalf("%v, %v", p, err)
		}
		if err := d.removePod(t.Context(), "delete the pod", task, string(p.UID), time.Second); err != nil {
			t.Fatal(err)
		}
		w.wait(t, task, "its end", in(sandbox.PhaseEnded))
		if err := d.Release(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		w.wait(t, task, "it to be gone", in(sandbox.PhaseAbsent))
		if _, err := d.find(t.Context(), "look", task); err != nil && !errors.Is(err, sandbox.ErrGone) {
			t.Error(err)
		}
	})
}
