package sandboxtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polygate/polygate/vgw/sandbox"
)

// Staged is a driver in memory, which fails as it is told to. It is a sandbox.Drivers, and the sandbox.Driver that it opens. Its runs behave
// like pods with a finalizer: what is removed ends, and is there until it is released. It keeps time by the time package, so it
// can be used in synctest bubbles.
type Staged struct {
	// Fail, if set, is asked at the beginning of each call how it goes. It must be set before the driver is used.
	Fail func(Call) Outcome
	// Hold says that runs wait for Start; else they run at once.
	Hold bool
	// Linger is how long a run takes to end after it was told to.
	Linger time.Duration

	mu       sync.Mutex
	runs     map[string]*run // guarded by mu, by sandbox and nonce
	made     map[string]int  // guarded by mu: runs made of each sandbox
	twice    []string        // guarded by mu: sandboxes of which two runs lived at a time
	calls    map[string]int  // guarded by mu: by name
	watchers map[*watcher]bool
	serial   int
	ran      time.Duration
	closed   int
}

// Call is one call of the driver: prepare, create, remove, release, watch, list, follow, exec, logs, events or used.
type Call struct {
	Name string
	N    int // of this name, from 1 on
	Task sandbox.Task
}

// Outcome is how a call goes. The zero value is success.
type Outcome struct {
	Err   error
	Done  bool          // the call takes effect although it fails
	Delay time.Duration // before the answer, and after the effect
	Hang  bool          // until the caller gives up
}

type run struct {
	task     sandbox.Task
	o        sandbox.Observation
	removed  bool
	released bool
	log      strings.Builder
	over     chan struct{} // closed with its end
}

type watcher struct {
	events []sandbox.Observation
	more   chan struct{} // has one when there are events
	broken error
}

// NewStaged returns a driver whose runs start at once.
func NewStaged() *Staged {
	return &Staged{runs: map[string]*run{}, made: map[string]int{}, calls: map[string]int{}, watchers: map[*watcher]bool{}}
}

// Name implements sandbox.Drivers.
func (s *Staged) Name() string { return "staged" }

// Open implements sandbox.Drivers.
func (s *Staged) Open(sandbox.Tenant) (sandbox.Driver, error) { return s, nil }

// Close implements sandbox.Driver.
func (s *Staged) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
}

