package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/openapi"
	"github.com/polygate/polygate/internal/tenant"
)

// described is a gateway whose every operation is called, with what the calls need.
type described struct {
	*gateway
	t       *testing.T
	issuer  *issuer
	tenant  surface // team-a as its admin
	editor  surface
	viewer  surface
	nobody  surface // without a credential
	custom  surface // team-a's own host, without a credential
	admin   surface // the operators' listener
	auditor surface
	mcp     string // an MCP server
}

const describedTenants = `
tenants:
  - id: team-a
    hosts: [app.example.com]
    quotas: {requests_per_second: 100000, burst: 100000}
    api_keys:
      - {name: admin, role: admin, key_hash: %ADMIN%}
      - {name: editor, role: editor, key_hash: %EDITOR%}
      - {name: viewer, role: viewer, key_hash: %VIEWER%}
  - {id: team-b}
`

func newDescribed(t *testing.T) *described {
	t.Helper()
	s := &described{t: t, issuer: newIssuer(t), mcp: startMCP(t)}
	s.issuer.letLogIn()
	hash := func(key string) string { return `"` + tenant.HashKey(key).String() + `"` }
	s.gateway = newGateway(t, strings.NewReplacer("%ADMIN%", hash("admin-key"), "%EDITOR%", hash("editor-key"), "%VIEWER%", hash("viewer-key")).Replace(describedTenants))
	cfg := must(os.ReadFile(filepath.Join(s.dir, "polygate.yaml")))
	s.write("polygate.yaml", string(cfg)+"admin: {auditor_token_file: "+filepath.Join(s.dir, "auditor-token")+"}\npolicy: {eval_timeout: 1s}\nsandboxes: {driver: process}\n")
	s.start()
	c := s.client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a, o := newAPIDoc(t, openapi.Tenant()), newAPIDoc(t, openapi.Admin())
	s.tenant = surface{a, c, s.env["TEAM_A_URL"], bearer("admin-key")}
	s.editor, s.viewer, s.nobody = s.tenant.as(bearer("editor-key")...), s.tenant.as(bearer("viewer-key")...), s.tenant.as()
	s.custom = s.nobody
	s.custom.base = strings.Replace(s.nobody.base, mustURL(t, s.nobody.base).Hostname(), "app.example.com", 1)
	s.admin = surface{o, c, s.env["ADMIN_URL"], bearer(s.env["ADMIN_TOKEN"])}
	token := strings.TrimSpace(string(must(os.ReadFile(filepath.Join(s.dir, "auditor-token")))))
	s.auditor = s.admin.as(bearer(token)...)
	return s
}

// letLogIn gives the issuer a token endpoint. The code that it takes is the nonce of the login, so that it has to remember none.
func (i *issuer) letLogIn() {
	rest := i.server.Config.Handler
	i.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			rest.ServeHTTP(w, r)
			return
		}
		id := i.sign(i.claims("alice", []string{"the-admins"}, map[string]any{"aud": "polygate-login", "nonce": r.PostFormValue("code")}))
		i.answer(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": id})
	})
}

// text returns a field of an answer.
func text(t *testing.T, a answer, field string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.Body, &v); err != nil {
		t.Fatalf("%s: %v", a.Body, err)
	}
	got, _ := v[field].(string)
	if got == "" {
		t.Fatalf("no %s in %s", field, a.Body)
	}
	return got
}

type m = map[string]any

// TestOpenAPI calls every operation of both APIs with valid input, holds requests and answers to the documents, and then the
// main errors of each.
func TestOpenAPI(t *testing.T) {
	s := newDescribed(t)
	s.tenant.served(t, openapi.Tenant())
	s.admin.served(t, openapi.Admin())
	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"self", s.self}, {"servers", s.servers}, {"keys", s.keys}, {"bots", s.bots}, {"authenticators", s.authenticators}, {"members", s.members},
		{"grants", s.grants}, {"sandboxes", s.sandboxes}, {"mcp", s.mcpCalls}, {"browser", s.browser}, {"policies", s.policies}, {"reports", s.reports}, {"certificates", s.certificates},
		{"tenants", s.tenants}, {"archives and keys", s.archivesAndKeys}, {"operators' keys", s.operatorKeys}, {"operators' members", s.operatorMembers}, {"platform", s.platform}, {"replicas", s.replicas},
		{"refusals", s.refusals}, {"mistakes", s.mistakes}, {"bounds", s.bounds},
	} {
		t.Run(step.name, step.do)
	}
	s.tenant.allCalled()
	s.admin.elsewhere = map[string]bool{
		"POST /api/v1/replicas/{replica}/drain": true, "POST /api/v1/store/members": true, "DELETE /api/v1/store/members/{member}": true,
	}
	s.admin.allCalled()
}

