package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/creack/pty"
	"golang.org/x/term"
)

// streamServer is a gateway that answers as it likes.
func streamServer(t *testing.T, h http.HandlerFunc) *recorder {
	t.Helper()
	rec := &recorder{Server: httptest.NewServer(h)}
	t.Cleanup(rec.Close)
	return rec
}

// commandStub is the end of a command's connection at the gateway.
type commandStub struct {
	t    *testing.T
	conn *websocket.Conn
	q    url.Values
}

// newCommandStub is a gateway where a command is what do does.
func newCommandStub(t *testing.T, do func(ctx context.Context, c *commandStub)) *recorder {
	t.Helper()
	return streamServer(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{execProtocol}})
		if err != nil {
			t.Errorf("%s: %v", r.URL, err)
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(64 << 10)
		do(r.Context(), &commandStub{t, conn, r.URL.Query()})
	})
}

func (c *commandStub) write(ctx context.Context, channel byte, text string) {
	if err := c.conn.Write(ctx, websocket.MessageBinary, append([]byte{channel}, text...)); err != nil {
		c.t.Logf("write: %v", err)
	}
}

// read returns the next message.
func (c *commandStub) read(ctx context.Context) (channel byte, text string, ok bool) {
	_, p, err := c.conn.Read(ctx)
	if err != nil || len(p) == 0 {
		return 0, "", false
	}
	return p[0], string(p[1:]), true
}

// until reads messages up to one on the control channel that is want.
func (c *commandStub) until(ctx context.Context, want string) bool {
	for {
		channel, text, ok := c.read(ctx)
		if !ok {
			return false
		}
		if channel == execControl && text == want {
			return true
		}
	}
}

func (c *commandStub) end(ctx context.Context, code string) {
	c.write(ctx, execExit, `{"code":`+code+`}`)
	_ = c.conn.Close(websocket.StatusNormalClosure, "")
}

// TestExecStreams: standard input goes over with its end, the two outputs come apart, and so does the exit code.
func TestExecStreams(t *testing.T) {
	var got bytes.Buffer
	srv := newCommandStub(t, func(ctx context.Context, c *commandStub) {
		if want := []string{"cat", "-n", "a b"}; strings.Join(c.q["command"], "|") != strings.Join(want, "|") || c.q.Has("tty") || len(c.q) != 1 {
			t.Errorf("asked for %v", c.q)
		}
		for {
			channel, text, ok := c.read(ctx)
			if !ok || channel == execControl {
				if text != `{"eof":true}` {
					t.Errorf("control: %q", text)
				}
				break
			}
			got.WriteString(text)
		}
		c.write(ctx, execStdout, "out\x1b[2J")
		c.write(ctx, execStderr, "err")
		c.end(ctx, "42")
	})
	srv.settle(t)
	sent := strings.Repeat("0123456789abcdef", 1<<14) + "end"
	stdout, stderr, code := here(t, sent, "sandbox", "exec", "web", "-i", "--", "cat", "-n", "a b")
	if code != 42 || stdout != "out\x1b[2J" || stderr != "err" || got.String() != sent {
		t.Errorf("exit %d, %q, %q, and %d bytes came over, want 42, out, err and %d", code, stdout, stderr, got.Len(), len(sent))
	}
	got.Reset()
	if _, _, code := here(t, sent, "sandbox", "exec", "web", "--", "cat", "-n", "a b"); code != 42 || got.Len() != 0 {
		t.Errorf("without -i: exit %d and %d bytes came over", code, got.Len())
	}
}

