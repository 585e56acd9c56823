package admin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

const auditorToken = "auditor-token-canary-19c2"

// verifier is an issuer's part: tokens are what it says they are. It answers as authn.Service does.
type verifier struct {
	issuer string
	claims map[string]tenant.Claims // by token
	ends   time.Time
	err    error
	asked  []bool // whether it was asked as for a trusted issuer
}

func (v *verifier) VerifyOIDC(_ context.Context, trusted bool, o *tenant.OIDC, _, token string) (*tenant.Claims, string, time.Time, error) {
	v.asked = append(v.asked, trusted)
	c, ok := v.claims[token]
	switch {
	case v.err != nil:
		return nil, "", time.Time{}, v.err
	case !ok || o.Issuer != v.issuer:
		return nil, "", time.Time{}, fault.New(fault.Unauthenticated, "no")
	}
	return &c, "alice", v.ends, nil
}

func issuer(name, url string, rules admin.OperatorRules) admin.Issuer {
	return admin.Issuer{Name: name, OIDC: &tenant.OIDC{Issuer: url, Audiences: []string{"polygate-admin"}}, Rules: rules}
}

func mustOperators(t *testing.T, cfg admin.OperatorsConfig) *admin.Operators {
	t.Helper()
	o, err := admin.NewOperators(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestOperatorRules: who is an operator, and who an auditor; nobody by default.
func TestOperatorRules(t *testing.T) {
	rules := admin.OperatorRules{
		Operators: admin.Match{Users: []string{"u-op", ""}, Groups: []string{"ops", ""}},
		Auditors:  admin.Match{Users: []string{"u-audit"}, Groups: []string{"audit", "ops"}},
	}
	for _, tc := range []struct {
		name   string
		claims *tenant.Claims
		want   tenant.PrincipalKind
	}{
		{"an operator by user", &tenant.Claims{Subject: "u-op"}, tenant.KindOperator},
		{"an operator by group", &tenant.Claims{Subject: "x", Groups: []string{"a", "ops"}}, tenant.KindOperator},
		{"an auditor by user", &tenant.Claims{Subject: "u-audit"}, tenant.KindAuditor},
		{"an auditor by group", &tenant.Claims{Subject: "x", Groups: []string{"audit"}}, tenant.KindAuditor},
		{"both", &tenant.Claims{Subject: "u-op", Groups: []string{"audit"}}, tenant.KindOperator},
		{"nobody", &tenant.Claims{Subject: "x", Groups: []string{"staff"}}, ""},
		{"another case", &tenant.Claims{Subject: "U-OP", Groups: []string{"Ops"}}, ""},
		{"a part of a name", &tenant.Claims{Subject: "u-o", Groups: []string{"op", "opsx"}}, ""},
		{"no subject, an empty group", &tenant.Claims{Groups: []string{""}}, ""},
		{"a group by the name of a user", &tenant.Claims{Subject: "x", Groups: []string{"u-op"}}, ""},
		{"attributes count for nothing", &tenant.Claims{Subject: "x", Attributes: map[string][]string{"groups": {"ops"}}}, ""},
		{"no claims", nil, ""},
	} {
		if got, ok := rules.Kind(tc.claims); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: got %q, %v, want %q", tc.name, got, ok, tc.want)
		}
	}
	if got, ok := (admin.OperatorRules{}).Kind(&tenant.Claims{Subject: "x", Groups: []string{"ops"}}); ok {
		t.Errorf("without rules somebody is %q", got)
	}
}

// TestOperatorTokens: several named tokens; each says what its holder is, and a bad one is nobody's.
func TestOperatorTokens(t *testing.T) {
	hash := tenant.HashKey
	o := mustOperators(t, admin.OperatorsConfig{Tokens: func() []admin.Token {
		return []admin.Token{
			{Name: "alice", Kind: tenant.KindOperator, Hash: hash("a")}, {Name: "bob", Kind: tenant.KindAuditor, Hash: hash("b")},
			{Name: "zero", Kind: tenant.KindOperator},
			{Name: "", Kind: tenant.KindOperator, Hash: hash("nameless")},
			{Name: "sso/carol", Kind: tenant.KindOperator, Hash: hash("forged name")},
			{Name: "system", Kind: tenant.KindSystem, Hash: hash("system")}, {Name: "kindless", Hash: hash("kindless")},
			{Name: "one", Kind: tenant.KindOperator, Hash: hash("twice")}, {Name: "two", Kind: tenant.KindAuditor, Hash: hash("twice")},
			{Name: "three", Kind: tenant.KindAuditor, Hash: hash("again")}, {Name: "four", Kind: tenant.KindOperator, Hash: hash("again")},
		}
	}})
	for token, want := range map[string]string{
		"a": "operator:alice", "b": "auditor:bob", "twice": "auditor:two", "again": "auditor:three",
		"": "", "c": "", "nameless": "", "forged name": "", "system": "", "kindless": "", hash("a").String(): "", "a ": "",
	} {
		p, err := o.Authenticate(t.Context(), token)
		got := ""
		if err == nil {
			got = p.Ref()
		}
		if got != want || want != "" && (p.Via != tenant.ViaToken || p.Tenant != "" || p.Role != tenant.NoRole) {
			t.Errorf("%q: got %+v, %v, want %q", token, p, err, want)
		}
		if want == "" && !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%q: %v", token, err)
		}
	}
	if _, err := mustOperators(t, admin.OperatorsConfig{}).Authenticate(t.Context(), ""); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("without tokens and issuers: %v", err)
	}
}

