package vgw

import (
	"context"
	"slices"
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
	Object   string       `json:"object,omitzero"` // server/<name> or sandbox/<name>, while there is one
	ObjectID string       `json:"object_id"`
	By       string       `json:"by"`
	Created  time.Time    `json:"created"`
	Until    time.Time    `json:"until"`
}

func viewGrant(g *grant, all objects) grantView {
	v := grantView{ID: g.ID, To: g.To, Action: g.Action, ObjectID: g.on().id, By: g.By, Created: g.Created, Until: g.Until}
	if o := all.byKey(g.on()); o != nil {
		v.Object = o.kind + "/" + o.name
	}
	return v
}

// object returns what a decision is told of a server; the zero Object of none.
func (s *server) object(r *tenant.Record) authz.Object {
	if s == nil {
		return authz.Object{}
	}
	return ownedObject(r, objectKey{kindServer, s.ID}, owner{s.Owner, s.Epoch})
}

// ownedObject returns what a decision is told of an object. Where the name of its owner may mean somebody else by now, it
// belongs to the tenant.
func ownedObject(r *tenant.Record, k objectKey, by owner) authz.Object {
	o := authz.Object{Type: k.kind, ID: k.id, Owner: by.ref}
	if strings.HasPrefix(by.ref, string(tenant.KindUser)+":") {
		if made, err := epoch(r, by.ref); err != nil || !made.Equal(by.epoch) {
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

// delegated returns what was delegated of an object to the caller.
func (c *call) delegated(o authz.Object) []authz.Grant {
	set, on := c.gw.grants.Load(), objectKey{o.Type, o.ID}
	if len(set.of[on]) == 0 {
		return nil
	}
	return set.to(c.e.Record, on, c.r.Visit.Principal().Ref())
}

// allows says whether the caller may do something with an object by role, ownership or delegation. It records nothing and
// asks no policy: it is for choosing what to admit.
func (c *call) allows(a authz.Action, o authz.Object) bool {
	return authz.Decide(authz.Question{
		Principal: c.r.Visit.Principal(), Action: a, In: c.e.Scope.ID(), Object: o, Grants: c.delegated(o), Now: c.now(),
	}).Allow
}

func listGrants(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.GrantList, "grant")
	if err != nil {
		return nil, err
	}
	all, err := c.gw.objects(ctx)
	if err != nil {
		return nil, settleList(permit, err)
	}
	var shown []*grant
	for _, g := range c.gw.grants.Load().all {
		if may && c.now().Before(g.Until) && g.stands(c.e.Record) && c.concerns(g, all) {
			shown = append(shown, g)
		}
	}
	return answerList(c, permit, shown, func(g *grant) string { return g.ID }, func(g *grant) grantView { return viewGrant(g, all) })
}

func settleList(permit *guard.Permit, err error) error {
	if permit != nil {
		permit.Done(err)
	}
	return err
}

// concerns says whether a grant is to the caller, by it, of what it owns, or of what it administers.
func (c *call) concerns(g *grant, all objects) bool {
	me, o := c.r.Visit.Principal().Ref(), all.byKey(g.on()).object(c.e.Record)
	return g.To == me || g.By == me || o.Owner == me || c.allows(authz.GrantDelete, o)
}

// grantBody is the body of POST /api/v1/grants.
type grantBody struct {
	To        string       `json:"to"`
	Action    authz.Action `json:"action"`
	Object    string       `json:"object"` // server/<name or id> or sandbox/<name or id>
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
	all, err := c.gw.objects(ctx)
	if err != nil {
		return nil, err
	}
	o := all.named(body.Object)
	if o == nil && all.unknown != nil && strings.HasPrefix(body.Object, kindSandbox+"/") {
		return nil, all.unknown
	}
	resource := "grant/" + label(body.Object) + "/" + label(string(body.Action)) + "/" + label(body.To)
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.GrantCreate, Resource: resource, Object: o.object(c.e.Record)})
	if err != nil {
		return nil, err
	}
	g, err := c.newGrant(body, o)
	if err == nil {
		g, err = c.gw.delegate(ctx, c.records, permit, c.e.Record, g)
	}
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	return decision(reply(201, viewGrant(g, all)))
}

