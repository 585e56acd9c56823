package vgw_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

func listing() request { return request{method: "GET", path: "/servers"} }

// get asks for the tenant's servers, which needs its gateway.
func (w *world) get(ctx context.Context, id tenant.ID) error {
	_, err := w.decide(ctx, id, w.principal(id, tenant.Admin), listing())
	return err
}

// relayTo asks for a relay to the tenant's server, and returns it.
func (w *world) relayTo(t *testing.T, id tenant.ID, server string) *exchange.Relay {
	t.Helper()
	d, err := w.decide(t.Context(), id, w.principal(id, tenant.Editor), request{method: "POST", path: "/servers/" + server + "/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`})
	r, ok := d.(*exchange.Relay)
	if err != nil || !ok {
		t.Fatalf("decided %#v, %v", d, err)
	}
	return r
}

func TestFirstUseOpensOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.store.add("team-a")
		release := make(chan struct{})
		w.store.onClaim = func(ctx context.Context, _ tenant.Scope) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		// The first caller gives up; the opening that it began goes on for the others.
		first, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := w.get(first, "team-a"); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller that left got %v", err)
			}
		})
		synctest.Wait()
		for range 50 {
			wg.Go(func() {
				if err := w.get(t.Context(), "team-a"); err != nil {
					t.Errorf("a waiting caller got %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		wg.Wait()
		if w.store.acquired != 1 {
			t.Errorf("%d claims", w.store.acquired)
		}
	})
}

func TestFailedOpenIsNotCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.store.add("team-a")
		var asked int
		broken := true
		w.store.onLoad = func(_ tenant.Scope, kind string) error {
			if kind == "server" {
				if asked++; broken {
					return errors.New("disk on fire")
				}
			}
			return nil
		}
		if err := w.get(t.Context(), "team-a"); !fault.Is(fault.From(err), fault.Internal) {
			t.Errorf("first: %v", err)
		}
		if w.store.held() != 0 {
			t.Error("a failed open keeps its claim")
		}
		for range 10 { // at once: the store is spared
			if err := w.get(t.Context(), "team-a"); !fault.Is(err, fault.Unavailable) || fault.From(err).RetryAfter <= 0 {
				t.Errorf("at once: %v", err)
			}
		}
		if asked != 1 {
			t.Errorf("%d loads", asked)
		}
		broken = false
		time.Sleep(time.Second)
		if err := w.get(t.Context(), "team-a"); err != nil {
			t.Errorf("after the pause: %v", err)
		}
	})
}

func TestOpeningIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *vgw.Config) { c.MaxOpens = 2 })
		var mu sync.Mutex
		var now, most int
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			now += n
			most = max(most, now)
		}
		w.store.onClaim = func(ctx context.Context, _ tenant.Scope) error {
			count(1)
			defer count(-1)
			<-ctx.Done() // a store that hangs
			return ctx.Err()
		}
		var wg sync.WaitGroup
		for i := range 8 {
			id := tenant.ID(fmt.Sprintf("t%d", i))
			w.store.add(id)
			wg.Go(func() {
				if err := w.get(t.Context(), id); !fault.Is(err, fault.Unavailable) {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		wg.Wait()
		if most != 2 {
			t.Errorf("%d opened at the same time, want 2", most)
		}
	})
}

func TestIdleGatewaysAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(t)
		w.store.add("idle")
		w.store.add("busy")
		w.addServer(t, "busy", "s", "http://127.0.0.1:1/")
		w.addServer(t, "idle", "s", "http://127.0.0.1:1/")
		r := w.relayTo(t, "busy", "s")
		time.Sleep(4 * time.Minute)
		if st := w.mux.Stats(); st.Open != 2 {
			t.Errorf("before IdleAfter: %+v", st)
		}
		time.Sleep(time.Hour)
		if st := w.mux.Stats(); st.Open != 1 || st.Tenants != 1 || w.store.held() != 1 {
			t.Errorf("after IdleAfter: %+v, %d claims", st, w.store.held())
		}
		if r.Live.Err() != nil {
			t.Error("a stream was cut since its gateway seemed idle")
		}
		r.Done(exchange.Outcome{Status: 200})
		time.Sleep(time.Hour)
		if st := w.mux.Stats(); st.Tenants != 0 || w.store.held() != 0 {
			t.Errorf("after the stream's end: %+v, %d claims", st, w.store.held())
		}
		if n, err := w.mux.ServerCount(t.Context(), w.store.entry("idle")); n != 1 || err != nil {
			t.Errorf("opened again: %d servers, %v", n, err)
		}
	})
}

