package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestModule applies every rule to every package.
func TestModule(t *testing.T) {
	all, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("%d packages found: the rules have nothing to bite on", len(all))
	}
	for name, rule := range Rules() {
		t.Run(name, func(t *testing.T) {
			for _, p := range all {
				for _, bad := range rule(p) {
					t.Error(bad)
				}
			}
		})
	}
}

// sample makes a package of one file from source and the imports of the project that it shall have.
func sample(t *testing.T, path, src string, imports ...string) *Package {
	t.Helper()
	p := &Package{Path: path, Name: path[strings.LastIndexByte(path, '/')+1:], Imports: imports, Fset: token.NewFileSet()}
	if src != "" {
		f, err := parser.ParseFile(p.Fset, "x.go", src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		p.Files, p.Name = []*ast.File{f}, f.Name.Name
	}
	return p
}

// check applies a rule to a sample. want is a part of the only offence; "" = none.
func check(t *testing.T, rule Rule, p *Package, want string) {
	t.Helper()
	bad := rule(p)
	switch {
	case want == "" && len(bad) > 0:
		t.Errorf("%s %v: refused: %q", p.Path, p.Imports, bad)
	case want != "" && (len(bad) != 1 || !strings.Contains(bad[0], want)):
		t.Errorf("%s %v: got %q, want one offence with %q", p.Path, p.Imports, bad, want)
	}
}

func TestImportMap(t *testing.T) {
	const (
		apart    = "parts do not know each other"
		internal = "internal packages know no part"
		small    = "part of the vocabulary"
		outside  = "commands are at the outside"
		measures = "sees the product from outside"
	)
	for _, c := range []struct{ from, to, want string }{
		{"proxy", "vgw", apart},
		{"proxy/admin", "registry", apart},
		{"vgw/mcp", "proxy", apart},
		{"registry/etcd", "certs", apart},
		{"certs", "registry/memory", apart},
		{"internal/authn", "registry", internal},
		{"internal/telemetry", "proxy/admin", internal},
		{"internal/fault", "internal/tenant", small},
		{"internal/tenant", "internal/authz", small},
		{"internal/audit", "internal/authz", small},
		{"internal/quota", "internal/audit", small},
		{"internal/guard", "internal/exchange", small},
		{"internal/exchange", "internal/audit", small},
		{"internal/policy", "internal/authz", small},
		{"proxy", "cmd/polygate", outside},
		{"internal/telemetry", "cmd/polygate", outside},
		{"cmd/polygate", "proxy", ""},
		{"cmd/polybench", "cmd/polygate/client", measures},
		{"bench/client", "internal/fault", measures},
		{"bench/cluster", "registry", measures},
		{"cmd/polybench", "bench/lab", ""},
		{"bench/lab", "bench/load", ""},
		{"bench/scenario", "internal/strictyaml", ""},
		{"proxy", "internal/guard", ""},
		{"proxy", "proxy/admin", ""},
		{"vgw", "vgw/mcp", ""},
		{"registryx", "proxy", ""}, // no part of ours, though its name begins like one
		{"internal/tenant", "internal/fault", ""},
		{"internal/exchange", "internal/guard", ""},
		{"internal/guard", "internal/policy", ""},
		{"internal/telemetry", "internal/tenant", ""},
	} {
		check(t, ImportMap, sample(t, c.from, "", Module+"/"+c.to, "net/http"), c.want)
	}
}

func TestLibraries(t *testing.T) {
	for _, c := range []struct{ from, lib, want string }{
		{"cmd/polygate", "go.etcd.io/etcd/client/v3", "only registry sees etcd"},
		{"vgw", "go.etcd.io/etcd/api/v3/mvccpb", "only registry sees etcd"},
		{"registry/etcd", "go.etcd.io/etcd/server/v3/embed", ""},
		{"vgw/sandbox", "k8s.io/client-go/kubernetes", "only packages named kube"},
		{"vgw/sandbox/kube", "k8s.io/client-go/kubernetes", ""},
		{"test/kube/kubetest", "k8s.io/client-go/kubernetes", ""},
		{"proxy", "github.com/caddyserver/certmagic", "only certs"},
		{"certs", "github.com/caddyserver/certmagic", ""},
		{"proxy", "github.com/coreos/go-oidc/v3/oidc", "only internal/authn"},
		{"bench/client", "github.com/go-jose/go-jose/v4", "only internal/authn"},
		{"bench/credential", "github.com/go-jose/go-jose/v4", ""},
		{"internal/authn", "github.com/coreos/go-oidc/v3/oidc", ""},
		{"internal/guard", "github.com/open-policy-agent/opa/v1/rego", "only internal/policy"},
		{"internal/policy", "github.com/open-policy-agent/opa/v1/rego", ""},
		{"internal/policy", "net/http", "names no HTTP library"},
		{"vgw", "net/http", "names no HTTP library"},
		{"vgw/mcp", "net/http/httputil", "names no HTTP library"},
		{"internal/exchange", "net/http", "names no HTTP library"},
		{"proxy", "net/http", ""},
		{"vgw", "net/url", ""},
	} {
		check(t, Libraries, sample(t, c.from, "", c.lib), c.want)
	}
}

func TestConfinement(t *testing.T) {
	const imp = `"` + Module + `/internal/tenant"`
	for _, c := range []struct{ path, src, want string }{
		{"vgw", "package vgw\nimport " + imp + "\nfunc f() { tenant.Confine(\"a\", \"b\") }", "only registry"},
		{"vgw", "package vgw\nimport t " + imp + "\nvar _ = t.Confine", "only registry"},
		{"vgw", "package vgw\nimport . " + imp + "\nfunc f() { Confine(\"a\", \"b\") }", "with a dot"},
		{"cmd/polygate", "package main\nimport " + imp + "\nfunc f() { g(tenant.Confine) }", "only registry"},
		{"registry/memory", "package memory\nimport " + imp + "\nfunc f() { tenant.Confine(\"a\", \"b\") }", ""},
		{"vgw", "package vgw\nimport " + imp + "\nfunc f(s tenant.Scope) { x.Confine() }", ""},
		{"vgw", "package vgw\nfunc f() { tenant.Confine() }", ""},
	} {
		check(t, Confinement, sample(t, c.path, c.src), c.want)
	}
}

func TestGlobalState(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{`func init() {}`, "func init"},
		{`var n int`, "variable n"},
		{`var mu sync.Mutex`, "variable mu"},
		{`var cache = make(map[string]int)`, "variable cache"},
		{`var client = http.DefaultClient`, "variable client"},
		{`var client = new(T)`, "variable client"},
		{`var p = &T{}`, "variable p"},
		{`var Table = []string{"a"}`, "variable Table"},
		{`var Limit = 3`, "variable Limit"},
		{`var hook = func() {}`, "variable hook"},
		{`var ErrX = other.Err`, "variable ErrX"},
		{`var table = map[string]int{"a": 1}` + "\n" + `func f() { table["b"] = 2 }`, "table is changed"},
		{`var table = [2]int{}` + "\n" + `func f() { table[0]++ }`, "table is changed"},
		{`var t = T{}` + "\n" + `func f() { t.x.y = 1 }`, "t is changed"},
		{`var t = T{}` + "\n" + `func f() { g(&t) }`, "t is changed"},
		{`var m = map[int]int{}` + "\n" + `func f() { delete(m, 1) }`, "m is changed"},
		{`var m = []int{}` + "\n" + `func f() { m, x = nil, 1 }`, "m is changed"},
		{`var m = []int{}` + "\n" + `func f() { for m[0] = range 3 {} }`, "m is changed"},
		{`var ErrX = errors.New("x")` + "\n" + `func f() { ErrX = nil }`, "ErrX is changed"},

		{`var _ I = (*T)(nil)`, ""},
		{`var ErrX = errors.New("x")`, ""},
		{`var errX = fmt.Errorf("%w: x", ErrY)`, ""},
		{`var errX = fault.New(fault.Unavailable, "x").After(time.Second)`, ""},
		{`var past = time.Unix(1, 0)`, ""},
		{`var Past = time.Unix(1, 0)`, "variable Past"},
		{`var timer = time.NewTimer(1).After(2)`, "variable timer"},
		{`var pattern = regexp.MustCompile("a")`, ""},
		{"//go:embed x\nvar page []byte", ""},
		{"var (\n//go:embed x\npage []byte\n)", ""},
		{`var table = map[string]int{"a": 1}` + "\n" + `func f() int { table := 3; table++; return table }`, ""},
		{`const n = 1`, ""},
		{`func (t T) init() {}`, ""},
	} {
		check(t, GlobalState, sample(t, "vgw", "package vgw\n"+c.src), c.want)
	}
}

