package kube

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Where the cluster serves agents.x-k8s.io (kubernetes-sigs/agent-sandbox), runs can be made through it: a Sandbox object a run, whose
// controller makes the pod, of the same name and with the labels of our template. The UID of such a run is the Sandbox's. Its
// controller makes a pod that was deleted anew, which is no life of a run here: what lost its pod has ended. The Sandbox has no
// finalizer of ours, since templates give none to the pod either: an end while no gateway watches may leave no trace but that it is gone.
const agentsGroup = "agents.x-k8s.io"

// agentVersions are those that are understood, the best first. They agree in all that is set here.
func agentVersions() []string { return []string{"v1beta1", "v1alpha1"} }

const (
	servedFor   = 10 * time.Minute // until it is looked again which version is served
	unservedFor = time.Minute      // and whether one is
)

// served remembers which version of agents.x-k8s.io the cluster serves.
type served struct {
	mu      sync.Mutex
	version string    // guarded by mu; "" = none
	until   time.Time // guarded by mu
}

func (s *served) get(now time.Time) (version string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version, now.Before(s.until)
}

func (s *served) set(version string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.until = version, until
}

// agents returns the version of agents.x-k8s.io through which runs are made; "" = they are plain pods.
func (d *driver) agents(ctx context.Context) (string, error) {
	if d.config.AgentSandbox == AgentOff {
		return "", nil
	}
	version, err := d.cluster.agents(ctx)
	if err == nil && version == "" && d.config.AgentSandbox == AgentRequire {
		return "", fault.New(fault.Unavailable,
			"the cluster does not serve %s, which sandboxes.kube.agent_sandbox requires: install agent-sandbox, or set it to auto", agentsGroup)
	}
	return version, err
}

func (c *cluster) agents(ctx context.Context) (string, error) {
	now := c.config.Now()
	if v, ok := c.served.get(now); ok {
		return v, nil
	}
	var body []byte
	err := c.call(ctx, "look for agents.x-k8s.io", func(ctx context.Context) (err error) {
		body, err = c.core.RESTClient().Get().AbsPath("/apis", agentsGroup).SetHeader("Accept", "application/json").Do(ctx).Raw()
		if apierrors.IsNotFound(err) {
			body, err = []byte("{}"), nil
		}
		return err
	})
	if err != nil {
		return "", err
	}
	version, err := bestVersion(body)
	if err != nil {
		return "", err
	}
	lasts := servedFor
	if version == "" {
		lasts = unservedFor
	}
	c.served.set(version, now.Add(lasts))
	return version, nil
}

// bestVersion reads an APIGroup.
func bestVersion(body []byte) (string, error) {
	var g metav1.APIGroup
	if err := json.Unmarshal(body, &g); err != nil {
		return "", fault.Wrap(fault.Unavailable, err, "what the cluster says of %s cannot be read", agentsGroup)
	}
	for _, v := range agentVersions() {
		if slices.ContainsFunc(g.Versions, func(s metav1.GroupVersionForDiscovery) bool { return s.Version == v }) {
			return v, nil
		}
	}
	return "", nil
}

func agentResource(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: agentsGroup, Version: version, Resource: "sandboxes"}
}

// agentOf returns the reference of a pod to the Sandbox that made it; nil for a plain pod.
func agentOf(p *corev1.Pod) *metav1.OwnerReference {
	o := metav1.GetControllerOfNoCopy(p)
	if o == nil || o.Kind != "Sandbox" || !strings.HasPrefix(o.APIVersion, agentsGroup+"/") {
		return nil
	}
	return o
}

// runUID returns the identity of the run that a pod is of.
func runUID(p *corev1.Pod) string {
	if o := agentOf(p); o != nil {
		return string(o.UID)
	}
	return string(p.UID)
}

// agent returns the Sandbox object of a run: the very pod that would be made without it, as its template.
func (d *driver) agent(version string, t sandbox.Task, anchor types.UID, now time.Time) (*unstructured.Unstructured, error) {
	p := d.pod(t, anchor, now)
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p.Spec)
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err, "the pod cannot be written as a template")
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": agentsGroup + "/" + version,
		"kind":       "Sandbox",
		"spec": map[string]any{
			"podTemplate": map[string]any{
				"metadata": map[string]any{"labels": texts(p.Labels), "annotations": texts(p.Annotations)},
				"spec":     spec,
			},
			"service": false, // sandboxes are reached by their own addresses, and services are a quota's matter
		},
	}}
	u.SetName(p.Name)
	u.SetNamespace(p.Namespace)
	u.SetLabels(p.Labels)
	u.SetOwnerReferences(p.OwnerReferences)
	return u, nil
}

