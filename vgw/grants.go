package vgw

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

func grantRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/grants", Action: authz.GrantList, Summary: "delegations: to oneself, by oneself and of one's own objects; all of them for an admin"}, handle: listGrants},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/grants", Action: authz.GrantCreate, Summary: "let a principal do something with one's own object for a time"}, handle: createGrant},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/grants/{grant}", Action: authz.GrantDelete, Summary: "end a delegation"}, handle: deleteGrant},
	}
}

// grantView is a delegation as its parties see it.
type grantView struct {
	ID       string       `json:"id"`
	To       string       `json:"to"`
	Action   authz.Action `json:"action"`
	Object   string       `json:"object,omitzero"` // server/<name>, while there is one
	ObjectID string       `json:"object_id"`
	By       string       `json:"by"`
	Created  time.Time    `json:"created"`
	Until    time.Time    `json:"until"`
}

func viewGrant(g *grant, servers *snapshot) grantView {
	v := grantView{ID: g.ID, To: g.To, Action: g.Action, ObjectID: g.Server, By: g.By, Created: g.Created, Until: g.Until}
	if s, ok := servers.byID(g.Server); ok {
		v.Object = kindServer + "/" + s.Name
	}
	return v
}

// object returns what a decision is told of a server; the zero Object of none. Where the name of its owner may mean somebody
// else by now, it belongs to the tenant.
func (s *server) object(r *tenant.Record) authz.Object {
	if s == nil {
		return authz.Object{}
	}
	o := authz.Object{Type: kindServer, ID: s.ID, Owner: s.Owner}
	if strings.HasPrefix(s.Owner, string(tenant.KindUser)+":") {
		if made, err := epoch(r, s.Owner); err != nil || !made.Equal(s.Epoch) {
			o.Owner = ""
		}
	}
	return o
}

// owner is who makes an object.
type owner struct {
	ref   string
	epoch time.Time // of a user: see server.Epoch
}

func ownerOf(r *tenant.Record, who tenant.Principal) owner {
	o := owner{ref: who.Ref()}
	o.epoch, _ = epoch(r, o.ref)
	return o
}

// delegated returns what was delegated of a server to the caller.
func (c *call) delegated(s *server) []authz.Grant {
	set := c.gw.grants.Load()
	if s == nil || len(set.server[s.ID]) == 0 {
		return nil
	}
	return set.of(c.e.Record, s.ID, c.r.Visit.Principal().Ref())
}

// allows says whether the caller may do something with a server by role, ownership or delegation. It records nothing and
// asks no policy: it is for choosing what to admit.
func (c *call) allows(a authz.Action, s *server) bool {
	return authz.Decide(authz.Question{
		Principal: c.r.Visit.Principal(), Action: a, In: c.e.Scope.ID(), Object: s.object(c.e.Record), Grants: c.delegated(s), Now: c.now(),
	}).Allow
}

func listGrants(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.GrantList, "grant")
	if err != nil {
		return nil, err
	}
	servers, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, settleList(permit, err)
	}
	var shown []*grant
	for _, g := range c.gw.grants.Load().all {
		if may && c.now().Before(g.Until) && g.stands(c.e.Record) && c.concerns(g, servers) {
			shown = append(shown, g)
		}
	}
	return answerList(c, permit, shown, func(g *grant) string { return g.ID }, func(g *grant) grantView { return viewGrant(g, servers) })
}

func settleList(permit *guard.Permit, err error) error {
	if permit != nil {
		permit.Done(err)
	}
	return err
}

// concerns says whether a grant is to the caller, by it, of what it owns, or of what it administers.
func (c *call) concerns(g *grant, servers *snapshot) bool {
	me := c.r.Visit.Principal().Ref()
	s, _ := servers.byID(g.Server)
	return g.To == me || g.By == me || s.object(c.e.Record).Owner == me || c.allows(authz.GrantDelete, s)
}

// grantBody is the body of POST /api/v1/grants.
type grantBody struct {
	To        string       `json:"to"`
	Action    authz.Action `json:"action"`
	Object    string       `json:"object"` // server/<name or id>
	ExpiresIn *int64       `json:"expires_in_seconds"`
	Until     *time.Time   `json:"until"`
}

// A delegation ends between a minute and 90 days after it was made.
func grantSpan() span { return span{time.Minute, 90 * 24 * time.Hour} }

const grantLife = 24 * time.Hour // where the body says nothing

