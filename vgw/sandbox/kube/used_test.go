package kube

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

func TestUsed(t *testing.T) {
	s := newStage(t)
	d := s.open(t, "a")
	d.names.set("sb-1", "uid-1")
	d.names.set("sb-2", "uid-2")
	s.fail(func(r *http.Request) *reply {
		if r.URL.Path != "/apis/metrics.k8s.io/v1beta1/namespaces/k-a/pods" || !strings.Contains(r.URL.Query().Get("labelSelector"), LabelTenantUID+"=uid-of-a") {
			t.Errorf("asked %s", r.URL)
		}
		return &reply{code: 200, body: `{"items":[
			{"metadata":{"name":"sb-1"},"containers":[{"usage":{"cpu":"1500m","memory":"64Mi"}}]},
			{"metadata":{"name":"sb-2"},"containers":[{"usage":{"cpu":"2500000n","memory":"1048576"}},{"usage":{"cpu":"1m"}}]},
			{"metadata":{"name":"of-others"},"containers":[{"usage":{"cpu":"9"}}]}]}`}
	}, nil)
	got, err := d.Used(t.Context())
	if err != nil || len(got) != 2 || got["uid-1"] != (sandbox.Used{CPU: 1.5, Memory: 64 << 20}) || got["uid-2"] != (sandbox.Used{CPU: 0.0035, Memory: 1 << 20}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestUnmetered: that nobody measures is said, is not asked again and again, and is no failure of the cluster.
func TestUnmetered(t *testing.T) {
	for _, code := range []int{403, 404, 503} {
		s := newStage(t)
		d := s.open(t, "a")
		s.fail(func(*http.Request) *reply { return &reply{code: code, reason: metav1.StatusReasonUnknown} }, nil)
		for range circuitFailures + 2 {
			if got, err := d.Used(t.Context()); !errors.Is(err, sandbox.ErrUnmetered) || got != nil {
				t.Errorf("%d: %v, %v", code, got, err)
			}
		}
		if n := len(s.requests()); n != 1 || d.cluster.circuit.open() {
			t.Errorf("%d: asked %d times, circuit open %v", code, n, d.cluster.circuit.open())
		}
	}
	s := newStage(t)
	d := s.open(t, "a")
	for _, a := range []*reply{{code: 500, reason: metav1.StatusReasonInternalError}, {code: 200, body: "{"}} {
		s.fail(func(*http.Request) *reply { return a }, nil)
		if _, err := d.Used(t.Context()); errors.Is(err, sandbox.ErrUnmetered) || !fault.Is(err, fault.Unavailable) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// TestClusterUnmetered: the cluster of tests measures nothing.
func TestClusterUnmetered(t *testing.T) {
	d := realTenant(t, realDrivers(t))
	if _, err := d.Used(t.Context()); !errors.Is(err, sandbox.ErrUnmetered) {
		t.Errorf("%v", err)
	}
}