func texts(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (d *driver) makeAgent(ctx context.Context, version string, t sandbox.Task, anchor types.UID) (string, error) {
	const what = "make the sandbox's object of agents.x-k8s.io"
	want, err := d.agent(version, t, anchor, d.config.Now())
	if err != nil {
		return "", err
	}
	var got *unstructured.Unstructured
	err = d.make(ctx, what, func(ctx context.Context) (err error) {
		c := d.cluster.dynamic.Resource(agentResource(version)).Namespace(d.namespace)
		got, err = c.Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
		if apierrors.IsAlreadyExists(err) {
			got, err = c.Get(ctx, want.GetName(), metav1.GetOptions{})
		}
		return err
	})
	switch {
	case err != nil:
		return "", absent(what, err)
	case !d.carries(got.GetLabels(), t):
		return "", notOurs(what, "Sandbox", want.GetName())
	}
	return string(got.GetUID()), nil
}

// removeAgent deletes the Sandbox that uid names, and with its pod whatever hangs on it.
func (d *driver) removeAgent(ctx context.Context, what, version, name, uid string) error {
	return goneIsFine(d.cluster.call(ctx, what, func(ctx context.Context) error {
		return d.cluster.dynamic.Resource(agentResource(version)).Namespace(d.namespace).Delete(ctx, name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: new(types.UID(uid))}, PropagationPolicy: new(metav1.DeletePropagationBackground),
		})
	}))
}

// pair is what is there of a run that was made through agents.x-k8s.io.
type pair struct {
	object, pod bool
	ended       bool // its pod is gone: another that its controller makes is no longer this run's
}

// pairs tells of runs by two watches, of Sandboxes and of pods, one event at a time.
type pairs struct {
	d    *driver
	seen func(sandbox.Observation)
	mu   sync.Mutex       // one event at a time
	runs map[string]*pair // by UID; guarded by mu
}

// watchAgents lists and watches the pods, and once it knows these the Sandboxes, so that none seems to have no pod that has one.
func (d *driver) watchAgents(ctx context.Context, version string, seen func(sandbox.Observation), synced func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	w := &pairs{d: d, seen: seen, runs: make(map[string]*pair)}
	pods, objects := d.followPods(w.pod), d.followAgents(version, w.object)
	var wg sync.WaitGroup
	follow := func(f interface {
		run(context.Context, func()) error
	}, synced func()) {
		wg.Go(func() { cancel(f.run(ctx, synced)) })
	}
	follow(pods, func() { follow(objects, synced) })
	wg.Wait()
	return context.Cause(ctx)
}

func (d *driver) followAgents(version string, each func(*metav1.PartialObjectMetadata, bool)) *follower[*metav1.PartialObjectMetadata] {
	c := d.cluster.metadata.Resource(agentResource(version)).Namespace(d.namespace)
	return &follower[*metav1.PartialObjectMetadata]{
		cluster: d.cluster, what: "watch the tenant's Sandboxes",
		options: metav1.ListOptions{LabelSelector: d.selector()},
		list: func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, []*metav1.PartialObjectMetadata, error) {
			l, err := c.List(ctx, o)
			if err != nil {
				return nil, nil, err
			}
			return l, pointers(l.Items), nil
		},
		watch: c.Watch,
		each:  each,
	}
}

func (w *pairs) of(uid string) *pair {
	p := w.runs[uid]
	if p == nil {
		p = new(pair)
		w.runs[uid] = p
	}
	return p
}

// pod handles an event of a pod.
func (w *pairs) pod(p *corev1.Pod, there bool) {
	o, ours := w.d.observe(p)
	if !ours {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	run := w.of(o.UID)
	if run.ended {
		return
	}
	run.pod = there
	if there {
		w.d.names.set(p.Name, o.UID)
		w.seen(o)
		return
	}
	w.d.names.drop(p.Name, o.UID)
	if o.Phase != sandbox.PhaseEnded {
		o.Phase, o.Reason, o.Message, o.Address, o.Conditions = sandbox.PhaseEnded, sandbox.ReasonDeleted, "its pod was deleted", "", nil
	}
	if run.ended = true; !run.object {
		o.Phase = sandbox.PhaseAbsent
		delete(w.runs, o.UID)
	}
	w.seen(o)
}

// object handles an event of a Sandbox.
func (w *pairs) object(m *metav1.PartialObjectMetadata, there bool) {
	if !w.d.belongs(m.Labels) || m.Name != runName(m.Labels[LabelSandbox], m.Labels[LabelRun]) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	uid := string(m.UID)
	run := w.of(uid)
	run.object = there
	if run.pod {
		return // its pod tells more
	}
	o := sandbox.Observation{Sandbox: m.Labels[LabelSandbox], Nonce: m.Labels[LabelRun], UID: uid, Deleting: m.DeletionTimestamp != nil}
	switch {
	case !there:
		delete(w.runs, uid)
		w.seen(o) // absent
	case !run.ended:
		o.Phase, o.Reason, o.Message = sandbox.PhaseWaiting, sandbox.ReasonWaiting, "the controller of agent-sandbox has not made its pod yet"
		w.seen(o)
	}
}
