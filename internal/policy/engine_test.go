package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a bundle of one module for a tenant, or ends the test.
func open(t testing.TB, l *Library, id tenant.ID, src, data string) *Engine {
	t.Helper()
	e, err := l.Open(context.Background(), scope(id), bundle(src, data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func scope(id tenant.ID) tenant.Scope { return tenant.Confine(id, "u-"+id.String()) }

// bundle returns a bundle of one module in package polygate.authz.
func bundle(src, data string) *Bundle {
	return &Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\n" + src}, Data: []byte(data)}
}

// patient returns limits under which a busy machine does not time out what is not meant to.
func patient() Limits { return Limits{EvalTime: 5 * time.Second, CompileTime: time.Minute} }

func caller() *Input {
	return &Input{
		Role: tenant.Editor, Groups: []string{"ops"}, Action: "mcp.call", Principal: Principal{Kind: "key", ID: "k1"},
		Attributes: map[string][]string{"dept": {"a", "b"}}, Resource: Resource{Type: "tool", Name: "x", Labels: map[string]string{"server": "s"}},
	}
}

func decide(e *Engine) Decision { return e.Decide(context.Background(), caller()) }

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name, src string
		allow     bool
	}{
		{"constant", `allow := true`, true},
		{"role", `allow if input.role == "editor"`, true},
		{"group", `allow if "ops" in input.groups`, true},
		{"attribute", `allow if "b" in input.attributes.dept`, true},
		{"label", `allow if input.resource.labels.server == "s"`, true},
		{"guarded function", `allow if sprintf("%s/%d", [input.role, 3]) == "editor/3"`, true},
		{"nested calls", `allow if count(split(concat(",", [input.role, input.action]), ",")) == 1 + 1`, true},
		{"a function of the tenant's own with the name of a guarded one", "concat(x, y) := x\nallow if concat(\"a\", \"b\") == \"a\"", true},
		{"mocked function", "f(x) := x\ng(x) := \"z\"\nh(x) := f(x)\nallow if h(\"a\") == \"z\" with f as g", true},
		{"comprehension", `allow if {x := [y | some y in numbers.range(1, 9); y % 2 == 0]; x == [2, 4, 6, 8]}`, true},
		{"default false", "default allow := false\nallow if input.role == \"admin\"", false},
		{"print is nothing", "allow if { print(input); true }", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := decide(open(t, NewLibrary(patient()), "a", c.src, "")); d.Allow != c.allow || d.Failure != Decided {
				t.Errorf("got %+v, want allow %v", d, c.allow)
			}
		})
	}
}

// TestC2DenyOverrides is OC-7: whatever `deny` is, if it is not empty or false, it wins.
func TestC2DenyOverrides(t *testing.T) {
	for _, c := range []struct {
		deny  string
		allow bool
		text  string
	}{
		{``, true, ""},
		{`deny := false`, true, ""},
		{`deny := ""`, true, ""},
		{`deny := set()`, true, ""},
		{`deny := []`, true, ""},
		{`deny := {}`, true, ""},
		{`deny contains "x" if input.role == "none"`, true, ""},
		{`deny := true`, false, ""},
		{`deny := "no"`, false, "no"},
		{`deny := ["no", "never"]`, false, "never"},
		{`deny contains "no" if input.role == "editor"`, false, "no"},
		{`deny contains {"msg": "no"}`, false, "no"},
		{`deny contains false`, false, "false"},
		{`deny["no"] := true`, false, "no"},
		{`deny.why := "no"`, false, "why"},
		{`deny := 0`, false, "0"},
		{`deny := null`, false, "null"},
		{`deny := {"msg": "no"}`, false, "no"},
	} {
		d := decide(open(t, NewLibrary(patient()), "a", "allow := true\n"+c.deny, ""))
		if d.Allow != c.allow || !c.allow && d.Rule != "data.polygate.authz.deny" || c.text != "" && !strings.Contains(d.Reason, c.text) {
			t.Errorf("%s: got %+v, want allow %v with %q", c.deny, d, c.allow, c.text)
		}
	}
}

func TestRequireApprovalIsADeny(t *testing.T) {
	d := decide(open(t, NewLibrary(patient()), "a", "allow := true\nrequire_approval if true\nreason := \"ask ops\"", ""))
	if d.Allow || !d.RequireApproval || d.Reason != "approval is required: ask ops" || d.Rule != "data.polygate.authz.require_approval" {
		t.Errorf("got %+v", d)
	}
}

