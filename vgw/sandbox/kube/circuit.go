package kube

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	circuitFailures = 8                // in a row, after which nothing is asked for a while
	circuitPause    = 10 * time.Second // the while, after which one call tries
)

// circuit spares a cluster that does not answer, and those who wait for it: after so many failures in a row calls fail at once
// for a while, and then one tries.
type circuit struct {
	breaker *gobreaker.CircuitBreaker[struct{}]
}

// errOpen says that a call was not made since the ones before it failed.
var errOpen = errors.New("the calls before this one were not answered")

func newCircuit(name string, log *slog.Logger) *circuit {
	return &circuit{gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		Timeout:      circuitPause,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= circuitFailures },
		IsSuccessful: func(err error) bool { return !unanswered(err) },
		IsExcluded:   excluded,
		OnStateChange: func(name string, from, to gobreaker.State) {
			log.Warn("circuit of the cluster", "circuit", name, "from", from.String(), "to", to.String())
		},
	})}
}

// do makes a call unless the circuit is open, in which case the error is errOpen.
func (c *circuit) do(f func() error) error {
	_, err := c.breaker.Execute(func() (struct{}, error) { return struct{}{}, f() })
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return errOpen
	}
	return err
}

// open says whether calls are refused now.
func (c *circuit) open() bool { return c.breaker.State() == gobreaker.StateOpen }

// unanswered says whether an error shows that the cluster is away or overwhelmed, and not that it refuses this one call. A webhook that
// fails is its namespace's trouble: it is answered.
func unanswered(err error) bool {
	if err == nil {
		return false
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true // the transport's: refused, reset, no such host, too slow
	}
	switch code := status.Status().Code; {
	case code == 500:
		return !strings.Contains(status.Status().Message, "webhook")
	case code == 429, code >= 502:
		return true
	}
	return false
}

// excluded says whether an error tells nothing about the cluster: the caller went away, or the call was never made.
func excluded(err error) bool {
	if errors.Is(err, errSlow) {
		return false
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || err != nil && strings.Contains(err.Error(), "client rate limiter")
}
