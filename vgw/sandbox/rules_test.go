package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// TestQuotas: each quota refuses by its name, with what is used, asked for and allowed; what ends makes room.
func TestQuotas(t *testing.T) {
	for _, c := range []struct {
		quotas tenant.Quotas
		res    sandbox.Resources
		fit    int
		words  []string
	}{
		{tenant.Quotas{MaxSandboxes: 2}, sandbox.Resources{CPU: 100}, 2, []string{"max_sandboxes", "2 exist", "2 are allowed"}},
		{tenant.Quotas{SandboxCPU: 1200}, sandbox.Resources{CPU: 500}, 2, []string{"sandbox_cpu", "1 are in use", "500m asked", "of 1200m"}},
		{tenant.Quotas{SandboxMemory: 2 << 30}, sandbox.Resources{Memory: 1 << 30}, 2, []string{"sandbox_memory", "2Gi are in use", "1Gi asked"}},
		{tenant.Quotas{SandboxStorage: 1 << 30}, sandbox.Resources{Storage: 1 << 29}, 2, []string{"sandbox_storage"}},
		{tenant.Quotas{SandboxGPUs: 3}, sandbox.Resources{GPUs: map[string]int64{"nvidia.com/gpu": 1, "amd.com/gpu": 1}}, 1, []string{"sandbox_gpus", "2 are in use", "2 asked", "of 3"}},
		{tenant.Quotas{}, sandbox.Resources{GPUs: map[string]int64{"nvidia.com/gpu": 1}}, 0, []string{"sandbox_gpus", "have the operator raise the quota"}},
	} {
		inWorld(t, func(w *world) {
			w.config.Tenant.Quotas = c.quotas
			w.open()
			for i := range c.fit {
				s := request(fmt.Sprint("s", i))
				s.Spec.Resources = c.res
				w.create(s)
			}
			more := request("more")
			more.Spec.Resources = c.res
			_, _, err := w.m.Create(w.t.Context(), more, w.store.Write)
			if !fault.Is(err, fault.Conflict) {
				t.Fatalf("%+v: the %d. was let in: %v", c.quotas, c.fit+1, err)
			}
			for _, word := range c.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%q does not say %q", err, word)
				}
			}
			if c.fit == 0 {
				return
			}
			w.ask("s0", sandbox.WantDeleted)
			ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
			defer cancel()
			if _, err := w.m.Wait(ctx, "s0", func(s *sandbox.Sandbox) bool { return s == nil }); err != nil {
				t.Fatalf("wait: %v", err)
			}
			w.create(more)
		})
	}
}

// TestQuotaOfStart: what is stopped makes room, and has to find room again.
func TestQuotaOfStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.Tenant.Quotas = tenant.Quotas{SandboxCPU: 500}
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		w.ask("one", sandbox.WantStopped)
		w.until("one", sandbox.Stopped)
		w.create(request("two"))
		if _, err := w.m.Ask(w.t.Context(), "one", sandbox.WantRunning, nil, w.store.Write); !fault.Is(err, fault.Conflict) {
			t.Errorf("start beside another: %v", err)
		}
		w.until("two", sandbox.Running)
		w.ask("two", sandbox.WantStopped)
		w.until("two", sandbox.Stopped)
		w.ask("one", sandbox.WantRunning)
		w.until("one", sandbox.Running)
	})
}

// TestAsk: asking again changes nothing and writes nothing; a start during a stop is a restart; what is deleted cannot be started.
func TestAsk(t *testing.T) {
	inWorld(t, func(w *world) {
		w.driver.Linger = 5 * time.Second
		w.open()
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		synctest.Wait()
		n := w.store.Commits()
		if again := w.ask("one", sandbox.WantRunning); again.State != sandbox.Running || w.store.Commits() != n {
			t.Errorf("start of what runs: %s, %d commits", show(again), w.store.Commits()-n)
		}
		wrong := fault.New(fault.PreconditionFailed, "no")
		if _, err := w.m.Ask(w.t.Context(), s.ID, sandbox.WantStopped, func(int64) error { return wrong }, w.store.Write); !errors.Is(err, wrong) {
			t.Errorf("against a precondition: %v", err)
		}
		w.ask(s.ID, sandbox.WantStopped)
		w.ask(s.ID, sandbox.WantStopped)
		if s := w.ask(s.ID, sandbox.WantRunning); s.State != sandbox.Stopping || s.Want != sandbox.WantRunning {
			t.Errorf("start during a stop: %s", show(s))
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
		defer cancel()
		if s, err := w.m.Wait(ctx, "one", func(s *sandbox.Sandbox) bool { return s.Runs == 2 && s.State == sandbox.Running }); err != nil {
			t.Errorf("a restart: %v: %s", err, show(s))
		}
		w.ask(s.ID, sandbox.WantDeleted)
		if _, err := w.m.Ask(w.t.Context(), "one", sandbox.WantRunning, nil, w.store.Write); !fault.Is(err, fault.Conflict) {
			t.Errorf("start of what is being deleted: %v", err)
		}
		if _, _, err := w.m.Create(w.t.Context(), request("one"), w.store.Write); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "being deleted") {
			t.Errorf("its name is taken by another: %v", err)
		}
		w.untilGone(s.ID)
		if _, err := w.m.Ask(w.t.Context(), "one", sandbox.WantRunning, nil, w.store.Write); !fault.Is(err, fault.NotFound) {
			t.Errorf("start of what is gone: %v", err)
		}
	})
}

