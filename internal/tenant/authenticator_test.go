package tenant

import (
	"slices"
	"strings"
	"testing"
)

// Every list of an authenticator is bounded: all replicas hold them for all tenants.
func TestListsOfAuthenticatorsAreBounded(t *testing.T) {
	many := func(s string) []string { return slices.Repeat([]string{s}, maxList+1) }
	for field, o := range map[string]OIDC{
		"audiences": {Audiences: many("a")}, "client_ids": {ClientIDs: many("a")}, "algorithms": {Algorithms: many("RS256")},
		"required_scopes": {RequiredScopes: many("a")}, "login": {Login: &Login{ClientID: "c", Scopes: many("a")}},
	} {
		o.Issuer = "https://idp.test"
		a := Authenticator{Name: "corp", Type: AuthnOIDC, OIDC: &o}
		if err := a.Validate(); err == nil || !strings.Contains(err.Error(), "oidc."+field) {
			t.Errorf("%d entries of %s: %v", maxList+1, field, err)
		}
	}
}
