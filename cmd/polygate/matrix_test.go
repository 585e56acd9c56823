package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

var update = flag.Bool("update", false, "write the golden files anew")

// known is a gateway on which team-a knows callers in every way there is.
type known struct {
	*gateway
	c      *http.Client
	issuer *issuer    // team-a's
	other  *issuer    // team-b's
	people *authority // of team-a's client certificates
}

// The groups of team-a's issuer that are members.
var roleGroups = map[tenant.Role]string{tenant.NoRole: "strangers", tenant.Viewer: "the-viewers", tenant.Editor: "the-editors", tenant.Admin: "the-admins"}

const knownTenants = `
tenants:
  - id: team-a
    catalog_file: a.yaml
    quotas: {requests_per_second: 100000, burst: 100000}
    allowed_origins: ["https://app.example.com"]
    authenticators:
      - {name: corp, type: oidc, oidc: {issuer: %[1]q, audiences: [polygate], ca_file: issuer-a.pem}}
      - {name: certs, type: mtls, mtls: {ca_file: people.pem}}
      - {name: front, type: upstream, upstream: {sources: [192.0.2.0/24], header: X-Remote-Person, groups_header: X-Remote-Teams}}
    members:
      - {group: the-viewers, authenticator: corp, role: viewer}
      - {group: the-editors, authenticator: corp, role: editor}
      - {group: the-admins, authenticator: corp, role: admin}
      - {user: "spiffe://people/vera", authenticator: certs, role: viewer}
    bots:
      - {name: robot, role: editor, keys: [{name: robot-1, key_hash: %[3]q, expires: %[4]q}]}
    api_keys:
      - {name: viewer, role: viewer, key_hash: %[5]q}
      - {name: editor, role: editor, key_hash: %[6]q}
      - {name: admin, role: admin, key_hash: %[7]q}
      - {name: short, role: admin, key_hash: %[8]q, expires: %[9]q}
  - id: team-b
    authenticators:
      - {name: corp, type: oidc, oidc: {issuer: %[2]q, audiences: [polygate], ca_file: issuer-b.pem}}
    members:
      - {group: the-admins, authenticator: corp, role: admin}
`

func newKnown(t *testing.T) *known {
	t.Helper()
	k := &known{issuer: newIssuer(t), other: newIssuer(t), people: newAuthority(t, "people's CA")}
	hash := func(s string) string { return tenant.HashKey(s).String() }
	k.gateway = newGateway(t, fmt.Sprintf(knownTenants, k.issuer.url(), k.other.url(), hash("robot-key"), time.Now().Add(48*time.Hour).UTC().Format(time.RFC3339),
		hash("viewer-key"), hash("editor-key"), hash("admin-key"), hash("short-key"), time.Now().Add(2*time.Second).UTC().Format(time.RFC3339)))
	k.write("issuer-a.pem", k.issuer.ca.pem())
	k.write("issuer-b.pem", k.other.ca.pem())
	k.write("people.pem", k.people.pem())
	k.write("a.yaml", "servers:\n  - {name: one, url: \"http://127.0.0.1:9/mcp\"}\n")
	k.write("polygate.yaml", string(must(os.ReadFile(filepath.Join(k.dir, "polygate.yaml"))))+"sandboxes: {driver: process}\n")
	k.start()
	k.c = k.client()
	return k
}

// caller is one way to come with a credential, or with something that looks like one.
type caller struct {
	name string
	head []string
	cert *tls.Certificate
	// role is what the credential is worth in team-a; NoRole with refused = 0 is somebody who is no member.
	role    tenant.Role
	kind    tenant.PrincipalKind
	refused int // the status of every route; 0 = it is a good credential
	query   string
}

