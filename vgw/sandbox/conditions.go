package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// maxMessage bounds what is stored of a cluster's words.
const maxMessage = 1024

func find(list []Condition, kind string) *Condition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

// Condition returns the condition of a type; nil = nothing is known of it.
func (s *Sandbox) Condition(kind string) *Condition { return find(s.Conditions, kind) }

func without(list []Condition, kind string) []Condition {
	return slices.DeleteFunc(slices.Clone(list), func(c Condition) bool { return c.Type == kind })
}

// set puts a condition. Another message alone changes it, but is no reason to store anything: a scheduler's words differ each minute.
func (t *turn) set(kind string, status bool, reason, message string) {
	c := Condition{Type: kind, Status: status, Reason: reason, Message: sentence(message), Since: t.now}
	old := find(t.s.Conditions, kind)
	if old != nil {
		if *old == (Condition{c.Type, c.Status, c.Reason, c.Message, old.Since}) {
			return
		}
		if old.Status == c.Status {
			c.Since = old.Since
		}
	}
	if old == nil || old.Status != status || old.Reason != reason {
		t.changed = true
	}
	t.s.Conditions = append(without(t.s.Conditions, kind), c)
	slices.SortFunc(t.s.Conditions, func(a, b Condition) int { return cmp.Compare(a.Type, b.Type) })
}

// sentence bounds a message and takes out what would break a line or a terminal.
func sentence(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// reached stores that the cluster answers, if it was said to be away.
func (t *turn) reached() {
	if c := find(t.s.Conditions, ClusterReached); c != nil && !c.Status {
		t.set(ClusterReached, true, "Reached", "the cluster answers again")
	}
}

// Reached is s after the cluster was heard of. What is at rest is told so too: a release may have failed.
func Reached(s *Sandbox, now time.Time) *Sandbox {
	n := *s
	t := &turn{s: &n, now: now}
	if t.reached(); t.changed {
		return &n
	}
	return s
}

// Away is s after the cluster was not to be reached for a while.
func Away(s *Sandbox, now time.Time) *Sandbox {
	n := *s
	if t := (&turn{s: &n, now: now}); !s.AtRest() {
		if t.away(); t.changed {
			return &n
		}
	}
	return s
}

func (t *turn) away() {
	t.set(ClusterReached, false, ReasonUnreachable, "the cluster does not answer: what runs goes on, and the gateway tries again by itself")
}

// Failure is s after an act of the driver's failed. An act that may succeed later is asked for again; one that the cluster refused for good
// ends the run, by way of Stopping: an earlier attempt of unknown outcome may have made it.
func Failure(s *Sandbox, act ActKind, err error, now time.Time) *Sandbox {
	n := *s
	t := &turn{s: &n, now: now}
	switch message := explain(err); {
	case errors.Is(err, ErrUnreachable):
		t.away()
	case errors.Is(err, ErrTerminating):
		t.reached()
		t.set(PlaceReady, false, ReasonTerminating, message)
	case errors.Is(err, errPlace):
		t.reached()
		t.set(PlaceReady, false, ReasonRefused, message)
	case errors.Is(err, ErrQuota):
		t.reached()
		t.set(Scheduled, false, ReasonQuota, message)
	case act == ActCreate && (errors.Is(err, ErrRefused) || errors.Is(err, ErrNotOurs) || fault.Is(err, fault.Invalid)):
		t.reached()
		if s.Run.Live() && !t.leaving() {
			t.leave(ReasonRefused, message)
		}
	case act == ActCreate && !passing(err): // bounded by the start timeout, as a cluster that is away is not
		t.reached()
		t.set(Scheduled, false, ReasonRefused, message)
	default:
		t.away()
	}
	if !t.changed {
		return s
	}
	return &n
}

// passing says whether an error tells of a cluster that may answer otherwise soon.
func passing(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	switch fault.KindOf(err) {
	case fault.Unavailable, fault.UpstreamTimeout, fault.BadUpstream, fault.RateLimited:
		return true
	}
	return false
}

// errPlace marks errors of Prepare.
var errPlace = errors.New("the tenant's place is not ready")

// explain returns what an error says to the tenant: the detail of a classified one. What is not classified may hold names of the platform's
// insides, and is for the log.
func explain(err error) string {
	var e *fault.Error
	if errors.As(err, &e) && e.Kind != fault.Internal && e.Detail != "" {
		return e.Detail
	}
	for _, known := range []error{ErrUnreachable, ErrQuota, ErrRefused, ErrTerminating, ErrNotOurs, ErrGone, ErrNotRunning, errPlace} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "the cluster's answer could not be understood: ask a platform operator to look at the gateway's log"
}

// waitingFor says what a run that does not run waits for.
func (t *turn) waitingFor() (reason, message string) {
	for _, kind := range []string{PlaceReady, Scheduled, ImageAvailable} {
		if c := find(t.s.Conditions, kind); c != nil && !c.Status {
			return c.Reason, c.Message
		}
	}
	if t.o != nil && t.o.Reason != "" {
		return t.o.Reason, t.o.Message
	}
	return ReasonWaiting, "it waits to run"
}

// farewell says for people how a run ended.
func (t *turn) farewell() string {
	r := &t.s.Run
	if t.o != nil && t.o.Message != "" && t.o.Reason == r.Reason {
		return t.o.Message
	}
	if c := find(t.s.Conditions, Ready); c != nil && c.Reason == r.Reason && !c.Status && c.Message != "" {
		return c.Message
	}
	switch r.Reason {
	case ReasonCompleted:
		return "its process ended with 0"
	case ReasonError:
		if r.Exit != nil {
			return fmt.Sprintf("its process ended with %d: see its logs", *r.Exit)
		}
		return "its process ended, and nobody knows how"
	case ReasonOOM:
		return "it used more memory than " + FormatBytes(t.s.Spec.Resources.Memory) + ": make it with more"
	case ReasonEvicted:
		return "its node took it away: it wrote more than " + FormatBytes(t.s.Spec.Resources.Storage) + ", or the node ran out"
	case ReasonNodeLost:
		return "the node that it ran on is gone: start it again"
	case ReasonDeleted:
		return "somebody deleted it in the cluster: start it again"
	case ReasonReplica:
		return "the machine or the gateway that ran it is gone: start it again"
	case ReasonLifetime:
		return "its lifetime of " + t.s.Spec.Lifetime.String() + " is over"
	case ReasonStopped:
		return "it was told to stop"
	}
	return "it ended: " + r.Reason
}
