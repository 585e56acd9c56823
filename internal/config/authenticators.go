package config

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// maxSecret bounds a client secret, in bytes.
const maxSecret = 1024

type authenticatorForm struct {
	Name        string          `yaml:"name"`
	Type        string          `yaml:"type"`
	DefaultRole defaultRole     `yaml:"default_role"`
	OIDC        *oidcForm       `yaml:"oidc"`
	MTLS        *mtlsForm       `yaml:"mtls"`
	Upstream    *upstreamForm   `yaml:"upstream"`
	Kubernetes  *kubernetesForm `yaml:"kubernetes"`
}

type oidcForm struct {
	Issuer         string            `yaml:"issuer"`
	Audiences      []string          `yaml:"audiences"`
	ClientIDs      []string          `yaml:"client_ids"`
	Algorithms     []string          `yaml:"algorithms"`
	Claims         claimsForm        `yaml:"claims"`
	RequiredClaims map[string]string `yaml:"required_claims"`
	RequiredScopes []string          `yaml:"required_scopes"`
	CAFile         string            `yaml:"ca_file"`
	Login          *loginForm        `yaml:"login"`
}

type claimsForm struct {
	Subject    string            `yaml:"subject"`
	Username   string            `yaml:"username"`
	Groups     string            `yaml:"groups"`
	Scopes     string            `yaml:"scopes"`
	Attributes map[string]string `yaml:"attributes"`
}

type loginForm struct {
	ClientID         string   `yaml:"client_id"`
	ClientSecretFile string   `yaml:"client_secret_file"`
	ClientSecretEnv  string   `yaml:"client_secret_env"`
	Scopes           []string `yaml:"scopes"`
	SessionSeconds   int      `yaml:"session_seconds"`
}

type mtlsForm struct {
	CAFile   string `yaml:"ca_file"`
	Identity string `yaml:"identity"`
	Prefix   string `yaml:"prefix"`
	Groups   bool   `yaml:"groups"`
}

type upstreamForm struct {
	Sources          []netip.Prefix    `yaml:"sources"`
	CAFile           string            `yaml:"ca_file"`
	Names            []string          `yaml:"names"`
	Header           string            `yaml:"header"`
	GroupsHeader     string            `yaml:"groups_header"`
	AttributeHeaders map[string]string `yaml:"attribute_headers"`
}

type kubernetesForm struct {
	Audiences  []string `yaml:"audiences"`
	Namespaces []string `yaml:"namespaces"`
}

// defaultRole is a role that may be none.
type defaultRole tenant.Role

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *defaultRole) UnmarshalText(b []byte) error {
	*r = defaultRole(tenant.NoRole)
	if s := string(b); s == "" || s == "none" {
		return nil
	}
	role, err := tenant.ParseRole(string(b))
	if err != nil || role == tenant.Admin {
		return fault.New(fault.Invalid, "%q is unknown here: use none, viewer or editor; admins are named one by one", clip(string(b)))
	}
	*r = defaultRole(role)
	return nil
}

// authenticatorsOf checks the authenticators of a tenant and adds them to its record.
func (r *tenantsReader) authenticatorsOf(n ast.Node, f *tenantForm, t *Tenant) {
	t.authenticators = make(map[string]position, len(f.Authenticators))
	for i := range f.Authenticators {
		form := &f.Authenticators[i]
		node := find(n, fmt.Sprintf("authenticators[%d]", i))
		if first, ok := t.authenticators[form.Name]; ok {
			r.add(place(find(node, "name")), "authenticator %q is declared twice in this tenant: the first is in line %d", clip(form.Name), first.Line)
			continue
		}
		t.authenticators[form.Name] = place(node)
		t.Record.Authenticators = append(t.Record.Authenticators, r.authenticator(node, form, t.Record.ID))
	}
}