// TestOrphans: a run that no record knows is removed after a grace, under the claim, and not before.
func TestOrphans(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		w.driver.Plant(sandbox.Task{Sandbox: uuid.NewString(), Nonce: "stray"})
		time.Sleep(119 * time.Second)
		if n := w.driver.Live(); n != 2 {
			t.Errorf("%d live within the grace, want 2", n)
		}
		commits := w.store.Commits()
		time.Sleep(2 * time.Minute)
		if n := len(w.driver.Runs()); n != 1 {
			t.Errorf("%d runs after the grace, want 1", n)
		}
		if w.store.Commits() == commits {
			t.Error("it was removed without a record")
		}
		if s, _ := w.m.Find("one"); s.State != sandbox.Running {
			t.Errorf("the other: %s", show(s))
		}
	})
}

// TestOrphansOfTheNextOwner: a replica that lost its claim takes nothing for an orphan, not even what it knows nothing of.
func TestOrphansOfTheNextOwner(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		w.store.Lose()
		w.driver.Plant(sandbox.Task{Sandbox: uuid.NewString(), Nonce: "of the next owner"})
		time.Sleep(time.Hour)
		if n := w.driver.Live(); n != 2 {
			t.Errorf("%d live, want 2: a replica without a claim removed one", n)
		}
		if n := w.driver.Calls("remove"); n != 0 {
			t.Errorf("%d removals", n)
		}
	})
}

// TestStoreAway: what cannot be stored is not done, and done when it can be.
func TestStoreAway(t *testing.T) {
	inWorld(t, func(w *world) {
		var away atomic.Bool
		w.store.Before = func(int, []tenant.Write) error {
			if away.Load() {
				return fault.New(fault.Unavailable, "no leader")
			}
			return nil
		}
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		away.Store(true)
		if _, _, err := w.m.Create(w.t.Context(), request("two"), w.store.Write); !fault.Is(err, fault.Unavailable) {
			t.Errorf("create: %v", err)
		}
		if _, err := w.m.Ask(w.t.Context(), "one", sandbox.WantStopped, nil, w.store.Write); !fault.Is(err, fault.Unavailable) {
			t.Errorf("stop: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if w.driver.Calls("create") != 1 || w.driver.Calls("remove") != 0 {
			t.Error("something was done that is not stored")
		}
		one, _ := w.m.Find("one")
		w.driver.End(one.ID, 1, sandbox.ReasonError)
		time.Sleep(20 * time.Minute)
		if w.driver.Calls("release") != 0 {
			t.Error("an end was released that is not stored")
		}
		away.Store(false)
		w.until("one", sandbox.Failed)
	})
}

// TestSessions: they are bounded, refused where nothing runs, and outlive the manager; the driver is closed after the last.
func TestSessions(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.MaxSessions = 2
		w.driver.Hold = true
		w.open()
		s := w.create(request("one"))
		if _, err := w.m.Exec(w.t.Context(), "one", sandbox.Exec{Command: []string{"echo"}}); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "wait until it runs") {
			t.Errorf("exec before it runs: %v", err)
		}
		if _, err := w.m.Exec(w.t.Context(), "none", sandbox.Exec{}); !fault.Is(err, fault.NotFound) {
			t.Errorf("exec in what is not there: %v", err)
		}
		w.until("one", sandbox.Starting)
		w.driver.Start(s.ID)
		w.until("one", sandbox.Running)
		ctx, cancel := context.WithCancel(w.t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := w.m.Exec(ctx, "one", sandbox.Exec{Command: []string{"sleep"}}); !errors.Is(err, context.Canceled) {
					t.Errorf("a session ended with %v", err)
				}
			})
		}
		synctest.Wait()
		if _, err := w.m.Logs(w.t.Context(), "one", sandbox.LogQuery{Tail: -1}); !fault.Is(err, fault.RateLimited) {
			t.Errorf("one session more: %v", err)
		}
		w.m.Close()
		if _, err := w.m.Exec(w.t.Context(), "one", sandbox.Exec{}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("a session of a closed manager: %v", err)
		}
		synctest.Wait()
		if w.driver.Closed() != 0 {
			t.Error("the driver was closed under its sessions")
		}
		cancel()
		wg.Wait()
		if w.driver.Closed() != 1 {
			t.Errorf("the driver was closed %d times after the last session", w.driver.Closed())
		}
		w.m.Close()
		w.m = nil
	})
}

