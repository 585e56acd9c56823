package vgw_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/placement"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// A drain gives away what is in use, and closes the rest.
func TestDrainAll(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		f.add("idle")
		f.have(a, "idle", "s")
		time.Sleep(time.Minute)
		f.listed(a, "team")
		got := map[tenant.ID]string{}
		err := a.mux.DrainAll(t.Context(), func(tenant.ID) (string, bool) { return "b", true }, func(id tenant.ID, to string, err error) {
			if err != nil {
				t.Errorf("%s: %v", id, err)
			}
			got[id] = to
		})
		if err != nil || len(got) != 2 || got["team"] != "b" || got["idle"] != "" {
			t.Errorf("drained %v, %v", got, err)
		}
		if open := a.mux.Open(); len(open) != 0 {
			t.Errorf("still open: %v", open)
		}
		synctest.Wait()
		if n := b.store.Index().OwnedCount("a"); n != 0 {
			t.Errorf("a still owns %d tenants", n)
		}
	})
}

func TestDrainWithoutAnotherReplica(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, _ *node) {
		err := a.mux.DrainAll(t.Context(), func(tenant.ID) (string, bool) { return "", false }, nil)
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("drained to nobody: %v", err)
		}
		if got := f.listed(a, "team"); got != "s" {
			t.Errorf("listed %q", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		tries := 0
		err = a.mux.DrainAll(ctx, func(tenant.ID) (string, bool) { return "nobody", true }, func(tenant.ID, string, error) { tries++ })
		if !fault.Is(err, fault.Unavailable) || tries < 3 {
			t.Errorf("drained to who is not there: %v after %d tries", err, tries)
		}
	})
}

// After another replica joined, tenants move to it, not faster than allowed, until nobody has too many; then none moves.
func TestRebalance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "a", "b")
		a := f.node("a")
		for i := range 20 {
			id := tenant.ID("t" + string(rune('a'+i)))
			f.add(id)
			f.have(f.nodes[i%2], id, "s")
		}
		c := f.join("c")
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, n := range f.nodes {
			r, err := vgw.NewRebalancer(vgw.RebalancerConfig{
				Mux: n.mux, Self: n.name, Nodes: func() []placement.Node { return nodesOf(n.store) }, Moves: 2, Interval: time.Second,
				Logger: slog.New(slog.DiscardHandler),
				Owned:  func() []tenant.ID { return n.store.Index().OwnedBy(n.name) }, Changed: n.store.Index().Changed, Entry: n.store.Index().ByID,
			})
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { _ = r.Run(ctx) })
		}
		time.Sleep(1100 * time.Millisecond)
		if n := a.store.Index().OwnedCount("c"); n == 0 || n > 2 {
			t.Errorf("%d tenants moved within 100 ms of the first look, at 2 a second by 2 replicas", n)
		}
		time.Sleep(5 * time.Second)
		even := a.store.Index().OwnedCount("c")
		if even < 5 || even > 7 {
			t.Errorf("who joined has %d of 20 tenants", even)
		}
		if st := c.mux.Stats(); st.Open != even {
			t.Errorf("of %d tenants that were handed over, %d are open", even, st.Open)
		}
		time.Sleep(20 * time.Second)
		if n := a.store.Index().OwnedCount("c"); n != even {
			t.Errorf("it went on to %d", n)
		}
		cancel()
		wg.Wait()
		for _, n := range f.nodes {
			n.stop()
		}
	})
}
