package process

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// first is the first process within a sandbox: it starts its command and those of Exec, and waits for all that end.
type first struct {
	task   firstTask
	reaper *reaper
	slots  chan struct{} // commands of Exec at the same time
}

// maxExecs is how many commands of Exec run at the same time in one sandbox.
const maxExecs = 64

// prctl(2) options.
const (
	prSetDeathSignal = 1
	prSetDumpable    = 4
	prSetNoNewPrivs  = 38
	prSetSubreaper   = 36
	rlimitNproc      = 6
)

func prctl(option, arg uintptr) error {
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, option, arg, 0, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// becomeReaper has what our descendants leave behind become our children, so that nothing gets away by a double fork.
func becomeReaper() { _ = prctl(prSetSubreaper, 1) }

// initMain never returns before the sandbox's command has ended. Its exit code is the command's.
func initMain() int {
	// The death signal belongs to the thread that asks for it, which must stay.
	runtime.LockOSThread()
	closeOnExec()
	deaf()
	control, execs, err := inherited()
	if err != nil {
		return 255
	}
	var t firstTask
	if err := control.want(frameTask, maxTaskSize, &t); err != nil || len(t.Command) == 0 {
		return 255
	}
	f := &first{task: t, reaper: &reaper{waiting: map[int]chan syscall.WaitStatus{}}, slots: make(chan struct{}, maxExecs)}
	if err := f.confine(); err != nil {
		_ = control.writeJSON(frameBegun, begun{Error: "the sandbox's limits cannot be set: " + err.Error()})
		return 255
	}
	warm(16)
	f.reaper.run()
	main, err := f.begin()
	if err != nil {
		_ = control.writeJSON(frameBegun, begun{Error: err.Error()})
		return exitOfStart(err)
	}
	_ = control.writeJSON(frameBegun, begun{})
	go f.serve(execs)
	over := make(chan struct{})
	go f.obey(control, main, over)
	var code int
	select {
	case ws := <-main.ended:
		code = exitOf(ws).Code
	case <-over:
		code = 128 + int(syscall.SIGKILL)
	}
	if t.Plain {
		f.reaper.stop()
		sweep(os.Getpid(), 5*time.Second)
	}
	return code
}

// deaf has this process do nothing at a signal. They are not ignored, which what we start would inherit, but noticed.
// None given = all.
func deaf(which ...os.Signal) { signal.Notify(make(chan os.Signal, 1), which...) }

// inherited takes over what the shim gave us.
func inherited() (*frames, *net.UnixListener, error) {
	c := os.NewFile(fdControl, "control")
	conn, err := net.FileConn(c)
	if err != nil {
		return nil, nil, err
	}
	l := os.NewFile(fdExecs, "execs")
	ln, err := net.FileListener(l)
	if err != nil {
		return nil, nil, err
	}
	execs, ok := ln.(*net.UnixListener)
	if !ok {
		return nil, nil, errFrame
	}
	return &frames{rw: conn}, execs, errors.Join(c.Close(), l.Close())
}

// closeOnExec keeps every file that we have, whoever gave it to us, from what we start.
func closeOnExec() {
	const sysCloseRange, cloexec = 436, 4
	if _, _, e := syscall.RawSyscall(sysCloseRange, 3, ^uintptr(0)>>32, cloexec); e == 0 {
		return
	}
	for fd := 3; fd < 256; fd++ {
		syscall.CloseOnExec(fd)
	}
}

// confine makes this process, and with it all that it starts, a process without rights.
func (f *first) confine() error {
	t := f.task
	for _, l := range []struct {
		what int
		n    int64
	}{{syscall.RLIMIT_CORE, 0}, {syscall.RLIMIT_FSIZE, t.File}, {syscall.RLIMIT_NOFILE, 4096}, {rlimitNproc, int64(t.Pids)}} {
		if l.n == 0 && l.what != syscall.RLIMIT_CORE {
			continue
		}
		if err := limit(l.what, uint64(l.n)); err != nil {
			return err
		}
	}
	if t.User != 0 {
		if err := errors.Join(syscall.Setgroups([]int{}), syscall.Setresgid(t.User, t.User, t.User), syscall.Setresuid(t.User, t.User, t.User)); err != nil {
			return err
		}
	}
	syscall.Umask(0o022)
	// Not to be looked into, nor changed, by what we start: it is the same user.
	if err := prctl(prSetDumpable, 0); err != nil {
		return err
	}
	if t.Plain {
		becomeReaper()
		return noNewPrivileges()
	}
	// The shim's end is our end. Becoming another user has reset what bubblewrap set.
	return prctl(prSetDeathSignal, uintptr(syscall.SIGKILL))
}

func limit(what int, n uint64) error {
	var have syscall.Rlimit
	if err := syscall.Getrlimit(what, &have); err != nil {
		return err
	}
	n = min(n, have.Max)
	return syscall.Setrlimit(what, &syscall.Rlimit{Cur: n, Max: n})
}

// warm has the runtime make its threads now. Once the sandbox is at its limit of processes it could make none, and would end.
func warm(n int) {
	var ready, stay sync.WaitGroup
	ready.Add(n)
	stay.Add(1)
	for range n {
		go func() {
			runtime.LockOSThread()
			ready.Done()
			stay.Wait()
			runtime.UnlockOSThread()
		}()
	}
	ready.Wait()
	stay.Done()
}

// begin starts the sandbox's command. Its output is our own, which is the log.
func (f *first) begin() (*process, error) {
	if info, err := os.Stat(f.task.Dir); err != nil || !info.IsDir() {
		return nil, &startError{126, "its working directory " + f.task.Dir + " is not there"}
	}
	in, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if !f.task.Hold {
		_ = hold.Close()
	}
	defer in.Close()
	if f.task.Command[0] == keeper {
		return &process{ended: make(chan syscall.WaitStatus), hold: hold}, nil
	}
	p, err := f.start(f.task.Command, f.task.Env, []*os.File{in, os.Stdout, os.Stderr}, false)
	if err == nil && f.task.Hold {
		p.hold = hold
	}
	return p, err
}

// obey does what the shim says. Should it be gone, all ends.
func (f *first) obey(control *frames, main *process, over chan struct{}) {
	for {
		k, _, err := control.read(maxFrame)
		if err != nil {
			close(over)
			return
		}
		if k != frameEnd {
			continue
		}
		if main.pid == 0 {
			close(over)
			return
		}
		f.reaper.signal(main, syscall.SIGTERM)
		f.reaper.signal(main, syscall.SIGCONT) // one that is stopped would not hear it
	}
}

// process is one that we started.
type process struct {
	pid   int
	ended chan syscall.WaitStatus
	hold  *os.File // kept open as long as it runs
}

// startError is why a command could not be started, with the code that shells give it.
type startError struct {
	code int
	text string
}

func (e *startError) Error() string { return e.text }

func exitOfStart(err error) int {
	var e *startError
	if errors.As(err, &e) {
		return e.code
	}
	return 126
}

// start starts a command in a session of its own, so that signals reach it and what it started, and nothing else.
func (f *first) start(argv, env []string, files []*os.File, tty bool) (*process, error) {
	path, err := find(argv[0], env, f.task.Dir)
	if err != nil {
		return nil, err
	}
	fds := make([]uintptr, len(files))
	for i, file := range files {
		fds[i] = file.Fd()
	}
	attr := &syscall.ProcAttr{Dir: f.task.Dir, Env: env, Files: fds, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: tty}}
	if f.task.Data > 0 {
		path, argv = ownProgram, append([]string{ownProgram, Command, stageLimit, strconv.FormatInt(f.task.Data, 10), path}, argv...)
	}
	p, err := f.reaper.start(path, argv, attr)
	runtime.KeepAlive(files)
	if err != nil {
		return nil, &startError{126, argv[0] + ": " + err.Error()}
	}
	// Should memory be short, whatever the sandbox runs is to go before us: we would take all of it along.
	_ = os.WriteFile(filepath.Join("/proc", itoa(p.pid), "oom_score_adj"), []byte("500"), 0o600)
	return p, nil
}

