package admin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

const keyHash = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestTenantLife follows one tenant from creation to deletion, with the audit record of each change.
func TestTenantLife(t *testing.T) {
	f := newFixture(t)
	created := f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","display_name":"Team A","hosts":["a.example.com"],
		"quotas":{"max_servers":5},"api_keys":[{"name":"ci","key_hash":"`+keyHash+`"}]}`)
	a := created.tenant(t)
	if got := created.header.Get("Location"); got != "/api/v1/tenants/team-a" {
		t.Errorf("Location = %q", got)
	}
	if got, want := created.header.Get("Etag"), `"`+a.ResourceVersion+`"`; got != want {
		t.Errorf("ETag = %s, want %s", got, want)
	}
	if a.UID == "" || a.State != tenant.StateActive || a.Mode != tenant.ModeVirtual || a.Source != tenant.SourceAPI {
		t.Errorf("defaults: %+v", a)
	}
	if len(a.Keys) != 1 || a.Keys[0].Role != tenant.Editor || a.Keys[0].KeyHash.String() != keyHash || a.Keys[0].ID == "" {
		t.Errorf("keys: %+v", a.Keys)
	}

	got := f.want(200, "GET", "/api/v1/tenants/team-a", "")
	if got.body != created.body {
		t.Errorf("get = %s, want what creation answered: %s", got.body, created.body)
	}
	put := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"A"}`, "If-Match", got.header.Get("Etag")).tenant(t)
	if put.DisplayName != "A" || len(put.Hosts) != 0 || put.Quotas != (tenant.Quotas{}) || len(put.Keys) != 1 || put.UID != a.UID {
		t.Errorf("put replaces all but keys and identity: %+v", put)
	}
	if again := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"A"}`).tenant(t); again.ResourceVersion != put.ResourceVersion {
		t.Errorf("a put of the same moved the version from %s to %s", put.ResourceVersion, again.ResourceVersion)
	}
	if s := f.want(200, "POST", "/api/v1/tenants/team-a/suspend", `{"reason":"unpaid"}`).tenant(t); s.State != tenant.StateSuspended || s.SuspendReason != "unpaid" {
		t.Errorf("suspend: %+v", s)
	}
	if s := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"B"}`).tenant(t); s.State != tenant.StateSuspended {
		t.Errorf("a put without state resumed the tenant: %+v", s)
	}
	if s := f.want(200, "POST", "/api/v1/tenants/team-a/resume", "").tenant(t); s.State != tenant.StateActive || s.SuspendReason != "" {
		t.Errorf("resume: %+v", s)
	}
	f.want(204, "DELETE", "/api/v1/tenants/team-a", "")
	f.want(404, "GET", "/api/v1/tenants/team-a", "")

	var actions []string
	for _, e := range f.store.committed() {
		if e.Tenant != "team-a" || e.Principal != "operator:token" || e.Resource != "tenant/team-a" || e.Outcome != audit.OutcomeOK || e.RequestID == "" {
			t.Errorf("entry: %+v", e)
		}
		actions = append(actions, e.Action)
	}
	if got, want := fmt.Sprint(actions), "[tenant.create tenant.update tenant.suspend tenant.update tenant.resume tenant.delete]"; got != want {
		t.Errorf("committed records: %s, want %s", got, want)
	}
}

