package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// everywhere runs a test in all ways that there are, the plain one included.
func everywhere(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("plain", func(t *testing.T) { test(t, newRig(t, func(c *Config) { c.Bwrap = NoBwrap })) })
	t.Run("plain without groups", func(t *testing.T) {
		test(t, newRig(t, func(c *Config) { c.Bwrap, c.Cgroup = NoBwrap, false }))
	})
	t.Run("apart", func(t *testing.T) { apart(t, test) })
}

func TestExecStreams(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		run := r.run(task())
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB, many windows
		var out, stderr bytes.Buffer
		exit, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: []string{"sh", "-c", "cat; echo $A >&2; exit 4"},
			Env: []sandbox.Var{{Name: "A", Value: "b c"}}, Stdin: bytes.NewReader(big), Stdout: &out, Stderr: &stderr})
		if err != nil || exit.Code != 4 || exit.Signal != "" || !bytes.Equal(out.Bytes(), big) || stderr.String() != "b c\n" {
			t.Errorf("%+v, %v; %d bytes, stderr %q", exit, err, out.Len(), stderr.String())
		}
		for _, c := range []struct {
			argv []string
			want sandbox.Exit
		}{
			{[]string{"sh", "-c", "kill -9 $$"}, sandbox.Exit{Code: 137, Signal: "KILL"}},
			{[]string{"no-such-command"}, sandbox.Exit{Code: 127}},
			{[]string{"/etc"}, sandbox.Exit{Code: 126}},
			{[]string{"sh", "-c", "sleep 1000 & exit 5"}, sandbox.Exit{Code: 5}}, // what is left behind keeps nobody waiting
			{[]string{"true"}, sandbox.Exit{}},
		} {
			if exit, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: c.argv}); err != nil || exit != c.want {
				t.Errorf("%q = %+v, %v; want %+v", c.argv, exit, err, c.want)
			}
		}
	})
}

// TestExecSignals sends a signal to a command that does not read its input, which is full.
func TestExecSignals(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		run := r.run(task())
		in, feed := io.Pipe()
		go func() { _, _ = feed.Write(make([]byte, 4<<20)) }()
		defer in.Close()
		signals := make(chan string, 2)
		signals <- "NONSENSE"
		started := make(chan struct{})
		go func() { <-started; signals <- "INT" }()
		exit, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: []string{"sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"},
			Stdin: in, Stdout: &onFirst{do: func() { close(started) }}, Signals: signals})
		if err != nil || exit.Code != 9 {
			t.Errorf("exit = %+v, %v; want 9 from the trap", exit, err)
		}
	})
}

// onFirst does something at the first write.
type onFirst struct {
	bytes.Buffer
	do func()
}

func (o *onFirst) Write(p []byte) (int, error) {
	if o.do != nil {
		o.do()
		o.do = nil
	}
	return o.Buffer.Write(p)
}

func TestExecTerminal(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		run := r.run(task())
		in, keys := io.Pipe()
		screen, out := io.Pipe()
		resize := make(chan sandbox.Size, 1)
		resize <- sandbox.Size{Columns: 91, Rows: 17}
		type result struct {
			sandbox.Exit
			err error
		}
		done := make(chan result, 1)
		go func() {
			exit, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: []string{"sh"}, Stdin: in, Stdout: out, TTY: true, Resize: resize})
			_ = out.Close()
			done <- result{exit, err}
		}()
		defer keys.Close()
		lines := bufio.NewScanner(screen)
		until := func(want string) {
			t.Helper()
			for lines.Scan() {
				if strings.Contains(lines.Text(), want) {
					return
				}
			}
			t.Fatalf("the terminal never showed %q", want)
		}
		_, _ = io.WriteString(keys, "PS1=; tty && stty size | sed s/^/size=/; sh -c \"echo re''ady; exec sleep 1000\"\n")
		until("/dev/pts/")
		until("size=17 91")
		until("ready")
		_, _ = keys.Write([]byte{3}) // Ctrl-C
		_, _ = io.WriteString(keys, "exit 6\n")
		var rest bytes.Buffer
		copied := make(chan struct{})
		go func() { _, _ = io.Copy(&rest, screen); close(copied) }()
		select {
		case got := <-done:
			if <-copied; got.err != nil || got.Code != 6 {
				t.Errorf("exit = %+v: %q", got, rest.String())
			}
		case <-time.After(20 * time.Second):
			t.Errorf("it hangs: %q", rest.String())
			_ = screen.Close()
			_ = keys.Close()
		}
	})
}

