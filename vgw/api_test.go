package vgw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

const goodServer = `{"name":"s1","url":"https://mcp.example.com/mcp?token=sesame","headers":{"authorization":"Bearer hush","X-Team":"a"},"timeout_seconds":20}`

func TestServersStory(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")

	created := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/servers", body: goodServer})
	if created.status != 201 || created.header.Get("Location") != "https://t.test/api/v1/servers/s1" {
		t.Fatalf("create: %d %v %s", created.status, created.header, created.body)
	}
	for _, secret := range []string{"hush"} {
		if strings.Contains(created.body, secret) || strings.Contains(w.store.dump(), secret) {
			t.Errorf("a header's value is shown or stored in the clear:\n%s\n%s", created.body, w.store.dump())
		}
	}
	got := w.as(tenant.Viewer, "team-a", request{method: "GET", path: "/api/v1/servers/s1"})
	if got.status != 200 || strings.Contains(got.body, "sesame") || !strings.Contains(got.body, `"headers":["Authorization","X-Team"]`) {
		t.Errorf("a viewer's get: %d %s", got.status, got.body)
	}
	if got.header.Get("Etag") != created.header.Get("Etag") || got.header.Get("Etag") == "" {
		t.Errorf("ETag = %q, at creation %q", got.header.Get("Etag"), created.header.Get("Etag"))
	}
	list := w.as(tenant.Viewer, "team-a", request{method: "GET", path: "/servers"})
	if want := `{"items":[{"name":"s1","url":"https://t.test/servers/s1/mcp","transport":"streamable-http"}]}` + "\n"; list.body != want {
		t.Errorf("GET /servers = %s, want %s", list.body, want)
	}
	stale := w.as(tenant.Admin, "team-a", request{method: "DELETE", path: "/api/v1/servers/s1", header: map[string]string{"If-Match": `"1"`}})
	if stale.status != 412 {
		t.Errorf("delete with a stale If-Match: %d", stale.status)
	}
	gone := w.as(tenant.Admin, "team-a", request{method: "DELETE", path: "/api/v1/servers/s1", header: map[string]string{"If-Match": got.header.Get("Etag")}})
	if gone.status != 204 || gone.body != "" {
		t.Errorf("delete: %d %s", gone.status, gone.body)
	}
	w.addServer(t, "team-a", "s1", "https://x.test/")
	again := w.as(tenant.Admin, "team-a", request{method: "DELETE", path: "/api/v1/servers/s1", header: map[string]string{"If-Match": got.header.Get("Etag")}})
	if again.status != 412 {
		t.Errorf("the ETag of a deleted server fits its successor: %d", again.status)
	}
}

