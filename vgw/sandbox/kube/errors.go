package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// maxMessage bounds what of the cluster's words is passed on to people.
const maxMessage = 600

// classify gives an error of the cluster its kind, its sentinel and words that say what to do. what completes "cannot …".
func classify(what string, err error) error {
	var f *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return err
	case errors.Is(err, errOpen):
		return unreachable(what, err).After(circuitPause)
	case errors.Is(err, errSlow):
		return unreachable(what, err)
	case errors.Is(err, context.Canceled):
		return fault.Wrap(fault.Canceled, err, "cannot %s: the request ended", what)
	case errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(fault.Unavailable, err, "cannot %s in the time that was left: try again", what)
	case strings.Contains(err.Error(), "client rate limiter"):
		return fault.Wrap(fault.Unavailable, err, "cannot %s: more calls of the cluster wait than sandboxes.kube.qps allows: try again", what)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return classifyStatus(what, err, status.Status())
	}
	return unreachable(what, err)
}

func unreachable(what string, err error) *fault.Error {
	return fault.Wrap(fault.Unavailable, errors.Join(sandbox.ErrUnreachable, err), "cannot %s: the cluster cannot be reached%s; try again later", what, hint(err))
}

// hint names what people can see of a failure without telling addresses of the platform.
func hint(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, errSlow):
		return " (no answer in time)"
	case errors.As(err, &dns):
		return " (its name is not found)"
	}
	return ""
}

// classifyStatus goes by what the API server answered.
func classifyStatus(what string, err error, s metav1.Status) error {
	say := clip(s.Message)
	switch {
	case terminating(err):
		return fault.Wrap(fault.Unavailable, errors.Join(sandbox.ErrTerminating, err),
			"cannot %s: the tenant's namespace is being deleted; it is made again once it is gone", what)
	case s.Code == 403 && overQuota(s.Message):
		return fault.Wrap(fault.Conflict, errors.Join(sandbox.ErrQuota, err),
			"cannot %s: the namespace's quota does not allow it: %s. Stop or delete a sandbox, ask for less, or have the operator raise the quota", what, say)
	case s.Code == 403 && ofRights(s.Message):
		return fault.Wrap(fault.Unavailable, err,
			"cannot %s: the gateway has no right to do so in the tenant's namespace; the operator has to apply deploy/kubernetes, or a role binding is on its way", what)
	case s.Code == 404:
		return fault.Wrap(fault.NotFound, errors.Join(sandbox.ErrGone, err), "cannot %s: it is gone", what)
	case s.Code == 409:
		return fault.Wrap(fault.Conflict, err, "cannot %s: it was changed at the same time", what)
	case s.Code == 410:
		return fault.Wrap(fault.Unavailable, errors.Join(errExpired, err), "cannot %s: the cluster no longer keeps what came since; it is read anew", what)
	case s.Code == 400, s.Code == 403, s.Code == 405, s.Code == 413, s.Code == 415, s.Code == 422:
		return fault.Wrap(fault.Invalid, errors.Join(sandbox.ErrRefused, err), "cannot %s: the cluster refuses it: %s", what, say)
	case s.Code == 401:
		return fault.Wrap(fault.Unavailable, errors.Join(sandbox.ErrUnreachable, err),
			"cannot %s: the cluster does not accept the gateway's credential; the operator has to renew it", what)
	case s.Code == 500 && strings.Contains(s.Message, "webhook"):
		return fault.Wrap(fault.Unavailable, err, "cannot %s: an admission webhook of the cluster fails: %s", what, say)
	}
	f := unreachable(what, err)
	if d := s.Details; d != nil && d.RetryAfterSeconds > 0 {
		return f.After(time.Duration(d.RetryAfterSeconds) * time.Second)
	}
	return f
}

// errExpired says that a watch or a list has to begin anew.
var errExpired = errors.New("too old a state was asked for")

func terminating(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) ||
		apierrors.IsForbidden(err) && strings.Contains(err.Error(), "because it is being terminated")
}

// overQuota says whether a refusal is a ResourceQuota's or a LimitRange's: these admission plugins have no other mark than their words.
func overQuota(message string) bool {
	for _, words := range []string{
		"exceeded quota", "failed quota", "insufficient quota", "status unknown for quota", // ResourceQuota
		"usage per Container", "usage per Pod", "usage per PersistentVolumeClaim", "limit to request ratio", // LimitRange
	} {
		if strings.Contains(message, words) {
			return true
		}
	}
	return false
}

// ofRights says whether a refusal is the authorizer's: User "…" cannot create resource "pods" in API group "" …
func ofRights(message string) bool {
	return strings.Contains(message, " cannot ") && strings.Contains(message, " resource ") && strings.Contains(message, "User ")
}

// notOurs says that a name is taken by what the gateway did not make for this run.
func notOurs(what, kind, name string) error {
	return fault.Wrap(fault.Conflict, fmt.Errorf("%w: %s %s", sandbox.ErrNotOurs, kind, name),
		"cannot %s: the namespace has a %s of its name that the gateway did not make; its admin has to remove it", what, kind)
}

// gone says that a run is not there, or is another one than the UID says.
func gone(what string) error {
	return fault.Wrap(fault.NotFound, sandbox.ErrGone, "cannot %s: the run is gone", what)
}

// clip makes the cluster's words fit for people: one line, bounded.
func clip(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)), " ")
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + "…"
}
