package authz

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/tenant"
)

func now() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC) }

// grantTo returns a delegation of calling server s1, for an hour.
func grantTo(ref string) Grant {
	return Grant{ID: "g1", To: ref, Action: MCPCall, Type: "server", Object: "s1", By: "user:corp/owner", Created: now(), Until: now().Add(time.Hour)}
}

// TestSR3Delegations: a delegation lets one principal do one thing with one object for a time, and nothing else.
func TestSR3Delegations(t *testing.T) {
	object := Object{Type: "server", ID: "s1", Owner: "user:corp/owner"}
	viewer := of(tenant.KindUser, tenant.Viewer)
	viewer.ID = "corp/ann"
	good := Question{Principal: viewer, Action: MCPCall, In: in, Object: object, Grants: []Grant{grantTo("user:corp/bob"), grantTo("user:corp/ann")}, Now: now()}
	if v := Decide(good); !v.Allow || v.Rule != "grant g1" {
		t.Fatalf("the delegation does not count: %+v", v)
	}
	for name, change := range map[string]func(*Question){
		"without it":                 func(q *Question) { q.Grants = nil },
		"at its end":                 func(q *Question) { q.Now = now().Add(time.Hour) },
		"after its end":              func(q *Question) { q.Now = now().Add(24 * time.Hour) },
		"another object":             func(q *Question) { q.Object.ID = "s2" },
		"another type":               func(q *Question) { q.Object.Type = "sandbox" },
		"no object":                  func(q *Question) { q.Object = Object{} },
		"another action":             func(q *Question) { q.Action = ServerDelete },
		"another principal":          func(q *Question) { q.Principal.ID = "corp/eve" },
		"a bot of the user's id":     func(q *Question) { q.Principal.Kind = tenant.KindBot },
		"the same user of another":   func(q *Question) { q.Principal.Tenant = "team-b" },
		"somebody anonymous":         func(q *Question) { q.Principal.Kind, q.Principal.ID = tenant.KindAnonymous, "" },
		"an auditor of that id":      func(q *Question) { q.Principal.Kind = tenant.KindAuditor },
		"what cannot be delegated":   func(q *Question) { q.Action = ServerDelete; q.Grants[1].Action = ServerDelete },
		"the right to hand on":       func(q *Question) { q.Action = GrantCreate; q.Grants[1].Action = GrantCreate },
		"a delegation to nobody":     func(q *Question) { q.Grants[1].To = "" },
		"an object that has no id":   func(q *Question) { q.Object.ID, q.Grants[1].Object = "", "" },
		"a grant of an empty action": func(q *Question) { q.Grants[1].Action = "" },
	} {
		q := good
		q.Grants = append([]Grant(nil), good.Grants...)
		change(&q)
		if v := Decide(q); v.Allow {
			t.Errorf("%s: allowed, %+v", name, v)
		}
	}
}

// TestSR3OnlyTheOwnerHandsOn: delegations are made by the owner of the object, or an admin; an editor who does not own it may
// not, and what belongs to nobody belongs to the admins.
func TestSR3OnlyTheOwnerHandsOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		role  tenant.Role
		owner string
		want  bool
	}{
		{"its owner", tenant.Editor, "user:k", true},
		{"another editor", tenant.Editor, "user:else", false},
		{"a key of the owner's id", tenant.Editor, "key:k", false},
		{"of nobody", tenant.Editor, "", false},
		{"an owner who became a viewer", tenant.Viewer, "user:k", false},
		{"an owner who is a member no more", tenant.NoRole, "user:k", false},
		{"an admin", tenant.Admin, "user:else", true},
		{"an admin, of nobody", tenant.Admin, "", true},
	} {
		for _, a := range []Action{GrantCreate, GrantDelete} {
			q := Question{Principal: of(tenant.KindUser, c.role), Action: a, In: in, Object: Object{Type: "server", ID: "s1", Owner: c.owner}, Now: now()}
			if v := Decide(q); v.Allow != c.want {
				t.Errorf("%s, %s: %+v, want %t", c.name, a, v, c.want)
			}
		}
	}
}

