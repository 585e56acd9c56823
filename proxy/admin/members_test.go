package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// audits answers with one record, and keeps the query.
type audits struct {
	asked   audit.Query
	flushes int
	err     error
}

func (a *audits) Query(_ context.Context, q audit.Query) (*audit.Page, error) {
	a.asked = q
	return &audit.Page{Records: []audit.Record{{Entry: audit.Entry{ID: "e1", Principal: "operator:token", Action: "tenant.list"}, Seq: 7}}, Next: "more"}, nil
}

func (a *audits) Flush(context.Context) error {
	a.flushes++
	return a.err
}

// keyUse knows that every key was used at one time.
type keyUse struct{ err error }

func usedAt() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func (k keyUse) LastUsed(_ context.Context, s tenant.Scope) (map[string]time.Time, error) {
	if k.err != nil {
		return nil, k.err
	}
	return map[string]time.Time{"bot-key": usedAt()}, nil
}

// authenticate gives a tenant of the fixture an issuer, and a bot with a key.
func (f *fixture) authenticate(id tenant.ID) {
	f.t.Helper()
	e := audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: id, Principal: "system:test", Action: "authenticator.create", Decision: audit.Allow}
	now := time.Now().UTC().Truncate(time.Second)
	_, err := f.store.UpdateTenant(f.t.Context(), id, 0, func(r *tenant.Record) error {
		r.Authenticators = []tenant.Authenticator{{Name: "sso", Type: tenant.AuthnOIDC, Source: tenant.SourceAPI, OIDC: &tenant.OIDC{Issuer: "https://sso.example.com"}}}
		r.Bots = []tenant.Bot{{ID: "bot-id", Name: "builder", Role: tenant.Editor, Source: tenant.SourceAPI, Created: now}}
		r.Keys = append(r.Keys, tenant.Key{ID: "bot-key", Name: "builder-1", Hash: tenant.HashKey("pgk_bot"), Role: tenant.Editor, Bot: "bot-id", Source: tenant.SourceAPI, Created: now, Expires: now.Add(time.Hour)})
		return nil
	}, e)
	if err != nil {
		f.t.Fatal(err)
	}
}

func decodeAs[T any](t *testing.T, r reply) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return v
}

// TestMemberLife: an operator gives, changes and takes roles, up to admin, and each change is recorded with the tenant.
func TestMemberLife(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.authenticate("team-a")
	const members = "/api/v1/tenants/team-a/members"
	if got := f.want(200, "GET", members, ""); got.body != "{\"items\":[]}\n" {
		t.Errorf("no members: %s", got.body)
	}
	made := f.want(201, "POST", members, `{"kind":"user","authenticator":"sso","name":"alice@example.com","role":"admin"}`)
	m := decodeAs[admin.Member](t, made)
	if m.ID == "" || m.Role != tenant.Admin || m.By != "operator:token" || m.Source != tenant.SourceAPI || m.Created.IsZero() {
		t.Errorf("member: %+v", m)
	}
	location := made.header.Get("Location")
	if location != members+"/"+m.ID {
		t.Errorf("Location = %q", location)
	}
	f.want(201, "POST", members, `{"kind":"group","authenticator":"sso","name":"a/b ü","role":"viewer"}`)
	if list := decodeAs[admin.MemberList](t, f.want(200, "GET", members, "")); len(list.Items) != 2 || list.Items[0].Kind != tenant.MemberGroup {
		t.Errorf("list: %+v", list)
	}
	read := f.want(200, "GET", location, "")
	if decodeAs[admin.Member](t, read) != m {
		t.Errorf("read: %s", read.body)
	}
	changed := f.want(200, "PATCH", location, `{"role":"viewer"}`, "If-Match", read.header.Get("Etag"))
	if c := decodeAs[admin.Member](t, changed); c.Role != tenant.Viewer || !c.Updated.After(c.Created.Add(-time.Second)) || c.By != m.By {
		t.Errorf("changed: %+v", c)
	}
	f.want(412, "PATCH", location, `{"role":"editor"}`, "If-Match", read.header.Get("Etag"))
	f.want(412, "DELETE", location, "", "If-Match", read.header.Get("Etag"))
	f.want(204, "DELETE", location, "")
	f.want(404, "GET", location, "")

	var actions []string
	for _, e := range f.store.committed()[2:] {
		if e.Tenant != "team-a" || e.Principal != "operator:token" || !strings.HasPrefix(e.Resource, "tenant/team-a/member/") {
			t.Errorf("entry: %+v", e)
		}
		actions = append(actions, e.Action)
	}
	if got, want := fmt.Sprint(actions), "[member.create member.create member.update member.delete]"; got != want {
		t.Errorf("records: %s, want %s", got, want)
	}
}