// Closed returns how often it was closed.
func (s *Staged) Closed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// act asks how a call goes, and lets it take effect or not.
func (s *Staged) act(ctx context.Context, name string, t sandbox.Task, effect func() error) error {
	s.mu.Lock()
	s.calls[name]++
	c := Call{Name: name, N: s.calls[name], Task: t}
	s.mu.Unlock()
	var o Outcome
	if s.Fail != nil {
		o = s.Fail(c)
	}
	var err error
	if (o.Err == nil && !o.Hang || o.Done) && effect != nil {
		s.mu.Lock()
		err = effect()
		s.mu.Unlock()
	}
	if o.Delay > 0 {
		select {
		case <-time.After(o.Delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if o.Hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return cmp.Or(o.Err, err)
}

// Prepare implements sandbox.Driver.
func (s *Staged) Prepare(ctx context.Context) error {
	return s.act(ctx, "prepare", sandbox.Task{}, nil)
}

func key(t sandbox.Task) string { return t.Sandbox + "/" + t.Nonce }

// Create implements sandbox.Driver.
func (s *Staged) Create(ctx context.Context, t sandbox.Task) (uid string, err error) {
	err = s.act(ctx, "create", t, func() error {
		r := s.runs[key(t)]
		if r == nil {
			r = s.makeRun(t)
		}
		uid = r.o.UID
		return nil
	})
	if err != nil {
		return "", err
	}
	return uid, nil
}

func (s *Staged) makeRun(t sandbox.Task) *run {
	for _, other := range s.runs {
		if other.task.Sandbox == t.Sandbox && other.o.Phase != sandbox.PhaseEnded {
			s.twice = append(s.twice, t.Sandbox)
		}
	}
	s.serial++
	s.made[t.Sandbox]++
	r := &run{task: t, over: make(chan struct{})}
	r.o = sandbox.Observation{Sandbox: t.Sandbox, Nonce: t.Nonce, UID: fmt.Sprintf("uid-%d", s.serial), Phase: sandbox.PhaseWaiting, Reason: sandbox.ReasonWaiting}
	s.runs[key(t)] = r
	s.tell(r)
	if !s.Hold {
		s.start(r)
	}
	return r
}

func (s *Staged) start(r *run) {
	if r.o.Phase != sandbox.PhaseWaiting {
		return
	}
	r.o.Phase, r.o.Started, r.o.Reason, r.o.Address = sandbox.PhaseRunning, time.Now().UTC(), "", "10.0.0.1"
	s.tell(r)
	s.play(r)
}

// Remove implements sandbox.Driver.
func (s *Staged) Remove(ctx context.Context, t sandbox.Task, grace time.Duration) error {
	return s.act(ctx, "remove", t, func() error {
		r := s.runs[key(t)]
		if r == nil || t.UID != "" && r.o.UID != t.UID {
			return nil
		}
		r.removed, r.o.Deleting = true, true
		if r.o.Phase == sandbox.PhaseEnded {
			s.tell(r)
			return nil
		}
		r.o.Phase = sandbox.PhaseStopping
		s.tell(r)
		if after := min(s.Linger, grace); after > 0 {
			time.AfterFunc(after, func() { s.locked(func() { s.end(r, new(143), sandbox.ReasonDeleted) }) })
		} else {
			s.end(r, new(143), sandbox.ReasonDeleted)
		}
		return nil
	})
}

func (s *Staged) locked(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *Staged) end(r *run, exit *int, reason string) {
	if r.o.Phase == sandbox.PhaseEnded || s.runs[key(r.task)] != r {
		return
	}
	r.o.Phase, r.o.Ended, r.o.Exit, r.o.Reason, r.o.Address = sandbox.PhaseEnded, time.Now().UTC(), exit, reason, ""
	if !r.o.Started.IsZero() {
		s.ran += r.o.Ended.Sub(r.o.Started)
	}
	close(r.over)
	s.tell(r)
	s.settle(r)
}

// settle forgets a run that has ended, was removed and was released.
func (s *Staged) settle(r *run) {
	if r.o.Phase == sandbox.PhaseEnded && r.removed && r.released {
		delete(s.runs, key(r.task))
		s.tellGone(r)
	}
}

// Release implements sandbox.Driver.
func (s *Staged) Release(ctx context.Context, t sandbox.Task) error {
	return s.act(ctx, "release", t, func() error {
		if r := s.runs[key(t)]; r != nil && (t.UID == "" || t.UID == r.o.UID) {
			r.released = true
			s.settle(r)
		}
		return nil
	})
}

// Watch implements sandbox.Driver.
func (s *Staged) Watch(ctx context.Context, seen func(sandbox.Observation), synced func()) error {
	if err := s.act(ctx, "watch", sandbox.Task{}, nil); err != nil {
		return err
	}
	w := &watcher{more: make(chan struct{}, 1)}
	s.mu.Lock()
	var now []sandbox.Observation
	for _, r := range s.runs {
		now = append(now, r.o)
	}
	s.watchers[w] = true
	s.mu.Unlock()
	defer s.locked(func() { delete(s.watchers, w) })
	if err := s.act(ctx, "list", sandbox.Task{}, nil); err != nil { // what it takes to tell what there was
		return err
	}
	for _, o := range now {
		seen(o)
	}
	synced()
	if err := s.act(ctx, "follow", sandbox.Task{}, nil); err != nil { // until the first change is told
		return err
	}
	for {
		s.mu.Lock()
		events, broken := w.events, w.broken
		w.events = nil
		s.mu.Unlock()
		for _, o := range events {
			seen(o)
		}
		if broken != nil {
			return broken
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.more:
		}
	}
}

func (s *Staged) tell(r *run) { s.tellAll(r.o) }

func (s *Staged) tellGone(r *run) {
	o := r.o
	o.Phase = sandbox.PhaseAbsent
	s.tellAll(o)
}

func (s *Staged) tellAll(o sandbox.Observation) {
	for w := range s.watchers {
		w.events = append(w.events, o)
		w.wake()
	}
}

func (w *watcher) wake() {
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// BreakWatch ends all watches.
func (s *Staged) BreakWatch(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.broken = err
		w.wake()
	}
}

// Start lets the run of a sandbox that is held run.
func (s *Staged) Start(id string) { s.each(id, s.start) }

// Say has the run of a sandbox show something else than it is.
func (s *Staged) Say(id string, change func(*sandbox.Observation)) {
	s.each(id, func(r *run) {
		change(&r.o)
		s.tell(r)
	})
}

// End ends the run of a sandbox by itself.
func (s *Staged) End(id string, exit int, reason string) {
	s.each(id, func(r *run) { s.end(r, &exit, reason) })
}

// Lose has the run of a sandbox vanish, as if somebody had deleted it by force.
func (s *Staged) Lose(id string) {
	s.each(id, func(r *run) {
		delete(s.runs, key(r.task))
		if r.o.Phase != sandbox.PhaseEnded {
			close(r.over)
		}
		s.tellGone(r)
	})
}

// Plant makes a run that no record knows.
func (s *Staged) Plant(t sandbox.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.makeRun(t)
}

func (s *Staged) each(id string, f func(*run)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		if r.task.Sandbox == id {
			f(r)
		}
	}
}

// Runs returns what there is, ended or not, sorted by UID.
func (s *Staged) Runs() []sandbox.Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []sandbox.Observation
	for _, r := range s.runs {
		all = append(all, r.o)
	}
	slices.SortFunc(all, func(a, b sandbox.Observation) int { return cmp.Compare(a.UID, b.UID) })
	return all
}

// Live returns how many runs have not ended.
func (s *Staged) Live() (n int) {
	for _, o := range s.Runs() {
		if o.Phase != sandbox.PhaseEnded {
			n++
		}
	}
	return n
}

// Made returns how many runs of a sandbox were ever made.
func (s *Staged) Made(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made[id]
}

// Ran returns how long all that has ended ran, together.
func (s *Staged) Ran() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ran
}

