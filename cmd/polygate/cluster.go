package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/config"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/peer"
	"github.com/polygate/polygate/internal/placement"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy"
	"github.com/polygate/polygate/proxy/admin"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/vgw"
)

// cluster is this replica among the others: it says who serves a tenant, and has tenants move.
type cluster struct {
	self   string
	cfg    config.Placement
	store  *registry.Store
	index  *registry.Index
	mux    *vgw.Mux
	call   peer.Caller // nil while this replica is alone
	status func(ctx context.Context) (any, error)
	log    *slog.Logger

	mu    sync.Mutex // guards what follows
	drain *draining  // nil: this replica takes tenants
}

// Locate implements proxy.Locator.
func (c *cluster) Locate(s tenant.Scope) proxy.Location {
	changed := c.index.Changed() // before the look, so that no change falls between
	if o, ok := c.index.Owner(s.ID()); ok {
		return c.at(o.Replica, changed)
	}
	for _, name := range c.prefer(s.ID()) {
		if at := c.at(name, changed); !at.Moving {
			return at
		}
	}
	return proxy.Location{Self: true, Changed: changed}
}

// at returns the place of a replica. One that cannot be reached is no place: its session ends soon, or it has yet to
// say where it is.
func (c *cluster) at(replica string, changed <-chan struct{}) proxy.Location {
	if replica == c.self {
		return proxy.Location{Self: true, Changed: changed}
	}
	r, ok := c.index.Replica(replica)
	if !ok || !knowsOthers(r) {
		return proxy.Location{Moving: true, Changed: changed}
	}
	return proxy.Location{Replica: replica, Address: r.Address, Changed: changed}
}

// address returns where a live replica listens for the others.
func (c *cluster) address(replica string) (string, bool) {
	r, ok := c.index.Replica(replica)
	return r.Address, ok && knowsOthers(r)
}

// knowsOthers says whether a replica takes what others pass to it. One without listen.peer does not; nor does a version that knew one
// replica alone, whose address is that of its clients. It did not say when it started.
func knowsOthers(r registry.Replica) bool { return r.Address != "" && !r.Started.IsZero() }

// prefer returns the replicas that a tenant without an owner may be on, the best first.
func (c *cluster) prefer(id tenant.ID) []string {
	return placement.Prefer(string(id), c.nodes(), c.cfg.Overload)
}

// nodes returns the replicas as placement sees them.
func (c *cluster) nodes() []placement.Node {
	all := c.index.Replicas()
	nodes := make([]placement.Node, 0, len(all))
	for _, r := range all {
		if !knowsOthers(r) && r.Name != c.self {
			continue // nobody could forward to it
		}
		nodes = append(nodes, placement.Node{Name: r.Name, Capacity: r.Capacity, Tenants: c.index.OwnedCount(r.Name), Draining: r.Draining})
	}
	return nodes
}

// keeper leaves it to the shares who hands them out: they choose alike, and not the owner, so that they stay when it moves.
func (c *cluster) keeper(tenant.ID) string { return "" }

// Replicas implements admin.Cluster.
func (c *cluster) Replicas() []admin.Replica {
	all := c.index.Replicas()
	list := make([]admin.Replica, len(all))
	for i, r := range all {
		list[i] = admin.Replica{
			Name: r.Name, Self: r.Name == c.self, Address: r.Address, Version: r.Version, State: "ready", Capacity: max(r.Capacity, 1),
			Tenants: c.index.OwnedCount(r.Name), Requests: r.Load.Requests, Streams: r.Load.Streams, CPU: r.Load.CPU, Memory: r.Load.Memory, Started: r.Started,
		}
		if r.Draining {
			list[i].State = "draining"
		}
	}
	return list
}

// Owner implements admin.Cluster.
func (c *cluster) Owner(s tenant.Scope) admin.Owner {
	a := admin.Owner{Tenant: s.ID()}
	if o, ok := c.index.Owner(s.ID()); ok {
		a.Replica, a.Epoch = o.Replica, o.Epoch
	}
	if order := c.prefer(s.ID()); len(order) > 0 {
		a.Preferred = order[0]
	}
	return a
}

