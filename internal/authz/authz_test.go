package authz

import (
	"fmt"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/tenant"
)

// golden says who may do what in a tenant, and how a refusal is shown. It is the whole policy: a change of a line here is
// a change of what people may do.
const golden = `
action          shown   viewer editor admin foreign operator system anonymous
whoami.read     read    yes    yes    yes   -       -        yes    -
metrics.read    read    yes    yes    yes   -       -        yes    -
server.list     list    yes    yes    yes   -       -        yes    -
server.read     read    yes    yes    yes   -       -        yes    -
server.create   mutate  -      -      yes   -       -        yes    -
server.delete   mutate  -      -      yes   -       -        yes    -
mcp.read        read    yes    yes    yes   -       -        yes    -
mcp.call        mutate  -      yes    yes   -       -        yes    -
key.list        list    -      -      yes   -       yes      yes    -
key.create      mutate  -      -      yes   -       yes      yes    -
key.revoke      mutate  -      -      yes   -       yes      yes    -
relay.read      read    yes    yes    yes   -       -        yes    yes
relay.write     mutate  -      yes    yes   -       -        yes    yes
tenant.list     list    -      -      -     -       yes      yes    -
tenant.read     read    -      -      -     -       yes      yes    -
tenant.create   mutate  -      -      -     -       yes      yes    -
tenant.update   mutate  -      -      -     -       yes      yes    -
tenant.suspend  mutate  -      -      -     -       yes      yes    -
tenant.resume   mutate  -      -      -     -       yes      yes    -
tenant.delete   mutate  -      -      -     -       yes      yes    -
tenant.conflict mutate  -      -      -     -       -        yes    -
datakey.create  mutate  -      -      -     -       -        yes    -
no.such         mutate  -      -      -     -       -        yes    -
`

func TestAuthorizeIsGolden(t *testing.T) {
	const in = tenant.ID("team-a")
	member := func(r tenant.Role) tenant.Principal {
		return tenant.Principal{Tenant: in, Kind: tenant.KindKey, ID: "k", Role: r}
	}
	who := []tenant.Principal{
		member(tenant.Viewer), member(tenant.Editor), member(tenant.Admin),
		{Tenant: "team-b", Kind: tenant.KindKey, ID: "k", Role: tenant.Admin},
		{Kind: tenant.KindOperator, ID: "op"}, tenant.System("reload"), {Tenant: in, Kind: tenant.KindAnonymous},
	}
	classes := map[Class]string{Mutate: "mutate", Read: "read", List: "list"}
	var b strings.Builder
	b.WriteString("\n" + strings.SplitN(golden, "\n", 3)[1] + "\n")
	for _, line := range strings.Split(strings.TrimSpace(golden), "\n")[1:] {
		a := Action(strings.Fields(line)[0])
		row := fmt.Sprintf("%-15s %-7s", a, classes[ClassOf(a)])
		for i, p := range who {
			may := "-"
			if Authorize(p, a, in).Allow {
				may = "yes"
			}
			row += fmt.Sprintf(" %-*s", []int{6, 6, 5, 7, 8, 6, 9}[i], may)
		}
		b.WriteString(strings.TrimRight(row, " ") + "\n")
	}
	if got := b.String(); got != golden {
		t.Errorf("policy is\n%s\nwant\n%s", got, golden)
	}
}

// TestGoldenIsComplete: every action that the package names has its line.
func TestGoldenIsComplete(t *testing.T) {
	for _, a := range []Action{Whoami, MetricsRead, ServerList, ServerRead, ServerCreate, ServerDelete, MCPRead, MCPCall, KeyList, KeyCreate,
		KeyRevoke, RelayRead, RelayWrite, TenantList, TenantRead, TenantCreate, TenantUpdate, TenantSuspend, TenantResume, TenantDelete,
		TenantConflict, DataKeyCreate} {
		if !strings.Contains(golden, "\n"+string(a)+" ") {
			t.Errorf("action %s has no line", a)
		}
	}
}

// TestNobodyElse: what is no member, in whatever way, may do nothing.
func TestNobodyElse(t *testing.T) {
	all := []Action{Whoami, ServerList, ServerCreate, MCPCall, KeyCreate, RelayRead, TenantRead, DataKeyCreate, ""}
	for name, c := range map[string]struct {
		p  tenant.Principal
		in tenant.ID
	}{
		"zero":                    {tenant.Principal{}, "team-a"},
		"zero in no tenant":       {tenant.Principal{}, ""},
		"no role":                 {tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey}, "team-a"},
		"member in no tenant":     {tenant.Principal{Tenant: "team-a", Kind: tenant.KindKey, Role: tenant.Admin}, ""},
		"of no tenant":            {tenant.Principal{Kind: tenant.KindKey, Role: tenant.Admin}, "team-a"},
		"of no tenant in none":    {tenant.Principal{Kind: tenant.KindKey, Role: tenant.Admin}, ""},
		"foreign":                 {tenant.Principal{Tenant: "team-b", Kind: tenant.KindKey, Role: tenant.Admin}, "team-a"},
		"foreign with our prefix": {tenant.Principal{Tenant: "team-a1", Kind: tenant.KindKey, Role: tenant.Admin}, "team-a"},
		"anonymous elsewhere":     {tenant.Principal{Tenant: "team-b", Kind: tenant.KindAnonymous}, "team-a"},
		"anonymous in no tenant":  {tenant.Principal{Kind: tenant.KindAnonymous}, ""},
	} {
		for _, a := range all {
			if v := Authorize(c.p, a, c.in); v.Allow || v.Rule == "" {
				t.Errorf("%s may %q: %+v", name, a, v)
			}
		}
	}
}
