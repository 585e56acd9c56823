package main

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
)

func (s *described) tenants(t *testing.T) {
	const all, one = "/api/v1/tenants", "/api/v1/tenants/{id}"
	arg := map[string]string{"id": "made"}
	spec := m{"id": "made", "display_name": "Made", "hosts": []string{"made.example.com"}, "quotas": m{"max_servers": 3, "requests_per_second": 5.5, "per_key": m{"burst": 2, "requests_per_second": 1}},
		"allowed_origins": []string{"https://app.example.com"}, "api_keys": []m{{"name": "k", "key_hash": tenant.HashKey("made-key").String(), "role": "admin", "expires": time.Now().Add(time.Hour).UTC()}}}
	made := s.admin.send(apiCall{op: "POST " + all, want: 201, body: spec, head: []string{"Idempotency-Key", "1"}})
	s.admin.send(apiCall{op: "POST " + all, want: 409, body: m{"id": "made"}})
	s.admin.send(apiCall{op: "POST " + all, want: 400, wrong: true, body: m{"id": "NO"}})
	s.admin.send(apiCall{op: "GET " + one, args: arg, want: 200})
	next := text(t, s.admin.send(apiCall{op: "GET " + all, query: url.Values{"limit": {"1"}}, want: 200}), "next_cursor")
	s.auditor.send(apiCall{op: "GET " + all, query: url.Values{"cursor": {next}}, want: 200})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 200, body: m{"display_name": "Again"}, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 412, body: m{}, head: []string{"If-Match", made.Header.Get("Etag")}})
	s.admin.send(apiCall{op: "PUT " + one, args: map[string]string{"id": "team-b"}, want: 409, body: m{}})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 200, body: m{"mode": "dedicated", "dedicated": m{"upstream": "http://127.0.0.1:9"}}})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 200, body: m{}})
	s.admin.send(apiCall{op: "POST " + one + "/suspend", args: arg, want: 200, body: m{"reason": "maintenance"}})
	made2 := s.tenant.as(bearer("made-key")...)
	made2.base = strings.Replace(s.tenant.base, "team-a", "made", 1)
	made2.send(apiCall{op: "GET /api/v1/whoami", want: 503})
	made2.send(apiCall{op: "GET /healthz", want: 503})
	s.admin.send(apiCall{op: "POST " + one + "/suspend", args: arg, want: 200})
	s.admin.send(apiCall{op: "POST " + one + "/resume", args: arg, want: 200})
	made2.send(apiCall{op: "GET /api/v1/whoami", want: 200})
	s.admin.send(apiCall{op: "POST " + one + "/harden", args: arg, want: 409})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 200, body: m{"namespace": "made-elsewhere", "sandboxes": m{"adopted": true, "pod_security": "baseline",
		"network": "observe", "images": []string{"registry.example.com/made/"}, "runtime_classes": []string{"gvisor"}, "egress": []string{"internet:443"}}}})
	s.admin.send(apiCall{op: "POST " + one + "/harden", args: arg, want: 200})
	s.admin.send(apiCall{op: "PUT " + one, args: arg, want: 400, wrong: true, body: m{"sandboxes": m{"pod_security": "lax"}}})
	s.admin.send(apiCall{op: "GET " + one + "/usage", args: arg, want: 200})
	s.admin.send(apiCall{op: "GET " + one + "/usage", args: map[string]string{"id": "team-a"}, want: 200})
	s.admin.send(apiCall{op: "DELETE " + one, args: arg, want: 412, head: []string{"If-Match", `"1"`}})
	s.admin.send(apiCall{op: "DELETE " + one, args: arg, want: 204})
	s.admin.send(apiCall{op: "DELETE " + one, args: map[string]string{"id": "team-b"}, want: 409})
}

func (s *described) operatorKeys(t *testing.T) {
	const all = "/api/v1/tenants/{id}/keys"
	arg := map[string]string{"id": "team-b"}
	made := s.admin.send(apiCall{op: "POST " + all, args: arg, want: 201, body: m{"name": "first", "role": "admin", "expires_in_seconds": 3600}})
	s.admin.send(apiCall{op: "POST " + all, args: arg, want: 409, body: m{"name": "first"}})
	s.admin.send(apiCall{op: "POST " + all, args: arg, want: 400, wrong: true, body: m{"name": "first", "expires_in_seconds": 1}})
	s.auditor.send(apiCall{op: "GET " + all, args: arg, want: 200})
	one := map[string]string{"id": "team-b", "key": text(t, made, "id")}
	s.admin.send(apiCall{op: "GET " + all + "/{key}", args: one, want: 200})
	s.admin.send(apiCall{op: "DELETE " + all + "/{key}", args: one, want: 204})
	s.admin.send(apiCall{op: "GET " + all + "/{key}", args: one, want: 404})
}

