package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

func forbidden(message string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "sb-1", errors.New(message))
}

func terminatingError() error {
	err := forbidden("unable to create new content in namespace k-a because it is being terminated")
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	}
	return err
}

func TestClassify(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
		is   error // nil = none of the sentinels
		say  string
	}{
		"quota":            {forbidden("exceeded quota: polygate, requested: pods=1, used: pods=20, limited: pods=20"), fault.Conflict, sandbox.ErrQuota, "limited: pods=20"},
		"limit range":      {forbidden("maximum memory usage per Container is 1Gi, but limit is 2Gi"), fault.Conflict, sandbox.ErrQuota, "1Gi"},
		"pod security":     {forbidden(`violates PodSecurity "restricted:latest": hostPath`), fault.Invalid, sandbox.ErrRefused, "PodSecurity"},
		"policy":           {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "sb-1", nil), fault.Invalid, sandbox.ErrRefused, "refuses"},
		"rights":           {forbidden(`User "system:serviceaccount:p:gw" cannot create resource "pods" in API group "" in the namespace "k-a"`), fault.Unavailable, nil, "deploy/kubernetes"},
		"terminating":      {terminatingError(), fault.Unavailable, sandbox.ErrTerminating, "being deleted"},
		"gone":             {apierrors.NewNotFound(pods, "sb-1"), fault.NotFound, sandbox.ErrGone, "gone"},
		"another UID":      {apierrors.NewConflict(pods, "sb-1", errors.New("Precondition failed: UID")), fault.Conflict, nil, "same time"},
		"expired":          {apierrors.NewResourceExpired("too old resource version"), fault.Unavailable, errExpired, "anew"},
		"expired, at once": {apierrors.NewResourceExpired("x"), fault.Unavailable, errExpired, "anew"},
		"too many":         {apierrors.NewTooManyRequests("slow down", 3), fault.Unavailable, sandbox.ErrUnreachable, "try again"},
		"credential":       {apierrors.NewUnauthorized("x"), fault.Unavailable, sandbox.ErrUnreachable, "credential"},
		"server error":     {apierrors.NewInternalError(errors.New("etcdserver: no leader")), fault.Unavailable, sandbox.ErrUnreachable, "try again"},
		"webhook":          {apierrors.NewInternalError(errors.New(`failed calling webhook "x"`)), fault.Unavailable, nil, "webhook"},
		"refused":          {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, fault.Unavailable, sandbox.ErrUnreachable, "cannot be reached"},
		"no name":          {&net.DNSError{Err: "no such host"}, fault.Unavailable, sandbox.ErrUnreachable, "name is not found"},
		"slow":             {fmt.Errorf("%w after 10s", errSlow), fault.Unavailable, sandbox.ErrUnreachable, "no answer in time"},
		"circuit":          {errOpen, fault.Unavailable, sandbox.ErrUnreachable, "try again"},
		"canceled":         {context.Canceled, fault.Canceled, nil, "ended"},
		"rate":             {errors.New("client rate limiter Wait returned an error: context deadline exceeded"), fault.Unavailable, nil, "qps"},
	} {
		t.Run(name, func(t *testing.T) {
			err := classify("make the pod", c.err)
			f := fault.From(err)
			if f.Kind != c.kind || !strings.Contains(f.Detail, c.say) || !strings.Contains(f.Detail, "cannot make the pod") {
				t.Errorf("%v, want kind %v and %q", err, c.kind, c.say)
			}
			for _, s := range []error{sandbox.ErrQuota, sandbox.ErrRefused, sandbox.ErrTerminating, sandbox.ErrGone, sandbox.ErrUnreachable, errExpired} {
				if errors.Is(err, s) != (s == c.is) { //nolint:errorlint // the very sentinels
					t.Errorf("is %v: %v", s, errors.Is(err, s))
				}
			}
			if strings.Contains(f.Detail, "connection refused") || strings.Contains(f.Detail, "serviceaccount:p") {
				t.Errorf("it tells callers of the platform: %q", f.Detail)
			}
			if again := classify("x", err); again.Error() != err.Error() {
				t.Errorf("classified twice: %v", again)
			}
		})
	}
	if f := fault.From(classify("x", apierrors.NewTooManyRequests("slow down", 3))); f.RetryAfter != 3*time.Second {
		t.Errorf("retry after %v, want 3s", f.RetryAfter)
	}
	if classify("x", nil) != nil {
		t.Error("no error became one")
	}
}

func TestClip(t *testing.T) {
	if got := clip("a\n\x1b[31mb\x00  c"); got != "a [31mb c" {
		t.Errorf("clip = %q", got)
	}
	if got := clip(strings.Repeat("é", 1000)); len(got) > maxMessage+4 || !strings.HasSuffix(got, "…") {
		t.Errorf("clip is %d bytes: %q", len(got), got[len(got)-8:])
	}
}
