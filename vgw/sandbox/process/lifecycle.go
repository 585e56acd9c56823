package process

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// begin starts the shim of a run, unless the run has begun already, and waits until it can be called.
func (d *Drivers) begin(ctx context.Context, path string) error {
	if st, err := readStatus(path); st != nil || err != nil {
		return err
	}
	select {
	case d.starts <- struct{}{}:
		defer func() { <-d.starts }()
	case <-ctx.Done():
		return fault.From(ctx.Err())
	}
	ready, told, err := os.Pipe()
	if err != nil {
		return fault.Wrap(fault.Unavailable, err, "this machine is short of files")
	}
	defer ready.Close()
	if err := d.spawn(path, told); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the sandbox's supervisor cannot be started")
	}
	_ = ready.SetReadDeadline(time.Now().Add(15 * time.Second))
	defer context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })()
	_, err = io.Copy(io.Discard, ready)
	if st, broken := readStatus(path); st != nil || broken != nil {
		return broken
	}
	said, _ := readBounded(filepath.Join(path, shimFile), 64<<10)
	return fault.Wrap(fault.Unavailable, errors.Join(err, errors.New(lastLine(said))), "the sandbox's supervisor did not start")
}

// spawn starts a shim in a session of its own, with an environment of its own, so that neither a signal to the gateway's group nor the
// gateway's end reaches it, nor any secret. It is nobody's child when we end, and is waited for by reap until then.
func (d *Drivers) spawn(path string, told *os.File) error {
	defer told.Close()
	say, err := os.OpenFile(filepath.Join(path, shimFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer say.Close()
	cmd := exec.Command(d.cfg.Self, Command, stageShim, path) //nolint:gosec // G204: our own program
	cmd.Env = []string{"PATH=" + insidePath, "GOMAXPROCS=2", "GOGC=50"}
	cmd.Dir = "/"
	cmd.Stderr = say
	cmd.ExtraFiles = []*os.File{told}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.mu.Lock()
	d.children[cmd.Process.Pid] = struct{}{}
	d.mu.Unlock()
	d.reap()
	return cmd.Process.Release()
}

// reap waits for the shims of ours that have ended. A pid stays ours until it has been waited for, so that no other is meant.
func (d *Drivers) reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for pid := range d.children {
		if got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got == pid || errors.Is(err, syscall.ECHILD) {
			delete(d.children, pid)
		}
	}
}

// bury stores the end of a run that has no shim (any more), and ends what is left of it. It fails if there is one.
func (d *Drivers) bury(path string, o *order, reason, text string) error {
	d.reap()
	lock, err := takeLock(path, 0)
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := readStatus(path)
	if err != nil {
		return err
	}
	if st == nil {
		st = &status{V: statusVersion, UID: o.UID}
	}
	if st.Phase == sandbox.PhaseEnded {
		return nil
	}
	d.clear(o, st)
	st.Phase, st.Reason, st.Message, st.Ended = sandbox.PhaseEnded, reason, text, d.cfg.Now().UTC()
	return st.write(path)
}

// clear ends what a dead shim left. Bubblewrap's processes end with it; those of a plain sandbox are found by their control group, by
// the first of them, and by the user that is theirs alone.
func (d *Drivers) clear(o *order, st *status) {
	_ = st.First.kill()
	o.Groups.of(o.UID).remove()
	if o.Mode.Bwrap != "" {
		return
	}
	if o.Mode.Root {
		uids, _ := os.ReadFile("/proc/self/uid_map")
		killUser(freeUser(string(uids), o.UID))
	}
	_ = os.RemoveAll(placeOf(o.UID))
}

// killUser ends all processes of a user whom freeUser chose.
func killUser(user int) {
	if user < 60_000 || user == 65534 {
		return // not one run's alone
	}
	for range 100 {
		found := false
		for pid := range processes() {
			info, err := os.Stat(filepath.Join("/proc", itoa(pid)))
			if err != nil {
				continue
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == user {
				found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
	}
}

// force ends a run whose shim does not answer.
func (d *Drivers) force(path string, o *order) error {
	st, err := readStatus(path)
	if err != nil || st != nil && st.Phase == sandbox.PhaseEnded {
		return err
	}
	if st != nil {
		if err := st.Shim.kill(); err != nil {
			return fault.Wrap(fault.Unavailable, err, "the sandbox's supervisor cannot be ended")
		}
	}
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := d.bury(path, o, sandbox.ReasonStopped, "its supervisor did not answer and was ended")
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fault.Wrap(fault.Unavailable, err, "the sandbox's supervisor does not end")
		}
	}
}

// placeOf is the folder of a plain sandbox. It is made of the UID alone: whatever a status says is not removed.
func placeOf(uid string) string { return filepath.Join("/tmp", "polygate-"+uid) }

// erase removes the folder of a run: away first, so that half of one is never seen.
func (d *Drivers) erase(path, uid string) error {
	away := filepath.Join(filepath.Dir(path), ".gone-"+uid)
	if err := os.Rename(path, away); err != nil && !gone(err) {
		return err
	}
	d.mu.Lock()
	delete(d.used, uid)
	d.mu.Unlock()
	return os.RemoveAll(away)
}

// dial opens a socket in a folder, through a handle on the folder: the path of a socket has 107 bytes at most, and a data directory may
// be longer.
func dial(ctx context.Context, dir, name string) (*net.UnixConn, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", "/proc/self/fd/"+itoa(int(f.Fd()))+"/"+name)
	if err != nil {
		return nil, err
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errFrame, conn.Close())
	}
	return unix, nil
}

// Erase implements sandbox.Eraser: it ends and removes all runs of a tenant that was deleted. place is of no use here.
func (d *Drivers) Erase(ctx context.Context, _, tenantUID string) (bool, error) {
	dir := filepath.Join(d.cfg.Dir, tenantFolder(tenantUID))
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return true, nil
	}
	if err != nil {
		return false, fault.Wrap(fault.Unavailable, err, "the tenant's folder of sandboxes cannot be read")
	}
	t := &driver{all: d, dir: dir, woken: make(chan struct{})}
	left := false
	for _, e := range entries {
		id, nonce, ok := parseRunFolder(e.Name())
		if !ok {
			if strings.HasPrefix(e.Name(), ".") { // a draft, or half erased
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
			continue
		}
		task := sandbox.Task{Sandbox: id, Nonce: nonce}
		if e := t.Remove(ctx, task, 0); e != nil {
			err = errors.Join(err, e)
			continue
		}
		if t.Release(ctx, task) != nil {
			left = true
		}
	}
	if err != nil {
		return false, err
	}
	return !left && os.Remove(dir) == nil, nil
}