// Move implements admin.Cluster.
func (c *cluster) Move(ctx context.Context, s tenant.Scope, to string, e audit.Entry) (string, error) {
	owner := c.Owner(s).Replica
	to, err := c.target(s.ID(), owner, to)
	if err != nil {
		return "", err
	}
	if err := c.store.Record(ctx, e); err != nil {
		return "", err
	}
	if to == owner {
		return to, nil
	}
	return to, c.move(ctx, s, owner, to)
}

// target checks or chooses where a tenant is to go.
func (c *cluster) target(id tenant.ID, owner, to string) (string, error) {
	if to == "" {
		for _, name := range c.prefer(id) {
			if name != owner {
				return name, nil
			}
		}
		return "", fault.New(fault.Conflict, "there is no other replica that tenant %s could move to", id)
	}
	r, ok := c.index.Replica(to)
	switch {
	case !ok:
		return "", fault.New(fault.Conflict, "there is no live replica %.64q: polygate replicas lists them", to)
	case r.Draining && to != owner:
		return "", fault.New(fault.Conflict, "replica %s drains, and takes no tenants", to)
	case !knowsOthers(r) && to != c.self:
		return "", fault.New(fault.Conflict, "replica %s has no listen.peer, or is of a version without it: nobody could pass requests to it", to)
	}
	return to, nil
}

// move asks whoever has to act: the owner to give the tenant up, or, of a tenant without one, its replica to be to take it.
func (c *cluster) move(ctx context.Context, s tenant.Scope, owner, to string) error {
	actor := owner
	if actor == "" {
		actor = to
	}
	if actor == c.self {
		return c.moveHere(ctx, s, to)
	}
	if c.call == nil {
		return fault.New(fault.Unavailable, "replica %s cannot be asked: this one has no listen.peer", actor)
	}
	body, err := json.Marshal(moveCall{V: 1, Tenant: s.ID(), UID: s.UID(), To: to})
	if err != nil {
		return err
	}
	_, err = c.call.Call(ctx, actor, peer.Move, body)
	return err
}

// moveCall is the body of peer.Move.
type moveCall struct {
	V      int       `json:"v"`
	Tenant tenant.ID `json:"tenant"`
	UID    string    `json:"uid"`
	To     string    `json:"to"`
}

// moveHere carries a move out as the replica that has to act.
func (c *cluster) moveHere(ctx context.Context, s tenant.Scope, to string) error {
	e, ok := c.index.ByID(s.ID())
	if !ok || e.Scope != s {
		return fault.New(fault.NotFound, "there is no tenant %s", s.ID())
	}
	if to == c.self {
		return c.mux.Adopt(ctx, e)
	}
	err := c.mux.Move(ctx, s.ID(), to)
	if o, owned := c.index.Owner(s.ID()); errors.Is(err, vgw.ErrNotOpen) && owned && o.Replica == c.self {
		if err := c.mux.Adopt(ctx, e); err != nil { // it was given to us a moment ago, and is not open yet
			return err
		}
		return c.mux.Move(ctx, s.ID(), to)
	}
	return err
}

// handleMove answers peer.Move.
func (c *cluster) handleMove(ctx context.Context, _ string, body []byte) ([]byte, error) {
	var m moveCall
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the call cannot be read")
	}
	e, ok := c.index.ByID(m.Tenant)
	if !ok || e.Scope.UID() != m.UID {
		return nil, fault.New(fault.NotFound, "there is no tenant %s", m.Tenant)
	}
	return []byte(`{"v":1}`), c.moveHere(ctx, e.Scope, m.To)
}

// take has this replica own a tenant, which it asks its owner for where it has one. It is for what a replica does of
// its own accord, such as applying a file.
func (c *cluster) take(ctx context.Context, e *tenant.Entry) error {
	o, owned := c.index.Owner(e.Scope.ID())
	if !owned || o.Replica == c.self {
		return c.mux.Adopt(ctx, e)
	}
	return c.move(ctx, e.Scope, o.Replica, c.self)
}

