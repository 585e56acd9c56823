package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

type botForm struct {
	Name string       `yaml:"name"`
	Role chosenRole   `yaml:"role"`
	Keys []botKeyForm `yaml:"keys"`
}

type botKeyForm struct {
	Name    string      `yaml:"name"`
	KeyHash tenant.Hash `yaml:"key_hash"`
	Expires time.Time   `yaml:"expires"`
}

type memberForm struct {
	User          string     `yaml:"user"`
	Group         string     `yaml:"group"`
	Authenticator string     `yaml:"authenticator"`
	Role          chosenRole `yaml:"role"`
}

// chosenRole is a role without a default: what gives a role says which.
type chosenRole tenant.Role

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *chosenRole) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		return fault.New(fault.Invalid, "role is empty: use viewer, editor or admin")
	}
	role, err := tenant.ParseRole(string(b))
	*r = chosenRole(role)
	return err
}

// addKeys adds the API keys, the bots and their keys to a record.
func (f *tenantForm) addKeys(rec *tenant.Record) {
	for _, k := range f.APIKeys {
		role := k.Role
		if role == tenant.NoRole { // not written
			role = tenant.Editor
		}
		rec.Keys = append(rec.Keys, tenant.Key{Name: k.Name, Hash: k.KeyHash, Role: role, Expires: k.Expires, Source: tenant.SourceFile})
	}
	for _, b := range f.Bots {
		bot := tenant.Bot{ID: declaredID(rec.ID, "bot", b.Name), Name: b.Name, Role: tenant.Role(b.Role), Source: tenant.SourceFile}
		rec.Bots = append(rec.Bots, bot)
		for _, k := range b.Keys {
			rec.Keys = append(rec.Keys, tenant.Key{Name: k.Name, Hash: k.KeyHash, Role: bot.Role, Bot: bot.ID, Expires: k.Expires, Source: tenant.SourceFile})
		}
	}
}

// declaredID returns the id of a declared thing. It follows from the names, so that a plan needs no randomness, and what is
// taken out and put back is the same in the audit records.
func declaredID(id tenant.ID, kind string, names ...string) string {
	text := "polygate/file-" + kind + "/" + string(id)
	for _, n := range names {
		text += fmt.Sprintf("/%d/%s", len(n), n) // no two lists of names make one text
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(text)).String()
}

// keysOf checks the names and hashes of all keys of a tenant, and its bots.
func (r *tenantsReader) keysOf(n ast.Node, f *tenantForm, t *Tenant) {
	names := make(map[string]position, len(f.APIKeys))
	for i, k := range f.APIKeys {
		r.key(find(n, fmt.Sprintf("api_keys[%d]", i)), k.Name, k.KeyHash, names, t)
	}
	t.bots = make(map[string]position, len(f.Bots))
	for i := range f.Bots {
		r.bot(find(n, fmt.Sprintf("bots[%d]", i)), &f.Bots[i], names, t)
	}
}

func (r *tenantsReader) bot(n ast.Node, b *botForm, names map[string]position, t *Tenant) {
	at := place(find(n, "name"))
	if err := tenant.CheckName("name", b.Name, false); err != nil {
		r.add(at, "%s", reason(err))
	} else if first, ok := t.bots[b.Name]; ok {
		r.add(at, "bot name %q is declared twice in this tenant: the first is in line %d", b.Name, first.Line)
	} else {
		t.bots[b.Name] = at
	}
	if b.Role == chosenRole(tenant.NoRole) {
		r.add(place(n), "role is missing: give the bot viewer, editor or admin")
	}
	for i, k := range b.Keys {
		node := find(n, fmt.Sprintf("keys[%d]", i))
		r.key(node, k.Name, k.KeyHash, names, t)
		switch {
		case k.Expires.IsZero():
			r.add(place(node), "expires is missing: a bot's key ends within a year; write a date-time, such as 2027-01-31T00:00:00Z")
		case k.Expires.Sub(r.now) > tenant.MaxKeyLife:
			r.add(place(find(node, "expires")), "expires is more than a year away: a bot's key ends within a year; several may be valid at a time, for rotation")
		}
	}
}

