package policy

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/polygate/polygate/internal/tenant"
)

// Input is what a policy is asked about. It has no tenant: the engine puts its own there, so that no caller can speak
// for another. It has no time: a decision follows from the bundle and the input alone.
type Input struct {
	Principal  Principal
	Role       tenant.Role
	Groups     []string
	Scopes     []string
	Attributes map[string][]string // further claims that the tenant mapped
	Action     string              // such as "mcp.call"
	Resource   Resource
	Request    Request
}

// Principal is who asks.
type Principal struct {
	Kind   string // a tenant.PrincipalKind
	ID     string // unique within tenant, kind and issuer
	Name   string
	Issuer string // of the token; empty for keys
	Via    string // how it was authenticated, such as "key", "oidc" or "mtls"
}

// Resource is what the action is done to.
type Resource struct {
	Type   string // such as "server" or "tool"
	Name   string
	Path   string            // within the resource, for relays
	Owner  string            // the principal's ref ("kind:id") that owns it; empty if nobody does
	Labels map[string]string // what its type adds
}

// Request is how it was asked.
type Request struct {
	Method string
	Path   string
	Host   string
	Remote string // the client's address without its port
	ID     string // the request id, as in the audit record
}

// value returns the input document for a tenant. It is built term by term: a way through JSON would cost more than most
// evaluations. Every field is there always, so that a policy never finds one undefined that it negates.
func (in *Input) value(id tenant.ID) ast.Value {
	p, r, q := &in.Principal, &in.Resource, &in.Request
	return object(
		field("tenant", str(string(id))),
		field("principal", object(
			field("kind", str(p.Kind)), field("id", str(p.ID)), field("name", str(p.Name)),
			field("issuer", str(p.Issuer)), field("via", str(p.Via)))),
		field("role", str(in.Role.String())),
		field("groups", list(in.Groups)),
		field("scopes", list(in.Scopes)),
		field("attributes", lists(in.Attributes)),
		field("action", str(in.Action)),
		field("resource", object(
			field("type", str(r.Type)), field("name", str(r.Name)), field("path", str(r.Path)),
			field("owner", str(r.Owner)), field("labels", labels(r.Labels)))),
		field("request", object(
			field("method", str(q.Method)), field("path", str(q.Path)), field("host", str(q.Host)),
			field("remote", str(q.Remote)), field("id", str(q.ID)))),
	)
}

func field(key string, v ast.Value) [2]*ast.Term {
	return [2]*ast.Term{ast.InternedTerm(key), ast.NewTerm(v)}
}

func object(fields ...[2]*ast.Term) ast.Object { return ast.NewObject(fields...) }

// str makes text valid: OPA and JSON disagree over what is not UTF-8, and a rule that compares it must not depend on that.
func str(s string) ast.Value { return ast.String(strings.ToValidUTF8(s, "\ufffd")) }

func list(ss []string) ast.Value {
	terms := make([]*ast.Term, len(ss))
	for i, s := range ss {
		terms[i] = ast.NewTerm(str(s))
	}
	return ast.NewArray(terms...)
}

func lists(m map[string][]string) ast.Value {
	fields := make([][2]*ast.Term, 0, len(m))
	for k, v := range m {
		fields = append(fields, [2]*ast.Term{ast.NewTerm(str(k)), ast.NewTerm(list(v))})
	}
	return object(fields...)
}

func labels(m map[string]string) ast.Value {
	fields := make([][2]*ast.Term, 0, len(m))
	for k, v := range m {
		fields = append(fields, [2]*ast.Term{ast.NewTerm(str(k)), ast.NewTerm(str(v))})
	}
	return object(fields...)
}
