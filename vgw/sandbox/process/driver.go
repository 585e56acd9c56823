package process

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// HostImage is the only name of an image here, beside none: what is installed on this machine.
const HostImage = "host"

// callTimeout bounds what a gateway waits for a shim.
const callTimeout = 10 * time.Second

// driver is one tenant's. All that it does is in its folder.
type driver struct {
	all    *Drivers
	tenant sandbox.Tenant
	dir    string

	mu    sync.Mutex
	woken chan struct{} // guarded by mu: closed when this gateway has changed something itself
}

var _ sandbox.Driver = (*driver)(nil)

// Prepare implements sandbox.Driver.
func (d *driver) Prepare(context.Context) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the tenant's folder of sandboxes cannot be made")
	}
	return nil
}

// Close implements sandbox.Driver.
func (d *driver) Close() { d.all.reap() }

// Create implements sandbox.Driver.
func (d *driver) Create(ctx context.Context, t sandbox.Task) (string, error) {
	if err := refuseSpec(t.Spec); err != nil {
		return "", err
	}
	name, err := runFolder(t.Sandbox, t.Nonce)
	if err != nil {
		return "", err
	}
	path := filepath.Join(d.dir, name)
	o, err := readOrder(path)
	switch {
	case gone(err) && t.UID != "":
		return "", fault.Wrap(fault.NotFound, sandbox.ErrGone, "the run that was made before is gone")
	case gone(err):
		if err = d.make(path, t); err == nil {
			o, err = readOrder(path)
		}
	}
	if err != nil {
		return "", fault.Wrap(fault.Unavailable, err, "the run's folder cannot be made")
	}
	if t.UID != "" && t.UID != o.UID || o.Task.Sandbox != t.Sandbox || o.Task.Nonce != t.Nonce {
		return "", fault.Wrap(fault.Conflict, sandbox.ErrNotOurs, "the run's folder holds another run")
	}
	defer d.wake()
	return o.UID, d.all.begin(ctx, path)
}

// refuseSpec refuses for good what processes cannot be.
func refuseSpec(s sandbox.Spec) error {
	refuse := func(text string) error { return fault.Wrap(fault.Invalid, sandbox.ErrRefused, "%s", text) }
	switch {
	case s.Image != "" && s.Image != HostImage:
		return refuse("sandboxes are processes of this machine here, which have no images: leave image out, or use the kube driver")
	case len(s.Resources.GPUs) > 0:
		return refuse("the process driver gives no GPUs: leave them out, or use the kube driver")
	case s.RuntimeClass != "":
		return refuse("the process driver knows no runtime classes: leave runtime_class out, or use the kube driver")
	}
	return nil
}

// make makes the folder of a run, as a whole or not at all.
func (d *driver) make(path string, t sandbox.Task) error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	t.UID = newUID()
	o := order{V: statusVersion, UID: t.UID, Task: t, Mode: d.all.mode, Groups: d.all.groups, Self: d.all.cfg.Self, Paths: d.all.cfg.Paths,
		Hide: d.all.cfg.Dir, Network: d.network(), Pids: d.all.cfg.Pids, Made: d.all.cfg.Now().UTC()}
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	draft := filepath.Join(d.dir, ".new-"+t.UID)
	if err := os.Mkdir(draft, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(draft, taskFile), b, 0o600); err != nil {
		return errors.Join(err, os.RemoveAll(draft))
	}
	if err := os.Rename(draft, path); err != nil {
		_ = os.RemoveAll(draft)
		if !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) { // else another call was first
			return err
		}
	}
	return nil
}

// network says whether the tenant's sandboxes share this machine's network.
func (d *driver) network() bool {
	if !d.all.cfg.HostNetwork {
		return false
	}
	for _, e := range d.tenant.Settings.Egress {
		if e == "internet" {
			return true
		}
	}
	return false
}

// find returns the run of a task. A run of another UID is not it: it is ErrGone then.
func (d *driver) find(t sandbox.Task) (path string, o *order, st *status, err error) {
	name, err := runFolder(t.Sandbox, t.Nonce)
	if err != nil {
		return "", nil, nil, err
	}
	path = filepath.Join(d.dir, name)
	if o, err = readOrder(path); err == nil {
		st, err = readStatus(path)
	}
	if gone(err) || err == nil && t.UID != "" && t.UID != o.UID {
		return "", nil, nil, fault.Wrap(fault.NotFound, sandbox.ErrGone, "the run is gone")
	}
	if err != nil {
		return "", nil, nil, fault.Wrap(fault.Unavailable, err, "the run's folder cannot be read")
	}
	return path, o, st, nil
}

