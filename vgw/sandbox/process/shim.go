package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// fdReady is the file that a shim closes when it can be called.
const fdReady = 3

// shim is the parent of one run. It lives until the run has ended, whatever becomes of the gateway.
type shim struct {
	dir    string // "." : the working directory, since a socket's path must be short
	order  *order
	status status
	group  *group
	held   []string // the controllers in force
	log    *logWriter

	cmd     *exec.Cmd
	first   identity // the first process within, as it is called outside; zero = it is cmd
	control *frames  // with the first process
	closing []io.Closer
	subs    subscribers

	calls  chan call
	began  chan error
	exited chan int
	logged chan struct{}
	reason string // why it was told to end; "" = it was not
}

// call is one request of a gateway.
type call struct {
	grace time.Duration
	done  chan struct{}
}

// shimMain runs the shim of a folder. Two for one folder cannot be, and none for a folder whose run has begun before: a run is never run
// twice.
func shimMain(ctx context.Context, dir string, stderr io.Writer) int {
	// The thread that starts the sandbox must live as long as it: bubblewrap has itself killed when its parent thread ends.
	runtime.LockOSThread()
	syscall.CloseOnExec(fdReady)
	deaf(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	if err := os.Chdir(dir); err != nil {
		return complain(stderr, err)
	}
	lock, err := takeLock(".", 2*time.Second)
	if err != nil {
		return 0 // another is here
	}
	defer lock.Close()
	o, err := readOrder(".")
	if err != nil {
		return complain(stderr, err)
	}
	if st, err := readStatus("."); st != nil || err != nil {
		return 0
	}
	s := &shim{dir: ".", order: o, calls: make(chan call), began: make(chan error, 1), exited: make(chan int, 1), logged: make(chan struct{})}
	if err := s.run(ctx); err != nil {
		return complain(stderr, err)
	}
	return 0
}

func complain(stderr io.Writer, err error) int {
	fmt.Fprintln(stderr, err)
	return 1
}

var errLocked = errors.New("the run has a shim")

// takeLock takes the lock of a run, which the kernel lets go of when its holder ends, however it ends.
func takeLock(dir string, patience time.Duration) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || !time.Now().Before(end) {
			_ = f.Close()
			return nil, errLocked
		}
	}
}

func (s *shim) run(ctx context.Context) error {
	me, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	s.status = status{V: statusVersion, UID: s.order.UID, Phase: sandbox.PhaseWaiting, Shim: me}
	calls, execs, err := s.listen()
	if err != nil {
		return err
	}
	if err := s.tell(); err != nil {
		return err
	}
	_ = syscall.Close(fdReady)
	go s.answer(calls)
	if err := s.launch(execs); err != nil {
		s.finish(err, 0)
		return err
	}
	code := s.supervise(ctx)
	s.finish(nil, code)
	return nil
}

// listen opens both sockets, by short relative paths: those of sockets are limited to 107 bytes.
func (s *shim) listen() (calls *net.UnixListener, execs *os.File, err error) {
	open := func(name string) (*net.UnixListener, error) {
		_ = os.Remove(name)
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			return nil, err
		}
		ln.SetUnlinkOnClose(false)
		return ln, os.Chmod(name, 0o600)
	}
	if calls, err = open(callSocket); err != nil {
		return nil, nil, err
	}
	ln, err := open(execSocket)
	if err != nil {
		return nil, nil, err
	}
	s.closing = append(s.closing, calls)
	execs, err = ln.File()
	return calls, execs, errors.Join(err, ln.Close())
}

// tell stores the status and wakes who waits for it.
func (s *shim) tell() error {
	err := s.status.write(s.dir)
	s.subs.wake()
	return err
}

// launch starts the sandbox: first its processes, which wait; then the group gets them; then they are told what to do. So nothing
// of the sandbox runs outside of its limits.
func (s *shim) launch(execs *os.File) error {
	r := s.order.Task.Spec.Resources
	s.group = s.order.Groups.of(s.order.UID)
	s.held = s.group.make(limits{CPU: r.CPU, Memory: r.Memory, Pids: s.order.Pids})
	if s.order.Mode.Root {
		uids, _ := os.ReadFile("/proc/self/uid_map")
		s.status.User = freeUser(string(uids), s.order.UID)
	}
	var err error
	if s.log, err = newLogWriter(s.dir, divide(r.Storage).log, time.Now); err != nil {
		return err
	}
	if s.order.Mode.Bwrap == "" {
		if err := s.makePlace(); err != nil {
			return err
		}
		becomeReaper()
	} else if err := s.writeNames(); err != nil {
		return err
	}
	if err := s.start(execs); err != nil {
		return err
	}
	s.enter()
	return s.control.writeJSON(frameTask, s.order.first(s.status.Place, s.status.User, s.held, s.others()))
}

// enter puts what was started into the group.
func (s *shim) enter() {
	err := s.group.join(s.cmd.Process.Pid)
	if s.first.PID != 0 {
		err = errors.Join(err, s.group.join(s.first.PID))
	}
	if err != nil {
		s.held = nil
	}
	s.status.Limits = describe(s.held)
	if err != nil {
		s.status.Limits += " (" + err.Error() + ")"
	}
}

func describe(held []string) string {
	if len(held) == 0 {
		return "by rlimits, which hold for each process alone; CPU is not limited"
	}
	text := "by control groups: " + strings.Join(held, ", ")
	for _, c := range controllers() {
		if !slices.Contains(held, c) {
			text += "; not " + c
		}
	}
	return text
}

