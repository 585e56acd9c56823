package sandbox_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// TestQuotaHoldsForManyAtOnce: a quota is checked and used as one act, however slow the store. In real time: a bubble's stands still while
// one waits for a lock.
func TestQuotaHoldsForManyAtOnce(t *testing.T) {
	store := sandboxtest.NewStore()
	slow := func(w ...tenant.Write) error {
		<-time.After(2 * time.Millisecond)
		return store.Write(w...)
	}
	of := acme()
	of.Quotas.MaxSandboxes = 5
	m, err := sandbox.Open(t.Context(), sandbox.Config{Driver: sandboxtest.NewStaged(), Store: store, Tenant: of})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if _, _, err := m.Create(t.Context(), request(fmt.Sprint("s", i)), slow); err != nil && !fault.Is(err, fault.Conflict) {
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(m.Snapshot()); n != 5 {
		t.Errorf("%d sandboxes, the quota allows 5", n)
	}
}

// TestListBeforeCreate: a list that was made before a run was, and is told after, does not show that the run is gone.
func TestListBeforeCreate(t *testing.T) {
	inWorld(t, func(w *world) {
		w.driver.Hold = true
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			if c.Name == "list" || c.Name == "follow" {
				return sandboxtest.Outcome{Delay: 3 * time.Second}
			}
			return sandboxtest.Outcome{}
		}
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Starting)
		time.Sleep(time.Minute)
		w.driver.Start(s.ID)
		if s = w.until("one", sandbox.Running); s.Runs != 1 || w.driver.Made(s.ID) != 1 {
			t.Errorf("%s", show(s))
		}
	})
}

// TestStartLetsGoOfTheLastRun: a start that comes before what the last run left is removed has it removed first. Else no record knows of it any
// more, and a loop of stops and starts fills the place with what waits to be taken for orphans.
func TestStartLetsGoOfTheLastRun(t *testing.T) {
	for name, end := range map[string]func(w *world, id string){
		"it was stopped":     func(w *world, id string) { w.ask(id, sandbox.WantStopped) },
		"it ended by itself": func(w *world, id string) { w.driver.End(id, 0, sandbox.ReasonCompleted) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
					if c.Name == "release" && c.N <= 3 {
						return sandboxtest.Outcome{Err: errors.New("connection reset")}
					}
					return sandboxtest.Outcome{}
				}
				w.open()
				s := w.create(request("one"))
				w.until("one", sandbox.Running)
				end(w, s.ID)
				w.until("one", sandbox.Stopped)
				if s := w.ask(s.ID, sandbox.WantRunning); s.State != sandbox.Pending || s.Want != sandbox.WantRunning {
					t.Errorf("started: %s", show(s))
				}
				w.until("one", sandbox.Running)
				if left := w.driver.Runs(); len(left) != 1 || w.driver.Made(s.ID) != 2 {
					t.Errorf("%d runs were made, and there are %+v", w.driver.Made(s.ID), left)
				}
				if n := w.driver.Calls("release"); n != 4 {
					t.Errorf("%d releases, want one that works after three that fail", n)
				}
			})
		})
	}
}

// TestOpenedWhileTheClusterIsAway: what waits to be forgotten or begun, of which the next owner can see nothing for long, is not given up.
func TestOpenedWhileTheClusterIsAway(t *testing.T) {
	for _, want := range []sandbox.Want{sandbox.WantDeleted, sandbox.WantRunning} {
		t.Run(string(want), func(t *testing.T) {
			inWorld(t, func(w *world) {
				var released, away atomic.Bool
				w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
					if away.Load() || c.Name == "release" && !released.Load() {
						return sandboxtest.Outcome{Err: sandbox.ErrUnreachable}
					}
					return sandboxtest.Outcome{}
				}
				w.open()
				s := w.create(request("one"))
				w.until("one", sandbox.Running)
				w.ask(s.ID, sandbox.WantStopped)
				w.until("one", sandbox.Stopped)
				w.ask(s.ID, want)
				away.Store(true)
				w.crash()
				time.Sleep(30 * time.Minute)
				s, _ = w.m.Find(s.ID)
				if c := s.Condition(sandbox.ClusterReached); s.AtRest() || c == nil || c.Status || !w.isAwake() {
					t.Errorf("while the cluster is away: awake %v, %s", w.isAwake(), show(s))
				}
				released.Store(true)
				away.Store(false)
				if want == sandbox.WantDeleted {
					w.untilGone(s.ID)
				} else if s = w.until(s.ID, sandbox.Running); s.Runs != 2 || len(w.driver.Runs()) != 1 {
					t.Errorf("started: %s, beside %+v", show(s), w.driver.Runs())
				}
			})
		})
	}
}

// TestUnknownCommit: what a commit of unknown outcome may have made is looked for before the next.
func TestUnknownCommit(t *testing.T) {
	inWorld(t, func(w *world) {
		w.store.After = func(n int, _ []tenant.Write) error {
			if n == 1 {
				return errors.New("context deadline exceeded")
			}
			return nil
		}
		w.open()
		if _, _, err := w.m.Create(w.t.Context(), request("one"), w.store.Write); err == nil {
			t.Fatal("the answer was not lost")
		}
		if _, _, err := w.m.Create(w.t.Context(), request("one"), w.store.Write); !fault.Is(err, fault.Conflict) {
			t.Errorf("another of its name: %v", err)
		}
		w.until("one", sandbox.Running)
	})
}