// ownProgram is this program, wherever it lies, and though what we have become may not walk there.
const ownProgram = "/proc/self/exe"

// limitMain limits the memory of this process and becomes the command. The first process cannot have that limit itself: it would end at
// one that is small, and all with it. args are the limit, the command's path, and its arguments.
func limitMain(args []string, stderr io.Writer) int {
	n, err := strconv.ParseUint(args[0], 10, 63)
	if err == nil {
		err = limit(syscall.RLIMIT_DATA, n)
	}
	if err == nil {
		err = syscall.Exec(args[1], args[2:], os.Environ()) //nolint:gosec // G204: what it is for
	}
	io.WriteString(stderr, "polygate: "+args[1]+": "+err.Error()+"\n") //nolint:errcheck // nobody to tell
	return 126
}

// find looks a command up as a shell would, by the sandbox's own PATH.
func find(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if _, err := os.Stat(name); err != nil {
			return "", &startError{127, name + ": no such file"}
		}
		return name, nil
	}
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, d := range filepath.SplitList(list) {
			path := filepath.Join(d, name)
			if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 && filepath.IsAbs(path) {
				return path, nil
			}
		}
	}
	return "", &startError{127, printable(name, 128) + ": " + exec.ErrNotFound.Error()}
}

// reaper waits for all children, our own and those that fall to us.
type reaper struct {
	mu      sync.Mutex // held while a child is started, so that its end is not noticed before it is known
	waiting map[int]chan syscall.WaitStatus
	stopped bool
}

func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, ended: make(chan syscall.WaitStatus, 1)}
	r.waiting[pid] = p.ended
	return p, nil
}

// signal signals the group of a process that has not been waited for: until then its pid is nobody else's.
func (r *reaper) signal(p *process, n syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[p.pid] == p.ended {
		_ = syscall.Kill(-p.pid, n)
	}
}

func (r *reaper) run() {
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		for range died {
			r.collect()
		}
	}()
}

func (r *reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.stopped {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		if c := r.waiting[pid]; c != nil {
			delete(r.waiting, pid)
			c <- ws
		}
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}
