package sandbox_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// lookFor is how long is looked for runs that no record knows, once the cluster is reached: the grace, and a minute.
const lookFor = 3 * time.Minute

// wasAwake has the next owner told so, as if another had been before.
func (w *world) wasAwake() { w.config.Awake(true) }

// deleted has a sandbox live and be deleted.
func (w *world) deleted() {
	w.t.Helper()
	s := w.create(request("one"))
	w.until("one", sandbox.Running)
	w.ask(s.ID, sandbox.WantDeleted)
	w.untilGone(s.ID)
}

func (w *world) plant() { w.driver.Plant(sandbox.Task{Sandbox: uuid.NewString(), Nonce: "late"}) }

// TestOrphanWithoutSandboxes: a call of an owner that died after its last sandbox was gone makes a run. The next owner, which has no sandbox,
// finds it whenever the cluster is there to be asked, removes it under its claim after the grace, and then rests.
func TestOrphanWithoutSandboxes(t *testing.T) {
	for _, away := range []time.Duration{0, 10 * time.Second, time.Hour} {
		t.Run(fmt.Sprintf("the cluster is away for %v", away), func(t *testing.T) {
			inWorld(t, func(w *world) {
				var until atomic.Pointer[time.Time]
				w.driver.Fail = func(sandboxtest.Call) sandboxtest.Outcome {
					if u := until.Load(); u != nil && time.Now().Before(*u) {
						return sandboxtest.Outcome{Err: fault.Wrap(fault.Unavailable, sandbox.ErrUnreachable, "no route to host")}
					}
					return sandboxtest.Outcome{}
				}
				w.open()
				w.deleted()
				back := time.Now().Add(away)
				until.Store(&back)
				w.crash()
				time.Sleep(away + time.Minute)
				w.plant()
				time.Sleep(119 * time.Second)
				if n := w.driver.Live(); n != 1 {
					t.Errorf("%d live within the grace, want 1", n)
				}
				commits := w.store.Commits()
				time.Sleep(2 * time.Second)
				if left := w.driver.Runs(); len(left) > 0 && w.driver.Live() > 0 {
					t.Errorf("after the grace there is %+v", left)
				}
				if w.store.Commits() == commits {
					t.Error("it was removed without a record")
				}
				if !w.isAwake() {
					t.Error("not awake while it is removed")
				}
				time.Sleep(lookFor + time.Minute)
				if left := w.driver.Runs(); len(left) > 0 || w.isAwake() {
					t.Errorf("at the end: awake %v, runs %+v", w.isAwake(), left)
				}
			})
		})
	}
}

// TestAwakeAfterTheLastDeletion: an owner says that there is work for as long as a run may come of a call of unknown outcome: should it die,
// another is to look.
func TestAwakeAfterTheLastDeletion(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		w.deleted()
		time.Sleep(lookFor - time.Second)
		if !w.isAwake() {
			t.Error("not awake although it looks for runs")
		}
		time.Sleep(2 * time.Second)
		if w.isAwake() {
			t.Error("still awake after it has looked")
		}
	})
}

// TestNextOwnerRests: an owner that finds nothing after one that had work says so when it has looked for long enough, however often the watch
// breaks meanwhile, and also where the cluster does not let it look.
func TestNextOwnerRests(t *testing.T) {
	broken := errors.New("connection reset")
	noRight := fault.New(fault.Unavailable, "the gateway has no right to do so in the tenant's namespace")
	for name, c := range map[string]struct {
		watch error
		rests time.Duration
	}{
		"it sees nothing":      {nil, lookFor},
		"it is refused":        {noRight, lookFor + 30*time.Second}, // for which it waits for any list
		"it is never answered": {sandbox.ErrUnreachable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.driver.Fail = func(call sandboxtest.Call) sandboxtest.Outcome {
					if call.Name == "watch" {
						return sandboxtest.Outcome{Err: c.watch}
					}
					return sandboxtest.Outcome{}
				}
				w.wasAwake()
				w.open()
				begun := time.Now()
				for w.isAwake() && time.Since(begun) < 6*time.Hour {
					time.Sleep(50 * time.Second)
					w.driver.BreakWatch(broken)
				}
				after := time.Since(begun)
				if never := c.rests == 0; never && !w.isAwake() || !never && (after < c.rests || after > c.rests+90*time.Second) {
					t.Errorf("awake %v after %v, want it to rest after %v", w.isAwake(), after, c.rests)
				}
				if n := w.driver.Calls("watch"); n > 20+int(after/time.Minute) {
					t.Errorf("%d watches in %v", n, after)
				}
				n := w.driver.Calls("watch")
				time.Sleep(time.Hour)
				if more := w.driver.Calls("watch") - n; c.rests > 0 && more > 0 {
					t.Errorf("%d more watches by who rests", more)
				}
			})
		})
	}
}