func TestMemberErrors(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.authenticate("team-a")
	const members = "/api/v1/tenants/team-a/members"
	one := `{"kind":"user","authenticator":"sso","name":"alice","role":"viewer"}`
	at := f.want(201, "POST", members, one).header.Get("Location")
	before := len(f.store.committed())
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		detail                   string
	}{
		{"again", "POST", members, one, 409, "a member already"},
		{"again with another role", "POST", members, strings.Replace(one, "viewer", "admin", 1), 409, "role viewer"},
		{"an unknown kind", "POST", members, strings.Replace(one, `"user"`, `"bot"`, 1), 400, "use user or group"},
		{"no authenticator of the tenant's", "POST", members, strings.Replace(one, "sso", "other", 1), 400, `no authenticator "other"`},
		{"no name", "POST", members, strings.Replace(one, "alice", "", 1), 400, "name has 0 bytes"},
		{"a control character", "POST", members, strings.Replace(one, "alice", `a\u202eb`, 1), 400, "U+202E"},
		{"a long name", "POST", members, strings.Replace(one, "alice", strings.Repeat("a", 256), 1), 400, "1 to 255"},
		{"an unknown role", "POST", members, strings.Replace(one, "viewer", "owner", 1), 400, `role "owner" is unknown`},
		{"no role", "POST", members, strings.Replace(one, `"viewer"`, `""`, 1), 400, "role is missing"},
		{"an empty change", "PATCH", at, `{}`, 400, "role is missing"},
		{"the role none", "PATCH", at, `{"role":"none"}`, 400, "unknown"},
		{"a field that names who acts", "POST", members, strings.Replace(one, `{`, `{"created_by":"operator:other",`, 1), 400, "unknown field"},
		{"a field that cannot be changed", "PATCH", at, `{"role":"admin","name":"bob"}`, 400, "unknown field"},
		{"an unknown member changed", "PATCH", members + "/none", `{"role":"viewer"}`, 404, ""},
		{"an unknown member deleted", "DELETE", members + "/none", "", 404, ""},
		{"a member by name", "DELETE", members + "/alice", "", 404, ""},
		{"an unknown tenant", "GET", "/api/v1/tenants/nobody/members", "", 404, ""},
		{"a member of an unknown tenant", "POST", "/api/v1/tenants/nobody/members", one, 404, ""},
		{"a control character in the path", "DELETE", members + "/a%0a%1b", "", 404, ""},
	} {
		if got := f.want(tc.status, tc.method, tc.path, tc.body); !strings.Contains(got.detail(t), tc.detail) {
			t.Errorf("%s: detail = %q, want it to hold %q", tc.name, got.detail(t), tc.detail)
		}
	}
	if n := len(f.store.committed()); n != before {
		t.Errorf("%d changes were committed", n-before)
	}
	for _, e := range f.records.all() {
		if strings.ContainsAny(e.Resource, "\n\x1b\u202e") {
			t.Errorf("record %q", e.Resource)
		}
	}
}

// TestMemberAgain: a client that lost the answer sends its creation again, with an idempotency key.
func TestMemberAgain(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.authenticate("team-a")
	const members = "/api/v1/tenants/team-a/members"
	one := `{"kind":"user","authenticator":"sso","name":"alice","role":"viewer"}`
	first := f.want(201, "POST", members, one, "Idempotency-Key", "k")
	before := len(f.store.committed())
	second := f.want(201, "POST", members, one, "Idempotency-Key", "k")
	if second.body != first.body || second.header.Get("Location") != first.header.Get("Location") || len(f.store.committed()) != before {
		t.Errorf("second = %s %v, want %s and no change", second.body, second.header, first.body)
	}
	f.want(409, "POST", members, strings.Replace(one, "viewer", "admin", 1), "Idempotency-Key", "k")
	f.want(201, "POST", "/api/v1/tenants/team-a/keys", `{"name":"ci"}`, "Idempotency-Key", "k")
	if got := f.want(409, "POST", "/api/v1/tenants/team-a/keys", `{"name":"ci"}`, "Idempotency-Key", "k"); !strings.Contains(got.detail(t), "cannot be shown again") {
		t.Errorf("a key sent again: %s", got.body)
	}
}

