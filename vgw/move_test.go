package vgw_test

import (
	"context"
	"errors"
	"io"
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

// alive says whether a relay goes on, once everybody had his turn.
func alive(r *exchange.Relay) bool { synctest.Wait(); return r.Live.Err() == nil }

// story runs a test of two replicas, a and b, by a clock of its own, with a tenant that a serves.
func story(t *testing.T, tell func(t *testing.T, f *fleet, a, b *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, "a", "b")
		f.add("team")
		a, b := f.node("a"), f.node("b")
		f.have(a, "team", "s")
		tell(t, f, a, b)
		for _, n := range f.nodes { // before the bubble ends
			n.stop()
		}
	})
}

func TestMove(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		var away *exchange.Elsewhere
		if _, err := a.at(t.Context(), "team", get("/servers")); !errors.As(err, &away) || away.Replica != "b" || !fault.Is(err, fault.Unavailable) {
			t.Errorf("at the old owner: %v", err)
		}
		if got := f.listed(b, "team"); got != "s" {
			t.Errorf("the new owner lists %q", got)
		}
		if st := a.mux.Stats(); st.Open != 0 || st.Tenants != 0 || st.Left != 0 {
			t.Errorf("the old owner keeps %+v", st)
		}
		if err := b.mux.Move(t.Context(), "team", "a"); err != nil {
			t.Fatal(err)
		}
		if got := f.listed(a, "team"); got != "s" {
			t.Errorf("back at the first owner: %q", got)
		}
	})
}

func TestMoveOfNothing(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		if err := b.mux.Move(t.Context(), "team", "a"); !errors.Is(err, vgw.ErrNotOpen) || !fault.Is(err, fault.Conflict) {
			t.Errorf("what is not here: %v", err)
		}
		if err := a.mux.Move(t.Context(), "team", "nobody"); !fault.Is(err, fault.NotFound) {
			t.Errorf("to nobody: %v", err)
		}
		if err := a.mux.Move(t.Context(), "team", "a"); !fault.Is(err, fault.Invalid) {
			t.Errorf("to itself: %v", err)
		}
		if got := f.listed(a, "team"); got != "s" {
			t.Errorf("after moves that were not made: %q", got)
		}
	})
}

// Relays go on for a while at the replica that gave their tenant away, and then end with a hint.
func TestStreamsOutliveAMove(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		short, long := f.relay(a, "team", "s"), f.relay(a, "team", "s")
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		f.listed(b, "team")
		time.Sleep(4 * time.Second)
		if !alive(short) || !alive(long) {
			t.Fatalf("relays ended early: %v", context.Cause(long.Live))
		}
		short.Done(exchange.Outcome{Status: 200})
		if st := a.mux.Stats(); st.Left != 1 {
			t.Errorf("with a relay under way: %+v", st)
		}
		time.Sleep(2 * time.Second)
		var again *exchange.Reconnect
		if alive(long) || !errors.As(context.Cause(long.Live), &again) {
			t.Errorf("after the time for streams: %v", context.Cause(long.Live))
		}
		long.Done(exchange.Outcome{Status: 200})
		if st := a.mux.Stats(); st.Left != 0 {
			t.Errorf("in the end: %+v", st)
		}
	})
}

// A stream that hangs on a delegation ends with the move: the delegation is taken back at the new owner, and the old one would
// not hear of it.
func TestDelegatedStreamEndsWithAMove(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		f.edit(b, "team", func(r *tenant.Record) {
			r.Keys = append(r.Keys, tenant.Key{ID: "v", Name: "v", Role: tenant.Viewer, Source: tenant.SourceAPI, Hash: tenant.HashKey("v"), Created: time.Now()})
		})
		synctest.Wait()
		if _, err := words(a.at(t.Context(), "team", post("/api/v1/grants", `{"to":"key:v","action":"mcp.call","object":"server/s"}`))); err != nil {
			t.Fatal(err)
		}
		e, _ := a.store.Index().ByID("team")
		v, err := a.guards.For(e).Enter(tenant.Principal{Tenant: "team", Kind: tenant.KindKey, ID: "v", KeyID: "v", Role: tenant.Viewer}, guard.Request{ID: "req-3"})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Leave()
		d, err := a.mux.Decide(t.Context(), e, request{method: "POST", path: "/servers/s/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`}.exchange(v))
		r, ok := d.(*exchange.Relay)
		if err != nil || !ok {
			t.Fatalf("decided %#v, %v", d, err)
		}
		own := f.relay(a, "team", "s")
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		var again *exchange.Reconnect
		if alive(r) || !errors.As(context.Cause(r.Live), &again) {
			t.Errorf("the delegated stream: %v", context.Cause(r.Live))
		}
		if !alive(own) {
			t.Error("the admin's ended as well")
		}
		r.Done(exchange.Outcome{})
		own.Done(exchange.Outcome{})
	})
}

// A suspension or deletion ends what goes on at the old owner as well.
func TestRevokedTenantEndsWhatWasLeft(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		r := f.relay(a, "team", "s")
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		f.edit(b, "team", func(r *tenant.Record) { r.State = tenant.StateSuspended })
		if alive(r) {
			t.Error("the suspended tenant's relay goes on at the old owner")
		}
		r.Done(exchange.Outcome{})
	})
}

// A claim that is lost otherwise ends everything at once.
func TestLostSessionEndsStreams(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, _ *node) {
		r := f.relay(a, "team", "s")
		a.stop()
		if alive(r) {
			t.Error("a relay goes on without the replica's session")
		}
		r.Done(exchange.Outcome{})
	})
}

// gate is a body whose reading waits.
type gate struct {
	reading, open chan struct{}
	once          sync.Once
	rest          io.Reader
}

func newGate(body string) *gate {
	return &gate{reading: make(chan struct{}), open: make(chan struct{}), rest: strings.NewReader(body)}
}

func (g *gate) Read(p []byte) (int, error) {
	g.once.Do(func() { close(g.reading) })
	<-g.open
	return g.rest.Read(p)
}

// slow asks a replica with a body that is on its way; it returns how it ends.
func slow(t *testing.T, n *node, q request, body *gate) chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		e, _ := n.store.Index().ByID("team")
		v, err := n.guards.For(e).Enter(adminOf("team"), guard.Request{ID: "req-2"})
		if err != nil {
			done <- err
			return
		}
		defer v.Leave()
		x := q.exchange(v)
		x.Body, x.Length = body, -1
		d, err := n.mux.Decide(context.Background(), e, x)
		_, err = words(d, err)
		done <- err
	}()
	<-body.reading
	return done
}

// A handler that runs ends before the hand-off, with its write; who comes meanwhile waits, and is told where to.
func TestMoveWaitsForHandlers(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		body := newGate(`{"name":"late","url":"https://mcp.example.com/mcp"}`)
		creating := slow(t, a, server("late"), body)
		moved, told := make(chan error, 1), make(chan error, 1)
		go func() { moved <- a.mux.Move(context.Background(), "team", "b") }()
		synctest.Wait()
		go func() {
			_, err := a.at(context.Background(), "team", get("/servers"))
			told <- err
		}()
		synctest.Wait()
		select {
		case err := <-moved:
			t.Fatalf("moved under a handler: %v", err)
		case err := <-told:
			t.Fatalf("a request did not wait for the move: %v", err)
		default:
		}
		close(body.open)
		if err := <-creating; err != nil {
			t.Errorf("the handler: %v", err)
		}
		if err := <-moved; err != nil {
			t.Errorf("the move: %v", err)
		}
		var away *exchange.Elsewhere
		if err := <-told; !errors.As(err, &away) || away.Replica != "b" {
			t.Errorf("who waited was told %v", err)
		}
		if got := f.listed(b, "team"); got != "late,s" {
			t.Errorf("the new owner lists %q", got)
		}
	})
}

// A handler that takes too long does not hold the move up for ever, and what it writes then is refused.
func TestMoveBreaksOffSlowHandlers(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		body := newGate(`{"name":"late","url":"https://mcp.example.com/mcp"}`)
		creating := slow(t, a, server("late"), body)
		began := time.Now()
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("the move took %v", d)
		}
		close(body.open)
		if err := <-creating; !fault.Is(err, fault.Unavailable) {
			t.Errorf("the slow handler: %v", err)
		}
		if got := f.listed(b, "team"); got != "s" {
			t.Errorf("the new owner lists %q", got)
		}
	})
}

// A move that its caller gives up, or that finds nobody there, leaves the tenant where it is, and who waited is served.
func TestMoveGivenUp(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, _ *node) {
		body := newGate(`{"name":"late","url":"https://mcp.example.com/mcp"}`)
		creating := slow(t, a, server("late"), body)
		ctx, cancel := context.WithCancel(context.Background())
		moved, told := make(chan error, 1), make(chan error, 1)
		go func() { moved <- a.mux.Move(ctx, "team", "b") }()
		synctest.Wait()
		go func() {
			_, err := a.at(context.Background(), "team", get("/servers"))
			told <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-moved; !errors.Is(err, context.Canceled) {
			t.Errorf("the move: %v", err)
		}
		if err := <-told; err != nil {
			t.Errorf("who waited: %v", err)
		}
		close(body.open)
		if err := <-creating; err != nil {
			t.Errorf("the handler: %v", err)
		}
		if got := f.listed(a, "team"); got != "late,s" {
			t.Errorf("listed %q", got)
		}
	})
}

