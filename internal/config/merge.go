package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
)

// equal says whether two records are the same but for the difference of no list and an empty one.
func equal(a, b *tenant.Record) bool {
	return reflect.DeepEqual(plain(a), plain(b))
}

func plain(r *tenant.Record) *tenant.Record {
	c := *r
	c.Hosts, c.Keys, c.Bots, c.Members = listed(c.Hosts), listed(c.Keys), listed(c.Bots), listed(c.Members)
	c.Authenticators, c.AllowedOrigins = listed(c.Authenticators), listed(c.AllowedOrigins)
	c.ProvenHosts, c.PendingHosts = listed(c.ProvenHosts), listed(c.PendingHosts)
	if c.Certificates != nil && *c.Certificates == (tenant.Certificates{}) {
		c.Certificates = nil
	}
	return &c
}

// made returns the record of a tenant that is new. Its policy is named at once, so that nobody gets in before it is in force:
// the tenant has it without its bundle, until PolicyDue has been heeded. The zero Updated marks that.
func (t *Tenant) made(now time.Time) *tenant.Record {
	r := t.edited(&tenant.Record{}, now)
	if t.Policy != nil {
		r.Policy = &tenant.PolicyRef{Digest: t.PolicyDigest, Source: tenant.SourceFile, File: t.PolicyDir}
	}
	return r
}

// edited returns cur with what the file declares. It shares nothing with t or cur that can change. What it does not name
// stays as cur has it, whatever the mode: revocations, the policy, the digests of catalog and certificates, the hosts that the
// tenant proved to own.
func (t *Tenant) edited(cur *tenant.Record, now time.Time) *tenant.Record {
	next, want := cur.Clone(), t.Record.Clone()
	next.ID, next.Source, next.File = want.ID, want.Source, want.File
	next.DisplayName, next.Namespace = want.DisplayName, want.Namespace
	next.Mode, next.Dedicated, next.Passthrough = want.Mode, want.Dedicated, want.Passthrough
	next.TLS, next.Certificates = want.TLS, mergeCertificates(want.Certificates, cur.Certificates)
	next.Quotas, next.AllowedOrigins = want.Quotas, want.AllowedOrigins
	next.Sandboxes = mergeSandboxes(want, cur)
	mergeHosts(next, want.Hosts)
	next.Bots = mergeBots(want.Bots, cur, now)
	next.Keys = mergeKeys(want, next.Bots, cur, now)
	next.Authenticators = mergeAuthenticators(want, cur.Clone(), now)
	next.Members = mergeMembers(want.Members, next, cur, now)
	switch {
	case t.StateDeclared || next.State == "":
		next.State, next.SuspendReason = want.State, want.SuspendReason
	case next.State == tenant.StateSuspended && next.SuspendReason == Vanished:
		next.State, next.SuspendReason = tenant.StateActive, ""
	}
	return next
}

// mergeSandboxes returns the declared settings. That an adopted namespace was hardened is no declaration: it stays so, while it
// is the same.
func mergeSandboxes(want, cur *tenant.Record) *tenant.Sandboxes {
	s, had := want.Sandboxes, cur.Sandboxes
	if s != nil && had != nil && s.Adopted && had.Adopted && want.Namespace == cur.Namespace {
		s.Hardened = had.Hardened
	}
	return s
}

// mergeHosts gives r the declared hosts, and those that the tenant proved to own. What waited for its proof and is declared
// now waits no more.
func mergeHosts(r *tenant.Record, want []string) {
	r.Hosts = want
	for _, h := range r.ProvenHosts {
		if !slices.Contains(r.Hosts, h) {
			r.Hosts = append(r.Hosts, h)
		}
	}
	r.PendingHosts = slices.DeleteFunc(r.PendingHosts, func(p tenant.PendingHost) bool { return slices.Contains(r.Hosts, p.Host) })
}