// TestFileDeclaredMembers: what a file declares is changed there; the rest of such a tenant's members is open.
func TestFileDeclaredMembers(t *testing.T) {
	f := newFixture(t)
	rec := func(id string) *tenant.Record {
		return &tenant.Record{
			ID:             tenant.ID(id),
			Authenticators: []tenant.Authenticator{{Name: "sso", Type: tenant.AuthnOIDC, Source: tenant.SourceFile, OIDC: &tenant.OIDC{Issuer: "https://sso.example.com"}}},
			Members:        []tenant.Member{{ID: "m1", Kind: tenant.MemberGroup, Authenticator: "sso", Name: "ops", Role: tenant.Admin, Source: tenant.SourceFile}},
		}
	}
	f.declare(rec("team-f"))
	const members = "/api/v1/tenants/team-f/members"
	for _, op := range [][2]string{{"PATCH", `{"role":"viewer"}`}, {"DELETE", ""}} {
		if got := f.want(409, op[0], members+"/m1", op[1]); !strings.Contains(got.detail(t), "tenants.yaml") {
			t.Errorf("%s: %q does not name the file", op[0], got.detail(t))
		}
	}
	again := `{"kind":"group","authenticator":"sso","name":"ops","role":"admin"}`
	f.want(409, "POST", members, again, "Idempotency-Key", "k")
	if list := decodeAs[admin.MemberList](t, f.want(200, "GET", members, "")); len(list.Items) != 1 || list.Items[0].File != "tenants.yaml" {
		t.Errorf("list: %+v", list)
	}
	at := f.want(201, "POST", members, `{"kind":"user","authenticator":"sso","name":"bob","role":"viewer"}`).header.Get("Location")
	f.want(200, "PATCH", at, `{"role":"editor"}`)
	f.want(204, "DELETE", at, "")
	gone := rec("team-gone")
	gone.State, gone.SuspendReason = tenant.StateSuspended, admin.ReasonRemoved
	f.declare(gone)
	f.want(204, "DELETE", "/api/v1/tenants/team-gone/members/m1", "")
}

func TestTooManyMembers(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.authenticate("team-a")
	e := audit.Entry{ID: audit.NewID(), Time: time.Now(), Tenant: "team-a", Principal: "system:test", Action: "member.create", Decision: audit.Allow}
	_, err := f.store.UpdateTenant(t.Context(), "team-a", 0, func(r *tenant.Record) error {
		for i := range tenant.MaxMembers {
			r.Members = append(r.Members, tenant.Member{ID: fmt.Sprint(i), Kind: tenant.MemberUser, Authenticator: "sso", Name: fmt.Sprint(i), Role: tenant.Viewer})
		}
		return nil
	}, e)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.want(409, "POST", "/api/v1/tenants/team-a/members", `{"kind":"user","authenticator":"sso","name":"x","role":"viewer"}`); !strings.Contains(got.detail(t), "give roles to groups") {
		t.Errorf("detail: %q", got.detail(t))
	}
}

