package tenant

import (
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of what a routing record says about its people and programs.
const (
	MaxBots      = 64
	MaxMembers   = 512                  // users and groups; more users come through groups
	MaxSubject   = 255                  // bytes of a user's subject (OpenID Connect Core §2) or a group's name
	MaxOrigins   = 16                   // allowed web origins
	MaxKeyLife   = 366 * 24 * time.Hour // of a bot's key (A-6: at most a year)
	MaxRevoked   = 512                  // revocations that are remembered one by one
	maxEnded     = 8                    // ended browser sessions of one user that are
	maxRevokedAt = 256 << 10            // bytes that they may take in all
	MaxTokenLife = 30 * 24 * time.Hour  // tokens that run for longer are refused, so that a revocation can be forgotten at some time
	MaxCertLife  = 825 * 24 * time.Hour // the same of client certificates
)

// Bot is an account of a program. It has a role and keys, which may overlap while they are rotated.
type Bot struct {
	ID      string    `json:"id"`   // UUID
	Name    string    `json:"name"` // unique among the tenant's bots
	Role    Role      `json:"role"`
	Source  Source    `json:"source"`
	Created time.Time `json:"created"`
	By      string    `json:"by,omitempty"` // Ref of who made it
}

// MemberKind says what a member is.
type MemberKind string

// The kinds of member.
const (
	MemberUser  MemberKind = "user"  // one subject of an authenticator
	MemberGroup MemberKind = "group" // everybody whom an authenticator says to be in a group
)

// Member gives a role to a user or a group of one of the tenant's authenticators.
type Member struct {
	ID            string     `json:"id"` // UUID
	Kind          MemberKind `json:"kind"`
	Authenticator string     `json:"authenticator"` // by name
	Name          string     `json:"name"`          // the user's subject, or the group; compared byte for byte
	Role          Role       `json:"role"`
	Source        Source     `json:"source"`
	Created       time.Time  `json:"created"`
	Updated       time.Time  `json:"updated,omitzero"` // when the role was changed; zero = never
	By            string     `json:"by,omitempty"`     // Ref of who granted it
}

// PolicyRef names the policy bundle that is in force.
type PolicyRef struct {
	Digest  string    `json:"digest"` // "sha256:…" of the bundle, which is the id of the stored object
	Source  Source    `json:"source"`
	File    string    `json:"file,omitempty"` // the declaring folder, if Source is file
	Updated time.Time `json:"updated"`
}

// Revocation ends credentials before their time: those of a principal that were issued before a moment, or one browser
// session. A credential that does not say when it was issued counts as issued before.
type Revocation struct {
	Principal string    `json:"principal,omitempty"` // Ref of a user; with Session, of the one whose session it is
	Session   string    `json:"session,omitempty"`   // one browser session; "" = all credentials of Principal
	Before    time.Time `json:"before"`
	Until     time.Time `json:"until"` // nothing issued before Before is alive after it: the revocation can be forgotten
}

// BotByName returns the bot whose name or id is s.
func (r *Record) BotByName(s string) (*Bot, bool) {
	for i := range r.Bots {
		if r.Bots[i].Name == s || r.Bots[i].ID == s {
			return &r.Bots[i], true
		}
	}
	return nil, false
}

// MemberByID returns the member with that id.
func (r *Record) MemberByID(id string) (*Member, bool) {
	for i := range r.Members {
		if r.Members[i].ID == id {
			return &r.Members[i], true
		}
	}
	return nil, false
}

// AuthenticatorByName returns the authenticator of that name.
func (r *Record) AuthenticatorByName(name string) (*Authenticator, bool) {
	for i := range r.Authenticators {
		if r.Authenticators[i].Name == name {
			return &r.Authenticators[i], true
		}
	}
	return nil, false
}

// RoleOf returns the role of somebody whom an authenticator vouches for: the greatest of its own, its groups' and the
// authenticator's default. NoRole means no member.
func (r *Record) RoleOf(authenticator, subject string, groups []string) Role {
	role := NoRole
	if a, ok := r.AuthenticatorByName(authenticator); ok {
		role = a.DefaultRole
	}
	for i := range r.Members {
		m := &r.Members[i]
		if m.Role <= role || m.Authenticator != authenticator {
			continue
		}
		if m.Kind == MemberUser && m.Name == subject || m.Kind == MemberGroup && slices.Contains(groups, m.Name) {
			role = m.Role
		}
	}
	return role
}

// Standing returns what the record grants a principal of this tenant at a moment: its role, and whether its credential is
// still good. It is what every decision made from an older record is checked against.
func (r *Record) Standing(p Principal, now time.Time) (role Role, ok bool) {
	if p.Tenant != r.ID || !p.Expires.IsZero() && !now.Before(p.Expires) {
		return NoRole, false
	}
	switch p.Kind {
	case KindKey, KindBot:
		return r.keyStanding(p, now)
	case KindUser:
		return r.userStanding(p)
	}
	return p.Role, true
}

func (r *Record) keyStanding(p Principal, now time.Time) (Role, bool) {
	for i := range r.Keys {
		k := &r.Keys[i]
		if k.ID != p.KeyID {
			continue
		}
		bot := p.Kind == KindBot
		if k.Expired(now) || bot != (k.Bot != "") || bot && k.Bot != p.ID || !bot && k.ID != p.ID {
			return NoRole, false
		}
		return k.Role, true
	}
	return NoRole, false
}

func (r *Record) userStanding(p Principal) (Role, bool) {
	c := p.Claims
	if c == nil {
		return NoRole, false
	}
	a, ok := r.AuthenticatorByName(c.Authenticator)
	if !ok || a.Generation != c.Generation || c.Issued.Before(r.NotBefore) {
		return NoRole, false
	}
	if c.Session != "" && c.Issued.Before(r.SessionsNotBefore) {
		return NoRole, false
	}
	ref := p.Ref()
	for i := range r.Revoked {
		if r.Revoked[i].ends(ref, c) {
			return NoRole, false
		}
	}
	return r.RoleOf(c.Authenticator, c.Subject, c.Groups), true
}

// KeyPrincipal returns who a key of this record stands for.
func (r *Record) KeyPrincipal(k *Key) Principal {
	p := Principal{Tenant: r.ID, Kind: KindKey, ID: k.ID, Name: k.Name, Role: k.Role, Via: ViaAPIKey, KeyID: k.ID, Expires: k.Expires}
	if k.Bot == "" {
		return p
	}
	p.Kind, p.ID = KindBot, k.Bot
	if b, ok := r.BotByName(k.Bot); ok {
		p.Name = b.Name
	}
	return p
}

// UserID returns the ID of a user's principal.
func UserID(authenticator, subject string) string { return authenticator + "/" + subject }

// CredentialLife returns for how long a credential that a user has now can be good at most, and so how long its revocation
// has to be remembered. ref is the user's Ref.
func (r *Record) CredentialLife(ref string) time.Duration {
	name, _, _ := strings.Cut(strings.TrimPrefix(ref, string(KindUser)+":"), "/")
	if a, ok := r.AuthenticatorByName(name); ok && a.MTLS != nil {
		return MaxCertLife
	}
	return MaxTokenLife
}

// Admins counts who can administer the tenant: members and keys with the role admin that are good at a moment.
func (r *Record) Admins(now time.Time) int {
	n := 0
	for i := range r.Members {
		if r.Members[i].Role == Admin {
			n++
		}
	}
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Role == Admin && !k.Expired(now) {
			n++
		}
	}
	return n
}