func createGrant(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[grantBody](c)
	if err != nil {
		return nil, err
	}
	servers, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	s := servers.named(body.Object)
	resource := "grant/" + label(body.Object) + "/" + label(string(body.Action)) + "/" + label(body.To)
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.GrantCreate, Resource: resource, Object: s.object(c.e.Record)})
	if err != nil {
		return nil, err
	}
	g, err := c.newGrant(body, s)
	if err == nil {
		g, err = c.gw.delegate(ctx, c.records, permit, c.e.Record, g)
	}
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	return decision(reply(201, viewGrant(g, servers)))
}

// named returns the server that an object text names, by name or id; nil if there is none.
func (s *snapshot) named(object string) *server {
	name, ok := strings.CutPrefix(object, kindServer+"/")
	if !ok {
		return nil
	}
	if found, ok := s.find(name); ok {
		return found
	}
	found, _ := s.byID(name)
	return found
}

func (c *call) newGrant(body grantBody, s *server) (*grant, error) {
	if !authz.Delegable(body.Action) {
		return nil, fault.New(fault.Invalid, "action %.64q cannot be delegated: use %s, %s or %s", body.Action, authz.ServerRead, authz.MCPRead, authz.MCPCall)
	}
	if s == nil {
		return nil, fault.New(fault.NotFound, "no %q: objects are written server/<name>", body.Object)
	}
	made, err := epoch(c.e.Record, body.To)
	if err != nil {
		return nil, err
	}
	now := c.now().UTC()
	until, err := term{body.ExpiresIn, body.Until, "until"}.end(now, grantSpan())
	if err != nil {
		return nil, err
	}
	if until.IsZero() {
		until = now.Add(grantLife)
	}
	return &grant{
		V: grantVersion, ID: uuid.NewString(), To: body.To, Action: body.Action, Server: s.ID, By: c.r.Visit.Principal().Ref(),
		Created: now, Until: until, Epoch: made,
	}, nil
}

// delegate stores a grant. Commit, then memory. The same grant again sets the end of the one that is there.
func (g *Gateway) delegate(ctx context.Context, by records, permit *guard.Permit, r *tenant.Record, v *grant) (*grant, error) {
	g.changes.Lock()
	defer g.changes.Unlock()
	servers, err := g.fresh(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := servers.byID(v.Server); !ok {
		return nil, fault.New(fault.NotFound, "the server was deleted")
	}
	set := g.grants.Load()
	dead := set.dead(g.now(), r, servers)
	for _, have := range set.server[v.Server] {
		if have.To == v.To && have.Action == v.Action && have.Epoch.Equal(v.Epoch) {
			again := *have
			again.Until, again.By = v.Until, v.By
			v = &again
			dead = without(dead, v.ID)
		}
	}
	next := set.with([]*grant{v}, dead)
	if n := len(next.all); n > maxGrants {
		return nil, fault.New(fault.Conflict, "there are %d grants, the most that a tenant may have: delete some, or give roles", n-1)
	}
	if n := len(next.server[v.Server]); n > maxServerGrants {
		return nil, fault.New(fault.Conflict, "there are %d grants of this server, the most that one may have: give roles", n-1)
	}
	w, err := v.write()
	if err != nil {
		return nil, err
	}
	if err := g.commit(by, permit, append(deleteGrants(dead), w)...); err != nil {
		return nil, err
	}
	g.setGrants(next)
	return v, nil
}

func without(list []string, s string) []string {
	var out []string
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}

func deleteGrant(ctx context.Context, c *call) (exchange.Decision, error) {
	servers, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	var s *server
	g, ok := c.gw.grants.Load().find(c.params[0])
	if ok {
		s, _ = servers.byID(g.Server)
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.GrantDelete, Resource: "grant/" + label(c.params[0]), Object: s.object(c.e.Record)})
	if err != nil {
		return nil, err
	}
	if err := permit.Settle(c.gw.undelegate(ctx, c.records, permit, c.e.Record, c.params[0])); err != nil {
		return nil, err
	}
	return noContent(), nil
}

func (g *Gateway) undelegate(ctx context.Context, by records, permit *guard.Permit, r *tenant.Record, id string) error {
	g.changes.Lock()
	defer g.changes.Unlock()
	servers, err := g.fresh(ctx)
	if err != nil {
		return err
	}
	set := g.grants.Load()
	if _, ok := set.find(id); !ok {
		return fault.New(fault.NotFound, "no grant %q", id)
	}
	gone := append(without(set.dead(g.now(), r, servers), id), id)
	if err := g.commit(by, permit, deleteGrants(gone)...); err != nil {
		return err
	}
	g.setGrants(set.with(nil, gone))
	return nil
}