// TestOperatorIssuers: two issuers; the same subject of both is two people, and an issuer that is down is no refusal.
func TestOperatorIssuers(t *testing.T) {
	rules := admin.OperatorRules{Operators: admin.Match{Users: []string{"u1"}}, Auditors: admin.Match{Groups: []string{"audit"}}}
	shared := tenant.Claims{Issuer: "https://b.example.com", Subject: "u1"}
	v := &verifier{issuer: "https://b.example.com", ends: time.Now().Add(time.Hour), claims: map[string]tenant.Claims{
		"op": shared, "aud": {Issuer: "https://b.example.com", Subject: "u2", Groups: []string{"audit"}},
		"nobody": {Subject: "u3"}, "subjectless": {Groups: []string{"audit"}},
	}}
	cfg := admin.OperatorsConfig{Verifier: v, Issuers: []admin.Issuer{issuer("a", "https://a.example.com", rules), issuer("b", "https://b.example.com", rules)}}
	o := mustOperators(t, cfg)
	p, err := o.Authenticate(t.Context(), "op")
	if err != nil || p.Ref() != "operator:b/u1" || p.Name != "alice" || p.Via != tenant.ViaOIDC || p.Claims.Authenticator != "b" || !p.Expires.Equal(v.ends) || p.Tenant != "" {
		t.Errorf("operator: %+v, %v", p, err)
	}
	if p, err := o.Authenticate(t.Context(), "aud"); err != nil || p.Ref() != "auditor:b/u2" {
		t.Errorf("auditor: %+v, %v", p, err)
	}
	for _, token := range []string{"nobody", "subjectless", "garbage", ""} {
		if p, err := o.Authenticate(t.Context(), token); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("%q: %+v, %v", token, p, err)
		}
	}
	for _, trusted := range v.asked {
		if !trusted {
			t.Error("an operators' issuer was asked as a tenant's")
		}
	}
	v.issuer = "https://a.example.com"
	if p, err := o.Authenticate(t.Context(), "op"); err != nil || p.Ref() != "operator:a/u1" {
		t.Errorf("the same subject of another issuer: %+v, %v", p, err)
	}
	v.err = fault.New(fault.Unavailable, "the issuer is down")
	if _, err := o.Authenticate(t.Context(), "op"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an issuer is down: %v", err)
	}

	for name, spoil := range map[string]func(*admin.OperatorsConfig){
		"Verifier":  func(c *admin.OperatorsConfig) { c.Verifier = nil },
		"audiences": func(c *admin.OperatorsConfig) { c.Issuers[0].OIDC.Audiences = nil },
		"twice":     func(c *admin.OperatorsConfig) { c.Issuers[1].Name = "a" },
		"name":      func(c *admin.OperatorsConfig) { c.Issuers[0].Name = "A/b" },
		"https":     func(c *admin.OperatorsConfig) { c.Issuers[0].OIDC.Issuer = "http://a.example.com" },
		"settings":  func(c *admin.OperatorsConfig) { c.Issuers[0].OIDC = nil },
	} {
		bad := cfg
		bad.Issuers = []admin.Issuer{issuer("a", "https://a.example.com", rules), issuer("b", "https://b.example.com", rules)}
		spoil(&bad)
		if _, err := admin.NewOperators(bad); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// fillPath puts values into a route's pattern.
func fillPath(pattern, id string) string {
	return strings.NewReplacer("{id}", id, "{key}", "ci", "{member}", "m1", "{replica}", "r1", "{host}", id+".localhost").Replace(pattern)
}

// asker is one row of the matrix: what is sent, and what it may do.
type asker struct {
	name       string
	header     string // of Authorization; "" = none
	read, edit bool
}

// matrix builds a server that knows operators and auditors in every way, with a tenant that has a key of its own.
func matrix(t *testing.T) (*fixture, []asker) {
	t.Helper()
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","api_keys":[{"name":"ci","key_hash":"`+tenant.HashKey("pgk_tenant").String()+`","role":"admin"}]}`)
	v := &verifier{issuer: "https://sso.example.com", ends: time.Now().Add(time.Hour), claims: map[string]tenant.Claims{
		"oidc-operator": {Subject: "op"}, "oidc-auditor": {Subject: "x", Groups: []string{"audit"}}, "oidc-nobody": {Subject: "x"},
	}}
	rules := admin.OperatorRules{Operators: admin.Match{Users: []string{"op"}}, Auditors: admin.Match{Groups: []string{"audit"}}}
	known := mustOperators(t, admin.OperatorsConfig{Verifier: v, Issuers: []admin.Issuer{issuer("sso", v.issuer, rules)}, Tokens: func() []admin.Token {
		return []admin.Token{{Name: "audit", Kind: tenant.KindAuditor, Hash: tenant.HashKey(auditorToken)}}
	}})
	cfg := f.config()
	strange := map[string]tenant.Principal{ // what no authenticator should say, and what must get nobody in if one does
		"is-tenant": {Kind: tenant.KindOperator, ID: "x", Tenant: "team-a"}, "is-user": {Kind: tenant.KindUser, ID: "sso/x", Tenant: "team-a", Role: tenant.Admin},
		"is-key": {Kind: tenant.KindKey, ID: "k", Role: tenant.Admin}, "is-system": tenant.System("x"), "is-nameless": {Kind: tenant.KindOperator},
		"is-over": {Kind: tenant.KindOperator, ID: "x", Expires: time.Now().Add(-time.Second)}, "is-admin": {Kind: tenant.KindAuditor, ID: "x", Role: tenant.Admin},
		"is-zero": {},
	}
	cfg.Authenticate = func(ctx context.Context, token string) (tenant.Principal, error) {
		if p, ok := strange[token]; ok {
			return p, nil
		}
		return known.Authenticate(ctx, token)
	}
	cfg.OpenAPI, cfg.Audits, cfg.KeyUse = []byte(`{"openapi":"3.1.0"}`), &audits{}, keyUse{}
	f.rebuild(cfg)
	askers := []asker{
		{"operator token", "Bearer " + token, true, true}, {"operator of an issuer", "Bearer oidc-operator", true, true},
		{"auditor token", "Bearer " + auditorToken, true, false}, {"auditor of an issuer", "Bearer oidc-auditor", true, false},
		{"none", "", false, false}, {"wrong token", "Bearer wrong", false, false}, {"nobody of an issuer", "Bearer oidc-nobody", false, false},
		{"a tenant's key", "Bearer pgk_tenant", false, false}, {"basic", "Basic " + token, false, false},
		{"a hash", "Bearer " + tenant.HashKey(auditorToken).String(), false, false},
	}
	for token := range strange {
		askers = append(askers, asker{token, "Bearer " + token, false, false})
	}
	return f, askers
}

// TestMatrixOfOperators: every route, asked by everyone. A new route joins by itself.
func TestMatrixOfOperators(t *testing.T) {
	f, askers := matrix(t)
	reads := map[string]bool{"GET": true, "HEAD": true}
	for _, route := range f.server.Routes() {
		if route.Action == "" {
			continue
		}
		for _, a := range askers {
			for _, id := range []string{"team-a", "nobody-here"} {
				before := len(f.store.committed())
				got := f.send(route.Method, fillPath(route.Pattern, id), "", "Authorization", "", "Authorization", a.header)
				what := fmt.Sprintf("%s: %s %s of %s: %d %s", a.name, route.Method, route.Pattern, id, got.status, got.body)
				switch {
				case !a.read && got.status != 401:
					t.Errorf("%s, want 401", what)
				case a.read && !a.edit && !reads[route.Method] && (got.status != 403 || strings.Contains(got.body, id)):
					t.Errorf("%s, want a 403 that tells nothing", what)
				case a.read && reads[route.Method] && got.status != 200 && got.status != 404:
					t.Errorf("%s, want 200 or 404", what)
				case a.edit && (got.status == 401 || got.status == 403 || got.status >= 500):
					t.Errorf("%s", what)
				}
				if !a.edit && len(f.store.committed()) != before {
					t.Errorf("%s: a change was committed", what)
				}
			}
			if a.edit && route.Method == "DELETE" && route.Pattern == "/api/v1/tenants/{id}" {
				f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","api_keys":[{"name":"ci","key_hash":"`+tenant.HashKey("pgk_tenant").String()+`"}]}`)
			}
		}
	}
	for _, path := range []string{"/api/v1/tenants/team-a/members", "/api/v1/tenants/team-a/usage", "/api/v1/audit", "/api/v1/openapi.json"} {
		f.want(200, "GET", path, "", "Authorization", "", "Authorization", "Bearer "+auditorToken)
	}
}

// TestAuditorsAreRecorded: whatever an auditor looks at or is refused is in the record, with who it was; in the tenant's
// chain, if it was about a tenant.
func TestAuditorsAreRecorded(t *testing.T) {
	f, _ := matrix(t)
	as := []string{"Authorization", "", "Authorization", "Bearer oidc-auditor"}
	f.want(200, "GET", "/api/v1/tenants/team-a", "", as...)
	f.want(403, "DELETE", "/api/v1/tenants/team-a", "", as...)
	f.want(403, "POST", "/api/v1/tenants", `{"id":"x"}`, as...)
	got := f.records.all()
	if len(got) != 3 {
		t.Fatalf("records: %+v", got)
	}
	for i, want := range []struct{ action, decision, tenant string }{
		{"tenant.read", "allow", "team-a"}, {"tenant.delete", "deny", "team-a"}, {"tenant.create", "deny", ""},
	} {
		e := got[i]
		if e.Action != want.action || e.Decision != want.decision || string(e.Tenant) != want.tenant || e.Principal != "auditor:sso/x" || e.Name != "alice" || e.Via != "oidc" || e.Remote == "" {
			t.Errorf("record %d: %+v, want %+v", i, e, want)
		}
	}
}

// TestWhoCannotBeKnown: an issuer that is down is a 503 and no 401, and does not keep the holders of tokens out.
func TestWhoCannotBeKnown(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Authenticate = func(context.Context, string) (tenant.Principal, error) {
		return tenant.Principal{}, fault.Wrap(fault.Unavailable, errors.New("dial 10.1.2.3"), "https://sso.internal is down")
	}
	f.rebuild(cfg)
	got := f.want(503, "GET", "/api/v1/tenants", "", "Authorization", "", "Authorization", "Bearer x")
	if strings.Contains(got.body, "internal") || got.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	f.want(401, "GET", "/api/v1/tenants", "", "Authorization", "")
	f.want(200, "GET", "/api/v1/tenants", "")
	cfg.Token = nil
	f.rebuild(cfg)
	f.want(503, "GET", "/api/v1/tenants", "")
}

// TestX58EveryRoute: what a browser sends for another site, or for a name that was rebound to us, is refused on every
// route, also with a good token.
func TestX58EveryRoute(t *testing.T) {
	f, _ := matrix(t)
	before := len(f.store.committed())
	for _, route := range f.server.Routes() {
		for _, header := range [][]string{
			{"Host", "evil.example:9443"}, {"Host", "team-a.localhost:9443"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
			{"Origin", "https://team-a.localhost"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
		} {
			if got := f.send(route.Method, fillPath(route.Pattern, "team-a"), `{}`, header...); got.status != 403 {
				t.Errorf("%s %s with %v: %d", route.Method, route.Pattern, header, got.status)
			}
		}
		if body := route.Method == "POST" || route.Method == "PUT" || route.Method == "PATCH"; body && !strings.HasSuffix(route.Pattern, "/resume") && !strings.HasSuffix(route.Pattern, "/harden") {
			got := f.send(route.Method, fillPath(route.Pattern, "team-a"), `{"a":1}`, "Content-Type", "", "Content-Type", "text/plain")
			if got.status != 415 {
				t.Errorf("%s %s of a form: %d", route.Method, route.Pattern, got.status)
			}
		}
	}
	if n := len(f.store.committed()); n != before {
		t.Errorf("%d changes were committed", n-before)
	}
}
