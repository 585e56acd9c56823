package vgw

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
)

// Secrets seals the secrets of authenticators for the routing record, which is held in memory everywhere.
type Secrets interface {
	// Seal binds the secret to the tenant and the authenticator. The same again gives the same text.
	Seal(id tenant.ID, authenticator, plain string) string
}

func authenticatorRoutes() []route {
	return []route{
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/authenticators", Action: authz.AuthenticatorList, Summary: "who vouches for users"}, handle: listAuthenticators},
		{Route: exchange.Route{Method: "POST", Pattern: "/api/v1/authenticators", Owner: exchange.OwnerAny, Action: authz.AuthenticatorCreate, Summary: "add an authenticator"}, handle: createAuthenticator},
		{Route: exchange.Route{Method: "GET", Pattern: "/api/v1/authenticators/{authenticator}", Owner: exchange.OwnerAny, Action: authz.AuthenticatorRead, Summary: "one authenticator"}, handle: getAuthenticator},
		{Route: exchange.Route{Method: "PUT", Pattern: "/api/v1/authenticators/{authenticator}", Owner: exchange.OwnerAny, Action: authz.AuthenticatorUpdate, Summary: "replace an authenticator's settings"}, handle: putAuthenticator},
		{Route: exchange.Route{Method: "DELETE", Pattern: "/api/v1/authenticators/{authenticator}", Owner: exchange.OwnerAny, Action: authz.AuthenticatorDelete, Summary: "remove an authenticator with its members"}, handle: deleteAuthenticator},
	}
}

// authenticatorView is an authenticator as administrators see it: without the client secret.
type authenticatorView struct {
	Name            string                `json:"name"`
	Type            tenant.AuthnType      `json:"type"`
	DefaultRole     string                `json:"default_role,omitzero"`
	OIDC            *tenant.OIDC          `json:"oidc,omitzero"`
	MTLS            *tenant.MTLS          `json:"mtls,omitzero"`
	Upstream        *tenant.UpstreamUsers `json:"upstream,omitzero"`
	Kubernetes      *tenant.Kubernetes    `json:"kubernetes,omitzero"`
	HasClientSecret bool                  `json:"has_client_secret,omitzero"`
	Members         int                   `json:"members"`
	Generation      string                `json:"generation"`
	Source          tenant.Source         `json:"source"`
	File            string                `json:"file,omitzero"`
	Created         time.Time             `json:"created"`
	Updated         time.Time             `json:"updated"`
	ResourceVersion string                `json:"resource_version"` // also the ETag
}

func viewAuthenticator(r *tenant.Record, a *tenant.Authenticator) authenticatorView {
	v := authenticatorView{
		Name: a.Name, Type: a.Type, OIDC: a.OIDC, MTLS: a.MTLS, Upstream: a.Upstream, Kubernetes: a.Kubernetes, Members: membersOf(r, a.Name),
		Generation: a.Generation, Source: a.Source, Created: a.Created, Updated: later(a.Created, a.Updated),
		ResourceVersion: strconv.FormatInt(authenticatorVersion(a), 10),
	}
	if a.DefaultRole != tenant.NoRole {
		v.DefaultRole = a.DefaultRole.String()
	}
	if a.OIDC != nil && a.OIDC.Login != nil {
		o, l := *a.OIDC, *a.OIDC.Login // the record is shared
		v.HasClientSecret = l.ClientSecret != ""
		l.ClientSecret = ""
		o.Login, v.OIDC = &l, &o
	}
	if a.Source == tenant.SourceFile {
		v.File = r.File
	}
	return v
}

func membersOf(r *tenant.Record, authenticator string) (n int) {
	for i := range r.Members {
		if r.Members[i].Authenticator == authenticator {
			n++
		}
	}
	return n
}

func authenticatorVersion(a *tenant.Authenticator) int64 {
	return max(later(a.Created, a.Updated).UnixMicro(), 1)
}

