package vgw_test

import (
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// an authenticator that is made anew under an old name may mean other people by the same subjects. They inherit neither
// what the earlier ones own nor the records of what they did.
func TestA3NamesInheritNothing(t *testing.T) {
	w := owned(t)
	alice := w.user("team-a", "corp", "alice")
	w.says(t, "team-a", alice, get("/api/v1/servers/hers"), 200, `"owner":"user:corp/alice"`)
	w.must(t, "team-a", alice, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	w.store.edit("team-a", func(r *tenant.Record) {
		r.Authenticators, r.Members = nil, nil
	})
	w.corp("team-a", map[string]tenant.Role{"user:alice": tenant.Editor, "user:bob": tenant.Viewer})
	other := w.user("team-a", "corp", "alice")
	w.says(t, "team-a", other, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 403, "")
	if got := w.do("team-a", other, get("/api/v1/servers/hers")); got.status != 200 || strings.Contains(got.body, "owner") {
		t.Errorf("%d %s, want a server of the tenant's", got.status, got.body)
	}
	got := w.do("team-a", other, get("/api/v1/audit"))
	if got.status != 200 || !strings.Contains(got.body, `"server.read"`) || strings.Contains(got.body, `"grant.create","resource":"grant/server/hers/mcp.call/user:corp/bob","decision":"allow"`) || strings.Contains(got.body, "server.create") {
		t.Errorf("the other alice's records: %d %s", got.status, got.body)
	}
	w.says(t, "team-a", other, get("/api/v1/audit?to=2020-01-01T00:00:00Z"), 200, `{"items":[]}`)
	w.says(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/audit?action=server.create"), 200, "user:corp/alice")
}
