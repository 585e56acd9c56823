// Package sandboxtest holds what tests of sandboxes share: one suite that every driver passes (Run), a driver in memory that fails as it
// is told to (Staged), and a store in memory (Store).
package sandboxtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/vgw/sandbox"
)

// Caps says what a driver under test can do, and with what it is tried.
type Caps struct {
	Tenant sandbox.Tenant // the tenant that the runs are for
	Other  sandbox.Tenant // another one; zero = only one tenant is tried
	Image  string         // of the runs; holds Tool
	// Tool is the beginning of the commands: the path of the test program (test/kube/images/tools), which knows sleep, echo, exit, cat, env, …
	Tool    []string
	TTY     bool          // exec can have a terminal
	Signals bool          // exec passes signals on
	OOM     bool          // memory limits are in force
	Release bool          // what ended stays until Release
	Events  bool          // Events tells something
	Since   bool          // logs know their lines' times
	Within  time.Duration // how long a run may take to start or to end; 0 = 30 s
}

// Run has a driver pass the suite. newDrivers is called once for each test; what it makes is closed by its own clean-up. Everything is done
// in the tenants' places that caps names; what is made there is removed.
func Run(t *testing.T, newDrivers func(t *testing.T) sandbox.Drivers, caps Caps) {
	t.Helper()
	if caps.Within == 0 {
		caps.Within = 30 * time.Second
	}
	for _, c := range []struct {
		name string
		test func(*bench)
		can  bool
	}{
		{"create is idempotent", createOnce, true},
		{"a run runs, and ends when told to", lives, true},
		{"ends have reasons", ends, true},
		{"out of memory", outOfMemory, caps.OOM},
		{"what ended waits for its release", released, caps.Release},
		{"nothing but the UID is touched", byUID, true},
		{"what is gone is no error", nothing, true},
		{"a watch tells what is there, and of each change", watched, true},
		{"a driver opened anew finds its runs", reopened, true},
		{"env and arguments arrive as they are", verbatim, true},
		{"exec", execs, true},
		{"exec has bounds", execBounds, true},
		{"exec with a terminal", execTTY, caps.TTY},
		{"exec with signals", execSignals, caps.Signals},
		{"logs", logs, true},
		{"logs that are followed", follows, true},
		{"logs since", logsSince, caps.Since},
		{"events", events, caps.Events},
		{"another tenant sees and reaches nothing", foreign, caps.Other.Scope.ID() != ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !c.can {
				t.Skip("this driver cannot")
			}
			c.test(newBench(t, newDrivers(t), caps))
		})
	}
}

// bench is what one test of the suite works with.
type bench struct {
	t       *testing.T
	ctx     context.Context
	caps    Caps
	drivers sandbox.Drivers
	d       sandbox.Driver
	see     *sight
}

func newBench(t *testing.T, drivers sandbox.Drivers, caps Caps) *bench {
	t.Helper()
	b := &bench{t: t, ctx: t.Context(), caps: caps, drivers: drivers}
	b.d = b.open(caps.Tenant)
	b.see = b.watch(b.d)
	return b
}

// open opens the driver of a tenant, and brings its place in shape.
func (b *bench) open(of sandbox.Tenant) sandbox.Driver {
	b.t.Helper()
	d, err := b.drivers.Open(of)
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	b.t.Cleanup(d.Close)
	if err := d.Prepare(b.ctx); err != nil {
		b.t.Fatalf("prepare: %v", err)
	}
	return d
}

// task returns a run of the test program with a command of its own.
func (b *bench) task(command ...string) sandbox.Task {
	var nonce [5]byte
	rand.Read(nonce[:])
	id := uuid.NewString()
	return sandbox.Task{
		Sandbox: id, Nonce: hex.EncodeToString(nonce[:]), Name: sandbox.DefaultName(id), Owner: sandbox.OwnerHash(b.caps.Tenant.Scope, "user:alice"),
		Spec: sandbox.Spec{
			Image: b.caps.Image, Command: slices.Concat(b.caps.Tool, command),
			Resources: sandbox.Resources{CPU: 100, Memory: 64 << 20, Storage: 64 << 20},
		},
	}
}

