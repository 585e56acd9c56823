package kube

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// screen is a buffer that can be read while it is written to.
type screen struct {
	mu   sync.Mutex
	buf  bytes.Buffer // guarded by mu
	news chan struct{}
}

func newScreen() *screen { return &screen{news: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) wait(t *testing.T, text string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.news:
		case <-limit:
			t.Fatalf("waited in vain for %q in %q", text, s.String())
		}
	}
}

func TestClusterExec(t *testing.T) {
	d := realTenant(t, realDrivers(t))
	w := watchAll(t, d)
	task := start(t, d, w, "sleep")
	run := func(t *testing.T, x sandbox.Exec) (sandbox.Exit, string, string, error) {
		var out, errs screen
		out.news, errs.news = make(chan struct{}, 1), make(chan struct{}, 1)
		x.Stdout, x.Stderr = &out, &errs
		exit, err := d.Exec(t.Context(), task, x)
		return exit, out.String(), errs.String(), err
	}
	t.Run("streams and code", func(t *testing.T) {
		if exit, _, errs, err := run(t, sandbox.Exec{Command: []string{"/tools", "stderr", "oh"}}); err != nil || exit.Code != 0 || errs != "oh\n" {
			t.Errorf("%+v, %v, %q", exit, err, errs)
		}
		if exit, _, _, err := run(t, sandbox.Exec{Command: []string{"/tools", "exit", "42"}}); err != nil || exit.Code != 42 || exit.Signal != "" {
			t.Errorf("%+v, %v", exit, err)
		}
	})
	t.Run("stdin ends", func(t *testing.T) {
		big := strings.Repeat("0123456789abcdef", 64<<10)
		if exit, out, _, err := run(t, sandbox.Exec{Command: []string{"/tools", "cat"}, Stdin: strings.NewReader(big)}); err != nil || exit.Code != 0 || out != big {
			t.Errorf("%+v, %v, %d bytes of %d", exit, err, len(out), len(big))
		}
	})
	t.Run("dollars are dollars", func(t *testing.T) {
		if _, out, _, err := run(t, sandbox.Exec{Command: []string{"/tools", "echo", "$(HOME) $$ $X"}}); err != nil || out != "$(HOME) $$ $X\n" {
			t.Errorf("%v, %q", err, out)
		}
	})
	t.Run("no such command", func(t *testing.T) {
		if exit, _, errs, err := run(t, sandbox.Exec{Command: []string{"/nope"}}); err != nil || exit.Code != 127 || !strings.Contains(errs, "not found") {
			t.Errorf("%+v, %v, %q", exit, err, errs)
		}
	})
	t.Run("terminal", func(t *testing.T) { execTerminal(t, d, task) })
	t.Run("signal without a shell", func(t *testing.T) {
		signals := make(chan string, 1)
		out, errs := newScreen(), newScreen()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := d.Exec(ctx, task, sandbox.Exec{Command: []string{"/tools", "stubborn"}, Stdout: out, Stderr: errs, Signals: signals})
			done <- err
		}()
		out.wait(t, "ready")
		signals <- "TERM"
		errs.wait(t, "TERM was not delivered: it takes a shell")
		signals <- "NONSENSE"
		errs.wait(t, "no such signal")
		cancel()
		if err := <-done; !fault.Is(err, fault.Canceled) {
			t.Errorf("a canceled exec: %v", err)
		}
	})
	t.Run("another UID", func(t *testing.T) {
		other := task
		other.UID = "11111111-2222-4333-8444-555555555555"
		if _, err := d.Exec(t.Context(), other, sandbox.Exec{Command: []string{"/tools", "id"}}); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%v", err)
		}
		if _, err := d.Logs(t.Context(), other, sandbox.LogQuery{Tail: -1}); !errors.Is(err, sandbox.ErrGone) {
			t.Errorf("%v", err)
		}
		if err := d.Remove(t.Context(), other, time.Second); err != nil {
			t.Errorf("%v", err)
		}
		if err := d.verify(t.Context(), "look", task); err != nil {
			t.Errorf("the run was touched: %v", err)
		}
	})
}

func execTerminal(t *testing.T, d *driver, task sandbox.Task) {
	out, size := newScreen(), make(chan sandbox.Size, 1)
	in, keys := io.Pipe()
	defer keys.Close()
	signals := make(chan string, 1)
	done := make(chan error, 1)
	var exit sandbox.Exit
	size <- sandbox.Size{Columns: 80, Rows: 24}
	go func() {
		var err error
		exit, err = d.Exec(t.Context(), task, sandbox.Exec{
			Command: []string{"/tools", "tty"}, Stdin: in, Stdout: out, TTY: true, Resize: size, Signals: signals,
		})
		done <- err
	}()
	out.wait(t, "80x24")
	size <- sandbox.Size{Columns: 132, Rows: 43}
	out.wait(t, "132x43")
	signals <- "INT"
	if err := <-done; err != nil || exit.Code != 2 && exit.Code != 130 {
		t.Errorf("after INT: %+v, %v", exit, err)
	}
}
