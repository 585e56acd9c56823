package acmetest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// process is a program that runs beside the test.
type process struct {
	name string
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when it has ended
	err  error         // set then
}

// startProcess builds a tool of go.mod, unless it is built, and runs it.
func startProcess(t testing.TB, env []string, tool string, args ...string) *process {
	t.Helper()
	path, err := exec.Command("go", "tool", "-n", tool).Output()
	if err != nil {
		t.Fatalf("acmetest: go tool -n %s: %v", tool, err)
	}
	p := &process{name: tool, out: &output{}, done: make(chan struct{})}
	p.cmd = exec.Command(strings.TrimSpace(string(path)), args...) //nolint:gosec // a tool of go.mod
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("acmetest: start %s: %v", tool, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// kill ends the process and waits for its end; nil and ended ones are fine.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) pause()  { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }

// output keeps what a process writes. It is safe for concurrent use.
type output struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write appends.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns everything so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
