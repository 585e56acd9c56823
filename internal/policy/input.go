package policy

import "github.com/polygate/polygate/internal/tenant"

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