// CheckSubject checks a user's subject or a group's name: bounded and without control characters.
func CheckSubject(field, s string) error {
	if s == "" || len(s) > MaxSubject {
		return fault.New(fault.Invalid, "%s has %d bytes: 1 to %d are allowed", field, len(s), MaxSubject)
	}
	for _, c := range s {
		if c < 0x20 || c == 0x7f || c == '\uFFFD' || c >= 0x80 && c <= 0x9f || c >= 0x2028 && c <= 0x202e {
			return fault.New(fault.Invalid, "%s holds the control character %U", field, c)
		}
	}
	return nil
}

func (r *Record) checkBots() error {
	if len(r.Bots) > MaxBots {
		return fault.New(fault.Invalid, "%d bots: at most %d are allowed", len(r.Bots), MaxBots)
	}
	names := make(map[string]bool, len(r.Bots))
	for i := range r.Bots {
		b := &r.Bots[i]
		if err := CheckName("bot name", b.Name, false); err != nil {
			return err
		}
		if b.Role == NoRole {
			return fault.New(fault.Invalid, "bot %q has no role", b.Name)
		}
		if names[b.Name] {
			return fault.New(fault.Conflict, "bot name %q is in use in this tenant", b.Name)
		}
		names[b.Name] = true
	}
	return nil
}

// checkBotKey holds what makes a bot's key one: it grants the bot's role, and ends.
func (r *Record) checkBotKey(k *Key) error {
	if k.Bot == "" {
		return nil
	}
	i := slices.IndexFunc(r.Bots, func(b Bot) bool { return b.ID == k.Bot })
	if i < 0 {
		return fault.New(fault.Invalid, "key %q belongs to a bot that does not exist", k.Name)
	}
	if k.Role != r.Bots[i].Role {
		return fault.New(fault.Invalid, "key %q of bot %q has the role %s: it must be the bot's, %s", k.Name, r.Bots[i].Name, k.Role, r.Bots[i].Role)
	}
	if k.Expires.IsZero() || k.Expires.Sub(k.Created) > MaxKeyLife {
		return fault.New(fault.Invalid, "key %q of bot %q must expire within a year", k.Name, r.Bots[i].Name)
	}
	return nil
}