func TestTenantErrors(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	big := `{"id":"x","display_name":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, tc := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		detail                   string // part of it
	}{
		{"a bad id", "POST", "/api/v1/tenants", `{"id":"Team"}`, nil, 400, `holds 'T'`},
		{"no id", "POST", "/api/v1/tenants", `{}`, nil, 400, "tenant id is empty"},
		{"a reserved id", "POST", "/api/v1/tenants", `{"id":"admin"}`, nil, 400, "reserved"},
		{"an id in use", "POST", "/api/v1/tenants", `{"id":"team-a"}`, nil, 409, ""},
		{"an id in use, sent again with other content", "POST", "/api/v1/tenants", `{"id":"team-a","display_name":"other"}`, []string{"Idempotency-Key", "1"}, 409, ""},
		{"a bad id in the path", "GET", "/api/v1/tenants/a--b", "", nil, 400, "holds --"},
		{"an escaped traversal in the path", "GET", "/api/v1/tenants/a%2F..%2Fb", "", nil, 400, `holds '/'`},
		{"an unknown tenant", "GET", "/api/v1/tenants/nobody", "", nil, 404, ""},
		{"an unknown tenant updated", "PUT", "/api/v1/tenants/nobody", `{}`, nil, 404, ""},
		{"an unknown tenant suspended", "POST", "/api/v1/tenants/nobody/suspend", "", nil, 404, ""},
		{"an unknown tenant deleted", "DELETE", "/api/v1/tenants/nobody", "", nil, 404, ""},
		{"an unknown path", "GET", "/api/v1/tenantz", "", nil, 404, ""},
		{"a final slash", "GET", "/api/v1/tenants/", "", nil, 404, ""},
		{"an unknown field", "POST", "/api/v1/tenants", `{"id":"x","color":1}`, nil, 400, "(/color): unknown field"},
		{"a field of another case", "POST", "/api/v1/tenants", `{"ID":"x"}`, nil, 400, "unknown field"},
		{"a field that the gateway sets", "POST", "/api/v1/tenants", `{"id":"x","uid":"1"}`, nil, 400, "leave it out"},
		{"a repeated field", "POST", "/api/v1/tenants", `{"id":"x","id":"y"}`, nil, 400, "duplicate"},
		{"trailing data", "POST", "/api/v1/tenants", `{"id":"x"}{}`, nil, 400, "at byte 10"},
		{"cut JSON", "POST", "/api/v1/tenants", `{"id":`, nil, 400, "byte 6"},
		{"a wrong type", "POST", "/api/v1/tenants", `{"id":"x","quotas":{"burst":"many"}}`, nil, 400, "(/quotas/burst): a JSON string"},
		{"invalid UTF-8", "POST", "/api/v1/tenants", "{\"id\":\"x\",\"display_name\":\"\xff\"}", nil, 400, "UTF-8"},
		{"no body", "PUT", "/api/v1/tenants/team-a", "", []string{"Content-Type", "application/json"}, 400, "empty"},
		{"a form", "POST", "/api/v1/tenants", `{"id":"x"}`, []string{"Content-Type", "", "Content-Type", "text/plain"}, 415, "application/json"},
		{"a body over its bound", "POST", "/api/v1/tenants", big, nil, 413, "1048576"},
		{"a bad key hash", "POST", "/api/v1/tenants", `{"id":"x","api_keys":[{"name":"k","key_hash":"pgk_abc"}]}`, nil, 400, "never write a key here"},
		{"a missing key hash", "POST", "/api/v1/tenants", `{"id":"x","api_keys":[{"name":"k"}]}`, nil, 400, "api_keys[0] has no key_hash"},
		{"a bad role", "POST", "/api/v1/tenants", `{"id":"x","api_keys":[{"name":"k","key_hash":"` + keyHash + `","role":"god"}]}`, nil, 400, `role "god" is unknown`},
		{"two keys of a name", "POST", "/api/v1/tenants", `{"id":"x","api_keys":[{"name":"k","key_hash":"` + keyHash + `"},{"name":"k","key_hash":"` + strings.Replace(keyHash, "0", "1", 1) + `"}]}`, nil, 409, "in use in this tenant"},
		{"an unknown mode", "POST", "/api/v1/tenants", `{"id":"x","mode":"magic"}`, nil, 400, "mode"},
		{"a reason without suspension", "POST", "/api/v1/tenants", `{"id":"x","suspend_reason":"y"}`, nil, 400, "suspend_reason"},
		{"a control character", "POST", "/api/v1/tenants", `{"id":"x","display_name":"a\u001b[31m"}`, nil, 400, "control character U+001B"},
		{"another tenant's id in the body", "PUT", "/api/v1/tenants/team-a", `{"id":"team-b"}`, nil, 400, "cannot be renamed"},
		{"an old version", "PUT", "/api/v1/tenants/team-a", `{}`, []string{"If-Match", `"99999"`}, 412, ""},
		{"an old version on delete", "DELETE", "/api/v1/tenants/team-a", "", []string{"If-Match", `"99999"`}, 412, ""},
		{"an old version on suspend", "POST", "/api/v1/tenants/team-a/suspend", "", []string{"If-Match", `"99999"`}, 412, ""},
		{"an old version on resume", "POST", "/api/v1/tenants/team-a/resume", "", []string{"If-Match", `"99999"`}, 412, ""},
		{"a version of 0 is not any version", "DELETE", "/api/v1/tenants/team-a", "", []string{"If-Match", `"0"`}, 412, "If-Match"},
		{"a weak tag", "DELETE", "/api/v1/tenants/team-a", "", []string{"If-Match", `W/"1"`}, 412, "If-Match"},
		{"a bad limit", "GET", "/api/v1/tenants?limit=0", "", nil, 400, "1 to 1000"},
		{"a bad cursor", "GET", "/api/v1/tenants?cursor=%21", "", nil, 400, "cursor"},
		{"an unknown query parameter", "GET", "/api/v1/tenants?page=2", "", nil, 400, `"page"`},
		{"a method that is not allowed", "PATCH", "/api/v1/tenants/team-a", `{}`, nil, 405, "GET, HEAD, PUT, DELETE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := *f
			f.t = t
			got := f.want(tc.status, tc.method, tc.path, tc.body, tc.header...)
			if !strings.Contains(got.detail(t), tc.detail) {
				t.Errorf("detail = %q, want it to hold %q", got.detail(t), tc.detail)
			}
			if ct := got.header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type = %q", ct)
			}
			if got.header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
	if allow := f.send("PATCH", "/api/v1/tenants/team-a", "").header.Get("Allow"); allow != "GET, HEAD, PUT, DELETE" {
		t.Errorf("Allow = %q", allow)
	}
	if n := len(f.store.committed()); n != 1 {
		t.Errorf("%d changes were committed, want the first alone", n)
	}
}

func TestFailedChangesAreRecorded(t *testing.T) {
	f := newFixture(t)
	f.want(404, "DELETE", "/api/v1/tenants/nobody", "")
	list := f.records.all()
	if len(list) != 1 || list[0].Outcome != "not-found" || list[0].Action != "tenant.delete" || list[0].Resource != "tenant/nobody" || list[0].Tenant != "" {
		t.Errorf("records: %+v", list)
	}
}

func TestIfMatchWithSeveralTags(t *testing.T) {
	f := newFixture(t)
	now := f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`).header.Get("Etag")
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"x"}`, "If-Match", `"777", `+now)
	f.want(412, "PUT", "/api/v1/tenants/team-a", `{"display_name":"y"}`, "If-Match", `"777", `+now)
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"y"}`, "If-Match", "*")
}

