// Package authz decides, purely, whether a principal may perform an action. It knows roles and actions and nothing of
// requests, stores or time.
package authz

import (
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// Action is something that a principal can do in its tenant, as noun.verb.
type Action string

// The actions of a tenant's members.
const (
	Whoami       Action = "whoami.read"
	MetricsRead  Action = "metrics.read"
	ServerList   Action = "server.list"
	ServerRead   Action = "server.read"
	ServerCreate Action = "server.create"
	ServerDelete Action = "server.delete"
	MCPRead      Action = "mcp.read" // a method that only looks: initialize, ping, */list, resources/read, prompts/get, …
	MCPCall      Action = "mcp.call" // tools/call, and every method that is not known to only look
	KeyList      Action = "key.list"
	KeyCreate    Action = "key.create"
	KeyRevoke    Action = "key.revoke"
	RelayRead    Action = "relay.read"  // a request to a dedicated gateway that only looks: GET or HEAD, not an upgrade
	RelayWrite   Action = "relay.write" // any other request to a dedicated gateway
)

// The actions of platform operators.
const (
	TenantList    Action = "tenant.list"
	TenantRead    Action = "tenant.read"
	TenantCreate  Action = "tenant.create"
	TenantUpdate  Action = "tenant.update"
	TenantSuspend Action = "tenant.suspend"
	TenantResume  Action = "tenant.resume"
	TenantDelete  Action = "tenant.delete"
	AuditRead     Action = "audit.read" // the heads of the audit chains
)

// The actions of the platform itself.
const (
	TenantConflict Action = "tenant.conflict" // a request whose signals name different tenants was refused
	DataKeyCreate  Action = "datakey.create"
	CatalogApply   Action = "catalog.apply" // a reload made a tenant's servers be what its file says
)

// Class says how a refusal is shown, so that it tells no more than it must (design, step 3).
type Class uint8

// The classes.
const (
	Mutate Class = iota // refused with 403
	Read                // one object: refused with 404, as if absent
	List                // many objects: those that may not be seen are left out
)

// ClassOf returns how a refusal of a is shown.
func ClassOf(a Action) Class {
	switch {
	case strings.HasSuffix(string(a), ".list"):
		return List
	case strings.HasSuffix(string(a), ".read"):
		return Read
	}
	return Mutate
}

// Verdict is the outcome of Authorize.
type Verdict struct {
	Allow bool
	Rule  string // which rule decided, for the audit record
}

// Authorize decides whether p may perform a in the tenant of `in`. A principal of another tenant may do nothing; an
// operator is never a member of a tenant.
func Authorize(p tenant.Principal, a Action, in tenant.ID) Verdict {
	switch p.Kind {
	case tenant.KindSystem:
		return Verdict{true, "system"}
	case tenant.KindOperator:
		return Verdict{operatorMay(a), "operator"}
	case tenant.KindAnonymous:
		relay := a == RelayRead || a == RelayWrite
		return Verdict{relay && p.Tenant == in && in != "", "upstream authenticates"}
	}
	if p.Tenant != in || in == "" {
		return Verdict{false, "not a member"}
	}
	need := Needs(a)
	return Verdict{need != tenant.NoRole && p.Role >= need, "role " + p.Role.String()}
}

// Needs returns the smallest role that may perform a; NoRole where no member may.
func Needs(a Action) tenant.Role {
	switch a {
	case Whoami, MetricsRead, ServerList, ServerRead, MCPRead, RelayRead:
		return tenant.Viewer
	case MCPCall, RelayWrite:
		return tenant.Editor
	case ServerCreate, ServerDelete, KeyList, KeyCreate, KeyRevoke:
		return tenant.Admin
	}
	return tenant.NoRole
}

func operatorMay(a Action) bool {
	switch a {
	case TenantList, TenantRead, TenantCreate, TenantUpdate, TenantSuspend, TenantResume, TenantDelete, KeyList, KeyCreate, KeyRevoke, AuditRead:
		return true
	}
	return false
}