// A change is durable before it is answered: another replica, or this one after a restart, has it.
func TestServersSurviveAnotherMux(t *testing.T) {
	w := newWorld(t)
	e := w.store.add("team-a")
	w.addServer(t, "team-a", "s1", "https://x.test/")
	before := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/s1"})
	w.store.lose(e.Scope)
	after := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/s1"})
	if before.body != after.body || after.status != 200 {
		t.Errorf("before %s, after %s", before.body, after.body)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.store.edit("team-a", func(r *tenant.Record) { r.Quotas.MaxServers = 2 })
	w.addServer(t, "team-a", "taken", "https://x.test/")
	if err := w.apply("team-a", "catalogs/a.yaml", decl("filed", "https://f.test/")); err != nil {
		t.Fatal(err)
	}
	post := func(body string) request { return request{method: "POST", path: "/api/v1/servers", body: body} }
	key := func(body string) request { return request{method: "POST", path: "/api/v1/keys", body: body} }
	server := func(field string) request { return post(`{"name":"n","url":"https://x.test/",` + field + `}`) }
	url := func(u string) request { return post(fmt.Sprintf(`{"name":"n","url":%q}`, u)) }
	for _, tc := range []struct {
		name   string
		role   tenant.Role
		q      request
		status int
		says   string
	}{
		{"unknown path", tenant.Admin, request{method: "GET", path: "/nope"}, 404, ""},
		{"an escape in a fixed segment", tenant.Admin, request{method: "GET", path: "/api/v1/%77hoami"}, 404, ""},
		{"trailing slash", tenant.Admin, request{method: "GET", path: "/servers/"}, 404, ""},
		{"doubled slash", tenant.Admin, request{method: "GET", path: "//servers"}, 404, ""},
		{"an escaped slash in a name", tenant.Admin, request{method: "GET", path: "/api/v1/servers/a%2fb"}, 404, ""},
		{"wrong method", tenant.Admin, request{method: "PUT", path: "/api/v1/servers"}, 405, ""},
		{"not JSON", tenant.Admin, post(`{"name":`), 400, "offset"},
		{"unknown field", tenant.Admin, server(`"colour":1`), 400, `\"colour\"`},
		{"repeated field", tenant.Admin, server(`"name":"m"`), 400, `\"name\" appears twice`},
		{"a field in other case", tenant.Admin, server(`"URL":"https://y.test"`), 400, `\"URL\"`},
		{"trailing data", tenant.Admin, post(goodServer + `{}`), 400, "offset"},
		{"wrong kind", tenant.Admin, server(`"timeout_seconds":"5"`), 400, `\"timeout_seconds\"`},
		{"a body that is too large", tenant.Admin, post(`{"name":"` + strings.Repeat("a", 1<<20) + `"}`), 413, ""},
		{"another type", tenant.Admin, request{method: "POST", path: "/api/v1/servers", body: "{}", header: map[string]string{"Content-Type": "text/plain"}}, 415, ""},
		{"bad name", tenant.Admin, post(`{"name":"A_b","url":"https://x.test/"}`), 400, "name"},
		{"long name", tenant.Admin, post(`{"name":"` + strings.Repeat("a", 65) + `","url":"https://x.test/"}`), 400, "name"},
		{"relative URL", tenant.Admin, url("/mcp"), 400, "absolute"},
		{"another scheme", tenant.Admin, url("file:///etc/passwd"), 400, "absolute"},
		{"user info", tenant.Admin, url("https://u:p@x.test/"), 400, "user"},
		{"fragment", tenant.Admin, url("https://x.test/#f"), 400, "fragment"},
		{"backslash", tenant.Admin, url(`https://x.test\\@y.test/`), 400, "byte"},
		{"port 0", tenant.Admin, url("https://x.test:0/"), 400, "port"},
		{"empty port", tenant.Admin, url("https://x.test:/"), 400, "port"},
		{"escaped host", tenant.Admin, url("https://x%2etest/"), 400, ""},
		{"zone", tenant.Admin, url("http://[fe80::1%25eth0]/"), 400, ""},
		{"hop-by-hop header", tenant.Admin, server(`"headers":{"Connection":"x"}`), 400, "Connection"},
		{"Host", tenant.Admin, server(`"headers":{"hOsT":"x"}`), 400, "hOsT"},
		{"content header", tenant.Admin, server(`"headers":{"Content-Length":"1"}`), 400, "Content-Length"},
		{"protocol header", tenant.Admin, server(`"headers":{"mcp-session-id":"1"}`), 400, "mcp-session-id"},
		{"header name with a line break", tenant.Admin, server(`"headers":{"a\nb":"1"}`), 400, "header name"},
		{"header name with _", tenant.Admin, server(`"headers":{"X_Key":"1"}`), 400, "header name"},
		{"header value with a line break", tenant.Admin, server(`"headers":{"X-Key":"1\r\nHost: x"}`), 400, "control"},
		{"one header twice", tenant.Admin, server(`"headers":{"X-Key":"1","x-key":"2"}`), 400, "one header"},
		{"too many headers", tenant.Admin, server(`"headers":{` + manyHeaders(17) + `}`), 400, "17"},
		{"timeout", tenant.Admin, server(`"timeout_seconds":-1`), 400, "timeout_seconds"},
		{"name taken", tenant.Admin, post(`{"name":"taken","url":"https://x.test/"}`), 409, "already"},
		{"name taken by a file", tenant.Admin, post(`{"name":"filed","url":"https://x.test/"}`), 409, "catalogs/a.yaml"},
		{"delete a file's", tenant.Admin, request{method: "DELETE", path: "/api/v1/servers/filed"}, 409, "catalogs/a.yaml"},
		{"over the quota", tenant.Admin, post(`{"name":"third","url":"https://x.test/"}`), 409, "there are 2"},
		{"an editor adds a server", tenant.Editor, post(goodServer), 403, ""},
		{"a viewer deletes a server", tenant.Viewer, request{method: "DELETE", path: "/api/v1/servers/taken"}, 403, ""},
		{"a viewer deletes no server", tenant.Viewer, request{method: "DELETE", path: "/api/v1/servers/absent"}, 403, ""},
		{"absent server", tenant.Admin, request{method: "GET", path: "/api/v1/servers/absent"}, 404, ""},
		{"delete an absent server", tenant.Admin, request{method: "DELETE", path: "/api/v1/servers/absent"}, 404, ""},
		{"bad If-Match", tenant.Admin, request{method: "DELETE", path: "/api/v1/servers/taken", header: map[string]string{"If-Match": "x"}}, 400, "If-Match"},
		{"weak If-Match", tenant.Admin, request{method: "DELETE", path: "/api/v1/servers/taken", header: map[string]string{"If-Match": `W/"1"`}}, 412, ""},
		{"limit", tenant.Admin, request{method: "GET", path: "/api/v1/servers?limit=501"}, 400, "limit"},
		{"unknown query", tenant.Admin, request{method: "GET", path: "/api/v1/servers?limt=5"}, 400, "limt"},
		{"limit twice", tenant.Admin, request{method: "GET", path: "/servers?limit=5&limit=6"}, 400, "limit"},
		{"bad cursor", tenant.Admin, request{method: "GET", path: "/servers?cursor=AAAA"}, 400, "cursor"},
		{"empty cursor", tenant.Admin, request{method: "GET", path: "/servers?cursor="}, 400, "cursor"},
		{"key without name", tenant.Admin, key(`{}`), 400, "name"},
		{"key with a bad role", tenant.Admin, key(`{"name":"k","role":"root"}`), 400, "role"},
		{"key with a taken name", tenant.Admin, key(`{"name":"file-admin"}`), 409, "tenants.yaml"},
		{"key named like an id", tenant.Admin, key(`{"name":"3b241101-e2bb-4255-8caf-4136c566a962"}`), 400, "id"},
		{"an admin makes an admin's key", tenant.Admin, key(`{"name":"k","role":"admin"}`), 403, "ask a platform operator"},
		{"a key for a second", tenant.Admin, key(`{"name":"k","expires_in_seconds":1}`), 400, "expires_in_seconds"},
		{"a key for two years", tenant.Admin, key(`{"name":"k","expires_in_seconds":63072000}`), 400, "expires_in_seconds"},
		{"a key with two ends", tenant.Admin, key(`{"name":"k","expires_in_seconds":600,"expires":"2030-01-01T00:00:00Z"}`), 400, "use one"},
		{"a key that ended", tenant.Admin, key(`{"name":"k","expires":"2020-01-01T00:00:00Z"}`), 400, "expires"},
		{"an editor makes a key", tenant.Editor, key(`{"name":"k"}`), 403, ""},
		{"revoke a file's key", tenant.Admin, request{method: "DELETE", path: "/api/v1/keys/file-viewer"}, 409, "tenants.yaml"},
		{"revoke an absent key", tenant.Admin, request{method: "DELETE", path: "/api/v1/keys/absent"}, 404, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := w.store.dump()
			got := w.as(tc.role, "team-a", tc.q)
			if got.status != tc.status || !strings.Contains(got.body, tc.says) {
				t.Errorf("got %d %s\nwant %d and %q", got.status, got.body, tc.status, tc.says)
			}
			if w.store.dump() != before {
				t.Error("a refused request changed the store")
			}
		})
	}
}

