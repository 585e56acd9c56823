package load_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/bench/load"
)

func TestRequestEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline := time.Now().Add(time.Second)
		r := load.NewRequest(t.Context(), deadline)
		defer r.End()
		if d, ok := r.Deadline(); d != deadline || !ok || r.Err() != nil {
			t.Errorf("got %v, %v, %v", d, ok, r.Err())
		}
		<-r.Done()
		if time.Now() != deadline || !errors.Is(r.Err(), context.DeadlineExceeded) {
			t.Errorf("it ended at %v by %v, want %v", time.Now(), r.Err(), deadline)
		}
	})
}

// TestRequestNeedsNoTimer: who asks for no channel sees the deadline pass nevertheless.
func TestRequestNeedsNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := load.NewRequest(t.Context(), time.Now().Add(time.Second))
		defer r.End()
		time.Sleep(time.Second) // of the test's clock
		if !errors.Is(r.Err(), context.DeadlineExceeded) {
			t.Errorf("got %v", r.Err())
		}
	})
}

// TestRequestEndsWithThePhase: what is made of a request's context is canceled by the phase, and by the end of the call; nothing is left
// behind (the package's tests look for goroutines).
func TestRequestEndsWithThePhase(t *testing.T) {
	type key struct{}
	for name, end := range map[string]func(r interface{ End() }, phase context.CancelFunc){
		"the phase ends": func(_ interface{ End() }, phase context.CancelFunc) { phase() },
		"the call ends":  func(r interface{ End() }, _ context.CancelFunc) { r.End() },
	} {
		phase, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, 7))
		r := load.NewRequest(phase, time.Now().Add(time.Hour))
		if r.Value(key{}) != 7 {
			t.Errorf("%s: the phase's value is lost", name)
		}
		child, cancelChild := context.WithTimeout(r, 2*time.Hour)
		end(r, cancel)
		<-child.Done()
		if !errors.Is(child.Err(), context.Canceled) || !errors.Is(r.Err(), context.Canceled) || r.Value(key{}) != 7 {
			t.Errorf("%s: got %v, %v", name, child.Err(), r.Err())
		}
		cancelChild()
		r.End()
		cancel()
	}
}

func TestRequestAfterItsEnd(t *testing.T) {
	r := load.NewRequest(t.Context(), time.Now().Add(time.Hour))
	r.End()
	<-r.Done() // who kept it is not left waiting
}