// replicas are asked about, and told, where there is one.
func (s *described) replicas(t *testing.T) {
	list := s.auditor.send(apiCall{op: "GET /api/v1/replicas", want: 200})
	var all struct{ Items []struct{ Name string } }
	if err := json.Unmarshal(list.Body, &all); err != nil || len(all.Items) != 1 {
		t.Fatalf("%s: %v, want one replica", list.Body, err)
	}
	one := map[string]string{"replica": all.Items[0].Name}
	s.auditor.send(apiCall{op: "GET /api/v1/replicas/{replica}", args: one, want: 200})
	s.admin.send(apiCall{op: "GET /api/v1/replicas/{replica}", args: map[string]string{"replica": "nobody"}, want: 404})
	s.admin.send(apiCall{op: "POST /api/v1/replicas/{replica}/drain", args: one, want: 409, body: m{}})
	s.admin.send(apiCall{op: "POST /api/v1/replicas/{replica}/resume", args: one, want: 200, body: m{}})
	team := map[string]string{"id": "team-a"}
	s.auditor.send(apiCall{op: "GET /api/v1/tenants/{id}/owner", args: team, want: 200})
	s.admin.send(apiCall{op: "POST /api/v1/tenants/{id}/move", args: team, want: 200, body: m{"to": all.Items[0].Name}})
	s.admin.send(apiCall{op: "POST /api/v1/tenants/{id}/move", args: team, want: 409, body: m{}})
	s.admin.send(apiCall{op: "POST /api/v1/tenants/{id}/move", args: team, want: 409, body: m{"to": "nobody"}})
	s.auditor.send(apiCall{op: "GET /api/v1/status", want: 200})
	s.auditor.send(apiCall{op: "GET /api/v1/store/members", want: 200})
	s.admin.send(apiCall{op: "POST /api/v1/store/members", want: 409, body: m{"address": "127.0.0.1:9"}})
	s.admin.send(apiCall{op: "DELETE /api/v1/store/members/{member}", args: map[string]string{"member": "r9"}, want: 404})
	s.admin.send(apiCall{op: "POST /api/v1/store/defrag", want: 200})
}

func (s *described) self(*testing.T) {
	s.tenant.send(apiCall{op: "GET /api/v1/whoami", want: 200})
	s.viewer.send(apiCall{op: "GET /metrics", want: 200})
	s.nobody.send(apiCall{op: "GET /healthz", want: 200})
}

func (s *described) servers(t *testing.T) {
	made := s.tenant.send(apiCall{op: "POST /api/v1/servers", want: 201, body: m{"name": "demo", "url": s.mcp, "headers": m{"X-Team": "a"}, "timeout_seconds": 30}})
	s.tenant.send(apiCall{op: "POST /api/v1/servers", want: 409, body: m{"name": "demo", "url": s.mcp}})
	s.tenant.send(apiCall{op: "POST /api/v1/servers", want: 201, body: m{"name": "spare", "url": "https://mcp.example.com/mcp"}})
	s.tenant.send(apiCall{op: "POST /api/v1/servers", want: 201, body: m{"name": "dead", "url": "http://127.0.0.1:9/mcp"}})
	shared := s.tenant
	shared.base = s.env["SHARED_URL"] + "/tenant/team-a"
	shared.send(apiCall{op: "GET /servers", want: 200})
	shared.base = s.env["SHARED_URL"]
	shared.send(apiCall{op: "GET /servers", want: 200, head: []string{"X-Tenant-ID", "team-a"}})
	one := map[string]string{"name": "demo"}
	s.tenant.send(apiCall{op: "GET /api/v1/servers/{name}", args: one, want: 200})
	s.viewer.send(apiCall{op: "GET /servers", want: 200})
	next := text(t, s.tenant.send(apiCall{op: "GET /api/v1/servers", query: url.Values{"limit": {"1"}}, want: 200}), "next_cursor")
	s.tenant.send(apiCall{op: "GET /api/v1/servers", query: url.Values{"limit": {"1"}, "cursor": {next}}, want: 200})
	s.tenant.send(apiCall{op: "GET /api/v1/servers", query: url.Values{"limit": {"501"}}, want: 400, wrong: true})
	spare := map[string]string{"name": "spare"}
	s.tenant.send(apiCall{op: "DELETE /api/v1/servers/{name}", args: spare, head: []string{"If-Match", made.Header.Get("Etag")}, want: 412})
	s.tenant.send(apiCall{op: "DELETE /api/v1/servers/{name}", args: spare, want: 204})
}