func manyHeaders(n int) string {
	var h []string
	for i := range n {
		h = append(h, fmt.Sprintf(`"X-H%d":"v"`, i))
	}
	return strings.Join(h, ",")
}

func TestAllow(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	for path, want := range map[string]string{"/api/v1/servers": "GET, HEAD, POST", "/api/v1/keys/x": "DELETE", "/api/v1/servers/x": "DELETE, GET, HEAD"} {
		got := w.as(tenant.Admin, "team-a", request{method: "PATCH", path: path})
		if got.status != 405 || got.header.Get("Allow") != want {
			t.Errorf("PATCH %s: %d, Allow %q, want %q", path, got.status, got.header.Get("Allow"), want)
		}
	}
}

func TestKeysStory(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.as(tenant.Admin, "team-a", request{method: "GET", path: "/servers"}) // opens
	made := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/keys", body: `{"name":"ci","role":"viewer"}`})
	var k struct{ ID, Key, Role, Source, ResourceVersion string }
	if err := json.Unmarshal([]byte(made.body), &k); err != nil || made.status != 201 {
		t.Fatalf("create: %d %s", made.status, made.body)
	}
	if !strings.HasPrefix(k.Key, "pgk_") || k.Role != "viewer" || k.Source != "api" {
		t.Errorf("created %+v", k)
	}
	if stored, ok := w.store.entry("team-a").Record.KeyByHash(tenant.HashKey(k.Key)); !ok || stored.ID != k.ID {
		t.Error("the key's hash is not in the record")
	}
	if list := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/keys"}); strings.Contains(list.body, k.Key) || !strings.Contains(list.body, `"ci"`) {
		t.Errorf("list: %s", list.body)
	}
	if list := w.as(tenant.Viewer, "team-a", request{method: "GET", path: "/api/v1/keys"}); list.status != 200 || list.body != `{"items":[]}`+"\n" {
		t.Errorf("a viewer's list: %d %s", list.status, list.body)
	}
	gone := w.as(tenant.Admin, "team-a", request{method: "DELETE", path: "/api/v1/keys/" + k.ID, header: map[string]string{"If-Match": made.header.Get("Etag")}})
	if gone.status != 204 {
		t.Errorf("revoke by id: %d %s", gone.status, gone.body)
	}
	if _, ok := w.store.entry("team-a").Record.KeyByHash(tenant.HashKey(k.Key)); ok {
		t.Error("the revoked key is still in the record")
	}
	if n := len(w.store.entriesA); n < 2 || w.store.entriesA[n-1].Action != "key.revoke" || w.store.entriesA[n-2].Action != "key.create" {
		t.Errorf("records of the changes: %+v", w.store.entriesA)
	}
}

