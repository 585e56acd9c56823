package guard

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

func TestExplain(t *testing.T) {
	w, p := policyWorld()
	p.decide["bots"] = func(in *policy.Input) policy.Decision {
		return policy.Decision{Allow: in.Principal.Kind == "bot", Reason: "only bots may", Rule: "data.polygate.authz.allow"}
	}
	admin := member("team-a", tenant.Admin)
	bot := &tenant.Principal{Kind: tenant.KindBot, ID: "b1", Role: tenant.Editor, Tenant: "team-b"} // of team-a, whatever is asked
	for _, c := range []struct {
		name   string
		digest string
		who    tenant.Principal
		about  *tenant.Principal
		action authz.Action
		want   Explanation
		notes  bool
	}{
		{"by role", "", member("team-a", tenant.Editor), nil, authz.MCPCall,
			Explanation{Allow: true, Principal: "key:k1", Role: tenant.Editor, Needs: tenant.Editor, Rule: "role editor", Authz: "role editor", Reason: "mcp.call is allowed by role editor"}, false},
		{"role too small", "bots", member("team-a", tenant.Viewer), nil, authz.MCPCall,
			Explanation{Principal: "key:k1", Role: tenant.Viewer, Needs: tenant.Editor, Rule: "role viewer", Authz: "role viewer", Bundle: "bots",
				Reason: "mcp.call needs the role editor; this principal has viewer, and no delegation for it", Shown: "forbidden"}, false},
		{"no role", "", admin, nil, authz.TenantDelete,
			Explanation{Principal: "key:k1", Role: tenant.Admin, Rule: "role admin", Authz: "role admin", Reason: "no role may tenant.delete", Shown: "forbidden"}, false},
		{"by policy, to an editor", "bots", member("team-a", tenant.Editor), nil, authz.ServerRead,
			Explanation{Principal: "key:k1", Role: tenant.Editor, Needs: tenant.Viewer, Rule: "data.polygate.authz.allow", Authz: "role editor", Bundle: "bots", Reason: "only bots may", Shown: "not-found"}, false},
		{"by policy, to an admin", "bots", admin, nil, authz.MCPCall,
			Explanation{Principal: "key:k1", Role: tenant.Admin, Needs: tenant.Editor, Rule: "data.polygate.authz.allow", Authz: "role admin", Bundle: "bots", Reason: "only bots may", Shown: "forbidden"}, true},
		{"about a bot", "bots", admin, bot, authz.MCPCall,
			Explanation{Allow: true, Principal: "bot:b1", Role: tenant.Editor, Needs: tenant.Editor, Rule: "role editor", Authz: "role editor", Bundle: "bots", Reason: "only bots may"}, true},
		{"not loaded", "missing", admin, nil, authz.MCPCall,
			Explanation{Principal: "key:k1", Role: tenant.Admin, Needs: tenant.Editor, Rule: "policy not loaded", Authz: "role admin", Bundle: "missing",
				Reason: "the policy cannot be asked: no such bundle", Shown: "unavailable"}, false},
	} {
		v := w.visit(t, withPolicy(tenant.ID("team-a"), w.nextRevision(), c.digest), c.who)
		got, err := v.Explain(context.Background(), Effect{Action: c.action, Resource: "server/a"}, c.about)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if (got.Policy != nil && len(got.Policy.Notes) > 0) != c.notes {
			t.Errorf("%s: shows the course of the policy: %+v", c.name, got.Policy)
		}
		got.Policy = nil
		if *got != c.want {
			t.Errorf("%s\n got %+v\nwant %+v", c.name, *got, c.want)
		}
	}
	for name, c := range map[string]struct {
		who, about tenant.Principal
		want       fault.Kind
	}{
		"an editor about another":       {member("team-a", tenant.Editor), *bot, fault.Forbidden},
		"a foreign admin about another": {member("team-b", tenant.Admin), *bot, fault.Forbidden},
		"about the system":              {admin, tenant.System("x"), fault.Invalid},
		"about an operator":             {admin, tenant.Principal{Kind: tenant.KindOperator}, fault.Invalid},
	} {
		v := w.visit(t, withPolicy("team-a", w.nextRevision(), "allow"), c.who)
		if _, err := v.Explain(context.Background(), Effect{Action: authz.MCPCall}, &c.about); !fault.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.rec.take()) != 0 {
		t.Error("explaining is recorded")
	}
}