func listAuthenticators(_ context.Context, c *call) (exchange.Decision, error) {
	permit, may, err := admitList(c, authz.AuthenticatorList, "authenticator")
	if err != nil {
		return nil, err
	}
	var list []*tenant.Authenticator
	for i := range c.e.Record.Authenticators {
		if may {
			list = append(list, &c.e.Record.Authenticators[i])
		}
	}
	slices.SortFunc(list, func(a, b *tenant.Authenticator) int { return strings.Compare(a.Name, b.Name) })
	return answerList(c, permit, list, func(a *tenant.Authenticator) string { return a.Name }, func(a *tenant.Authenticator) authenticatorView {
		return viewAuthenticator(c.e.Record, a)
	})
}

func noAuthenticator(name string) error {
	return fault.New(fault.NotFound, "no authenticator %q", name)
}

func getAuthenticator(_ context.Context, c *call) (exchange.Decision, error) {
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.AuthenticatorRead, Resource: "authenticator/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	a, ok := c.e.Record.AuthenticatorByName(c.params[0])
	if !ok {
		err = noAuthenticator(c.params[0])
	}
	permit.Done(err)
	if err != nil {
		return nil, err
	}
	return c.replyAuthenticator(200, c.e.Record, a)
}

func (c *call) replyAuthenticator(status int, r *tenant.Record, a *tenant.Authenticator) (exchange.Decision, error) {
	d, err := reply(status, viewAuthenticator(r, a))
	if err != nil {
		return nil, err
	}
	d.Header.Set("Etag", etag(authenticatorVersion(a)))
	if status == 201 {
		d.Header.Set("Location", c.r.Base+"/api/v1/authenticators/"+a.Name)
	}
	return d, nil
}

// authenticatorBody is the body of POST and PUT. oidc.login.client_secret is in the clear, and write-only.
type authenticatorBody struct {
	Name         string                `json:"name"`
	Type         tenant.AuthnType      `json:"type"`
	DefaultRole  string                `json:"default_role"`
	OIDC         *tenant.OIDC          `json:"oidc"`
	MTLS         *tenant.MTLS          `json:"mtls"`
	Upstream     *tenant.UpstreamUsers `json:"upstream"`
	Kubernetes   *tenant.Kubernetes    `json:"kubernetes"`
	RemoveSecret bool                  `json:"remove_client_secret"`
}

// authenticator makes what the body asks for.
func (c *call) authenticator(body authenticatorBody) (tenant.Authenticator, error) {
	now := c.now().UTC()
	a := tenant.Authenticator{
		Name: body.Name, Type: body.Type, Generation: uuid.NewString(), Source: tenant.SourceAPI, Created: now, Updated: now,
		OIDC: body.OIDC, MTLS: body.MTLS, Upstream: body.Upstream, Kubernetes: body.Kubernetes,
	}
	if body.DefaultRole != "" {
		role, err := c.grantable(body.DefaultRole)
		if err != nil {
			return a, err
		}
		a.DefaultRole = role
	}
	if err := a.Validate(); err != nil {
		return a, err
	}
	if err := c.checkParts(&a); err != nil {
		return a, err
	}
	if err := authn.CheckAuthenticator(&a); err != nil {
		return a, err
	}
	return a, c.sealSecret(&a)
}

// checkParts checks what the vocabulary cannot: that certificates are some, and that an issuer may be dialled.
func (c *call) checkParts(a *tenant.Authenticator) error {
	switch {
	case a.OIDC != nil:
		if err := checkCertificates("oidc.ca", a.OIDC.CA); err != nil {
			return err
		}
		return c.checkIssuer(a.OIDC.Issuer)
	case a.MTLS != nil:
		return checkCertificates("mtls.ca", a.MTLS.CA)
	case a.Upstream != nil:
		return checkCertificates("upstream.ca", a.Upstream.CA)
	}
	return nil
}

// checkCertificates checks that a text is certificates in PEM, and nothing else: a private key that was pasted with them
// would be shown to every admin from then on.
func checkCertificates(field, text string) error {
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if strings.TrimSpace(string(rest)) != "" || n == 0 && text != "" {
				return fault.New(fault.Invalid, "%s is not a list of certificates in PEM", field)
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fault.New(fault.Invalid, "%s holds a %.32q: certificates alone belong there", field, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fault.Wrap(fault.Invalid, err, "certificate %d of %s cannot be read", n+1, field)
		}
	}
}