// ends waits for the end of what a claim or a gateway ends: it comes a moment after theirs.
func ends(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

// C-3: deletion frees, at once and while a stream is open.
func TestDeletionFrees(t *testing.T) {
	for name, change := range map[string]func(w *world, e *tenant.Entry){
		"deleted": func(w *world, _ *tenant.Entry) {
			w.store.erase("team-a")
			w.mux.Changed("team-a", nil)
		},
		"deleted, and the record is all we hear of it": func(w *world, _ *tenant.Entry) { w.mux.Changed("team-a", nil) },
		"made again": func(w *world, _ *tenant.Entry) {
			w.store.erase("team-a")
			w.mux.Changed("team-a", w.store.add("team-a"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(t)
			e := w.store.add("team-a")
			w.addServer(t, "team-a", "s", "http://127.0.0.1:1/")
			r := w.relayTo(t, "team-a", "s")
			change(w, e)
			if !ends(r.Live) {
				t.Error("the stream goes on")
			}
			if st := w.mux.Stats(); st.Open != 0 || st.Tenants != 0 {
				t.Errorf("in memory: %+v", st)
			}
			r.Done(exchange.Outcome{})
			if name == "made again" {
				if n, err := w.mux.ServerCount(t.Context(), w.store.entry("team-a")); n != 0 || err != nil {
					t.Errorf("the new tenant has %d servers of the old one's, %v", n, err)
				}
			}
		})
	}
}

// A request that was resolved before its tenant was deleted must not bring it back, or serve the tenant made anew.
func TestStaleEntry(t *testing.T) {
	w := newWorld(t)
	old := w.store.add("team-a")
	w.store.erase("team-a")
	e := w.store.add("team-a")
	if _, err := w.mux.ServerCount(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if _, err := w.mux.ServerCount(t.Context(), old); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old tenant: %v", err)
	}
	w.mux.Changed("team-a", old) // late
	if st := w.mux.Stats(); st.Open != 1 {
		t.Errorf("a late change of the old tenant closed the new one: %+v", st)
	}
	w.store.erase("team-a")
	w.mux.Changed("team-a", nil)
	if _, err := w.mux.ServerCount(t.Context(), e); !fault.Is(err, fault.NotFound) {
		t.Errorf("the deleted tenant: %v", err)
	}
	if st := w.mux.Stats(); st.Tenants != 0 {
		t.Errorf("the deleted tenant left %+v", st)
	}
}

func TestSuspendAndResume(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	w.store.add("team-a")
	w.store.add("team-b")
	w.addServer(t, "team-a", "s", "http://127.0.0.1:1/")
	r := w.relayTo(t, "team-a", "s")
	e := w.store.edit("team-a", func(r *tenant.Record) { r.State, r.SuspendReason = tenant.StateSuspended, "unpaid" })
	w.mux.Changed("team-a", e)
	if !ends(r.Live) {
		t.Error("the suspended tenant's stream goes on")
	}
	r.Done(exchange.Outcome{})
	if err := w.get(t.Context(), "team-a"); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "unpaid") {
		t.Errorf("suspended: %v", err)
	}
	mcp := w.as(tenant.Editor, "team-a", request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`})
	if mcp.status != 503 || !strings.HasPrefix(mcp.body, `{"jsonrpc":"2.0","id":null,"error":`) || !strings.Contains(mcp.body, "unpaid") {
		t.Errorf("suspended, to an MCP client: %d %s", mcp.status, mcp.body)
	}
	if err := w.get(t.Context(), "team-b"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	e = w.store.edit("team-a", func(r *tenant.Record) { r.State = tenant.StateActive })
	w.mux.Changed("team-a", e)
	if n, err := w.mux.ServerCount(t.Context(), e); n != 1 || err != nil {
		t.Errorf("resumed: %d servers, %v", n, err)
	}
}

func TestLostClaimEndsTheWork(t *testing.T) {
	w := newWorld(t)
	e := w.store.add("team-a")
	w.addServer(t, "team-a", "s", "http://127.0.0.1:1/")
	r := w.relayTo(t, "team-a", "s")
	w.store.lose(e.Scope)
	select {
	case <-r.Live.Done():
	case <-time.After(10 * time.Second):
	}
	if !errors.Is(context.Cause(r.Live), errLost) {
		t.Errorf("the stream's cause is %v", context.Cause(r.Live))
	}
	r.Done(exchange.Outcome{})
	if err := w.get(t.Context(), "team-a"); err != nil || w.store.acquired != 2 {
		t.Errorf("the next request: %v, %d claims", err, w.store.acquired)
	}
}

// A request that waits when the claim is lost ends with it.
func TestLostClaimEndsARequestInAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.store.add("team-a")
		if err := w.get(t.Context(), "team-a"); err != nil {
			t.Fatal(err)
		}
		w.store.onCommit = func(tenant.Scope, []tenant.Write) (error, error) {
			w.store.lose(e.Scope)
			return context.Canceled, nil
		}
		got := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/servers", body: goodServer})
		if got.status != 503 {
			t.Errorf("got %d %s", got.status, got.body)
		}
	})
}

// panics is a body that panics when a handler reads it.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("a handler's defect") }

// X39: a panic in A's handler, in what an engine calls back, and in the goroutine that opens A's gateway, each fail A's
// request; the process and B are unharmed.
func TestX39PanicFailsOneRequest(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.store.add("team-b")
	a := w.principal("team-a", tenant.Admin)
	post := func() error {
		e := w.store.entry("team-a")
		v, _ := w.guards.For(e).Enter(a, guard.Request{ID: "req-1"})
		defer v.Leave()
		x := request{method: "POST", path: "/api/v1/servers", body: "{}"}.exchange(v)
		x.Body = panics{}
		_, err := w.mux.Decide(t.Context(), e, x)
		return err
	}
	if err := post(); fault.KindOf(err) != fault.Internal || fault.From(err).Detail != "" {
		t.Errorf("handler: %v", err)
	}
	if err := w.get(t.Context(), "team-a"); err != nil {
		t.Errorf("A's next request: %v", err)
	}

	w.addServer(t, "team-a", "s", "http://127.0.0.1:1/")
	r := w.relayTo(t, "team-a", "s")
	if err := r.EditResponse(202, nil); fault.KindOf(err) != fault.Internal { // writing to a nil map panics
		t.Errorf("a hook of the relay: %v", err)
	}
	r.Done(exchange.Outcome{})

	w.store.lose(w.store.entry("team-a").Scope)
	w.store.onClaim = func(_ context.Context, s tenant.Scope) error {
		if s.ID() == "team-a" {
			panic("the opener's defect")
		}
		return nil
	}
	if err := w.get(t.Context(), "team-a"); fault.KindOf(err) != fault.Internal {
		t.Errorf("opener: %v", err)
	}
	if err := w.get(t.Context(), "team-b"); err != nil {
		t.Errorf("B: %v", err)
	}
	if st := w.mux.Stats(); st.Panics != 3 {
		t.Errorf("%d panics were counted", st.Panics)
	}
}

// Invariant 9: a gateway that keeps failing is suspended alone, for a bounded time, and then comes up anew.
func TestFailingGatewayIsSuspendedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(t)
		w.store.add("team-a")
		w.store.add("team-b")
		fail := request{method: "POST", path: "/api/v1/servers", body: goodServer}
		w.store.onCommit = func(s tenant.Scope, writes []tenant.Write) (error, error) {
			if s.ID() == "team-a" && writes[0].Kind == "server" {
				return errors.New("defect"), nil
			}
			return nil, nil
		}
		var got answer
		for range 5 {
			if got = w.as(tenant.Admin, "team-a", fail); got.status != 500 {
				t.Fatalf("failing: %d %s", got.status, got.body)
			}
		}
		synctest.Wait()
		if got = w.as(tenant.Admin, "team-a", listing()); got.status != 503 || got.header.Get("Retry-After") == "" {
			t.Errorf("suspended: %d %s", got.status, got.body)
		}
		if got = w.as(tenant.Admin, "team-b", listing()); got.status != 200 {
			t.Errorf("B: %d %s", got.status, got.body)
		}
		w.store.onCommit = nil
		time.Sleep(30 * time.Second)
		if got = w.as(tenant.Admin, "team-a", fail); got.status != 201 {
			t.Errorf("after the pause: %d %s", got.status, got.body)
		}
	})
}

// X41: what a deleted tenant had is worthless for the tenant made anew under its id: cursors and sessions too, which are
// nowhere stored.
func TestX41RecreatedTenant(t *testing.T) {
	w := newWorld(t)
	w.run(t)
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Mcp-Session-Id", "one-for-all")
		rw.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(rw, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	old := w.store.add("team-a")
	w.addServer(t, "team-a", "s", url)
	w.addServer(t, "team-a", "t", url)
	p := w.principal("team-a", tenant.Admin)
	open := w.do("team-a", p, request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`})
	session := open.header.Get("Mcp-Session-Id")
	cursor := cursorOf(t, w.do("team-a", p, request{method: "GET", path: "/servers?limit=1"}))
	use := func() (int, int) {
		a := w.do("team-a", p, request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, header: map[string]string{"Mcp-Session-Id": session}})
		b := w.do("team-a", p, request{method: "GET", path: "/servers?cursor=" + cursor})
		return a.status, b.status
	}
	if a, b := use(); a != 200 || b != 200 {
		t.Fatalf("before: session %d, cursor %d", a, b)
	}
	w.store.erase("team-a")
	w.mux.Changed("team-a", nil)
	e := w.store.add("team-a")
	w.mux.Changed("team-a", e)
	for id := range w.store.objects[old.Scope] {
		t.Errorf("the deleted tenant left %s", id)
	}
	// The same principal id, server names and upstream: only the tenant is another.
	w.store.edit("team-a", func(r *tenant.Record) { r.Keys[2].ID = p.ID })
	w.addServer(t, "team-a", "s", url)
	w.addServer(t, "team-a", "t", url)
	if a, b := use(); a != 404 || b != 400 {
		t.Errorf("in the tenant made anew: session %d, cursor %d", a, b)
	}
}