// TestC2FailsClosed is OC-6: what goes wrong is a deny with a reason.
func TestC2FailsClosed(t *testing.T) {
	for _, c := range []struct {
		name, src string
		want      Failure
	}{
		{"undefined", `allow if input.role == "admin"`, FailUndef},
		{"conflict", "allow := true if input.role == \"editor\"\nallow := false if input.action == \"mcp.call\"", FailError},
		{"conflict in deny", "allow := true\ndeny := \"a\" if input.role == \"editor\"\ndeny := \"b\" if input.role", FailError},
		{"failed function in deny", "allow := true\ndeny contains \"x\" if to_number(input.role) > 1", FailError},
		{"wrong type", `allow := "yes"`, FailType},
		{"number", `allow := 1`, FailType},
		{"endless", `allow if {some i in numbers.range(1, 1000); some j in numbers.range(1, 1000); some k in numbers.range(1, 1000); i + j + k < 0}`, FailTimeout},
		{"huge string", `allow if {x := sprintf("%900d%900d%900d", [1, 2, 3]); z := concat(x, [y | y := x; some _ in numbers.range(1, 900)]); z != ""}`, FailMemory},
		{"huge number", `allow if bits.lsh(1, 40000000000) > 0`, FailMemory},
		{"shared parts", "allow if {a := [1, 1]\n" + tower("b", "a", 60) + "b59 != 1}", FailMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide(open(t, NewLibrary(Limits{EvalTime: 300 * time.Millisecond}), "a", c.src, ""))
			if d.Allow || d.Failure != c.want || d.Reason == "" || d.Digest == "" || d.Duration == 0 {
				t.Errorf("got %+v, want %q", d, c.want)
			}
		})
	}
}

// tower returns expressions of which each doubles the one before.
func tower(name, from string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d := [%s, %s]\n", name, i, from, from)
		from = fmt.Sprintf("%s%d", name, i)
	}
	return b.String()
}

func TestC2WithoutABundle(t *testing.T) {
	var none *Engine
	if d := none.Decide(context.Background(), caller()); d.Allow || d.Failure != FailNone || d.Reason == "" {
		t.Errorf("nil engine: %+v", d)
	}
	e := open(t, NewLibrary(patient()), "a", "allow := true", "")
	e.Close()
	if d := decide(e); d.Allow || d.Failure != FailNone {
		t.Errorf("closed engine: %+v", d)
	}
	if d := (Decision{}); d.Allow {
		t.Error("the zero decision allows")
	}
}

func TestC2CanceledCallerIsDenied(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e := open(t, NewLibrary(patient()), "a", `allow if {some i in numbers.range(1, 1000); some j in numbers.range(1, 1000); some k in numbers.range(1, 1000); i + j + k < 0}`, "")
	if d := e.Decide(ctx, caller()); d.Allow || d.Failure != FailCancel {
		t.Errorf("got %+v", d)
	}
}

// TestC2PanicIsADeny: an evaluation that panics ends itself and nothing else, and gives its slot back.
func TestC2PanicIsADeny(t *testing.T) {
	e := open(t, NewLibrary(Limits{Concurrent: 1}), "a", `allow if sprintf("%s", [input.role]) != ""`, "")
	broken := *e.program
	broken.functions = functions()
	broken.functions[guarded+"sprintf"].Func = nil
	e.program = &broken
	for range 3 {
		if d := decide(e); d.Allow || d.Failure != FailPanic || d.Reason == "" {
			t.Fatalf("got %+v", d)
		}
	}
}

// TestC2EndlessRuleIsBounded: an endless rule takes its 50 ms and not much more, and tenant B is served beside it.
func TestC2EndlessRuleIsBounded(t *testing.T) {
	l := NewLibrary(Limits{})
	bad := open(t, l, "a", `allow if {some i in numbers.range(1, 1000); some j in numbers.range(1, 1000); some k in numbers.range(1, 1000); i + j + k < 0}`, "")
	good := open(t, l, "b", `allow if input.role == "editor"`, "")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if d := decide(bad); d.Allow || d.Duration > 2*time.Second {
					t.Errorf("A: %+v", d)
				}
			}
		})
	}
	var worst time.Duration
	for range 300 {
		d := decide(good)
		if !d.Allow {
			t.Errorf("B is refused: %+v", d)
		}
		worst = max(worst, d.Duration)
	}
	close(stop)
	wg.Wait()
	t.Logf("B's slowest decision beside eight endless ones of A: %v", worst)
}

