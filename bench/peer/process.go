package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/polygate/polygate/bench/proc"
)

// The spans of a subject's life.
const (
	startTimeout = 60 * time.Second      // to listen: HAProxy and nginx read all certificates first
	stopTimeout  = 5 * time.Second       // after SIGTERM, before SIGKILL
	knock        = 20 * time.Millisecond // between two attempts to connect
	starts       = 3                     // attempts: another process may take a port before the subject does
	tail         = 2 << 10               // bytes of a subject's own words in an error
	listenOn     = "127.0.0.1"           // nobody else may reach a subject
	shake        = 5 * time.Second       // of an attempt's handshake
)

// process is a subject's process, or its master.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string        // its standard output and error
	ended chan struct{} // closed once it has been waited for
}

// launch starts a command on cores, its output in the file log.
func launch(name string, cores []int, log string, argv ...string) (*process, error) {
	program, err := exec.LookPath(argv[0])
	if err == nil {
		program, err = filepath.Abs(program) // it runs in another folder
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer f.Close()                           // the child has its own
	cmd := exec.Command(program, argv[1:]...) //nolint:gosec // the command is the subject that the user asked for
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Dir(log), f, f
	if len(cores) > 0 {
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(len(cores)))
	}
	if err := proc.Start(cmd, cores); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.ended)
	}()
	return p, nil
}

// ready waits until a TLS handshake for host succeeds at addr, with a certificate of the site: so it is our process that listens there.
func (p *process) ready(ctx context.Context, s *Site, addr, host string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := greet(ctx, s, addr, host)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return &endedError{name: p.name, log: p.log, words: lastWords(p.log)}
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve %s at %s: %w; see %s", p.name, host, addr, err, p.log)
		case <-time.After(knock):
		}
	}
}

func greet(ctx context.Context, s *Site, addr, host string) error {
	ctx, cancel := context.WithTimeout(ctx, shake)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{RootCAs: s.CA, ServerName: host, MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// stop ends the process and whatever it has started.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
	}
	// The group is the subject's own: what of it is left, such as the workers of a master that died, ends here.
	if err := killGroup(p.cmd.Process.Pid); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	<-p.ended
	return nil
}

func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// endedError says that a subject ended before it served, and what it said.
type endedError struct{ name, log, words string }

func (e *endedError) Error() string {
	return fmt.Sprintf("%s ended before it served: %s; see %s", e.name, e.words, e.log)
}

// lastWords returns the end of a log.
func lastWords(log string) string {
	f, err := os.Open(log)
	if err != nil {
		return "it left no log"
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd) // the beginning does as well
	}
	b, _ := io.ReadAll(io.LimitReader(f, tail))
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return "it said nothing"
	}
	return string(b)
}

// freePort returns a port that nothing listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", listenOn+":0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// single is a subject with one listener for all tenants.
type single struct {
	*process
	addr string
}

func (r *single) Addr(int) string { return r.addr }
func (r *single) PIDs() []int     { return []int{r.cmd.Process.Pid} }
func (r *single) Stop() error     { return r.stop() }

// configured is a program that is told everything by files in a folder, among them the port.
type configured struct {
	name  string
	write func(dir string, s *Site, port int) (argv []string, err error)
}

// start writes the files and starts the program, again with another port if it ended at once.
func (c configured) start(ctx context.Context, s *Site, dir string) (*single, error) {
	var err error
	for range starts {
		var r *single
		r, err = c.once(ctx, s, dir)
		var ended *endedError
		if err == nil || !errors.As(err, &ended) || !strings.Contains(strings.ToLower(ended.words), "in use") {
			return r, err
		}
	}
	return nil, err
}

func (c configured) once(ctx context.Context, s *Site, dir string) (*single, error) {
	if len(s.Tenants) == 0 {
		return nil, fmt.Errorf("start %s: the site has no tenants", c.name)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	argv, err := c.write(dir, s, port)
	if err != nil {
		return nil, fmt.Errorf("write the configuration of %s: %w", c.name, err)
	}
	p, err := launch(c.name, s.Cores, filepath.Join(dir, c.name+".log"), argv...)
	if err != nil {
		return nil, err
	}
	r := &single{process: p, addr: net.JoinHostPort(listenOn, strconv.Itoa(port))}
	if err := p.ready(ctx, s, r.addr, s.Tenants[0].Host); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return r, nil
}
