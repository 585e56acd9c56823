package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// world is a manager with what it stands on.
type world struct {
	t      *testing.T
	store  *sandboxtest.Store
	driver *sandboxtest.Staged
	config sandbox.Config
	m      *sandbox.Manager

	mu    sync.Mutex
	awake []bool // guarded by mu
}

func acme() sandbox.Tenant {
	return sandbox.Tenant{Scope: tenant.Confine("acme", "uid-acme"), Quotas: tenant.Quotas{MaxSandboxes: 20, SandboxCPU: 8000, SandboxMemory: 16 << 30, SandboxStorage: 50 << 30}}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, store: sandboxtest.NewStore(), driver: sandboxtest.NewStaged()}
	w.config = sandbox.Config{Tenant: acme(), Awake: func(is bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.awake = append(w.awake, is)
	}}
	return w
}

// inWorld runs a story in a bubble of its own time, and looks at the end for what must never be.
func inWorld(t *testing.T, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		story(w)
		if w.m != nil {
			w.m.Close()
		}
		if twice := w.driver.Twice(); len(twice) > 0 {
			t.Errorf("two runs lived at a time of %v", twice)
		}
	})
}

// open opens a manager on the store as it is. It is told what the last one said of work, as the routing record tells the next owner.
func (w *world) open() {
	w.t.Helper()
	c := w.config
	c.Driver, c.Store, c.Meter, c.Worked = w.driver, w.store, w.meter(), w.isAwake()
	m, err := sandbox.Open(w.t.Context(), c)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.m = m
}

// meter returns a meter that goes on from what is stored.
func (w *world) meter() *sandbox.Meter {
	w.t.Helper()
	stored, err := w.store.Load(w.t.Context(), sandbox.KindPeriod)
	if err != nil {
		w.t.Fatalf("load periods: %v", err)
	}
	m, err := sandbox.NewMeter(sandbox.MeterConfig{}, stored)
	if err != nil {
		w.t.Fatalf("meter: %v", err)
	}
	return m
}

// crash has the next owner take over, without a word of the last one.
func (w *world) crash() {
	w.t.Helper()
	heir := w.store.Heir()
	w.m.Close()
	w.store = heir
	w.open()
}

func request(name string) *sandbox.Sandbox {
	return &sandbox.Sandbox{ID: uuid.NewString(), Name: name, Owner: "user:alice", Spec: sandbox.Spec{
		Image: "docker.io/library/tools", Resources: sandbox.Resources{CPU: 500, Memory: 1 << 29, Storage: 1 << 30}}}
}

func (w *world) create(s *sandbox.Sandbox) *sandbox.Sandbox {
	w.t.Helper()
	stored, created, err := w.m.Create(w.t.Context(), s, w.store.Write)
	if err != nil || !created {
		w.t.Fatalf("create %s: created %v, %v", s.Name, created, err)
	}
	return stored
}

func (w *world) ask(id string, want sandbox.Want) *sandbox.Sandbox {
	w.t.Helper()
	s, err := w.m.Ask(w.t.Context(), id, want, nil, w.store.Write)
	if err != nil {
		w.t.Fatalf("ask %s to be %s: %v", id, want, err)
	}
	return s
}

// until waits for a state, an hour of the bubble's time at most.
func (w *world) until(id string, state sandbox.State) *sandbox.Sandbox {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	defer cancel()
	s, err := w.m.Wait(ctx, id, func(s *sandbox.Sandbox) bool { return s != nil && s.State == state })
	if err != nil {
		w.t.Fatalf("waiting for %s: %v; it is %s", state, err, show(s))
	}
	return s
}

func (w *world) untilGone(id string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	defer cancel()
	if s, err := w.m.Wait(ctx, id, func(s *sandbox.Sandbox) bool { return s == nil }); err != nil {
		w.t.Fatalf("waiting for its end: %v; it is %s", err, show(s))
	}
}

func show(s *sandbox.Sandbox) string {
	if s == nil {
		return "gone"
	}
	return fmt.Sprintf("%s, wanted %s, run %+v, conditions %+v", s.State, s.Want, s.Run, s.Conditions)
}

func (w *world) isAwake() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.awake) > 0 && w.awake[len(w.awake)-1]
}