func (s *described) keys(t *testing.T) {
	made := s.tenant.send(apiCall{op: "POST /api/v1/keys", want: 201, body: m{"name": "ci", "role": "viewer", "expires_in_seconds": 3600}})
	s.tenant.send(apiCall{op: "POST /api/v1/keys", want: 409, body: m{"name": "ci"}})
	s.tenant.send(apiCall{op: "POST /api/v1/keys", want: 403, body: m{"name": "too-much", "role": "admin"}})
	s.tenant.send(apiCall{op: "POST /api/v1/keys", want: 400, wrong: true, body: m{"name": "both", "expires_in_seconds": 3600, "expires": time.Now().Add(time.Hour)}})
	s.tenant.as("X-Api-Key", text(t, made, "key")).send(apiCall{op: "GET /api/v1/whoami", want: 200})
	s.tenant.send(apiCall{op: "GET /api/v1/keys", want: 200})
	s.viewer.send(apiCall{op: "GET /api/v1/keys", want: 200})
	id := map[string]string{"key": text(t, made, "id")}
	s.tenant.send(apiCall{op: "DELETE /api/v1/keys/{key}", args: id, head: []string{"If-Match", `"1"`}, want: 412})
	s.tenant.send(apiCall{op: "DELETE /api/v1/keys/{key}", args: id, head: []string{"If-Match", made.Header.Get("Etag")}, want: 204})
	s.tenant.send(apiCall{op: "DELETE /api/v1/keys/{key}", args: map[string]string{"key": "editor"}, want: 409}) // a file declares it
}

func (s *described) bots(t *testing.T) {
	made := s.tenant.send(apiCall{op: "POST /api/v1/bots", want: 201, body: m{"name": "robot", "role": "editor"}})
	s.tenant.send(apiCall{op: "POST /api/v1/bots", want: 409, body: m{"name": "robot"}})
	one := map[string]string{"bot": "robot"}
	s.tenant.send(apiCall{op: "POST /api/v1/bots/{bot}/keys", args: one, want: 201, body: m{}})
	s.tenant.send(apiCall{op: "POST /api/v1/bots/{bot}/keys", args: one, want: 201, body: m{"name": "second", "expires": time.Now().Add(time.Hour).UTC()}})
	s.tenant.send(apiCall{op: "POST /api/v1/bots/{bot}/keys", args: one, want: 409, body: m{}})
	s.tenant.send(apiCall{op: "POST /api/v1/bots/{bot}/keys", args: one, want: 201, body: m{"retire_others_in_seconds": 0}})
	s.tenant.send(apiCall{op: "POST /api/v1/bots/{bot}/keys", args: one, want: 400, wrong: true, body: m{"retire_others_in_seconds": 2592001}})
	s.tenant.send(apiCall{op: "GET /api/v1/bots/{bot}", args: one, want: 200})
	s.tenant.send(apiCall{op: "GET /api/v1/bots", want: 200})
	s.tenant.send(apiCall{op: "DELETE /api/v1/bots/{bot}", args: one, head: []string{"If-Match", `"1"`}, want: 412})
	s.tenant.send(apiCall{op: "DELETE /api/v1/bots/{bot}", args: map[string]string{"bot": text(t, made, "id")}, want: 204})
}

// corp is an authenticator that the issuer stands behind.
func (s *described) corp(name string) m {
	return m{"name": name, "type": "oidc", "default_role": "viewer", "oidc": m{
		"issuer": s.issuer.url(), "audiences": []string{"polygate"}, "ca": s.issuer.ca.pem(), "claims": m{"groups": "groups"},
		"login": m{"client_id": "polygate-login", "client_secret": "s3cret", "session_seconds": 600},
	}}
}

