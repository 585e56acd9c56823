package vgw_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// admins manage members, and give roles below their own only; what is theirs to refuse says whom to ask.
func TestA2MembersStory(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	w.corp("team-a", nil)
	admin := w.principal("team-a", tenant.Admin)
	bob := w.must(t, "team-a", admin, post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"bob","role":"viewer"}`), 201)
	path := "/api/v1/members/" + bob["id"].(string)
	if bob["ref"] != "user:corp/bob" || bob["created_by"] != admin.Ref() {
		t.Errorf("made %v", bob)
	}
	w.says(t, "team-a", admin, post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"bob","role":"editor"}`), 409, "already")
	w.says(t, "team-a", admin, post("/api/v1/members", `{"kind":"group","authenticator":"corp","name":"bob","role":"editor"}`), 201, `"kind":"group"`)
	if got := w.user("team-a", "corp", "bob"); got.Role != tenant.Viewer {
		t.Errorf("bob is %s", got.Role)
	}
	changed := w.must(t, "team-a", admin, patch(path, `{"role":"editor"}`), 200)
	if changed["resource_version"] == bob["resource_version"] || w.user("team-a", "corp", "bob").Role != tenant.Editor {
		t.Errorf("changed %v, from %v", changed, bob)
	}
	stale := del(path)
	stale.header = map[string]string{"If-Match": `"` + bob["resource_version"].(string) + `"`}
	w.says(t, "team-a", admin, stale, 412, "")
	for _, q := range []request{
		post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"eve","role":"admin"}`), patch(path, `{"role":"admin"}`),
		post("/api/v1/keys", `{"name":"k","role":"admin"}`), post("/api/v1/bots", `{"name":"k","role":"admin"}`),
	} {
		w.says(t, "team-a", admin, q, 403, "ask a platform operator")
	}
	for name, q := range map[string]request{
		"role": post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"eve"}`), "kind": post("/api/v1/members", `{"kind":"robot","authenticator":"corp","name":"eve","role":"viewer"}`),
		"authenticator": post("/api/v1/members", `{"kind":"user","authenticator":"crop","name":"eve","role":"viewer"}`),
		"name":          post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"e\nve","role":"viewer"}`),
	} {
		w.says(t, "team-a", admin, q, 400, name)
	}
	w.must(t, "team-a", admin, del(path), 204)
	w.says(t, "team-a", admin, get(path), 404, "")
	if got := w.user("team-a", "corp", "bob"); got.Role != tenant.NoRole {
		t.Errorf("bob, who is no member any more, is %s", got.Role)
	}
}

// matrix says what each role is told by each kind of use of a resource for administrators: an admin is served, others get
// an empty list, a 404 for one object, an opaque 403 for a change.
func TestA2A8OnlyAdminsManage(t *testing.T) {
	w := twoTenants(t)
	nobody := w.user("team-a", "idp-of-a", "mallory")
	for _, r := range w.mux.Routes() {
		noun := strings.Split(strings.TrimPrefix(r.Pattern, "/api/v1/"), "/")[0]
		if !strings.Contains(" members bots authenticators policies keys ", " "+noun+" ") || r.Pattern == "/api/v1/policies/explain" {
			continue
		}
		for _, q := range uses(t, r) {
			q.path, q.body = fill(r.Pattern, w.ids["team-a"]), fill(q.body, w.ids["team-a"])
			for _, p := range []tenant.Principal{w.principal("team-a", tenant.Viewer), w.principal("team-a", tenant.Editor), nobody} {
				got := w.do("team-a", p, q)
				want := 403
				if r.Method == "GET" {
					want = 404
					if !strings.Contains(r.Pattern, "{") {
						want = 200
					}
				}
				if got.status != want || want == 200 && got.body != `{"items":[]}`+"\n" {
					t.Errorf("%s %s as %s: %d %s, want %d", r.Method, r.Pattern, p.Role, got.status, got.body, want)
				}
				if want == 403 && !strings.Contains(got.body, "This credential does not allow it") {
					t.Errorf("%s %s as %s: the refusal is not opaque: %s", r.Method, r.Pattern, p.Role, got.body)
				}
			}
		}
	}
}

// the last admin cannot be removed, demoted or revoked, in no way.
func TestA2LastAdmin(t *testing.T) {
	only := func(edit func(r *tenant.Record)) (*world, tenant.Principal) {
		w := full(t)
		w.store.add("team-a")
		w.corp("team-a", map[string]tenant.Role{"user:alice": tenant.Admin, "user:bob": tenant.Editor})
		w.store.edit("team-a", func(r *tenant.Record) {
			r.Keys = r.Keys[:2]
			if edit != nil {
				edit(r)
			}
		})
		return w, w.user("team-a", "corp", "alice")
	}
	w, alice := only(nil)
	for _, q := range []request{del("/api/v1/members/m-alice"), patch("/api/v1/members/m-alice", `{"role":"viewer"}`), del("/api/v1/authenticators/corp")} {
		w.says(t, "team-a", alice, q, 409, "last admin")
	}
	if r := w.store.entry("team-a").Record; r.Admins(time.Now()) != 1 || len(r.Members) != 2 || len(r.Authenticators) != 1 {
		t.Errorf("the record was changed: %+v", r.Members)
	}
	// A second one, and the first may go.
	w.store.edit("team-a", func(r *tenant.Record) { r.Members[memberNamed(r, "bob")].Role = tenant.Admin })
	w.must(t, "team-a", alice, del("/api/v1/members/m-alice"), 204)

	w, _ = only(func(r *tenant.Record) {
		r.Members = nil
		r.Bots = []tenant.Bot{{ID: "b1", Name: "root-bot", Role: tenant.Admin, Source: tenant.SourceAPI, Created: time.Now()}}
		r.Keys = append(r.Keys, tenant.Key{
			ID: "bk", Name: "bot-key", Role: tenant.Admin, Bot: "b1", Source: tenant.SourceAPI, Created: time.Now(), Expires: time.Now().Add(100 * time.Hour),
			Hash: tenant.HashKey("bk"),
		})
	})
	bot := w.keyPrincipal(t, "team-a", "bot-key")
	for _, q := range []request{del("/api/v1/keys/bk"), del("/api/v1/bots/b1")} {
		w.says(t, "team-a", bot, q, 409, "last admin")
	}
	// An operator may rotate an admin bot's key; that it cannot itself is the rule of granting below one's own level.
	w.says(t, "team-a", bot, post("/api/v1/bots/b1/keys", `{"retire_others_in_seconds":60}`), 403, "ask a platform operator")
	w.store.edit("team-a", func(r *tenant.Record) { // one's own key, the last
		r.Bots, r.Keys = nil, append(r.Keys[:2], tenant.Key{ID: "ak", Name: "a", Role: tenant.Admin, Source: tenant.SourceAPI, Created: time.Now(), Hash: tenant.HashKey("ak")})
	})
	w.says(t, "team-a", w.keyPrincipal(t, "team-a", "a"), del("/api/v1/keys/ak"), 409, "last admin")
}

// who a user is comes from the token; no body can say it, and no route believes one that does.
func TestA3BodiesNameNobody(t *testing.T) {
	w := twoTenants(t)
	for _, r := range w.mux.Routes() {
		for _, q := range uses(t, r) {
			if q.body == "" || r.Method == "" || r.Pattern == "/api/v1/members/revoke" || r.Pattern == "/api/v1/policies/explain" {
				continue
			}
			for _, field := range []string{"user", "principal", "groups", "created_by", "owner", "by", "tenant"} {
				bad := q
				bad.path = fill(r.Pattern, w.ids["team-a"])
				bad.body = strings.Replace(fill(q.body, w.ids["team-a"]), "{", fmt.Sprintf(`{"%s":"user:corp/root"`, field)+comma(q.body), 1)
				w.says(t, "team-a", w.principal("team-a", tenant.Admin), bad, 400, field)
			}
		}
	}
	made := w.must(t, "team-a", w.principal("team-a", tenant.Admin), post("/api/v1/servers", `{"name":"mine","url":"https://x.test/"}`), 201)
	if made["owner"] != w.principal("team-a", tenant.Admin).Ref() {
		t.Errorf("the owner is %v", made["owner"])
	}
}

func comma(body string) string {
	if body == "{}" {
		return ""
	}
	return ","
}

// a bot's key has an end within a year, is shown once, tells when it was used, is rotated with an overlap of two, and
// is revoked at once.
func TestA6BotsStory(t *testing.T) {
	used := keyUse{}
	w := full(t, func(c *vgw.Config) { c.KeyUse = used })
	w.store.add("team-a")
	admin := w.principal("team-a", tenant.Admin)
	bot := w.must(t, "team-a", admin, post("/api/v1/bots", `{"name":"deploy"}`), 201)
	if bot["role"] != "editor" || bot["ref"] != "bot:"+bot["id"].(string) {
		t.Errorf("made %v", bot)
	}
	keys := "/api/v1/bots/deploy/keys"
	for body, says := range map[string]string{
		`{"expires_in_seconds":31536001}`: "expires_in_seconds", `{"expires_in_seconds":59}`: "expires_in_seconds", `{"expires_in_seconds":9223372036854775807}`: "expires_in_seconds",
		`{"expires":"2001-01-01T00:00:00Z"}`: "expires", `{"retire_others_in_seconds":-1}`: "retire", `{"name":""` + `,"expires":"never"}`: "expires",
	} {
		w.says(t, "team-a", admin, post(keys, body), 400, says)
	}
	first := w.must(t, "team-a", admin, post(keys, `{}`), 201)
	ends, err := time.Parse(time.RFC3339, first["expires"].(string))
	if d := time.Until(ends); err != nil || d < 89*24*time.Hour || d > 91*24*time.Hour {
		t.Errorf("by default a key ends %v", first["expires"])
	}
	secret := first["key"].(string)
	if list := w.as(tenant.Admin, "team-a", get("/api/v1/keys")).body + w.as(tenant.Admin, "team-a", get("/api/v1/bots")).body; strings.Contains(list, secret) || strings.Contains(w.store.dump(), secret) {
		t.Error("the key is shown or stored again")
	}
	used[first["id"].(string)] = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.says(t, "team-a", admin, get("/api/v1/bots/deploy"), 200, `"last_used":"2026-01-02T03:04:05Z","keys":[{`)
	w.says(t, "team-a", admin, get("/api/v1/keys"), 200, `"last_used":"2026-01-02T03:04:05Z"`)

	second := w.must(t, "team-a", admin, post(keys, `{"name":"second","retire_others_in_seconds":3600}`), 201)
	r := w.store.entry("team-a").Record
	if k, _ := r.KeyByName(first["id"].(string)); time.Until(k.Expires) > time.Hour {
		t.Errorf("the old key still ends %s", k.Expires)
	}
	for _, name := range []string{first["id"].(string), "second"} {
		p := w.keyPrincipal(t, "team-a", name)
		if role, ok := r.Standing(p, time.Now()); !ok || role != tenant.Editor || p.Kind != tenant.KindBot {
			t.Errorf("key %s stands for %+v, %v", name, p, ok)
		}
	}
	w.says(t, "team-a", admin, post(keys, `{}`), 409, "2 valid keys")
	w.must(t, "team-a", admin, post(keys, `{"name":"third","retire_others_in_seconds":0}`), 201)
	if r := w.store.entry("team-a").Record; len(r.Keys) != 4 {
		t.Errorf("keys that ended are kept: %d", len(r.Keys))
	}
	w.says(t, "team-a", admin, del("/api/v1/keys/"+second["id"].(string)), 404, "")
	third := w.keyPrincipal(t, "team-a", "third")
	w.must(t, "team-a", admin, del("/api/v1/keys/third"), 204)
	if _, ok := w.store.entry("team-a").Record.Standing(third, time.Now()); ok {
		t.Error("a revoked key still stands")
	}
	w.must(t, "team-a", admin, post(keys, `{"name":"fourth"}`), 201)
	w.must(t, "team-a", admin, del("/api/v1/bots/deploy"), 204)
	if _, ok := w.store.entry("team-a").Record.KeyByName("fourth"); ok {
		t.Error("a bot's key outlives it")
	}
}

// An authenticator's secret is written and never read; its users are who they were, or members forbid the change.
func TestAuthenticatorsStory(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	admin := w.principal("team-a", tenant.Admin)
	oidc := func(issuer, login string) string {
		return `{"name":"corp","type":"oidc","oidc":{"issuer":"` + issuer + `","login":{"client_id":"gw"` + login + `}}}`
	}
	made := w.do("team-a", admin, post("/api/v1/authenticators", oidc("https://idp.test", `,"client_secret":"hush-hush"`)))
	if made.status != 201 || strings.Contains(made.body, "hush") || strings.Contains(made.body, "sealed") || !strings.Contains(made.body, `"has_client_secret":true`) {
		t.Fatalf("made %d %s", made.status, made.body)
	}
	stored := func() tenant.Authenticator { return w.store.entry("team-a").Record.Authenticators[0] }
	before := stored()
	if before.OIDC.Login.ClientSecret != "sealed:team-a/corp:*********" || before.Generation == "" {
		t.Errorf("stored %+v", before.OIDC.Login)
	}
	w.must(t, "team-a", admin, put("/api/v1/authenticators/corp", oidc("https://idp.test", `,"scopes":["openid"]`)), 200)
	if a := stored(); a.OIDC.Login.ClientSecret != before.OIDC.Login.ClientSecret || a.Generation == before.Generation || !a.Created.Equal(before.Created) {
		t.Errorf("after a change: %+v, generation %s", a.OIDC.Login, a.Generation)
	}
	// To another issuer the secret does not go; and users who are members stay who they are.
	w.must(t, "team-a", admin, put("/api/v1/authenticators/corp", oidc("https://evil.test", "")), 200)
	if a := stored(); a.OIDC.Login.ClientSecret != "" || a.Created.Equal(before.Created) {
		t.Errorf("another issuer gets the secret: %+v", a)
	}
	w.must(t, "team-a", admin, post("/api/v1/members", `{"kind":"user","authenticator":"corp","name":"bob","role":"viewer"}`), 201)
	w.says(t, "team-a", admin, put("/api/v1/authenticators/corp", oidc("https://idp.test", "")), 409, "other people")
	w.must(t, "team-a", admin, put("/api/v1/authenticators/corp", oidc("https://evil.test", `,"client_secret":"x"`)), 200)
	w.must(t, "team-a", admin, put("/api/v1/authenticators/corp", strings.TrimSuffix(oidc("https://evil.test", ""), "}")+`,"remove_client_secret":true}`), 200)
	if a := stored(); a.OIDC.Login.ClientSecret != "" {
		t.Errorf("removed, but %+v", a.OIDC.Login)
	}
	w.must(t, "team-a", admin, del("/api/v1/authenticators/corp"), 204)
	if r := w.store.entry("team-a").Record; len(r.Members) != 0 || len(r.Authenticators) != 0 {
		t.Errorf("left: %+v %+v", r.Authenticators, r.Members)
	}
}

func TestAuthenticatorRefusals(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	w.store.edit("team-a", func(r *tenant.Record) {
		r.Authenticators = []tenant.Authenticator{{Name: "filed", Type: tenant.AuthnKubernetes, Source: tenant.SourceFile, Kubernetes: &tenant.Kubernetes{}}}
		r.Members = []tenant.Member{{ID: "m1", Kind: tenant.MemberUser, Authenticator: "filed", Name: "x", Role: tenant.Viewer, Source: tenant.SourceFile}}
	})
	admin := w.principal("team-a", tenant.Admin)
	issuer := func(u string) string { return `{"name":"x","type":"oidc","oidc":{"issuer":"` + u + `"}}` }
	pem := func(text string) string {
		b, _ := json.Marshal(text)
		return `{"name":"x","type":"mtls","mtls":{"ca":` + string(b) + `}}`
	}
	for _, tc := range []struct {
		q      request
		status int
		says   string
	}{
		{post("/api/v1/authenticators", issuer("https://169.254.169.254/")), 400, "cannot be reached"},
		{post("/api/v1/authenticators", issuer("https://[::1]:8443")), 400, "cannot be reached"},
		{post("/api/v1/authenticators", issuer("https://[::ffff:10.0.0.1]")), 400, "cannot be reached"},
		{post("/api/v1/authenticators", issuer("http://idp.test")), 400, "https"},
		{post("/api/v1/authenticators", `{"name":"x","type":"oidc","oidc":{"issuer":"https://i.test","algorithms":["none"]}}`), 400, "none"},
		{post("/api/v1/authenticators", `{"name":"x","type":"oidc","oidc":{"issuer":"https://i.test","algorithms":["HS256"]}}`), 400, "HS256"},
		{post("/api/v1/authenticators", `{"name":"x","type":"oidc"}`), 400, "settings"},
		{post("/api/v1/authenticators", `{"name":"X","type":"kubernetes","kubernetes":{}}`), 400, "name"},
		{post("/api/v1/authenticators", `{"name":"x","type":"kubernetes","kubernetes":{},"default_role":"admin"}`), 403, "operator"},
		{post("/api/v1/authenticators", pem("nonsense")), 400, "PEM"},
		{post("/api/v1/authenticators", pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")), 400, "certificates alone"},
		{post("/api/v1/authenticators", pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")), 400, "certificate 1"},
		{post("/api/v1/authenticators", `{"name":"filed","type":"kubernetes","kubernetes":{}}`), 409, "tenants.yaml"},
		{put("/api/v1/authenticators/filed", `{"type":"kubernetes","kubernetes":{}}`), 409, "tenants.yaml"},
		{put("/api/v1/authenticators/filed", `{"name":"y","type":"kubernetes","kubernetes":{}}`), 400, "renamed"},
		{put("/api/v1/authenticators/absent", `{"type":"kubernetes","kubernetes":{}}`), 404, ""},
		{del("/api/v1/authenticators/filed"), 409, "tenants.yaml"},
		{del("/api/v1/members/m1"), 409, "tenants.yaml"},
		{patch("/api/v1/members/m1", `{"role":"editor"}`), 409, "tenants.yaml"},
	} {
		before := w.store.entry("team-a").Record
		w.says(t, "team-a", admin, tc.q, tc.status, tc.says)
		if w.store.entry("team-a").Record != before {
			t.Errorf("%s %s: the record was changed", tc.q.method, tc.q.path)
		}
	}
}

// Revoking a user ends what was issued before, and nothing that is issued after; member or not.
func TestA6RevokeUser(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	w.corp("team-a", map[string]tenant.Role{"user:alice": tenant.Editor, "group:ops": tenant.Viewer})
	admin := w.principal("team-a", tenant.Admin)
	stands := func(p tenant.Principal) bool {
		_, ok := w.store.entry("team-a").Record.Standing(p, time.Now())
		return ok
	}
	for path, q := range map[string]request{
		"alice": post("/api/v1/members/m-alice/revoke", ""), "carol": post("/api/v1/members/revoke", `{"principal":"user:corp/carol"}`),
	} {
		old := w.user("team-a", "corp", path, "ops")
		old.Claims.Issued = time.Now().Add(-time.Second)
		if !stands(old) {
			t.Fatalf("%s does not stand", path)
		}
		if got := w.must(t, "team-a", admin, q, 200); got["principal"] != "user:corp/"+path {
			t.Errorf("revoked %v", got)
		}
		late := w.user("team-a", "corp", path, "ops")
		if stands(old) || !stands(late) {
			t.Errorf("%s: the old login stands: %v, a new one: %v", path, stands(old), stands(late))
		}
		w.says(t, "team-a", old, del("/api/v1/keys/none"), 403, "")
	}
	w.says(t, "team-a", admin, post("/api/v1/members/m-ops/revoke", ""), 409, "group")
	w.says(t, "team-a", admin, post("/api/v1/members/revoke", `{"principal":"key:x"}`), 400, "DELETE /api/v1/keys")
	w.says(t, "team-a", admin, post("/api/v1/members/revoke", `{"principal":"user:crop/x"}`), 400, "crop")
}

// A user without a role learns who it is, and nothing else.
func TestWhoamiOfNobody(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	w.corp("team-a", nil)
	eve := w.user("team-a", "corp", "eve", "g1", "g2")
	got := w.must(t, "team-a", eve, get("/api/v1/whoami"), 200)
	if got["role"] != "none" || got["via"] != "oidc" || got["issuer"] != "https://idp.test" || got["ref"] != "user:corp/eve" || fmt.Sprint(got["groups"]) != "[g1 g2]" || got["expires"] == nil {
		t.Errorf("whoami: %v", got)
	}
	w.says(t, "team-a", eve, get("/api/v1/usage"), 404, "")
	w.says(t, "team-a", eve, get("/api/v1/servers"), 200, `{"items":[]}`)
}