// here does what only the tenant's owner can, which this replica becomes if it is not.
func (c *cluster) here(ctx context.Context, e *tenant.Entry, do func() error) (err error) {
	for range 3 { // who gave it to us may take it again, as its own file changed as well
		if err = do(); !errors.As(err, new(*exchange.Elsewhere)) {
			return err
		}
		if err := c.take(ctx, e); err != nil && !errors.As(err, new(*exchange.Elsewhere)) {
			return err
		}
	}
	return err
}

// ServerCount implements admin.Counts.
func (c *cluster) ServerCount(ctx context.Context, e *tenant.Entry) (n int, err error) {
	err = c.here(ctx, e, func() (err error) {
		n, err = c.mux.ServerCount(ctx, e)
		return err
	})
	return n, err
}

// Status implements admin.Cluster.
func (c *cluster) Status(ctx context.Context) (any, error) { return c.status(ctx) }

// draining is how this replica gives its tenants up.
type draining struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// drainCall is the body of peer.Drain.
type drainCall struct {
	V  int  `json:"v"`
	On bool `json:"on"`
}

// Drain implements admin.Cluster.
func (c *cluster) Drain(ctx context.Context, replica string, on bool, e audit.Entry) error {
	if err := c.store.Record(ctx, e); err != nil {
		return err
	}
	if replica == c.self {
		return c.setDraining(ctx, on)
	}
	if c.call == nil {
		return fault.New(fault.Unavailable, "replica %s cannot be asked: this one has no listen.peer", replica)
	}
	body, err := json.Marshal(drainCall{1, on})
	if err != nil {
		return err
	}
	_, err = c.call.Call(ctx, replica, peer.Drain, body)
	return err
}

// handleDrain answers peer.Drain.
func (c *cluster) handleDrain(ctx context.Context, _ string, body []byte) ([]byte, error) {
	var d drainCall
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the call cannot be read")
	}
	return []byte(`{"v":1}`), c.setDraining(ctx, d.On)
}

// setDraining says in the registry that this replica takes no tenants, or does again, and begins to give its tenants up.
func (c *cluster) setDraining(ctx context.Context, on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on && len(c.index.Replicas()) < 2 {
		return fault.New(fault.Conflict, "this is the only replica: nobody could take its tenants")
	}
	if err := c.store.SetDraining(ctx, on); err != nil {
		return err
	}
	if c.drain != nil {
		c.drain.cancel()
		<-c.drain.done
		c.drain = nil
	}
	if !on {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &draining{cancel: cancel, done: make(chan struct{})}
	c.drain = d
	go func() {
		defer close(d.done)
		c.handAll(ctx)
	}()
	return nil
}

// stopDraining ends what setDraining began.
func (c *cluster) stopDraining() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drain != nil {
		c.drain.cancel()
		<-c.drain.done
		c.drain = nil
	}
}

// handAll gives up every tenant, until none is left or ctx ends.
func (c *cluster) handAll(ctx context.Context) {
	for ctx.Err() == nil && c.index.OwnedCount(c.self) > 0 {
		changed := c.index.Changed()
		err := c.mux.DrainAll(ctx, c.other, func(id tenant.ID, to string, err error) {
			if err != nil && !errors.As(err, new(*exchange.Elsewhere)) {
				c.log.Warn("a tenant was not handed over", "tenant", string(id), "to", to, "error", err)
			}
		})
		if err != nil {
			c.log.Warn("draining", "error", err)
		}
		if c.index.OwnedCount(c.self) == 0 {
			return
		}
		select { // somebody was about to open one, or the others were busy
		case <-changed:
		case <-ctx.Done():
		}
		_ = sleep(ctx, drainPause)
	}
}

// other says where a tenant of this replica goes when it drains.
func (c *cluster) other(id tenant.ID) (string, bool) {
	order := c.prefer(id)
	i := slices.IndexFunc(order, func(name string) bool {
		r, ok := c.index.Replica(name)
		return ok && name != c.self && !r.Draining
	})
	if i < 0 {
		return "", false
	}
	return order[i], true
}
