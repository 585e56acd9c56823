package kube

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

func (d *driver) pods() corev1client.PodInterface { return d.cluster.core.Pods(d.namespace) }

func (d *driver) accounts() corev1client.ServiceAccountInterface {
	return d.cluster.core.ServiceAccounts(d.namespace)
}

// Create implements sandbox.Driver: first the run's ServiceAccount, then the pod that hangs on it. Both have names that follow from
// the run, so that a call whose outcome nobody heard of is found when it is made again; what was found is adopted by its labels.
func (d *driver) Create(ctx context.Context, t sandbox.Task) (string, error) {
	if err := checkTask(t); err != nil {
		return "", err
	}
	agents, err := d.agents(ctx)
	if err != nil {
		return "", err
	}
	if t.UID != "" { // it was made: another one must not take its place
		return t.UID, d.verify(ctx, "find the run", t)
	}
	anchor, err := d.makeAccount(ctx, t)
	if err != nil {
		return "", err
	}
	if agents != "" {
		return d.makeAgent(ctx, agents, t, anchor)
	}
	return d.makePod(ctx, t, anchor)
}

func (d *driver) makeAccount(ctx context.Context, t sandbox.Task) (types.UID, error) {
	const what = "make the sandbox's service account"
	want := d.account(t)
	var got *corev1.ServiceAccount
	err := d.cluster.call(ctx, what, func(ctx context.Context) (err error) {
		got, err = d.accounts().Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
		if apierrors.IsAlreadyExists(err) {
			got, err = d.accounts().Get(ctx, want.Name, metav1.GetOptions{})
		}
		return err
	})
	switch {
	case err != nil:
		return "", absent(what, err)
	case !d.carries(got.Labels, t):
		return "", notOurs(what, "service account", want.Name)
	case got.DeletionTimestamp != nil:
		return "", fault.New(fault.Unavailable, "cannot %s: it is being deleted; it is made again once it is gone", what)
	}
	return got.UID, nil
}

func (d *driver) makePod(ctx context.Context, t sandbox.Task, anchor types.UID) (string, error) {
	const what = "make the sandbox's pod"
	want := d.pod(t, anchor, d.config.Now())
	var got *corev1.Pod
	err := d.make(ctx, what, func(ctx context.Context) (err error) {
		got, err = d.pods().Create(ctx, want, metav1.CreateOptions{FieldManager: manager})
		if apierrors.IsAlreadyExists(err) {
			got, err = d.pods().Get(ctx, want.Name, metav1.GetOptions{})
		}
		return err
	})
	switch {
	case err != nil:
		return "", absent(what, err)
	case !d.carries(got.Labels, t):
		return "", notOurs(what, "pod", want.Name)
	}
	d.names.set(got.Name, string(got.UID))
	return string(got.UID), nil
}

// make makes a call that admission webhooks of the namespace take part in. That it fails counts against the tenant's own circuit: the
// cluster's is judged by the calls before and after it.
func (d *driver) make(ctx context.Context, what string, f func(context.Context) error) error {
	if d.cluster.circuit.open() {
		return classify(what, errOpen)
	}
	return classify(what, d.making.do(func() error { return d.cluster.bounded(ctx, f) }))
}

// absent makes of "not found", where something was to be made in the namespace, that the namespace is missing: Prepare is to be called.
func absent(what string, err error) error {
	if fault.Is(err, fault.NotFound) {
		return fault.Wrap(fault.Unavailable, err, "cannot %s: the tenant's namespace is missing; it is made again", what)
	}
	return err
}

// verify says whether the run's object is there and is the one that t.UID names; without a UID, the one whose labels are the run's.
func (d *driver) verify(ctx context.Context, what string, t sandbox.Task) error {
	_, err := d.find(ctx, what, t)
	return err
}

