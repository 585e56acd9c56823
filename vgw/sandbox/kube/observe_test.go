package kube

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/vgw/sandbox"
)

// shown returns the pod of a plain task as a cluster would show it, after the changes.
func shown(changes ...func(*corev1.Pod)) *corev1.Pod {
	p := paperDriver().pod(plainTask(), "anchor-uid", atThree())
	p.UID = "pod-uid"
	p.Status.Phase = corev1.PodPending
	for _, f := range changes {
		f(p)
	}
	return p
}

func onNode(p *corev1.Pod) {
	p.Spec.NodeName = "node-1"
	p.Status.PodIP = "10.244.0.7"
	setCondition(p, corev1.PodScheduled, corev1.ConditionTrue, "", "")
}

func setCondition(p *corev1.Pod, typ corev1.PodConditionType, s corev1.ConditionStatus, reason, message string) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: typ, Status: s, Reason: reason, Message: message})
}

func state(s corev1.ContainerState, ready bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		onNode(p)
		st := corev1.ContainerStatus{Name: containerName, State: s, Ready: ready}
		if s.Waiting == nil {
			st.ImageID = "sha256:1"
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{st}
	}
}

func waitingFor(reason, message string) func(*corev1.Pod) {
	return state(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}, false)
}

func running(p *corev1.Pod) {
	state(corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(atThree())}}, true)(p)
	p.Status.Phase = corev1.PodRunning
	setCondition(p, corev1.PodReady, corev1.ConditionTrue, "", "")
	setCondition(p, corev1.ContainersReady, corev1.ConditionTrue, "", "")
}

func terminated(code int32, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, StartedAt: metav1.NewTime(atThree()), FinishedAt: metav1.NewTime(atThree().Add(time.Minute)),
		}}, false)(p)
		p.Status.Phase = corev1.PodFailed
		if code == 0 {
			p.Status.Phase = corev1.PodSucceeded
		}
	}
}

func failed(reason, message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		onNode(p)
		p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, reason, message
	}
}

func deleted(grace int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(metav1.NewTime(atThree().Add(time.Hour))), new(grace)
	}
}

func disrupted(reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { setCondition(p, corev1.DisruptionTarget, corev1.ConditionTrue, reason, "theirs") }
}