// Remove implements sandbox.Driver.
func (d *driver) Remove(ctx context.Context, t sandbox.Task, grace time.Duration) error {
	path, o, st, err := d.find(t)
	if errors.Is(err, sandbox.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.wake()
	if st != nil && st.Phase == sandbox.PhaseEnded {
		return nil
	}
	if st == nil {
		// Nothing runs yet. Whoever holds the lock decides: we, that it never will, or a shim that is about to begin.
		if d.all.bury(path, o, sandbox.ReasonStopped, "it was stopped before it began") == nil {
			return nil
		}
	}
	if err := stopCallTo(ctx, path, grace); err == nil {
		return nil
	} else if ctx.Err() != nil {
		return fault.Wrap(fault.Unavailable, err, "the sandbox's supervisor did not answer in time")
	}
	return d.all.force(path, o)
}

// stopCallTo asks the shim.
func stopCallTo(ctx context.Context, path string, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := dial(ctx, path, callSocket)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // done
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
	f := &frames{rw: conn}
	if err := f.writeJSON(frameStop, stopCall{Grace: min(max(grace, 0), time.Hour).Milliseconds()}); err != nil {
		return err
	}
	return f.want(frameDone, 0, nil)
}

// Release implements sandbox.Driver. A run that was told to end is waited for; nobody asks for its grace any more.
func (d *driver) Release(ctx context.Context, t sandbox.Task) error {
	path, o, st, err := d.find(t)
	if errors.Is(err, sandbox.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	if st != nil && st.Phase == sandbox.PhaseStopping {
		_ = stopCallTo(ctx, path, 0) // it may have ended in between
	} else if st == nil || st.Phase != sandbox.PhaseEnded {
		return fault.New(fault.Conflict, "the run has not ended: stop it first")
	}
	// The shim ends a moment after it has told of the end.
	lock, err := takeLock(path, 5*time.Second)
	if err != nil {
		if gone(err) { // another call released it meanwhile
			return nil
		}
		return fault.Wrap(fault.Unavailable, err, "the run's supervisor has not ended yet: try again")
	}
	defer lock.Close()
	if st, err := readStatus(path); err == nil && st != nil && st.Phase != sandbox.PhaseEnded {
		d.all.clear(o, st) // the shim was killed
	}
	if err := d.all.erase(path, o.UID); err != nil {
		return fault.Wrap(fault.Unavailable, err, "the run's folder cannot be removed")
	}
	d.all.reap()
	d.wake()
	return nil
}

// wake has a Watch of this driver look at once.
func (d *driver) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.woken)
	d.woken = make(chan struct{})
}

func (d *driver) waking() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.woken
}

// Events implements sandbox.Driver. A process has few.
func (d *driver) Events(_ context.Context, t sandbox.Task) ([]sandbox.Event, error) {
	_, o, st, err := d.find(t)
	if err != nil {
		return nil, err
	}
	return events(o, st), nil
}

func events(o *order, st *status) []sandbox.Event {
	list := []sandbox.Event{{At: o.Made, Type: "Normal", Reason: "Created", Message: "the run was given to a supervisor on this machine"}}
	add := func(at time.Time, kind, reason, text string) {
		if !at.IsZero() {
			list = append(list, sandbox.Event{At: at, Type: kind, Reason: reason, Message: text})
		}
	}
	if o.Mode.Bwrap == "" {
		add(o.Made, "Warning", "NotIsolated", "bubblewrap is not used: it is a plain process of this machine")
	}
	if st == nil {
		return list
	}
	add(st.Started, "Normal", "Started", "its command runs; limited "+st.Limits)
	if st.Reason == sandbox.ReasonCompleted || st.Reason == sandbox.ReasonStopped {
		add(st.Ended, "Normal", st.Reason, "it ended")
	} else {
		add(st.Ended, "Warning", st.Reason, or(st.Message, "it ended"))
	}
	return list
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
