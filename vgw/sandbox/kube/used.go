package kube

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// unmeteredFor is how long it is not asked again after the cluster had nobody who measures.
const unmeteredFor = 10 * time.Minute

// maxMetrics bounds the answer of one tenant's metrics.
const maxMetrics = 16 << 20

// podMetrics is the part of a metrics.k8s.io/v1beta1 PodMetricsList that is used.
type podMetrics struct {
	Items []struct {
		Metadata struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Containers []struct {
			Usage map[string]resource.Quantity `json:"usage"`
		} `json:"containers"`
	} `json:"items"`
}

// Used implements sandbox.Driver by metrics.k8s.io, where the cluster serves it. It tells of the runs that Watch has told of.
func (d *driver) Used(ctx context.Context) (map[string]sandbox.Used, error) {
	if d.cluster.unmetered.now(d.config.Now()) {
		return nil, sandbox.ErrUnmetered
	}
	var body []byte
	err := d.cluster.call(ctx, "read what sandboxes use", func(ctx context.Context) (err error) {
		body, err = d.cluster.core.RESTClient().Get().
			AbsPath("/apis/metrics.k8s.io/v1beta1/namespaces", d.namespace, "pods").
			Param("labelSelector", d.selector()).SetHeader("Accept", "application/json").
			Do(ctx).Raw()
		if noMetrics(err) {
			body, err = nil, nil
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case body == nil:
		d.cluster.unmetered.set(d.config.Now().Add(unmeteredFor))
		return nil, sandbox.ErrUnmetered
	case len(body) > maxMetrics:
		return nil, fault.New(fault.Unavailable, "the cluster's metrics of the tenant are larger than %d bytes", maxMetrics)
	}
	return d.parseUsed(body)
}

// noMetrics says whether an error is that nobody measures: the API is not there (404), its server is not there (503, which says nothing
// of the cluster itself), or the gateway may not ask.
func noMetrics(err error) bool {
	var s apierrors.APIStatus
	if !errors.As(err, &s) {
		return false
	}
	switch s.Status().Code {
	case 403, 404, 503:
		return true
	}
	return false
}

func (d *driver) parseUsed(body []byte) (map[string]sandbox.Used, error) {
	var list podMetrics
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "the cluster's metrics cannot be read")
	}
	out := make(map[string]sandbox.Used, len(list.Items))
	for _, p := range list.Items {
		uid, known := d.names.get(p.Metadata.Name)
		if !known {
			continue
		}
		var u sandbox.Used
		for _, c := range p.Containers {
			cpu, memory := c.Usage["cpu"], c.Usage["memory"]
			u.CPU += cpu.AsApproximateFloat64()
			u.Memory += memory.Value()
		}
		out[uid] = u
	}
	return out, nil
}

// until is a time before which something is not asked again.
type until struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (u *until) set(t time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.t = t
}

func (u *until) now(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.t)
}
