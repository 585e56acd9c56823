// Package tenant holds the words that every other part of Polygate speaks: who a tenant is, who a principal is, and
// what the platform knows about a tenant in order to route to it. It has no behaviour beyond parsing and validation,
// performs no I/O, and imports nothing of the project but package fault.
package tenant

import (
	"fmt"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// MaxIDLen is the longest tenant id, in bytes. A DNS label of the form `<sandbox>--<tenant>` must fit 63 bytes.
const MaxIDLen = 32

// ID names a tenant. A value of this type that came from ParseID matches
// `[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?`, holds no `--` and is not reserved, so it is at once a DNS label, a path
// segment and a key segment, and needs no escaping in any of them.
type ID string

// String returns the id as text.
func (id ID) String() string { return string(id) }

// ParseID checks s against the grammar of ID. The error is a fault.Invalid that says which rule s breaks.
func ParseID(s string) (ID, error) {
	switch {
	case s == "":
		return "", fault.New(fault.Invalid, "tenant id is empty: use 1 to %d of a-z, 0-9 and -", MaxIDLen)
	case len(s) > MaxIDLen:
		return "", fault.New(fault.Invalid, "tenant id is %d bytes long: at most %d are allowed", len(s), MaxIDLen)
	}
	for i := range len(s) {
		if !idByte(s[i]) {
			return "", fault.New(fault.Invalid, "tenant id %q holds %q: use only a-z, 0-9 and -", s, s[i])
		}
	}
	switch {
	case s[0] == '-' || s[len(s)-1] == '-':
		return "", fault.New(fault.Invalid, "tenant id %q begins or ends with -", s)
	case strings.Contains(s, "--"):
		return "", fault.New(fault.Invalid, "tenant id %q holds --, which separates a sandbox from its tenant", s)
	case reserved(s):
		return "", fault.New(fault.Invalid, "tenant id %q is reserved", s)
	}
	return ID(s), nil
}

func idByte(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }

// reserved says whether a name would shadow a host or a path of the platform's own.
func reserved(s string) bool {
	switch s {
	case "admin", "api", "www", "localhost", "polygate", "platform", "system", "metrics", "healthz", "readyz",
		"status", "auth", "login", "console", "static", "tenant", "tenants", "acme", "operator", "root":
		return true
	}
	return false
}

// Role is what a principal may do in its tenant. Roles are ordered: a higher one includes the lower.
// The zero value permits nothing.
type Role uint8

// The roles, lowest first.
const (
	NoRole Role = iota
	Viewer
	Editor
	Admin
)

// ParseRole reads a role by name. The empty string is Editor, the default of an API key.
func ParseRole(s string) (Role, error) {
	switch s {
	case "viewer":
		return Viewer, nil
	case "editor", "":
		return Editor, nil
	case "admin":
		return Admin, nil
	}
	return NoRole, fault.New(fault.Invalid, "role %q is unknown: use viewer, editor or admin", s)
}

// String returns the role's name; "none" for NoRole.
func (r Role) String() string {
	switch r {
	case Viewer:
		return "viewer"
	case Editor:
		return "editor"
	case Admin:
		return "admin"
	}
	return "none"
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with ParseRole's rules.
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRole(string(b))
	return err
}

// PrincipalKind says how a principal came to be known.
type PrincipalKind string

// The kinds of principal.
const (
	KindKey       PrincipalKind = "key"       // an API key of the tenant
	KindBot       PrincipalKind = "bot"       // a bot account of the tenant, through one of its keys
	KindUser      PrincipalKind = "user"      // somebody whom an authenticator of the tenant vouches for
	KindOperator  PrincipalKind = "operator"  // a platform operator on the admin listener; never a member of a tenant
	KindAuditor   PrincipalKind = "auditor"   // a platform operator who may look and change nothing
	KindSystem    PrincipalKind = "system"    // Polygate itself, such as a reload of tenants.yaml
	KindAnonymous PrincipalKind = "anonymous" // nobody authenticated here: a relay whose upstream authenticates
)

// Via says by what a principal was authenticated.
type Via string

// The ways.
const (
	ViaAPIKey     Via = "apikey"     // a key of the tenant: an API key, or a bot's
	ViaOIDC       Via = "oidc"       // a token of an OpenID Connect issuer
	ViaCookie     Via = "cookie"     // a browser session, begun with an OpenID Connect login
	ViaMTLS       Via = "mtls"       // a client certificate
	ViaUpstream   Via = "upstream"   // headers of a trusted upstream
	ViaKubernetes Via = "kubernetes" // a token that a Kubernetes API server reviewed
	ViaToken      Via = "token"      // a platform operator's token
)

// Principal is who asks. It is a value: it travels with the request and is never looked up again from a header.
type Principal struct {
	Tenant  ID            // the tenant that it belongs to; empty for operators and the system
	Kind    PrincipalKind // how it was authenticated
	ID      string        // stable and unique within Tenant and Kind: the id of a key or bot, <authenticator>/<subject> of a user
	Name    string        // for people
	Role    Role          // what it may do in Tenant; NoRole for a user who is no member
	Via     Via           // what authenticated it
	KeyID   string        // the id of the key that it used, if any
	Expires time.Time     // when its credential ends; zero = never by itself
	Claims  *Claims       // what its authenticator says about it; nil for keys. Immutable
}

// Claims is what an authenticator says about a user. It is immutable, and shared by the requests of one credential.
type Claims struct {
	Authenticator string              // the name of the tenant's authenticator
	Generation    string              // of the authenticator, when it said so: see Authenticator.Generation
	Issuer        string              // the issuer's URL; the authenticator's type where there is none
	Subject       string              // unique within the authenticator
	Groups        []string            // of the issuer
	Scopes        []string            // of the credential
	Attributes    map[string][]string // such as teams or namespaces; never groups named system:*
	Session       string              // id of the browser session; "" = none
	Issued        time.Time           // when the credential was made; zero = not told
}

// Ref returns "kind:id", the form in which audit records and sealed tokens name the principal.
func (p Principal) Ref() string { return string(p.Kind) + ":" + p.ID }

// System returns the principal under which Polygate acts of its own accord; name says on whose behalf.
func System(name string) Principal {
	return Principal{Kind: KindSystem, ID: name, Name: name}
}

// Scope is the right to touch one tenant's state, and the only thing from which the tenant part of a key is made.
// Confine makes it, and only the registry may call Confine (internal/archtest holds that), so that whoever serves a
// tenant has no way to name another. The zero Scope names no tenant.
type Scope struct {
	id  ID
	uid string
}

// Confine makes the scope of one tenant. uid tells a tenant from an earlier one of the same id.
func Confine(id ID, uid string) Scope { return Scope{id: id, uid: uid} }

// ID returns the tenant's id.
func (s Scope) ID() ID { return s.id }

// UID returns the tenant's unique id, which a tenant that is deleted and made again does not share.
func (s Scope) UID() string { return s.uid }

// String returns the tenant's id, for logs.
func (s Scope) String() string { return string(s.id) }

// Entry is one tenant as the index knows it: its routing record and the scope to serve it with.
// An Entry and the Record in it are immutable: a change makes new ones.
type Entry struct {
	Record *Record
	Scope  Scope
}

// Object is one stored piece of a tenant's state: t/<tenant>/<kind>/<id>.
type Object struct {
	Kind     string // such as "server"; [a-z]+
	ID       string // unique within tenant and kind; no '/'
	Value    []byte // the encoded record, which starts with its version
	Revision int64  // rises with each change of the object
}

// Write is one change of a tenant's state. A nil Value deletes the object.
type Write struct {
	Kind  string
	ID    string
	Value []byte
	Owed  bool // it follows from what was stored before, such as the end of a sandbox, and is not refused for the tenant's budget
}

// CheckSegment says whether s can be a kind or an id in a key: not empty, at most 253 bytes, no '/', no control bytes.
func CheckSegment(s string) error {
	if s == "" || len(s) > 253 {
		return fmt.Errorf("key segment of %d bytes: 1 to 253 are allowed", len(s))
	}
	for i := range len(s) {
		if s[i] == '/' || s[i] < 0x21 || s[i] == 0x7f {
			return fmt.Errorf("key segment %q holds %q", s, s[i])
		}
	}
	return nil
}
