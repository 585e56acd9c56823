package policy

import (
	"context"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// open opens a bundle of one module for a tenant, or ends the test.
func open(t testing.TB, l *Library, id tenant.ID, src, data string) *Engine {
	t.Helper()
	e, err := l.Open(context.Background(), tenant.Confine(id, "u-"+id.String()), bundle(src, data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// bundle returns a bundle of one module in package polygate.authz.
func bundle(src, data string) *Bundle {
	return &Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\n" + src}, Data: []byte(data)}
}

func TestDecideTable(t *testing.T) {
	in := &Input{Role: tenant.Editor, Groups: []string{"ops"}, Action: "mcp.call", Principal: Principal{Kind: "key", ID: "k1"}}
	for _, c := range []struct {
		name, src string
		allow     bool
		failure   Failure
		reason    string
	}{
		{"allow", `allow := true`, true, Decided, ""},
		{"role", `allow if input.role == "editor"`, true, Decided, ""},
		{"group", `allow if "ops" in input.groups`, true, Decided, ""},
		{"sprintf", `allow if sprintf("%s/%d", [input.role, 3]) == "editor/3"`, true, Decided, ""},
		{"own concat", "concat(x, y) := x\nallow if concat(\"a\", \"b\") == \"a\"", true, Decided, ""},
		{"undefined", `allow if input.role == "admin"`, false, FailUndef, ""},
		{"deny", "allow := true\ndeny contains \"no\" if input.action == \"mcp.call\"", false, Decided, "no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t, NewLibrary(Limits{}), "a", c.src, "").Decide(context.Background(), in)
			if d.Allow != c.allow || d.Failure != c.failure || c.reason != "" && d.Reason != c.reason {
				t.Errorf("got %+v", d)
			}
		})
	}
}
