package vgw

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

func memberRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/members", Action: authz.MemberList, Summary: "the users and groups that have a role"}, handle: listMembers},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/members", Owner: exchange.OwnerAny, Action: authz.MemberCreate, Summary: "give a user or a group a role"}, handle: createMember},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/members/revoke", Owner: exchange.OwnerAny, Action: authz.MemberRevoke, Summary: "end everything that a user is logged in with, member or not"}, handle: revokePrincipal},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/members/{member}", Owner: exchange.OwnerAny, Action: authz.MemberRead, Summary: "one member"}, handle: getMember},
		{Route: exchange.Route{Method: "PATCH", Pattern: "/api/v1/members/{member}", Owner: exchange.OwnerAny, Action: authz.MemberUpdate, Summary: "change a member's role"}, handle: updateMember},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/members/{member}", Owner: exchange.OwnerAny, Action: authz.MemberDelete, Summary: "take a member's role away"}, handle: deleteMember},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/members/{member}/revoke", Owner: exchange.OwnerAny, Action: authz.MemberRevoke, Summary: "end everything that a member is logged in with"}, handle: revokeMember},
	}
}

// memberView is a member as administrators see it.
type memberView struct {
	ID              string            `json:"id"`
	Kind            tenant.MemberKind `json:"kind"`
	Authenticator   string            `json:"authenticator"`
	Name            string            `json:"name"`
	Ref             string            `json:"ref,omitzero"` // of a user, as audit records and grants name it
	Role            string            `json:"role"`
	Source          tenant.Source     `json:"source"`
	File            string            `json:"file,omitzero"`
	Created         time.Time         `json:"created"`
	Updated         time.Time         `json:"updated"`
	By              string            `json:"created_by,omitzero"`
	ResourceVersion string            `json:"resource_version"` // also the ETag
}

func viewMember(r *tenant.Record, m *tenant.Member) memberView {
	v := memberView{
		ID: m.ID, Kind: m.Kind, Authenticator: m.Authenticator, Name: m.Name, Role: m.Role.String(), Source: m.Source,
		Created: m.Created, Updated: later(m.Created, m.Updated), By: m.By, ResourceVersion: strconv.FormatInt(memberVersion(m), 10),
	}
	if m.Kind == tenant.MemberUser {
		v.Ref = userRef(m.Authenticator, m.Name)
	}
	if m.Source == tenant.SourceFile {
		v.File = r.File
	}
	return v
}

func userRef(authenticator, subject string) string {
	return tenant.Principal{Kind: tenant.KindUser, ID: tenant.UserID(authenticator, subject)}.Ref()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func memberVersion(m *tenant.Member) int64 { return max(later(m.Created, m.Updated).UnixMicro(), 1) }

// memberKey is what members are sorted by. Names hold no control characters.
func memberKey(m *tenant.Member) string {
	return m.Authenticator + "\x00" + string(m.Kind) + "\x00" + m.Name
}

func listMembers(_ context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.MemberList, "member")
	if err != nil {
		return nil, err
	}
	var members []*tenant.Member
	for i := range c.e.Record.Members {
		if may {
			members = append(members, &c.e.Record.Members[i])
		}
	}
	slices.SortFunc(members, func(a, b *tenant.Member) int { return strings.Compare(memberKey(a), memberKey(b)) })
	return answerList(c, permit, members, memberKey, func(m *tenant.Member) memberView { return viewMember(c.e.Record, m) })
}

func noMember(id string) error { return fault.New(fault.NotFound, "no member %q", id) }

func getMember(_ context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MemberRead, Resource: "member/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	m, ok := c.e.Record.MemberByID(c.params[0])
	if !ok {
		err = noMember(c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return replyMember(200, c, c.e.Record, m)
}

func replyMember(status int, c *call, r *tenant.Record, m *tenant.Member) (exchange.Decision, error) {
	d, err := reply(status, viewMember(r, m))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(memberVersion(m)))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/members/"+m.ID)
	}
	return d, nil
}

// memberBody is the body of POST /api/v1/members.
type memberBody struct {
	Kind          tenant.MemberKind `json:"kind"`
	Authenticator string            `json:"authenticator"`
	Name          string            `json:"name"`
	Role          string            `json:"role"`
}

func createMember(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[memberBody](c)
	if err != nil {
		return nil, err
	}
	who := label(string(body.Kind) + ":" + body.Authenticator + "/" + body.Name)
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MemberCreate, Resource: "member/" + who})
	if err != nil {
		return nil, err
	}
	m, err := c.newMember(body)
	if err != nil {
		return nil, permit.Settle(err)
	}
	e, err := c.change(ctx, permit, addMember(m))
	if err != nil {
		return nil, err
	}
	return replyMember(201, c, e.Record, &m)
}

func (c *call) newMember(body memberBody) (m tenant.Member, err error) {
	if body.Kind != tenant.MemberUser && body.Kind != tenant.MemberGroup {
		return m, fault.New(fault.Invalid, "kind %.64q is unknown: use user or group", body.Kind)
	}
	if err := tenant.CheckSubject("name", body.Name); err != nil {
		return m, err
	}
	role, err := c.namedRole(body.Role)
	if err != nil {
		return m, err
	}
	return tenant.Member{
		ID: uuid.NewString(), Kind: body.Kind, Authenticator: body.Authenticator, Name: body.Name, Role: role,
		Source: tenant.SourceAPI, Created: c.now().UTC(), By: c.r.Visit.Principal().Ref(),
	}, nil
}

