package kube

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/polygate/polygate/vgw/sandbox"
)

// observe says what a pod tells of its run. ok is false for a pod that is none of this tenant's runs. It is pure.
func (d *driver) observe(p *corev1.Pod) (o sandbox.Observation, ok bool) {
	if !d.belongs(p.Labels) || p.Namespace != d.namespace || p.Name != runName(p.Labels[LabelSandbox], p.Labels[LabelRun]) {
		return o, false
	}
	return observe(p), true
}

func observe(p *corev1.Pod) sandbox.Observation {
	o := sandbox.Observation{
		Sandbox: p.Labels[LabelSandbox], Nonce: p.Labels[LabelRun], UID: runUID(p),
		Address: p.Status.PodIP, Node: p.Spec.NodeName, Deleting: p.DeletionTimestamp != nil,
	}
	c := containerStatus(p)
	if c != nil && c.State.Running != nil {
		o.Started = c.State.Running.StartedAt.Time
	}
	switch {
	case ended(p, c):
		o.Phase, o.Address = sandbox.PhaseEnded, ""
		end(&o, p, c)
	case o.Deleting:
		o.Phase = sandbox.PhaseStopping
		o.Reason, o.Message = lost(p)
	case c != nil && c.State.Running != nil:
		o.Phase = sandbox.PhaseRunning
		o.Reason, o.Message = lost(p)
	default:
		o.Phase = sandbox.PhaseWaiting
		o.Reason, o.Message = waiting(p, c)
	}
	o.Conditions = conditions(p, c, &o)
	return o
}

