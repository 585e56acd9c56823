package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// words is a command of the test program.
func (b *bench) words(command ...string) []string { return slices.Concat(b.caps.Tool, command) }

// log reads a log to its end.
func (b *bench) log(t sandbox.Task, q sandbox.LogQuery) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, b.caps.Within)
	defer cancel()
	r, err := b.d.Logs(ctx, t, q)
	if err != nil {
		b.t.Fatalf("logs %+v: %v", q, err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		b.t.Errorf("read logs %+v: %v", q, err)
	}
	if err := r.Close(); err != nil {
		b.t.Errorf("close logs: %v", err)
	}
	return string(text)
}

func execs(b *bench) {
	t := b.run("sleep")
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	for _, c := range []struct {
		name        string
		x           sandbox.Exec
		exit        int
		out, stderr string
	}{
		{"output", sandbox.Exec{Command: b.words("echo", "a  b", "c")}, 0, "a  b c\n", ""},
		{"error output", sandbox.Exec{Command: b.words("stderr", "oh")}, 0, "", "oh\n"},
		{"exit code", sandbox.Exec{Command: b.words("exit", "42")}, 42, "", ""},
		{"input", sandbox.Exec{Command: b.words("cat"), Stdin: strings.NewReader("hello")}, 0, "hello", ""},
		{"much input", sandbox.Exec{Command: b.words("cat"), Stdin: strings.NewReader(big)}, 0, big, ""},
		{"no input", sandbox.Exec{Command: b.words("cat")}, 0, "", ""},
		{"much output", sandbox.Exec{Command: b.words("lines", "20000")}, 0, manyLines(20000), ""},
	} {
		var out, stderr bytes.Buffer
		c.x.Stdout, c.x.Stderr = &out, &stderr
		exit, err := b.d.Exec(b.ctx, t, c.x)
		if err != nil || exit.Code != c.exit || out.String() != c.out || stderr.String() != c.stderr {
			b.t.Errorf("%s: exit %+v, %v; %d bytes %.80q and %.80q; want %d, %d bytes %.80q and %q",
				c.name, exit, err, out.Len(), out.String(), stderr.String(), c.exit, len(c.out), c.out, c.stderr)
		}
	}
	var wg sync.WaitGroup
	for range 4 { // at once
		wg.Go(func() {
			if exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: b.words("exit", "5")}); err != nil || exit.Code != 5 {
				b.t.Errorf("one of several: %+v, %v", exit, err)
			}
		})
	}
	wg.Wait()
}

func manyLines(n int) string {
	var s strings.Builder
	for i := range n {
		s.WriteString("line ")
		s.WriteString(strconv.Itoa(i + 1))
		s.WriteByte('\n')
	}
	return s.String()
}

func execBounds(b *bench) {
	t := b.run("sleep")
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	begun := time.Now()
	if _, err := b.d.Exec(ctx, t, sandbox.Exec{Command: b.words("sleep"), Stdout: io.Discard}); err == nil || time.Since(begun) > b.caps.Within {
		b.t.Errorf("a command that never ends: %v after %v", err, time.Since(begun))
	}
	over, _ := b.ended("exit", "0")
	if _, err := b.d.Exec(b.ctx, over, sandbox.Exec{Command: b.words("echo")}); !errors.Is(err, sandbox.ErrNotRunning) && !errors.Is(err, sandbox.ErrGone) {
		b.t.Errorf("exec in what has ended: %v", err)
	}
	exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: []string{"/no/such/program"}})
	if err == nil && exit.Code == 0 {
		b.t.Error("a program that is not there ended well")
	}
}

func execTTY(b *bench) {
	t := b.run("sleep")
	in, typed := io.Pipe()
	resize := make(chan sandbox.Size, 2)
	resize <- sandbox.Size{Columns: 100, Rows: 30}
	out := newScreen()
	var wg sync.WaitGroup
	wg.Go(func() {
		exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: b.words("tty"), TTY: true, Stdin: in, Stdout: out, Resize: resize})
		if err != nil {
			b.t.Errorf("exec: %+v, %v", exit, err)
		}
	})
	defer wg.Wait()
	defer typed.Close() //nolint:errcheck // of a pipe
	if !out.until("100", b.caps.Within) {
		b.t.Errorf("the first size did not arrive: %q", out.text())
	}
	resize <- sandbox.Size{Columns: 81, Rows: 25}
	if !out.until("81", b.caps.Within) {
		b.t.Errorf("another size did not arrive: %q", out.text())
	}
	if _, err := typed.Write([]byte{4}); err != nil { // end of input, as it is typed
		b.t.Errorf("type: %v", err)
	}
}