// mergeCertificates returns what is declared, with the digest of the files that were imported last. nil is the platform's choice.
func mergeCertificates(want, cur *tenant.Certificates) *tenant.Certificates {
	var c tenant.Certificates
	if want != nil {
		c = *want
	}
	if c.Digest = ""; cur != nil {
		c.Digest = cur.Digest
	}
	if c == (tenant.Certificates{}) {
		return nil
	}
	return &c
}

// mergeBots returns the declared bots, those known with the dates that they have, then the bots of the API.
func mergeBots(want []tenant.Bot, cur *tenant.Record, now time.Time) []tenant.Bot {
	var bots []tenant.Bot
	for _, b := range want {
		b.Created = now
		if old, ok := cur.BotByName(b.Name); ok && old.Source == tenant.SourceFile {
			b.Created, b.By = old.Created, old.By
		}
		bots = append(bots, b)
	}
	for _, b := range cur.Bots {
		if b.Source != tenant.SourceFile {
			bots = append(bots, b)
		}
	}
	return bots
}

// mergeKeys returns the declared keys, those known with the ids and dates that they have, then the keys of the API. Of the
// latter, those of a bot have its role, and go with it.
func mergeKeys(want *tenant.Record, bots []tenant.Bot, cur *tenant.Record, now time.Time) []tenant.Key {
	var keys []tenant.Key
	for _, k := range want.Keys {
		k.ID, k.Created = keyID(want.ID, k.Hash), now
		if old, ok := cur.KeyByHash(k.Hash); ok && old.Source == tenant.SourceFile {
			k.ID, k.Created = old.ID, old.Created
		}
		keys = append(keys, k)
	}
	for _, k := range cur.Keys {
		if k.Source == tenant.SourceFile {
			continue
		}
		if k.Bot != "" {
			i := slices.IndexFunc(bots, func(b tenant.Bot) bool { return b.ID == k.Bot })
			if i < 0 {
				continue
			}
			k.Role = bots[i].Role
		}
		keys = append(keys, k)
	}
	return keys
}

// keyID returns the id of a declared key. It follows from the hash, so that a plan needs no randomness and a key that is
// taken out and put back is the same in the audit records.
func keyID(id tenant.ID, h tenant.Hash) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, append([]byte("polygate/file-key/"+string(id)+"/"), h[:]...)).String()
}

// mergeAuthenticators returns the declared authenticators, those unchanged as they are, then those of the API. cur is the
// caller's to give away.
func mergeAuthenticators(want, cur *tenant.Record, now time.Time) []tenant.Authenticator {
	var list []tenant.Authenticator
	for _, a := range want.Authenticators {
		old, ok := cur.AuthenticatorByName(a.Name)
		switch {
		case !ok || old.Source != tenant.SourceFile:
			a.Created, a.Generation = now, generation(want.ID, a.Name, "", now)
		case sameSettings(old, &a):
			list = append(list, *old)
			continue
		default:
			a.Created, a.Generation = old.Created, generation(want.ID, a.Name, old.Generation, now)
			if otherUsers(old, &a) {
				a.Created = now
			}
		}
		a.Updated = now
		list = append(list, a)
	}
	for _, a := range cur.Authenticators {
		if a.Source != tenant.SourceFile {
			list = append(list, a)
		}
	}
	return list
}

// generation returns one that no earlier authenticator of that name had: what was proven to an earlier one, even to one with
// the same settings, is proven no more.
func generation(id tenant.ID, name, earlier string, now time.Time) string {
	return declaredID(id, "authenticator", name, earlier, strconv.FormatInt(now.UnixNano(), 10))
}

func sameSettings(a, b *tenant.Authenticator) bool {
	x, y := *a, *b
	for _, s := range []*tenant.Authenticator{&x, &y} {
		s.Generation, s.Created, s.Updated = "", time.Time{}, time.Time{}
	}
	return reflect.DeepEqual(x, y)
}