// A tenant that comes back does not wait until everything that is idle has been given up.
func TestReleaseDoesNotWaitForTheSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *vgw.Config) { c.IdleAfter = time.Minute })
		for i := range 50 {
			id := tenant.ID(fmt.Sprintf("idle-%d", i))
			w.store.add(id)
			if err := w.get(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute - time.Second)
		w.store.add("team-a")
		if err := w.get(t.Context(), "team-a"); err != nil {
			t.Fatal(err)
		}
		w.store.onRelease = func() { time.Sleep(time.Second) } // a slow store
		w.run(t)
		time.Sleep(16 * time.Second) // the sweep has begun
		w.mux.Changed("team-a", w.store.edit("team-a", func(r *tenant.Record) { r.State = tenant.StateSuspended }))
		w.mux.Changed("team-a", w.store.edit("team-a", func(r *tenant.Record) { r.State = tenant.StateActive }))
		began := time.Now()
		if err := w.get(t.Context(), "team-a"); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("waited %v", d)
		}
	})
}

// Open, evict, lose, change and delete at the same time: for the race detector, and every request gets an answer.
func TestRaces(t *testing.T) {
	w := newWorld(t, func(c *vgw.Config) { c.IdleAfter = 2 * time.Millisecond })
	w.run(t)
	ids := []tenant.ID{"t1", "t2", "t10"}
	for _, id := range ids {
		w.store.add(id)
		w.addServer(t, id, "s", "http://127.0.0.1:1/")
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			id := ids[i%len(ids)]
			for n := range 60 {
				e := w.store.entry(id)
				switch {
				case i < 9:
					_, err := w.mux.ServerCount(t.Context(), e)
					if err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.NotFound) {
						t.Errorf("%s: %v", id, err)
					}
				case n%3 == 0:
					w.mux.Changed(id, nil)
				case n%3 == 1:
					suspended := *e.Record
					suspended.State = tenant.StateSuspended
					w.mux.Changed(id, &tenant.Entry{Record: &suspended, Scope: e.Scope})
				default:
					w.store.mu.Lock()
					if c := w.store.claims[e.Scope]; c != nil {
						c.cancel(errLost)
						delete(w.store.claims, e.Scope)
					}
					w.store.mu.Unlock()
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
}

func TestDecideAfterRun(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.addServer(t, "team-a", "s", "http://127.0.0.1:1/")
	r := w.relayTo(t, "team-a", "s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.mux.Run(ctx); err != nil || !ends(r.Live) {
		t.Errorf("Run: %v, relay: %v", err, r.Live.Err())
	}
	if err := w.get(t.Context(), "team-a"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("after Run: %v", err)
	}
	r.Done(exchange.Outcome{})
}
