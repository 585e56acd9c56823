package tenant

import (
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/polygate/polygate/internal/fault"
)

// Bounds of a tenant's authenticators.
const (
	MaxAuthenticators = 8
	maxList           = 32       // entries of any list of an authenticator
	maxPEM            = 32 << 10 // bytes of certificates
	maxText           = 1024     // bytes of any other text
)

// AuthnType says how an authenticator knows users.
type AuthnType string

// The types of authenticator.
const (
	AuthnOIDC       AuthnType = "oidc"       // tokens of an OpenID Connect issuer, and browser login with it
	AuthnMTLS       AuthnType = "mtls"       // client certificates
	AuthnUpstream   AuthnType = "upstream"   // headers of a trusted upstream
	AuthnKubernetes AuthnType = "kubernetes" // tokens that the platform's Kubernetes API server reviews
)

// Authenticator is one way in which a tenant's users are known. Its name is a part of their identity: the same subject of
// two authenticators is two principals.
type Authenticator struct {
	Name        string    `json:"name"` // [a-z0-9-], at most 32 bytes, unique within the tenant
	Type        AuthnType `json:"type"`
	DefaultRole Role      `json:"default_role,omitzero"` // of users without a membership; none, viewer or editor
	// Generation changes with every change of the authenticator; what was proven to an earlier one is proven no more.
	Generation string    `json:"generation"`
	Source     Source    `json:"source"`
	Created    time.Time `json:"created"`
	Updated    time.Time `json:"updated"`

	OIDC       *OIDC          `json:"oidc,omitempty"` // exactly the one of its type is set
	MTLS       *MTLS          `json:"mtls,omitempty"`
	Upstream   *UpstreamUsers `json:"upstream,omitempty"`
	Kubernetes *Kubernetes    `json:"kubernetes,omitempty"`
}

// OIDC says which tokens of an issuer are good for this tenant.
type OIDC struct {
	Issuer string `json:"issuer"` // https URL, compared byte for byte with iss
	// Audiences are what aud must hold one of. None = the tenant's own base URL, or a URL under it (RFC 8707).
	Audiences      []string          `json:"audiences,omitempty"`
	ClientIDs      []string          `json:"client_ids,omitempty"` // azp or client_id must be one of them; none = any
	Algorithms     []string          `json:"algorithms,omitempty"` // of signatures; none = RS256, ES256, EdDSA
	Claims         ClaimMapping      `json:"claims,omitzero"`
	RequiredClaims map[string]string `json:"required_claims,omitempty"` // dotted path -> value that it must have, or hold in a list
	RequiredScopes []string          `json:"required_scopes,omitempty"`
	CA             string            `json:"ca,omitempty"` // PEM roots for the issuer; "" = the system's
	Login          *Login            `json:"login,omitempty"`
}

// ClaimMapping says where in a token its user is described. Paths are dotted; `\.` is a dot in a name.
type ClaimMapping struct {
	Subject    string            `json:"subject,omitempty"`    // default sub
	Username   string            `json:"username,omitempty"`   // default preferred_username, else the subject
	Groups     string            `json:"groups,omitempty"`     // default groups
	Scopes     string            `json:"scopes,omitempty"`     // default scope (a text of words) or scp
	Attributes map[string]string `json:"attributes,omitempty"` // attribute -> path
}

// Login lets browsers log in by the authorization code flow with PKCE (RFC 7636).
type Login struct {
	ClientID string `json:"client_id"`
	// ClientSecret is sealed with a key of this tenant; "" = a public client. It never leaves the gateway but to the issuer.
	ClientSecret string   `json:"client_secret,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`          // default openid profile email
	SessionLife  int      `json:"session_seconds,omitempty"` // of a browser session; default 3600, at most 86400
}

// MTLS says which client certificates are good for this tenant.
type MTLS struct {
	CA       string `json:"ca"`                 // PEM roots
	Identity string `json:"identity,omitempty"` // where the subject is: san-uri (default), san-dns, san-email or cn
	Prefix   string `json:"prefix,omitempty"`   // what the identity must begin with; it is cut off
	// Groups takes the certificate's organizational units as groups.
	Groups bool `json:"groups,omitempty"`
}

// UpstreamUsers says from whom headers about users are believed (O-1).
type UpstreamUsers struct {
	Sources []netip.Prefix `json:"sources,omitempty"` // addresses of the upstream; this, or CA, or both: one of them suffices
	CA      string         `json:"ca,omitempty"`      // PEM roots of the upstream's client certificate
	// Names are the certificate's DNS or URI names that are believed; required with CA.
	Names      []string          `json:"names,omitempty"`
	Header     string            `json:"header"`                      // carries the user's subject
	Groups     string            `json:"groups_header,omitempty"`     // carries groups
	Attributes map[string]string `json:"attribute_headers,omitempty"` // header -> attribute; several headers of one attribute are merged
}

