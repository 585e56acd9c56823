package tenant

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// RecordVersion is the version that this build writes at the start of a routing record. Readers accept it and the next.
const RecordVersion = 1

// Bounds of a routing record, which is held in memory for every registered tenant.
const (
	MaxHosts     = 16  // custom hosts of a tenant
	MaxKeys      = 128 // keys of a tenant, those of its bots included
	MaxNameLen   = 128 // bytes of a display name, a key's name
	MaxServerCap = 10000
)

// Mode says who serves a tenant's own host.
type Mode string

// The modes.
const (
	ModeVirtual   Mode = "virtual"   // served in process by the tenant's virtual gateway
	ModeDedicated Mode = "dedicated" // TLS ends here; requests are relayed to the tenant's own gateway
	// ModePassthrough splices connections to the tenant's own gateway, which ends TLS itself.
	ModePassthrough Mode = "passthrough"
)

// State is a tenant's place in its life cycle.
type State string

// The states.
const (
	StateActive    State = "active"
	StateSuspended State = "suspended" // nothing is served, all state is kept
)

// Source says where an object was declared, and so where it may be changed.
type Source string

// The sources.
const (
	SourceAPI  Source = "api"
	SourceFile Source = "file" // declared in a configuration file; the API refuses to change it
)

// Record is a tenant's routing record: everything that the front needs in order to route, authenticate and bound a
// request without asking the store. It is stored under x/<tenant>.
type Record struct {
	V             int        `json:"v"`                        // RecordVersion of the writer
	UID           string     `json:"uid"`                      // UUID, new for each creation, never reused
	ID            ID         `json:"id"`                       // the tenant
	DisplayName   string     `json:"display_name,omitempty"`   // for people
	Namespace     string     `json:"namespace,omitempty"`      // the Kubernetes namespace of its sandboxes
	State         State      `json:"state"`                    // active or suspended
	SuspendReason string     `json:"suspend_reason,omitempty"` // shown to callers of a suspended tenant
	Mode          Mode       `json:"mode"`                     // virtual, dedicated or passthrough
	Dedicated     *Dedicated `json:"dedicated,omitempty"`      // set exactly when Mode is dedicated
	Hosts         []string   `json:"hosts,omitempty"`          // custom hosts, beside the implied <id>.<base domain>
	Keys          []Key      `json:"keys,omitempty"`           // API keys, hashes only
	Quotas        Quotas     `json:"quotas,omitzero"`          // zero fields mean "no limit of its own"
	Source        Source     `json:"source"`                   // who declared the tenant
	File          string     `json:"file,omitempty"`           // the declaring file, if Source is file
	CatalogDigest string     `json:"catalog,omitempty"`        // digest of the file catalog last applied

	Passthrough  *Passthrough  `json:"passthrough,omitempty"`  // set exactly when Mode is passthrough
	TLS          *TLS          `json:"tls,omitempty"`          // of handshakes on its hosts; nil = the platform's
	Certificates *Certificates `json:"certificates,omitempty"` // where they come from; nil = the platform's choice
	// ProvenHosts are those of Hosts that the tenant asked for and proved to own, through the API: a file does not take them away.
	ProvenHosts  []string      `json:"proven_hosts,omitempty"`
	PendingHosts []PendingHost `json:"pending_hosts,omitempty"` // custom hosts that it asked for and has not proven to own

	Bots           []Bot           `json:"bots,omitempty"`            // accounts of programs; their keys are in Keys
	Members        []Member        `json:"members,omitempty"`         // users and groups of the authenticators, with their roles
	Authenticators []Authenticator `json:"authenticators,omitempty"`  // who vouches for users; none = keys alone get in
	AllowedOrigins []string        `json:"allowed_origins,omitempty"` // web origins beside the tenant's own that may call it from a browser
	Policy         *PolicyRef      `json:"policy,omitempty"`          // the policy in force; nil = none
	Sandboxes      *Sandboxes      `json:"sandboxes,omitempty"`       // what its sandboxes may be; nil = the platform's defaults
	// Awake says that the tenant has work that goes on without requests (sandboxes): some replica keeps its gateway open.
	Awake     bool         `json:"awake,omitempty"`
	Revoked   []Revocation `json:"revoked,omitempty"`   // credentials that ended before their time
	NotBefore time.Time    `json:"not_before,omitzero"` // users' credentials issued before it are refused
	// SessionsNotBefore is NotBefore of browser sessions alone.
	SessionsNotBefore time.Time `json:"sessions_not_before,omitzero"`

	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`

	Revision int64 `json:"-"` // the store's revision of this record: resource_version and ETag
}

// Key is an API key as it is stored: a hash and what it grants. The key itself is shown once and never kept.
type Key struct {
	ID      string    `json:"id"`   // UUID
	Name    string    `json:"name"` // unique within the tenant
	Hash    Hash      `json:"hash"`
	Role    Role      `json:"role"`
	Bot     string    `json:"bot,omitempty"`    // the id of the bot whose key it is; Role is the bot's then. "" = an API key of its own
	Expires time.Time `json:"expires,omitzero"` // when it stops working; zero = never. A bot's key always expires
	Source  Source    `json:"source"`
	Created time.Time `json:"created"`
}

// Expired says whether the key has stopped working.
func (k *Key) Expired(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// Hash is the SHA-256 of an API key. Its text form is "sha256:" and 64 lower-case hexadecimal digits.
type Hash [sha256.Size]byte

// HashKey returns the hash of a presented key, which may be any string.
func HashKey(key string) Hash { return sha256.Sum256([]byte(key)) }

// ParseHash reads the text form.
func ParseHash(s string) (Hash, error) {
	var h Hash
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		hint := ""
		if strings.HasPrefix(s, "pgk_") {
			hint = ": this looks like a key itself; never write a key here, write its hash"
		}
		return h, fault.New(fault.Invalid, "key hash must be sha256:<64 hex digits>%s", hint)
	}
	if len(digits) != 2*len(h) || digits != strings.ToLower(digits) {
		return h, fault.New(fault.Invalid, "key hash must be sha256:<64 lower-case hex digits>")
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return h, fault.New(fault.Invalid, "key hash must be sha256:<64 lower-case hex digits>")
	}
	return h, nil
}

// String returns the text form.
func (h Hash) String() string { return "sha256:" + hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(string(b))
	return err
}

// UpstreamAuth says who authenticates the callers of a dedicated gateway.
type UpstreamAuth string

// The ways.
const (
	AuthUpstream UpstreamAuth = "upstream" // the tenant's gateway does; credentials pass unchanged
	AuthGateway  UpstreamAuth = "gateway"  // Polygate does; the credential is removed and an identity header set
)

// Dedicated says where a dedicated tenant's own gateway is and how to speak to it.
type Dedicated struct {
	Upstream string       `json:"upstream"` // http or https URL, no path, query or user
	Auth     UpstreamAuth `json:"auth"`
	// Identity is the request header that carries the authenticated principal's name to the upstream when Auth is
	// gateway; the caller's own copies of it, in any spelling, are removed. Default X-Forwarded-User.
	Identity string `json:"identity,omitempty"`

	CA         string `json:"ca,omitempty"`          // PEM roots of the upstream's certificate; "" = the system's
	ServerName string `json:"server_name,omitempty"` // the name in that certificate; "" = the host of Upstream
	// Client is the certificate with which Polygate shows itself to the upstream, for the transport alone: an upstream that
	// maps it to a user would take every caller for that user.
	Client ClientCertificate `json:"client,omitzero"`
}

// ClientCertificate is a certificate of ours, for an upstream that lets nobody else connect. The zero value is none.
type ClientCertificate struct {
	Local bool   `json:"local,omitempty"` // one of the platform's local authority
	Chain string `json:"chain,omitempty"` // or this PEM chain, leaf first,
	Key   string `json:"key,omitempty"`   // with its PEM key, sealed
}

// DefaultIdentityHeader is Dedicated.Identity where none is set.
const DefaultIdentityHeader = "X-Forwarded-User"

// Clone returns a deep copy, for an editor of an immutable record.
func (r *Record) Clone() *Record {
	c := *r
	c.Hosts = slices.Clone(r.Hosts)
	c.Keys = slices.Clone(r.Keys)
	if r.Dedicated != nil {
		d := *r.Dedicated
		c.Dedicated = &d
	}
	if r.Passthrough != nil {
		p := *r.Passthrough
		c.Passthrough = &p
	}
	c.Sandboxes = r.Sandboxes.Clone()
	if r.TLS != nil {
		t := *r.TLS
		c.TLS = &t
	}
	if r.Certificates != nil {
		s := *r.Certificates
		if s.ACME != nil {
			a := *s.ACME
			s.ACME = &a
		}
		c.Certificates = &s
	}
	c.ProvenHosts = slices.Clone(r.ProvenHosts)
	c.PendingHosts = slices.Clone(r.PendingHosts)
	c.Bots = slices.Clone(r.Bots)
	c.Members = slices.Clone(r.Members)
	c.AllowedOrigins = slices.Clone(r.AllowedOrigins)
	c.Revoked = slices.Clone(r.Revoked)
	if r.Policy != nil {
		p := *r.Policy
		c.Policy = &p
	}
	c.Authenticators = slices.Clone(r.Authenticators)
	for i := range c.Authenticators {
		c.Authenticators[i] = c.Authenticators[i].clone()
	}
	return &c
}

// KeyByHash returns the key with hash h.
func (r *Record) KeyByHash(h Hash) (*Key, bool) {
	for i := range r.Keys {
		if r.Keys[i].Hash == h {
			return &r.Keys[i], true
		}
	}
	return nil, false
}

// KeyByName returns the key whose name or id is s.
func (r *Record) KeyByName(s string) (*Key, bool) {
	for i := range r.Keys {
		if r.Keys[i].Name == s || r.Keys[i].ID == s {
			return &r.Keys[i], true
		}
	}
	return nil, false
}

// Validate checks what can be checked of a record by itself. Errors are fault.Invalid and name the field.
// baseDomain is the platform's: a custom host may not lie within it, or it could take another tenant's own host.
func (r *Record) Validate(baseDomain string) error {
	if _, err := ParseID(string(r.ID)); err != nil {
		return err
	}
	if r.State != StateActive && r.State != StateSuspended {
		return fault.New(fault.Invalid, "state %q is unknown: use active or suspended", r.State)
	}
	if err := CheckName("display_name", r.DisplayName, true); err != nil {
		return err
	}
	if err := CheckName("suspend_reason", r.SuspendReason, true); err != nil {
		return err
	}
	if err := CheckNamespace(r.Namespace); err != nil {
		return err
	}
	if err := r.checkMode(); err != nil {
		return err
	}
	if err := r.checkHosts(baseDomain); err != nil {
		return err
	}
	for _, check := range []func() error{
		r.checkTLS, r.checkBots, r.checkKeys, r.checkAuthenticators, r.checkMembers, r.checkOrigins, r.checkPolicy, r.checkRevoked, r.checkSandboxes,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return r.Quotas.validate()
}

// CheckName checks a name that people give: printable, bounded, and not empty unless optional.
func CheckName(field, s string, optional bool) error {
	if s == "" && !optional {
		return fault.New(fault.Invalid, "%s is empty", field)
	}
	if len(s) > MaxNameLen {
		return fault.New(fault.Invalid, "%s is %d bytes long: at most %d are allowed", field, len(s), MaxNameLen)
	}
	for _, c := range s {
		if c < 0x20 || c == 0x7f || c == '\uFFFD' || c >= 0x80 && c <= 0x9f || c >= 0x2028 && c <= 0x202e {
			return fault.New(fault.Invalid, "%s holds the control character %U", field, c)
		}
	}
	return nil
}

// CheckNamespace refuses what is no name for the namespace of a tenant: no DNS label, or one of the cluster's own. "" is none.
func CheckNamespace(ns string) error {
	if ns == "" {
		return nil
	}
	if len(ns) > 63 || ns[0] == '-' || ns[len(ns)-1] == '-' {
		return fault.New(fault.Invalid, "namespace %q is not a DNS label of at most 63 bytes", ns)
	}
	for i := range len(ns) {
		if !idByte(ns[i]) {
			return fault.New(fault.Invalid, "namespace %q holds %q: use only a-z, 0-9 and -", ns, ns[i])
		}
	}
	if ns == "default" || strings.HasPrefix(ns, "kube-") {
		return fault.New(fault.Invalid, "namespace %q belongs to the cluster", ns)
	}
	return nil
}

func (r *Record) checkMode() error {
	switch r.Mode {
	case ModeVirtual, ModeDedicated, ModePassthrough:
	default:
		return fault.New(fault.Invalid, "mode %q is unknown: use virtual, dedicated or passthrough", r.Mode)
	}
	if r.Dedicated != nil && r.Mode != ModeDedicated {
		return fault.New(fault.Invalid, "dedicated is set but mode is %s: set mode: dedicated or remove it", r.Mode)
	}
	if r.Passthrough != nil && r.Mode != ModePassthrough {
		return fault.New(fault.Invalid, "passthrough is set but mode is %s: set mode: passthrough or remove it", r.Mode)
	}
	switch r.Mode {
	case ModeDedicated:
		if r.Dedicated == nil {
			return fault.New(fault.Invalid, "mode is dedicated but dedicated.upstream is missing")
		}
		return r.Dedicated.validate()
	case ModePassthrough:
		if r.Passthrough == nil {
			return fault.New(fault.Invalid, "mode is passthrough but passthrough.upstream is missing")
		}
		return r.Passthrough.validate()
	}
	return nil
}

func (d *Dedicated) validate() error {
	u, err := url.Parse(d.Upstream)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fault.New(fault.Invalid, "dedicated.upstream %q is not an http or https URL", d.Upstream)
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fault.New(fault.Invalid, "dedicated.upstream must be scheme://host:port and nothing more")
	}
	if d.Auth != AuthUpstream && d.Auth != AuthGateway {
		return fault.New(fault.Invalid, "dedicated.auth %q is unknown: use upstream or gateway", d.Auth)
	}
	if err := d.validateTLS(strings.EqualFold(u.Scheme, "https")); err != nil {
		return err
	}
	if d.Identity == "" {
		return nil
	}
	if d.Auth != AuthGateway {
		return fault.New(fault.Invalid, "dedicated.identity is set but auth is upstream, which sets no identity")
	}
	if !identityHeader(d.Identity) {
		return fault.New(fault.Invalid, "dedicated.identity %q cannot carry an identity: use letters, digits and -, and no header that HTTP itself uses", d.Identity)
	}
	return nil
}

// identityHeader says whether a header can carry an identity: a plain token that has no meaning of its own, in HTTP or to us.
func identityHeader(h string) bool {
	for i := range len(h) {
		c := h[i] | 0x20
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || h[i] == '-') {
			return false
		}
	}
	switch strings.ToLower(h) {
	case "host", "connection", "content-length", "content-type", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive",
		"proxy-connection", "authorization", "cookie", "expect", "content-encoding", "accept", "accept-encoding", "x-request-id",
		"origin", "forwarded", "x-api-key", "x-tenant-id":
		return false
	}
	name := strings.ToLower(h)
	return len(h) <= 64 && !strings.HasPrefix(name, "sec-") && !strings.HasPrefix(name, "x-polygate-")
}

func (r *Record) checkHosts(baseDomain string) error {
	if len(r.Hosts) > MaxHosts {
		return fault.New(fault.Invalid, "%d hosts: at most %d are allowed", len(r.Hosts), MaxHosts)
	}
	seen := make(map[string]bool, len(r.Hosts))
	for _, h := range r.Hosts {
		if err := CheckHost(h); err != nil {
			return err
		}
		if h == baseDomain || strings.HasSuffix(h, "."+baseDomain) {
			return fault.New(fault.Invalid, "host %q lies within the base domain %s, which the platform hands out", h, baseDomain)
		}
		if seen[h] {
			return fault.New(fault.Invalid, "host %q is listed twice", h)
		}
		seen[h] = true
	}
	return nil
}

// CheckHost checks that h is a lower-case DNS name of at least two labels: no port, no wildcard, no trailing dot, no address.
func CheckHost(h string) error {
	if net.ParseIP(h) != nil {
		return fault.New(fault.Invalid, "host %q is an address: use a DNS name", h)
	}
	if len(h) > 253 || !strings.Contains(h, ".") {
		return fault.New(fault.Invalid, "host %q is not a DNS name of at least two labels and at most 253 bytes", h)
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fault.New(fault.Invalid, "host %q has the bad label %q", h, label)
		}
		for i := range len(label) {
			if !idByte(label[i]) {
				return fault.New(fault.Invalid, "host %q holds %q: use lower-case DNS names (xn--… for others)", h, label[i])
			}
		}
	}
	return nil
}

func (r *Record) checkKeys() error {
	if len(r.Keys) > MaxKeys {
		return fault.New(fault.Invalid, "%d API keys: at most %d are allowed", len(r.Keys), MaxKeys)
	}
	names := make(map[string]bool, len(r.Keys))
	hashes := make(map[Hash]bool, len(r.Keys))
	for i := range r.Keys {
		k := &r.Keys[i]
		if err := CheckName("key name", k.Name, false); err != nil {
			return err
		}
		if k.Role == NoRole {
			return fault.New(fault.Invalid, "key %q has no role", k.Name)
		}
		if err := r.checkBotKey(k); err != nil {
			return err
		}
		if names[k.Name] {
			return fault.New(fault.Conflict, "key name %q is in use in this tenant", k.Name)
		}
		if hashes[k.Hash] {
			return fault.New(fault.Conflict, "key %q has the hash of another key of this tenant", k.Name)
		}
		names[k.Name], hashes[k.Hash] = true, true
	}
	return nil
}

// OwnHost returns the host that every tenant has: <id>.<base domain>.
func OwnHost(id ID, baseDomain string) string { return fmt.Sprintf("%s.%s", id, baseDomain) }
