package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/polygate/polygate/vgw/sandbox"
)

const (
	pageSize    = 200              // of a list: so many pods are in memory at a time, and no more
	watchFor    = 30 * time.Minute // until the API server ends a watch, which goes on where it was
	watchSilent = 3 * time.Minute  // an API server that sends bookmarks sends one a minute: after so long the connection is given up
)

// Watch implements sandbox.Driver: one list and one watch of the tenant's runs, which is resumed where it was when the API server
// ends it, as it does every half hour. Nothing is asked in between and nothing is kept of what went by, but its UID. A state that
// has expired (410), and a cluster that breaks off, end it.
func (d *driver) Watch(ctx context.Context, seen func(sandbox.Observation), synced func()) error {
	defer d.place.keep(ctx)()
	agents, err := d.agents(ctx)
	if err != nil {
		return err
	}
	d.names.clear()
	if agents != "" {
		return d.watchAgents(ctx, agents, seen, synced)
	}
	return d.followPods(func(p *corev1.Pod, there bool) { d.tell(p, there, seen) }).run(ctx, synced)
}

func (d *driver) followPods(each func(*corev1.Pod, bool)) *follower[*corev1.Pod] {
	return &follower[*corev1.Pod]{
		cluster: d.cluster, what: "watch the tenant's pods",
		options: metav1.ListOptions{LabelSelector: d.selector()},
		list: func(ctx context.Context, o metav1.ListOptions) (metav1.ListInterface, []*corev1.Pod, error) {
			l, err := d.pods().List(ctx, o)
			if err != nil {
				return nil, nil, err
			}
			return l, pointers(l.Items), nil
		},
		watch: d.pods().Watch,
		each:  each,
	}
}

// tell passes on what a pod shows.
func (d *driver) tell(p *corev1.Pod, there bool, seen func(sandbox.Observation)) {
	o, ours := d.observe(p)
	if !ours {
		return
	}
	if !there {
		d.names.drop(p.Name, o.UID)
		o.Phase, o.Address = sandbox.PhaseAbsent, ""
		seen(o)
		return
	}
	d.names.set(p.Name, o.UID)
	seen(o)
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// follower lists objects and then watches them, one call at a time.
type follower[T runtime.Object] struct {
	cluster *cluster
	what    string
	options metav1.ListOptions
	list    func(context.Context, metav1.ListOptions) (metav1.ListInterface, []T, error)
	watch   func(context.Context, metav1.ListOptions) (watch.Interface, error)
	each    func(obj T, there bool)
	silent  time.Duration // 0 = watchSilent
}

// run returns when ctx ends or what it watches breaks.
func (f *follower[T]) run(ctx context.Context, synced func()) error {
	version, err := f.all(ctx)
	if err != nil {
		return err
	}
	synced()
	for {
		began := time.Now()
		if version, err = f.since(ctx, version); err != nil {
			return err
		}
		// A watch that ends at once, again and again, must not become a loop that asks without a pause.
		if err := pause(ctx, time.Second-time.Since(began)); err != nil {
			return err
		}
	}
}

// all lists page by page, and returns the version that the list is of.
func (f *follower[T]) all(ctx context.Context) (version string, err error) {
	o := f.options
	o.Limit = pageSize
	for {
		var page metav1.ListInterface
		var items []T
		err := f.cluster.call(ctx, f.what, func(ctx context.Context) (err error) {
			page, items, err = f.list(ctx, o)
			return err
		})
		if err != nil {
			return "", err
		}
		for _, obj := range items {
			f.each(obj, true)
		}
		if o.Continue = page.GetContinue(); o.Continue == "" {
			return page.GetResourceVersion(), nil
		}
	}
}

// since watches from a version on, and returns the one that it came to when the API server ended the watch in good order.
func (f *follower[T]) since(ctx context.Context, version string) (string, error) {
	stream, answered, cancel := f.cluster.until(ctx)
	defer cancel()
	o := f.options
	o.ResourceVersion, o.AllowWatchBookmarks = version, true
	o.TimeoutSeconds = new(int64(watchFor / time.Second))
	var w watch.Interface
	err := f.cluster.circuit.do(func() (err error) {
		w, err = f.watch(stream, o)
		return causeOf(stream, err)
	})
	answered()
	if err != nil {
		return "", classify(f.what, err)
	}
	defer w.Stop()
	return f.events(ctx, w, version)
}

func (f *follower[T]) events(ctx context.Context, w watch.Interface, version string) (string, error) {
	silence := f.silent
	if silence == 0 {
		silence = watchSilent
	}
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-quiet.C:
			return version, nil // half open, or a server without bookmarks: it goes on with a new connection
		case e, ok := <-w.ResultChan():
			if !ok {
				return version, ctx.Err()
			}
			quiet.Reset(silence)
			next, err := f.event(e)
			if err != nil {
				return "", classify(f.what, err)
			}
			version = next
		}
	}
}

// event handles one event, and returns the version that it is of.
func (f *follower[T]) event(e watch.Event) (string, error) {
	if e.Type == watch.Error {
		return "", apierrors.FromObject(e.Object)
	}
	obj, ok := e.Object.(T)
	m, ok2 := e.Object.(metav1.Object)
	if !ok || !ok2 {
		return "", fmt.Errorf("%w: an event of a %T", errNonsense, e.Object)
	}
	switch e.Type {
	case watch.Added, watch.Modified:
		f.each(obj, true)
	case watch.Deleted:
		f.each(obj, false)
	}
	return m.GetResourceVersion(), nil
}

var errNonsense = errors.New("the cluster answers what was not asked for")

// causeOf returns the cause of a stream's end in the place of the error that it led to.
func causeOf(stream context.Context, err error) error {
	if cause := context.Cause(stream); err != nil && errors.Is(cause, errSlow) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