func (c *call) newGrant(body grantBody, o *ownable) (*grant, error) {
	kind, _, _ := strings.Cut(body.Object, "/")
	if err := delegable(body.Action, kind); err != nil {
		return nil, err
	}
	if o == nil {
		return nil, fault.New(fault.NotFound, "no %q: objects are written server/<name> or sandbox/<name>", body.Object)
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
	g := &grant{
		V: grantVersion, ID: uuid.NewString(), To: body.To, Action: body.Action, By: c.r.Visit.Principal().Ref(), Created: now, Until: until, Epoch: made,
	}
	g.about(o.objectKey)
	return g, nil
}

// delegable refuses an action that cannot be delegated of an object of that kind.
func delegable(a authz.Action, kind string) error {
	could := []authz.Action{authz.ServerRead, authz.MCPRead, authz.MCPCall}
	if kind == kindSandbox {
		could = []authz.Action{authz.SandboxRead, authz.SandboxStart, authz.SandboxStop, authz.SandboxDelete, authz.SandboxExec, authz.SandboxLogs}
	}
	if authz.Delegable(a) && slices.Contains(could, a) {
		return nil
	}
	names := make([]string, len(could))
	for i, one := range could {
		names[i] = string(one)
	}
	return fault.New(fault.Invalid, "action %.64q cannot be delegated: use one of %s", a, strings.Join(names, ", "))
}

// delegate stores a grant. Commit, then memory. The same grant again sets the end of the one that is there.
func (g *Gateway) delegate(ctx context.Context, by records, permit *guard.Permit, r *tenant.Record, v *grant) (*grant, error) {
	g.changes.Lock()
	defer g.changes.Unlock()
	servers, err := g.fresh(ctx)
	if err != nil {
		return nil, err
	}
	all := g.beside(servers)
	if !all.exists(v.on()) {
		return nil, fault.New(fault.NotFound, "the %s was deleted", v.on().kind)
	}
	set := g.grants.Load()
	dead := set.dead(g.now(), r, all.exists)
	for _, have := range set.of[v.on()] {
		if have.To == v.To && have.Action == v.Action && have.Epoch.Equal(v.Epoch) {
			again := *have
			again.Until, again.By = v.Until, v.By
			v = &again
			dead = without(dead, v.ID)
		}
	}
	if err := set.with([]*grant{v}, dead).fits(v.on()); err != nil {
		return nil, err
	}
	w, err := v.write()
	if err != nil {
		return nil, err
	}
	if err := g.commit(by, permit, append(deleteGrants(dead), w)...); err != nil {
		return nil, err
	}
	g.editGrants(func(s *grantSet) *grantSet { return s.with([]*grant{v}, dead) })
	return v, nil
}

// fits refuses a set with too many grants, of one object or in all.
func (s *grantSet) fits(on objectKey) error {
	if n := len(s.all); n > maxGrants {
		return fault.New(fault.Conflict, "there are %d grants, the most that a tenant may have: delete some, or give roles", n-1)
	}
	if n := len(s.of[on]); n > maxObjectGrants {
		return fault.New(fault.Conflict, "there are %d grants of this %s, the most that one may have: give roles", n-1, on.kind)
	}
	return nil
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
	all, err := c.gw.objects(ctx)
	if err != nil {
		return nil, err
	}
	var o *ownable
	if g, ok := c.gw.grants.Load().find(c.params[0]); ok {
		o = all.byKey(g.on())
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.GrantDelete, Resource: "grant/" + label(c.params[0]), Object: o.object(c.e.Record)})
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
	all := g.beside(servers)
	set := g.grants.Load()
	if _, ok := set.find(id); !ok {
		return fault.New(fault.NotFound, "no grant %q", id)
	}
	gone := append(without(set.dead(g.now(), r, all.exists), id), id)
	if err := g.commit(by, permit, deleteGrants(gone)...); err != nil {
		return err
	}
	g.forgetGrants(deleteGrants(gone))
	return nil
}
