package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Operators give and take every role of a tenant, the last admin's too: they can give it again, and are the ones to ask
// where a tenant has locked itself out. Who asks is the token's holder; no field of a body names anybody who acts.

func (s *Server) listMembers(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	list := MemberList{Items: []Member{}}
	err = c.read(authz.MemberList, "tenant/"+string(id)+"/member", scope, func() error {
		if missing != nil {
			return missing
		}
		for i := range e.Record.Members {
			list.Items = append(list.Items, renderMember(e.Record, &e.Record.Members[i]))
		}
		slices.SortFunc(list.Items, func(a, b Member) int {
			return cmp.Or(strings.Compare(a.Authenticator, b.Authenticator), strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
		})
		return nil
	})
	return &answer{status: http.StatusOK, body: list}, err
}

func (s *Server) getMember(c *call) (*answer, error) {
	id, scope, e, missing, err := s.subject(c)
	if err != nil {
		return nil, err
	}
	var a *answer
	err = c.read(authz.MemberRead, "tenant/"+string(id)+memberResource(c.args["member"]), scope, func() error {
		if missing != nil {
			return missing
		}
		m, ok := e.Record.MemberByID(c.args["member"])
		if !ok {
			return noMember()
		}
		a = shownMember(http.StatusOK, e, m)
		return nil
	})
	return a, err
}

func noMember() error { return fault.New(fault.NotFound, "no such member") }

// memberResource names a member in an audit record; what no member can be named by is left out.
func memberResource(name string) string {
	if tenant.CheckSubject("member", name) != nil {
		name = "?"
	}
	return "/member/" + name
}

// shownMember answers with a member. Its version is the tenant's, whose record it is a part of.
func shownMember(status int, e *tenant.Entry, m *tenant.Member) *answer {
	return &answer{status: status, body: renderMember(e.Record, m), etag: e.Record.Revision}
}

// createMember gives a user or a group a role. With an Idempotency-Key, one that is there already with this role is what
// the request made, and is the answer.
func (s *Server) createMember(c *call) (*answer, error) {
	var req MemberRequest
	if err := decode(c.http, &req, false); err != nil {
		return nil, err
	}
	role, err := req.check()
	if err != nil {
		return nil, err
	}
	m := tenant.Member{
		ID: uuid.NewString(), Kind: req.Kind, Authenticator: req.Authenticator, Name: req.Name, Role: role,
		Source: tenant.SourceAPI, Created: s.cfg.Now().UTC(), By: c.visit.Principal().Ref(),
	}
	again := c.http.Header.Get("Idempotency-Key") != ""
	e, err := s.edit(c, authz.MemberCreate, memberResource(string(m.Kind)+":"+m.Authenticator+"/"+m.Name), nil, func(r *tenant.Record) error {
		have, err := addMember(r, m, again)
		m = have
		return err
	})
	if err != nil {
		return nil, err
	}
	a := shownMember(http.StatusCreated, e, &m)
	a.location = "/api/v1/tenants/" + url.PathEscape(c.args["id"]) + "/members/" + m.ID
	return a, nil
}

// addMember adds m, and returns it as it is then: with again, one that is equal and there already.
func addMember(r *tenant.Record, m tenant.Member, again bool) (tenant.Member, error) {
	if _, ok := r.AuthenticatorByName(m.Authenticator); !ok {
		return m, fault.New(fault.Invalid, "the tenant has no authenticator %.64q: its admins, or the file that declares it, must add one first", m.Authenticator)
	}
	for _, have := range r.Members {
		if have.Kind != m.Kind || have.Authenticator != m.Authenticator || have.Name != m.Name {
			continue
		}
		if again && have.Role == m.Role && have.Source == tenant.SourceAPI {
			return have, nil
		}
		return m, fault.New(fault.Conflict, "%s %q of %s is a member already, with the role %s: change that one", m.Kind, m.Name, m.Authenticator, have.Role)
	}
	if len(r.Members) >= tenant.MaxMembers {
		return m, fault.New(fault.Conflict, "the tenant has %d members, and may have %d: give roles to groups", len(r.Members), tenant.MaxMembers)
	}
	r.Members = append(r.Members, m)
	return m, nil
}

func (s *Server) updateMember(c *call) (*answer, error) {
	var req RoleRequest
	if err := decode(c.http, &req, false); err != nil {
		return nil, err
	}
	role, err := namedRole(req.Role)
	if err != nil {
		return nil, err
	}
	var m tenant.Member
	e, err := s.editMember(c, authz.MemberUpdate, func(r *tenant.Record, i int) {
		if have := &r.Members[i]; have.Role != role {
			// Later than before, whatever the clock says: versions of a member are told apart by it.
			have.Role, have.Updated = role, latest(s.cfg.Now().UTC(), have.Updated.Add(time.Microsecond))
		}
		m = r.Members[i]
	})
	if err != nil {
		return nil, err
	}
	return shownMember(http.StatusOK, e, &m), nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (s *Server) deleteMember(c *call) (*answer, error) {
	_, err := s.editMember(c, authz.MemberDelete, func(r *tenant.Record, i int) { r.Members = slices.Delete(r.Members, i, i+1) })
	if err != nil {
		return nil, err
	}
	return &answer{status: http.StatusNoContent}, nil
}

// editMember finds the member of the path in the record that is replaced, and has f change it.
func (s *Server) editMember(c *call, a authz.Action, f func(r *tenant.Record, i int)) (*tenant.Entry, error) {
	return s.edit(c, a, memberResource(c.args["member"]), nil, func(r *tenant.Record) error {
		i := slices.IndexFunc(r.Members, func(m tenant.Member) bool { return m.ID == c.args["member"] })
		if i < 0 {
			return noMember()
		}
		if r.Members[i].Source == tenant.SourceFile && !s.removed(r) {
			return fault.New(fault.Conflict, "member %q is declared in %s: change it there", r.Members[i].Name, cmp.Or(r.File, "a file"))
		}
		f(r, i)
		return nil
	})
}