// TestNothingIsWatchedForNothing: a tenant that has no sandboxes, and whose last owner had no work, costs its driver nothing.
func TestNothingIsWatchedForNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		time.Sleep(time.Hour)
		if n := w.driver.Calls("watch"); n != 0 || w.isAwake() {
			t.Errorf("awake %v after %d watches", w.isAwake(), n)
		}
	})
}

// TestReachedAtRest: a sandbox whose release failed once says that the cluster is reached as soon as it is, also if it stays at rest.
func TestReachedAtRest(t *testing.T) {
	inWorld(t, func(w *world) {
		var away atomic.Bool
		away.Store(true)
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			if c.Name == "release" && away.Load() {
				return sandboxtest.Outcome{Err: sandbox.ErrUnreachable}
			}
			return sandboxtest.Outcome{}
		}
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		w.ask(s.ID, sandbox.WantStopped)
		w.until("one", sandbox.Stopped)
		time.Sleep(time.Minute)
		s, _ = w.m.Find("one")
		if c := s.Condition(sandbox.ClusterReached); c == nil || c.Status {
			t.Errorf("while it cannot be released: %s", show(s))
		}
		away.Store(false)
		time.Sleep(10 * time.Minute)
		s, _ = w.m.Find("one")
		if c := s.Condition(sandbox.ClusterReached); c == nil || !c.Status || !s.AtRest() || len(w.driver.Runs()) > 0 || w.isAwake() {
			t.Errorf("after it was released: awake %v, runs %+v, %s", w.isAwake(), w.driver.Runs(), show(s))
		}
	})
}

// TestLoopEnds: a tenant whose sandboxes are at rest costs its driver nothing either, and a start long after is not told that the cluster is away.
func TestLoopEnds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		w.ask(s.ID, sandbox.WantStopped)
		w.until("one", sandbox.Stopped)
		time.Sleep(lookFor + time.Minute)
		n := w.driver.Calls("watch")
		time.Sleep(time.Hour)
		if more := w.driver.Calls("watch") - n; more != 0 || w.isAwake() {
			t.Errorf("awake %v, and %d more watches of a tenant at rest", w.isAwake(), more)
		}
		w.ask(s.ID, sandbox.WantRunning)
		if s = w.until("one", sandbox.Running); s.Condition(sandbox.ClusterReached) != nil {
			t.Errorf("started long after: %s", show(s))
		}
	})
}

// TestRefusedCommit: what was about to make work and is refused by the store leaves nobody awake; what was stored although the answer was lost is
// gone on with, also if nobody asks again.
func TestRefusedCommit(t *testing.T) {
	refused := func(int, []tenant.Write) error { return fault.New(fault.Conflict, "over the quota of stored bytes") }
	for name, stored := range map[string]bool{"it is refused": false, "its answer is lost": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				if stored {
					w.store.After = func(n int, _ []tenant.Write) error {
						if n == 1 {
							return errors.New("context deadline exceeded")
						}
						return nil
					}
				} else {
					w.store.Before = refused
				}
				w.open()
				time.Sleep(time.Minute)
				if _, _, err := w.m.Create(w.t.Context(), request("one"), w.store.Write); err == nil {
					t.Fatal("it was stored, and said to be")
				}
				time.Sleep(lookFor + time.Minute)
				if w.isAwake() != stored || w.driver.Live() > 0 != stored || len(w.m.Snapshot()) > 0 != stored {
					t.Errorf("awake %v, runs %+v, sandboxes %d", w.isAwake(), w.driver.Runs(), len(w.m.Snapshot()))
				}
			})
		})
	}
}