func (k *known) callers(t *testing.T) []caller {
	t.Helper()
	good := func(role tenant.Role, change ...map[string]any) map[string]any {
		return k.issuer.claims("alice", []string{roleGroups[role]}, change...)
	}
	jwt := func(claims map[string]any) []string { return bearer(k.issuer.sign(claims)) }
	admin := tenant.Admin
	list := []caller{
		{name: "no credential", refused: 401},
		{name: "viewer's key", head: bearer("viewer-key"), role: tenant.Viewer, kind: tenant.KindKey},
		{name: "editor's key", head: bearer("editor-key"), role: tenant.Editor, kind: tenant.KindKey},
		{name: "admin's key", head: bearer("admin-key"), role: tenant.Admin, kind: tenant.KindKey},
		{name: "editor bot's key", head: bearer("robot-key"), role: tenant.Editor, kind: tenant.KindBot},
		{name: "viewer's token", head: jwt(good(tenant.Viewer)), role: tenant.Viewer, kind: tenant.KindUser},
		{name: "editor's token", head: jwt(good(tenant.Editor)), role: tenant.Editor, kind: tenant.KindUser},
		{name: "admin's token", head: jwt(good(admin)), role: tenant.Admin, kind: tenant.KindUser},
		{name: "token of no member", head: jwt(good(tenant.NoRole)), kind: tenant.KindUser},
		{name: "viewer's certificate", cert: k.cert(t, k.people, "spiffe://people/vera"), role: tenant.Viewer, kind: tenant.KindUser},
		{name: "certificate of no member", cert: k.cert(t, k.people, "spiffe://people/nobody"), kind: tenant.KindUser},
		{name: "certificate of another CA", cert: k.cert(t, newAuthority(t, "people's CA"), "spiffe://people/vera"), refused: 401},
		{name: "team-b's key", head: bearer(k.env["TEAM_B_KEY"]), refused: 401},
		{name: "team-b's admin's token", head: bearer(k.other.sign(k.other.claims("alice", []string{"the-admins"}))), refused: 401},
		{name: "operator's token", head: bearer(k.env["ADMIN_TOKEN"]), refused: 401},
		{name: "unknown key", head: bearer("pgk_nobody"), refused: 401},
		{name: "expired key", head: bearer(k.expiredKey(t)), refused: 401},
		{name: "revoked key", head: bearer(k.revokedKey(t)), refused: 401},
		{name: "expired", head: jwt(good(admin, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})), refused: 401},
		{name: "without exp", head: jwt(good(admin, map[string]any{"exp": nil})), refused: 401},
		{name: "not yet", head: jwt(good(admin, map[string]any{"nbf": time.Now().Add(10 * time.Minute).Unix()})), refused: 401},
		{name: "without sub", head: jwt(good(admin, map[string]any{"sub": nil})), refused: 401},
		{name: "wrong aud", head: jwt(good(admin, map[string]any{"aud": "somebody-else"})), refused: 401},
		{name: "without aud", head: jwt(good(admin, map[string]any{"aud": nil})), refused: 401},
		{name: "wrong iss", head: jwt(good(admin, map[string]any{"iss": "https://issuer.example.com"})), refused: 401},
		{name: "iss with a slash", head: jwt(good(admin, map[string]any{"iss": k.issuer.url() + "/"})), refused: 401},
		{name: "team-b's iss, our key", head: jwt(good(admin, map[string]any{"iss": k.other.url()})), refused: 401},
		{name: "token in the query", query: "access_token=" + k.issuer.sign(good(admin)), refused: 401},
		{name: "two credentials", head: append(bearer("admin-key"), "Authorization", "Bearer viewer-key"), refused: 401},
		{name: "basic", head: []string{"Authorization", "Basic YWRtaW46YWRtaW4="}, refused: 401},
		{name: "identity headers alone", head: []string{"X-Forwarded-User", "alice", "X-Auth-Request-User", "alice", "X-Tenant-ID", "team-a"}, refused: 401},
		{name: "upstream's header from anybody", head: []string{"X-Remote-Person", "alice"}, refused: 400},
		{name: "upstream's header, with a good key", head: append(bearer("admin-key"), "X-Remote-Teams", "the-admins"), refused: 400},
		{name: "upstream's header, folded", head: append(bearer("admin-key"), "X_remote_person", "alice"), refused: 400},
		{name: "admin's key and a foreign Origin", head: append(bearer("admin-key"), "Origin", "https://evil.example.com"), role: tenant.Admin, kind: tenant.KindKey},
	}
	return append(list, k.forged(good(admin))...)
}