// checkIssuer refuses an address that the dial guard would refuse, where it can be seen already. What a name stands for is
// checked at each dial: it may change (X34).
func (c *call) checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return fault.Wrap(fault.Invalid, err, "oidc.issuer is not a URL")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil
	}
	if err := c.cfg.JudgeAddr(addr); err != nil {
		return fault.Wrap(fault.Invalid, err, "oidc.issuer cannot be reached from here: %s", err)
	}
	return nil
}

// sealSecret seals the client secret in place.
func (c *call) sealSecret(a *tenant.Authenticator) error {
	if a.OIDC == nil || a.OIDC.Login == nil || a.OIDC.Login.ClientSecret == "" {
		return nil
	}
	l := a.OIDC.Login
	if len(l.ClientSecret) > maxClientSecret {
		return fault.New(fault.Invalid, "oidc.login.client_secret is %d bytes long: at most %d are allowed", len(l.ClientSecret), maxClientSecret)
	}
	if c.cfg.Secrets == nil {
		return fault.New(fault.NotImplemented, "this gateway has no secret to seal oidc.login.client_secret with: use a public client")
	}
	l.ClientSecret = c.cfg.Secrets.Seal(c.e.Scope.ID(), a.Name, l.ClientSecret)
	return nil
}

const maxClientSecret = 1024

func createAuthenticator(ctx context.Context, c *call) (exchange.Decision, error) {
	body, err := decode[authenticatorBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.AuthenticatorCreate, Resource: "authenticator/" + label(body.Name)})
	if err != nil {
		return nil, err
	}
	a, err := c.authenticator(body)
	if err != nil {
		return nil, permit.Settle(err)
	}
	e, err := c.change(ctx, permit, func(r *tenant.Record) error {
		if have, ok := r.AuthenticatorByName(a.Name); ok {
			if err := declared(r, have.Source, "authenticator", a.Name); err != nil {
				return err
			}
			return fault.New(fault.Conflict, "there is an authenticator %q already", a.Name)
		}
		if n := len(r.Authenticators); n >= tenant.MaxAuthenticators {
			return fault.New(fault.Conflict, "there are %d authenticators, the most that a tenant may have", n)
		}
		r.Authenticators = append(r.Authenticators, a)
		return oneUpstream(r)
	})
	if err != nil {
		return nil, err
	}
	return c.replyAuthenticator(201, e.Record, &a)
}

// oneUpstream refuses a second authenticator of the type upstream: it could not be told whose headers are meant.
func oneUpstream(r *tenant.Record) error {
	n := 0
	for i := range r.Authenticators {
		if r.Authenticators[i].Type == tenant.AuthnUpstream {
			n++
		}
	}
	if n > 1 {
		return fault.New(fault.Conflict, "there is an authenticator of the type upstream already, and only one is allowed")
	}
	return nil
}

