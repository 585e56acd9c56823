package kube

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// Logs implements sandbox.Driver. Since is exact to the second.
func (d *driver) Logs(ctx context.Context, t sandbox.Task, q sandbox.LogQuery) (io.ReadCloser, error) {
	const what = "read the log"
	p, err := d.find(ctx, what, t)
	if err != nil {
		return nil, err
	}
	if c := containerStatus(p); c == nil || c.State.Running == nil && c.State.Terminated == nil {
		return nil, notRunning(what, p)
	}
	stream, answered, cancel := d.cluster.until(ctx)
	var body io.ReadCloser
	err = d.cluster.circuit.do(func() (err error) {
		body, err = d.pods().GetLogs(p.Name, logOptions(q)).Stream(stream)
		return causeOf(stream, err)
	})
	answered()
	if err != nil {
		cancel()
		return nil, classify(what, err)
	}
	return &logStream{ReadCloser: body, end: cancel}, nil
}

func logOptions(q sandbox.LogQuery) *corev1.PodLogOptions {
	o := &corev1.PodLogOptions{Container: containerName, Follow: q.Follow, Timestamps: q.Timestamps}
	if !q.Since.IsZero() {
		o.SinceTime = &metav1.Time{Time: q.Since}
	}
	if q.Tail >= 0 {
		o.TailLines = new(q.Tail)
	}
	if q.Limit > 0 {
		o.LimitBytes = new(q.Limit)
	}
	return o
}

// logStream ends what carries it when it is closed.
type logStream struct {
	io.ReadCloser
	end context.CancelFunc
}

// Close ends the stream.
func (s *logStream) Close() error {
	s.end()
	return s.ReadCloser.Close()
}

// notRunning says what a run that does not run waits for.
func notRunning(what string, p *corev1.Pod) error {
	o := observe(p)
	return fault.Wrap(fault.Conflict, sandbox.ErrNotRunning, "cannot %s: the sandbox does not run: %s", what, o.Message)
}

// maxEvents bounds what is told of one run.
const maxEvents = 200

// Events implements sandbox.Driver. The cluster keeps them for about an hour.
func (d *driver) Events(ctx context.Context, t sandbox.Task) ([]sandbox.Event, error) {
	const what = "read the sandbox's events"
	if err := checkTask(t); err != nil {
		return nil, err
	}
	by := fields.Set{"involvedObject.name": runName(t.Sandbox, t.Nonce)}
	var l *corev1.EventList
	err := d.cluster.call(ctx, what, func(ctx context.Context) (err error) {
		l, err = d.cluster.core.Events(d.namespace).List(ctx, metav1.ListOptions{FieldSelector: by.String(), Limit: maxEvents})
		return err
	})
	if err != nil {
		return nil, err
	}
	return events(l.Items), nil
}

// events puts them in order, oldest first. The name that they were found by is of this run alone, for its nonce.
func events(items []corev1.Event) []sandbox.Event {
	out := make([]sandbox.Event, 0, len(items))
	for i := range items {
		e := &items[i]
		out = append(out, sandbox.Event{At: eventTime(e), Type: e.Type, Reason: clip(e.Reason), Message: clip(e.Message), Count: int(e.Count)})
	}
	slices.SortStableFunc(out, func(a, b sandbox.Event) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return out
}

func eventTime(e *corev1.Event) time.Time {
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.FirstTimestamp.Time} {
		if !t.IsZero() {
			return t.UTC()
		}
	}
	return e.CreationTimestamp.UTC()
}