// namedRole is grantable for a role that has no default: people are given what was meant.
func (c *call) namedRole(name string) (tenant.Role, error) {
	if name == "" {
		return tenant.NoRole, fault.New(fault.Invalid, "role is missing: use viewer or editor")
	}
	return c.grantable(name)
}

func addMember(m tenant.Member) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		if _, ok := r.AuthenticatorByName(m.Authenticator); !ok {
			return fault.New(fault.Invalid, "there is no authenticator %.64q: add it first", m.Authenticator)
		}
		for i := range r.Members {
			if memberKey(&r.Members[i]) == memberKey(&m) {
				return fault.New(fault.Conflict, "%s %q of %s is a member already", m.Kind, m.Name, m.Authenticator)
			}
		}
		if n := len(r.Members); n >= tenant.MaxMembers {
			return fault.New(fault.Conflict, "there are %d members, the most that a tenant may have: give roles to groups", n)
		}
		r.Members = append(r.Members, m)
		return nil
	}
}

// rolePatch is the body of PATCH /api/v1/members/{member}.
type rolePatch struct {
	Role string `json:"role"`
}

func updateMember(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	body, err := decode[rolePatch](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MemberUpdate, Resource: "member/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	role, err := c.namedRole(body.Role)
	if err != nil {
		return nil, permit.Settle(err)
	}
	var m tenant.Member
	e, err := c.change(ctx, permit, c.editMember(pre, func(r *tenant.Record, i int) {
		r.Members[i].Role, r.Members[i].Updated = role, later(c.now().UTC(), r.Members[i].Updated.Add(time.Microsecond))
		m = r.Members[i]
	}))
	if err != nil {
		return nil, err
	}
	return replyMember(200, c, e.Record, &m)
}

// editMember finds the member that the path names, and has f change it. Admins manage members, other admins among them:
// what they cannot is make one.
func (c *call) editMember(pre precondition, f func(r *tenant.Record, i int)) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		i := slices.IndexFunc(r.Members, func(m tenant.Member) bool { return m.ID == c.params[0] })
		if i < 0 {
			return noMember(c.params[0])
		}
		m := &r.Members[i]
		if err := declared(r, m.Source, "member", m.Name); err != nil {
			return err
		}
		if own := c.r.Visit.Principal().Role; m.Role > own {
			return fault.New(fault.Forbidden, "role %s may not change a member whose role is %s", own, m.Role)
		}
		if !pre.allows(memberVersion(m)) {
			return stale(memberVersion(m))
		}
		f(r, i)
		return nil
	}
}

func deleteMember(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MemberDelete, Resource: "member/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	remove := func(r *tenant.Record, i int) { r.Members = slices.Delete(r.Members, i, i+1) }
	if _, err := c.change(ctx, permit, c.editMember(pre, remove)); err != nil {
		return nil, err
	}
	return noContent(), nil
}

// revokedView says what a revocation ended.
type revokedView struct {
	Principal string    `json:"principal"`
	Before    time.Time `json:"before"` // what was issued before it is refused
	Until     time.Time `json:"until"`  // and dead by itself then
}

func revokeMember(ctx context.Context, c *call) (exchange.Decision, error) {
	if c.r.Length != 0 {
		if _, err := decode[struct{}](c); err != nil {
			return nil, err
		}
	}
	return c.revoke(ctx, "member/"+label(c.params[0]), func(r *tenant.Record) (string, error) {
		m, ok := r.MemberByID(c.params[0])
		switch {
		case !ok:
			return "", noMember(c.params[0])
		case m.Kind != tenant.MemberUser:
			return "", fault.New(fault.Conflict, "that is a group, which is not logged in: revoke its users")
		}
		return userRef(m.Authenticator, m.Name), nil
	})
}

// principalBody is the body of POST /api/v1/members/revoke.
type principalBody struct {
	Principal string `json:"principal"`
}

func revokePrincipal(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[principalBody](c)
	if err != nil {
		return nil, err
	}
	return c.revoke(ctx, "principal/"+label(body.Principal), func(r *tenant.Record) (string, error) {
		authenticator, _, err := parseUser(body.Principal)
		if err != nil {
			return "", err
		}
		if _, ok := r.AuthenticatorByName(authenticator); !ok {
			return "", fault.New(fault.Invalid, "there is no authenticator %.64q", authenticator)
		}
		return body.Principal, nil
	})
}

// parseUser reads "user:<authenticator>/<subject>".
func parseUser(ref string) (authenticator, subject string, err error) {
	rest, user := strings.CutPrefix(ref, string(tenant.KindUser)+":")
	authenticator, subject, ok := strings.Cut(rest, "/")
	if !user || !ok {
		return "", "", fault.New(fault.Invalid, "%.64q is no user: write user:<authenticator>/<subject>; a key is revoked with DELETE /api/v1/keys/<id>", ref)
	}
	return authenticator, subject, tenant.CheckSubject("subject", subject)
}

// revoke ends what a principal is logged in with. whom says who that is, in the record that is being changed.
func (c *call) revoke(ctx context.Context, resource string, whom func(*tenant.Record) (string, error)) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.MemberRevoke, Resource: resource})
	if err != nil {
		return nil, err
	}
	now := c.now().UTC()
	v := tenant.Revocation{Before: now}
	_, err = c.change(ctx, permit, func(r *tenant.Record) (err error) {
		if v.Principal, err = whom(r); err == nil {
			v.Until = now.Add(r.CredentialLife(v.Principal))
			r.Revoke(v, now)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return decision(reply(200, revokedView{v.Principal, v.Before, v.Until}))
}

// decision makes an untyped nil of no reply.
func decision(d *exchange.Reply, err error) (exchange.Decision, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}