// TestKeysEnd: a key with an end, the keys of bots, and when keys were last used.
func TestKeysEnd(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a"}`)
	f.authenticate("team-a")
	cfg := f.config()
	cfg.KeyUse = keyUse{}
	f.rebuild(cfg)
	const keys = "/api/v1/tenants/team-a/keys"
	at := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	k := decodeAs[admin.Key](t, f.want(201, "POST", keys, `{"name":"a","expires":"`+at.Format(time.RFC3339)+`"}`))
	if !k.Expires.Equal(at) {
		t.Errorf("expires = %v, want %v", k.Expires, at)
	}
	k = decodeAs[admin.Key](t, f.want(201, "POST", keys, `{"name":"b","expires_in_seconds":3600}`))
	if d := time.Until(k.Expires); d < 59*time.Minute || d > 61*time.Minute {
		t.Errorf("expires in %v", d)
	}
	if got := f.want(201, "POST", keys, `{"name":"c"}`); strings.Contains(got.body, "expires") {
		t.Errorf("a key without an end: %s", got.body)
	}
	for _, bad := range []string{`"expires":"2020-01-01T00:00:00Z"`, `"expires":"2126-01-01T00:00:00Z"`, `"expires_in_seconds":1`, `"expires_in_seconds":-5`,
		`"expires_in_seconds":9223372036854775807`, `"expires_in_seconds":100000000`, `"expires_in_seconds":600,"expires":"2026-12-01T00:00:00Z"`} {
		f.want(400, "POST", keys, `{"name":"x",`+bad+`}`)
	}
	list := decodeAs[admin.KeyList](t, f.want(200, "GET", keys, ""))
	if len(list.Items) != 4 {
		t.Fatalf("list: %+v", list)
	}
	for _, k := range list.Items {
		if bot := k.Name == "builder-1"; bot != (k.Bot == "bot-id" && k.BotName == "builder" && k.LastUsed.Equal(usedAt()) && !k.Expires.IsZero()) {
			t.Errorf("key: %+v", k)
		}
	}
	if one := decodeAs[admin.Key](t, f.want(200, "GET", keys+"/builder-1", "")); !one.LastUsed.Equal(usedAt()) || one.Bot != "bot-id" {
		t.Errorf("one: %+v", one)
	}
	cfg.KeyUse = keyUse{errors.New("the store is away")}
	f.rebuild(cfg)
	f.want(200, "GET", keys, "") // they are known all the same

	// A list of keys that is declared takes the place of the API's, and never of a bot's.
	spec := `{"api_keys":[{"name":"d","key_hash":"` + keyHash + `","expires":"` + at.Format(time.RFC3339) + `"}]}`
	put := f.want(200, "PUT", "/api/v1/tenants/team-a", spec).tenant(t)
	if len(put.Keys) != 2 || put.Keys[0].Bot != "bot-id" || !put.Keys[1].Expires.Equal(at) {
		t.Errorf("keys: %+v", put.Keys)
	}
	if same := f.want(200, "PUT", "/api/v1/tenants/team-a", spec).tenant(t); same.ResourceVersion != put.ResourceVersion {
		t.Error("a put of the same moved the version")
	}
	f.want(400, "PUT", "/api/v1/tenants/team-a", strings.Replace(strings.Replace(spec, keyHash, strings.Replace(keyHash, "0", "e", 1), 1), at.Format(time.RFC3339), "2020-01-01T00:00:00Z", 1))
	f.want(204, "DELETE", keys+"/builder-1", "")
}

// TestQuotasAndOrigins: every quota can be set, up to the platform's ceiling, and the origins too.
func TestQuotasAndOrigins(t *testing.T) {
	f := newFixture(t)
	cfg := f.config()
	cfg.Ceilings = tenant.Quotas{MaxStreams: 10, BytesPerSecond: 1000, MaxStoredBytes: 20, PerKey: tenant.Share{Burst: 5}}
	f.rebuild(cfg)
	all := `{"max_servers":1,"max_concurrent_requests":2,"requests_per_second":3.5,"burst":4,"max_streams":5,"bytes_per_second":600,"bytes_burst":7,"max_stored_bytes":9,
		"per_principal":{"max_concurrent_requests":8,"requests_per_second":9,"burst":10},"per_key":{"max_concurrent_requests":1,"requests_per_second":2,"burst":3}}`
	body := `{"id":"team-a","allowed_origins":["https://app.example.com"],"quotas":` + all + `}`
	made := f.want(201, "POST", "/api/v1/tenants", body, "Idempotency-Key", "k").tenant(t)
	want := tenant.Quotas{MaxServers: 1, MaxConcurrentRequests: 2, RequestsPerSecond: 3.5, Burst: 4, MaxStreams: 5, BytesPerSecond: 600, BytesBurst: 7, MaxStoredBytes: 9,
		PerPrincipal: tenant.Share{MaxConcurrentRequests: 8, RequestsPerSecond: 9, Burst: 10}, PerKey: tenant.Share{MaxConcurrentRequests: 1, RequestsPerSecond: 2, Burst: 3}}
	if made.Quotas != want || fmt.Sprint(made.AllowedOrigins) != "[https://app.example.com]" {
		t.Errorf("made: %+v", made)
	}
	f.want(201, "POST", "/api/v1/tenants", body, "Idempotency-Key", "k")
	f.want(409, "POST", "/api/v1/tenants", strings.Replace(body, "app.", "other.", 1), "Idempotency-Key", "k")
	f.want(400, "PUT", "/api/v1/tenants/team-a", `{"allowed_origins":["https://*.example.com"]}`)
	for quota, want := range map[string]string{
		`"max_streams":11`: "quotas.max_streams is 11: the platform's ceiling is 10", `"bytes_per_second":1001`: "quotas.bytes_per_second", `"max_stored_bytes":21`: "quotas.max_stored_bytes is 21: the platform's ceiling is 20",
		`"per_key":{"requests_per_second":1,"burst":6}`: "quotas.per_key.burst is 6: the platform's ceiling is 5",
	} {
		for _, op := range [][3]string{{"POST", "/api/v1/tenants", `{"id":"x",`}, {"PUT", "/api/v1/tenants/team-a", `{`}} {
			if got := f.want(400, op[0], op[1], op[2]+`"quotas":{`+quota+`}}`); !strings.Contains(got.detail(t), want) {
				t.Errorf("%s %s: %q", op[0], quota, got.detail(t))
			}
		}
	}
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_streams":10}}`)
	cfg.Ceilings.MaxStreams = 3 // what is above it already may stay
	f.rebuild(cfg)
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"display_name":"A","quotas":{"max_streams":10}}`)
	f.want(400, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_streams":9}}`)
	f.want(200, "PUT", "/api/v1/tenants/team-a", `{"quotas":{"max_streams":3}}`)
}

