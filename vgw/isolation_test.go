package vgw_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/tenant"
)

// cursorOf returns the cursor of a page's end.
func cursorOf(t *testing.T, a answer) string {
	t.Helper()
	var page struct {
		Next string `json:"next_cursor"`
	}
	if err := json.Unmarshal([]byte(a.body), &page); err != nil || page.Next == "" {
		t.Fatalf("no cursor in %d %s", a.status, a.body)
	}
	return page.Next
}

// bytes returns all of an answer, for comparison.
func (a answer) bytes() string {
	var lines []string
	for name, values := range a.header {
		lines = append(lines, fmt.Sprintf("%s: %s", name, strings.Join(values, ",")))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d\n%s\n\n%s", a.status, strings.Join(lines, "\n"), a.body)
}

// twoTenants is a world with team-a and team-b, each with objects of its own names of every kind, and two servers for a
// second page.
func twoTenants(t *testing.T) *world {
	w := full(t, withSandboxes(newStage()))
	w.run(t)
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Mcp-Session-Id", "upstream-session")
		_, _ = io.WriteString(rw, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	w.ids = map[tenant.ID]map[string]string{}
	for id, x := range map[tenant.ID]string{"team-a": "of-a", "team-b": "of-b"} {
		w.store.add(id)
		w.addServer(t, id, x, url)
		w.addServer(t, id, "both", url)
		admin := w.principal(id, tenant.Admin)
		make := func(path, body, field string) string {
			return w.must(t, id, admin, post(path, strings.ReplaceAll(body, "OF", x)), 201)[field].(string)
		}
		ids := map[string]string{"{name}": x, "{server}": x}
		ids["{key}"] = make("/api/v1/keys", `{"name":"key-OF"}`, "id")
		ids["{authenticator}"] = make("/api/v1/authenticators", `{"name":"idp-OF","type":"kubernetes","kubernetes":{}}`, "name")
		ids["{member}"] = make("/api/v1/members", `{"kind":"user","authenticator":"idp-OF","name":"alice","role":"viewer"}`, "id")
		ids["{bot}"] = make("/api/v1/bots", `{"name":"bot-OF"}`, "id")
		make("/api/v1/bots/bot-"+x+"/keys", `{}`, "id")
		ids["{grant}"] = make("/api/v1/grants", `{"to":"user:idp-OF/alice","action":"mcp.call","object":"server/OF"}`, "id")
		ids["{sandbox}"] = make("/api/v1/sandboxes", `{"name":"OF","command":["sleep","1h"]}`, "name")
		w.must(t, id, admin, get("/api/v1/sandboxes/"+x+"/wait?for=running"), 200)
		ids["{digest}"] = make("/api/v1/policies", `{"modules":{"OF.rego":"package polygate.authz\n\nallow := true\n"}}`, "digest")
		w.must(t, id, admin, del("/api/v1/policies/active"), 204)
		ids["{host}"] = w.haveHost(t, id, x+".example.com")
		w.must(t, id, admin, post("/api/v1/hosts", `{"host":"next-`+x+`.example.com"}`), 201)
		w.must(t, id, admin, pair("CHAIN of "+x, "KEY of "+x).to(ids["{host}"]), 200)
		w.ids[id] = ids
	}
	return w
}

// state returns what a tenant has, as its admin sees it.
func (w *world) state(t *testing.T, id tenant.ID) string {
	var all []string
	for _, path := range []string{"servers", "keys", "authenticators", "members", "bots", "grants", "policies", "hosts", "certificates", "sandboxes"} {
		got := w.as(tenant.Admin, id, get("/api/v1/"+path))
		if got.status != 200 || strings.Contains(got.body, `"items":[]`) {
			t.Fatalf("%s of %s: %d %s", path, id, got.status, got.body)
		}
		all = append(all, got.body)
	}
	return strings.Join(all, "")
}

// probe is one way to use a route with a foreign thing, and the same with a thing that is nowhere.
type probe struct {
	name            string
	foreign, absent request
}

// nowhere are ids of things that nobody has.
func nowhere() map[string]string {
	const id = "3b241101-e2bb-4255-8caf-4136c566a962"
	return map[string]string{
		"{name}": "none", "{server}": "none", "{key}": id, "{member}": id, "{bot}": id, "{grant}": id, "{authenticator}": "idp-no-x",
		"{digest}": "sha256:" + strings.Repeat("0", 64), "{host}": "of-none.example.com",
		"{sandbox}": "none",
	}
}

// fill puts values in the parameters of a pattern.
func fill(pattern string, values map[string]string) string {
	for param, v := range values {
		pattern = strings.ReplaceAll(pattern, param, v)
	}
	return pattern
}

// probes makes the probes of a route from its pattern: B's objects in its parameters and its body, B's cursor in its query,
// B's session in its header. A new kind of parameter has to be made known to twoTenants and nowhere.
func probes(t *testing.T, w *world, r exchange.Route) []probe {
	t.Helper()
	theirs, none, own := fill(r.Pattern, w.ids["team-b"]), fill(r.Pattern, nowhere()), fill(r.Pattern, w.ids["team-a"])
	if strings.Contains(theirs+none, "{") {
		t.Fatalf("%s has a parameter of an unknown kind: add what B has of it", r.Pattern)
	}
	var out []probe
	for _, q := range uses(t, r) {
		foreign, absent := q, q
		foreign.path, absent.path = theirs, none
		if theirs != none {
			foreign.body, absent.body = fill(q.body, w.ids["team-a"]), fill(q.body, w.ids["team-a"])
			out = append(out, probe{"B's object", foreign, absent})
		}
		foreign.path, absent.path = own, own
		if body := fill(q.body, w.ids["team-b"]); body != q.body {
			foreign.body, absent.body = body, fill(q.body, nowhere())
			out = append(out, probe{"B's object in the body", foreign, absent})
		}
		if r.Method == "GET" && theirs == none {
			foreign.path, absent.path = r.Pattern+"?cursor="+w.cursor(t, "team-b", r.Pattern), r.Pattern+"?cursor=none"
			out = append(out, probe{"B's cursor", foreign, absent})
		}
		if r.Method == "" {
			foreign.header, absent.header = map[string]string{"Mcp-Session-Id": w.session("team-b", "of-b")}, map[string]string{"Mcp-Session-Id": "none"}
			out = append(out, probe{"B's session", foreign, absent})
		}
	}
	return out
}

// bodies are good bodies for the routes that take one. Parameters in them stand for objects.
func bodies() map[string][]string {
	const bundle = `{"modules":{"probe.rego":"package polygate.authz\n\nallow := true\n"}}`
	return map[string][]string{
		"POST /api/v1/servers":                       {`{"name":"probe","url":"https://x.test/"}`},
		"POST /api/v1/keys":                          {`{"name":"probe"}`},
		"POST /api/v1/members":                       {`{"kind":"user","authenticator":"{authenticator}","name":"bob","role":"viewer"}`},
		"POST /api/v1/members/revoke":                {`{"principal":"user:{authenticator}/alice"}`},
		"POST /api/v1/members/{member}/revoke":       {``, `{}`},
		"PATCH /api/v1/members/{member}":             {`{"role":"editor"}`},
		"POST /api/v1/bots":                          {`{"name":"probe"}`},
		"POST /api/v1/bots/{bot}/keys":               {`{}`},
		"POST /api/v1/authenticators":                {`{"name":"probe","type":"kubernetes","kubernetes":{}}`},
		"PUT /api/v1/authenticators/{authenticator}": {`{"type":"kubernetes","kubernetes":{"audiences":["x"]}}`},
		"POST /api/v1/grants": {
			`{"to":"bot:{bot}","action":"mcp.call","object":"server/both"}`, `{"to":"key:{key}","action":"mcp.call","object":"server/both"}`,
			`{"to":"user:{authenticator}/x","action":"mcp.call","object":"server/both"}`,
			`{"to":"user:{authenticator}/x","action":"sandbox.exec","object":"sandbox/{sandbox}"}`,
		},
		"PUT /api/v1/certificates/{host}":         {pair("CHAIN", "KEY").body},
		"POST /api/v1/certificates/{host}/renew":  {``, `{}`},
		"POST /api/v1/certificates/{host}/revoke": {``, `{}`, `{"reason":4}`},
		"POST /api/v1/sandboxes":                  {`{"name":"probe"}`},
		"POST /api/v1/sandboxes/{sandbox}/start":  {``},
		"POST /api/v1/sandboxes/{sandbox}/stop":   {``},
		"POST /api/v1/sandboxes/{sandbox}/exec":   {`{"command":["echo","hi"]}`},
		"POST /api/v1/hosts":                      {`{"host":"probe.example.net"}`},
		"POST /api/v1/hosts/{host}/verify":        {``, `{}`},
		"POST /api/v1/policies":                   {bundle},
		"POST /api/v1/policies/check":             {bundle},
		"POST /api/v1/policies/test":              {`{"bundle":` + bundle + `}`, `{"digest":"{digest}"}`},
		"POST /api/v1/policies/explain":           {`{"action":"server.read","resource":"server/{name}"}`},
		"POST /api/v1/policies/{digest}/activate": {``},
	}
}

// uses returns the requests that a route takes.
func uses(t *testing.T, r exchange.Route) []request {
	t.Helper()
	switch r.Method {
	case "":
		return []request{
			{method: "POST", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`},
			{method: "POST", body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`},
			{method: "GET"}, {method: "DELETE"}, {method: "PUT"},
		}
	case "GET", "DELETE":
		q := request{method: r.Method}
		if strings.HasSuffix(r.Pattern, "/exec") {
			q.query, q.header = "?command=echo&command=hi", map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}
		}
		return []request{q}
	}
	var out []request
	for _, body := range bodies()[r.Method+" "+r.Pattern] {
		out = append(out, request{method: r.Method, body: body})
	}
	if out == nil {
		t.Fatalf("%s %s has no body to be tried with: add one", r.Method, r.Pattern)
	}
	return out
}

// cursor returns a cursor of a list, or, where the route gives none, of another.
func (w *world) cursor(t *testing.T, id tenant.ID, path string) string {
	a := w.as(tenant.Admin, id, request{method: "GET", path: path + "?limit=1"})
	if !strings.Contains(a.body, "next_cursor") {
		a = w.as(tenant.Admin, id, request{method: "GET", path: "/servers?limit=1"})
	}
	return cursorOf(t, a)
}

func (w *world) session(id tenant.ID, server string) string {
	return w.as(tenant.Editor, id, request{method: "POST", path: "/servers/" + server + "/mcp", body: `{"jsonrpc":"2.0","id":1,"method":"initialize"}`}).header.Get("Mcp-Session-Id")
}

// X36: every route, with each thing of B's that it can name, answers A as for a thing that does not exist, byte for byte, in
// every role; and B's state is what it was. The matrix comes from the route table, so a new route joins by itself.
func TestX36ForeignIsAbsent(t *testing.T) {
	w := twoTenants(t)
	before := w.state(t, "team-b")
	n := 0
	for _, r := range w.mux.Routes() {
		for _, p := range probes(t, w, r) {
			for _, role := range []tenant.Role{tenant.Viewer, tenant.Editor, tenant.Admin} {
				n++
				foreign, absent := w.as(role, "team-a", p.foreign), w.as(role, "team-a", p.absent)
				if got, want := w.anonymize(foreign), w.anonymize(absent); got != want {
					t.Errorf("%s %s with %s as %s:\n%s\nbut for what is nowhere:\n%s", p.foreign.method, r.Pattern, p.name, role, got, want)
				}
				if foreign.status < 300 && p.name == "B's object" {
					t.Errorf("%s %s with %s as %s: %d", p.foreign.method, r.Pattern, p.name, role, foreign.status)
				}
			}
		}
	}
	if n < 130 {
		t.Errorf("only %d comparisons: the matrix is not what it should be", n)
	}
	if w.state(t, "team-b") != before {
		t.Error("B's state was changed from A")
	}
}

// anonymize takes out of an answer the name that the caller itself sent.
func (w *world) anonymize(a answer) string {
	var names []string
	for param, name := range nowhere() {
		names = append(names, name, w.ids["team-b"][param])
	}
	slices.SortFunc(names, func(a, b string) int { return len(b) - len(a) })
	out := a.bytes()
	for _, name := range names {
		out = strings.ReplaceAll(out, name, "…")
	}
	return out
}

// Should the front ever bring a principal of B to A's gateway, it can see nothing and do nothing there: what A has is
// to it like what nobody has.
func TestX36ForeignPrincipal(t *testing.T) {
	w := twoTenants(t)
	stranger := w.principal("team-b", tenant.Admin)
	before := w.state(t, "team-a")
	for _, r := range w.mux.Routes() {
		for _, q := range uses(t, r) {
			present, absent := q, q
			present.path, absent.path = fill(r.Pattern, w.ids["team-a"]), fill(r.Pattern, nowhere())
			present.body, absent.body = fill(q.body, w.ids["team-a"]), fill(q.body, nowhere())
			got := w.do("team-a", stranger, present)
			if got.bytes() != w.do("team-a", stranger, absent).bytes() {
				t.Errorf("%s %s tells a stranger what there is: %s", q.method, r.Pattern, got.bytes())
			}
			if got.status < 300 && got.body != `{"items":[]}`+"\n" {
				t.Errorf("%s %s serves a stranger: %s", q.method, r.Pattern, got.bytes())
			}
		}
	}
	if w.state(t, "team-a") != before {
		t.Error("A's state was changed by a stranger")
	}
}

// Every route admits: none answers with success unless a record of it was made, or a change committed. And each can
// succeed: a route that refuses whatever it is sent would pass the matrix too.
func TestEveryRouteAdmits(t *testing.T) {
	shared := twoTenants(t)
	for _, r := range shared.mux.Routes() {
		w := shared
		w.forgetEntries()
		if r.Method == "DELETE" || strings.HasSuffix(r.Pattern, "/stop") { // what it takes away, others need
			w = twoTenants(t)
		}
		if r.Pattern == "/api/v1/policies/active" {
			w.must(t, "team-a", w.principal("team-a", tenant.Admin), post("/api/v1/policies/"+w.ids["team-a"]["{digest}"]+"/activate", ""), 200)
		}
		good, seen := 0, map[string]bool{"": r.Pattern == "/api/v1/audit"} // which admits more of an admin
		for _, q := range uses(t, r) {
			q.path, q.body = fill(r.Pattern, w.ids["team-a"]), fill(q.body, w.ids["team-a"])
			before := len(w.entries())
			got := w.as(tenant.Admin, "team-a", q)
			n := len(w.entries()) - before
			if got.status < 300 && n < 1 || n > 2 {
				t.Errorf("%s %s: %d, %d records", q.method, r.Pattern, got.status, n)
			}
			if got.status < 300 {
				good++
			}
			for _, e := range w.entries() {
				seen[e.Action] = true
			}
		}
		if !seen[string(r.Action)] && !seen[""] {
			t.Errorf("%s %s admits something else than %s", r.Method, r.Pattern, r.Action)
		}
		if good == 0 {
			t.Errorf("%s %s: no use of it succeeds", r.Method, r.Pattern)
		}
	}
}