// TestLife is a sandbox's whole life, as it should be.
func TestLife(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		synctest.Wait()
		if w.isAwake() {
			t.Error("a tenant without sandboxes is awake")
		}
		s := w.create(request("one"))
		if s.State != sandbox.Pending || s.Run.Nonce == "" || s.Version == 0 {
			t.Errorf("created: %s", show(s))
		}
		if !w.isAwake() {
			t.Error("not awake after a creation")
		}
		s = w.until("one", sandbox.Running)
		if s.Run.UID == "" || s.Run.Started.IsZero() || s.Run.Address == "" {
			t.Errorf("running: %s", show(s))
		}
		exit, err := w.m.Exec(w.t.Context(), "one", sandbox.Exec{Command: []string{"exit", "3"}})
		if err != nil || exit.Code != 3 {
			t.Errorf("exec: %+v, %v", exit, err)
		}
		w.ask("one", sandbox.WantStopped)
		s = w.until("one", sandbox.Stopped)
		if s.Run.Reason != sandbox.ReasonStopped || s.Run.Ended.IsZero() {
			t.Errorf("stopped: %s", show(s))
		}
		first := s.Run.Nonce
		time.Sleep(5 * time.Minute)
		if w.isAwake() || w.driver.Live() != 0 || len(w.driver.Runs()) != 0 {
			t.Errorf("awake %v with runs %v, long after the stop", w.isAwake(), w.driver.Runs())
		}
		w.ask("one", sandbox.WantRunning)
		s = w.until("one", sandbox.Running)
		if s.Run.Nonce == first || s.Runs != 2 {
			t.Errorf("started again: %s", show(s))
		}
		w.ask("one", sandbox.WantDeleted)
		w.untilGone(s.ID)
		time.Sleep(5 * time.Minute)
		if w.isAwake() || len(w.driver.Runs()) != 0 {
			t.Errorf("awake %v with runs %v, long after the end", w.isAwake(), w.driver.Runs())
		}
	})
}

// TestEnds: how a process ends is how its sandbox ends, and its logs are there for a while.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		exit   int
		reason string
		state  sandbox.State
	}{
		{0, sandbox.ReasonCompleted, sandbox.Stopped},
		{7, sandbox.ReasonError, sandbox.Failed},
		{137, sandbox.ReasonOOM, sandbox.Failed},
		{137, sandbox.ReasonEvicted, sandbox.Failed},
		{137, sandbox.ReasonNodeLost, sandbox.Failed},
	} {
		t.Run(c.reason, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.open()
				s := w.create(request("one"))
				w.until("one", sandbox.Running)
				w.driver.End(s.ID, c.exit, c.reason)
				s = w.until("one", c.state)
				if s.Run.Reason != c.reason || s.Run.Exit == nil || *s.Run.Exit != c.exit {
					t.Errorf("ended: %s", show(s))
				}
				if r := s.Condition(sandbox.Ready); r == nil || r.Status || r.Reason != c.reason || r.Message == "" {
					t.Errorf("condition %+v", r)
				}
				time.Sleep(10 * time.Minute)
				if _, err := w.m.Logs(w.t.Context(), "one", sandbox.LogQuery{Tail: -1}); err != nil {
					t.Errorf("logs after the end: %v", err)
				}
				time.Sleep(10 * time.Minute)
				if len(w.driver.Runs()) != 0 {
					t.Errorf("left behind: %+v", w.driver.Runs())
				}
				w.ask("one", sandbox.WantRunning)
				w.until("one", sandbox.Running)
			})
		})
	}
}

// TestTimes: lifetime, idle timeout and start timeout are in force, and a session holds off the second alone.
func TestTimes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		long, idle := request("long"), request("idle")
		long.Spec.Lifetime = time.Hour
		idle.Spec.IdleTimeout = 10 * time.Minute
		w.create(long)
		w.create(idle)
		w.until("idle", sandbox.Running)
		ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Minute)
		defer cancel()
		if _, err := w.m.Exec(ctx, "idle", sandbox.Exec{Command: []string{"sleep"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("exec: %v", err)
		}
		begun := time.Now()
		if s := w.until("idle", sandbox.Stopped); s.Run.Reason != sandbox.ReasonIdle {
			t.Errorf("idle: %s", show(s))
		}
		if d := time.Since(begun); d < 10*time.Minute || d > 11*time.Minute {
			t.Errorf("idle for %v", d)
		}
		s := w.until("long", sandbox.Stopped)
		if d := s.Run.Ended.Sub(s.Run.Started); s.Run.Reason != sandbox.ReasonLifetime || d < time.Hour || d > time.Hour+time.Minute {
			t.Errorf("after %v: %s", d, show(s))
		}
	})
}

// TestStartTimeout: what does not start is given up, and said why; the time that the cluster is away is not counted.
func TestStartTimeout(t *testing.T) {
	inWorld(t, func(w *world) {
		w.driver.Hold = true
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Starting)
		w.driver.Say(s.ID, func(o *sandbox.Observation) {
			o.Reason, o.Message = sandbox.ReasonImage, "no such image"
			o.Conditions = []sandbox.Condition{{Type: sandbox.ImageAvailable, Reason: sandbox.ReasonImage, Message: "no such image"}}
		})
		begun := time.Now()
		synctest.Wait()
		if s, _ := w.m.Find("one"); s.State != sandbox.Starting || s.Condition(sandbox.ImageAvailable).Status {
			t.Errorf("waiting for its image: %s", show(s))
		}
		s = w.until("one", sandbox.Failed)
		if d := time.Since(begun); s.Run.Reason != sandbox.ReasonImage || d < 9*time.Minute || d > 11*time.Minute {
			t.Errorf("after %v: %s", d, show(s))
		}
		if r := s.Condition(sandbox.Ready); !strings.Contains(r.Message, "no such image") {
			t.Errorf("message %q", r.Message)
		}
		if w.driver.Live() != 0 {
			t.Errorf("it still lives: %+v", w.driver.Runs())
		}
	})
}