// TestDecideProperties: delegations only ever add, only what can be delegated, only to who is named; and nothing is allowed
// across tenants.
func TestDecideProperties(t *testing.T) {
	var actions []Action
	for _, a := range declared(t) {
		actions = append(actions, Action(a))
	}
	kinds := []tenant.PrincipalKind{tenant.KindKey, tenant.KindBot, tenant.KindUser, tenant.KindAnonymous, ""}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]string{"", "a", "b"})
		principal := rapid.Custom(func(t *rapid.T) tenant.Principal {
			return tenant.Principal{
				Tenant: tenant.ID(rapid.SampledFrom([]string{"", "team-a", "team-b"}).Draw(t, "tenant")),
				Kind:   rapid.SampledFrom(kinds).Draw(t, "kind"), ID: id.Draw(t, "id"), Role: tenant.Role(rapid.IntRange(0, 3).Draw(t, "role")),
			}
		})
		action := rapid.OneOf(rapid.Just(MCPCall), rapid.SampledFrom(actions))
		q := Question{
			Principal: principal.Draw(t, "who"), Action: action.Draw(t, "action"), In: tenant.ID(rapid.SampledFrom([]string{"", "team-a", "team-b"}).Draw(t, "in")),
			Object: Object{Type: "server", ID: id.Draw(t, "object"), Owner: principal.Draw(t, "owner").Ref()}, Now: now(),
		}
		for range rapid.IntRange(0, 3).Draw(t, "grants") {
			q.Grants = append(q.Grants, Grant{ID: "g", To: principal.Draw(t, "to").Ref(), Action: action.Draw(t, "what"), Type: "server",
				Object: id.Draw(t, "on"), Until: now().Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "until")) * time.Hour)})
		}
		with := Decide(q)
		bare := q
		bare.Grants = nil
		without := Decide(bare)
		switch {
		case with.Rule == "" || without.Rule == "":
			t.Fatalf("a decision without a rule: %+v", q)
		case with.Allow && (q.Principal.Tenant != q.In || q.In == ""):
			t.Fatalf("allowed across tenants: %+v", q)
		case without.Allow && !with.Allow:
			t.Fatalf("a delegation took something away: %+v", q)
		case with.Allow && !without.Allow && !granted(q):
			t.Fatalf("allowed without a role or a delegation: %+v", q)
		}
	})
}

// granted says, in other words than Decide, whether a delegation covers the question.
func granted(q Question) bool {
	for _, g := range q.Grants {
		if g.To == q.Principal.Ref() && g.Action == q.Action && Delegable(g.Action) && g.Type == q.Object.Type && g.Object == q.Object.ID && g.Object != "" && g.Until.After(q.Now) {
			return true
		}
	}
	return false
}

// TestSR3Sandboxes: a sandbox is its owner's. An admin may see, stop and delete it, and looks into it only by a delegation,
// which is on record; an editor who knows its id may do nothing.
func TestSR3Sandboxes(t *testing.T) {
	object := Object{Type: "sandbox", ID: "x1", Owner: "user:corp/owner"}
	owner, editor, admin := of(tenant.KindUser, tenant.Editor), of(tenant.KindUser, tenant.Editor), of(tenant.KindUser, tenant.Admin)
	owner.ID, editor.ID, admin.ID = "corp/owner", "corp/ed", "corp/ann"
	for _, a := range []Action{SandboxRead, SandboxStart, SandboxStop, SandboxDelete, SandboxExec, SandboxLogs} {
		ask := func(p tenant.Principal, grants ...Grant) bool {
			return Decide(Question{Principal: p, Action: a, In: in, Object: object, Grants: grants, Now: now()}).Allow
		}
		looks := a == SandboxExec || a == SandboxLogs
		delegation := Grant{ID: "g", To: "user:corp/ann", Action: a, Type: "sandbox", Object: "x1", Until: now().Add(time.Hour)}
		for what, c := range map[string]struct{ got, want bool }{
			"its owner":               {ask(owner), true},
			"an editor":               {ask(editor), false},
			"an admin":                {ask(admin), !looks},
			"an admin it is given to": {ask(admin, delegation), true},
			"an editor, of another's": {ask(editor, delegation), false},
		} {
			if c.got != c.want {
				t.Errorf("%s, %s: %t, want %t", a, what, c.got, c.want)
			}
		}
	}
}
