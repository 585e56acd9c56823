package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// words returns the command of a process without the path of the test program.
func words(command []string) []string {
	if len(command) > 0 && strings.Contains(command[0], "/") {
		return command[1:]
	}
	return command
}

// play has the process of a run do what the test program would: some of its subcommands. The caller holds mu.
func (s *Staged) play(r *run) {
	w := words(slices.Concat(r.task.Spec.Command, r.task.Spec.Args))
	arg := strings.Join(w[min(1, len(w)):], " ")
	if len(w) == 0 {
		return // it sleeps
	}
	switch w[0] {
	case "echo", "stderr":
		fmt.Fprintln(&r.log, arg)
		s.end(r, new(0), sandbox.ReasonCompleted)
	case "lines":
		n, _ := strconv.Atoi(arg)
		for i := range n {
			fmt.Fprintln(&r.log, "line", i+1)
		}
		s.end(r, new(0), sandbox.ReasonCompleted)
	case "env":
		for _, v := range r.task.Spec.Env {
			fmt.Fprintf(&r.log, "%s=%s\n", v.Name, v.Value)
		}
		s.end(r, new(0), sandbox.ReasonCompleted)
	case "exit":
		n, _ := strconv.Atoi(arg)
		reason := sandbox.ReasonError
		if n == 0 {
			reason = sandbox.ReasonCompleted
		}
		s.end(r, &n, reason)
	case "oom":
		s.end(r, new(137), sandbox.ReasonOOM)
	case "loop":
		s.loop(r, 1)
	}
}

// loop writes a line every 10 ms.
func (s *Staged) loop(r *run, n int) {
	if r.o.Phase == sandbox.PhaseEnded {
		return
	}
	fmt.Fprintln(&r.log, "line", n)
	time.AfterFunc(10*time.Millisecond, func() { s.locked(func() { s.loop(r, n+1) }) })
}

// Exec implements sandbox.Driver.
func (s *Staged) Exec(ctx context.Context, t sandbox.Task, x sandbox.Exec) (sandbox.Exit, error) {
	var r *run
	err := s.act(ctx, "exec", t, func() error {
		switch r = s.runs[key(t)]; {
		case r == nil || t.UID != "" && t.UID != r.o.UID:
			return sandbox.ErrGone
		case r.o.Phase != sandbox.PhaseRunning:
			return sandbox.ErrNotRunning
		}
		return nil
	})
	if err != nil {
		return sandbox.Exit{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return r.exec(ctx, x)
}

func (r *run) exec(ctx context.Context, x sandbox.Exec) (sandbox.Exit, error) {
	w := words(x.Command)
	if len(w) == 0 {
		return sandbox.Exit{}, errors.New("no command")
	}
	out, stderr := x.Stdout, x.Stderr
	if out == nil {
		out = io.Discard
	}
	if stderr == nil || x.TTY {
		stderr = out
	}
	arg := strings.Join(w[1:], " ")
	switch w[0] {
	case "echo":
		fmt.Fprintln(out, arg)
	case "stderr":
		fmt.Fprintln(stderr, arg)
	case "env":
		for _, v := range slices.Concat(r.task.Spec.Env, x.Env) {
			fmt.Fprintf(out, "%s=%s\n", v.Name, v.Value)
		}
	case "lines":
		n, _ := strconv.Atoi(arg)
		for i := range n {
			fmt.Fprintln(out, "line", i+1)
		}
	case "exit":
		n, _ := strconv.Atoi(arg)
		return sandbox.Exit{Code: n}, nil
	case "cat":
		if x.Stdin != nil {
			if _, err := io.Copy(out, x.Stdin); err != nil {
				return sandbox.Exit{}, err
			}
		}
	case "sleep":
		return r.sleep(ctx, x)
	default:
		fmt.Fprintln(stderr, "tools: no such command")
		return sandbox.Exit{Code: 1}, nil
	}
	return sandbox.Exit{}, nil
}

func (r *run) sleep(ctx context.Context, x sandbox.Exec) (sandbox.Exit, error) {
	select {
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	case <-r.over:
		return sandbox.Exit{Code: 137, Signal: "KILL"}, nil
	case name := <-x.Signals:
		if name == "KILL" {
			return sandbox.Exit{Code: 137, Signal: "KILL"}, nil
		}
		return sandbox.Exit{}, nil // the test program ends with 0 when it is told to
	}
}

// logReader reads what a run wrote, and goes on as it writes.
type logReader struct {
	ctx  context.Context
	s    *Staged
	r    *run
	q    sandbox.LogQuery
	at   int
	cut  bool // Tail is done
	sent int64
}

// Read implements io.Reader.
func (l *logReader) Read(p []byte) (int, error) {
	for {
		l.s.mu.Lock()
		text, ended := l.r.log.String(), l.r.o.Phase == sandbox.PhaseEnded
		l.s.mu.Unlock()
		if !l.cut {
			l.at, l.cut = len(text)-len(tail(text, l.q.Tail)), true
		}
		if l.q.Limit > 0 {
			p = p[:min(int64(len(p)), l.q.Limit-l.sent)]
			if len(p) == 0 {
				return 0, io.EOF
			}
		}
		if n := copy(p, text[l.at:]); n > 0 {
			l.at += n
			l.sent += int64(n)
			return n, nil
		}
		if ended || !l.q.Follow {
			return 0, io.EOF
		}
		select {
		case <-l.ctx.Done():
			return 0, l.ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Close implements io.Closer.
func (l *logReader) Close() error { return nil }

// tail returns the last n lines; all of them if n is negative.
func tail(text string, n int64) string {
	if n < 0 {
		return text
	}
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines[max(0, len(lines)-int(n)):], "")
}
