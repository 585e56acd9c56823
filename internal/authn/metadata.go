package authn

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/polygate/polygate/internal/tenant"
)

// MetadataPath is where a host says who issues tokens for it (RFC 9728 §3); a resource's own path follows it.
const MetadataPath = "/.well-known/oauth-protected-resource"

// maxResourcePath bounds the path of a resource that metadata is given for.
const maxResourcePath = 512

// resourceMetadata is the document of RFC 9728 §2.
type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	ScopesSupported      []string `json:"scopes_supported,omitempty"`
	BearerMethods        []string `json:"bearer_methods_supported"`
	Name                 string   `json:"resource_name"`
}

// Metadata returns the protected-resource metadata for a path that begins with MetadataPath, as judged, on a tenant's own
// host. ok is false where there is none: the tenant has no OpenID Connect issuer, or the path is no such one.
//
// The resource is the very URL that a client asks for, made from base, which comes from configuration: clients compare it
// byte for byte (RFC 9728 §3.3), and the scheme or host of the request could be anybody's. The answer does not tell whether
// there is anything at the resource's path. The tenant is named by its id, which the host has told already, and not by its
// display name, which strangers need not know.
func Metadata(e *tenant.Entry, base, path string) (doc []byte, ok bool) {
	suffix, ok := strings.CutPrefix(path, MetadataPath)
	if !ok || !ownBase(base) || suffix != "" && !resourcePath(suffix) {
		return nil, false
	}
	m := resourceMetadata{
		Resource:        base + suffix,
		BearerMethods:   []string{"header"},
		Name:            e.Record.ID.String(),
		ScopesSupported: supportedScopes(e.Record),
	}
	for _, o := range issuersOf(e.Record) {
		if !slices.Contains(m.AuthorizationServers, o.Issuer) {
			m.AuthorizationServers = append(m.AuthorizationServers, o.Issuer)
		}
	}
	if len(m.AuthorizationServers) == 0 {
		return nil, false
	}
	doc, err := json.Marshal(m)
	return doc, err == nil
}

// Challenge returns the WWW-Authenticate of a refusal at a path within a tenant (RFC 6750 §3, RFC 9728 §5.1, MCP's
// authorization). err is the refusal: a *ScopeError in it names the scopes that are missing, anything else tells nothing.
// On the shared host (base has a path), without an issuer, and for a nil entry it is the bare scheme, which is the same for
// tenants that exist and those that do not.
func Challenge(e *tenant.Entry, base, path string, err error) string {
	if e == nil || !ownBase(base) {
		return "Bearer"
	}
	all := issuersOf(e.Record)
	if len(all) == 0 {
		return "Bearer"
	}
	if path == "/" || !resourcePath(path) {
		path = ""
	}
	var params []string
	scopes := commonScopes(all)
	if missing, ok := errors.AsType[*ScopeError](err); ok {
		params = append(params, `error="`+missing.Code()+`"`)
		scopes = missing.Scopes
	}
	params = append(params, `resource_metadata="`+base+MetadataPath+path+`"`)
	if scopes = slices.DeleteFunc(slices.Clone(scopes), notScope); len(scopes) > 0 {
		params = append(params, `scope="`+strings.Join(scopes, " ")+`"`)
	}
	return "Bearer " + strings.Join(params, ", ")
}

func issuersOf(r *tenant.Record) []*tenant.OIDC {
	var all []*tenant.OIDC
	for i := range r.Authenticators {
		if o := r.Authenticators[i].OIDC; o != nil {
			all = append(all, o)
		}
	}
	return all
}

// commonScopes returns the scopes that a token needs whichever issuer it is of; nil where they differ: one issuer's scopes
// are unknown to another, which refuses a request for them.
func commonScopes(all []*tenant.OIDC) []string {
	for _, o := range all[1:] {
		if !slices.Equal(o.RequiredScopes, all[0].RequiredScopes) {
			return nil
		}
	}
	return all[0].RequiredScopes
}

func supportedScopes(r *tenant.Record) []string {
	var scopes []string
	for _, o := range issuersOf(r) {
		for _, s := range o.RequiredScopes {
			if !notScope(s) && !slices.Contains(scopes, s) {
				scopes = append(scopes, s)
			}
		}
	}
	return scopes
}

// notScope says whether s is no scope-token (RFC 6749 §3.3); those have neither quotes nor backslashes nor blanks.
func notScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return true
		}
	}
	return s == ""
}

// ownBase says whether base is that of a tenant's own host: https://host[:port], and nothing that needs quoting.
func ownBase(base string) bool {
	host, ok := strings.CutPrefix(base, "https://")
	if !ok {
		return false
	}
	origin, ok := canonicalOrigin(base)
	return ok && strings.HasPrefix(origin, "https://") && !strings.Contains(host, "/")
}

// resourcePath says whether s can be a resource's path: segments of unreserved characters and percent-escapes (RFC 3986
// §3.3), none empty, none of dots. It holds nothing that a header's quoted text or another parser would read differently.
func resourcePath(s string) bool {
	if len(s) > maxResourcePath || s == "" || s[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(s[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		for i := range len(segment) {
			if c := segment[i]; !alnum(c) && strings.IndexByte("-._~%!$&'()*+,;=:@", c) < 0 {
				return false
			}
		}
	}
	return true
}
