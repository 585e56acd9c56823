package vgw

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/catalog"
)

// whoamiView is what a credential is told about itself.
type whoamiView struct {
	Tenant      tenant.ID            `json:"tenant"`
	DisplayName string               `json:"display_name,omitzero"`
	Kind        tenant.PrincipalKind `json:"kind"`
	ID          string               `json:"id"`
	Ref         string               `json:"ref"` // as grants and audit records name it
	Name        string               `json:"name"`
	Role        string               `json:"role"` // none: no member
	Via         tenant.Via           `json:"via,omitzero"`
	Issuer      string               `json:"issuer,omitzero"`
	Groups      []string             `json:"groups,omitempty"`
	KeyID       string               `json:"key_id,omitzero"`
	Expires     time.Time            `json:"expires,omitzero"` // of the credential
}

func whoami(_ context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.Whoami, Resource: "whoami"})
	if err != nil {
		return nil, err
	}
	p := c.r.Visit.Principal()
	v := whoamiView{
		Tenant: c.e.Scope.ID(), DisplayName: c.e.Record.DisplayName, Kind: p.Kind, ID: p.ID, Ref: p.Ref(), Name: p.Name,
		Role: p.Role.String(), Via: p.Via, KeyID: p.KeyID, Expires: p.Expires,
	}
	if p.Claims != nil {
		v.Issuer, v.Groups = p.Claims.Issuer, p.Claims.Groups
	}
	d, err := reply(200, v)
	permit.Done(err)
	return decision(d, err)
}

func metrics(ctx context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MetricsRead, Resource: "metrics"})
	if err != nil {
		return nil, err
	}
	h := exchange.Header{}
	h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	d := &exchange.Reply{Status: 200, Header: h}
	switch {
	case c.cfg.Numbers != nil:
		var missing []string
		if d.Body, missing = c.cfg.Numbers.TenantText(ctx, c.e.Scope.ID()); len(missing) > 0 {
			d.Body = fmt.Appendf(d.Body, "# incomplete: no answer from %s\n", strings.Join(missing, " "))
		}
	case c.cfg.Telemetry != nil:
		d.Body = c.cfg.Telemetry.TenantText(c.e.Scope.ID())
	}
	d.Body = c.ownMetrics(d.Body)
	permit.Done(nil)
	return d, nil
}

// endpointView is a server as the tenant's MCP clients see it.
type endpointView struct {
	Name      string `json:"name"`
	URL       string `json:"url"` // ours
	Transport string `json:"transport"`
}

// serverView is a server as its administrators see it. Header values are never shown.
type serverView struct {
	ID              string        `json:"id"`
	Name            string        `json:"name"`
	URL             string        `json:"url"`
	Headers         []string      `json:"headers"`
	TimeoutSeconds  int           `json:"timeout_seconds,omitzero"`
	Source          tenant.Source `json:"source"`
	File            string        `json:"file,omitzero"`
	Owner           string        `json:"owner,omitzero"` // Ref of who made it
	Created         time.Time     `json:"created"`
	Updated         time.Time     `json:"updated"`
	ResourceVersion string        `json:"resource_version"` // also the ETag
}

func (c *call) serverView(s *server) serverView {
	v := serverView{
		ID: s.ID, Name: s.Name, URL: s.URL, Headers: make([]string, 0, len(s.Headers)), TimeoutSeconds: s.Timeout,
		Source: s.Source, File: s.File, Owner: s.object(c.e.Record).Owner, Created: s.Created, Updated: s.Updated, ResourceVersion: strconv.FormatInt(s.Version, 10),
	}
	for _, h := range s.Headers {
		v.Headers = append(v.Headers, h.Name)
	}
	// A query may hold a token of the server's, which is for those who could have set it.
	if base, _, ok := strings.Cut(s.URL, "?"); ok && !c.r.Visit.May(authz.ServerCreate) {
		v.URL = base
	}
	return v
}

// admitList admits a list. Who may not see any of it is shown an empty one (false), not a refusal.
func admitList(c *call, a authz.Action, resource string) (*guard.Permit, bool, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: a, Resource: resource})
	if fault.Is(err, fault.NotFound) {
		return nil, false, nil
	}
	return permit, err == nil, err
}

// roleMay says whether the caller's role alone allows an action, whatever its policy says: it is for choosing what to admit.
func (c *call) roleMay(a authz.Action) bool {
	return authz.Authorize(c.r.Visit.Principal(), a, c.e.Scope.ID()).Allow
}

// answerList answers with the page of items that is asked for, each as view shows it.
func answerList[T, V any](c *call, permit *guard.Permit, items []T, name func(T) string, view func(T) V) (exchange.Decision, error) {
	return answerSome(c, permit, items, name, view, func(T) bool { return true })
}

