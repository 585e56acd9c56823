package registry

import (
	stdjson "encoding/json"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/polygate/polygate/internal/tenant"
)

// What a newer version wrote may hold words that this one does not know. They must neither break a reader, or a rolling
// update would take tenants off the air, nor mean more than what this build can judge: an unknown role is none, and a tenant
// in an unknown state or mode is not served. An update keeps them as they were, see keepUnknown.

// reasonNewer is shown to callers of a tenant that this version does not understand.
const reasonNewer = "this tenant was set up by a newer version of the gateway"

// readRecord decodes a stored routing record.
func readRecord(b []byte) (*tenant.Record, error) {
	r := new(tenant.Record)
	if err := stdjson.Unmarshal(b, r); err != nil {
		if r, err = readUnknownRoles(b, err); err != nil {
			return nil, err
		}
	}
	// A version that does not know a mode changes it away and keeps its settings, see keepUnknown. They mean nothing then, and
	// would make every further change of the tenant invalid.
	if knownMode(r.Mode) && r.Mode != tenant.ModeDedicated {
		r.Dedicated = nil
	}
	if knownMode(r.Mode) && r.Mode != tenant.ModePassthrough {
		r.Passthrough = nil
	}
	if !understood(r) {
		r.State, r.SuspendReason = tenant.StateSuspended, reasonNewer
	}
	return r, nil
}

// understood says whether this build knows the words that say whether and how a tenant is served, and what its handshakes
// demand.
func understood(r *tenant.Record) bool {
	switch r.State {
	case tenant.StateActive, tenant.StateSuspended:
	default:
		return false
	}
	return knownMode(r.Mode) && (r.TLS == nil || knownVersion(r.TLS.MinVersion))
}

func knownMode(m tenant.Mode) bool {
	return m == tenant.ModeVirtual || m == tenant.ModeDedicated || m == tenant.ModePassthrough
}

func knownVersion(v string) bool { return v == "" || v == "1.2" || v == "1.3" }

func knownSource(s tenant.CertificateSource) bool {
	return s == "" || s == tenant.SourceLocalCA || s == tenant.SourceACME || s == tenant.SourceProvided
}

// readUnknownRoles decodes a record that could not be decoded because of why, with roles that it may not know. It costs
// more, so it comes second.
func readUnknownRoles(b []byte, why error) (*tenant.Record, error) {
	r := new(tenant.Record)
	err := json.Unmarshal(b, r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true),
		json.WithUnmarshalers(json.UnmarshalFunc(knownRole)))
	if err != nil {
		return nil, why
	}
	return r, nil
}

// knownRole reads a role. One that is unknown is none: it may be less than any that is known.
func knownRole(b []byte, role *tenant.Role) error {
	var name string
	*role = tenant.NoRole
	if stdjson.Unmarshal(b, &name) != nil || name == "" {
		return nil //nolint:nilerr // no text is no role that is known
	}
	if known, err := tenant.ParseRole(name); err == nil {
		*role = known
	}
	return nil
}

// withoutUnknown returns next as Validate shall see it. Of what old holds, the words that this build does not know are valid
// all the same: they were written by a newer version, and must not keep this one from changing anything else, such as to
// revoke a key.
func withoutUnknown(old, next *tenant.Record) *tenant.Record {
	c := next.Clone()
	unknown := make(map[string]bool)
	eachRole(old, func(id string, role *tenant.Role) {
		if *role == tenant.NoRole {
			unknown[id] = true
		}
	})
	eachRole(c, func(id string, role *tenant.Role) {
		if *role == tenant.NoRole && unknown[id] {
			*role = tenant.Viewer
		}
	})
	if c.Mode == old.Mode && !knownMode(c.Mode) {
		c.Mode, c.Dedicated, c.Passthrough = tenant.ModeVirtual, nil, nil
	}
	if o := old.TLS; o != nil && c.TLS != nil && c.TLS.MinVersion == o.MinVersion && !knownVersion(o.MinVersion) {
		c.TLS.MinVersion = ""
	}
	if o := old.Certificates; o != nil && c.Certificates != nil && c.Certificates.Source == o.Source && !knownSource(o.Source) {
		c.Certificates = nil
	}
	return c
}

// eachRole calls f for the roles of keys, bots and members, with the id of each.
func eachRole(r *tenant.Record, f func(id string, role *tenant.Role)) {
	for i := range r.Keys {
		f(r.Keys[i].ID, &r.Keys[i].Role)
	}
	for i := range r.Bots {
		f(r.Bots[i].ID, &r.Bots[i].Role)
	}
	for i := range r.Members {
		f(r.Members[i].ID, &r.Members[i].Role)
	}
}