// others counts the processes of a user whom the sandbox shares with the gateway in a plain sandbox: the limit is of the user.
func (s *shim) others() int {
	if s.order.Mode.Bwrap != "" || s.order.Mode.Root {
		return 0
	}
	n, own := 0, os.Getuid()
	for pid := range processes() {
		tasks := "/proc/" + strconv.Itoa(pid) + "/task"
		info, err := os.Stat(tasks)
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == own {
			n += int(st.Nlink) - 2
		}
	}
	return n
}

// makePlace makes the folder of a plain sandbox, beside all others of this machine's temporary files. It must be new: one that
// somebody made in advance would be theirs.
func (s *shim) makePlace() error {
	place := placeOf(s.order.UID)
	for _, dir := range []string{place, filepath.Join(place, insideWorkspace), filepath.Join(place, insideTmp)} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		s.status.Place = place
		if s.status.User != 0 {
			if err := os.Chown(dir, s.status.User, s.status.User); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeNames writes what stands for the machine's lists of users and hosts.
func (s *shim) writeNames() error {
	user := s.status.User
	if user == 0 {
		user = insideUser
	}
	id := strconv.Itoa(user)
	return errors.Join(
		replaceReadable("passwd", "sandbox:x:"+id+":"+id+"::"+insideWorkspace+":/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"),
		replaceReadable("group", "sandbox:x:"+id+":\nnogroup:x:65534:\n"),
		replaceReadable("hosts", "127.0.0.1 localhost "+s.order.hostname()+"\n::1 localhost\n"))
}

func replaceReadable(name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil { //nolint:gosec // G306: the sandbox's user reads it
		return err
	}
	return os.Chmod(name, 0o644) //nolint:gosec // G302: whatever the umask
}

// start starts bubblewrap, or the first process itself.
func (s *shim) start(execs *os.File) error {
	defer execs.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	s.control = &frames{rw: ours}
	s.closing = append(s.closing, ours)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	info, told, err := os.Pipe()
	if err != nil {
		return err
	}
	defer told.Close()
	defer info.Close()
	rules, err := filter()
	if err != nil {
		return err
	}
	s.prepare(rules != nil)
	s.cmd.Stdout, s.cmd.Stderr = in, in
	s.cmd.ExtraFiles = []*os.File{execs, theirs, told}
	if rules != nil && s.order.Mode.Bwrap != "" {
		f, err := asFile(rules)
		if err != nil {
			return err
		}
		defer f.Close()
		s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, f)
	}
	if err := s.cmd.Start(); err != nil {
		_ = out.Close()
		return err
	}
	_, _ = told.Close(), in.Close()
	s.closing = append(s.closing, out)
	go s.copyLog(out)
	go s.listenFirst()
	s.identify(info)
	go s.wait()
	return nil
}

// The files of the first process.
const (
	fdExecs   = 3
	fdControl = 4
	fdInfo    = 5
)

func (s *shim) prepare(filtered bool) {
	o := s.order
	if o.Mode.Bwrap == "" {
		s.cmd = exec.Command(o.Self, Command, stageInit) //nolint:gosec // G204: our own program
	} else {
		dir, _ := os.Getwd()
		s.cmd = exec.Command(o.Mode.Bwrap, o.arguments(dir, system(os.Lstat, os.Readlink), fdInfo, filtered)...) //nolint:gosec // G204: the operator's program
	}
	s.cmd.Env = []string{"PATH=" + insidePath, "GOMAXPROCS=2"}
	s.cmd.Dir = "/"
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// identify reads the first process's pid from bubblewrap.
func (s *shim) identify(info *os.File) {
	if who, err := identify(s.cmd.Process.Pid); err == nil {
		s.status.First = who
	}
	if s.order.Mode.Bwrap == "" {
		return
	}
	_ = info.SetReadDeadline(time.Now().Add(10 * time.Second))
	var told struct {
		PID int `json:"child-pid"`
	}
	if json.NewDecoder(io.LimitReader(info, 4096)).Decode(&told) != nil || told.PID <= 0 {
		return
	}
	if st, err := readStat(told.PID); err == nil && st.parent == s.cmd.Process.Pid {
		s.first, _ = identify(told.PID)
	}
}

func (s *shim) copyLog(out *os.File) {
	drain(s.log, out)
	close(s.logged)
}

func (s *shim) wait() {
	err := s.cmd.Wait()
	code := 255
	var exit *exec.ExitError
	if err == nil {
		code = 0
	} else if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok {
			code = exitOf(ws).Code
		}
	}
	s.exited <- code
}

// listenFirst hears whether the first process could start the command. Its words are a sandbox's: bounded, and only shown.
func (s *shim) listenFirst() {
	var b begun
	if s.control.want(frameBegun, maxFrame, &b) != nil {
		s.began <- errSilent
		return
	}
	if b.Error != "" {
		s.began <- errors.New(printable(b.Error, 512))
		return
	}
	s.began <- nil
}

// asFile returns a file without a name that holds something.
func asFile(b []byte) (*os.File, error) {
	f, err := os.CreateTemp(".", "filter-")
	if err != nil {
		return nil, err
	}
	_, err1 := f.Write(b)
	_, err2 := f.Seek(0, io.SeekStart)
	return f, errors.Join(os.Remove(f.Name()), err1, err2)
}

func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "control")
	ours, err = net.FileConn(f)
	return ours, theirs, err
}