// Twice returns the sandboxes of which two runs lived at a time.
func (s *Staged) Twice() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.twice)
}

// Calls returns how often something was called.
func (s *Staged) Calls(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[name]
}

// Events implements sandbox.Driver.
func (s *Staged) Events(ctx context.Context, t sandbox.Task) (all []sandbox.Event, err error) {
	err = s.act(ctx, "events", t, func() error {
		if r := s.runs[key(t)]; r != nil {
			all = append(all, sandbox.Event{At: r.o.Started, Type: "Normal", Reason: "Started", Message: "it was started"})
		}
		return nil
	})
	return all, err
}

// Used implements sandbox.Driver: each run uses half a core and 64 MiB.
func (s *Staged) Used(ctx context.Context) (map[string]sandbox.Used, error) {
	used := map[string]sandbox.Used{}
	err := s.act(ctx, "used", sandbox.Task{}, func() error {
		for _, r := range s.runs {
			if r.o.Phase == sandbox.PhaseRunning {
				used[r.o.UID] = sandbox.Used{CPU: 0.5, Memory: 64 << 20}
			}
		}
		return nil
	})
	return used, err
}

// Logs implements sandbox.Driver.
func (s *Staged) Logs(ctx context.Context, t sandbox.Task, q sandbox.LogQuery) (io.ReadCloser, error) {
	var r *run
	err := s.act(ctx, "logs", t, func() error {
		if r = s.runs[key(t)]; r == nil || t.UID != "" && t.UID != r.o.UID {
			return sandbox.ErrGone
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &logReader{ctx: ctx, s: s, r: r, q: q}, nil
}