func (r *Record) checkMembers() error {
	if len(r.Members) > MaxMembers {
		return fault.New(fault.Invalid, "%d members: at most %d are allowed; give roles to groups", len(r.Members), MaxMembers)
	}
	type who struct {
		kind                MemberKind
		authenticator, name string
	}
	seen := make(map[who]bool, len(r.Members))
	for i := range r.Members {
		m := &r.Members[i]
		if m.Kind != MemberUser && m.Kind != MemberGroup {
			return fault.New(fault.Invalid, "member kind %q is unknown: use user or group", m.Kind)
		}
		if err := CheckSubject("member name", m.Name); err != nil {
			return err
		}
		if m.Role == NoRole {
			return fault.New(fault.Invalid, "member %q has no role", m.Name)
		}
		if _, ok := r.AuthenticatorByName(m.Authenticator); !ok {
			return fault.New(fault.Invalid, "member %q names the authenticator %q, which this tenant does not have", m.Name, m.Authenticator)
		}
		w := who{m.Kind, m.Authenticator, m.Name}
		if seen[w] {
			return fault.New(fault.Conflict, "%s %q of authenticator %q is a member already", m.Kind, m.Name, m.Authenticator)
		}
		seen[w] = true
	}
	return nil
}

func (r *Record) checkOrigins() error {
	if len(r.AllowedOrigins) > MaxOrigins {
		return fault.New(fault.Invalid, "%d allowed_origins: at most %d are allowed", len(r.AllowedOrigins), MaxOrigins)
	}
	for _, o := range r.AllowedOrigins {
		if err := checkOrigin(o); err != nil {
			return err
		}
	}
	return nil
}

// checkOrigin checks a web origin as browsers write it (RFC 6454 §6.2): scheme, host, and a port that is not the scheme's.
func checkOrigin(o string) error {
	rest, https := strings.CutPrefix(o, "https://")
	if !https {
		var http bool
		if rest, http = strings.CutPrefix(o, "http://"); !http {
			return fault.New(fault.Invalid, "allowed origin %q does not begin with https:// or http://", o)
		}
	}
	if rest == "" || len(o) > 300 || strings.ContainsAny(rest, "/?#@* \t") || rest != strings.ToLower(rest) {
		return fault.New(fault.Invalid, "allowed origin %q is not scheme://host[:port] in lower case, without wildcard", o)
	}
	return nil
}

func (r *Record) checkPolicy() error {
	if r.Policy == nil {
		return nil
	}
	if _, err := ParseHash(r.Policy.Digest); err != nil {
		return fault.New(fault.Invalid, "policy digest %q is not sha256:<64 hex digits>", r.Policy.Digest)
	}
	return nil
}

func (r *Record) checkRevoked() error {
	if len(r.Revoked) > MaxRevoked {
		return fault.New(fault.Invalid, "%d revocations: at most %d are kept", len(r.Revoked), MaxRevoked)
	}
	return nil
}

// ends says whether a credential of the user ref is over.
func (v *Revocation) ends(ref string, c *Claims) bool {
	if v.Session != "" {
		return v.Session == c.Session
	}
	return v.Principal == ref && c.Issued.Before(v.Before)
}

// Revoke adds a revocation, and forgets those whose credentials are dead anyhow. Where there is no room, older ones make way:
// NotBefore or SessionsNotBefore rises to theirs, so that nothing that was revoked comes back; some who were not must log in
// again. Whoever an authenticator vouches for can log out, members or not, and so fill the room: ended sessions make way
// first, and never at the cost of other credentials than sessions.
func (r *Record) Revoke(v Revocation, now time.Time) {
	kept := make([]Revocation, 0, len(r.Revoked)+1)
	for _, old := range r.Revoked {
		if now.Before(old.Until) {
			kept = append(kept, old)
		}
	}
	kept = addRevocation(kept, v)
	size := 0
	for i := range kept {
		size += kept[i].size()
	}
	for len(kept) > MaxRevoked || size > maxRevokedAt {
		i := max(0, slices.IndexFunc(kept, func(v Revocation) bool { return v.Session != "" }))
		floor := &r.NotBefore
		if kept[i].Session != "" {
			floor = &r.SessionsNotBefore
		}
		if kept[i].Before.After(*floor) {
			*floor = kept[i].Before
		}
		size -= kept[i].size()
		kept = slices.Delete(kept, i, i+1)
	}
	r.Revoked = kept
}

// addRevocation adds v to a list. A user who ends one session after the other ends, at some time, all that were begun until
// then: nobody fills the list alone.
func addRevocation(list []Revocation, v Revocation) []Revocation {
	own := func(o Revocation) bool { return o.Session != "" && o.Principal != "" && o.Principal == v.Principal }
	ended := 0
	for _, o := range list {
		if own(o) {
			ended++
		}
	}
	if v.Session != "" && ended < maxEnded {
		return append(list, v)
	}
	all := Revocation{Principal: v.Principal, Before: v.Before, Until: v.Until}
	return append(slices.DeleteFunc(list, func(o Revocation) bool {
		merges := own(o) || o.Session == "" && o.Principal == all.Principal && !o.Until.After(all.Until)
		if merges {
			all.Before, all.Until = latest(all.Before, o.Before), latest(all.Until, o.Until)
		}
		return merges
	}), all)
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// size returns how many bytes of a stored record a revocation takes at most: of a text, JSON may make six times as much.
func (v *Revocation) size() int { return 160 + 6*(len(v.Principal)+len(v.Session)) }