// A tenant that is suspended while it moves is open nowhere.
func TestSuspendedWhileMoving(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		r := f.relay(a, "team", "s")
		body := newGate("{}")
		creating := slow(t, a, server("late"), body)
		moved := make(chan error, 1)
		go func() { moved <- a.mux.Move(context.Background(), "team", "b") }()
		synctest.Wait()
		f.edit(b, "team", func(r *tenant.Record) { r.State = tenant.StateSuspended })
		if alive(r) {
			t.Error("a relay goes on")
		}
		r.Done(exchange.Outcome{})
		<-moved
		close(body.open)
		<-creating
		synctest.Wait()
		if st := a.mux.Stats(); st.Open != 0 || st.Left != 0 || st.Tenants != 0 {
			t.Errorf("the old owner keeps %+v", st)
		}
	})
}

// What was spent is spent at the next owner as well.
func TestSpentBudgetsMoveAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		var at []string
		limits := func(name string) func(*vgw.Config) {
			return func(c *vgw.Config) { c.Limits = carried{name, &at} }
		}
		a, b := f.join("a", limits("a")), f.join("b", limits("b"))
		f.add("team")
		f.have(a, "team", "s")
		if err := a.mux.Move(t.Context(), "team", "b"); err != nil {
			t.Fatal(err)
		}
		f.listed(b, "team")
		if got := strings.Join(at, " "); got != "b:spent-at-a-by-team" {
			t.Errorf("taken over: %q", got)
		}
		a.stop()
		b.stop()
	})
}

// carried is limits that tell what they take over.
type carried struct {
	name string
	at   *[]string
}

func (c carried) Export(s tenant.Scope) []byte {
	return []byte("spent-at-" + c.name + "-by-" + s.String())
}
func (c carried) Import(_ *tenant.Entry, state []byte) {
	*c.at = append(*c.at, c.name+":"+string(state))
}

// A revocation that is acknowledged by one replica is before every write at another, whose index does not know of it yet.
func TestRevocationBeatsAWriteElsewhere(t *testing.T) {
	story(t, func(t *testing.T, f *fleet, a, b *node) {
		old, _ := a.store.Index().ByID("team")
		f.edit(b, "team", func(r *tenant.Record) { r.DisplayName = "Team" })
		if _, err := words(a.as(t.Context(), old, server("allowed"))); err != nil {
			t.Errorf("a change that leaves the key as it was: %v", err)
		}
		f.edit(b, "team", func(r *tenant.Record) { r.Keys = nil })
		if _, err := words(a.as(t.Context(), old, server("refused"))); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("with a key that is revoked: %v", err)
		}
		if _, err := words(a.as(t.Context(), old, del("/api/v1/servers/s"))); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("a deletion with a key that is revoked: %v", err)
		}
		if got := f.listed(a, "team"); got != "allowed,s" {
			t.Errorf("stored: %q", got)
		}
	})
}

func TestOwnerOfRoutes(t *testing.T) {
	w := newWorld(t)
	e := w.store.add("team-a")
	for _, tt := range []struct {
		method, path string
		want         exchange.Owner
	}{
		{"GET", "/servers", exchange.OwnerRequired},
		{"HEAD", "/servers", exchange.OwnerRequired},
		{"POST", "/servers/x/mcp", exchange.OwnerRequired},
		{"GET", "/api/v1/whoami", exchange.OwnerAny},
		{"GET", "/metrics", exchange.OwnerAny},
		{"GET", "/no/such/path", exchange.OwnerAny},
		{"PATCH", "/servers", exchange.OwnerAny},
	} {
		if got := w.mux.Owner(e, tt.method, tt.path); got != tt.want {
			t.Errorf("%s %s: %v, want %v", tt.method, tt.path, got, tt.want)
		}
	}
	e = w.store.edit("team-a", func(r *tenant.Record) { r.State = tenant.StateSuspended })
	if got := w.mux.Owner(e, "GET", "/servers"); got != exchange.OwnerAny {
		t.Errorf("of a suspended tenant: %v", got)
	}
}