// TestExecFailures: what is not the command's own end is 125 and one line.
func TestExecFailures(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		do         func(ctx context.Context, c *commandStub)
	}{
		{"restart", "the gateway is being replaced", func(_ context.Context, c *commandStub) {
			_ = c.conn.Close(websocket.StatusServiceRestart, "connect again")
		}},
		{"right lost", "the delegation has ended", func(_ context.Context, c *commandStub) {
			_ = c.conn.Close(websocket.StatusPolicyViolation, "the delegation has ended")
		}},
		{"no reason", "(1011)", func(_ context.Context, c *commandStub) { _ = c.conn.Close(websocket.StatusInternalError, "") }},
		{"hostile reason", `\u001b[2J`, func(_ context.Context, c *commandStub) { _ = c.conn.Close(websocket.StatusInternalError, "\x1b[2J") }},
		{"cut", "broke off", func(_ context.Context, c *commandStub) { _ = c.conn.CloseNow() }},
		{"text", "none of polygate.exec.v1", func(ctx context.Context, c *commandStub) { _ = c.conn.Write(ctx, websocket.MessageText, []byte("hi")) }},
		{"no end", "the end of the command cannot be read", func(ctx context.Context, c *commandStub) { c.write(ctx, execExit, "x") }},
	} {
		srv := newCommandStub(t, tt.do)
		srv.settle(t)
		_, stderr, code := here(t, "", "sandbox", "exec", "web", "--", "true")
		if code != 125 || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "\x1b") {
			t.Errorf("%s: exit %d, want 125 and %q\n%s", tt.name, code, tt.want, stderr)
		}
	}
	rec := newRecorder(t, func(request) (int, any) { return http.StatusConflict, map[string]any{"detail": "it does not run"} })
	rec.settle(t)
	if _, stderr, code := here(t, "", "sandbox", "exec", "web", "--", "true"); code != 125 || !strings.Contains(stderr, "409") {
		t.Errorf("refused: exit %d\n%s", code, stderr)
	}
	rec.Close()
	if _, stderr, code := here(t, "", "sandbox", "exec", "web", "--", "true"); code != 125 || !strings.Contains(stderr, "cannot reach") {
		t.Errorf("away: exit %d\n%s", code, stderr)
	}
}

// onTerminal is a command of ours whose terminal a test holds.
type onTerminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	slave  *os.File // kept open, to look at the terminal after the command has ended
	shown  output
	before term.State
	read   sync.WaitGroup
}

// startOnTerminal runs polygate in a terminal of its own.
func startOnTerminal(t *testing.T, env []string, args ...string) *onTerminal {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	o := &onTerminal{t: t, cmd: exec.Command(bin(t, "polygate"), args...), master: master, slave: slave}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	o.before = o.state()
	o.cmd.Env = append(os.Environ(), env...)
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = slave, slave, slave
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	o.read.Go(func() { _, _ = io.Copy(&o.shown, master) })
	t.Cleanup(func() {
		_ = o.cmd.Process.Kill()
		_ = slave.Close()
		_ = master.Close()
		o.read.Wait()
	})
	return o
}

func (o *onTerminal) state() term.State {
	o.t.Helper()
	state, err := term.GetState(int(o.slave.Fd()))
	if err != nil {
		o.t.Fatal(err)
	}
	return *state
}

func (o *onTerminal) untilRaw() {
	o.t.Helper()
	eventually(o.t, "the terminal is raw", func() bool { return o.state() != o.before })
}

func (o *onTerminal) types(text string) {
	o.t.Helper()
	if _, err := io.WriteString(o.master, text); err != nil {
		o.t.Fatal(err)
	}
}

func (o *onTerminal) shows(want string) {
	o.t.Helper()
	eventually(o.t, "the terminal shows "+want, func() bool { return strings.Contains(o.shown.String(), want) })
}

// ends waits for the command's end, and holds that the terminal is as it was.
func (o *onTerminal) ends() (code int) {
	o.t.Helper()
	done := make(chan error, 1)
	go func() { done <- o.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = o.cmd.Process.Kill()
		<-done
		o.t.Fatalf("it does not end; the terminal shows\n%s", o.shown.String())
	}
	if after := o.state(); after != o.before {
		o.t.Errorf("the terminal is not as it was: %+v, want %+v", after, o.before)
	}
	return o.cmd.ProcessState.ExitCode()
}

