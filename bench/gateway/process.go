package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/polygate/polygate/bench/proc"
)

// The spans in which things happen to processes.
const (
	lookEvery = 10 * time.Millisecond // between two questions of await
	lastWords = 2 << 10               // of a log, in an error
)

// child is a program that is started again and again with the same arguments. It may be used by many goroutines.
type child struct {
	what  string // for errors
	args  []string
	log   string // its output is appended to it
	cores []int

	mu    sync.Mutex    // guards what is below
	cmd   *exec.Cmd     // the last one
	ended chan struct{} // closed when it has ended; nil = none was started
}

// start starts it, unless it runs.
func (c *child) start() error {
	if pid := c.pid(); pid != 0 {
		return fmt.Errorf("start %s: it runs, as process %d", c.what, pid)
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.what, err)
	}
	defer log.Close()                             // the process has its own
	cmd := exec.Command(c.args[0], c.args[1:]...) //nolint:gosec // the program to measure, and etcd
	cmd.Stdout, cmd.Stderr = log, log
	if err := proc.Start(cmd, c.cores); err != nil {
		return fmt.Errorf("start %s: %w", c.what, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(ended)
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cmd, c.ended = cmd, ended
	return nil
}

// running returns the process and the channel that is closed when it has ended, which is nil if it does not run.
func (c *child) running() (*os.Process, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return nil, nil
	}
	select {
	case <-c.ended:
		return nil, nil
	default:
		return c.cmd.Process, c.ended
	}
}

// pid returns its number, 0 if it does not run.
func (c *child) pid() int {
	if p, _ := c.running(); p != nil {
		return p.Pid
	}
	return 0
}

// kill ends it without a warning, and returns when it has ended.
func (c *child) kill() {
	if p, ended := c.running(); p != nil {
		_ = p.Kill()
		<-ended
	}
}

// end asks it to end and waits for that, at most for as long as ctx lasts; then it kills it, which is the error.
func (c *child) end(ctx context.Context) error {
	p, ended := c.running()
	if p == nil {
		return nil
	}
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		c.kill()
		return c.failed(errors.New("it did not end when it was asked to, and was killed"))
	}
}

// failed returns err with the end of the log, whose folder is cleared behind most measurements.
func (c *child) failed(err error) error {
	b, _ := os.ReadFile(c.log)
	return fmt.Errorf("%s: %w; the end of its log %s (--keep DIR keeps it):\n%s", c.what, err, c.log, bytes.TrimSpace(b[max(0, len(b)-lastWords):]))
}

// awaitUp asks until there is no error. If the process ends meanwhile there is no use in it.
func (c *child) awaitUp(ctx context.Context, ask func(context.Context) error) error {
	err := await(ctx, func() error {
		if c.pid() == 0 {
			return errEnded
		}
		return ask(ctx)
	})
	if err != nil {
		return c.failed(err)
	}
	return nil
}

// errEnded ends a wait: the process will not do it any more.
var errEnded = errors.New("it ended by itself")

// await asks until there is no error, ctx ends or there is no use in it. It returns the last error.
func await(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Ports for processes are below those that the system gives to outgoing connections (32768 and up on Linux), of which a machine under
// load opens thousands: one of them could have the port before the process that it is meant for.
const (
	firstPort = 15000
	lastPort  = 32000
	portTries = 100
)

// freeAddr returns an address on loopback that nobody listens on. Somebody else may take it before we do.
func freeAddr() (string, error) {
	var err error
	for range portTries {
		var ln net.Listener
		ln, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort)))) //nolint:gosec // a port is no secret
		if err == nil {
			return ln.Addr().String(), ln.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// freeAddrs fills in each.
func freeAddrs(into ...*string) error {
	for _, a := range into {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		*a = addr
	}
	return nil
}