func (s *described) authenticators(t *testing.T) {
	const create, one = "POST /api/v1/authenticators", "/api/v1/authenticators/{authenticator}"
	made := s.tenant.send(apiCall{op: create, want: 201, body: s.corp("corp")})
	s.tenant.send(apiCall{op: create, want: 409, body: s.corp("corp")})
	certs := m{"name": "certs", "type": "mtls", "mtls": m{"ca": newAuthority(t, "people").pem(), "identity": "san-uri", "groups": true}}
	s.tenant.send(apiCall{op: create, want: 201, body: certs})
	s.tenant.send(apiCall{op: create, want: 201, body: m{"name": "front", "type": "upstream", "upstream": m{"sources": []string{"192.0.2.0/24"}, "header": "X-Remote-Person", "attribute_headers": m{"X-Team": "team"}}}})
	s.tenant.send(apiCall{op: create, want: 201, body: m{"name": "pods", "type": "kubernetes", "kubernetes": m{"audiences": []string{"polygate"}}}})
	s.tenant.send(apiCall{op: create, want: 400, wrong: true, body: m{"name": "none", "type": "oidc"}})
	s.tenant.send(apiCall{op: "GET /api/v1/authenticators", want: 200})
	arg := func(name string) map[string]string { return map[string]string{"authenticator": name} }
	s.tenant.send(apiCall{op: "GET " + one, args: arg("corp"), want: 200})
	body := s.corp("corp")
	delete(body, "name")
	s.tenant.send(apiCall{op: "PUT " + one, args: arg("corp"), want: 200, body: body, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "PUT " + one, args: arg("corp"), want: 412, body: body, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "PUT " + one, args: arg("corp"), want: 400, body: m{"name": "other", "type": "kubernetes", "kubernetes": m{}}})
	for _, name := range []string{"certs", "front", "pods"} {
		s.tenant.send(apiCall{op: "GET " + one, args: arg(name), want: 200})
		s.tenant.send(apiCall{op: "DELETE " + one, args: arg(name), want: 204})
	}
	s.nobody.send(apiCall{op: "GET /.well-known/oauth-protected-resource", want: 200})
	s.nobody.send(apiCall{op: "GET /.well-known/oauth-protected-resource/{resource}", args: map[string]string{"resource": "servers/demo/mcp"}, want: 200})
}

func (s *described) members(t *testing.T) {
	const all, one = "/api/v1/members", "/api/v1/members/{member}"
	alice := m{"kind": "user", "authenticator": "corp", "name": "alice", "role": "viewer"}
	made := s.tenant.send(apiCall{op: "POST " + all, want: 201, body: alice})
	s.tenant.send(apiCall{op: "POST " + all, want: 409, body: alice})
	s.tenant.send(apiCall{op: "POST " + all, want: 400, body: m{"kind": "user", "authenticator": "none", "name": "alice", "role": "viewer"}})
	s.tenant.send(apiCall{op: "POST " + all, want: 400, wrong: true, body: m{"kind": "user", "authenticator": "corp", "name": "alice"}})
	group := s.tenant.send(apiCall{op: "POST " + all, want: 201, body: m{"kind": "group", "authenticator": "corp", "name": "engineers", "role": "editor"}})
	s.tenant.send(apiCall{op: "GET " + all, want: 200})
	arg := func(a answer) map[string]string { return map[string]string{"member": text(t, a, "id")} }
	s.tenant.send(apiCall{op: "GET " + one, args: arg(made), want: 200})
	s.tenant.send(apiCall{op: "PATCH " + one, args: arg(made), want: 200, body: m{"role": "editor"}, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "PATCH " + one, args: arg(made), want: 412, body: m{"role": "viewer"}, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "PATCH " + one, args: arg(made), want: 403, body: m{"role": "admin"}})
	s.tenant.send(apiCall{op: "POST " + one + "/revoke", args: arg(made), want: 200})
	s.tenant.send(apiCall{op: "POST " + one + "/revoke", args: arg(made), want: 200, body: m{}})
	s.tenant.send(apiCall{op: "POST " + one + "/revoke", args: arg(group), want: 409})
	s.tenant.send(apiCall{op: "POST " + all + "/revoke", want: 200, body: m{"principal": "user:corp/mallory"}})
	s.tenant.send(apiCall{op: "POST " + all + "/revoke", want: 400, wrong: true, body: m{"principal": "key:x"}})
	token := s.tenant.as(bearer(s.issuer.sign(s.issuer.claims("bob", []string{"engineers"})))...)
	token.send(apiCall{op: "GET /api/v1/whoami", want: 200})
	s.tenant.send(apiCall{op: "DELETE " + one, args: arg(group), want: 204})
}

