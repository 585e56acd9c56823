package policy

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
	"github.com/polygate/polygate/internal/fault"
)

// TestRefused: what is no policy, or too much of one, is refused with a word that says why.
func TestRefused(t *testing.T) {
	lines := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+"\n", i)
		}
		return b.String()
	}
	for _, c := range []struct {
		name, want string
		b          *Bundle
	}{
		{"no module", "no module defines allow", &Bundle{}},
		{"no allow", "no module defines allow", bundle(`deny := true`, "")},
		{"allow elsewhere", "no module defines allow", &Bundle{Modules: map[string]string{"a.rego": "package x\nallow := true"}}},
		{"allow in a test only", "no module defines allow", &Bundle{Modules: map[string]string{"a_test.rego": "package polygate.authz\nallow := true"}}},
		{"deny is a function", "deny is a function", bundle("allow := true\ndeny(x) := x", "")},
		{"system", "reserved", &Bundle{Modules: map[string]string{"a.rego": "package system.authz\nallow := true"}}},
		{"empty module", "empty", &Bundle{Modules: map[string]string{"a.rego": ""}}},
		{"name", "clean relative path", &Bundle{Modules: map[string]string{"../a.rego": "package a"}}},
		{"suffix", "does not end in .rego", &Bundle{Modules: map[string]string{"a.txt": "package a"}}},
		{"version", "unknown", &Bundle{RegoVersion: "v2"}},
		{"network", "undefined function http.send", bundle(`allow if http.send({"url": "http://x", "method": "get"})`, "")},
		{"resolver", "undefined function net.lookup_ip_addr", bundle(`allow if net.lookup_ip_addr("x")`, "")},
		{"runtime", "undefined function opa.runtime", bundle(`allow if opa.runtime().env`, "")},
		{"clock", "undefined function time.now_ns", bundle(`allow if time.now_ns() > 1`, "")},
		{"random", "undefined function rand.intn", bundle(`allow if rand.intn("a", 3) == 1`, "")},
		{"uuid", "undefined function uuid.rfc4122", bundle(`allow if uuid.rfc4122("a") != ""`, "")},
		{"token", "undefined function io.jwt.decode", bundle(`allow if io.jwt.decode("a")`, "")},
		{"data is no object", "no JSON object", bundle("allow := true", "[1]")},
		{"two objects", "more than one", bundle("allow := true", "{} {}")},
		{"data over the package", "reserved", bundle("allow := true", `{"polygate":{"authz":{"allow":true}}}`)},
		{"data over a package", "is a package", &Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\nallow := true", "b.rego": "package lib.x\ny := 1"}, Data: []byte(`{"lib":{"x":{"y":2}}}`)}},
		{"data is a leaf on the way", "is a package", &Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\nallow := true", "b.rego": "package lib.x\ny := 1"}, Data: []byte(`{"lib":3}`)}},
		{"deep data", "too deeply", bundle("allow := true", strings.Repeat(`{"a":`, 100)+"1"+strings.Repeat("}", 100))},
		{"number in data", "too", bundle("allow := true", `{"a":1e100000}`)},
		{"recursion", "recursive", bundle("allow := a\na := b\nb := a", "")},
		{"unsafe", "unsafe", bundle("allow if x > 1", "")},
		{"mocked built-in", "replaces the built-in", bundle("allow if true with sprintf as 1", "")},
		{"digits", "longer than is allowed", bundle("allow := "+strings.Repeat("9", 10000), "")},
		{"brackets", "longer than is allowed", bundle("p"+strings.Repeat(`["a"]`, 9000)+" := 1", "")},
		{"nested", "nested too deeply", bundle("allow := "+strings.Repeat("[", 9000)+strings.Repeat("]", 9000), "")},
		{"long sum", "nested too deeply", bundle("allow := 1"+strings.Repeat("+1", 9000), "")},
		{"nested comprehensions", "within each other", bundle("allow := "+strings.Repeat("[1|", 20)+"true"+strings.Repeat("]", 20), "")},
		{"long body", "expressions", bundle("allow if {\n"+lines(500, "input.x%d")+"}", "")},
		{"many rules", "rules", bundle("allow := true\n"+lines(4000, "r%d := 1"), "")},
		{"long chain", "refer to each other over", bundle("allow := r2499\nr0 := 1\n"+func() string {
			var b strings.Builder
			for i := 1; i < 2500; i++ {
				fmt.Fprintf(&b, "r%d := r%d\n", i, i-1)
			}
			return b.String()
		}(), "")},
		{"template string", "template strings", bundle(`allow if $"{input.role}" == "a"`, "")},
		{"huge module", "split it", bundle("allow := true\n"+strings.Repeat("#\n", 100_000), "")},
		{"huge data", "at most", bundle("allow := true", `{"a":"`+strings.Repeat("a", 2<<20)+`"}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Check(context.Background(), c.b, Limits{})
			var ce *CompileError
			if err == nil || fault.From(err).Kind != fault.Invalid || !errors.As(err, &ce) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// TestOC10Versions: v0 bundles load with a warning, and v1's errors are the ones shown.
func TestOC10Versions(t *testing.T) {
	const old = "allow { input.role == \"editor\" }\ndeny[msg] { input.action == \"x\"; msg := \"no\" }"
	r, err := Check(context.Background(), bundle(old, ""), patient())
	if err != nil || r.RegoVersion != "v0" || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "v0") {
		t.Fatalf("got %+v, %v", r, err)
	}
	if d := decide(open(t, NewLibrary(patient()), "a", old, "")); !d.Allow {
		t.Errorf("the v0 bundle answers %+v", d)
	}
	b := bundle(old, "")
	b.RegoVersion = "v1"
	if _, err := Check(context.Background(), b, patient()); err == nil {
		t.Error("v0 passes as v1")
	}
	b.RegoVersion = "v0"
	if r, err := Check(context.Background(), b, patient()); err != nil || len(r.Warnings) != 0 {
		t.Errorf("declared v0: %+v, %v", r, err)
	}
	if r, err := Check(context.Background(), bundle("allow if true", ""), patient()); err != nil || r.RegoVersion != "v1" {
		t.Errorf("v1: %+v, %v", r, err)
	}
}

func TestEncode(t *testing.T) {
	b := bundle("allow := true", `{"a":[1,2]}`)
	b.RegoVersion = "v1"
	p, err := Encode(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(p)
	if err != nil || !reflect.DeepEqual(got, b) || got.Digest() != b.Digest() {
		t.Errorf("got %+v, %v", got, err)
	}
	p[0]++
	if _, err := Decode(p); err == nil {
		t.Error("another version is read")
	}
}

func TestDecodeRefusesABomb(t *testing.T) {
	var buf bytes.Buffer
	buf.WriteByte(recordVersion)
	z := gzip.NewWriter(&buf)
	zeros := bytes.Repeat([]byte{' '}, 1<<20)
	for range 40 {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()
	if _, err := Decode(buf.Bytes()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

func TestDigest(t *testing.T) {
	base := &Bundle{Modules: map[string]string{"a.rego": "x", "b.rego": "y"}, Data: []byte(`{"a":1,"b":2}`)}
	same := &Bundle{Modules: map[string]string{"b.rego": "y", "a.rego": "x"}, Data: []byte(` {"b":2, "a":1}`)}
	if base.Digest() != same.Digest() {
		t.Error("order and space change the digest")
	}
	seen := map[string]bool{base.Digest(): true}
	for _, b := range []*Bundle{
		{Modules: map[string]string{"a.rego": "xb.rego", "b.rego": "y"}, Data: base.Data},
		{Modules: map[string]string{"a.rego": "x", "b.rego": "z"}, Data: base.Data},
		{Modules: base.Modules, Data: []byte(`{"a":1,"b":3}`)},
		{Modules: base.Modules, Data: base.Data, RegoVersion: "v0"},
		{Modules: base.Modules},
	} {
		if seen[b.Digest()] {
			t.Errorf("%+v has another's digest", b)
		}
		seen[b.Digest()] = true
	}
}

func TestReadDir(t *testing.T) {
	b, files, err := ReadDir("testdata/example", Limits{})
	if err != nil || len(b.Modules) != 3 || len(b.Data) == 0 || len(files) != 5 {
		t.Fatalf("got %+v, %v, %v", b, files, err)
	}
	write := func(dir, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yaml := t.TempDir()
	write(yaml, "data.yaml", "a:\n  b: 1\n")
	write(yaml, ".hidden.rego", "x")
	if b, _, err := ReadDir(yaml, Limits{}); err != nil || string(b.Data) != `{"a":{"b":1}}` || len(b.Modules) != 0 {
		t.Errorf("yaml: %+v, %v", b, err)
	}
	big := t.TempDir()
	write(big, "a.rego", strings.Repeat("#", 2<<20))
	secret := t.TempDir()
	write(secret, "s.rego", "secret")
	link := t.TempDir()
	if err := os.Symlink(filepath.Join(secret, "s.rego"), filepath.Join(link, "s.rego")); err != nil {
		t.Fatal(err)
	}
	both := t.TempDir()
	write(both, "data.yaml", "a: 1")
	write(both, "data.json", "{}")
	for name, dir := range map[string]string{"big": big, "link": link, "both": both, "absent": filepath.Join(big, "none")} {
		if b, _, err := ReadDir(dir, Limits{}); err == nil || fault.From(err).Kind != fault.Invalid {
			t.Errorf("%s: got %+v, %v", name, b, err)
		}
	}
}

func TestExample(t *testing.T) {
	b, _, err := ReadDir("testdata/example", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Check(context.Background(), b, patient())
	if err != nil || r.Tests != 4 || len(r.Entrypoints) != 4 || r.RegoVersion != "v1" {
		t.Fatalf("got %+v, %v", r, err)
	}
	res, err := Test(context.Background(), b, patient())
	if err != nil || len(res) != 4 {
		t.Fatalf("got %+v, %v", res, err)
	}
	for _, r := range res {
		if !r.Pass && !r.Skip || r.Line == 0 || r.File != "actions_test.rego" {
			t.Errorf("got %+v", r)
		}
	}
}

func TestTestReportsFailures(t *testing.T) {
	b := bundle("allow := true", "")
	b.Modules["a_test.rego"] = "package polygate.authz_test\ntest_false if false\ntest_error if to_number(\"x\") == 1\n" +
		"test_endless if {some i in numbers.range(1, 9999); some j in numbers.range(1, 9999); i + j < 0}\ntest_true if data.polygate.authz.allow\n"
	res, err := Test(context.Background(), b, Limits{})
	if err != nil || len(res) != 4 {
		t.Fatalf("got %+v, %v", res, err)
	}
	for i, want := range []struct {
		pass bool
		err  string
	}{{false, ""}, {false, "error"}, {false, "timeout"}, {true, ""}} {
		r := res[i]
		ended := strings.HasPrefix(r.Error, want.err) || want.err == "timeout" && strings.HasPrefix(r.Error, "memory") // as the machine is fast
		if r.Pass != want.pass || !ended || r.Line != i+2 {
			t.Errorf("got %+v, want %+v", r, want)
		}
	}
}

func TestExplain(t *testing.T) {
	e := open(t, NewLibrary(patient()), "a", "allow := true\ndeny contains \"no\" if {\n\tinput.role == \"editor\"\n}", "")
	x, err := e.Explain(context.Background(), caller())
	if err != nil || x.Allow || len(x.Rules) != 2 || x.Rules[0].Rule != "data.polygate.authz.deny" || x.Rules[0].File != "a.rego" || x.Rules[0].Line != 3 {
		t.Fatalf("got %+v, %v", x, err)
	}
	if x.Digest != e.Digest() || len(x.Notes) == 0 || !strings.Contains(x.Input, `"tenant": "a"`) {
		t.Errorf("got %+v", x)
	}
	loud := open(t, NewLibrary(Limits{}), "a", "allow if {some i in numbers.range(1, 9999); some j in numbers.range(1, 9999); i + j < 0}", "")
	if x, err := loud.Explain(context.Background(), caller()); err != nil || len(x.Notes) > maxNotes || x.Failure != FailTimeout {
		t.Errorf("got %d notes, %v, %+v", len(x.Notes), err, x.Decision)
	}
}

// TestGuardsAreOPAs: every function that is named exists, and what stands in for one has its type.
func TestGuardsAreOPAs(t *testing.T) {
	g := guards()
	for _, name := range guardedNames() {
		own, opa := g[guarded+name], ast.BuiltinMap[name]
		if own == nil || opa == nil || types.Compare(own.Decl, opa.Decl) != 0 {
			t.Errorf("%s: %v, OPA has %v", name, own, opa)
		}
	}
	for _, name := range strings.Fields(plain + legacy) {
		if ast.BuiltinMap[name] == nil {
			t.Errorf("%s is no function of OPA", name)
		}
	}
	for _, b := range append(capabilities(ast.RegoV0).Builtins, capabilities(ast.RegoV1).Builtins...) {
		if b.Nondeterministic {
			t.Errorf("%s is allowed and not deterministic", b.Name)
		}
	}
}