// key checks the name and the hash of one key.
func (r *tenantsReader) key(n ast.Node, name string, hash tenant.Hash, names map[string]position, t *Tenant) {
	at := place(find(n, "name"))
	if err := tenant.CheckName("name", name, false); err != nil {
		r.add(at, "%s", reason(err))
	} else if first, ok := names[name]; ok {
		r.add(at, "key name %q is declared twice in this tenant: the first is in line %d", name, first.Line)
	} else {
		names[name] = at
	}
	at = place(find(n, "key_hash"))
	t.keys[hash] = at
	if hash == (tenant.Hash{}) {
		r.add(at, "key_hash is missing: write sha256: and the SHA-256 of the key in hexadecimal")
		return
	}
	if first, ok := r.hashes[hash]; ok {
		r.add(at, "key_hash is declared twice: the first is in line %d; a key belongs to one tenant", first.Line)
		return
	}
	r.hashes[hash] = at
}

// membersOf checks the members and web origins of a tenant, and adds the members to its record.
func (r *tenantsReader) membersOf(n ast.Node, f *tenantForm, t *Tenant) {
	seen := make(map[who]position, len(f.Members))
	for i := range f.Members {
		node := find(n, fmt.Sprintf("members[%d]", i))
		m, ok := r.member(node, &f.Members[i], t)
		if !ok {
			continue
		}
		w := whoOf(&m)
		if first, twice := seen[w]; twice {
			r.add(place(node), "%s %q of authenticator %q is declared twice: the first is in line %d", m.Kind, clip(m.Name), m.Authenticator, first.Line)
			continue
		}
		seen[w] = place(node)
		t.Record.Members = append(t.Record.Members, m)
	}
	for i, o := range f.AllowedOrigins {
		at := place(find(n, fmt.Sprintf("allowed_origins[%d]", i)))
		alone := tenant.Record{ID: "x", State: tenant.StateActive, Mode: tenant.ModeVirtual, AllowedOrigins: []string{o}}
		if err := alone.Validate(""); err != nil {
			r.add(at, "%s", reason(err))
		} else if slices.Contains(f.AllowedOrigins[:i], o) {
			r.add(at, "allowed origin %q is listed twice", o)
		}
	}
}

func (r *tenantsReader) member(n ast.Node, f *memberForm, t *Tenant) (tenant.Member, bool) {
	m := tenant.Member{
		Kind: tenant.MemberUser, Name: f.User, Authenticator: f.Authenticator, Role: tenant.Role(f.Role), Source: tenant.SourceFile,
	}
	if f.Group != "" {
		m.Kind, m.Name = tenant.MemberGroup, f.Group
	}
	m.ID = declaredID(t.Record.ID, "member", string(m.Kind), m.Authenticator, m.Name)
	found := len(r.list)
	if (f.User == "") == (f.Group == "") {
		r.add(place(n), "set exactly one of user (a subject of the authenticator) and group")
	} else if err := tenant.CheckSubject(string(m.Kind), m.Name); err != nil {
		r.add(place(find(n, string(m.Kind))), "%s", reason(err))
	}
	if _, ok := t.authenticators[f.Authenticator]; f.Authenticator == "" {
		r.add(place(n), "authenticator is missing: name the one of this tenant's authenticators that knows the member")
	} else if !ok {
		r.add(place(find(n, "authenticator")), "authenticator %q is not declared for this tenant: add it to authenticators, or name another", clip(f.Authenticator))
	}
	if m.Role == tenant.NoRole {
		r.add(place(n), "role is missing: give the member viewer, editor or admin")
	}
	return m, len(r.list) == found
}

// who is what no two members of a tenant share.
type who struct {
	kind                tenant.MemberKind
	authenticator, name string
}

func whoOf(m *tenant.Member) who { return who{m.Kind, m.Authenticator, m.Name} }