// TestC2LastGood: a bundle that is refused leaves the engine that is open alone, and says where it is wrong.
func TestC2LastGood(t *testing.T) {
	l := NewLibrary(patient())
	e := open(t, l, "a", "allow := true", "")
	_, err := l.Open(context.Background(), scope("a"), bundle("\nallow if {", ""))
	var c *CompileError
	if !errors.As(err, &c) || fault.From(err).Kind != fault.Invalid || c.Problems[0].File != "a.rego" || c.Problems[0].Line == 0 {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(fault.From(err).Detail, "a.rego:3") {
		t.Errorf("the detail names no place: %s", fault.From(err).Detail)
	}
	if d := decide(e); !d.Allow {
		t.Errorf("the old engine answers %+v", d)
	}
	if programs, tenants := l.Sizes(); programs != 1 || tenants != 1 {
		t.Errorf("%d programs and %d tenants are left", programs, tenants)
	}
}

// TestC2SharedModulesOwnData: two tenants with equal modules share the compiled form and nothing else.
func TestC2SharedModulesOwnData(t *testing.T) {
	const src = `allow if input.principal.id in data.users` + "\n" + `reason := concat(" ", [input.tenant, data.secret])`
	l := NewLibrary(patient())
	a := open(t, l, "a", src, `{"users":["k1"],"secret":"of-a"}`)
	b := open(t, l, "b", src, `{"users":["k2"],"secret":"of-b"}`)
	if a.program != b.program {
		t.Error("the compiled form is not shared")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if d := decide(a); !d.Allow || d.Reason != "a of-a" {
					t.Errorf("A: %+v", d)
				}
				if d := decide(b); d.Allow || d.Reason != "b of-b" {
					t.Errorf("B: %+v", d)
				}
			}
		})
	}
	wg.Wait()
	if a.Digest() == b.Digest() {
		t.Error("different data, one digest")
	}
	a.Close()
	a.Close()
	if d := decide(b); d.Allow || d.Reason != "b of-b" {
		t.Errorf("B after A has closed: %+v", d)
	}
	b.Close()
	if programs, tenants := l.Sizes(); programs != 0 || tenants != 0 {
		t.Errorf("%d programs and %d tenants are left", programs, tenants)
	}
}

// TestC2ConcurrencyIsPerTenant: a tenant that fills its share waits within its time and is then denied; another does not
// notice. The share belongs to the tenant, so a new bundle brings no second one.
func TestC2ConcurrencyIsPerTenant(t *testing.T) {
	l := NewLibrary(Limits{Concurrent: 2, EvalTime: 30 * time.Millisecond})
	a, b := open(t, l, "a", "allow := true", ""), open(t, l, "b", "allow := true", "")
	newer := open(t, l, "a", "allow := true\ndeny := false", "")
	a.member.slots <- struct{}{}
	a.member.slots <- struct{}{}
	for _, e := range []*Engine{a, newer} {
		if d := decide(e); d.Allow || d.Failure != FailBusy || d.Duration < 30*time.Millisecond {
			t.Errorf("A: %+v", d)
		}
	}
	if d := decide(b); !d.Allow {
		t.Errorf("B: %+v", d)
	}
	<-a.member.slots
	if d := decide(a); !d.Allow {
		t.Errorf("A with a free slot: %+v", d)
	}
	<-a.member.slots
}

// TestC2TenantIsTheEngines: input.tenant is the engine's, whatever the caller says of itself.
func TestC2TenantIsTheEngines(t *testing.T) {
	e := open(t, NewLibrary(patient()), "a", `allow if input.tenant == "b"`+"\nreason := input.tenant", "")
	in := caller()
	in.Attributes["tenant"], in.Resource.Labels["tenant"], in.Principal.Name = []string{"b"}, "b", `","tenant":"b`
	if d := e.Decide(context.Background(), in); d.Allow || d.Reason != "a" {
		t.Errorf("got %+v", d)
	}
}