// TestWatch: a watcher gets every change in order; one that is too slow, or comes from another owner, is told to list anew.
func TestWatch(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		all, slow := w.m.Watch(0), w.m.Watch(0)
		s := w.create(request("one"))
		w.until("one", sandbox.Running)
		w.ask("one", sandbox.WantDeleted)
		w.untilGone(s.ID)
		var states []string
		last := int64(0)
		for {
			c, err := all.Next(w.t.Context())
			if err != nil || c.Version <= last {
				t.Fatalf("%+v after %d, %v", c, last, err)
			}
			last = c.Version
			if c.Kind == sandbox.ChangeDeleted {
				break
			}
			states = append(states, string(c.Sandbox.State))
		}
		if got, want := strings.Join(states, " "), "Pending Starting Running Deleting Deleting"; got != want && got != "Pending Running Deleting Deleting" {
			t.Errorf("states %q, want %q", got, want)
		}
		if got := w.m.Version(); got != last {
			t.Errorf("version %d, want that of the last change, %d", got, last)
		}
		for i := range 300 {
			s := w.create(request(fmt.Sprint("s", i)))
			w.until(s.ID, sandbox.Running)
			w.ask(s.ID, sandbox.WantDeleted)
			w.untilGone(s.ID)
		}
		if c, err := slow.Next(w.t.Context()); err != nil || c.Kind != sandbox.ChangeResync {
			t.Errorf("a slow watcher: %+v, %v", c, err)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if c, err := slow.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after its resync: %+v, %v", c, err)
		}
		last = w.m.Version()
		w.crash()
		if c, err := w.m.Watch(last).Next(w.t.Context()); err != nil || c.Kind != sandbox.ChangeResync {
			t.Errorf("from another owner: %+v, %v", c, err)
		}
		closed := w.m.Watch(0)
		w.m.Close()
		if _, err := closed.Next(w.t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("of a closed manager: %v", err)
		}
	})
}

// TestForgets: what hangs on a sandbox goes in the transaction of its record.
func TestForgets(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.Forgets = func(s *sandbox.Sandbox) []tenant.Write { return []tenant.Write{{Kind: "grant", ID: s.ID}} }
		var mu sync.Mutex
		together := false
		w.store.Before = func(_ int, all []tenant.Write) error {
			mu.Lock()
			defer mu.Unlock()
			gone := map[string]bool{}
			for _, x := range all {
				gone[x.Kind] = gone[x.Kind] || x.Value == nil
			}
			if gone[sandbox.Kind] != gone["grant"] {
				return errors.New("the one without the other")
			}
			together = together || gone["grant"]
			return nil
		}
		w.open()
		s := w.create(request("one"))
		w.ask("one", sandbox.WantDeleted)
		w.untilGone(s.ID)
		mu.Lock()
		defer mu.Unlock()
		if !together {
			t.Error("nothing went with the record")
		}
	})
}

// TestLogsCount: a log that is read to its end and closed is a session that ended.
func TestLogsCount(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.MaxSessions = 1
		w.open()
		s := request("one")
		s.Spec.Command = []string{"lines", "3"}
		w.create(s)
		w.until("one", sandbox.Stopped)
		for range 3 {
			r, err := w.m.Logs(w.t.Context(), "one", sandbox.LogQuery{Tail: -1})
			if err != nil {
				t.Fatalf("logs: %v", err)
			}
			text, err := io.ReadAll(r)
			if err != nil || string(text) != "line 1\nline 2\nline 3\n" {
				t.Errorf("read %q, %v", text, err)
			}
			if err := errors.Join(r.Close(), r.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
}

// TestRenew: new quotas and another driver are in force at once, and runs go on.
func TestRenew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.open()
		w.create(request("one"))
		w.until("one", sandbox.Running)
		of := acme()
		of.Quotas.MaxSandboxes = 1
		w.m.Renew(w.driver, of, sandbox.Rules{DefaultImage: "other"})
		if _, _, err := w.m.Create(w.t.Context(), request("two"), w.store.Write); !fault.Is(err, fault.Conflict) {
			t.Errorf("over the new quota: %v", err)
		}
		if s, err := w.m.Judge(sandbox.Spec{Resources: sandbox.Resources{CPU: 100, Memory: 1 << 30, Storage: 1 << 30}}); err != nil || s.Image != "docker.io/library/other" {
			t.Errorf("by the new rules: %+v, %v", s, err)
		}
		one, _ := w.m.Find("one")
		w.driver.End(one.ID, 0, sandbox.ReasonCompleted)
		w.until("one", sandbox.Stopped)
	})
}

// TestManyAtOnce: 200 at a time all come to run, with no more calls at once than are allowed.
func TestManyAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config.Tenant.Quotas = tenant.Quotas{}
		var at, most atomic.Int64
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			if c.Name != "create" {
				return sandboxtest.Outcome{}
			}
			for n := at.Add(1); ; {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			time.AfterFunc(99*time.Millisecond, func() { at.Add(-1) })
			return sandboxtest.Outcome{Delay: 100 * time.Millisecond}
		}
		w.open()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() { w.create(request(fmt.Sprint("s", i))) })
		}
		wg.Wait()
		for i := range 200 {
			w.until(fmt.Sprint("s", i), sandbox.Running)
		}
		if most.Load() > 8 {
			t.Errorf("%d calls at once, want at most 8", most.Load())
		}
	})
}