func (s *described) grants(t *testing.T) {
	const all = "/api/v1/grants"
	grant := m{"to": "user:corp/bob", "action": "mcp.call", "object": "server/demo", "expires_in_seconds": 3600}
	made := s.tenant.send(apiCall{op: "POST " + all, want: 201, body: grant})
	s.tenant.send(apiCall{op: "POST " + all, want: 201, body: m{"to": "user:corp/bob", "action": "mcp.call", "object": "server/demo", "until": time.Now().Add(time.Hour).UTC()}})
	s.tenant.send(apiCall{op: "POST " + all, want: 404, body: m{"to": "user:corp/bob", "action": "mcp.call", "object": "server/none"}})
	s.tenant.send(apiCall{op: "POST " + all, want: 400, wrong: true, body: m{"to": "user:corp/bob", "action": "server.delete", "object": "server/demo"}})
	s.editor.send(apiCall{op: "POST " + all, want: 403, body: grant})
	s.tenant.send(apiCall{op: "GET " + all, want: 200})
	s.tenant.send(apiCall{op: "DELETE " + all + "/{grant}", args: map[string]string{"grant": text(t, made, "id")}, want: 204})
}

func (s *described) mcpCalls(t *testing.T) {
	const mcp = "/servers/{server}/mcp"
	one := map[string]string{"server": "demo"}
	accept := []string{"Accept", "application/json, text/event-stream"}
	init := s.editor.send(apiCall{op: "POST " + mcp, args: one, want: 200, body: initialize, head: accept})
	session := append(accept, "Mcp-Session-Id", init.Header.Get("Mcp-Session-Id"), "Mcp-Protocol-Version", "2025-11-25")
	post := func(text string, want int, wrong bool) {
		a := s.editor.send(apiCall{op: "POST " + mcp, args: one, want: want, body: text, head: session, wrong: wrong})
		for line := range strings.Lines(string(a.Body)) {
			if data, ok := strings.CutPrefix(line, "data:"); ok && strings.TrimSpace(data) != "" {
				if err := s.tenant.checkJSON("POST "+mcp+" 200 application/json", []byte(data)); err != nil {
					t.Errorf("event: %s: %v", data, err)
				}
			}
		}
	}
	post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, 202, false)
	post(`{"jsonrpc":"2.0","id":2,"method":"tools/list"}`, 200, false)
	post(`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"test_simple_text","arguments":{}}}`, 200, false)
	post(`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{}}`, 400, false)
	post(`[]`, 400, true)
	s.viewer.send(apiCall{op: "POST " + mcp, args: one, want: 403, body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`, head: accept})
	s.editor.send(apiCall{op: "POST " + mcp, args: one, want: 406, body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, head: []string{"Accept", "text/html"}})
	s.editor.send(apiCall{op: "POST " + mcp, args: map[string]string{"server": "none"}, want: 404, body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, head: accept})
	s.editor.send(apiCall{op: "POST " + mcp, args: map[string]string{"server": "dead"}, want: 502, body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`, head: accept})
	s.editor.raw("POST "+mcp, "/servers/demo/mcp", "x", map[string]string{"Content-Type": "text/plain"}, 415)
	s.editor.send(apiCall{op: "GET " + mcp, args: one, want: 405, head: []string{"Mcp-Protocol-Version", "2026-07-28"}})
	s.stream("GET "+mcp, "/servers/demo/mcp", session)
	ended := s.editor.send(apiCall{op: "DELETE " + mcp, args: one, want: 204, head: session[2:]})
	if ended.Status == 204 {
		s.editor.send(apiCall{op: "POST " + mcp, args: one, want: 404, body: `{"jsonrpc":"2.0","id":5,"method":"ping"}`, head: session})
	}
}

