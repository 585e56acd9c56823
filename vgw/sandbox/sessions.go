package sandbox

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Exec runs a command in a sandbox. It counts as a session: the sandbox is not idle meanwhile. ctx ends it; the manager's end does not.
// A sandbox that does not run is a fault.Conflict that says what to do, an absent one fault.NotFound, too many sessions fault.RateLimited.
func (m *Manager) Exec(ctx context.Context, id string, x Exec) (Exit, error) {
	v, err := m.visit(id, func(s *Sandbox) error { return runs(s) })
	if err != nil {
		return Exit{}, err
	}
	defer v.end()
	if x.Stdin != nil {
		x.Stdin = countedReader{x.Stdin, v}
	}
	if x.Stdout != nil {
		x.Stdout = countedWriter{x.Stdout, v}
	}
	if x.Stderr != nil {
		x.Stderr = countedWriter{x.Stderr, v}
	}
	exit, err := v.driver.Exec(ctx, v.task, x)
	return exit, m.unreached(err)
}

// Logs reads what the run of a sandbox wrote, the last one's as long as something of it is left. It counts as a session. The caller closes
// it; ctx ends it.
func (m *Manager) Logs(ctx context.Context, id string, q LogQuery) (io.ReadCloser, error) {
	v, err := m.visit(id, made)
	if err != nil {
		return nil, err
	}
	r, err := v.driver.Logs(ctx, v.task, q)
	if err != nil {
		v.end()
		return nil, m.unreached(err)
	}
	return &countedLog{countedReader{r, v}, r}, nil
}

// Events tells what the cluster did with the run of a sandbox, oldest first.
func (m *Manager) Events(ctx context.Context, id string) ([]Event, error) {
	m.mu.Lock()
	it := m.items[m.idOf(id)]
	if it == nil {
		m.mu.Unlock()
		return nil, absent()
	}
	task, driver := m.task(it.s), m.driver.take()
	m.mu.Unlock()
	if driver == nil {
		return nil, moving()
	}
	defer driver.giveBack()
	all, err := driver.Events(ctx, task)
	return all, m.unreached(err)
}

func (m *Manager) idOf(nameOrID string) string {
	if IsID(nameOrID) {
		return nameOrID
	}
	return m.names[nameOrID]
}

// unreached says in plain words what a driver could not do.
func (m *Manager) unreached(err error) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	for _, known := range []struct {
		err  error
		kind fault.Kind
	}{{ErrUnreachable, fault.Unavailable}, {ErrTerminating, fault.Unavailable}, {ErrGone, fault.NotFound}, {ErrNotRunning, fault.Conflict}, {ErrRefused, fault.Conflict}} {
		if errors.Is(err, known.err) {
			return fault.Wrap(known.kind, err, "%s", known.err)
		}
	}
	return err
}

// runs says whether a command can be run in a sandbox.
func runs(s *Sandbox) error {
	if s.State == Running && s.Run.UID != "" {
		return nil
	}
	advice := "wait until it runs"
	switch s.State {
	case Stopped, Failed:
		advice = "start it first"
	case Stopping, Deleting:
		advice = "its run is ending"
	}
	return fault.New(fault.Conflict, "sandbox %q does not run, its state is %s: %s", s.Name, s.State, advice)
}

// made says whether a sandbox has a run that may have written something.
func made(s *Sandbox) error {
	if s.Run.UID != "" {
		return nil
	}
	return fault.New(fault.Conflict, "sandbox %q has not run yet, its state is %s: wait until it runs", s.Name, s.State)
}

// visit is one session with a sandbox.
type visit struct {
	m      *Manager
	s      *Sandbox
	task   Task
	driver *lent
	ended  sync.Once
}

func (m *Manager) visit(id string, fit func(*Sandbox) error) (*visit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it := m.items[m.idOf(id)]
	switch {
	case m.closed:
		return nil, moving()
	case it == nil:
		return nil, absent()
	}
	if err := fit(it.s); err != nil {
		return nil, err
	}
	if it.sessions >= m.cfg.MaxSessions {
		return nil, fault.New(fault.RateLimited, "sandbox %q has %d sessions open, and %d are allowed: close one", it.s.Name, it.sessions, m.cfg.MaxSessions).After(time.Second)
	}
	driver := m.driver.take()
	if driver == nil {
		return nil, moving()
	}
	it.sessions++
	it.used = m.cfg.Now()
	if m.cfg.Meter != nil {
		m.cfg.Meter.Opened(it.s)
		it.dirty = true
		m.nudge()
	}
	return &visit{m: m, s: it.s, task: m.task(it.s), driver: driver}, nil
}

// end ends the session: the time until the sandbox is idle begins.
func (v *visit) end() {
	v.ended.Do(func() {
		v.m.mu.Lock()
		if it := v.m.items[v.s.ID]; it != nil {
			it.sessions--
			it.used, it.dirty = v.m.cfg.Now(), true
			v.m.nudge()
		}
		v.m.mu.Unlock()
		v.driver.giveBack()
	})
}

func (v *visit) moved(n int) {
	if v.m.cfg.Meter != nil {
		v.m.cfg.Meter.Moved(v.s, int64(n))
	}
}

type countedReader struct {
	io.Reader
	v *visit
}

func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.v.moved(n)
	return n, err
}

type countedWriter struct {
	io.Writer
	v *visit
}

func (w countedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.v.moved(n)
	return n, err
}

type countedLog struct {
	countedReader
	close io.Closer
}

func (l *countedLog) Close() error {
	err := l.close.Close()
	l.v.end()
	return err
}
