package vgw_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/placement"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/vgw"
)

// fleet is some replicas on one store.
type fleet struct {
	t     testing.TB
	store *memory.Backend
	kek   *seal.KEK
	nodes []*node
}

// node is one replica: its view of the store, its guards and its gateways.
type node struct {
	name   string
	store  *registry.Store
	guards *guard.Set
	mux    *vgw.Mux
	stop   func()
}

// fleetClaims hands out a store's claims as the daemon does. edit, where set, puts something between.
type fleetClaims struct {
	store *registry.Store
	edit  func(vgw.Claim) vgw.Claim
}

func (c fleetClaims) Claim(ctx context.Context, s tenant.Scope) (vgw.Claim, error) {
	claim, err := c.store.Claim(ctx, s)
	if owned := (*registry.OwnerError)(nil); errors.As(err, &owned) {
		return nil, fault.Wrap(fault.Unavailable, &exchange.Elsewhere{Replica: owned.Replica}, "served elsewhere")
	}
	if err != nil {
		return nil, err
	}
	if c.edit != nil {
		return c.edit(claim), nil
	}
	return claim, nil
}

func newFleet(t testing.TB, names ...string) *fleet {
	t.Helper()
	kek, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, store: memory.New(), kek: kek}
	t.Cleanup(func() { _ = f.store.Close() })
	for _, name := range names {
		f.join(name)
	}
	return f
}

// join starts a replica.
func (f *fleet) join(name string, edit ...func(*vgw.Config)) *node {
	f.t.Helper()
	s, err := registry.New(registry.Config{Backend: f.store, Replica: name, Address: name + ":7443", BaseDomain: "gw.test"})
	if err != nil {
		f.t.Fatal(err)
	}
	n := &node{name: name, store: s, guards: guard.NewSet(guard.Config{Recorder: &recorder{}, Replica: name})}
	cfg := vgw.Config{
		Claims: fleetClaims{store: s}, Records: s, Keys: f.kek, Guards: n.guards, Limits: n.guards, BaseDomain: "gw.test",
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&cfg)
	}
	if n.mux, err = vgw.NewMux(cfg); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	wg.Go(func() { _ = n.mux.Run(ctx) })
	forget := s.Index().Subscribe(n.mux.Changed)
	n.stop = sync.OnceFunc(func() { forget(); cancel(); wg.Wait() })
	f.t.Cleanup(n.stop)
	<-s.Ready()
	f.nodes = append(f.nodes, n)
	return n
}

func (f *fleet) node(name string) *node {
	for _, n := range f.nodes {
		if n.name == name {
			return n
		}
	}
	f.t.Fatalf("no replica %q", name)
	return nil
}

// add makes a tenant with an admin's key, and waits until every replica knows it.
func (f *fleet) add(id tenant.ID) {
	f.t.Helper()
	_, err := f.nodes[0].store.CreateTenant(context.Background(), &tenant.Record{
		ID: id, State: tenant.StateActive, Mode: tenant.ModeVirtual, Source: tenant.SourceAPI,
		Keys: []tenant.Key{{ID: "k", Name: "k", Role: tenant.Admin, Source: tenant.SourceAPI, Hash: tenant.HashKey(string(id)), Created: time.Now()}},
	}, entryOf(id))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, n := range f.nodes {
		f.until("every replica knows "+string(id), func() bool { _, ok := n.store.Index().ByID(id); return ok })
	}
}

func entryOf(id tenant.ID) audit.Entry {
	return audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: id, Action: string(authz.TenantUpdate), Principal: "operator:x", Decision: audit.Allow}
}

// edit changes a record by a replica.
func (f *fleet) edit(n *node, id tenant.ID, edit func(*tenant.Record)) {
	f.t.Helper()
	if _, err := n.store.UpdateTenant(context.Background(), id, 0, func(r *tenant.Record) error { edit(r); return nil }, entryOf(id)); err != nil {
		f.t.Fatal(err)
	}
}