// stream opens a stream, which does not end, and holds its header to the document.
func (s *described) stream(op, path string, head []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r := must(http.NewRequestWithContext(ctx, "GET", s.editor.base+path, nil))
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Authorization", s.editor.head[1])
	resp, err := s.editor.c.Do(r)
	if err != nil {
		s.t.Errorf("%s: %v", op, err)
		return
	}
	cancel()
	_ = resp.Body.Close()
	s.editor.judgeAnswer(op, answer{Status: resp.StatusCode, Header: resp.Header})
	if resp.StatusCode != 200 {
		s.t.Errorf("%s: %d", op, resp.StatusCode)
	}
}

// cookies returns the cookies of an answer as a browser sends them back.
func cookies(a answer) []string {
	var all []string
	for _, set := range a.Header["Set-Cookie"] {
		pair, _, _ := strings.Cut(set, ";")
		if _, v, _ := strings.Cut(pair, "="); v != "" {
			all = append(all, pair)
		}
	}
	return []string{"Cookie", strings.Join(all, "; ")}
}

func (s *described) browser(t *testing.T) {
	s.tenant.send(apiCall{op: "POST /api/v1/authenticators", want: 201, body: s.corp("other")})
	s.nobody.send(apiCall{op: "GET /.polygate/login", want: 200}) // which of the two
	s.tenant.send(apiCall{op: "DELETE /api/v1/authenticators/{authenticator}", args: map[string]string{"authenticator": "other"}, want: 204})
	s.nobody.send(apiCall{op: "GET /.polygate/login", query: url.Values{"return_to": {"//evil"}}, want: 400})
	s.nobody.send(apiCall{op: "GET /.polygate/callback", want: 400})

	begun := s.nobody.send(apiCall{op: "GET /.polygate/login", query: url.Values{"return_to": {"/servers"}, "authenticator": {"corp"}}, want: 303})
	q := mustURL(t, begun.Header.Get("Location")).Query()
	back := url.Values{"state": {q.Get("state")}, "code": {q.Get("nonce")}}
	in := s.nobody.send(apiCall{op: "GET /.polygate/callback", query: back, head: cookies(begun), want: 303})
	session := cookies(in)
	s.nobody.as(session...).send(apiCall{op: "GET /api/v1/whoami", want: 200})

	away := s.custom.send(apiCall{op: "GET /.polygate/login", want: 303})
	handover := mustURL(t, away.Header.Get("Location")).Query()
	s.nobody.send(apiCall{op: "GET /.polygate/handover", query: handover, want: 303}) // to the login
	given := s.nobody.send(apiCall{op: "GET /.polygate/handover", query: handover, head: session, want: 303})
	ticket := mustURL(t, given.Header.Get("Location")).Query()
	s.custom.send(apiCall{op: "GET /.polygate/accept", query: ticket, head: cookies(away), want: 303})
	s.custom.send(apiCall{op: "GET /.polygate/accept", query: ticket, head: cookies(away), want: 400})

	s.nobody.send(apiCall{op: "POST /.polygate/logout", head: append(session, "Origin", "https://evil.example.com"), want: 403})
	s.nobody.send(apiCall{op: "POST /.polygate/logout", head: append(session, "Origin", s.nobody.base), want: 200})
	s.nobody.as(session...).send(apiCall{op: "GET /api/v1/whoami", want: 401})
}