// TestExecCanceled ends what a caller that went away had running.
func TestExecCanceled(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := r.run(task())
	ctx, cancel := context.WithCancel(r.ctx)
	mark := digits(newUID())
	done := make(chan error, 1)
	go func() {
		_, err := r.driver.Exec(ctx, run, sandbox.Exec{Command: []string{"sh", "-c", "trap '' HUP; echo go; sleep 77." + mark}, Stdout: &onFirst{do: cancel}})
		done <- err
	}()
	if err := <-done; !fault.Is(err, fault.Canceled) {
		t.Errorf("Exec = %v, want that it was canceled", err)
	}
	for end := time.Now().Add(10 * time.Second); len(withArgument(mark)) > 0; pause(r.ctx, 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("left: %v", withArgument(mark))
		}
	}
}

func TestExecWhereNothingRuns(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := r.create(task("sh", "-c", "exit 0"))
	r.until(run, sandbox.PhaseEnded)
	if _, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: []string{"true"}}); !errors.Is(err, sandbox.ErrNotRunning) {
		t.Errorf("of an ended run: %v", err)
	}
	run.UID = newUID()
	if _, err := r.driver.Exec(r.ctx, run, sandbox.Exec{Command: []string{"true"}}); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("of another UID: %v", err)
	}
}

// TestEnds tables how runs end.
func TestEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		for _, c := range []struct {
			name   string
			change func(*sandbox.Task)
			exit   int
			reason string
		}{
			{"0", func(t *sandbox.Task) { t.Spec.Command = []string{"true"} }, 0, sandbox.ReasonCompleted},
			{"3", func(t *sandbox.Task) { t.Spec.Command = []string{"sh", "-c", "exit 3"} }, 3, sandbox.ReasonError},
			{"args to the shell", func(t *sandbox.Task) { t.Spec.Args = []string{"-c", "exit 8"} }, 8, sandbox.ReasonError},
			{"killed", func(t *sandbox.Task) { t.Spec.Command = []string{"sh", "-c", "kill -9 $$"} }, 137, sandbox.ReasonError},
			{"absent", func(t *sandbox.Task) { t.Spec.Command = []string{"/no/such"} }, 127, sandbox.ReasonError},
			{"no folder", func(t *sandbox.Task) { t.Spec.Command, t.Spec.WorkingDir = []string{"true"}, "/nowhere" }, 126, sandbox.ReasonError},
			{"deadline", func(t *sandbox.Task) { t.Until = time.Now().Add(300 * time.Millisecond) }, 143, sandbox.ReasonLifetime},
		} {
			run := task()
			c.change(&run)
			run = r.create(run)
			if o := r.until(run, sandbox.PhaseEnded); o.Exit == nil || *o.Exit != c.exit || o.Reason != c.reason {
				t.Errorf("%s: %+v (exit %v), want %d, %s", c.name, o, o.Exit, c.exit, c.reason)
			}
		}
		stubborn := r.run(task("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"))
		for end := time.Now().Add(10 * time.Second); r.log(stubborn) == "" && time.Now().Before(end); {
			pause(r.ctx, 10*time.Millisecond)
		}
		if err := r.driver.Remove(r.ctx, stubborn, 200*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if o := r.until(stubborn, sandbox.PhaseEnded); o.Exit == nil || *o.Exit != 137 || o.Reason != sandbox.ReasonStopped {
			t.Errorf("stubborn: %+v", o)
		}
	})
}

func TestOutOfMemory(t *testing.T) {
	apart(t, func(t *testing.T, r *rig) {
		if r.drivers.groups.lacks() != nil {
			t.Skip("needs control groups: run as root")
		}
		for _, memory := range []int64{64 << 20, 1 << 20} { // of which the second is too little to begin
			run := task("tail", "/dev/zero")
			run.Spec.Resources.Memory = memory
			run = r.create(run)
			if o := r.until(run, sandbox.PhaseEnded); o.Reason != sandbox.ReasonOOM || o.Exit == nil || *o.Exit != 137 || !strings.Contains(o.Message, "ask for more memory") {
				t.Errorf("end with %d bytes = %+v, log %s", memory, o, r.log(run))
			}
		}
	})
}