// TestCreateAgain: a client that lost the answer sends its creation again, with an idempotency key.
func TestCreateAgain(t *testing.T) {
	f := newFixture(t)
	body := `{"id":"team-a","hosts":["a.example.com"],"api_keys":[{"name":"ci","key_hash":"` + keyHash + `"}]}`
	first := f.want(201, "POST", "/api/v1/tenants", body, "Idempotency-Key", "k1")
	second := f.want(201, "POST", "/api/v1/tenants", body, "Idempotency-Key", "k1")
	if first.body != second.body {
		t.Errorf("second = %s, want %s", second.body, first.body)
	}
	f.want(409, "POST", "/api/v1/tenants", body)
	if n := len(f.store.committed()); n != 1 {
		t.Errorf("%d changes were committed, want 1", n)
	}
}

func TestFileDeclaredTenant(t *testing.T) {
	f := newFixture(t)
	h := tenant.HashKey("from the file")
	f.declare(&tenant.Record{ID: "team-f", Keys: []tenant.Key{{ID: "1", Name: "filed", Hash: h, Role: tenant.Viewer, Source: tenant.SourceFile}}})

	for _, op := range [][3]string{
		{"PUT", "/api/v1/tenants/team-f", `{"display_name":"x"}`},
		{"DELETE", "/api/v1/tenants/team-f", ""},
		{"DELETE", "/api/v1/tenants/team-f/keys/filed", ""},
	} {
		if got := f.want(409, op[0], op[1], op[2]); !strings.Contains(got.detail(t), "tenants.yaml") {
			t.Errorf("%s %s: %q does not name the file", op[0], op[1], got.detail(t))
		}
	}
	f.want(200, "POST", "/api/v1/tenants/team-f/suspend", `{"reason":"x"}`)
	f.want(200, "POST", "/api/v1/tenants/team-f/resume", "")
	f.want(201, "POST", "/api/v1/tenants/team-f/keys", `{"name":"added"}`)
	f.want(204, "DELETE", "/api/v1/tenants/team-f/keys/added", "")

	f.declare(&tenant.Record{ID: "team-gone", State: tenant.StateSuspended, SuspendReason: admin.ReasonRemoved})
	if got := f.want(409, "POST", "/api/v1/tenants/team-gone/resume", ""); !strings.Contains(got.detail(t), "put it back there, or delete it") {
		t.Errorf("detail = %q", got.detail(t))
	}
	if s := f.want(200, "POST", "/api/v1/tenants/team-gone/suspend", `{"reason":"x"}`).tenant(t); s.SuspendReason != admin.ReasonRemoved {
		t.Errorf("suspending a removed tenant hid why it is suspended: %q", s.SuspendReason)
	}
	f.want(204, "DELETE", "/api/v1/tenants/team-gone", "")

	// One that an operator had suspended before it vanished keeps that reason, and can be told by Declared alone.
	f.declare(&tenant.Record{ID: "team-both", State: tenant.StateSuspended, SuspendReason: "unpaid"})
	cfg, declared := f.config(), true
	cfg.Declared = func(tenant.ID) bool { return declared }
	f.rebuild(cfg)
	f.want(409, "DELETE", "/api/v1/tenants/team-both", "")
	declared = false
	f.want(409, "POST", "/api/v1/tenants/team-both/resume", "")
	f.want(204, "DELETE", "/api/v1/tenants/team-both", "")
}