// A key that is revoked, or loses its role, while a request of it runs leaves no other key behind, and takes none away.
func TestRevokedCallerChangesNoKeys(t *testing.T) {
	for name, change := range map[string]func(*tenant.Record){
		"revoked": func(r *tenant.Record) { r.Keys = r.Keys[:2] },
		"demoted": func(r *tenant.Record) { r.Keys[2].Role = tenant.Editor },
	} {
		for _, q := range []request{
			{method: "POST", path: "/api/v1/keys", body: `{"name":"heir"}`},
			{method: "DELETE", path: "/api/v1/keys/ci"},
		} {
			w := newWorld(t)
			w.store.add("team-a")
			w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/keys", body: `{"name":"ci"}`})
			p := w.principal("team-a", tenant.Admin)
			w.store.beforeUpdate(func(tenant.ID) error {
				w.store.beforeUpdate(nil)
				w.store.edit("team-a", change)
				return nil
			})
			changes := len(w.store.entriesA) + 1 // the revocation
			got := w.do("team-a", p, q)
			if got.status != 401 || len(w.store.entriesA) != changes {
				t.Errorf("%s, %s: %d %s, keys %+v", name, q.method, got.status, got.body, w.store.entry("team-a").Record.Keys)
			}
		}
	}
}

// Who has left, or had to, before its change began makes none.
func TestLeaverChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	w.addServer(t, "team-a", "s", "https://x.test/")
	revoked := fault.New(fault.Unauthenticated, "revoked")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(revoked)
	before := w.store.dump()
	for _, q := range []request{
		{method: "POST", path: "/api/v1/servers", body: goodServer},
		{method: "DELETE", path: "/api/v1/servers/s"},
	} {
		if _, err := w.decide(ctx, "team-a", w.principal("team-a", tenant.Admin), q); !errors.Is(err, revoked) {
			t.Errorf("%s: %v", q.method, err)
		}
	}
	if w.store.dump() != before {
		t.Error("a leaver's change was made")
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	for i := range 7 {
		w.addServer(t, "team-a", fmt.Sprintf("s%d", 6-i), "https://x.test/")
	}
	var names, cursors []string
	path := "/api/v1/servers?limit=3"
	for path != "" {
		got := w.as(tenant.Admin, "team-a", request{method: "GET", path: path})
		var page struct {
			Items []struct{ Name string }
			Next  string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(got.body), &page); err != nil {
			t.Fatalf("%d %s", got.status, got.body)
		}
		for _, s := range page.Items {
			names = append(names, s.Name)
		}
		if path = ""; page.Next != "" {
			cursors = append(cursors, page.Next)
			path = "/api/v1/servers?limit=3&cursor=" + page.Next
		}
	}
	if got := strings.Join(names, " "); got != "s0 s1 s2 s3 s4 s5 s6" {
		t.Errorf("pages hold %s", got)
	}
	for name, got := range map[string]answer{
		"another principal's": w.as(tenant.Viewer, "team-a", request{method: "GET", path: "/api/v1/servers?cursor=" + cursors[0]}),
		"another route's":     w.as(tenant.Admin, "team-a", request{method: "GET", path: "/servers?cursor=" + cursors[0]}),
	} {
		if got.status != 400 {
			t.Errorf("%s cursor: %d %s", name, got.status, got.body)
		}
	}
}