// otherUsers says whether the same subject of two authenticators would be two users, so that the second counts as a new one
// of the same name: the memberships of the first say nothing about it.
func otherUsers(a, b *tenant.Authenticator) bool {
	switch {
	case a.Type != b.Type:
		return true
	case a.OIDC != nil && b.OIDC != nil:
		return a.OIDC.Issuer != b.OIDC.Issuer || or(a.OIDC.Claims.Subject, "sub") != or(b.OIDC.Claims.Subject, "sub")
	case a.MTLS != nil && b.MTLS != nil:
		return or(a.MTLS.Identity, "san-uri") != or(b.MTLS.Identity, "san-uri") || a.MTLS.Prefix != b.MTLS.Prefix
	}
	return false
}

// mergeMembers returns the declared members, those known with the ids and dates that they have, whoever made them, then the
// members of the API. Of an authenticator that is gone, or new under its name, nothing is known.
func mergeMembers(want []tenant.Member, next, cur *tenant.Record, now time.Time) []tenant.Member {
	known := make(map[who]tenant.Member, len(cur.Members))
	for i := range cur.Members {
		m := &cur.Members[i]
		if stays(m.Authenticator, next, cur) {
			known[whoOf(m)] = *m
		}
	}
	var list []tenant.Member
	for _, m := range want {
		m.Created = now
		if old, ok := known[whoOf(&m)]; ok {
			m.ID, m.Created, m.Updated, m.By = old.ID, old.Created, old.Updated, old.By
			if m.Role != old.Role {
				m.Updated = now
			}
			delete(known, whoOf(&m))
		}
		list = append(list, m)
	}
	for i := range cur.Members {
		m := cur.Members[i]
		if _, ok := known[whoOf(&m)]; ok && m.Source != tenant.SourceFile {
			list = append(list, m)
		}
	}
	return list
}

// stays says whether what is known of an authenticator's users holds in the next record.
func stays(name string, next, cur *tenant.Record) bool {
	a, ok := next.AuthenticatorByName(name)
	old, was := cur.AuthenticatorByName(name)
	return ok && was && !otherUsers(old, a)
}

// notes says what a change takes away, or takes over, that was made through the API.
func notes(cur, next *tenant.Record) []string {
	var list []string
	lost := make(map[string]int) // by authenticator
	for i := range cur.Members {
		m := &cur.Members[i]
		if m.Source == tenant.SourceFile {
			continue
		}
		j := slices.IndexFunc(next.Members, func(n tenant.Member) bool { return n.ID == m.ID })
		switch {
		case j < 0:
			lost[m.Authenticator]++
		case next.Members[j].Source == tenant.SourceFile:
			list = append(list, fmt.Sprintf("%s %q of authenticator %q was made a member through the API: it is the file's now", m.Kind, clip(m.Name), m.Authenticator))
		}
	}
	for _, a := range cur.Authenticators {
		switch now, ok := next.AuthenticatorByName(a.Name); {
		case !ok:
			list = append(list, fmt.Sprintf("authenticator %q is removed, and with it %d members that were made through the API", a.Name, lost[a.Name]))
		case otherUsers(&a, now):
			list = append(list, fmt.Sprintf("authenticator %q has another issuer or names its users otherwise, and counts as a new one: %d members that were made through the API are removed", a.Name, lost[a.Name]))
		}
	}
	for _, k := range cur.Keys {
		if _, ok := next.KeyByHash(k.Hash); !ok && k.Source != tenant.SourceFile {
			list = append(list, fmt.Sprintf("key %q, which was made through the API, is removed with its bot", clip(k.Name)))
		}
	}
	return list
}

// PolicyDue says whether a tenant's policy must be put in force, given its record once all changes are applied: the bundle
// of its folder or, if Policy is nil, none in place of one that the file declared earlier.
func (t *Tenant) PolicyDue(r *tenant.Record) bool {
	switch {
	case t.Policy == nil:
		return r.Policy != nil && r.Policy.Source == tenant.SourceFile
	case r.Policy == nil:
		return true
	case r.Policy.Source != tenant.SourceFile: // Plan has refused it
		return false
	}
	return r.Policy.Digest != t.PolicyDigest || r.Policy.File != t.PolicyDir || r.Policy.Updated.IsZero()
}