func TestObserve(t *testing.T) {
	type want struct {
		phase  sandbox.Phase
		reason string
		exit   int    // -1 = unknown
		say    string // part of the message
		false_ string // the type of a condition that is false, with the reason
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want want
	}{
		"just made": {shown(), want{sandbox.PhaseWaiting, sandbox.ReasonWaiting, -1, "placed", sandbox.Scheduled}},
		"unschedulable": {shown(func(p *corev1.Pod) {
			setCondition(p, corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/1 nodes: Insufficient nvidia.com/gpu")
		}), want{sandbox.PhaseWaiting, sandbox.ReasonUnschedulable, -1, "Insufficient nvidia.com/gpu", sandbox.Scheduled}},
		"on a node":                    {shown(onNode), want{sandbox.PhaseWaiting, sandbox.ReasonWaiting, -1, "", sandbox.Ready}},
		"creating":                     {shown(waitingFor("ContainerCreating", "")), want{sandbox.PhaseWaiting, sandbox.ReasonWaiting, -1, "", sandbox.Ready}},
		"no such image":                {shown(waitingFor("ErrImagePull", "not found: nginx:nope")), want{sandbox.PhaseWaiting, sandbox.ReasonImage, -1, "nginx:nope", sandbox.ImageAvailable}},
		"image, backing off":           {shown(waitingFor("ImagePullBackOff", "Back-off")), want{sandbox.PhaseWaiting, sandbox.ReasonImage, -1, "registry", sandbox.ImageAvailable}},
		"no image name":                {shown(waitingFor("InvalidImageName", "")), want{sandbox.PhaseWaiting, sandbox.ReasonImage, -1, "InvalidImageName", sandbox.ImageAvailable}},
		"container refused":            {shown(waitingFor("CreateContainerConfigError", "secret")), want{sandbox.PhaseWaiting, sandbox.ReasonRefused, -1, "secret", sandbox.Ready}},
		"crash loop":                   {shown(waitingFor("CrashLoopBackOff", "")), want{sandbox.PhaseWaiting, sandbox.ReasonCrashLoop, -1, "", sandbox.Ready}},
		"running":                      {shown(running), want{sandbox.PhaseRunning, "", -1, "", ""}},
		"running, no listener":         {shown(running, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = false; p.Status.Conditions = nil }), want{sandbox.PhaseRunning, "", -1, "", sandbox.Ready}},
		"node is silent":               {shown(running, func(p *corev1.Pod) { p.Status.Conditions[1].Status = corev1.ConditionFalse }), want{sandbox.PhaseRunning, sandbox.ReasonNodeLost, -1, "node does not answer", sandbox.Ready}},
		"stopping":                     {shown(running, deleted(10)), want{sandbox.PhaseStopping, "", -1, "", sandbox.Ready}},
		"completed":                    {shown(terminated(0, "Completed")), want{sandbox.PhaseEnded, sandbox.ReasonCompleted, 0, "", sandbox.Ready}},
		"error":                        {shown(terminated(7, "Error")), want{sandbox.PhaseEnded, sandbox.ReasonError, 7, "ended with 7", sandbox.Ready}},
		"out of memory":                {shown(terminated(137, "OOMKilled")), want{sandbox.PhaseEnded, sandbox.ReasonOOM, 137, "memory", sandbox.Ready}},
		"no such command":              {shown(terminated(128, "StartError")), want{sandbox.PhaseEnded, sandbox.ReasonError, 128, "could not be started", sandbox.Ready}},
		"node forgot":                  {shown(terminated(137, "ContainerStatusUnknown")), want{sandbox.PhaseEnded, sandbox.ReasonNodeLost, -1, "", sandbox.Ready}},
		"evicted":                      {shown(failed("Evicted", "Usage of EmptyDir volume exceeds the limit")), want{sandbox.PhaseEnded, sandbox.ReasonEvicted, -1, "EmptyDir", sandbox.Ready}},
		"evicted, killed":              {shown(terminated(137, "Error"), func(p *corev1.Pod) { p.Status.Reason = "Evicted" }), want{sandbox.PhaseEnded, sandbox.ReasonEvicted, 137, "", sandbox.Ready}},
		"deadline":                     {shown(failed("DeadlineExceeded", "")), want{sandbox.PhaseEnded, sandbox.ReasonLifetime, -1, "lifetime", sandbox.Ready}},
		"node shut down":               {shown(failed("NodeShutdown", "")), want{sandbox.PhaseEnded, sandbox.ReasonNodeLost, -1, "", sandbox.Ready}},
		"preempted":                    {shown(terminated(143, "Error"), disrupted("PreemptionByScheduler")), want{sandbox.PhaseEnded, sandbox.ReasonEvicted, 143, "PreemptionByScheduler", sandbox.Ready}},
		"node gone":                    {shown(failed("", ""), disrupted("DeletionByPodGC"), deleted(0)), want{sandbox.PhaseEnded, sandbox.ReasonNodeLost, -1, "node is gone", sandbox.Ready}},
		"node gone, waiting for it":    {shown(running, disrupted("DeletionByTaintManager"), deleted(30)), want{sandbox.PhaseStopping, sandbox.ReasonNodeLost, -1, "node", sandbox.Ready}},
		"deleted outside":              {shown(terminated(143, "Error"), deleted(0)), want{sandbox.PhaseEnded, sandbox.ReasonDeleted, 143, "deleted", sandbox.Ready}},
		"deleted before a node had it": {shown(deleted(0)), want{sandbox.PhaseEnded, sandbox.ReasonDeleted, -1, "", sandbox.Ready}},
		"deleted by force":             {shown(running, deleted(0)), want{sandbox.PhaseEnded, sandbox.ReasonDeleted, -1, "", sandbox.Ready}},
		"out of memory, then deleted":  {shown(terminated(137, "OOMKilled"), deleted(0)), want{sandbox.PhaseEnded, sandbox.ReasonOOM, 137, "", sandbox.Ready}},
	} {
		t.Run(name, func(t *testing.T) {
			o, ok := paperDriver().observe(c.pod)
			if !ok {
				t.Fatal("it is not taken for the tenant's")
			}
			if o.Phase != c.want.phase || o.Reason != c.want.reason || !strings.Contains(o.Message, c.want.say) {
				t.Errorf("phase %d, reason %q, message %q; want %+v", o.Phase, o.Reason, o.Message, c.want)
			}
			if got := exitCode(o); got != c.want.exit {
				t.Errorf("exit %d, want %d", got, c.want.exit)
			}
			if got := firstFalse(o, c.want.false_); got != c.want.false_ {
				t.Errorf("conditions %+v, want %q to be false", o.Conditions, c.want.false_)
			}
			if o.Phase == sandbox.PhaseEnded && (o.Address != "" || o.Reason == "") {
				t.Errorf("an end with an address, or without a reason: %+v", o)
			}
			if o.UID != "pod-uid" || o.Sandbox != plainTask().Sandbox || o.Nonce != plainTask().Nonce {
				t.Errorf("it is another's: %+v", o)
			}
		})
	}
}

func exitCode(o sandbox.Observation) int {
	if o.Exit == nil {
		return -1
	}
	return *o.Exit
}

// firstFalse returns typ if that condition is false; and the first that is false if none should be.
func firstFalse(o sandbox.Observation, typ string) string {
	for _, c := range o.Conditions {
		if !c.Status && (typ == "" || c.Type == typ) {
			return c.Type
		}
	}
	return ""
}

// TestObserveForeign: what is not the tenant's, or pretends, is not seen.
func TestObserveForeign(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"another tenant's":         func(p *corev1.Pod) { p.Labels[LabelTenant] = "b" },
		"an earlier tenant's":      func(p *corev1.Pod) { p.Labels[LabelTenantUID] = "other" },
		"another platform's":       func(p *corev1.Pod) { p.Labels[LabelInstance] = "other" },
		"without a sandbox":        func(p *corev1.Pod) { delete(p.Labels, LabelSandbox) },
		"without a run":            func(p *corev1.Pod) { delete(p.Labels, LabelRun) },
		"under another name":       func(p *corev1.Pod) { p.Name = "x" },
		"in another namespace":     func(p *corev1.Pod) { p.Namespace = "kube-system" },
		"labelled for another run": func(p *corev1.Pod) { p.Labels[LabelRun] = "other" },
	} {
		if o, ok := paperDriver().observe(shown(running, change)); ok {
			t.Errorf("%s: seen as %+v", name, o)
		}
	}
}

// FuzzObserve: no pod, however odd, breaks the observation, and what ends has a reason.
func FuzzObserve(f *testing.F) {
	for _, p := range []*corev1.Pod{shown(), shown(running), shown(terminated(137, "OOMKilled"), deleted(0))} {
		b, err := p.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p corev1.Pod
		if p.Unmarshal(b) != nil {
			return
		}
		if o := observe(&p); o.Phase == sandbox.PhaseEnded && o.Reason == "" {
			t.Errorf("an end without a reason: %+v", o)
		}
		paperDriver().observe(&p)
	})
}
