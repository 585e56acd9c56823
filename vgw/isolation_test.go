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

// twoTenants is a world with team-a and team-b, each with servers of its own names and two for a second page.
func twoTenants(t *testing.T) *world {
	w := newWorld(t)
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.Header().Set("Mcp-Session-Id", "upstream-session")
		_, _ = io.WriteString(rw, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	}))
	for id, server := range map[tenant.ID]string{"team-a": "of-a", "team-b": "of-b"} {
		w.store.add(id)
		w.addServer(t, id, server, url)
		w.addServer(t, id, "both", url)
		w.as(tenant.Admin, id, request{method: "POST", path: "/api/v1/keys", body: `{"name":"key-` + server + `"}`})
	}
	return w
}

// probe is one way to use a route with a foreign thing, and the same with a thing that is nowhere.
type probe struct {
	name            string
	foreign, absent request
}

// probes makes the probes of a route from its pattern: B's objects in its parameters, B's cursor in its query, B's session
// in its header. A new kind of parameter has to be made known here.
func probes(t *testing.T, w *world, r exchange.Route) []probe {
	t.Helper()
	theirs, none := r.Pattern, r.Pattern
	for param, values := range map[string][2]string{
		"{name}": {"of-b", "no-such"}, "{server}": {"of-b", "no-such"}, "{key}": {w.keyID("team-b", "key-of-b"), "3b241101-e2bb-4255-8caf-4136c566a962"},
		"{member}": {"x", "y"}, "{bot}": {"x", "y"}, "{authenticator}": {"x", "y"}, "{grant}": {"x", "y"}, "{digest}": {"x", "y"},
	} {
		theirs, none = strings.ReplaceAll(theirs, param, values[0]), strings.ReplaceAll(none, param, values[1])
	}
	if strings.Contains(theirs, "{") {
		t.Fatalf("%s has a parameter of an unknown kind: add what B has of it", r.Pattern)
	}
	var out []probe
	for _, q := range uses(r) {
		foreign, absent := q, q
		foreign.path, absent.path = theirs, none
		if theirs != none {
			out = append(out, probe{"B's object", foreign, absent})
		}
		foreign.path, absent.path = own(r.Pattern), own(r.Pattern)
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

// own fills a pattern with what A has.
func own(pattern string) string {
	return strings.NewReplacer("{name}", "of-a", "{server}", "of-a", "{key}", "key-of-a").Replace(pattern)
}

// uses returns the requests that a route takes.
func uses(r exchange.Route) []request {
	switch r.Method {
	case "":
		return []request{
			{method: "POST", body: `{"jsonrpc":"2.0","id":1,"method":"ping"}`},
			{method: "POST", body: `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`},
			{method: "GET"}, {method: "DELETE"}, {method: "PUT"},
		}
	case "POST":
		return []request{{method: "POST", body: `{"name":"probe","url":"https://x.test/"}`}, {method: "POST", body: `{"name":"probe"}`}}
	}
	return []request{{method: r.Method}}
}

func (w *world) keyID(id tenant.ID, name string) string {
	k, _ := w.store.entry(id).Record.KeyByName(name)
	return k.ID
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
	before := w.as(tenant.Admin, "team-b", request{method: "GET", path: "/api/v1/servers"}).body + w.as(tenant.Admin, "team-b", request{method: "GET", path: "/api/v1/keys"}).body
	n := 0
	for _, r := range w.mux.Routes() {
		for _, p := range probes(t, w, r) {
			for _, role := range []tenant.Role{tenant.Viewer, tenant.Editor, tenant.Admin} {
				n++
				foreign, absent := w.as(role, "team-a", p.foreign), w.as(role, "team-a", p.absent)
				if foreign.bytes() != absent.bytes() {
					t.Errorf("%s %s with %s as %s:\n%s\nbut for what is nowhere:\n%s", p.foreign.method, r.Pattern, p.name, role, foreign.bytes(), absent.bytes())
				}
				if foreign.status < 300 && p.name == "B's object" {
					t.Errorf("%s %s with %s as %s: %d", p.foreign.method, r.Pattern, p.name, role, foreign.status)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d comparisons: the matrix is not what it should be", n)
	}
	after := w.as(tenant.Admin, "team-b", request{method: "GET", path: "/api/v1/servers"}).body + w.as(tenant.Admin, "team-b", request{method: "GET", path: "/api/v1/keys"}).body
	if before != after {
		t.Error("B's state was changed from A")
	}
}

// Should the front ever bring a principal of B to A's gateway, it can see nothing and do nothing there: what A has is
// to it like what nobody has.
func TestX36ForeignPrincipal(t *testing.T) {
	w := twoTenants(t)
	stranger := w.principal("team-b", tenant.Admin)
	before := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers"}).body + w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/keys"}).body
	for _, r := range w.mux.Routes() {
		for _, q := range uses(r) {
			present, absent := q, q
			present.path = own(r.Pattern)
			absent.path = strings.NewReplacer("{name}", "no-such", "{server}", "no-such", "{key}", "no-such").Replace(r.Pattern)
			got := w.do("team-a", stranger, present)
			if got.bytes() != w.do("team-a", stranger, absent).bytes() {
				t.Errorf("%s %s tells a stranger what there is: %s", q.method, r.Pattern, got.bytes())
			}
			if got.status < 300 && got.body != `{"items":[]}`+"\n" {
				t.Errorf("%s %s serves a stranger: %s", q.method, r.Pattern, got.bytes())
			}
		}
	}
	after := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers"}).body + w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/keys"}).body
	if before != after {
		t.Error("A's state was changed by a stranger")
	}
}

// Every route admits: none answers with success unless a record of it was made, or a change committed.
func TestEveryRouteAdmits(t *testing.T) {
	w := twoTenants(t)
	for _, r := range w.mux.Routes() {
		for _, q := range uses(r) {
			q.path = own(r.Pattern)
			before := len(w.rec.entries) + len(w.store.entriesA)
			got := w.as(tenant.Admin, "team-a", q)
			if got.status < 300 && len(w.rec.entries)+len(w.store.entriesA) != before+1 {
				t.Errorf("%s %s: %d, %d records", q.method, r.Pattern, got.status, len(w.rec.entries)+len(w.store.entriesA)-before)
			}
		}
	}
}