func (r *tenantsReader) authenticator(n ast.Node, f *authenticatorForm, id tenant.ID) tenant.Authenticator {
	a := tenant.Authenticator{
		Name: f.Name, Type: tenant.AuthnType(f.Type), DefaultRole: tenant.Role(f.DefaultRole), Source: tenant.SourceFile,
		Upstream: f.Upstream.settings(), Kubernetes: f.Kubernetes.settings(),
	}
	if a.Type == tenant.AuthnKubernetes && a.Kubernetes == nil {
		a.Kubernetes = &tenant.Kubernetes{} // it has no setting that it needs
	}
	found := len(r.list)
	if f.Type == "" {
		r.add(place(n), "type is missing: use oidc, mtls, upstream or kubernetes")
	}
	if f.OIDC != nil {
		a.OIDC = f.OIDC.settings()
		a.OIDC.CA = r.roots(n, "oidc.ca_file", f.OIDC.CAFile)
		if f.OIDC.Login != nil {
			a.OIDC.Login = r.login(find(n, "oidc.login"), f.OIDC.Login, id, f.Name)
		}
	}
	if m := f.MTLS; m != nil {
		a.MTLS = &tenant.MTLS{CA: r.roots(n, "mtls.ca_file", m.CAFile), Identity: m.Identity, Prefix: m.Prefix, Groups: m.Groups}
		if m.CAFile == "" {
			r.add(place(find(n, "mtls")), "mtls.ca_file is missing: name a PEM file with the roots of the client certificates")
		}
	}
	if f.Upstream != nil {
		a.Upstream.CA = r.roots(n, "upstream.ca_file", f.Upstream.CAFile)
	}
	if len(r.list) > found { // what follows might complain of the same once more
		return a
	}
	if err := a.Validate(); err != nil {
		field, _ := blamedAuthenticator(a.Name, reason(err))
		r.add(place(find(n, field)), "%s", ourFields(reason(err)))
	}
	return a
}

// ourFields names certificates in a message as they are written in a file.
func ourFields(msg string) string {
	return strings.NewReplacer("oidc.ca has", "oidc.ca_file has", "sources or ca is", "sources or ca_file is", "ca and names", "ca_file and names").Replace(msg)
}

// roots reads the certificates of a field, if it is set.
func (r *tenantsReader) roots(n ast.Node, field, name string) string {
	if name == "" {
		return ""
	}
	text, err := readRoots(r.path(name))
	if err != nil {
		r.add(place(find(n, field)), "%s %q: %v", field, clip(name), err)
	}
	return text
}

func (f *oidcForm) settings() *tenant.OIDC {
	return &tenant.OIDC{
		Issuer: f.Issuer, Audiences: listed(f.Audiences), ClientIDs: listed(f.ClientIDs), Algorithms: listed(f.Algorithms),
		Claims:         tenant.ClaimMapping(f.Claims),
		RequiredClaims: f.RequiredClaims, RequiredScopes: listed(f.RequiredScopes),
	}
}

// login reads how browsers log in. The client secret goes into the record sealed.
func (r *tenantsReader) login(n ast.Node, f *loginForm, id tenant.ID, authenticator string) *tenant.Login {
	l := &tenant.Login{ClientID: f.ClientID, Scopes: listed(f.Scopes), SessionLife: f.SessionSeconds}
	var field, plain string
	var err error
	switch {
	case f.ClientSecretFile != "" && f.ClientSecretEnv != "":
		r.add(place(n), "client_secret_file and client_secret_env are both set: choose one")
		return l
	case f.ClientSecretFile != "":
		field = "client_secret_file"
		plain, err = r.fromFile(field, f.ClientSecretFile)
	case f.ClientSecretEnv != "":
		field = "client_secret_env"
		plain, err = r.fromEnv(field, f.ClientSecretEnv)
	default:
		return l // a public client
	}
	if err == nil && len(plain) > maxSecret {
		err = fmt.Errorf("%s has %d bytes: at most %d are allowed", field, len(plain), maxSecret)
	}
	if err == nil && r.opt.Seal != nil {
		if l.ClientSecret, err = r.opt.Seal(id, authenticator, plain); err != nil {
			err = fmt.Errorf("%s cannot be sealed: %s", field, reason(err))
		}
	}
	if err != nil {
		r.add(place(find(n, field)), "%v", err)
	}
	return l
}

func (f *upstreamForm) settings() *tenant.UpstreamUsers {
	if f == nil {
		return nil
	}
	return &tenant.UpstreamUsers{
		Sources: listed(f.Sources), Names: listed(f.Names), Header: f.Header, Groups: f.GroupsHeader, Attributes: f.AttributeHeaders,
	}
}

func (f *kubernetesForm) settings() *tenant.Kubernetes {
	if f == nil {
		return nil
	}
	return &tenant.Kubernetes{Audiences: listed(f.Audiences), Namespaces: listed(f.Namespaces)}
}

// listed returns a list, or nil for an empty one, as a record that was stored and read has it.
func listed[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