func execSignals(b *bench) {
	t := b.run("sleep")
	for _, name := range []string{"TERM", "KILL"} {
		signals := make(chan string, 1)
		out := newScreen()
		var wg sync.WaitGroup
		wg.Go(func() {
			begun := time.Now()
			exit, err := b.d.Exec(b.ctx, t, sandbox.Exec{Command: b.words("loop", "50ms"), Stdout: out, Signals: signals})
			if err != nil || name == "KILL" && exit.Code != 137 || time.Since(begun) > b.caps.Within {
				b.t.Errorf("SIG%s: %+v, %v", name, exit, err)
			}
		})
		out.until("line 2", b.caps.Within)
		signals <- name
		wg.Wait()
	}
}

func logs(b *bench) {
	t, _ := b.ended("lines", "100")
	all := manyLines(100)
	if got := b.log(t, sandbox.LogQuery{Tail: -1}); got != all {
		b.t.Errorf("all: %d bytes %.60q, want %d", len(got), got, len(all))
	}
	if got, want := b.log(t, sandbox.LogQuery{Tail: 2}), "line 99\nline 100\n"; got != want {
		b.t.Errorf("tail: %q, want %q", got, want)
	}
	if got := b.log(t, sandbox.LogQuery{Tail: 0}); got != "" {
		b.t.Errorf("tail of nothing: %q", got)
	}
	if got := b.log(t, sandbox.LogQuery{Tail: -1, Limit: 10}); len(got) > 10 || !strings.HasPrefix(all, got) || got == "" {
		b.t.Errorf("limit: %q", got)
	}
	if got := b.log(t, sandbox.LogQuery{Tail: -1, Follow: true}); got != all {
		b.t.Errorf("followed to its end: %d bytes, want %d", len(got), len(all))
	}
	e, _ := b.ended("stderr", "oh")
	if got := b.log(e, sandbox.LogQuery{Tail: -1}); got != "oh\n" {
		b.t.Errorf("standard error: %q", got)
	}
}

func follows(b *bench) {
	t := b.run("loop", "50ms")
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	r, err := b.d.Logs(ctx, t, sandbox.LogQuery{Tail: -1, Follow: true})
	if err != nil {
		b.t.Fatalf("follow: %v", err)
	}
	screen := newScreen()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(screen, r)
		done <- err
	}()
	if !screen.until("line 5\n", b.caps.Within) {
		b.t.Errorf("what is written does not arrive: %q", screen.text())
	}
	if err := b.d.Remove(b.ctx, t, time.Second); err != nil {
		b.t.Fatalf("remove: %v", err)
	}
	select {
	case <-done: // an error is right as well: what was followed is gone
	case <-time.After(b.caps.Within):
		b.t.Error("a followed log does not end with its run")
		cancel()
		<-done
	}
	if err := r.Close(); err != nil {
		b.t.Errorf("close: %v", err)
	}
}

func logsSince(b *bench) {
	t, o := b.ended("lines", "3")
	for line := range strings.Lines(b.log(t, sandbox.LogQuery{Tail: -1, Timestamps: true})) {
		stamp, text, ok := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if !ok || err != nil || !strings.HasPrefix(text, "line ") || at.Sub(o.Ended).Abs() > time.Hour {
			b.t.Errorf("line %q: %v", line, err)
		}
	}
	if got := b.log(t, sandbox.LogQuery{Tail: -1, Since: time.Now().Add(-time.Hour)}); got != manyLines(3) {
		b.t.Errorf("since an hour ago: %q", got)
	}
	if got := b.log(t, sandbox.LogQuery{Tail: -1, Since: time.Now().Add(time.Hour)}); got != "" {
		b.t.Errorf("since the future: %q", got)
	}
}

// screen is what was written so far.
type screen struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{}
}

func newScreen() *screen { return &screen{news: make(chan struct{})} }

// Write implements io.Writer.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.news)
	s.news = make(chan struct{})
	return s.buf.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) until(part string, within time.Duration) bool {
	late := time.After(within)
	for {
		s.mu.Lock()
		text, news := s.buf.String(), s.news
		s.mu.Unlock()
		if strings.Contains(text, part) {
			return true
		}
		select {
		case <-late:
			return false
		case <-news:
		}
	}
}
