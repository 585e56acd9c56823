package vgw_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Invariant 6: an active idle tenant costs at most 16 KiB and no goroutine.
func TestIdleGatewayIsSmall(t *testing.T) {
	bytes, goroutines := idleCost(t, 1000)
	if bytes > 16<<10 {
		t.Errorf("an idle gateway holds %d bytes, want at most %d", bytes, 16<<10)
	}
	if goroutines > 5 {
		t.Errorf("1000 idle gateways hold %d goroutines", goroutines)
	}
}

// BenchmarkIdleGateway says what an open idle gateway with one server holds.
func BenchmarkIdleGateway(b *testing.B) {
	for b.Loop() {
		bytes, goroutines := idleCost(b, 2000)
		b.ReportMetric(float64(bytes), "B/gateway")
		b.ReportMetric(float64(goroutines)/2000, "goroutines/gateway")
	}
}

// idleCost opens n gateways with one server and one sealed header each, and returns what they hold, less the store.
func idleCost(t testing.TB, n int) (bytes, goroutines int64) {
	t.Helper()
	w := newWorld(t)
	for i := range n {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		w.store.add(id)
		w.as(tenant.Admin, id, request{method: "POST", path: "/api/v1/servers", body: goodServer})
	}
	open, g := heap(), int64(runtime.NumGoroutine())
	for i := range n {
		id := tenant.ID(fmt.Sprintf("t%d", i))
		w.mux.Changed(id, nil)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.mux.Run(ctx)
	closed := heap()
	runtime.KeepAlive(w)
	return (open - closed) / int64(n), g - int64(runtime.NumGoroutine())
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkDecide(b *testing.B) {
	w := newWorld(b)
	e := w.store.add("team-a")
	w.addServer(b, "team-a", "s", "http://127.0.0.1:1/")
	p := w.principal("team-a", tenant.Editor)
	q := request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello"}}}`}
	b.ReportAllocs()
	for b.Loop() {
		v, _ := w.guards.For(e).Enter(p, guard.Request{ID: "req-1"})
		d, err := w.mux.Decide(b.Context(), e, q.exchange(v))
		if err != nil {
			b.Fatal(err)
		}
		d.(*exchange.Relay).Done(exchange.Outcome{Status: 200})
		v.Leave()
		w.rec.entries = w.rec.entries[:0]
	}
}
