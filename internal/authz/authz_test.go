package authz

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// golden says who may do what in a tenant, and how a refusal is shown. It is the whole policy: a change of a line here is
// a change of what people may do. Those whose columns are not roles: someone who is authenticated and no member (user), an
// admin of another tenant (foreign), and the platform's own.
const golden = `
action               shown   none user viewer editor admin foreign anonymous auditor operator system
whoami.read          read    -    yes  yes    yes    yes   -       -         -       -        yes
metrics.read         read    -    -    yes    yes    yes   -       -         -       -        yes
server.list          list    -    -    yes    yes    yes   -       -         -       -        yes
server.read          read    -    -    yes    yes    yes   -       -         -       -        yes
server.create        mutate  -    -    -      -      yes   -       -         -       -        yes
server.delete        mutate  -    -    -      -      yes   -       -         -       -        yes
mcp.read             read    -    -    yes    yes    yes   -       -         -       -        yes
mcp.call             mutate  -    -    -      yes    yes   -       -         -       -        yes
key.list             list    -    -    -      -      yes   -       -         yes     yes      yes
key.create           mutate  -    -    -      -      yes   -       -         -       yes      yes
key.revoke           mutate  -    -    -      -      yes   -       -         -       yes      yes
relay.read           read    -    -    yes    yes    yes   -       yes       -       -        yes
relay.write          mutate  -    -    -      yes    yes   -       yes       -       -        yes
relay.connect        mutate  -    -    -      -      -     -       yes       -       -        yes
member.list          list    -    -    -      -      yes   -       -         yes     yes      yes
member.read          read    -    -    -      -      yes   -       -         yes     yes      yes
member.create        mutate  -    -    -      -      yes   -       -         -       yes      yes
member.update        mutate  -    -    -      -      yes   -       -         -       yes      yes
member.delete        mutate  -    -    -      -      yes   -       -         -       yes      yes
member.revoke        mutate  -    -    -      -      yes   -       -         -       -        yes
bot.list             list    -    -    -      -      yes   -       -         -       -        yes
bot.read             read    -    -    -      -      yes   -       -         -       -        yes
bot.create           mutate  -    -    -      -      yes   -       -         -       -        yes
bot.delete           mutate  -    -    -      -      yes   -       -         -       -        yes
authenticator.list   list    -    -    -      -      yes   -       -         -       -        yes
authenticator.read   read    -    -    -      -      yes   -       -         -       -        yes
authenticator.create mutate  -    -    -      -      yes   -       -         -       -        yes
authenticator.update mutate  -    -    -      -      yes   -       -         -       -        yes
authenticator.delete mutate  -    -    -      -      yes   -       -         -       -        yes
grant.list           list    -    -    yes    yes    yes   -       -         -       -        yes
grant.create         mutate  -    -    -      -      yes   -       -         -       -        yes
grant.delete         mutate  -    -    -      -      yes   -       -         -       -        yes
policy.list          list    -    -    -      -      yes   -       -         -       -        yes
policy.read          read    -    -    -      -      yes   -       -         -       -        yes
policy.update        mutate  -    -    -      -      yes   -       -         -       -        yes
policy.check         mutate  -    -    -      -      yes   -       -         -       -        yes
policy.explain       mutate  -    -    yes    yes    yes   -       -         -       -        yes
usage.read           read    -    -    yes    yes    yes   -       -         yes     yes      yes
audit.list           list    -    -    yes    yes    yes   -       -         -       -        yes
audit.all.list       list    -    -    -      -      yes   -       -         -       -        yes
status.read          read    -    -    -      -      -     -       -         yes     yes      yes
openapi.read         read    -    -    yes    yes    yes   -       -         yes     yes      yes
session.create       mutate  -    yes  yes    yes    yes   -       -         -       -        yes
session.delete       mutate  -    yes  yes    yes    yes   -       -         -       -        yes
certificate.list     list    -    -    yes    yes    yes   -       -         yes     yes      yes
certificate.read     read    -    -    yes    yes    yes   -       -         yes     yes      yes
certificate.update   mutate  -    -    -      -      yes   -       -         -       yes      yes
certificate.renew    mutate  -    -    -      -      yes   -       -         -       yes      yes
certificate.revoke   mutate  -    -    -      -      yes   -       -         -       yes      yes
certificate.delete   mutate  -    -    -      -      yes   -       -         -       yes      yes
host.list            list    -    -    yes    yes    yes   -       -         yes     yes      yes
host.read            read    -    -    yes    yes    yes   -       -         yes     yes      yes
host.create          mutate  -    -    -      -      yes   -       -         -       -        yes
host.verify          mutate  -    -    -      -      yes   -       -         -       yes      yes
host.delete          mutate  -    -    -      -      yes   -       -         -       -        yes
sandbox.list         list    -    -    yes    yes    yes   -       -         -       -        yes
sandbox.read         read    -    -    -      -      yes   -       -         -       -        yes
sandbox.create       mutate  -    -    -      yes    yes   -       -         -       -        yes
sandbox.start        mutate  -    -    -      -      yes   -       -         -       -        yes
sandbox.stop         mutate  -    -    -      -      yes   -       -         -       -        yes
sandbox.delete       mutate  -    -    -      -      yes   -       -         -       -        yes
sandbox.exec         mutate  -    -    -      -      -     -       -         -       -        yes
sandbox.logs.read    read    -    -    -      -      -     -       -         -       -        yes
tenant.list          list    -    -    -      -      -     -       -         yes     yes      yes
tenant.read          read    -    -    -      -      -     -       -         yes     yes      yes
tenant.create        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.update        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.suspend       mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.resume        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.delete        mutate  -    -    -      -      -     -       -         -       yes      yes
audit.read           read    -    -    -      -      -     -       -         yes     yes      yes
replica.list         list    -    -    -      -      -     -       -         yes     yes      yes
replica.read         read    -    -    -      -      -     -       -         yes     yes      yes
replica.drain        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.move          mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.export        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.import        mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.harden        mutate  -    -    -      -      -     -       -         -       yes      yes
backup.create        mutate  -    -    -      -      -     -       -         -       yes      yes
backup.restore       mutate  -    -    -      -      -     -       -         -       yes      yes
secret.rekey         mutate  -    -    -      -      -     -       -         -       yes      yes
tenant.conflict      mutate  -    -    -      -      -     -       -         -       -        yes
datakey.create       mutate  -    -    -      -      -     -       -         -       -        yes
catalog.apply        mutate  -    -    -      -      -     -       -         -       -        yes
certificate.issue    mutate  -    -    -      -      -     -       -         -       -        yes
sandbox.transition   mutate  -    -    -      -      -     -       -         -       -        yes
namespace.update     mutate  -    -    -      -      -     -       -         -       -        yes
namespace.delete     mutate  -    -    -      -      -     -       -         -       -        yes
no.such              mutate  -    -    -      -      -     -       -         -       -        yes
`