func TestComments(t *testing.T) {
	const doc = "// Package vgw is one.\npackage vgw\n"
	for _, c := range []struct{ src, want string }{
		{"package vgw\n", "no package comment"},
		{"// vgw is one.\npackage vgw\n", "no package comment"},
		{"// Package vg is another.\npackage vgw\n", "no package comment"},
		{"// Package main runs.\npackage main\n", "no package comment"},
		{doc + "func F() {}", "F has no comment"},
		{doc + "type T struct{}", "T has no comment"},
		{doc + "const C = 1", "C has no comment"},
		{doc + "// T is.\ntype T struct{}\nfunc (t *T) M() {}", "M has no comment"},
		{doc + "// T is.\ntype T[X any] struct{}\nfunc (t *T[X]) M() {}", "M has no comment"},
		{doc + "// These are.\ntype (\n T struct{}\n)", "T has no comment"},
		{doc + "const (\n C = 1\n)", "C has no comment"},

		{doc, ""},
		{"// Command polygate runs.\npackage main\n", ""},
		{doc + "func f() {}\ntype t struct{}\nfunc (t) M() {}\nconst c = 1\n", ""},
		{doc + "// F does.\nfunc F() {}\n// T is.\ntype T struct{}\n// M does.\nfunc (T) M() {}", ""},
		{doc + "// The Cs.\nconst (\n C = 1\n D = 2\n)", ""},
		{doc + "const (\n C = 1 // is one\n)", ""},
	} {
		check(t, Comments, sample(t, "vgw", c.src), c.want)
	}
}

func TestLoad(t *testing.T) {
	all, err := Load(".")
	if err != nil || len(all) != 1 || all[0].Path != "internal/archtest" || all[0].Name != "archtest" || len(all[0].Files) != 4 {
		t.Fatalf("Load(.) = %+v, %v; want this package and its four files", all, err)
	}
	if _, err := Load("/nowhere"); err == nil {
		t.Error("a folder that does not exist is no error")
	}
}