func (w *world) nextRevision() int64 { w.revision++; return w.revision }

func TestResourceOf(t *testing.T) {
	for _, c := range []struct {
		effect Effect
		want   policy.Resource
	}{
		{Effect{Resource: "whoami"}, policy.Resource{Type: "whoami"}},
		{Effect{Resource: ""}, policy.Resource{}},
		{Effect{Resource: "key/a/b"}, policy.Resource{Type: "key", Name: "a/b"}},
		{Effect{Resource: "server/a"}, policy.Resource{Type: "server", Name: "a"}},
		{Effect{Resource: "server/a/stream"}, policy.Resource{Type: "server", Name: "a", Path: "stream"}},
		{Effect{Resource: "server/a/tool/echo"}, policy.Resource{Type: "tool", Name: "echo", Labels: map[string]string{"server": "a"}}},
		{Effect{Resource: "server/a/resource/file:///x/tool/y"}, policy.Resource{Type: "resource", Name: "file:///x/tool/y", Labels: map[string]string{"server": "a"}}},
		{Effect{Resource: "server/a/tool/"}, policy.Resource{Type: "tool", Labels: map[string]string{"server": "a"}}},
		{Effect{Resource: "gateway/10.0.0.1:80"}, policy.Resource{Type: "gateway", Name: "10.0.0.1:80", Path: "/p"}},
		{Effect{Resource: "server/a", Object: authz.Object{Type: "server", ID: "7", Owner: "user:x"}},
			policy.Resource{Type: "server", Name: "a", Owner: "user:x", Labels: map[string]string{"id": "7"}}},
	} {
		if got := resourceOf(c.effect, "/p"); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%+v:\n got %+v\nwant %+v", c.effect, got, c.want)
		}
	}
}

// TestInputIsTheVisit: a policy is told who asks, as it was authenticated, and nothing that the caller chose beyond that.
func TestInputIsTheVisit(t *testing.T) {
	w, p := policyWorld()
	var got *policy.Input
	p.decide["look"] = func(in *policy.Input) policy.Decision { got = in; return policy.Decision{Allow: true} }
	who := user(1)
	who.Name = "Ann"
	who.Claims = &tenant.Claims{Issuer: "https://i.example", Groups: []string{"dev"}, Scopes: []string{"s"}, Attributes: map[string][]string{"teams": {"x"}}}
	v, _ := w.For(withPolicy("team-a", 1, "look")).Enter(who, benchRequest())
	if _, err := v.Admit(Effect{Action: authz.MCPCall, Resource: "server/a/tool/b"}); err != nil {
		t.Fatal(err)
	}
	want := &policy.Input{
		Principal: policy.Principal{Kind: "user", ID: "corp/user-1", Name: "Ann", Issuer: "https://i.example", Via: "oidc"}, Role: tenant.Editor,
		Groups: []string{"dev"}, Scopes: []string{"s"}, Attributes: map[string][]string{"teams": {"x"}}, Action: "mcp.call",
		Resource: policy.Resource{Type: "tool", Name: "b", Labels: map[string]string{"server": "a"}},
		Request:  policy.Request{Method: "POST", Path: "/servers/a/mcp", Host: "team-a.example.com", Remote: "192.0.2.7", ID: "req-1"},
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("input\n got %+v\nwant %+v", got, want)
	}
	if strings.Contains(fmt.Sprintf("%+v", got), "team-a\"") {
		t.Error("the input names a tenant: the engine does")
	}
}
