package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/vgw"
)

// routes returns the route table of the virtual gateways, as data. A route that is added is tested without being named here.
func routes(t *testing.T) []exchange.Route {
	t.Helper()
	m, err := vgw.NewMux(vgw.Config{Claims: claims{}, Records: noRecords{}, Keys: noKeys{}, Guards: guard.NewSet(guard.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	return m.Routes()
}

type noRecords struct{ vgw.Records }
type noKeys struct{ seal.Wrapper }

// isolated is a gateway with two tenants of which team-a owns one object of each kind.
type isolated struct {
	*gateway
	c       *http.Client
	objects map[string]string // by the name of a path parameter: an id or name of team-a's
	session string            // of team-a at its server
	cursor  string            // of team-a's list of servers
}

func newIsolated(t *testing.T) *isolated {
	g := newSandboxGateway(t)
	g.start()
	s := &isolated{gateway: g, c: g.client()}
	endpoint := startMCP(t)
	g.write("tenants.yaml", "tenants:\n  - {id: team-a, hosts: [secret.example.org], catalog_file: a.yaml, quotas: {requests_per_second: 100000}}\n  - {id: team-b, quotas: {requests_per_second: 100000}}\n")
	g.write("a.yaml", fmt.Sprintf("servers:\n  - {name: secret-server, url: %q}\n  - {name: second-server, url: %q}\n", endpoint, endpoint))
	eventually(t, "the catalog of team-a", func() bool {
		return do(s.c, "GET", g.env["TEAM_A_URL"]+"/api/v1/servers/secret-server", nil, bearer(g.env["TEAM_A_KEY"])...).Status == 200
	})
	made := do(s.c, "POST", g.env["TEAM_A_URL"]+"/api/v1/keys", map[string]string{"name": "secret-key"}, bearer(g.env["TEAM_A_KEY"])...)
	if made.Status != 201 {
		t.Fatalf("key create: %d %s", made.Status, made.Body)
	}
	s.objects = map[string]string{"server": "secret-server", "name": "secret-server", "key": "secret-key", "authenticator": "secret-issuer", "bot": "secret-bot", "host": "secret.example.org"}
	for _, o := range []struct{ param, path, id, body string }{
		{"", "/api/v1/authenticators", "", `{"name":"secret-issuer","type":"oidc","oidc":{"issuer":"https://id.example.com"}}`},
		{"", "/api/v1/bots", "", `{"name":"secret-bot","role":"viewer"}`},
		{"member", "/api/v1/members", "id", `{"kind":"user","authenticator":"secret-issuer","name":"secret-user","role":"viewer"}`},
		{"grant", "/api/v1/grants", "id", `{"to":"user:secret-issuer/secret-user","action":"mcp.call","object":"server/secret-server"}`},
		{"sandbox", "/api/v1/sandboxes", "id", `{"name":"secret-sandbox","command":["sleep","3600"]}`},
		{"digest", "/api/v1/policies", "digest", `{"modules":{"a.rego":"package polygate.authz\n\nallow := true\n"}}`},
	} {
		made := do(s.c, "POST", g.env["TEAM_A_URL"]+o.path, o.body, bearer(g.env["TEAM_A_KEY"])...)
		var out map[string]any
		if err := json.Unmarshal(made.Body, &out); made.Status != 201 || err != nil {
			t.Fatalf("POST %s: %d %s", o.path, made.Status, made.Body)
		}
		if o.param != "" {
			s.objects[o.param] = out[o.id].(string)
		}
	}
	if got := do(s.c, "GET", s.sandbox()+"/wait?for=running&timeout=1m", nil, bearer(g.env["TEAM_A_KEY"])...); got.Status != 200 {
		t.Fatalf("the sandbox: %d %s", got.Status, got.Body)
	}
	init := do(s.c, "POST", g.env["TEAM_A_URL"]+"/servers/secret-server/mcp", initialize, append(bearer(g.env["TEAM_A_KEY"]), "Accept", "application/json, text/event-stream")...)
	if s.session = init.Header.Get("Mcp-Session-Id"); s.session == "" {
		t.Fatalf("initialize: %d %s", init.Status, init.Body)
	}
	list := do(s.c, "GET", g.env["TEAM_A_URL"]+"/api/v1/servers?limit=1", nil, bearer(g.env["TEAM_A_KEY"])...)
	if _, rest, ok := strings.Cut(string(list.Body), `"next_cursor":"`); ok {
		s.cursor, _, _ = strings.Cut(rest, `"`)
	}
	if s.cursor == "" {
		t.Fatalf("list: no cursor: %s", list.Body)
	}
	return s
}

// sandbox is the address of team-a's sandbox.
func (s *isolated) sandbox() string {
	return s.env["TEAM_A_URL"] + "/api/v1/sandboxes/" + s.objects["sandbox"]
}

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`

// path fills a pattern: real with team-a's objects, else with names that nothing has.
func (s *isolated) path(t *testing.T, pattern string, real bool) string {
	t.Helper()
	parts := strings.Split(pattern, "/")
	for i, p := range parts {
		if !strings.HasPrefix(p, "{") {
			continue
		}
		parts[i] = "never-there-at"
		if real {
			name := strings.Trim(p, "{}")
			if parts[i] = s.objects[name]; parts[i] == "" {
				t.Fatalf("%s: no object of team-a for {%s}: make one in newIsolated", pattern, name)
			}
		}
	}
	return strings.Join(parts, "/")
}

// body returns what a mutation sends: valid, so that only the tenant's boundary refuses it.
func body(r exchange.Route, method string) any {
	switch {
	case strings.HasSuffix(r.Pattern, "/mcp") && method == "POST":
		return `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	case method == "PUT" && strings.HasPrefix(r.Pattern, "/api/v1/authenticators/"):
		return `{"type":"oidc","oidc":{"issuer":"https://id.example.com"}}`
	case method == "PUT" && strings.HasPrefix(r.Pattern, "/api/v1/certificates/"):
		return `{"chain":"-----BEGIN CERTIFICATE-----","key":"-----BEGIN PRIVATE KEY-----"}`
	case method == "POST" && strings.HasSuffix(r.Pattern, "/exec"):
		return `{"command":["true"]}`
	case method == "POST" && r.Pattern == "/api/v1/hosts":
		return `{"host":"secret.example.org"}`
	case method == "PATCH" && strings.HasPrefix(r.Pattern, "/api/v1/members/"):
		return `{"role":"viewer"}`
	case method == "POST" || method == "PUT" || method == "PATCH":
		return `{}`
	}
	return nil
}

func methods(r exchange.Route) []string {
	if r.Method != "" {
		return []string{r.Method}
	}
	return []string{"GET", "POST", "DELETE"}
}

// probe is one way to ask for something of team-a's, and the same way to ask for what does not exist.
type probe struct {
	what            string
	url, absentURL  string
	head, otherHead []string // headers of the one and of the other
	want            int      // 0 = whatever it is, it is the same
}

// TestX36Isolation asks for every route with the credentials and objects of another tenant, in every way to name one, and
// compares status, headers and bytes with the answer for what does not exist.
func TestX36Isolation(t *testing.T) {
	s := newIsolated(t)
	asked := 0
	for _, r := range routes(t) {
		for _, method := range methods(r) {
			for _, p := range s.probes(t, r) {
				asked++
				head := append([]string{"Accept", "application/json, text/event-stream"}, p.head...)
				other := append([]string{"Accept", "application/json, text/event-stream"}, p.otherHead...)
				got, absent := do(s.c, method, p.url, body(r, method), head...), do(s.c, method, p.absentURL, body(r, method), other...)
				what := fmt.Sprintf("%s %s, %s", method, r.Pattern, p.what)
				compareAnswers(t, what, got, absent)
				if p.want != 0 && got.Status != p.want {
					t.Errorf("%s: %d %s, want %d", what, got.Status, got.Body, p.want)
				}
			}
		}
	}
	t.Logf("%d pairs over %d routes", asked, len(routes(t)))
	s.untouched(t)
}

func (s *isolated) probes(t *testing.T, r exchange.Route) []probe {
	a, b, shared := s.env["TEAM_A_URL"], s.env["TEAM_B_URL"], s.env["SHARED_URL"]
	real, never, foreign := s.path(t, r.Pattern, true), s.path(t, r.Pattern, false), 404
	switch r.Method + " " + r.Pattern {
	case "POST /api/v1/sandboxes/{sandbox}/exec": // who may not use it is not told whether it is there
		foreign = 403
	case "GET /api/v1/sandboxes/{sandbox}/exec": // no upgrade is asked for, which is looked at first
		real, never, foreign = real+"?command=true", never+"?command=true", 400
	}
	keyB := bearer(s.env["TEAM_B_KEY"])
	nobody := bearer("pgk_nobody")
	with := func(h []string, more ...string) []string { return append(append([]string(nil), h...), more...) }
	list := []probe{
		{"B's key at A's host", a + real, a + never, keyB, nobody, 401},
		{"no credential at A's host", a + real, a + never, nil, nobody, 401},
		{"B's key under A's path", shared + "/tenant/team-a" + real, shared + "/tenant/absent" + never, keyB, keyB, 401},
		{"no credential under A's path", shared + "/tenant/team-a" + real, shared + "/tenant/absent" + never, nil, nobody, 401},
		{"B's key and A in the header", shared + real, shared + never, with(keyB, "X-Tenant-ID", "team-a"), with(keyB, "X-Tenant-ID", "absent"), 401},
		{"B's key, B's path, A in the header", shared + "/tenant/team-b" + real, shared + "/tenant/team-b" + never, with(keyB, "X-Tenant-ID", "team-a"), with(keyB, "X-Tenant-ID", "absent"), 403},
		{"B's key, B's host, A's path", b + "/tenant/team-a" + real, b + "/tenant/absent" + never, keyB, keyB, 403},
	}
	if real != never {
		list = append(list, probe{"A's object at B", b + real, b + never, keyB, keyB, foreign})
	}
	if strings.Contains(r.Pattern, "{sandbox}") {
		named := strings.Replace(real, s.objects["sandbox"], "secret-sandbox", 1)
		list = append(list, probe{"A's sandbox by its name at B", b + named, b + never, keyB, keyB, foreign})
	}
	if strings.HasSuffix(r.Pattern, "/mcp") {
		list = append(list, probe{"A's session at B", b + real, b + never, with(keyB, "Mcp-Session-Id", s.session), with(keyB, "Mcp-Session-Id", "never"), 404})
	}
	if strings.HasSuffix(r.Pattern, "/servers") {
		list = append(list, probe{"A's cursor at B", b + real + "?cursor=" + s.cursor, b + real + "?cursor=never", keyB, keyB, 0})
	}
	return list
}

// compareAnswers holds two answers to be the same but for what every answer has of its own.
func compareAnswers(t *testing.T, what string, got, absent answer) {
	t.Helper()
	if got.Err != nil || absent.Err != nil {
		t.Fatalf("%s: %v, %v", what, got.Err, absent.Err)
	}
	for _, a := range []answer{got, absent} {
		for _, own := range []string{"X-Request-Id", "Date"} {
			if a.Header.Get(own) == "" {
				t.Errorf("%s: no %s", what, own)
			}
			a.Header.Del(own)
		}
	}
	for _, a := range []answer{got, absent} { // names the path that was asked for, whatever is there (RFC 9728 §5.1)
		if v, _, ok := strings.Cut(a.Header.Get("Www-Authenticate"), "/.well-known/oauth-protected-resource"); ok {
			a.Header.Set("Www-Authenticate", v)
		}
	}
	if id := []byte(`"request_id":"`); bytes.Contains(got.Body, id) { // only where it is not a refusal
		got.Body, absent.Body = cutRequestID(got.Body), cutRequestID(absent.Body)
		got.Header.Del("Content-Length")
		absent.Header.Del("Content-Length")
	}
	if got.Status != absent.Status || !bytes.Equal(got.Body, absent.Body) || fmt.Sprint(got.Header) != fmt.Sprint(absent.Header) {
		t.Errorf("%s:\n%d %v\n%s\nabsent:\n%d %v\n%s", what, got.Status, got.Header, got.Body, absent.Status, absent.Header, absent.Body)
	}
}

func cutRequestID(b []byte) []byte {
	before, rest, ok := bytes.Cut(b, []byte(`"request_id":"`))
	if !ok {
		return b
	}
	_, after, _ := bytes.Cut(rest, []byte(`"`))
	return append(append([]byte(nil), before...), after...)
}

// untouched holds that nothing that was asked changed team-a.
func (s *isolated) untouched(t *testing.T) {
	key := bearer(s.env["TEAM_A_KEY"])
	for _, path := range []string{"/api/v1/servers/secret-server", "/api/v1/servers/second-server"} {
		if got := do(s.c, "GET", s.env["TEAM_A_URL"]+path, nil, key...); got.Status != 200 {
			t.Errorf("%s afterwards: %d %s", path, got.Status, got.Body)
		}
	}
	if got := do(s.c, "GET", s.sandbox(), nil, key...); !strings.Contains(string(got.Body), `"state":"Running"`) {
		t.Errorf("the sandbox afterwards: %d %s", got.Status, got.Body)
	}
	if got := do(s.c, "GET", s.env["TEAM_A_URL"]+"/api/v1/keys", nil, key...); !strings.Contains(string(got.Body), "secret-key") {
		t.Errorf("keys afterwards: %s", got.Body)
	}
}

// TestX41DeletedTenantLeavesNothing deletes a tenant and makes one of the same id: no key, server or session id of the
// old one is worth anything.
func TestX41DeletedTenantLeavesNothing(t *testing.T) {
	g := newGateway(t, twoTenants)
	g.start()
	c, endpoint := g.client(), startMCP(t)
	create := func() []string {
		if got := g.operator(c, "POST", "/api/v1/tenants", map[string]any{"id": "phoenix"}); got.Status != 201 {
			t.Fatalf("create: %d %s", got.Status, got.Body)
		}
		made := g.operator(c, "POST", "/api/v1/tenants/phoenix/keys", map[string]any{"name": "k", "role": "admin"})
		_, rest, _ := strings.Cut(string(made.Body), `"key":"`)
		key, _, _ := strings.Cut(rest, `"`)
		return bearer(key)
	}
	own := strings.Replace(g.env["TEAM_A_URL"], "team-a", "phoenix", 1)
	accept := []string{"Accept", "application/json, text/event-stream"}

	old := create()
	if got := do(c, "POST", own+"/api/v1/servers", map[string]any{"name": "s", "url": endpoint}, old...); got.Status != 201 {
		t.Fatalf("server: %d %s", got.Status, got.Body)
	}
	session := do(c, "POST", own+"/servers/s/mcp", initialize, append(accept, old...)...).Header.Get("Mcp-Session-Id")
	if session == "" {
		t.Fatal("no session")
	}
	if got := g.operator(c, "DELETE", "/api/v1/tenants/phoenix", nil); got.Status != 204 {
		t.Fatalf("delete: %d %s", got.Status, got.Body)
	}
	if got := do(c, "GET", g.env["SHARED_URL"]+"/tenant/phoenix/servers", nil, old...); got.Status != 401 {
		t.Errorf("the deleted tenant's key: %d %s", got.Status, got.Body)
	}
	fresh := create()
	if got := do(c, "GET", own+"/servers", nil, old...); got.Status != 401 {
		t.Errorf("the old key at the new tenant: %d %s", got.Status, got.Body)
	}
	if got := do(c, "GET", own+"/servers", nil, fresh...); got.Status != 200 || strings.Contains(string(got.Body), `"s"`) {
		t.Errorf("the new tenant's servers: %d %s", got.Status, got.Body)
	}
	if got := do(c, "POST", own+"/api/v1/servers", map[string]any{"name": "s", "url": endpoint}, fresh...); got.Status != 201 {
		t.Fatalf("server of the new tenant: %d %s", got.Status, got.Body)
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	if got := do(c, "POST", own+"/servers/s/mcp", call, append(append(accept, fresh...), "Mcp-Session-Id", session)...); got.Status != 404 {
		t.Errorf("the old session at the new tenant: %d %s", got.Status, got.Body)
	}
}