const in = tenant.ID("team-a")

func of(kind tenant.PrincipalKind, r tenant.Role) tenant.Principal {
	return tenant.Principal{Tenant: in, Kind: kind, ID: "k", KeyID: "k", Role: r}
}

// columns are the principals of the golden table.
func columns() (names []string, who []tenant.Principal) {
	foreign := of(tenant.KindUser, tenant.Admin)
	foreign.Tenant = "team-b"
	for _, c := range []struct {
		name string
		p    tenant.Principal
	}{
		{"none", tenant.Principal{}},
		{"user", of(tenant.KindUser, tenant.NoRole)},
		{"viewer", of(tenant.KindUser, tenant.Viewer)},
		{"editor", of(tenant.KindUser, tenant.Editor)},
		{"admin", of(tenant.KindUser, tenant.Admin)},
		{"foreign", foreign},
		{"anonymous", tenant.Principal{Tenant: in, Kind: tenant.KindAnonymous}},
		{"auditor", tenant.Principal{Kind: tenant.KindAuditor, ID: "au"}},
		{"operator", tenant.Principal{Kind: tenant.KindOperator, ID: "op"}},
		{"system", tenant.System("reload")},
	} {
		names, who = append(names, c.name), append(who, c.p)
	}
	return names, who
}

// matrix writes what is decided, as golden is written.
func matrix(actions []string) string {
	names, who := columns()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-20s %-7s %s\n", "action", "shown", strings.Join(names, " "))
	shown := map[Class]string{Mutate: "mutate", Read: "read", List: "list"}
	for _, a := range actions {
		row := fmt.Sprintf("%-20s %-7s", a, shown[ClassOf(Action(a))])
		for i, p := range who {
			may := "-"
			if Authorize(p, Action(a), in).Allow {
				may = "yes"
			}
			row += fmt.Sprintf(" %-*s", len(names[i]), may)
		}
		b.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	return b.String()
}

// declared returns the values of all constants of type Action, read from the package's own source, so that none can be
// forgotten.
func declared(t *testing.T) []string {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				all = append(all, actionsOf(t, v)...)
			}
			return true
		})
	}
	if len(all) < 20 {
		t.Fatalf("only %d actions found in the source: has their declaration changed?", len(all))
	}
	return all
}