// answerSome is answerList without the items of the page that may not be seen.
func answerSome[T, V any](c *call, permit *guard.Permit, items []T, name func(T) string, view func(T) V, see func(T) bool) (exchange.Decision, error) {
	part, err := page(c, items, name)
	var d *exchange.Reply
	if err == nil {
		out := list[V]{Items: make([]V, 0, len(part.Items)), NextCursor: part.NextCursor}
		for _, item := range part.Items {
			if see(item) {
				out.Items = append(out.Items, view(item))
			}
		}
		d, err = reply(200, out)
	}
	if permit != nil {
		permit.Done(err)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

func listEndpoints(ctx context.Context, c *call) (exchange.Decision, error) {
	return answerServers(ctx, c, authz.MCPRead, func(s *server) endpointView {
		return endpointView{Name: s.Name, URL: c.r.Base + "/servers/" + s.Name + "/mcp", Transport: "streamable-http"}
	})
}

func listServers(ctx context.Context, c *call) (exchange.Decision, error) {
	return answerServers(ctx, c, authz.ServerRead, c.serverView)
}

// answerServers lists the servers to who may list them, less those with which the tenant's policy does not let it do a, and to
// others those with which they may do a by a delegation.
func answerServers[V any](ctx context.Context, c *call, a authz.Action, view func(*server) V) (exchange.Decision, error) {
	snap, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	name := func(s *server) string { return s.Name }
	if !c.roleMay(authz.ServerList) {
		if items := c.admitEach(snap, a); len(items) > 0 {
			return answerList(c, nil, items, name, view)
		}
	}
	permit, may, err := admitList(c, authz.ServerList, "server")
	if err != nil {
		return nil, err
	}
	var items []*server
	if may {
		items = snap.servers
	}
	return answerSome(c, permit, items, name, view, func(s *server) bool {
		return c.r.Visit.MayDo(guard.Effect{Action: a, Resource: "server/" + s.Name, Object: s.object(c.e.Record), Grants: c.delegated(s.object(c.e.Record))})
	})
}

// admitEach returns the servers of which the caller was delegated to do a, each admitted by itself.
func (c *call) admitEach(snap *snapshot, a authz.Action) []*server {
	var out []*server
	for _, s := range snap.servers {
		if !c.allows(a, s.object(c.e.Record)) {
			continue
		}
		permit, err := c.r.Visit.Admit(guard.Effect{Action: a, Resource: "server/" + s.Name, Object: s.object(c.e.Record), Grants: c.delegated(s.object(c.e.Record))})
		if err == nil {
			permit.Done(nil)
			out = append(out, s)
		}
	}
	return out
}

func getServer(ctx context.Context, c *call) (exchange.Decision, error) {
	snap, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	s, _ := snap.find(c.params[0]) // before the admission, which it may hang on; one that is absent is admitted as none
	permit, err := c.r.Visit.Admit(guard.Effect{
		Action: authz.ServerRead, Resource: "server/" + label(c.params[0]), Object: s.object(c.e.Record), Grants: c.delegated(s.object(c.e.Record)),
	})
	if err != nil {
		return nil, err
	}
	if s == nil {
		err = noServer(c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return decision(c.replyServer(200, s))
}

func (c *call) replyServer(status int, s *server) (*exchange.Reply, error) {
	d, err := reply(status, c.serverView(s))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(s.Version))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/servers/"+s.Name)
	}
	return d, nil
}

// serverBody is the body of POST /api/v1/servers.
type serverBody struct {
	Name           string            `json:"name"`
	URL            string            `json:"url"`
	Headers        map[string]string `json:"headers"`
	TimeoutSeconds int32             `json:"timeout_seconds"`
}

func createServer(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[serverBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.ServerCreate, Resource: "server/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	d := catalog.Server{Name: body.Name, URL: body.URL, Headers: body.Headers, Timeout: time.Duration(body.TimeoutSeconds) * time.Second}
	var s *server
	if err = d.Check(); err == nil {
		s, err = c.gw.create(ctx, c.records, permit, d, ownerOf(c.e.Record, c.r.Visit.Principal()), c.r.Visit.MaxServers())
	}
	if err := permit.Settle(err); err != nil {
		return nil, err
	}
	return c.replyServer(201, s)
}

func deleteServer(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	snap, err := c.gw.catalog(ctx)
	if err != nil {
		return nil, err
	}
	s, _ := snap.find(c.params[0])
	o := s.object(c.e.Record)
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.ServerDelete, Resource: "server/" + label(c.params[0]), Object: o})
	if err != nil {
		return nil, err
	}
	if err := permit.Settle(c.gw.remove(ctx, c.records, permit, c.params[0], o.ID, pre)); err != nil {
		return nil, err
	}
	return noContent(), nil
}