// TestClusterAway: while the cluster does not answer states stay, and calls say so; all goes on when it is back.
func TestClusterAway(t *testing.T) {
	inWorld(t, func(w *world) {
		var mu sync.Mutex
		away := false
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return sandboxtest.Outcome{Err: fmt.Errorf("dial: %w", sandbox.ErrUnreachable)}
			}
			return sandboxtest.Outcome{}
		}
		set := func(is bool) { mu.Lock(); away = is; mu.Unlock() }
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		set(true)
		w.driver.BreakWatch(errors.New("connection reset"))
		w.create(request("two"))
		time.Sleep(30 * time.Minute)
		one, _ := w.m.Find("one")
		two, _ := w.m.Find("two")
		if one.State != sandbox.Running || one.Condition(sandbox.ClusterReached) == nil || one.Condition(sandbox.ClusterReached).Status {
			t.Errorf("one: %s", show(one))
		}
		if two.State != sandbox.Pending || two.Condition(sandbox.ClusterReached) == nil || two.Condition(sandbox.ClusterReached).Status {
			t.Errorf("two: %s", show(two))
		}
		if _, err := w.m.Exec(w.t.Context(), "one", sandbox.Exec{Command: []string{"echo"}}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("exec: %v", err)
		}
		if n := w.driver.Calls("prepare"); n > 60 {
			t.Errorf("%d attempts in half an hour", n)
		}
		set(false)
		two = w.until("two", sandbox.Running)
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		one, _ = w.m.Find("one")
		for _, s := range []*sandbox.Sandbox{one, two} {
			if c := s.Condition(sandbox.ClusterReached); s.State != sandbox.Running || c != nil && !c.Status {
				t.Errorf("after it was back: %s", show(s))
			}
		}
	})
}

// TestDeletedOutside: what somebody else ends is said to be so, and never made again by itself.
func TestDeletedOutside(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		w.driver.Lose(s.ID)
		s = w.until("one", sandbox.Failed)
		if s.Run.Reason != sandbox.ReasonDeleted {
			t.Errorf("%s", show(s))
		}
		time.Sleep(time.Hour)
		if n := w.driver.Made(s.ID); n != 1 {
			t.Errorf("%d runs were made", n)
		}
	})
}

// TestLostUnseen: a run that vanishes while nobody watches is found to be gone.
func TestLostUnseen(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		w.m.Close()
		w.driver.Lose(s.ID)
		w.open()
		if s := w.until("one", sandbox.Failed); s.Run.Reason != sandbox.ReasonDeleted {
			t.Errorf("%s", show(s))
		}
	})
}

// TestRefused: what the cluster refuses for good ends at once, with its reason; what its quota refuses is tried again.
func TestRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		var full atomic.Int32
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			switch {
			case c.Name != "create":
			case c.Task.Name == "bad":
				return sandboxtest.Outcome{Err: fault.Wrap(fault.Invalid, sandbox.ErrRefused, "the admission policy wants no tools")}
			case c.Task.Name == "odd":
				return sandboxtest.Outcome{Err: errors.New("json: cannot unmarshal")}
			case c.Task.Name == "full" && full.Add(1) < 6:
				return sandboxtest.Outcome{Err: fault.Wrap(fault.Conflict, sandbox.ErrQuota, "exceeded quota: pods")}
			}
			return sandboxtest.Outcome{}
		}
		w.open()
		w.create(request("bad"))
		begun := time.Now()
		s := w.until("bad", sandbox.Failed)
		if s.Run.Reason != sandbox.ReasonRefused || !strings.Contains(s.Condition(sandbox.Ready).Message, "no tools") || time.Since(begun) > time.Minute {
			t.Errorf("refused: %s", show(s))
		}
		w.create(request("odd"))
		s = w.until("odd", sandbox.Failed)
		if d := s.Run.Ended.Sub(s.Run.Begun); d < 10*time.Minute || d > 12*time.Minute || strings.Contains(s.Condition(sandbox.Ready).Message, "json") {
			t.Errorf("an answer that nobody understands, after %v: %s", d, show(s))
		}
		w.create(request("full"))
		synctest.Wait()
		s, _ = w.m.Find("full")
		if c := s.Condition(sandbox.Scheduled); s.State != sandbox.Pending || c == nil || c.Status || c.Reason != sandbox.ReasonQuota {
			t.Errorf("over the cluster's quota: %s", show(s))
		}
		s = w.until("full", sandbox.Running)
		if c := s.Condition(sandbox.Scheduled); c != nil && !c.Status {
			t.Errorf("running: %s", show(s))
		}
	})
}
