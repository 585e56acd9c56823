package sandbox_test

import (
	"errors"
	"fmt"
	"sync"
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
