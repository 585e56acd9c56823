package authn_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func withIssuers(issuers ...tenant.OIDC) *tenant.Entry {
	r := &tenant.Record{ID: "team-a", UID: "uid-a", DisplayName: "Secret Project"}
	for i, o := range issuers {
		r.Authenticators = append(r.Authenticators, tenant.Authenticator{Name: fmt.Sprintf("oidc%d", i), Type: tenant.AuthnOIDC, Generation: "g1", OIDC: &o})
	}
	return &tenant.Entry{Record: r, Scope: tenant.Confine(r.ID, r.UID)}
}

// TestF2Metadata holds the protected-resource metadata (RFC 9728): at the root and for each path, the resource is exactly what
// was asked for.
func TestF2Metadata(t *testing.T) {
	const base = "https://team-a.example.com:8443"
	e := withIssuers(
		tenant.OIDC{Issuer: "https://idp1.example/", RequiredScopes: []string{"mcp", `ba"d`}},
		tenant.OIDC{Issuer: "https://idp2.example", RequiredScopes: []string{"mcp", "files"}},
		tenant.OIDC{Issuer: "https://idp2.example"})
	for path, resource := range map[string]string{
		"":                        base,
		"/mcp":                    base + "/mcp",
		"/servers/everything/mcp": base + "/servers/everything/mcp",
		"/servers/a%2Fb/mcp":      base + "/servers/a%2Fb/mcp",
	} {
		doc, ok := authn.Metadata(e, base, authn.MetadataPath+path)
		var got, want map[string]any
		if !ok || json.Unmarshal(doc, &got) != nil {
			t.Fatalf("%s: got %s, %v", path, doc, ok)
		}
		want = map[string]any{
			"resource": resource, "authorization_servers": []any{"https://idp1.example/", "https://idp2.example"},
			"scopes_supported": []any{"mcp", "files"}, "bearer_methods_supported": []any{"header"}, "resource_name": "team-a",
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}

func TestF2MetadataIsAbsent(t *testing.T) {
	const base = "https://team-a.example.com"
	with, without := withIssuers(tenant.OIDC{Issuer: "https://idp.example"}), withIssuers()
	without.Record.Authenticators = []tenant.Authenticator{{Name: "m", Type: tenant.AuthnMTLS, MTLS: &tenant.MTLS{}}}
	for _, c := range []struct {
		name       string
		e          *tenant.Entry
		base, path string
	}{
		{"no issuer", without, base, authn.MetadataPath},
		{"another path", with, base, "/servers"},
		{"a longer name", with, base, authn.MetadataPath + "x"},
		{"empty segment", with, base, authn.MetadataPath + "/"},
		{"double slash", with, base, authn.MetadataPath + "//evil.example"},
		{"dot segments", with, base, authn.MetadataPath + "/a/../b"},
		{"quote", with, base, authn.MetadataPath + `/a"b`},
		{"backslash", with, base, authn.MetadataPath + `/a\b`},
		{"control", with, base, authn.MetadataPath + "/a\nb"},
		{"query", with, base, authn.MetadataPath + "/a?b"},
		{"long", with, base, authn.MetadataPath + "/" + strings.Repeat("a", 600)},
		{"shared host", with, "https://example.com/tenant/team-a", authn.MetadataPath},
		{"plain base", with, "http://team-a.example.com", authn.MetadataPath},
		{"bad base", with, `https://a"b`, authn.MetadataPath},
		{"no base", with, "", authn.MetadataPath},
	} {
		if doc, ok := authn.Metadata(c.e, c.base, c.path); ok || doc != nil {
			t.Errorf("%s: got %s", c.name, doc)
		}
	}
}

// TestF1Challenge holds the WWW-Authenticate of refusals.
func TestF1Challenge(t *testing.T) {
	const base = "https://team-a.example.com:8443"
	scopes := func(s ...string) *tenant.Entry {
		return withIssuers(tenant.OIDC{Issuer: "https://idp.example", RequiredScopes: s})
	}
	refused := fault.New(fault.Unauthenticated, "no")
	missing := fmt.Errorf("at the edge: %w", fault.Wrap(fault.Forbidden, &authn.ScopeError{Scopes: []string{"mcp", "files"}}, "scopes"))
	at := `resource_metadata="` + base + "/.well-known/oauth-protected-resource"
	for _, c := range []struct {
		name       string
		e          *tenant.Entry
		base, path string
		err        error
		want       string
	}{
		{"a server", scopes("mcp"), base, "/servers/x/mcp", refused, `Bearer ` + at + `/servers/x/mcp", scope="mcp"`},
		{"the root", scopes("mcp", "files"), base, "/", refused, `Bearer ` + at + `", scope="mcp files"`},
		{"no scopes", scopes(), base, "/mcp", nil, `Bearer ` + at + `/mcp"`},
		{"scopes are missing", scopes("mcp", "files"), base, "/mcp", missing, `Bearer error="insufficient_scope", ` + at + `/mcp", scope="mcp files"`},
		{"a scope with a quote", scopes(`m", x="y`, "mcp", `a\b`, "a b", ""), base, "/mcp", refused, `Bearer ` + at + `/mcp", scope="mcp"`},
		{"a path with a quote", scopes("mcp"), base, `/a"b`, refused, `Bearer ` + at + `", scope="mcp"`},
		{"a path with a line end", scopes("mcp"), base, "/a\r\nX: y", refused, `Bearer ` + at + `", scope="mcp"`},
		{"issuers with other scopes", withIssuers(tenant.OIDC{Issuer: "https://a", RequiredScopes: []string{"a"}}, tenant.OIDC{Issuer: "https://b"}), base, "/mcp", refused, `Bearer ` + at + `/mcp"`},
		{"no issuer", withIssuers(), base, "/mcp", refused, "Bearer"},
		{"unknown tenant", nil, base, "/mcp", refused, "Bearer"},
		{"shared host", scopes("mcp"), "https://example.com/tenant/team-a", "/mcp", refused, "Bearer"},
		{"bad base", scopes("mcp"), `https://a",b="c`, "/mcp", refused, "Bearer"},
	} {
		if got := authn.Challenge(c.e, c.base, c.path, c.err); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