func (s *described) operatorMembers(t *testing.T) {
	const all = "/api/v1/tenants/{id}/members"
	arg := map[string]string{"id": "team-a"}
	bob := m{"kind": "user", "authenticator": "corp", "name": "bob", "role": "admin"}
	made := s.admin.send(apiCall{op: "POST " + all, args: arg, want: 201, body: bob, head: []string{"Idempotency-Key", "1"}})
	s.admin.send(apiCall{op: "POST " + all, args: arg, want: 201, body: bob, head: []string{"Idempotency-Key", "1"}})
	s.admin.send(apiCall{op: "POST " + all, args: arg, want: 409, body: bob})
	s.auditor.send(apiCall{op: "GET " + all, args: arg, want: 200})
	one := map[string]string{"id": "team-a", "member": text(t, made, "id")}
	s.admin.send(apiCall{op: "GET " + all + "/{member}", args: one, want: 200})
	s.admin.send(apiCall{op: "PATCH " + all + "/{member}", args: one, want: 200, body: m{"role": "viewer"}})
	s.admin.send(apiCall{op: "PATCH " + all + "/{member}", args: one, want: 400, wrong: true, body: m{"role": "owner"}})
	s.admin.send(apiCall{op: "DELETE " + all + "/{member}", args: one, want: 204})
}

func (s *described) platform(t *testing.T) {
	s.admin.as().send(apiCall{op: "GET /healthz", want: 200})
	s.auditor.send(apiCall{op: "GET /api/v1/audit/heads", want: 200})
	next := text(t, s.auditor.send(apiCall{op: "GET /api/v1/audit", query: url.Values{"limit": {"2"}}, want: 200}), "next_cursor")
	s.auditor.send(apiCall{op: "GET /api/v1/audit", query: url.Values{"cursor": {next}, "limit": {"2"}}, want: 200})
	s.auditor.send(apiCall{op: "GET /api/v1/audit", query: url.Values{"action": {"tenant.*"}, "decision": {"allow"}, "outcome": {"ok"}}, want: 200})
	s.auditor.send(apiCall{op: "GET /api/v1/audit", query: url.Values{"request_id": {"none"}}, want: 200})
	s.auditor.send(apiCall{op: "GET /api/v1/audit", query: url.Values{"limit": {"0"}}, want: 400, wrong: true})
}

// absent fills the parameters of an operation with names that nothing has.
func absent(op string) map[string]string {
	args := map[string]string{}
	for part := range strings.SplitSeq(op, "/") {
		if strings.HasPrefix(part, "{") {
			args[strings.Trim(part, "{}")] = "never-there"
		}
	}
	return args
}

