package sandbox

import (
	"context"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// ChangeKind says what a Change is about.
type ChangeKind string

// The kinds of changes; they are the names of server-sent events.
const (
	ChangeSandbox ChangeKind = "sandbox" // it is new, or changed
	ChangeDeleted ChangeKind = "deleted" // it is gone; Sandbox is what it was last
	ChangeResync  ChangeKind = "resync"  // changes were missed: list anew
)

// Change is one change of a sandbox.
type Change struct {
	Kind    ChangeKind
	Sandbox *Sandbox // nil with ChangeResync
	Version int64    // resource_version: rises with each change of any of the tenant's sandboxes
}

// maxRecent is how many changes are remembered for who comes late.
const maxRecent = 1024

// changed remembers a change and tells of it. The caller holds mu.
func (m *Manager) changed(c Change) {
	if len(m.recent) == maxRecent {
		m.floor = m.recent[maxRecent/2-1].Version
		m.recent = append(m.recent[:0:0], m.recent[maxRecent/2:]...)
	}
	m.recent = append(m.recent, c)
	m.told = c.Version
	m.tell()
	if m.cfg.Changed != nil {
		m.cfg.Changed(c)
	}
}

// tell wakes who waits for a change. The caller holds mu.
func (m *Manager) tell() {
	close(m.news)
	m.news = make(chan struct{})
}

// Watcher reads the changes of a tenant's sandboxes. It is for one goroutine, and needs no closing.
type Watcher struct {
	m    *Manager
	seen int64 // the version of the last change that was read
}

// Watch begins after the change with version since, as far as changes are still known; 0 = with the next change. If changes after since
// are no longer known, the first is a ChangeResync.
func (m *Manager) Watch(since int64) *Watcher {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since == 0 {
		since = m.told
	}
	return &Watcher{m: m, seen: since}
}

// Next waits for the next change. A reader that is too slow gets a ChangeResync. The error is ctx's, or fault.Unavailable when the
// manager was closed.
func (w *Watcher) Next(ctx context.Context) (Change, error) {
	for {
		c, ok, news, err := w.next()
		if ok || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return Change{}, ctx.Err()
		case <-news:
		}
	}
}

// next returns the next change that is known, or else what is closed with it.
func (w *Watcher) next() (c Change, ok bool, news <-chan struct{}, err error) {
	m := w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return Change{}, false, nil, moving()
	case w.seen > m.told || w.seen < m.floor:
		w.seen = m.told
		return Change{Kind: ChangeResync, Version: m.told}, true, nil, nil
	}
	for _, c := range m.recent {
		if c.Version > w.seen {
			w.seen = c.Version
			return c, true, nil, nil
		}
	}
	return Change{}, false, m.news, nil
}

// Wait returns the sandbox as soon as done says so of it. done is called with nil when the sandbox is gone, and the result is nil then; if done
// does not accept that, the error is fault.NotFound. A manager that closes is a fault.Unavailable.
func (m *Manager) Wait(ctx context.Context, id string, done func(*Sandbox) bool) (*Sandbox, error) {
	for {
		m.mu.Lock()
		news, closed := m.news, m.closed
		m.mu.Unlock()
		s, ok := m.Find(id)
		switch {
		case closed:
			return nil, moving()
		case done(s):
			return s, nil
		case !ok:
			return nil, absent()
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-news:
		}
	}
}

func moving() error {
	return fault.New(fault.Unavailable, "the tenant is moving: try again").After(time.Second)
}