func (s *described) policies(t *testing.T) {
	const all = "/api/v1/policies"
	rego := func(more string) m {
		return m{"modules": m{"main.rego": "package polygate.authz\n\ndefault allow := false\n\nallow if input.role in {\"viewer\", \"editor\", \"admin\"}\n" + more}}
	}
	tested := rego("")
	tested["modules"].(m)["main_test.rego"] = "package polygate.authz_test\n\nimport data.polygate.authz\n\ntest_admin if authz.allow with input as {\"role\": \"admin\"}\n\ntest_nobody if authz.allow\n"
	tested["data"] = m{"team": m{"size": 3}}
	broken := m{"modules": m{"main.rego": "package polygate.authz\n\nallow if {"}}
	first := s.tenant.send(apiCall{op: "GET " + all, want: 200})
	s.viewer.send(apiCall{op: "GET " + all, want: 200})
	s.tenant.send(apiCall{op: "POST " + all, want: 200, query: url.Values{"dry_run": {"1"}}, body: rego("")})
	s.tenant.send(apiCall{op: "POST " + all, want: 400, body: broken})
	s.tenant.send(apiCall{op: "POST " + all, want: 409, body: m{"modules": m{"main.rego": "package polygate.authz\n\ndefault allow := false\n"}}})
	made := s.tenant.send(apiCall{op: "POST " + all, want: 201, body: rego(""), head: []string{"If-Match", first.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "POST " + all, want: 412, body: tested, head: []string{"If-Match", first.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "POST " + all, want: 201, body: tested})
	s.tenant.send(apiCall{op: "POST " + all + "/check", want: 200, body: rego("")})
	s.tenant.send(apiCall{op: "POST " + all + "/check", want: 200, body: broken})
	s.tenant.send(apiCall{op: "POST " + all + "/test", want: 200, body: m{}})
	s.tenant.send(apiCall{op: "POST " + all + "/test", want: 200, body: m{"digest": "active"}})
	s.tenant.send(apiCall{op: "POST " + all + "/test", want: 200, body: m{"bundle": tested}})
	s.tenant.send(apiCall{op: "POST " + all + "/test", want: 400, body: m{"bundle": tested, "digest": "active"}, wrong: true})
	explain := m{"action": "mcp.call", "resource": "server/demo/tool/echo"}
	s.viewer.send(apiCall{op: "POST " + all + "/explain", want: 200, body: explain})
	s.tenant.send(apiCall{op: "POST " + all + "/explain", want: 200, body: explain})
	explain["principal"] = m{"ref": "user:corp/bob", "groups": []string{"g"}, "attributes": m{"team": []string{"a"}}}
	s.tenant.send(apiCall{op: "POST " + all + "/explain", want: 200, body: explain})
	s.viewer.send(apiCall{op: "POST " + all + "/explain", want: 403, body: explain})
	s.tenant.send(apiCall{op: "GET " + all, want: 200})
	s.tenant.send(apiCall{op: "GET " + all + "/{digest}", args: map[string]string{"digest": "active"}, want: 200})
	s.tenant.send(apiCall{op: "POST " + all + "/{digest}/activate", args: map[string]string{"digest": text(t, made, "digest")}, want: 200})
	s.tenant.send(apiCall{op: "DELETE " + all + "/active", want: 204})
	s.tenant.send(apiCall{op: "DELETE " + all + "/active", want: 404})
}

func (s *described) reports(t *testing.T) {
	s.tenant.send(apiCall{op: "GET /api/v1/usage", want: 200})
	s.viewer.send(apiCall{op: "GET /api/v1/usage", want: 200})
	const audit = "GET /api/v1/audit"
	next := text(t, s.tenant.send(apiCall{op: audit, query: url.Values{"limit": {"2"}}, want: 200}), "next_cursor")
	s.tenant.send(apiCall{op: audit, query: url.Values{"limit": {"500"}, "cursor": {next}}, want: 200})
	s.tenant.send(apiCall{op: audit, query: url.Values{"action": {"server.*"}, "decision": {"allow"}, "outcome": {"ok"}, "from": {"2020-01-31T12:00:00Z"}, "to": {"2099-01-31T12:00:00Z"}}, want: 200})
	s.viewer.send(apiCall{op: audit, query: url.Values{"principal": {"key:none"}}, want: 200})
	s.tenant.send(apiCall{op: audit, query: url.Values{"from": {"yesterday"}}, want: 400, wrong: true})
	for _, accept := range []string{"application/jsonl", "text/csv"} {
		s.tenant.send(apiCall{op: audit, query: url.Values{"limit": {"10"}}, head: []string{"Accept", accept}, want: 200})
	}
	s.tenant.send(apiCall{op: audit, head: []string{"Accept", "image/png"}, want: 406})
}

// certificates calls what is about certificates and hosts, in both APIs.
func (s *described) certificates(t *testing.T) {
	ca := newTestCA(t, "brought along")
	chain, key := pemOf(ca.server("app.example.com"))
	pair := m{"chain": chain + ca.pem(), "key": key}
	const list, one = "/api/v1/certificates", "/api/v1/certificates/{host}"
	app := map[string]string{"host": "app.example.com"}
	s.viewer.send(apiCall{op: "GET " + list, want: 200})
	s.viewer.send(apiCall{op: "GET " + one, args: app, want: 200})
	s.editor.send(apiCall{op: "PUT " + one, args: app, want: 403, body: pair})
	put := s.tenant.send(apiCall{op: "PUT " + one, args: app, want: 200, body: pair})
	s.tenant.send(apiCall{op: "PUT " + one, args: app, want: 412, head: []string{"If-Match", `"1"`}, body: pair})
	s.tenant.send(apiCall{op: "PUT " + one, args: app, want: 400, body: m{"chain": chain, "key": "garbage"}})
	s.tenant.send(apiCall{op: "PUT " + one, args: map[string]string{"host": "team-a.localhost"}, want: 400, body: pair}) // it names another host
	s.tenant.send(apiCall{op: "GET " + one, args: app, want: 200})
	s.tenant.send(apiCall{op: "GET " + one, args: map[string]string{"host": "team-b.localhost"}, want: 404})
	s.tenant.send(apiCall{op: "POST " + one + "/revoke", args: app, want: 200, body: m{"reason": 1}})
	s.tenant.send(apiCall{op: "DELETE " + one, args: app, want: 412, head: []string{"If-Match", put.Header.Get("Etag")}})
	s.tenant.send(apiCall{op: "DELETE " + one, args: app, want: 204})
	s.tenant.send(apiCall{op: "POST " + one + "/renew", args: map[string]string{"host": "team-a.localhost"}, want: 202, body: m{}})

	asked := s.tenant.send(apiCall{op: "POST /api/v1/hosts", want: 201, body: m{"host": "mcp.example.org"}})
	s.tenant.send(apiCall{op: "POST /api/v1/hosts", want: 400, wrong: true, body: m{"host": "localhost"}})
	s.viewer.send(apiCall{op: "POST /api/v1/hosts", want: 403, body: m{"host": "other.example.org"}})
	s.viewer.send(apiCall{op: "GET /api/v1/hosts", want: 200})
	mine := map[string]string{"host": text(t, asked, "host")}
	s.viewer.send(apiCall{op: "GET /api/v1/hosts/{host}", args: mine, want: 200})
	s.tenant.send(apiCall{op: "POST /api/v1/hosts/{host}/verify", args: app, want: 200, body: m{}}) // it is the tenant's already
	s.tenant.send(apiCall{op: "DELETE /api/v1/hosts/{host}", args: app, want: 409})                 // a file declares it
	s.tenant.send(apiCall{op: "DELETE /api/v1/hosts/{host}", args: mine, want: 204})
	s.operatorCertificates(pair)
	s.platformCertificates(ca)
}

func (s *described) operatorCertificates(pair m) {
	const list, one = "/api/v1/tenants/{id}/certificates", "/api/v1/tenants/{id}/certificates/{host}"
	id := map[string]string{"id": "team-a"}
	app := map[string]string{"id": "team-a", "host": "app.example.com"}
	s.auditor.send(apiCall{op: "GET " + list, args: id, want: 200})
	s.auditor.send(apiCall{op: "PUT " + one, args: app, want: 403, body: pair})
	s.admin.send(apiCall{op: "PUT " + one, args: app, want: 200, body: pair})
	s.auditor.send(apiCall{op: "GET " + one, args: app, want: 200})
	s.admin.send(apiCall{op: "POST " + one + "/revoke", args: app, want: 200, body: m{}})
	s.admin.send(apiCall{op: "DELETE " + one, args: app, want: 204})
	s.admin.send(apiCall{op: "POST " + one + "/renew", args: app, want: 202, body: m{}})
	s.auditor.send(apiCall{op: "GET /api/v1/tenants/{id}/hosts", args: id, want: 200})
}

func (s *described) platformCertificates(ca *testCA) {
	const list, one = "/api/v1/certificates", "/api/v1/certificates/{host}"
	chain, key := pemOf(ca.server("localhost", "*.localhost"))
	shared := map[string]string{"host": "localhost"}
	s.auditor.send(apiCall{op: "GET " + list, want: 200})
	s.admin.send(apiCall{op: "PUT " + one, args: shared, want: 200, body: m{"chain": chain, "key": key}})
	s.auditor.send(apiCall{op: "GET " + one, args: shared, want: 200})
	s.admin.send(apiCall{op: "POST " + one + "/revoke", args: shared, want: 200, body: m{}})
	s.admin.send(apiCall{op: "DELETE " + one, args: shared, want: 204})
	s.admin.send(apiCall{op: "POST " + one + "/renew", args: shared, want: 202, body: m{}})
}
