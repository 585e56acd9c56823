package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// dedicated decides on a request to the own host of a tenant that has a gateway of its own: admitted, it is relayed there.
func (f *flight) dedicated(e *tenant.Entry) (exchange.Decision, error) {
	target := dedicatedTarget(e, f.s.cfg.ClientCertificates)
	permit, err := f.visit.Admit(guard.Effect{Action: f.relayAction(), Resource: "gateway/" + target.Authority})
	if err != nil {
		return nil, err
	}
	h := f.r.Header
	removeSession(h) // with auth: upstream too: a browser may have one of before the mode was changed
	if e.Record.Dedicated.Auth == tenant.AuthGateway {
		identify(h, e.Record.Dedicated, f.visit.Principal())
	}
	h["X-Request-Id"] = []string{f.id}
	path := f.place.path
	if f.target.mark && f.target.query == "" {
		path += "?" // the very bytes: an empty query is not no query
	}
	return &exchange.Relay{
		Target: target, Method: f.r.Method, Path: path, Query: f.target.query, Host: f.host, Header: exchange.Header(h),
		Rest: &f.body, Length: f.r.ContentLength, Upgrade: f.upgrade != "",
		EditResponse: confineCookies(e, f.host), Interim: true,
		Done: func(o exchange.Outcome) { permit.Done(o.Err) },
	}, nil
}

// relayAction returns what the request may do as far as HTTP tells.
func (f *flight) relayAction() authz.Action {
	if f.upgrade == "" && (f.r.Method == http.MethodGet || f.r.Method == http.MethodHead) {
		return authz.RelayRead
	}
	return authz.RelayWrite
}

// dedicatedTarget returns the tenant's own gateway. Its connections are shared within this tenant, not with one of the same
// id that comes after it.
func dedicatedTarget(e *tenant.Entry, certs ClientCertificates) exchange.Target {
	scheme, authority, _ := strings.Cut(e.Record.Dedicated.Upstream, "://") // validated: scheme://host[:port] and slashes
	t := exchange.Target{
		Scheme: strings.ToLower(scheme), Authority: strings.TrimRight(authority, "/"),
		Pool:    e.Scope.UID() + " " + e.Record.Dedicated.Upstream,
		Trusted: e.Record.Source == tenant.SourceFile,
	}
	if t.Scheme == "https" {
		t.Secure = dedicatedSecurity(e, certs)
	}
	return t
}

// principalHeader tells a dedicated gateway who asks, beside the name: kind and id. Names are for people: two issuers, a key
// and a bot may have one name, and at some issuers users choose theirs.
const principalHeader = "X-Polygate-Principal"

// identify puts who asks in the place of the credential it asked with. Method overrides go: what was admitted as a GET must
// not be carried out as a DELETE.
func identify(h http.Header, d *tenant.Dedicated, p tenant.Principal) {
	removeCredential(h)
	for _, name := range [...]string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		delete(h, name)
	}
	name := d.Identity
	if name == "" {
		name = tenant.DefaultIdentityHeader
	}
	removeIdentity(h, name)
	h[principalHeader] = []string{p.Ref()}
	h[textproto.CanonicalMIMEHeaderKey(name)] = []string{knownAs(p)}
}

// knownAs returns the one word by which a dedicated gateway knows who asks: the name that the tenant's admins gave to a key or
// bot; of a user, <authenticator>/<subject>. A user's own name is no identity: at many issuers anybody may choose another's.
func knownAs(p tenant.Principal) string {
	if p.Kind == tenant.KindUser {
		return p.ID
	}
	return p.Name
}

// confineCookies returns an edit that makes cookies for a parent domain host-only where that parent is the platform's: one
// tenant's gateway must not set cookies that browsers send to another's (C-7). nil on a custom host, whose parent is the
// tenant's own affair.
func confineCookies(e *tenant.Entry, host string) func(int, exchange.Header) error {
	name, _, _ := strings.Cut(host, ":")
	if slices.Contains(e.Record.Hosts, name) {
		return nil
	}
	return hostOnlyCookies
}

func hostOnlyCookies(_ int, h exchange.Header) error {
	for i, c := range h["Set-Cookie"] {
		h["Set-Cookie"][i] = hostOnly(c)
	}
	return nil
}

// hostOnly takes the Domain attribute out of a Set-Cookie (RFC 6265 §5.2.3).
func hostOnly(cookie string) string {
	if !strings.Contains(strings.ToLower(cookie), "domain") {
		return cookie
	}
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, p := range parts[1:] {
		name, _, _ := strings.Cut(p, "=")
		if !strings.EqualFold(strings.Trim(name, " \t"), "domain") {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ";")
}