// A state that the file declares is changed there: elsewhere, the next reload would undo it unseen.
func TestDeclaredState(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.StateDeclared = func(id tenant.ID) bool { return id == "team-s" }
	f.rebuild(cfg)
	f.declare(&tenant.Record{ID: "team-s"})
	for _, op := range []string{"suspend", "resume"} {
		if got := f.want(409, "POST", "/api/v1/tenants/team-s/"+op, ""); !strings.Contains(got.detail(t), "declared in tenants.yaml") {
			t.Errorf("%s: %q does not name the file", op, got.detail(t))
		}
	}
	f.declare(&tenant.Record{ID: "team-f"})
	f.want(200, "POST", "/api/v1/tenants/team-f/suspend", "")
}

// The platform's own hosts are no tenant's, by a creation or by a replacement.
func TestReservedHosts(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Reserved = []string{"shared.example.com"}
	f.rebuild(cfg)
	f.want(400, "POST", "/api/v1/tenants", `{"id":"team-a","hosts":["shared.example.com"]}`)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","hosts":["other.example.com"]}`)
	f.want(400, "PUT", "/api/v1/tenants/team-a", `{"hosts":["other.example.com","shared.example.com"]}`)
}

func TestQuotaBelowUse(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","quotas":{"max_servers":10}}`)
	f.servers.n["team-a"] = 7
	got := f.want(409, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_servers":6}}`)
	if d := got.detail(t); !strings.Contains(d, "6") || !strings.Contains(d, "7") {
		t.Errorf("detail = %q, want both numbers", d)
	}
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_servers":7}}`)
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{}`)

	f.servers.err = errors.New("the store is away: secret detail")
	if got := f.want(500, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_servers":9}}`); strings.Contains(got.body, "secret") {
		t.Errorf("an internal error shows its cause: %s", got.body)
	}
}