// Commit first, then memory (invariant 4): what failed to commit is not served, and what committed though the answer was
// lost is.
func TestFailedCommitChangesNoMemory(t *testing.T) {
	for _, applied := range []bool{false, true} {
		w := newWorld(t)
		w.store.add("team-a")
		w.addServer(t, "team-a", "s0", "https://x.test/")
		w.store.onCommit = func(tenant.Scope, []tenant.Write) (before, after error) {
			if applied {
				return nil, errors.New("connection lost")
			}
			return errors.New("connection refused"), nil
		}
		got := w.as(tenant.Admin, "team-a", request{method: "POST", path: "/api/v1/servers", body: goodServer})
		if got.status != 500 || strings.Contains(got.body, "connection") {
			t.Errorf("create: %d %s", got.status, got.body)
		}
		if e := w.rec.last(t, "server.create"); e.Outcome != "internal" {
			t.Errorf("the failed change is recorded as %q", e.Outcome)
		}
		w.store.onCommit = nil
		want := map[bool]int{false: 404, true: 200}[applied]
		if got := w.as(tenant.Admin, "team-a", request{method: "GET", path: "/api/v1/servers/s1"}); got.status != want {
			t.Errorf("applied %v: get answers %d, want %d", applied, got.status, want)
		}
	}
}

func TestWhoamiAndMetrics(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	got := w.as(tenant.Editor, "team-a", request{method: "GET", path: "/api/v1/whoami"})
	if got.status != 200 || !strings.Contains(got.body, `"tenant":"team-a"`) || !strings.Contains(got.body, `"role":"editor"`) {
		t.Errorf("whoami: %d %s", got.status, got.body)
	}
	if got := w.as(tenant.Viewer, "team-a", request{method: "GET", path: "/metrics"}); got.body != "# metrics of team-a\n" {
		t.Errorf("metrics: %d %s", got.status, got.body)
	}
	if w.store.acquired != 0 {
		t.Error("routes that any replica can serve claimed the tenant")
	}
}

// A key made for a tenant that was deleted and made again meanwhile is made for neither.
func TestKeyOfATenantThatWasReplaced(t *testing.T) {
	w := newWorld(t)
	w.store.add("team-a")
	p := w.principal("team-a", tenant.Admin)
	w.store.beforeUpdate(func(id tenant.ID) error {
		w.store.beforeUpdate(nil)
		w.store.erase(id)
		w.store.add(id)
		return nil
	})
	got := w.do("team-a", p, request{method: "POST", path: "/api/v1/keys", body: `{"name":"k"}`})
	if _, ok := w.store.entry("team-a").Record.KeyByName("k"); ok || got.status != 404 {
		t.Errorf("got %d %s; the new tenant has the key: %v", got.status, got.body, ok)
	}
}