// until waits for something that the index of a replica is about to tell.
func (f *fleet) until(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			f.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func adminOf(id tenant.ID) tenant.Principal {
	return tenant.Principal{Tenant: id, Kind: tenant.KindKey, ID: "k", Name: "k", KeyID: "k", Role: tenant.Admin}
}

// at has one replica answer, as its front does with a request that reached it.
func (n *node) at(ctx context.Context, id tenant.ID, q request) (exchange.Decision, error) {
	e, ok := n.store.Index().ByID(id)
	if !ok {
		return nil, fault.New(fault.NotFound, "no tenant")
	}
	return n.as(ctx, e, q)
}

// as is at with an entry, which may be an old one.
func (n *node) as(ctx context.Context, e *tenant.Entry, q request) (exchange.Decision, error) {
	v, err := n.guards.For(e).Enter(adminOf(e.Scope.ID()), guard.Request{ID: "req-1"})
	if err != nil {
		return nil, err
	}
	defer v.Leave()
	return n.mux.Decide(ctx, e, q.exchange(v))
}

// nodesOf is the replicas as placement sees them.
func nodesOf(s *registry.Store) (nodes []placement.Node) {
	for _, r := range s.Index().Replicas() {
		nodes = append(nodes, placement.Node{Name: r.Name, Capacity: r.Capacity, Tenants: s.Index().OwnedCount(r.Name), Draining: r.Draining})
	}
	return nodes
}

// owner says who serves a tenant in the eyes of a replica, or who should.
func (n *node) owner(id tenant.ID) string {
	if o, ok := n.store.Index().Owner(id); ok {
		return o.Replica
	}
	return placement.Prefer(string(id), nodesOf(n.store), 1.25)[0]
}

// through asks by way of a replica's front: it serves or forwards, and where the tenant moves it waits for the index to tell
// where it is. A front waits 2 s; here it is more, since a test may run on a machine that has no time for it.
func (f *fleet) through(ctx context.Context, via *node, id tenant.ID, q request) (exchange.Decision, error) {
	end := time.Now().Add(20 * time.Second)
	for {
		changed := via.store.Index().Changed()
		d, err := f.node(via.owner(id)).at(ctx, id, q)
		away := (*exchange.Elsewhere)(nil)
		if !errors.As(err, &away) || time.Now().After(end) {
			return d, err
		}
		if via.owner(id) == away.Replica { // the index knows by now
			continue
		}
		select {
		case <-changed:
		case <-time.After(time.Until(end)):
		}
	}
}

// ask is through, of a reply: its body, or why not.
func (f *fleet) ask(ctx context.Context, via *node, id tenant.ID, q request) (string, error) {
	d, err := f.through(ctx, via, id, q)
	return words(d, err)
}

func words(d exchange.Decision, err error) (string, error) {
	if err != nil {
		return "", err
	}
	r, ok := d.(*exchange.Reply)
	if !ok {
		return "", fmt.Errorf("decided %T", d)
	}
	if r.Err != nil {
		return "", r.Err
	}
	if r.Status >= 300 {
		return "", fmt.Errorf("status %d: %s", r.Status, r.Body)
	}
	return string(r.Body), nil
}

func server(name string) request {
	return post("/api/v1/servers", fmt.Sprintf(`{"name":%q,"url":"https://mcp.example.com/mcp"}`, name))
}

// relay opens a relay to a tenant's server at a replica.
func (f *fleet) relay(n *node, id tenant.ID, name string) *exchange.Relay {
	f.t.Helper()
	d, err := n.at(context.Background(), id, request{method: "POST", path: "/servers/" + name + "/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`})
	r, ok := d.(*exchange.Relay)
	if err != nil || !ok {
		f.t.Fatalf("decided %#v, %v", d, err)
	}
	return r
}

// have creates a server at a replica, which owns the tenant from then on.
func (f *fleet) have(n *node, id tenant.ID, name string) {
	f.t.Helper()
	if _, err := words(n.at(context.Background(), id, server(name))); err != nil {
		f.t.Fatal(err)
	}
}

// listed returns the tenant's servers as a replica tells them, comma separated.
func (f *fleet) listed(n *node, id tenant.ID) string {
	f.t.Helper()
	body, err := words(n.at(context.Background(), id, get("/servers")))
	if err != nil {
		f.t.Fatalf("the servers of %s at %s: %v", id, n.name, err)
	}
	return namesIn(body)
}

// namesIn returns the names in a list.
func namesIn(body string) string {
	var names []string
	for _, part := range strings.Split(body, `"name":"`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		names = append(names, name)
	}
	return strings.Join(names, ",")
}
