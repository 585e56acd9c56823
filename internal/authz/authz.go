// Package authz decides, purely, whether a principal may perform an action. It knows roles and actions and nothing of
// requests, stores or time.
package authz

import (
	"strings"
	"time"

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
	// RelayConnect is a connection to a gateway that ends TLS itself.
	RelayConnect Action = "relay.connect"

	MemberList   Action = "member.list"
	MemberRead   Action = "member.read"
	MemberCreate Action = "member.create"
	MemberUpdate Action = "member.update"
	MemberDelete Action = "member.delete"
	MemberRevoke Action = "member.revoke" // end everything that a user is logged in with
	BotList      Action = "bot.list"
	BotRead      Action = "bot.read"
	BotCreate    Action = "bot.create"
	BotDelete    Action = "bot.delete"

	AuthenticatorList   Action = "authenticator.list"
	AuthenticatorRead   Action = "authenticator.read"
	AuthenticatorCreate Action = "authenticator.create"
	AuthenticatorUpdate Action = "authenticator.update"
	AuthenticatorDelete Action = "authenticator.delete"

	GrantList   Action = "grant.list"   // delegations: those of one's own objects and to oneself; all of them for an admin
	GrantCreate Action = "grant.create" // by the owner of the object, or an admin
	GrantDelete Action = "grant.delete"

	PolicyList    Action = "policy.list"
	PolicyRead    Action = "policy.read"
	PolicyUpdate  Action = "policy.update" // put a bundle in force, roll back, or take it out of force
	PolicyCheck   Action = "policy.check"  // compile or test a bundle that is not in force
	PolicyExplain Action = "policy.explain"

	UsageRead     Action = "usage.read"
	AuditList     Action = "audit.list"     // one's own records; those of everybody for an admin, see AuditListAll
	AuditListAll  Action = "audit.all.list" // the records of everybody
	StatusRead    Action = "status.read"    // numbers of all replicas together
	OpenAPIRead   Action = "openapi.read"
	SessionCreate Action = "session.create" // a browser login
	SessionDelete Action = "session.delete" // a browser logout

	CertificateList   Action = "certificate.list"
	CertificateRead   Action = "certificate.read"
	CertificateUpdate Action = "certificate.update" // provide one
	CertificateRenew  Action = "certificate.renew"
	CertificateRevoke Action = "certificate.revoke"
	CertificateDelete Action = "certificate.delete" // take back one that was provided
	HostList          Action = "host.list"
	HostRead          Action = "host.read"
	HostCreate        Action = "host.create" // ask for a custom host
	HostVerify        Action = "host.verify" // look for the proof that it is the tenant's
	HostDelete        Action = "host.delete"

	SandboxList   Action = "sandbox.list" // one's own and what was delegated; all of them for an admin
	SandboxRead   Action = "sandbox.read" // also its events, and to wait for a state
	SandboxCreate Action = "sandbox.create"
	SandboxStart  Action = "sandbox.start"
	SandboxStop   Action = "sandbox.stop"
	SandboxDelete Action = "sandbox.delete"
	SandboxExec   Action = "sandbox.exec"      // by its owner or a delegation alone: an admin has to delegate it to himself, which is recorded
	SandboxLogs   Action = "sandbox.logs.read" // likewise
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
	AuditRead     Action = "audit.read" // the platform's own records, and the heads of all chains

	ReplicaList   Action = "replica.list"
	ReplicaRead   Action = "replica.read"
	ReplicaDrain  Action = "replica.drain" // take a replica's tenants away, or let it have some again
	TenantMove    Action = "tenant.move"   // to another replica
	TenantExport  Action = "tenant.export" // an archive of one tenant
	TenantImport  Action = "tenant.import"
	TenantHarden  Action = "tenant.harden" // put an adopted namespace in the shape of one of ours
	BackupCreate  Action = "backup.create" // an archive of everything
	BackupRestore Action = "backup.restore"
	SecretRekey   Action = "secret.rekey" // wrap every secret with another key-encryption key
)

// The actions of the platform itself.
const (
	TenantConflict Action = "tenant.conflict" // a request whose signals name different tenants was refused
	DataKeyCreate  Action = "datakey.create"
	CatalogApply   Action = "catalog.apply" // a reload made a tenant's servers be what its file says
	// CertificateIssue is a certificate that was ordered, or the failure of it.
	CertificateIssue Action = "certificate.issue"
	// SandboxTransition is a sandbox that came into another state, or whose use was added up.
	SandboxTransition Action = "sandbox.transition"
	NamespaceUpdate   Action = "namespace.update" // a tenant's namespace was brought in shape
	NamespaceDelete   Action = "namespace.delete" // what a deleted tenant left in a cluster was removed
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

// Object is what an action is done to, as far as a decision needs it. The zero Object has no owner.
type Object struct {
	Type  string // such as "server" or "sandbox"
	ID    string // unique within tenant and type
	Owner string // tenant.Principal.Ref of its owner; "" = the tenant
}

// Grant is a delegation: the owner of an object lets a principal do something with it for a time (S-R3). It adds to what a
// role allows, and never to what a policy denies.
type Grant struct {
	ID      string // UUID
	To      string // Ref of the principal
	Action  Action // one that can be delegated, see Delegable
	Type    string // of the object
	Object  string // the object's id
	By      string // Ref of who granted it
	Created time.Time
	Until   time.Time // when it ends; never zero
}

// Question is all that a decision depends on.
type Question struct {
	Principal tenant.Principal
	Action    Action
	In        tenant.ID // the tenant in which it is to happen
	Object    Object
	Grants    []Grant // the tenant's delegations; those of others are passed over
	Now       time.Time
}

// Authorize decides a question without an object: whether p may perform a in the tenant of `in`.
func Authorize(p tenant.Principal, a Action, in tenant.ID) Verdict {
	return Decide(Question{Principal: p, Action: a, In: in})
}

// Decide decides whether a principal may act. One of another tenant may do nothing; an operator is never a member of a
// tenant. A member may act if its role suffices; what belongs to somebody else needs an admin; a delegation allows what the
// role does not.
func Decide(q Question) Verdict {
	switch q.Principal.Kind {
	case tenant.KindSystem:
		return Verdict{true, "system"}
	case tenant.KindOperator:
		return Verdict{operatorMay(q.Action), "operator"}
	case tenant.KindAuditor:
		return Verdict{auditorMay(q.Action), "auditor"}
	case tenant.KindAnonymous:
		relay := q.Action == RelayRead || q.Action == RelayWrite || q.Action == RelayConnect
		return Verdict{relay && q.Principal.Tenant == q.In && q.In != "", "upstream authenticates"}
	}
	if q.Principal.Tenant != q.In || q.In == "" {
		return Verdict{false, "not a member"}
	}
	if AnyPrincipal(q.Action) && (q.Principal.Kind == tenant.KindUser || q.Principal.Role > tenant.NoRole) {
		return Verdict{true, "authenticated"}
	}
	need := Needs(q.Action)
	if need != tenant.NoRole && q.Principal.Role >= need && (!OwnerOnly(q.Action) || owns(q) || q.Principal.Role >= tenant.Admin && !Private(q.Action)) {
		return Verdict{true, ruleOf(q.Principal.Role)}
	}
	if id, ok := delegated(q); ok {
		return Verdict{true, "grant " + id}
	}
	return Verdict{false, ruleOf(q.Principal.Role)}
}

// ruleOf returns the name of the rule that decides by a role. It is asked for with each request, so it makes no string.
func ruleOf(r tenant.Role) string {
	switch r {
	case tenant.Viewer:
		return "role viewer"
	case tenant.Editor:
		return "role editor"
	case tenant.Admin:
		return "role admin"
	}
	return "role none"
}

// owns says whether the principal owns the object. What belongs to nobody belongs to the tenant: its admins.
func owns(q Question) bool { return q.Object.Owner != "" && q.Object.Owner == q.Principal.Ref() }

func delegated(q Question) (id string, ok bool) {
	if q.Object.ID == "" || !Delegable(q.Action) {
		return "", false
	}
	who := ""
	for i := range q.Grants {
		g := &q.Grants[i]
		if g.Action != q.Action || g.Type != q.Object.Type || g.Object != q.Object.ID || !q.Now.Before(g.Until) {
			continue
		}
		if who == "" {
			who = q.Principal.Ref()
		}
		if g.To == who {
			return g.ID, true
		}
	}
	return "", false
}

// AnyPrincipal says whether everybody whom the tenant's authenticators know may perform a, member or not: to learn who one
// is, and to log out.
func AnyPrincipal(a Action) bool { return a == Whoami || a == SessionCreate || a == SessionDelete }

// OwnerOnly says whether a, on an object, is for its owner and the tenant's admins alone, whatever the role.
func OwnerOnly(a Action) bool {
	switch a {
	case GrantCreate, GrantDelete, SandboxRead, SandboxStart, SandboxStop, SandboxDelete:
		return true
	}
	return Private(a)
}

// Private says whether a is for the object's owner and those to whom it was delegated, and not for admins: what comes to light
// there may be somebody's credentials and work (S-R3).
func Private(a Action) bool { return a == SandboxExec || a == SandboxLogs }

// Delegable says whether an owner may delegate a. What would hand on the right to hand on is not.
func Delegable(a Action) bool {
	switch a {
	case ServerRead, MCPRead, MCPCall, SandboxRead, SandboxStart, SandboxStop, SandboxDelete, SandboxExec, SandboxLogs:
		return true
	}
	return false
}

// MayGrant says whether who may give somebody a role in a tenant: strictly below one's own. Platform operators may give
// all of them.
func MayGrant(who tenant.Principal, role tenant.Role) bool {
	switch who.Kind {
	case tenant.KindSystem, tenant.KindOperator:
		return true
	}
	return role != tenant.NoRole && role < who.Role
}

// Needs returns the smallest role that may perform a; NoRole where no member may.
func Needs(a Action) tenant.Role {
	switch a {
	case Whoami, MetricsRead, ServerList, ServerRead, MCPRead, RelayRead, AuditList, UsageRead, OpenAPIRead, GrantList, PolicyExplain,
		CertificateList, CertificateRead, HostList, HostRead, SandboxList, SandboxRead, SandboxLogs:
		return tenant.Viewer
	case MCPCall, RelayWrite, GrantCreate, GrantDelete, SandboxCreate, SandboxStart, SandboxStop, SandboxDelete, SandboxExec:
		return tenant.Editor
	case ServerCreate, ServerDelete, KeyList, KeyCreate, KeyRevoke, MemberList, MemberRead, MemberCreate, MemberUpdate, MemberDelete,
		MemberRevoke, BotList, BotRead, BotCreate, BotDelete, AuthenticatorList, AuthenticatorRead, AuthenticatorCreate,
		AuthenticatorUpdate, AuthenticatorDelete, PolicyList, PolicyRead, PolicyUpdate, PolicyCheck, AuditListAll,
		CertificateUpdate, CertificateRenew, CertificateRevoke, CertificateDelete, HostCreate, HostVerify, HostDelete:
		return tenant.Admin
	}
	return tenant.NoRole
}

func operatorMay(a Action) bool {
	switch a {
	case TenantCreate, TenantUpdate, TenantSuspend, TenantResume, TenantDelete, KeyCreate, KeyRevoke, MemberCreate, MemberUpdate, MemberDelete,
		CertificateUpdate, CertificateRenew, CertificateRevoke, CertificateDelete, HostVerify,
		ReplicaDrain, TenantMove, TenantExport, TenantImport, TenantHarden, BackupCreate, BackupRestore, SecretRekey:
		return true
	}
	return auditorMay(a)
}

// auditorMay says what a platform operator may do who changes nothing.
func auditorMay(a Action) bool {
	switch a {
	case TenantList, TenantRead, KeyList, MemberList, MemberRead, AuditRead, UsageRead, OpenAPIRead, CertificateList, CertificateRead, HostList, HostRead,
		StatusRead, ReplicaList, ReplicaRead:
		return true
	}
	return false
}