func actionsOf(t *testing.T, v *ast.ValueSpec) (all []string) {
	t.Helper()
	if id, ok := v.Type.(*ast.Ident); !ok || id.Name != "Action" {
		return nil
	}
	for _, value := range v.Values {
		lit, ok := value.(*ast.BasicLit)
		if !ok {
			t.Fatalf("an action is not a literal: this test cannot read %v", v.Names)
		}
		s, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// TestGoldenIsComplete: every action of the package has its line, in the order of the source, and there is no other but one
// that does not exist.
func TestGoldenIsComplete(t *testing.T) {
	want := append(declared(t), "no.such")
	if got := matrix(want); got != golden {
		t.Errorf("who may do what is\n%s\nthe table says\n%s", got, golden)
	}
}

// TestAllKindsOfMembersAreEqual: a role means the same for keys, bots and users, but that a key or a bot always has one.
func TestAllKindsOfMembersAreEqual(t *testing.T) {
	for _, a := range declared(t) {
		for _, r := range []tenant.Role{tenant.Viewer, tenant.Editor, tenant.Admin} {
			user := Authorize(of(tenant.KindUser, r), Action(a), in)
			if key, bot := Authorize(of(tenant.KindKey, r), Action(a), in), Authorize(of(tenant.KindBot, r), Action(a), in); key != user || bot != user {
				t.Errorf("%s, %s: user %+v, key %+v, bot %+v", a, r, user, key, bot)
			}
		}
		for _, k := range []tenant.PrincipalKind{tenant.KindKey, tenant.KindBot, "", "other"} {
			if Authorize(of(k, tenant.NoRole), Action(a), in).Allow {
				t.Errorf("a %q without a role may %s", k, a)
			}
		}
	}
}

// TestRolesAreOrdered: a higher role may do whatever a lower one may.
func TestRolesAreOrdered(t *testing.T) {
	for _, a := range declared(t) {
		for r := tenant.Viewer; r <= tenant.Admin; r++ {
			if Authorize(of(tenant.KindUser, r-1), Action(a), in).Allow && !Authorize(of(tenant.KindUser, r), Action(a), in).Allow {
				t.Errorf("%s may not %s, which the role below may", r, a)
			}
		}
	}
}

// TestA2Matrix: viewers see, never credentials; editors create and run, and neither read nor edit credentials; admins manage
// members, keys and credentials; bots use credentials without seeing them; operators are no members.
func TestA2Matrix(t *testing.T) {
	credentials := []Action{KeyList, KeyCreate, KeyRevoke, AuthenticatorList, AuthenticatorRead, AuthenticatorCreate, AuthenticatorUpdate,
		AuthenticatorDelete, BotCreate, BotDelete}
	people := []Action{MemberList, MemberRead, MemberCreate, MemberUpdate, MemberDelete, MemberRevoke, BotList, BotRead}
	rules := []Action{PolicyList, PolicyRead, PolicyUpdate, PolicyCheck, AuditListAll}
	use := []Action{MCPCall, RelayWrite}
	see := []Action{ServerList, ServerRead, MCPRead, RelayRead, AuditList, UsageRead, MetricsRead}
	operator := tenant.Principal{Kind: tenant.KindOperator, ID: "op"}
	for _, c := range []struct {
		name string
		p    tenant.Principal
		may  [][]Action
		not  [][]Action
	}{
		{"viewer", of(tenant.KindUser, tenant.Viewer), [][]Action{see}, [][]Action{use, credentials, people, rules}},
		{"editor", of(tenant.KindUser, tenant.Editor), [][]Action{see, use}, [][]Action{credentials, people, rules}},
		{"bot", of(tenant.KindBot, tenant.Editor), [][]Action{see, use}, [][]Action{credentials, people, rules}},
		{"admin", of(tenant.KindUser, tenant.Admin), [][]Action{see, use, credentials, people, rules}, nil},
		{"operator", operator, [][]Action{{MemberCreate, MemberDelete, KeyCreate, UsageRead}}, [][]Action{use, rules, {ServerList, ServerRead, MCPRead, RelayRead}}},
	} {
		for _, actions := range c.may {
			for _, a := range actions {
				if v := Authorize(c.p, a, in); !v.Allow {
					t.Errorf("%s may not %s: %+v", c.name, a, v)
				}
			}
		}
		for _, actions := range c.not {
			for _, a := range actions {
				if v := Authorize(c.p, a, in); v.Allow {
					t.Errorf("%s may %s: %+v", c.name, a, v)
				}
			}
		}
	}
}

// TestA2GrantsBelowOnesOwn: nobody makes an equal.
func TestA2GrantsBelowOnesOwn(t *testing.T) {
	roles := []tenant.Role{tenant.NoRole, tenant.Viewer, tenant.Editor, tenant.Admin}
	for _, mine := range roles {
		for _, given := range roles {
			want := given != tenant.NoRole && given < mine
			if got := MayGrant(of(tenant.KindUser, mine), given); got != want {
				t.Errorf("%s grants %s: %t, want %t", mine, given, got, want)
			}
		}
	}
	for kind, want := range map[tenant.PrincipalKind]bool{tenant.KindOperator: true, tenant.KindSystem: true, tenant.KindAuditor: false, tenant.KindAnonymous: false, "": false} {
		if got := MayGrant(tenant.Principal{Kind: kind}, tenant.Admin); got != want {
			t.Errorf("%q grants admin: %t, want %t", kind, got, want)
		}
	}
}

// TestA8Classes: what would be read is absent, a list is filtered, everything else is refused opaquely. A refusal of a
// mutation never comes as "absent", nor the other way round.
func TestA8Classes(t *testing.T) {
	for _, a := range declared(t) {
		want := Mutate
		switch _, verb, _ := strings.Cut(a, "."); {
		case strings.HasSuffix(verb, "list"):
			want = List
		case verb == "read" || strings.HasSuffix(verb, ".read"):
			want = Read
		}
		if got := ClassOf(Action(a)); got != want {
			t.Errorf("%s: class %d, want %d", a, got, want)
		}
	}
	for _, a := range []Action{"", "list", "read", "x.listing", "x.reader", "list.x"} {
		if ClassOf(a) != Mutate {
			t.Errorf("%q is not refused as a mutation", a)
		}
	}
}

// TestNobodyElse: what is no member, in whatever way, may do nothing.
func TestNobodyElse(t *testing.T) {
	key := func(in tenant.ID) tenant.Principal {
		return tenant.Principal{Tenant: in, Kind: tenant.KindKey, Role: tenant.Admin}
	}
	for name, c := range map[string]struct {
		p  tenant.Principal
		in tenant.ID
	}{
		"zero":                    {tenant.Principal{}, in},
		"zero in no tenant":       {tenant.Principal{}, ""},
		"zero kind, admin":        {tenant.Principal{Tenant: "team-b", Role: tenant.Admin}, in},
		"no role":                 {tenant.Principal{Tenant: in, Kind: tenant.KindKey}, in},
		"member in no tenant":     {key(in), ""},
		"of no tenant":            {key(""), in},
		"of no tenant in none":    {key(""), ""},
		"foreign":                 {key("team-b"), in},
		"foreign with our prefix": {key("team-a1"), in},
		"a user of another":       {tenant.Principal{Tenant: "team-b", Kind: tenant.KindUser}, in},
		"a user of none in none":  {tenant.Principal{Kind: tenant.KindUser}, ""},
		"anonymous elsewhere":     {tenant.Principal{Tenant: "team-b", Kind: tenant.KindAnonymous}, in},
		"anonymous in no tenant":  {tenant.Principal{Kind: tenant.KindAnonymous}, ""},
	} {
		for _, a := range append(declared(t), "") {
			if v := Authorize(c.p, Action(a), c.in); v.Allow || v.Rule == "" {
				t.Errorf("%s may %q: %+v", name, a, v)
			}
		}
	}
}