// Kubernetes says which tokens of the cluster are good for this tenant.
type Kubernetes struct {
	// Audiences must hold the token's audience; none = the API server's own, which every pod's token has.
	Audiences []string `json:"audiences,omitempty"`
	// Namespaces whose service accounts may come in; none = only users and groups that are members.
	Namespaces []string `json:"namespaces,omitempty"`
}

// Algorithms are the signature algorithms that an issuer may use: asymmetric ones alone. A list without HMAC and none, that
// no configuration can extend, closes the confusion of a public key with a shared secret (RFC 8725 §3.1).
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// DefaultAlgorithms are OIDC.Algorithms where none are set.
func DefaultAlgorithms() []string { return []string{"RS256", "ES256", "EdDSA"} }

func (a Authenticator) clone() Authenticator {
	switch {
	case a.OIDC != nil:
		o := *a.OIDC
		o.Audiences, o.ClientIDs, o.Algorithms = slices.Clone(o.Audiences), slices.Clone(o.ClientIDs), slices.Clone(o.Algorithms)
		o.RequiredScopes, o.RequiredClaims = slices.Clone(o.RequiredScopes), maps.Clone(o.RequiredClaims)
		o.Claims.Attributes = maps.Clone(o.Claims.Attributes)
		if o.Login != nil {
			l := *o.Login
			l.Scopes = slices.Clone(l.Scopes)
			o.Login = &l
		}
		a.OIDC = &o
	case a.MTLS != nil:
		m := *a.MTLS
		a.MTLS = &m
	case a.Upstream != nil:
		u := *a.Upstream
		u.Sources, u.Names, u.Attributes = slices.Clone(u.Sources), slices.Clone(u.Names), maps.Clone(u.Attributes)
		a.Upstream = &u
	case a.Kubernetes != nil:
		k := *a.Kubernetes
		k.Audiences, k.Namespaces = slices.Clone(k.Audiences), slices.Clone(k.Namespaces)
		a.Kubernetes = &k
	}
	return a
}

func (r *Record) checkAuthenticators() error {
	if len(r.Authenticators) > MaxAuthenticators {
		return fault.New(fault.Invalid, "%d authenticators: at most %d are allowed", len(r.Authenticators), MaxAuthenticators)
	}
	names := make(map[string]bool, len(r.Authenticators))
	upstreams := 0
	for i := range r.Authenticators {
		a := &r.Authenticators[i]
		if names[a.Name] {
			return fault.New(fault.Conflict, "authenticator %q is there already", a.Name)
		}
		names[a.Name] = true
		if a.Type == AuthnUpstream {
			upstreams++
		}
		if err := a.Validate(); err != nil {
			return err
		}
	}
	if upstreams > 1 {
		return fault.New(fault.Invalid, "%d authenticators of the type upstream: one is allowed, or it could not be told whose headers are meant", upstreams)
	}
	return nil
}

// Validate checks what can be checked of an authenticator by itself. Errors are fault.Invalid and name the field.
// That a PEM text holds certificates is checked where they are used.
func (a *Authenticator) Validate() error {
	if !authenticatorName(a.Name) {
		return fault.New(fault.Invalid, "authenticator name %q: use 1 to 32 of a-z, 0-9 and -, beginning with a letter", a.Name)
	}
	if a.DefaultRole >= Admin {
		return fault.New(fault.Invalid, "authenticator %q: default_role may be viewer or editor: admins are named one by one", a.Name)
	}
	set := 0
	for _, is := range []bool{a.OIDC != nil, a.MTLS != nil, a.Upstream != nil, a.Kubernetes != nil} {
		if is {
			set++
		}
	}
	var err error
	switch {
	case set != 1:
		return fault.New(fault.Invalid, "authenticator %q: exactly the settings of its type are needed, %d are there", a.Name, set)
	case a.Type == AuthnOIDC && a.OIDC != nil:
		err = a.OIDC.validate()
	case a.Type == AuthnMTLS && a.MTLS != nil:
		err = a.MTLS.validate()
	case a.Type == AuthnUpstream && a.Upstream != nil:
		err = a.Upstream.validate()
	case a.Type == AuthnKubernetes && a.Kubernetes != nil:
		err = checkTexts("kubernetes.audiences", a.Kubernetes.Audiences, checkTexts("kubernetes.namespaces", a.Kubernetes.Namespaces, nil))
	default:
		return fault.New(fault.Invalid, "authenticator %q: type %q is unknown or has other settings: use oidc, mtls, upstream or kubernetes", a.Name, a.Type)
	}
	if err != nil {
		return fault.New(fault.Invalid, "authenticator %q: %s", a.Name, fault.From(err).Detail)
	}
	return nil
}

func authenticatorName(s string) bool {
	if s == "" || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if !idByte(s[i]) {
			return false
		}
	}
	return true
}