// find returns the pod of a run. Another pod of its name is as good as none.
func (d *driver) find(ctx context.Context, what string, t sandbox.Task) (*corev1.Pod, error) {
	if err := checkTask(t); err != nil {
		return nil, err
	}
	var p *corev1.Pod
	err := d.cluster.call(ctx, what, func(ctx context.Context) (err error) {
		p, err = d.pods().Get(ctx, runName(t.Sandbox, t.Nonce), metav1.GetOptions{})
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !d.carries(p.Labels, t) || t.UID != "" && runUID(p) != t.UID:
		return nil, gone(what)
	}
	return p, nil
}

// Remove implements sandbox.Driver. The grace is at least a second: without any, the API server would forget the pod at once, while
// its node still runs it.
func (d *driver) Remove(ctx context.Context, t sandbox.Task, grace time.Duration) error {
	const what = "end the run"
	if err := checkTask(t); err != nil {
		return err
	}
	agents, err := d.agents(ctx)
	if err != nil {
		return err
	}
	if t.UID != "" && agents == "" {
		if err := d.removePod(ctx, what, t, t.UID, grace); !fault.Is(err, fault.Conflict) {
			return goneIsFine(err)
		} // it is another's, or made through agents.x-k8s.io when that was in use
	}
	p, err := d.find(ctx, what, t)
	switch {
	case fault.Is(err, fault.NotFound) && t.UID == "":
		return d.removeAnchor(ctx, t) // what was made before the pod goes
	case fault.Is(err, fault.NotFound) && agents != "":
		return d.removeAgent(ctx, what, agents, runName(t.Sandbox, t.Nonce), t.UID)
	case err != nil:
		return goneIsFine(err)
	}
	if o := agentOf(p); o != nil { // first, for its controller would make the pod anew
		if err := d.removeAgent(ctx, what, strings.TrimPrefix(o.APIVersion, agentsGroup+"/"), o.Name, string(o.UID)); err != nil {
			return err
		}
	}
	return goneIsFine(d.removePod(ctx, what, t, string(p.UID), grace))
}

// removePod deletes the pod of a run that has that UID. Another of its name makes it fault.Conflict.
func (d *driver) removePod(ctx context.Context, what string, t sandbox.Task, uid string, grace time.Duration) error {
	return d.cluster.call(ctx, what, func(ctx context.Context) error {
		return d.pods().Delete(ctx, runName(t.Sandbox, t.Nonce), metav1.DeleteOptions{
			GracePeriodSeconds: new(max(1, int64((grace+time.Second-1)/time.Second))),
			Preconditions:      &metav1.Preconditions{UID: new(types.UID(uid))},
		})
	})
}

// goneIsFine takes it that what was to go is not there, or is another's.
func goneIsFine(err error) error {
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}

// Release implements sandbox.Driver: the finalizer first, then the ServiceAccount, on which the pod hangs, then the pod. Wherever it
// stops, what is left shows in the watch, or goes with the account.
func (d *driver) Release(ctx context.Context, t sandbox.Task) error {
	const what = "let go of the ended run"
	if err := checkTask(t); err != nil {
		return err
	}
	p, err := d.find(ctx, what, t)
	if fault.Is(err, fault.NotFound) {
		return d.removeAnchor(ctx, t) // and with it a Sandbox without a pod
	}
	if err != nil {
		return err
	}
	if slices.Contains(p.Finalizers, Finalizer) {
		if err := d.unpin(ctx, what, p); err != nil {
			return err
		}
	}
	if o := agentOf(p); o != nil {
		if err := d.removeAgent(ctx, what, strings.TrimPrefix(o.APIVersion, agentsGroup+"/"), o.Name, string(o.UID)); err != nil {
			return err
		}
	}
	if err := d.removeAnchor(ctx, t); err != nil {
		return err
	}
	return goneIsFine(d.removePod(ctx, what, t, string(p.UID), 0))
}

// unpin takes our finalizer from a pod. The UID in the patch is a precondition.
func (d *driver) unpin(ctx context.Context, what string, p *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "$deleteFromPrimitiveList/finalizers": []string{Finalizer},
	}})
	if err != nil {
		return fault.Wrap(fault.Internal, err, "cannot %s", what)
	}
	return goneIsFine(d.cluster.call(ctx, what, func(ctx context.Context) error {
		_, err := d.pods().Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: manager})
		return err
	}))
}

// removeAnchor deletes the run's ServiceAccount, and with it all that hangs on it.
func (d *driver) removeAnchor(ctx context.Context, t sandbox.Task) error {
	const what = "delete the run's service account"
	name := runName(t.Sandbox, t.Nonce)
	return goneIsFine(d.cluster.call(ctx, what, func(ctx context.Context) error {
		a, err := d.accounts().Get(ctx, name, metav1.GetOptions{})
		if err != nil || !d.carries(a.Labels, t) {
			return err
		}
		return d.accounts().Delete(ctx, name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: new(a.UID)}, PropagationPolicy: new(metav1.DeletePropagationBackground),
		})
	}))
}