func TestUsed(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		run := r.run(task("sh", "-c", "while :; do :; done"))
		var got sandbox.Used
		for end := time.Now().Add(15 * time.Second); got.CPU < 0.1 || got.Memory == 0; pause(r.ctx, 300*time.Millisecond) {
			used, err := r.driver.Used(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got = used[run.UID]; time.Now().After(end) {
				t.Fatalf("used = %+v", got)
			}
		}
		if r.drivers.groups.lacks() == nil && got.CPU > 0.8 {
			t.Errorf("it uses %v cores, and may use 0.5", got.CPU)
		}
	})
}

func TestLogs(t *testing.T) {
	needBwrap(t)
	r := newRig(t, nil)
	run := r.run(task("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; printf part; read x; "))
	_ = run
	follow := r.run(task("sh", "-c", "for i in $(seq 30); do echo line $i; sleep 0.02; done; printf last"))
	rc, err := r.driver.Logs(r.ctx, follow, sandbox.LogQuery{Follow: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	_ = rc.Close()
	if err != nil || !strings.HasSuffix(string(b), "line 29\nline 30\nlast") || strings.Count(string(b), "line") != 30 {
		t.Errorf("followed: %q, %v", b, err)
	}
	read := func(q sandbox.LogQuery) string {
		rc, err := r.driver.Logs(r.ctx, follow, q)
		if err != nil {
			t.Fatal(err)
		}
		defer rc.Close()
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	if got := read(sandbox.LogQuery{Tail: 3}); got != "line 29\nline 30\nlast" {
		t.Errorf("tail 3 = %q", got)
	}
	if got := read(sandbox.LogQuery{}); got != "" {
		t.Errorf("tail 0 = %q", got)
	}
	if got := read(sandbox.LogQuery{Tail: -1, Limit: 10}); got != "line 1\nlin" {
		t.Errorf("limit 10 = %q", got)
	}
	stamped := strings.Split(strings.TrimSpace(read(sandbox.LogQuery{Tail: -1, Timestamps: true})), "\n")
	stamp, text, _ := strings.Cut(stamped[9], " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil || text != "line 10" {
		t.Errorf("with times: %q", stamped[9])
	}
	if got := read(sandbox.LogQuery{Tail: -1, Since: at}); !strings.HasPrefix(got, "line 10\n") {
		t.Errorf("since the tenth: %q", got)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	waits := r.run(task())
	rc, err = r.driver.Logs(ctx, waits, sandbox.LogQuery{Follow: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled follower reads %v", err)
	}
	_ = rc.Close()
}

// TestPlain holds what a plain sandbox is held to: as root a user of its own, no children left, files gone.
func TestPlain(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Bwrap = NoBwrap })
	if !strings.Contains(r.drivers.Warn(), "plain processes") {
		t.Errorf("Warn = %q", r.drivers.Warn())
	}
	mark := digits(newUID())
	run := r.run(task("sh", "-c", "(setsid sh -c 'setsid sleep 99."+mark+" &' &); echo x > mine; sleep 1000"))
	out, _ := r.sh(run, "id -u; grep NoNewPrivs /proc/self/status; cat mine; cat "+r.drivers.cfg.Dir+"/*/*/task")
	user, _, _ := strings.Cut(out, "\n")
	if n, err := strconv.Atoi(user); r.drivers.mode.Root && (err != nil || n < 60000 || strings.Contains(out, "CANARY") || !strings.Contains(out, "denied")) || !strings.Contains(out, "NoNewPrivs:\t1\nx\n") {
		t.Errorf("inside: %s", out)
	}
	if err := r.driver.Remove(r.ctx, run, time.Second); err != nil {
		t.Fatal(err)
	}
	r.until(run, sandbox.PhaseEnded)
	if left := withArgument(mark); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := openRegular(placeOf(run.UID) + "/workspace/mine"); !gone(err) {
		t.Errorf("what it wrote is still there: %v", err)
	}
}
