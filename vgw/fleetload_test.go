package vgw_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// load is clients of many tenants, each by the front of any replica, and a record of what was acknowledged to them.
type load struct {
	f       *fleet
	tenants []tenant.ID
	stop    atomic.Bool
	asked   atomic.Int64
	moved   atomic.Int64
	drained atomic.Int64

	mu      sync.Mutex
	failed  []string
	relays  int
	took    []time.Duration
	pending map[tenant.ID][]string // acknowledged: these servers are there
}

// client works for one tenant alone, so that it knows what there is to be.
func (l *load) client(seed int, id tenant.ID) {
	rng := rand.New(rand.NewPCG(uint64(seed), 7))
	var have []string
	for n := 0; !l.stop.Load(); n++ {
		via := l.f.nodes[rng.IntN(3)]
		switch kind := rng.IntN(10); {
		case kind < 3 && len(have) < 8 || len(have) == 0:
			name := fmt.Sprintf("c%d-%d", seed, n)
			if l.ask(via, id, server(name)) {
				have = append(have, name)
			}
		case kind < 5:
			i := rng.IntN(len(have))
			if l.ask(via, id, del("/api/v1/servers/"+have[i])) {
				have = slices.Delete(have, i, i+1)
			}
		case kind < 7:
			l.relay(via, id, have[rng.IntN(len(have))])
		default:
			l.ask(via, id, get("/api/v1/servers/"+have[rng.IntN(len(have))]))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending[id] = append(l.pending[id], have...)
}

// ask asks for something that has to work.
func (l *load) ask(via *node, id tenant.ID, q request) bool {
	began := time.Now()
	_, err := l.f.ask(context.Background(), via, id, q)
	l.note(q, began, err)
	return err == nil
}

func (l *load) note(q request, began time.Time, err error) {
	l.asked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, time.Since(began))
	if err != nil {
		l.failed = append(l.failed, fmt.Sprintf("%s %s: %v", q.method, q.path, err))
	}
}

// relay begins a relay, lets it run for a moment, and wants it not to be broken off.
func (l *load) relay(via *node, id tenant.ID, name string) {
	began := time.Now()
	q := request{method: "POST", path: "/servers/" + name + "/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`}
	d, err := l.f.through(context.Background(), via, id, q)
	r, ok := d.(*exchange.Relay)
	if err == nil && !ok {
		err = fmt.Errorf("decided %T", d)
	}
	l.note(q, began, err)
	if err != nil {
		return
	}
	select {
	case <-r.Live.Done():
		l.note(q, began, fmt.Errorf("the relay ended: %w", context.Cause(r.Live)))
	case <-time.After(time.Millisecond):
	}
	r.Done(exchange.Outcome{Status: 200})
	l.mu.Lock()
	l.relays++
	l.mu.Unlock()
}

// mover moves tenants back and forth, and returns how long each move took.
func (l *load) mover(seed uint64, made *[]time.Duration) {
	rng := rand.New(rand.NewPCG(seed, 8))
	for !l.stop.Load() {
		id := l.tenants[rng.IntN(len(l.tenants))]
		n := l.f.nodes[rng.IntN(3)]
		to := l.f.nodes[rng.IntN(3)].name
		if to == n.name {
			continue
		}
		began := time.Now()
		err := n.mux.Move(context.Background(), id, to)
		switch {
		case errors.Is(err, vgw.ErrNotOpen):
		case err != nil:
			l.mu.Lock()
			l.failed = append(l.failed, fmt.Sprintf("move %s from %s to %s: %v", id, n.name, to, err))
			l.mu.Unlock()
		default:
			*made = append(*made, time.Since(began))
			l.moved.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}

// drainer empties one replica after the other.
func (l *load) drainer() {
	for i := 0; !l.stop.Load(); i++ {
		n := l.f.nodes[i%3]
		ctx := context.Background()
		if err := n.store.SetDraining(ctx, true); err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		picked := 0
		_ = n.mux.DrainAll(ctx, func(tenant.ID) (string, bool) {
			picked++
			return l.f.nodes[(i+1+picked%2)%3].name, true
		}, func(_ tenant.ID, to string, err error) {
			if err == nil && to != "" {
				l.drained.Add(1)
			}
		})
		cancel()
		_ = n.store.SetDraining(context.Background(), false)
		time.Sleep(50 * time.Millisecond)
	}
}

// Three replicas on one store, tenants that move and drain under load: no request fails, and nothing that was acknowledged is
// lost.
func TestMovesUnderLoad(t *testing.T) {
	f := newFleet(t, "a", "b", "c")
	l := &load{f: f, pending: map[tenant.ID][]string{}}
	for i := range 8 {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		f.add(id)
		l.tenants = append(l.tenants, id)
	}
	var clients, movers sync.WaitGroup
	for i, id := range l.tenants {
		clients.Go(func() { l.client(2*i, id) })
		clients.Go(func() { l.client(2*i+1, id) })
	}
	var moves []time.Duration
	movers.Go(func() { l.mover(1, &moves) })
	movers.Go(l.drainer)
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(10 * time.Millisecond) {
		if l.moved.Load() >= 50 && l.drained.Load() >= 20 && l.asked.Load() > 2000 {
			break
		}
	}
	l.stop.Store(true)
	movers.Wait()
	clients.Wait()
	for i, why := range l.failed {
		if i < 5 {
			t.Error(why)
		}
	}
	for _, id := range l.tenants {
		l.check(t, id)
	}
	if len(moves) < 50 || l.drained.Load() < 20 || l.relays == 0 {
		t.Errorf("only %d moves, %d drained tenants and %d relays in a minute", len(moves), l.drained.Load(), l.relays)
	}
	slices.Sort(l.took)
	slices.Sort(moves)
	t.Logf("%d requests (%d failed), p50 %v, p99 %v, p99.9 %v, most %v; %d moves, p50 %v, p99 %v; %d tenants drained",
		l.asked.Load(), len(l.failed), at(l.took, 0.5), at(l.took, 0.99), at(l.took, 0.999), at(l.took, 1), len(moves), at(moves, 0.5), at(moves, 0.99), l.drained.Load())
}

// check compares what a tenant has with what was acknowledged, at whoever owns it and in the store.
func (l *load) check(t *testing.T, id tenant.ID) {
	t.Helper()
	slices.Sort(l.pending[id])
	want := strings.Join(l.pending[id], ",")
	body, err := l.f.ask(t.Context(), l.f.nodes[0], id, get("/servers"))
	if err != nil {
		t.Fatalf("the servers of %s: %v", id, err)
	}
	if got := namesIn(body); got != want {
		t.Errorf("%s has the servers %s; acknowledged are %s", id, got, want)
	}
}

// at returns a quantile of sorted durations.
func at(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// What a client of a tenant that moves notices, while nothing else goes on: the longest of its requests, by way of the
// replica that the tenant leaves.
func BenchmarkMovePause(b *testing.B) {
	f := newFleet(b, "a", "b", "c")
	f.add("team")
	f.have(f.nodes[0], "team", "s")
	var pauses []time.Duration
	for i := range b.N {
		from, to := f.nodes[i%3], f.nodes[(i+1)%3]
		done := make(chan error, 1)
		go func() { done <- from.mux.Move(context.Background(), "team", to.name) }()
		var longest time.Duration
		for moved := false; !moved; {
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(err)
				}
				moved = true // and one request more
			default:
			}
			began := time.Now()
			if _, err := f.ask(context.Background(), from, "team", get("/servers")); err != nil {
				b.Fatal(err)
			}
			longest = max(longest, time.Since(began))
		}
		pauses = append(pauses, longest)
	}
	slices.Sort(pauses)
	b.ReportMetric(float64(at(pauses, 0.5).Microseconds()), "p50-µs")
	b.ReportMetric(float64(at(pauses, 0.99).Microseconds()), "p99-µs")
}