// TestExecTerminal: each way out of a session leaves the terminal as it was.
func TestExecTerminal(t *testing.T) {
	hang := func(ctx context.Context, c *commandStub) {
		for {
			if _, _, ok := c.read(ctx); !ok {
				return
			}
		}
	}
	for _, tt := range []struct {
		name string
		code int
		want string
		over func(ctx context.Context, c *commandStub)
		here func(o *onTerminal)
	}{
		{"the command ends", 7, "", func(ctx context.Context, c *commandStub) {
			if _, text, _ := c.read(ctx); text != "\x03" {
				t.Errorf("Ctrl-C came over as %q", text)
			}
			c.end(ctx, "7")
		}, func(o *onTerminal) { o.types("\x03") }},
		{"the connection is cut", 125, "broke off", func(ctx context.Context, c *commandStub) {
			_, _, _ = c.read(ctx)
			_ = c.conn.CloseNow()
		}, func(o *onTerminal) { o.types("x") }},
		{"the gateway restarts", 125, "is being replaced", func(ctx context.Context, c *commandStub) {
			_, _, _ = c.read(ctx)
			_ = c.conn.Close(websocket.StatusServiceRestart, "")
		}, func(o *onTerminal) { o.types("x") }},
		{"what comes is nonsense", 125, "none of", func(ctx context.Context, c *commandStub) {
			_, _, _ = c.read(ctx)
			_ = c.conn.Write(ctx, websocket.MessageText, []byte("x"))
		}, func(o *onTerminal) { o.types("x") }},
		{"a signal is obeyed", 143, "", func(ctx context.Context, c *commandStub) {
			if c.until(ctx, `{"signal":"TERM"}`) {
				c.end(ctx, "143")
			}
		}, func(o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGTERM) }},
		{"a signal is ignored", 125, "left by a signal", hang, func(o *onTerminal) {
			_ = o.cmd.Process.Signal(syscall.SIGTERM)
			_ = o.cmd.Process.Signal(syscall.SIGINT)
		}},
		{"the terminal hangs up", 125, "left by a signal", hang, func(o *onTerminal) { _ = o.cmd.Process.Signal(syscall.SIGHUP) }},
		{"the window changes", 0, "", func(ctx context.Context, c *commandStub) {
			if c.q.Get("tty") != "1" || c.q.Get("columns") != "100" || c.q.Get("rows") != "30" {
				t.Errorf("asked for %v", c.q)
			}
			if c.until(ctx, `{"resize":{"columns":132,"rows":43}}`) {
				c.end(ctx, "0")
			}
		}, func(o *onTerminal) { _ = pty.Setsize(o.master, &pty.Winsize{Rows: 43, Cols: 132}) }},
		{"it is stopped and goes on", 5, "", func(ctx context.Context, c *commandStub) {
			if c.until(ctx, `{"resize":{"columns":100,"rows":30}}`) {
				c.end(ctx, "5")
			}
		}, func(o *onTerminal) {
			_ = o.cmd.Process.Signal(syscall.SIGTSTP)
			eventually(o.t, "the terminal is as it was while we are stopped", func() bool { return o.state() == o.before })
			_ = o.cmd.Process.Signal(syscall.SIGCONT)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newCommandStub(t, tt.over)
			o := startOnTerminal(t, []string{"POLYGATE_URL=" + srv.URL, "POLYGATE_KEY=k", "XDG_CONFIG_HOME=" + t.TempDir()}, "sandbox", "exec", "web", "-it", "--", "sh")
			o.untilRaw()
			tt.here(o)
			if code := o.ends(); code != tt.code {
				t.Errorf("exit %d, want %d\n%s", code, tt.code, o.shown.String())
			}
			o.shows(tt.want)
		})
	}
}

// TestExecSignals: without a terminal, a signal goes to the command; while the connection is made, it gives it up.
func TestExecSignals(t *testing.T) {
	ready := make(chan bool, 1)
	srv := newCommandStub(t, func(ctx context.Context, c *commandStub) {
		ready <- c.until(ctx, `{"eof":true}`)
		if c.until(ctx, `{"signal":"INT"}`) {
			c.end(ctx, "130")
		}
	})
	start := func(target string) *exec.Cmd {
		cmd := exec.Command(bin(t, "polygate"), "sandbox", "exec", "web", "--", "sleep", "1h")
		cmd.Env = append(os.Environ(), "POLYGATE_URL="+target, "POLYGATE_KEY=k", "XDG_CONFIG_HOME="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	cmd := start(srv.URL)
	<-ready
	_ = cmd.Process.Signal(syscall.SIGINT)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit %d, want 130", cmd.ProcessState.ExitCode())
	}

	let := make(chan bool)
	silent := streamServer(t, func(http.ResponseWriter, *http.Request) { ready <- true; <-let })
	cmd = start(silent.URL)
	<-ready
	_ = cmd.Process.Signal(syscall.SIGINT)
	_ = cmd.Wait()
	close(let)
	if cmd.ProcessState.ExitCode() != 125 {
		t.Errorf("exit %d, want 125", cmd.ProcessState.ExitCode())
	}
}

// FuzzExecEnd: whatever the gateway says of a command's end, the exit code is one that a process can have.
func FuzzExecEnd(f *testing.F) {
	for _, seed := range []string{`{"code":0}`, `{"code":256}`, `{"code":-1,"signal":"KILL"}`, "", "null", `{"code":1e99}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if code, err := parseEnd(p); code < 0 || code > 255 || err != nil && code != 0 {
			t.Errorf("%q: %d, %v", p, code, err)
		}
	})
}
