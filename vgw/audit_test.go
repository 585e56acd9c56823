package vgw_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// everybody finds what it did itself, an admin what everybody did; one's own last change is there; and nothing of an
// earlier tenant of the name.
func TestA7AuditStory(t *testing.T) {
	w := owned(t)
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	w.says(t, "team-a", bob, del("/api/v1/keys/none"), 403, "")
	w.says(t, "team-a", bob, get("/api/v1/audit"), 200, `"action":"key.revoke"`)
	own := w.do("team-a", bob, get("/api/v1/audit"))
	var page struct {
		Items []struct{ Principal, Action, Decision, Outcome, Via, Issuer string }
		Next  string `json:"next_cursor"`
	}
	if err := json.Unmarshal([]byte(own.body), &page); err != nil || len(page.Items) == 0 {
		t.Fatalf("bob's: %s", own.body)
	}
	for _, e := range page.Items {
		if e.Principal != "user:corp/bob" {
			t.Errorf("bob sees %+v", e)
		}
	}
	if last := page.Items[len(page.Items)-1]; last.Decision != "deny" || last.Outcome != "forbidden" || last.Via != "oidc" || last.Issuer != "https://idp.test" {
		t.Errorf("the refusal: %+v", last)
	}
	w.says(t, "team-a", bob, get("/api/v1/audit?principal=user:corp/alice"), 200, `{"items":[]}`)
	w.says(t, "team-a", admin, get("/api/v1/audit?principal=user:corp/alice"), 200, `"action":"server.create"`)
	w.says(t, "team-a", admin, get("/api/v1/audit?action=server.*&limit=1"), 200, `"next_cursor"`)
	w.says(t, "team-a", w.user("team-a", "corp", "eve"), get("/api/v1/audit"), 200, `{"items":[]}`)

	cursor := cursorOf(t, w.do("team-a", admin, get("/api/v1/audit?limit=1")))
	w.says(t, "team-a", admin, get("/api/v1/audit?limit=1&cursor="+cursor), 200, `"items":[{`)
	w.says(t, "team-a", bob, get("/api/v1/audit?limit=1&cursor="+cursor), 400, "cursor")
	for query, says := range map[string]string{
		"from=yesterday": "from", "limit=1001": "limit", "colour=red": "colour", "limit=1&limit=2": "limit", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "before",
	} {
		w.says(t, "team-a", admin, get("/api/v1/audit?"+query), 400, says)
	}
	w.store.erase("team-a")
	w.store.add("team-a")
	w.says(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/audit?action=server.*"), 200, `{"items":[]}`)
}

func TestA7Export(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	as := func(accept, path string) request {
		q := get(path)
		q.header = map[string]string{"Accept": accept}
		return q
	}
	got := w.do("team-a", admin, as("text/csv", "/api/v1/audit"))
	rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
	if err != nil || len(rows) < 3 || !strings.HasPrefix(got.header.Get("Content-Type"), "text/csv") {
		t.Errorf("CSV: %d %v %v\n%s", got.status, got.header, err, got.body)
	}
	got = w.do("team-a", admin, as("application/jsonl", "/api/v1/audit?limit=2&action=server.*"))
	if lines := strings.Split(strings.TrimSpace(got.body), "\n"); len(lines) != 2 || !json.Valid([]byte(lines[0])) {
		t.Errorf("JSON lines: %s", got.body)
	}
	if e := w.rec.last(t, "audit.all.list"); e.Outcome != "ok" {
		t.Errorf("the export is recorded as %+v", e)
	}
	w.says(t, "team-a", admin, as("text/csv", "/api/v1/audit?cursor=x"), 400, "cursor")
	w.says(t, "team-a", admin, as("image/png", "/api/v1/audit"), 406, "")
}

// A policy that denies an admin the others' records leaves its own to it.
func TestA7PolicyNarrowsTheAudit(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", "package polygate.authz\n\nimport rego.v1\n\nallow if input.action != \"audit.all.list\"\n")), 201)
	w.says(t, "team-a", admin, get("/api/v1/audit?principal=user:corp/alice"), 200, `{"items":[]}`)
	w.says(t, "team-a", admin, get("/api/v1/audit?action=server.create"), 200, admin.Ref())
}

func TestAuditIsNotKept(t *testing.T) {
	w := full(t, func(c *vgw.Config) { c.Audit = nil })
	w.store.add("team-a")
	w.says(t, "team-a", w.principal("team-a", tenant.Viewer), get("/api/v1/audit"), 503, "audit")
}

// M-5, M-6: what a tenant uses, against its limits; of the others' use only admins learn.
func TestM6Usage(t *testing.T) {
	w := owned(t)
	w.store.edit("team-a", func(r *tenant.Record) { r.Quotas.MaxServers = 5; r.Quotas.RequestsPerSecond = 1000 })
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	got := w.must(t, "team-a", admin, get("/api/v1/usage"), 200)
	servers, limits := got["servers"].(map[string]any), got["limits"].(map[string]any)
	if servers["used"] != 2.0 || servers["limit"] != 5.0 || limits["requests_per_second"] != 1000.0 || got["in_flight"] != 1.0 {
		t.Errorf("usage: %v", got)
	}
	for _, c := range w.must(t, "team-a", bob, get("/api/v1/usage"), 200)["callers"].([]any) {
		if c.(map[string]any)["principal"] != bob.Ref() {
			t.Errorf("bob learns of %v", c)
		}
	}
}

// The document names every route.
func TestOpenAPINamesEveryRoute(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	doc := w.must(t, "team-a", w.principal("team-a", tenant.Viewer), get("/api/v1/openapi.json"), 200)
	paths, ids := doc["paths"].(map[string]any), map[string]bool{}
	for _, r := range w.mux.Routes() {
		path, _ := paths[r.Pattern].(map[string]any)
		op, _ := path[strings.ToLower(r.Method)].(map[string]any)
		if r.Method == "" {
			op, _ = path["post"].(map[string]any)
		}
		id, _ := op["operationId"].(string)
		if id == "" || ids[id] || op["summary"] == "" {
			t.Errorf("%s %s: %v", r.Method, r.Pattern, op)
		}
		ids[id] = true
	}
}

// An export that the front never began, for want of a place for its stream, keeps no gateway open.
func TestUnbegunExportKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := owned(t)
		w.run(t)
		ctx, cancel := context.WithCancel(t.Context())
		q := get("/api/v1/audit")
		q.header = map[string]string{"Accept": "text/csv"}
		if d, err := w.decide(ctx, "team-a", w.principal("team-a", tenant.Admin), q); err != nil {
			t.Fatal(d, err)
		}
		time.Sleep(time.Hour)
		if st := w.mux.Stats(); st.Open != 1 {
			t.Errorf("while the request lasts: %+v", st)
		}
		cancel()
		time.Sleep(time.Hour)
		if st := w.mux.Stats(); st.Open != 0 {
			t.Errorf("after it: %+v", st)
		}
	})
}