// forged are tokens of an admin that this issuer did not sign, or not so (X28).
func (k *known) forged(claims map[string]any) []caller {
	rs := func(more map[string]any) map[string]any {
		h := map[string]any{"alg": "RS256", "kid": "key-1", "typ": "JWT"}
		for name, v := range more {
			h[name] = v
		}
		return h
	}
	none := func([]byte) []byte { return nil }
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(&k.issuer.key.PublicKey))})
	mac := func(input []byte) []byte {
		m := hmac.New(sha256.New, public)
		m.Write(input)
		return m.Sum(nil)
	}
	jwk := map[string]any{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U"}
	tokens := map[string]string{
		"alg none":          k.issuer.token(rs(map[string]any{"alg": "none"}), claims, none),
		"alg None":          k.issuer.token(rs(map[string]any{"alg": "None"}), claims, none),
		"unsigned":          k.issuer.token(rs(nil), claims, none),
		"HS256, public key": k.issuer.token(rs(map[string]any{"alg": "HS256"}), claims, mac),
		"jwk in the header": k.issuer.token(rs(map[string]any{"alg": "HS256", "jwk": jwk}), claims, mac),
		"jku in the header": k.issuer.token(rs(map[string]any{"jku": k.other.url() + "/keys"}), claims, none),
		"kid with a path":   k.issuer.token(rs(map[string]any{"kid": "../../../../dev/null"}), claims, mac),
		"kid with a URL":    k.issuer.token(rs(map[string]any{"kid": k.other.url() + "/keys"}), claims, mac),
		"kid with a quote":  k.issuer.token(rs(map[string]any{"kid": `' or '1'='1`}), claims, mac),
	}
	var list []caller
	for _, name := range slices.Sorted(maps.Keys(tokens)) {
		list = append(list, caller{name: name, head: bearer(tokens[name]), refused: 401})
	}
	return list
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (k *known) cert(t *testing.T, a *authority, uri string) *tls.Certificate {
	c := a.issue(t, uri)
	return &c
}

func (k *known) newKey(t *testing.T, body map[string]any) (id, secret string) {
	t.Helper()
	made := k.operator(k.c, "POST", "/api/v1/tenants/team-a/keys", body)
	var out struct{ ID, Key string }
	if err := json.Unmarshal(made.Body, &out); made.Status != 201 || err != nil {
		t.Fatalf("key: %d %s", made.Status, made.Body)
	}
	return out.ID, out.Key
}

// expiredKey returns a key that has expired since the start.
func (k *known) expiredKey(t *testing.T) string {
	eventually(t, "the key's end", func() bool {
		return do(k.c, "GET", k.env["TEAM_A_URL"]+"/api/v1/whoami", nil, bearer("short-key")...).Status == 401
	})
	return "short-key"
}

func (k *known) revokedKey(t *testing.T) string {
	id, secret := k.newKey(t, map[string]any{"name": "gone", "role": "admin"})
	if got := k.operator(k.c, "DELETE", "/api/v1/tenants/team-a/keys/"+id, nil); got.Status != 204 {
		t.Fatalf("revoke: %d %s", got.Status, got.Body)
	}
	return secret
}

// expect returns the status that a caller must get of a route, as far as the rules say; 0 where the route itself decides.
func (c caller) expect(r exchange.Route, method string) int {
	if c.refused != 0 {
		return c.refused
	}
	if c.name == "admin's key and a foreign Origin" && method != http.MethodGet {
		return 403
	}
	action := r.Action
	if strings.HasSuffix(r.Pattern, "/mcp") && method != http.MethodPost {
		action = authz.MCPRead
	}
	if method == http.MethodGet && strings.HasSuffix(r.Pattern, "/exec") {
		return 400 // no WebSocket is asked for: nothing is looked at
	}
	who := tenant.Principal{Tenant: "team-a", Kind: c.kind, ID: "x", Role: c.role}
	if authz.Authorize(who, action, "team-a").Allow {
		return 0
	}
	switch authz.ClassOf(action) {
	case authz.Mutate:
		return 403
	case authz.Read:
		return 404
	}
	return 200 // an empty list
}

// matrixBody returns what is sent: for MCP the greatest of its actions, else as little as can be.
func matrixBody(r exchange.Route, method string) any {
	switch method {
	case "PUT", "PATCH":
		return `{}`
	}
	if b := body(r, method); b != `{"jsonrpc":"2.0","id":1,"method":"tools/list"}` {
		return b
	}
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`
}

// TestMatrix asks every route with every kind of credential. What the rules say is held for all of them; the whole is in a
// golden file as well, so that nobody changes a status unseen. A route that is added is asked without being named here.
func TestMatrix(t *testing.T) {
	k := newKnown(t)
	callers := k.callers(t)
	clients := make([]*http.Client, len(callers))
	for i, c := range callers {
		tr := k.transport()
		if c.cert != nil {
			tr.TLSClientConfig.Certificates = []tls.Certificate{*c.cert}
		}
		clients[i] = &http.Client{Transport: tr, Timeout: 30 * time.Second}
	}
	var table strings.Builder
	asked := 0
	for _, r := range routes(t) {
		for _, method := range methods(r) {
			path := strings.NewReplacer("{server}", "one", "{", "", "}", "").Replace(r.Pattern)
			byStatus := map[int][]string{}
			for i, c := range callers {
				asked++
				head := append([]string{"Accept", "application/json, text/event-stream"}, c.head...)
				target := k.env["TEAM_A_URL"] + path
				if c.query != "" {
					target += "?" + c.query
				}
				got := do(clients[i], method, target, matrixBody(r, method), head...)
				if got.Err != nil {
					t.Fatalf("%s %s, %s: %v", method, path, c.name, got.Err)
				}
				want := c.expect(r, method)
				if want != 0 && got.Status != want || want == 0 && (got.Status == 401 || got.Status == 403 || got.Status >= 500 && got.Status != 502) {
					t.Errorf("%s %s, %s: %d %s, want %d", method, r.Pattern, c.name, got.Status, got.Body, want)
				}
				byStatus[got.Status] = append(byStatus[got.Status], c.name)
			}
			fmt.Fprintf(&table, "%s %s\n", method, r.Pattern)
			for status := 100; status < 600; status++ {
				if names := byStatus[status]; len(names) > 0 {
					fmt.Fprintf(&table, "  %d %s\n", status, strings.Join(names, ", "))
				}
			}
		}
	}
	t.Logf("%d requests: %d routes, %d callers", asked, len(routes(t)), len(callers))
	golden(t, "matrix.txt", table.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is another: look at the change, and if it is right, run the test with -update\n%s", path, got)
	}
}