// request returns as little as an operation can be asked with.
func (s surface) request(op string) (body any, query url.Values, head []string) {
	if s.operation(op)["requestBody"] != nil {
		body = `{}`
	}
	if strings.HasSuffix(op, "/mcp") {
		head = []string{"Accept", "application/json, text/event-stream"}
		if body != nil {
			body = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`
		}
	}
	return body, query, head
}

// refusals asks every operation without a credential, and with one that may not.
func (s *described) refusals(*testing.T) {
	for _, op := range s.tenant.operations() {
		if s.tenant.operation(op)["security"] != nil {
			continue
		}
		s.nobody.refused(op, 401)
		role, _ := s.tenant.operation(op)["x-polygate-role"].(string)
		switch {
		case role != "editor" && role != "admin":
		case strings.HasSuffix(op, "/exec"): // what is to be run is not said
			s.viewer.refused(op, 400)
		case strings.Contains(op, "GET"):
			want := 404
			if !strings.Contains(op, "{") { // a list
				want = 200
			}
			s.viewer.refused(op, want)
		default:
			s.viewer.refused(op, 403)
		}
	}
	for _, op := range s.admin.operations() {
		if s.admin.operation(op)["security"] != nil {
			continue
		}
		s.admin.as(bearer("wrong")...).refused(op, 401)
		if s.admin.operation(op)["x-polygate-role"] == "operator" {
			s.auditor.refused(op, 403)
		}
	}
}

func (s surface) refused(op string, want int) {
	s.t.Helper()
	method, path, _ := strings.Cut(op, " ")
	for name, v := range absent(op) {
		path = strings.ReplaceAll(path, "{"+name+"}", v)
	}
	body, _, head := s.request(op)
	a := do(s.c, method, s.base+path, body, append(slices.Clone(s.head), head...)...)
	if a.Err != nil || a.Status != want {
		s.t.Errorf("%s: %d %s %v, want %d", op, a.Status, a.Body, a.Err, want)
	}
	s.judgeAnswer(op, a)
}

// mistakes asks for what is not there, and with bodies that no operation takes: a field that is unknown, and no JSON.
func (s *described) mistakes(t *testing.T) {
	for _, on := range []surface{s.tenant, s.admin} {
		for _, op := range on.operations() {
			described := on.operation(op)
			responses := object(described["responses"])
			required, _ := on.deref(described["requestBody"])["required"].(bool)
			method, path, _ := strings.Cut(op, " ")
			for name, v := range absent(op) {
				path = strings.ReplaceAll(path, "{"+name+"}", v)
			}
			if described["requestBody"] != nil && !strings.HasSuffix(op, "/mcp") && op != "POST /api/v1/archives" { // its body is no JSON
				if err := on.checkJSON(op+" request", []byte(`{"nope":1}`)); err == nil {
					t.Errorf("%s: the document takes any field", op)
				}
				got := do(on.c, method, on.base+path, `{"nope":1}`, on.head...)
				if got.Status != 400 {
					t.Errorf("%s with an unknown field: %d %s", op, got.Status, got.Body)
				}
				on.judgeAnswer(op, got)
				if required {
					on.raw(op, path, "{}", map[string]string{"Content-Type": "text/plain"}, 415)
				}
				continue
			}
			if strings.Contains(path, "never-there") && responses["404"] != nil && described["security"] == nil {
				_, _, head := on.request(op)
				got := do(on.c, method, on.base+path, nil, append(slices.Clone(on.head), head...)...)
				if described["requestBody"] == nil && got.Status != 404 {
					t.Errorf("%s of nothing: %d %s", op, got.Status, got.Body)
				}
				on.judgeAnswer(op, got)
			}
		}
	}
}

// bounds goes over what is bounded.
func (s *described) bounds(t *testing.T) {
	const who = "GET /api/v1/whoami"
	s.tenant.raw("POST /api/v1/servers", "/api/v1/servers", `{"name":"`+strings.Repeat("a", 300<<10)+`"}`, map[string]string{"Content-Type": "application/json"}, 413)
	s.admin.raw("POST /api/v1/tenants", "/api/v1/tenants", `{"id":"`+strings.Repeat("a", 2<<20)+`"}`, map[string]string{"Content-Type": "application/json"}, 413)
	s.tenant.raw(who, "/api/v1/whoami?"+strings.Repeat("a", 20<<10), "", nil, 414)
	s.tenant.raw(who, "/api/v1/whoami", "", map[string]string{"Host": strings.Replace(mustURL(t, s.tenant.base).Host, "team-a", "team-b", 1)}, 421)
	many := slices.Clone(s.tenant.head)
	for range 200 {
		many = append(many, "X-Many", "1")
	}
	s.tenant.as(many...).send(apiCall{op: who, want: 431})
	s.tenant.send(apiCall{op: who, want: 403, head: []string{"X-Tenant-ID", "team-b"}})

	spec := m{"id": "slow", "quotas": m{"requests_per_second": 0.001, "burst": 1}, "api_keys": []m{{"name": "k", "key_hash": tenant.HashKey("slow-key").String(), "role": "admin"}}}
	s.admin.send(apiCall{op: "POST /api/v1/tenants", want: 201, body: spec})
	slow := s.tenant.as(bearer("slow-key")...)
	slow.base = strings.Replace(s.tenant.base, "team-a", "slow", 1)
	slow.send(apiCall{op: who, want: 200})
	if a := slow.send(apiCall{op: who, want: 429}); a.Header.Get("Retry-After") == "" {
		t.Errorf("429 without Retry-After: %v", a.Header)
	}
	seen := map[int]bool{}
	for _, statuses := range []map[string][]int{s.tenant.called, s.admin.called} {
		for _, list := range statuses {
			for _, status := range list {
				seen[status] = true
			}
		}
	}
	t.Logf("statuses seen: %v", slices.Sorted(maps.Keys(seen)))
}