// make makes a run, which is removed at the end of the test.
func (b *bench) make(t sandbox.Task) sandbox.Task {
	b.t.Helper()
	uid, err := b.d.Create(b.ctx, t)
	if err != nil || uid == "" {
		b.t.Fatalf("create: UID %q, %v", uid, err)
	}
	t.UID = uid
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), b.caps.Within)
		defer cancel()
		if err := b.d.Remove(ctx, t, 0); err != nil {
			b.t.Errorf("remove at the end: %v", err)
		}
		if err := b.d.Release(ctx, t); err != nil {
			b.t.Errorf("release at the end: %v", err)
		}
	})
	return t
}

// run makes a run and waits until its process runs.
func (b *bench) run(command ...string) sandbox.Task {
	b.t.Helper()
	t := b.make(b.task(command...))
	b.until(t, "run", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseRunning })
	return t
}

// ended makes a run and waits until its process has ended.
func (b *bench) ended(command ...string) (sandbox.Task, sandbox.Observation) {
	b.t.Helper()
	t := b.make(b.task(command...))
	return t, b.until(t, "end", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseEnded })
}

// until waits until a run looks so.
func (b *bench) until(t sandbox.Task, what string, done func(sandbox.Observation) bool) sandbox.Observation {
	b.t.Helper()
	o, ok := b.see.until(t.Nonce, b.caps.Within, done)
	if !ok {
		b.t.Fatalf("it did not %s within %v: last seen as %+v", what, b.caps.Within, o)
	}
	return o
}

// gone waits until nothing is left of a run.
func (b *bench) gone(t sandbox.Task) {
	b.t.Helper()
	b.until(t, "go", func(o sandbox.Observation) bool { return o.Phase == sandbox.PhaseAbsent })
}

// sight is what a watch has told.
type sight struct {
	mu     sync.Mutex
	runs   map[string]sandbox.Observation // by nonce
	news   chan struct{}
	synced chan struct{} // closed when all was told once
}

// watch watches a driver until the test ends.
func (b *bench) watch(d sandbox.Driver) *sight {
	b.t.Helper()
	s := &sight{runs: map[string]sandbox.Observation{}, news: make(chan struct{}), synced: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.ctx))
	var watching sync.WaitGroup
	once := sync.OnceFunc(func() { close(s.synced) })
	watching.Go(func() {
		for ctx.Err() == nil {
			if err := d.Watch(ctx, s.saw, once); err != nil && ctx.Err() == nil {
				b.t.Logf("watch: %v", err)
			}
		}
	})
	b.t.Cleanup(func() { cancel(); watching.Wait() })
	select {
	case <-s.synced:
	case <-time.After(b.caps.Within):
		b.t.Fatal("the watch has not told all that is there")
	}
	return s
}

func (s *sight) saw(o sandbox.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[o.Nonce] = o
	close(s.news)
	s.news = make(chan struct{})
}

// until waits for a run to look so. One that was never told of looks absent.
func (s *sight) until(nonce string, within time.Duration, done func(sandbox.Observation) bool) (sandbox.Observation, bool) {
	late := time.After(within)
	for {
		s.mu.Lock()
		o, news := s.runs[nonce], s.news
		s.mu.Unlock()
		if done(o) {
			return o, true
		}
		select {
		case <-late:
			return o, false
		case <-news:
		}
	}
}

// now returns what was last told of a run.
func (s *sight) now(nonce string) (sandbox.Observation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.runs[nonce]
	return o, ok
}

func exitOf(o sandbox.Observation) string {
	if o.Exit == nil {
		return "unknown"
	}
	return fmt.Sprint(*o.Exit)
}
