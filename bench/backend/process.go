package backend

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/polygate/polygate/bench/proc"
)

// Process is a Server in a process of its own.
type Process struct {
	Ports
	cmd   *exec.Cmd
	stdin io.Closer
	said  *tail
}

// Launch starts one with a polybench binary on these cores (as in proc.Start) and returns when it serves. It ends with Stop, and
// if we die.
func Launch(ctx context.Context, binary string, cfg Config, cores []int) (*Process, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	p := &Process{cmd: Command(binary, cfg), said: &tail{}}
	p.cmd.Stderr = p.said
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	p.stdin = in
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	if err := proc.Start(p.cmd, cores); err != nil {
		return nil, fmt.Errorf("start the upstream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	if err := p.ready(out); err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		return nil, fmt.Errorf("start the upstream: %w: %s", errors.Join(ctx.Err(), err), p.said)
	}
	return p, nil
}

// ready reads the line with the ports.
func (p *Process) ready(out io.Reader) error {
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("it ended before it said its ports: %w", err)
	}
	if err := json.Unmarshal(line, &p.Ports); err != nil {
		return fmt.Errorf("its first line %.100q is not its ports: %w", line, err)
	}
	return nil
}

// PID is its process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stall makes all answers wait for that long from now. It needs Config.Control.
func (p *Process) Stall(ctx context.Context, d time.Duration) error {
	if p.Control == "" {
		return errors.New("the upstream has no control listener: start it with one to stall it")
	}
	u := "http://" + p.Control + "/stall?for=" + url.QueryEscape(d.String())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u, nil)
	if err != nil {
		return fmt.Errorf("stall the upstream: %w", err)
	}
	req.Close = true // no connection is left behind
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("stall the upstream: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return fmt.Errorf("stall the upstream: %s", strings.TrimSpace(string(b)))
	}
	return nil
}

// Stop ends it, and kills it if it does not end in time.
func (p *Process) Stop() error {
	p.stdin.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Signal(os.Kill) })
	defer kill.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("the upstream ended with %w: %s", err, p.said)
	}
	return nil
}

// tail is the end of what a process says. It is written by exec's goroutine and read when the process has ended.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - 2000; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }
