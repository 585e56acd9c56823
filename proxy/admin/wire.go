package admin

import (
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// Bounds of a page of a list.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// Tenant is a tenant as operators see it.
type Tenant struct {
	ID              tenant.ID            `json:"id"`
	UID             string               `json:"uid"` // tells it from an earlier tenant of the same id
	DisplayName     string               `json:"display_name,omitempty"`
	Namespace       string               `json:"namespace,omitempty"`
	State           tenant.State         `json:"state"`
	SuspendReason   string               `json:"suspend_reason,omitempty"`
	Mode            tenant.Mode          `json:"mode"`
	Dedicated       *tenant.Dedicated    `json:"dedicated,omitempty"`
	Passthrough     *tenant.Passthrough  `json:"passthrough,omitempty"`
	TLS             *tenant.TLS          `json:"tls,omitempty"`
	Certificates    *CertificateSettings `json:"certificates,omitempty"`
	Hosts           []string             `json:"hosts"`
	ProvenHosts     []string             `json:"proven_hosts,omitempty"` // those of hosts that the tenant asked for and proved to own
	Quotas          tenant.Quotas        `json:"quotas"`
	Sandboxes       *tenant.Sandboxes    `json:"sandboxes,omitempty"`
	AllowedOrigins  []string             `json:"allowed_origins,omitempty"`
	Authenticators  []string             `json:"authenticators,omitempty"` // their names, which members are given roles by
	Source          tenant.Source        `json:"source"`
	File            string               `json:"file,omitempty"`
	Keys            []Key                `json:"keys"`
	Created         time.Time            `json:"created"`
	Updated         time.Time            `json:"updated"`
	ResourceVersion string               `json:"resource_version"` // also the ETag
}

// Key is an API key, or a bot's, as operators see it. Key itself is there once, in the answer to its creation.
type Key struct {
	ID       string        `json:"id"`
	Name     string        `json:"name"`
	Role     tenant.Role   `json:"role"`
	Bot      string        `json:"bot,omitempty"` // the id of the bot whose key it is
	BotName  string        `json:"bot_name,omitempty"`
	Source   tenant.Source `json:"source"`
	Created  time.Time     `json:"created"`
	Expires  time.Time     `json:"expires,omitzero"`   // when it stops working; none = never
	LastUsed time.Time     `json:"last_used,omitzero"` // to a minute or so; in lists of keys and of one key only
	KeyHash  tenant.Hash   `json:"key_hash"`
	Key      string        `json:"key,omitempty"`
}

// Member is a user or a group with a role.
type Member struct {
	ID            string            `json:"id"`
	Kind          tenant.MemberKind `json:"kind"`
	Authenticator string            `json:"authenticator"`
	Name          string            `json:"name"`
	Role          tenant.Role       `json:"role"`
	Source        tenant.Source     `json:"source"`
	File          string            `json:"file,omitempty"`
	Created       time.Time         `json:"created"`
	Updated       time.Time         `json:"updated,omitzero"`
	By            string            `json:"created_by,omitempty"`
}

// MemberList is all members of a tenant.
type MemberList struct {
	Items []Member `json:"items"`
}

// MemberRequest is the body of a member's creation. There is no default role: people are given what was meant.
type MemberRequest struct {
	Kind          tenant.MemberKind `json:"kind"`
	Authenticator string            `json:"authenticator"`
	Name          string            `json:"name"`
	Role          string            `json:"role"`
}

// check returns the role.
func (r *MemberRequest) check() (tenant.Role, error) {
	if r.Kind != tenant.MemberUser && r.Kind != tenant.MemberGroup {
		return tenant.NoRole, fault.New(fault.Invalid, "kind %.64q is unknown: use user or group", r.Kind)
	}
	if err := tenant.CheckSubject("name", r.Name); err != nil {
		return tenant.NoRole, err
	}
	return namedRole(r.Role)
}

// namedRole reads a role that has no default.
func namedRole(s string) (tenant.Role, error) {
	if s == "" {
		return tenant.NoRole, fault.New(fault.Invalid, "role is missing: use viewer, editor or admin")
	}
	return tenant.ParseRole(s)
}

// RoleRequest is the body of a change of a member.
type RoleRequest struct {
	Role string `json:"role"`
}

// TenantList is a page of tenants; NextCursor is empty on the last.
type TenantList struct {
	Items      []Tenant `json:"items"`
	NextCursor string   `json:"next_cursor,omitempty"`
}

// RecordList is a page of audit records, newest first; NextCursor is empty on the last.
type RecordList struct {
	Items      []audit.Record `json:"items"`
	NextCursor string         `json:"next_cursor,omitempty"`
	Partial    bool           `json:"partial,omitempty"`    // it took too long to look on: the next page may have more, also after an empty one
	Damaged    int            `json:"damaged,omitempty"`    // lines that could not be read
	Incomplete []string       `json:"incomplete,omitempty"` // replicas that are away, whose records are missing
}

// KeyList is all keys of a tenant.
type KeyList struct {
	Items []Key `json:"items"`
}

// TenantSpec is what a creation or a replacement declares of a tenant. An empty field is the default.
type TenantSpec struct {
	ID            string               `json:"id,omitempty"` // in a replacement it may be left out, or must be the path's
	DisplayName   string               `json:"display_name,omitempty"`
	Namespace     string               `json:"namespace,omitempty"`
	State         tenant.State         `json:"state,omitempty"` // default: active; in a replacement: as it is
	SuspendReason string               `json:"suspend_reason,omitempty"`
	Mode          tenant.Mode          `json:"mode,omitempty"` // default: virtual
	Dedicated     *tenant.Dedicated    `json:"dedicated,omitempty"`
	Passthrough   *tenant.Passthrough  `json:"passthrough,omitempty"`
	TLS           *tenant.TLS          `json:"tls,omitempty"`
	Certificates  *CertificateSettings `json:"certificates,omitempty"`
	Hosts         []string             `json:"hosts,omitempty"`
	ProvenHosts   *[]string            `json:"proven_hosts,omitempty"` // nil: they stay, whether hosts names them or not. Else those that it does not name are taken away
	Quotas        tenant.Quotas        `json:"quotas,omitzero"`
	Sandboxes     *tenant.Sandboxes    `json:"sandboxes,omitempty"`       // hardened is set by POST …/harden alone
	Origins       []string             `json:"allowed_origins,omitempty"` // web origins beside its own that may call it from a browser
	APIKeys       *[]KeySpec           `json:"api_keys,omitempty"`        // nil: the keys stay as they are. Those of bots always do
}

// KeySpec declares an API key by the hash of it.
type KeySpec struct {
	Name    string      `json:"name"`
	KeyHash tenant.Hash `json:"key_hash"`
	Role    tenant.Role `json:"role,omitzero"`    // default: editor
	Expires time.Time   `json:"expires,omitzero"` // default: never
}

// SuspendRequest is the body of a suspension.
type SuspendRequest struct {
	Reason string `json:"reason,omitempty"` // shown to the tenant's callers
}

// KeyRequest is the body of a key's creation.
type KeyRequest struct {
	Name      string      `json:"name"`
	Role      tenant.Role `json:"role,omitzero"`                // default: editor
	Expires   *time.Time  `json:"expires,omitempty"`            // default: never
	ExpiresIn *int64      `json:"expires_in_seconds,omitempty"` // in its place
}

func renderTenant(r *tenant.Record) Tenant {
	t := Tenant{
		ID: r.ID, UID: r.UID, DisplayName: r.DisplayName, Namespace: r.Namespace, State: r.State, AllowedOrigins: r.AllowedOrigins,
		SuspendReason: r.SuspendReason, Mode: r.Mode, Dedicated: renderDedicated(r.Dedicated), Hosts: r.Hosts, Quotas: r.Quotas,
		Passthrough: r.Passthrough, TLS: r.TLS, Certificates: renderSettings(r.Certificates), ProvenHosts: r.ProvenHosts, Sandboxes: r.Sandboxes.Clone(),
		Source: r.Source, File: r.File, Keys: make([]Key, len(r.Keys)), Created: r.Created, Updated: r.Updated,
		ResourceVersion: strconv.FormatInt(r.Revision, 10),
	}
	if t.Hosts == nil {
		t.Hosts = []string{}
	}
	for i := range r.Keys {
		t.Keys[i] = renderKey(r, &r.Keys[i])
	}
	for i := range r.Authenticators {
		t.Authenticators = append(t.Authenticators, r.Authenticators[i].Name)
	}
	return t
}

func renderKey(r *tenant.Record, k *tenant.Key) Key {
	v := Key{ID: k.ID, Name: k.Name, Role: k.Role, Bot: k.Bot, Source: k.Source, Created: k.Created, Expires: k.Expires, KeyHash: k.Hash}
	if b, ok := r.BotByName(k.Bot); ok && k.Bot != "" {
		v.BotName = b.Name
	}
	return v
}

func renderMember(r *tenant.Record, m *tenant.Member) Member {
	v := Member{
		ID: m.ID, Kind: m.Kind, Authenticator: m.Authenticator, Name: m.Name, Role: m.Role, Source: m.Source,
		Created: m.Created, Updated: m.Updated, By: m.By,
	}
	if m.Source == tenant.SourceFile {
		v.File = r.File
	}
	return v
}

// decode reads the request's body, one JSON value of exactly the fields of into: an unknown or repeated field, trailing
// data or a wrong type is refused with its place. A body that may be left out leaves into as it is.
func decode(r *http.Request, into any, optional bool) error {
	if optional && r.ContentLength == 0 {
		return nil
	}
	// A page of another site can send a form or text/plain without asking first, but not JSON (X58).
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return fault.New(fault.UnsupportedMedia, "send the body as Content-Type: application/json")
	}
	err := json.UnmarshalRead(r.Body, into, json.RejectUnknownMembers(true))
	if err == nil || optional && empty(err) {
		return nil
	}
	return badBody(err)
}

// empty says whether a body held nothing at all.
func empty(err error) bool {
	var syntax *jsontext.SyntacticError
	return errors.As(err, &syntax) && syntax.ByteOffset == 0 && errors.Is(err, io.ErrUnexpectedEOF)
}

// badBody says where in a body the mistake is.
func badBody(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return fault.New(fault.TooLarge, "the body is over %d bytes", tooLarge.Limit)
	}
	if empty(err) {
		return fault.New(fault.Invalid, "the body is empty: send a JSON object")
	}
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return fault.Wrap(fault.Invalid, err, "the body is no valid JSON at byte %d%s: %v", syntax.ByteOffset, within(syntax.JSONPointer), syntax.Err)
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return fault.Wrap(fault.Invalid, err, "at byte %d%s: %s", semantic.ByteOffset, within(semantic.JSONPointer), reason(semantic))
	}
	return fault.Wrap(fault.Invalid, err, "the body cannot be read")
}

func within(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	return " (" + strings.ToValidUTF8(string(p), "?") + ")"
}

func reason(e *json.SemanticError) string {
	var f *fault.Error
	switch {
	case errors.As(e.Err, &f):
		return f.Detail
	case errors.Is(e.Err, json.ErrUnknownName) && readOnly(e.JSONPointer.LastToken()):
		return "the gateway sets this field: leave it out"
	case errors.Is(e.Err, json.ErrUnknownName):
		return "unknown field"
	case e.GoType != nil && e.JSONKind != 0:
		return "a JSON " + e.JSONKind.String() + " does not fit this field"
	}
	return "the value does not fit this field"
}

// readOnly says whether a field of Tenant is missing from TenantSpec because the gateway sets it.
func readOnly(field string) bool {
	switch field {
	case "uid", "source", "file", "keys", "authenticators", "created", "updated", "resource_version":
		return true
	}
	return false
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// ifMatch returns the revision that the request insists on; 0 = any. current is the revision that the index holds, by
// which one of several tags is chosen; the store compares again.
func ifMatch(r *http.Request, current int64) (int64, error) {
	values := r.Header["If-Match"]
	if len(values) == 0 || len(values) == 1 && strings.TrimSpace(values[0]) == "*" {
		return 0, nil
	}
	var last int64
	for tag := range strings.SplitSeq(strings.Join(values, ","), ",") {
		digits, ok := strings.CutPrefix(strings.TrimSpace(tag), `"`)
		digits, closed := strings.CutSuffix(digits, `"`)
		n, err := strconv.ParseInt(digits, 10, 64)
		if !ok || !closed || err != nil || n <= 0 {
			continue // a weak tag, or none of ours: it matches nothing (RFC 9110 §13.1.1, §8.8.3.2)
		}
		if last = n; n == current {
			break
		}
	}
	if last == 0 {
		return 0, fault.New(fault.PreconditionFailed, "If-Match names no version of this object: send its ETag as it was given, or *")
	}
	return last, nil
}

// page reads limit and cursor. A cursor is opaque to callers: the id after which the next page begins.
func page(q url.Values) (after tenant.ID, limit int, err error) {
	for name := range q {
		if name != "limit" && name != "cursor" {
			return "", 0, fault.New(fault.Invalid, "query parameter %q is unknown: use limit and cursor", name)
		}
	}
	limit = defaultLimit
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxLimit {
			return "", 0, fault.New(fault.Invalid, "limit %q is no number from 1 to %d", s, maxLimit)
		}
	}
	if s := q.Get("cursor"); s != "" {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			return "", 0, badCursor()
		}
		if after, err = tenant.ParseID(string(raw)); err != nil {
			return "", 0, badCursor()
		}
	}
	return after, limit, nil
}

func badCursor() error {
	return fault.New(fault.Invalid, "the cursor is none of this list's: begin again without one")
}

func cursor(id tenant.ID) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }
