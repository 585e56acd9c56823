package gateway

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testChild(t *testing.T, script string) *child {
	t.Helper()
	c := &child{what: "it", log: filepath.Join(t.TempDir(), "log"), args: []string{"/bin/sh", "-c", script}}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

func TestChildEnds(t *testing.T) {
	c := testChild(t, "exec sleep 600")
	if c.pid() == 0 {
		t.Fatal("it does not run")
	}
	if err := c.end(t.Context()); err != nil || c.pid() != 0 {
		t.Errorf("end = %v, pid %d", err, c.pid())
	}
	if err := c.start(); err != nil || c.pid() == 0 {
		t.Errorf("started again: %v, pid %d", err, c.pid())
	}
}

// TestChildThatDoesNotListen is killed when patience ends.
func TestChildThatDoesNotListen(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	c := testChild(t, "trap '' TERM; touch "+ready+"; while :; do sleep 0.1; done")
	if err := c.awaitUp(t.Context(), func(context.Context) error { _, err := os.Stat(ready); return err }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.end(ctx); err == nil || !strings.Contains(err.Error(), "killed") || c.pid() != 0 {
		t.Errorf("end = %v, pid %d; want that it was killed", err, c.pid())
	}
}

// TestChildThatFails is told with the end of its log, at once.
func TestChildThatFails(t *testing.T) {
	c := testChild(t, "echo no such thing >&2; exit 1")
	err := c.awaitUp(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "no such thing") || !strings.Contains(err.Error(), c.log) {
		t.Errorf("error = %v, want what it said and where", err)
	}
}

func TestAwait(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errors.New("too long"))
	defer cancel()
	if err := await(ctx, func() error { return why }); !errors.Is(err, why) || !strings.Contains(err.Error(), "too long") {
		t.Errorf("error = %v, want the limit and the last reason", err)
	}
}