func putAuthenticator(ctx context.Context, c *call) (exchange.Decision, error) {
	pre, err := ifMatch(c.r.Header)
	if err != nil {
		return nil, err
	}
	body, err := decode[authenticatorBody](c)
	if err != nil {
		return nil, err
	}
	permit, err := c.r.Visit.Admit(guard.Effect{Action: authz.AuthenticatorUpdate, Resource: "authenticator/" + label(c.params[0])})
	if err != nil {
		return nil, err
	}
	if body.Name == "" {
		body.Name = c.params[0]
	}
	if body.Name != c.params[0] {
		return nil, permit.Settle(fault.New(fault.Invalid, "name is %.64q in the body and %.64q in the path: an authenticator cannot be renamed", body.Name, c.params[0]))
	}
	next, err := c.authenticator(body)
	if err != nil {
		return nil, permit.Settle(err)
	}
	var made tenant.Authenticator
	e, err := c.change(ctx, permit, func(r *tenant.Record) (err error) {
		if err := c.mayReplace(r, &next); err != nil {
			return err
		}
		made, err = replace(r, next, body.RemoveSecret, pre)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.replyAuthenticator(200, e.Record, &made)
}

// replace puts next in the place of the authenticator of its name.
func replace(r *tenant.Record, next tenant.Authenticator, removeSecret bool, pre precondition) (tenant.Authenticator, error) {
	have, ok := r.AuthenticatorByName(next.Name)
	if !ok {
		return next, noAuthenticator(next.Name)
	}
	if err := declared(r, have.Source, "authenticator", have.Name); err != nil {
		return next, err
	}
	if !pre.allows(authenticatorVersion(have)) {
		return next, stale(authenticatorVersion(have))
	}
	next.Updated = later(next.Updated, have.Updated.Add(time.Microsecond))
	if naming(have) == naming(&next) {
		next.Created = have.Created
	} else if n := membersOf(r, have.Name); n > 0 {
		return next, fault.New(fault.Conflict, "authenticator %q has %d members, and with another type, issuer or mapping of subjects the same names would be other people: delete it and make it anew", have.Name, n)
	} // else it is a new one in an old place: delegations to its users are void by its Created
	if !removeSecret {
		keepSecret(have, &next)
	}
	*have = next
	return next, oneUpstream(r)
}

// naming returns what makes a name of an authenticator's mean the same person.
func naming(a *tenant.Authenticator) string {
	parts := []string{string(a.Type)}
	switch {
	case a.OIDC != nil:
		parts = append(parts, a.OIDC.Issuer, a.OIDC.Claims.Subject)
	case a.MTLS != nil:
		parts = append(parts, a.MTLS.Identity, a.MTLS.Prefix)
	case a.Upstream != nil:
		parts = append(parts, strings.ToLower(a.Upstream.Header))
	}
	return strings.Join(parts, "\x00")
}

// keepSecret keeps a client secret that the body does not repeat, as it cannot be read back. It is kept for the issuer that
// it was given for alone: whoever may change the issuer's address could have it sent to himself.
func keepSecret(have, next *tenant.Authenticator) {
	if have.OIDC == nil || have.OIDC.Login == nil || next.OIDC == nil || next.OIDC.Login == nil || next.OIDC.Login.ClientSecret != "" {
		return
	}
	same := have.OIDC.Issuer == next.OIDC.Issuer && have.OIDC.CA == next.OIDC.CA && have.OIDC.Login.ClientID == next.OIDC.Login.ClientID
	if !same {
		return
	}
	o, l := *next.OIDC, *next.OIDC.Login // edits may be called again: next must stay as it was
	l.ClientSecret = have.OIDC.Login.ClientSecret
	o.Login, next.OIDC = &l, &o
}

func deleteAuthenticator(ctx context.Context, c *call) (exchange.Decision, error) {
	return c.remove(ctx, authz.AuthenticatorDelete, "authenticator/", dropAuthenticator)
}

// dropAuthenticator removes an authenticator and its members. Delegations to its users are void with it, whether or not
// another of its name is made: see grant.Epoch.
func dropAuthenticator(name string, pre precondition) func(*tenant.Record) error {
	return func(r *tenant.Record) error {
		a, ok := r.AuthenticatorByName(name)
		if !ok {
			return noAuthenticator(name)
		}
		if err := declared(r, a.Source, "authenticator", name); err != nil {
			return err
		}
		if !pre.allows(authenticatorVersion(a)) {
			return stale(authenticatorVersion(a))
		}
		for i := range r.Members {
			if r.Members[i].Authenticator == name {
				if err := declared(r, r.Members[i].Source, "its member", r.Members[i].Name); err != nil {
					return err
				}
			}
		}
		r.Members = slices.DeleteFunc(r.Members, func(m tenant.Member) bool { return m.Authenticator == name })
		r.Authenticators = slices.DeleteFunc(r.Authenticators, func(a tenant.Authenticator) bool { return a.Name == name })
		return nil
	}
}