func (o *OIDC) validate() error {
	u, err := url.Parse(o.Issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || len(o.Issuer) > maxText {
		return fault.New(fault.Invalid, "oidc.issuer %q is not an https URL without user, query and fragment", o.Issuer)
	}
	if err := checkTexts("oidc.algorithms", o.Algorithms, nil); err != nil {
		return err
	}
	for _, alg := range o.Algorithms {
		if !slices.Contains(Algorithms(), alg) {
			return fault.New(fault.Invalid, "oidc.algorithms: %q cannot be allowed: use %s", alg, strings.Join(Algorithms(), ", "))
		}
	}
	err = checkTexts("oidc.audiences", o.Audiences, nil)
	err = checkTexts("oidc.client_ids", o.ClientIDs, err)
	err = checkTexts("oidc.required_scopes", o.RequiredScopes, err)
	err = checkTexts("oidc.claims", []string{o.Claims.Subject, o.Claims.Username, o.Claims.Groups, o.Claims.Scopes}, err)
	err = checkMap("oidc.required_claims", o.RequiredClaims, err)
	err = checkMap("oidc.claims.attributes", o.Claims.Attributes, err)
	if err == nil && len(o.CA) > maxPEM {
		err = fault.New(fault.Invalid, "oidc.ca has %d bytes: at most %d are allowed", len(o.CA), maxPEM)
	}
	if err != nil || o.Login == nil {
		return err
	}
	return o.Login.validate()
}

func (l *Login) validate() error {
	if l.ClientID == "" {
		return fault.New(fault.Invalid, "oidc.login.client_id is missing")
	}
	if l.SessionLife < 0 || l.SessionLife > 86400 || l.SessionLife > 0 && l.SessionLife < 60 {
		return fault.New(fault.Invalid, "oidc.login.session_seconds is %d: 60 to 86400 are allowed, or 0 for 3600", l.SessionLife)
	}
	return checkTexts("oidc.login", append([]string{l.ClientID}, l.Scopes...), nil)
}

func (m *MTLS) validate() error {
	if m.CA == "" || len(m.CA) > maxPEM {
		return fault.New(fault.Invalid, "mtls.ca has %d bytes: 1 to %d of PEM are needed", len(m.CA), maxPEM)
	}
	switch m.Identity {
	case "", "san-uri", "san-dns", "san-email", "cn":
	default:
		return fault.New(fault.Invalid, "mtls.identity %q is unknown: use san-uri, san-dns, san-email or cn", m.Identity)
	}
	return checkTexts("mtls.prefix", []string{m.Prefix}, nil)
}

func (u *UpstreamUsers) validate() error {
	if len(u.Sources) == 0 && u.CA == "" {
		return fault.New(fault.Invalid, "upstream: sources or ca is needed, or anybody would be believed")
	}
	if (u.CA == "") != (len(u.Names) == 0) || len(u.CA) > maxPEM || len(u.Sources) > maxList {
		return fault.New(fault.Invalid, "upstream: ca and names go together, and neither they nor sources may be too long")
	}
	for _, p := range u.Sources {
		if !p.IsValid() || p != p.Masked() {
			return fault.New(fault.Invalid, "upstream.sources: %s is not a network such as 10.1.2.0/24", p)
		}
	}
	headers := []string{u.Header}
	if u.Groups != "" {
		headers = append(headers, u.Groups)
	}
	for h := range u.Attributes {
		headers = append(headers, h)
	}
	seen := make(map[string]bool, len(headers))
	for _, h := range headers {
		if !identityHeader(h) || h == "" {
			return fault.New(fault.Invalid, "upstream: %q cannot carry an identity: use letters, digits and -, and no header that HTTP itself uses", h)
		}
		if seen[strings.ToLower(h)] {
			return fault.New(fault.Invalid, "upstream: header %q is used twice", h)
		}
		seen[strings.ToLower(h)] = true
	}
	return checkMap("upstream.attribute_headers", u.Attributes, checkTexts("upstream.names", u.Names, nil))
}

// checkTexts bounds a list of texts; an earlier error comes first.
func checkTexts(field string, list []string, err error) error {
	if err != nil {
		return err
	}
	if len(list) > maxList {
		return fault.New(fault.Invalid, "%s has %d entries: at most %d are allowed", field, len(list), maxList)
	}
	for _, s := range list {
		if len(s) > maxText || strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
			return fault.New(fault.Invalid, "%s: %q is too long or holds a control character", field, s[:min(len(s), 64)])
		}
	}
	return nil
}

func checkMap(field string, m map[string]string, err error) error {
	list := slices.Collect(maps.Keys(m))
	if len(list) > maxList {
		return fault.New(fault.Invalid, "%s has %d entries: at most %d are allowed", field, len(list), maxList)
	}
	if err = checkTexts(field, list, err); err != nil {
		return err
	}
	return checkTexts(field, slices.Collect(maps.Values(m)), nil)
}