func containerStatus(p *corev1.Pod) *corev1.ContainerStatus {
	for i := range p.Status.ContainerStatuses {
		if p.Status.ContainerStatuses[i].Name == containerName {
			return &p.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// ended says whether nothing of the pod runs any more. A pod that is being deleted stays for its finalizer: once its grace is 0 its node
// has said that all has ended, or the control plane has given the node up; and one that no node has never ran.
func ended(p *corev1.Pod, c *corev1.ContainerStatus) bool {
	switch {
	case p.Status.Phase == corev1.PodSucceeded, p.Status.Phase == corev1.PodFailed:
		return true
	case c != nil && c.State.Terminated != nil:
		return true
	case p.DeletionTimestamp == nil:
		return false
	}
	return p.Spec.NodeName == "" || p.DeletionGracePeriodSeconds != nil && *p.DeletionGracePeriodSeconds == 0
}

// end fills in how a run ended. What the pod itself says comes before what its container says: a container that was killed knows no
// reason. Whoever asked for an end knows better than either.
func end(o *sandbox.Observation, p *corev1.Pod, c *corev1.ContainerStatus) {
	var t *corev1.ContainerStateTerminated
	if c != nil {
		t = c.State.Terminated
	}
	if t != nil {
		o.Started, o.Ended = t.StartedAt.Time, t.FinishedAt.Time
		if t.Reason != "ContainerStatusUnknown" { // 137 there is made up
			o.Exit = new(int(t.ExitCode))
		}
		if o.Started.Unix() <= 0 { // the runtime writes 1970 for what never started
			o.Started = time.Time{}
		}
	}
	if o.Ended.IsZero() && p.DeletionTimestamp != nil {
		o.Ended = p.DeletionTimestamp.Time
	}
	o.Reason, o.Message = endReason(p, t)
}

func endReason(p *corev1.Pod, t *corev1.ContainerStateTerminated) (reason, message string) {
	if reason, message = podReason(p); reason != "" {
		return reason, message
	}
	switch {
	case t != nil && t.Reason == "OOMKilled":
		return sandbox.ReasonOOM, "it used more memory than its limit: ask for more, or use less"
	case p.DeletionTimestamp != nil:
		return sandbox.ReasonDeleted, "its pod was deleted"
	case t == nil && p.Status.Phase == corev1.PodSucceeded, t != nil && t.ExitCode == 0:
		return sandbox.ReasonCompleted, "its process ended with 0"
	case t == nil:
		return sandbox.ReasonError, words("its pod failed", p.Status.Reason, p.Status.Message)
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		return sandbox.ReasonError, words("its command could not be started: check command, args and working_dir", "", t.Message)
	case t.Reason == "ContainerStatusUnknown":
		return sandbox.ReasonNodeLost, words("its node does not know how it ended", "", t.Message)
	}
	return sandbox.ReasonError, words(fmt.Sprintf("its process ended with %d", t.ExitCode), "", t.Message)
}

// podReason says why the cluster ended a pod; "" = it did not.
func podReason(p *corev1.Pod) (reason, message string) {
	switch p.Status.Reason {
	case "Evicted", "Preempting":
		return sandbox.ReasonEvicted, words("its node took it away; it may write less, or ask for more storage or memory", "", p.Status.Message)
	case "DeadlineExceeded":
		return sandbox.ReasonLifetime, "its lifetime is over"
	case "NodeLost", "NodeShutdown", "Terminated", "NodeAffinity", "Shutdown":
		return sandbox.ReasonNodeLost, words("its node went away", "", p.Status.Message)
	case "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage":
		return sandbox.ReasonEvicted, words("its node had no room for it after all: start it again", "", p.Status.Message)
	}
	c := podCondition(p, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue {
		return "", ""
	}
	switch c.Reason {
	case "DeletionByTaintManager", "DeletionByPodGC":
		return sandbox.ReasonNodeLost, words("its node is gone, or does not answer", "", c.Message)
	}
	return sandbox.ReasonEvicted, words("the cluster took it away for others", c.Reason, c.Message)
}

// waiting says what a pod that does not run yet waits for.
func waiting(p *corev1.Pod, c *corev1.ContainerStatus) (reason, message string) {
	if s := podCondition(p, corev1.PodScheduled); s != nil && s.Status == corev1.ConditionFalse {
		return sandbox.ReasonUnschedulable, words("no node can take it: ask for less, or have the operator add nodes", "", s.Message)
	}
	if c == nil || c.State.Waiting == nil {
		return sandbox.ReasonWaiting, "it is being placed on a node"
	}
	w := c.State.Waiting
	switch {
	case imageTrouble(w.Reason):
		return sandbox.ReasonImage, words("its image cannot be pulled: check its name and tag, and that the cluster may read the registry", w.Reason, w.Message)
	case w.Reason == "CreateContainerConfigError", w.Reason == "CreateContainerError", w.Reason == "RunContainerError":
		return sandbox.ReasonRefused, words("its node cannot make its container", w.Reason, w.Message)
	case w.Reason == "CrashLoopBackOff":
		return sandbox.ReasonCrashLoop, words("its process ends again and again", "", w.Message)
	}
	return sandbox.ReasonWaiting, "its node fetches the image and makes its container"
}

func imageTrouble(reason string) bool {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return true
	}
	return false
}

// lost says whether the node of what runs does not answer: the control plane then takes back the pod's readiness, and the container's
// own stays as it was last heard of.
func lost(p *corev1.Pod) (reason, message string) {
	if p.Status.Reason == "NodeLost" {
		return sandbox.ReasonNodeLost, "its node does not answer"
	}
	if reason, message = podReason(p); reason == sandbox.ReasonNodeLost {
		return reason, message
	}
	ready, containers := podCondition(p, corev1.PodReady), podCondition(p, corev1.ContainersReady)
	if ready != nil && containers != nil && ready.Status != corev1.ConditionTrue && containers.Status == corev1.ConditionTrue {
		return sandbox.ReasonNodeLost, "its node does not answer; should it stay away, the cluster takes the sandbox from it after some minutes"
	}
	return "", ""
}

// conditions are those that a pod can tell of.
func conditions(p *corev1.Pod, c *corev1.ContainerStatus, o *sandbox.Observation) []sandbox.Condition {
	var list []sandbox.Condition
	add := func(typ string, status bool, reason, message string) {
		list = append(list, sandbox.Condition{Type: typ, Status: status, Reason: reason, Message: message})
	}
	switch {
	case o.Reason == sandbox.ReasonImage:
		add(sandbox.ImageAvailable, false, o.Reason, o.Message)
	case c != nil && c.ImageID != "":
		add(sandbox.ImageAvailable, true, "Pulled", "")
	}
	add(ready(p, c, o))
	switch {
	case p.Spec.NodeName != "":
		add(sandbox.Scheduled, true, "Placed", "")
	case o.Phase == sandbox.PhaseWaiting:
		add(sandbox.Scheduled, false, o.Reason, o.Message)
	}
	return list
}

func ready(p *corev1.Pod, c *corev1.ContainerStatus, o *sandbox.Observation) (typ string, status bool, reason, message string) {
	switch {
	case o.Phase != sandbox.PhaseRunning || o.Reason != "":
		return sandbox.Ready, false, o.Reason, o.Message
	case c.Ready:
		return sandbox.Ready, true, "Running", ""
	case len(p.Spec.Containers) > 0 && p.Spec.Containers[0].ReadinessProbe != nil:
		return sandbox.Ready, false, sandbox.ReasonWaiting, "it runs, and nobody listens on its first port yet"
	}
	return sandbox.Ready, false, sandbox.ReasonWaiting, "it has just begun to run"
}

func podCondition(p *corev1.Pod, typ corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == typ {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// words joins what we say with what the cluster says.
func words(ours, reason, theirs string) string {
	theirs = clip(theirs)
	return ours + strings.Join([]string{prefixed(" (", reason, ")"), prefixed(": ", theirs, "")}, "")
}

func prefixed(before, s, after string) string {
	if s == "" {
		return ""
	}
	return before + s + after
}