func TestUsage(t *testing.T) {
	f := newFixture(t)
	f.want(201, "POST", "/api/v1/tenants", `{"id":"team-a","quotas":{"requests_per_second":7,"per_key":{"max_concurrent_requests":3}}}`)
	u := decodeAs[admin.Usage](t, f.want(200, "GET", "/api/v1/tenants/team-a/usage", ""))
	if u.Tenant != "team-a" || u.Limits.RequestsPerSecond != 7 || u.Limits.PerKey.MaxConcurrentRequests != 3 || u.Limits.Origins["requests_per_second"] != "tenant" || u.Since.IsZero() {
		t.Errorf("usage: %+v", u)
	}
	f.want(404, "GET", "/api/v1/tenants/nobody/usage", "")
}

// TestAuditQuery: the filters reach the log, always for the platform's chain, after what was recorded has been written.
func TestAuditQuery(t *testing.T) {
	f := newFixture(t)
	f.want(404, "GET", "/api/v1/audit", "")
	f.want(404, "GET", "/api/v1/openapi.json", "")
	a := &audits{}
	cfg := f.config()
	cfg.Audits, cfg.OpenAPI = a, []byte(`{"openapi":"3.1.0"}`)
	f.rebuild(cfg)
	got := f.want(200, "GET", "/api/v1/audit?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00%2B01:00&principal=operator:token&action=tenant.*&outcome=ok&decision=allow&request_id=r&limit=5&cursor=c", "")
	want := audit.Query{Platform: true, From: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Principal: "operator:token", Action: "tenant.*", Outcome: "ok", Decision: "allow", RequestID: "r", Limit: 5, Cursor: "c"}
	to := a.asked.To
	a.asked.To = time.Time{}
	if a.asked != want || !to.Equal(time.Date(2026, 1, 31, 23, 0, 0, 0, time.UTC)) || a.flushes != 1 {
		t.Errorf("query: %+v to %v, %d flushes", a.asked, to, a.flushes)
	}
	if page := decodeAs[admin.RecordList](t, got); len(page.Items) != 1 || page.Items[0].Seq != 7 || page.NextCursor != "more" {
		t.Errorf("page: %s", got.body)
	}
	for _, bad := range []string{"from=yesterday", "limit=0", "limit=1001", "limit=x", "tenant=team-a", "platform=false", "any_uid=1", "action=a&action=b", "principal=" + strings.Repeat("x", 600)} {
		f.want(400, "GET", "/api/v1/audit?"+bad, "")
	}
	if got := f.want(200, "GET", "/api/v1/openapi.json", ""); got.body != "{\"openapi\":\"3.1.0\"}\n" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("openapi: %v %s", got.header, got.body)
	}
	a.err = errors.New("the disk is full: secret detail")
	if got := f.want(503, "GET", "/api/v1/audit", ""); strings.Contains(got.body, "secret") {
		t.Errorf("%s", got.body)
	}
}