func TestPutSetsAPIKeys(t *testing.T) {
	f := newFixture(t)
	other := strings.Replace(keyHash, "0", "f", 1)
	before := f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","api_keys":[{"name":"stays","key_hash":"`+keyHash+`"},{"name":"goes","key_hash":"`+other+`"}]}`).tenant(t)
	after := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"api_keys":[{"name":"stays","key_hash":"`+keyHash+`","role":"admin"}]}`).tenant(t)
	if len(after.Keys) != 1 || after.Keys[0].ID != before.Keys[0].ID || after.Keys[0].Role != tenant.Admin {
		t.Errorf("keys: %+v", after.Keys)
	}
	if none := f.want(200, "PUT", "/api/v1/tenants/team-a", `{"api_keys":[]}`).tenant(t); len(none.Keys) != 0 {
		t.Errorf("keys: %+v", none.Keys)
	}
}

func TestListPages(t *testing.T) {
	f := newFixture(t)
	for i := range 7 {
		f.want(201, "POST", "/api/v1/tenants", fmt.Sprintf(`{"id":"t%d"}`, i))
	}
	var ids []string
	path := "/api/v1/tenants?limit=3"
	for pages := 1; ; pages++ {
		var list admin.TenantList
		if err := json.Unmarshal([]byte(f.want(200, "GET", path, "").body), &list); err != nil {
			t.Fatal(err)
		}
		for _, it := range list.Items {
			ids = append(ids, string(it.ID))
		}
		if list.NextCursor == "" {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
		path = "/api/v1/tenants?limit=3&cursor=" + list.NextCursor
	}
	if got := strings.Join(ids, " "); got != "t0 t1 t2 t3 t4 t5 t6" {
		t.Errorf("ids = %s", got)
	}
}

func TestKeys(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	made := f.want(201, "POST", "/api/v1/tenants/team-a/keys", `{"name":"ci","role":"admin"}`)
	var k admin.Key
	if err := json.Unmarshal([]byte(made.body), &k); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(k.Key, "pgk_") || tenant.HashKey(k.Key) != k.KeyHash || k.Role != tenant.Admin {
		t.Errorf("key: %+v", k)
	}
	if got, want := made.header.Get("Location"), "/api/v1/tenants/team-a/keys/"+k.ID; got != want {
		t.Errorf("Location = %s, want %s", got, want)
	}
	if got := made.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
	for _, path := range []string{"/api/v1/tenants/team-a", "/api/v1/tenants/team-a/keys", made.header.Get("Location")} {
		if got := f.want(200, "GET", path, ""); strings.Contains(got.body, "pgk_") || !strings.Contains(got.body, k.KeyHash.String()) {
			t.Errorf("GET %s shows the key again, or not its hash: %s", path, got.body)
		}
	}
	f.want(409, "POST", "/api/v1/tenants/team-a/keys", `{"name":"ci"}`)
	f.want(409, "POST", "/api/v1/tenants/team-a/keys", `{"name":"`+k.ID+`"}`) // it would be ambiguous
	f.want(400, "POST", "/api/v1/tenants/team-a/keys", `{"name":""}`)
	f.want(400, "POST", "/api/v1/tenants/team-a/keys", `{"name":"x","role":"root"}`)
	f.want(404, "POST", "/api/v1/tenants/nobody/keys", `{"name":"x"}`)
	f.want(404, "GET", "/api/v1/tenants/nobody/keys", "")
	f.want(404, "DELETE", "/api/v1/tenants/team-a/keys/absent", "")
	f.want(412, "DELETE", "/api/v1/tenants/team-a/keys/ci", "", "If-Match", `"99999"`)
	f.want(204, "DELETE", "/api/v1/tenants/team-a/keys/"+k.ID, "")
	f.want(404, "DELETE", "/api/v1/tenants/team-a/keys/ci", "")

	f.want(201, "POST", "/api/v1/tenants/team-a/keys", `{"name":"a b/ü"}`)
	f.want(204, "DELETE", "/api/v1/tenants/team-a/keys/a%20b%2F%C3%BC", "")
	for i := range tenant.MaxKeys {
		f.want(201, "POST", "/api/v1/tenants/team-a/keys", fmt.Sprintf(`{"name":"k%d"}`, i))
	}
	f.want(409, "POST", "/api/v1/tenants/team-a/keys", `{"name":"one-more"}`)
}

func TestAuditHeads(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	got := f.want(200, "GET", "/api/v1/audit/heads", "")
	var body struct{ Heads map[string]audit.Head }
	if err := json.Unmarshal([]byte(got.body), &body); err != nil || body.Heads == nil {
		t.Errorf("heads = %s (%v)", got.body, err)
	}
}

func TestHealthNeedsNoToken(t *testing.T) {
	f := newFixture(t)
	if got := f.want(200, "GET", "/healthz", "", "Authorization", ""); got.body != "{\"status\":\"ok\"}\n" {
		t.Errorf("body = %q", got.body)
	}
	f.want(http.StatusUnauthorized, "POST", "/healthz", "", "Authorization", "")
}
