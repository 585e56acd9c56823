package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/polygate/polygate/internal/tenant"
	"pgregory.net/rapid"
)

// TestSameAsOPA holds the rewriting of modules, the query and the judgement to plain OPA: random policies and inputs
// decide alike.
func TestSameAsOPA(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := rapidPolicy(t)
		in := rapidInput(t)
		e, err := NewLibrary(patient()).Open(context.Background(), scope("a"), bundle(src, `{"n":[1,2,3],"users":{"k1":["x"],"k2":[]}}`))
		if err != nil {
			t.Fatalf("%s\n%v", src, err)
		}
		defer e.Close()
		got := e.Decide(context.Background(), in)
		allow, deny, failed := plainOPA(t, src, in)
		want := !failed && !deny && allow
		if got.Allow != want || failed != (got.Failure == FailError) || deny && !failed && len(got.Denies) == 0 {
			t.Fatalf("%s\ninput %s\ngot %+v\nOPA: allow %v, deny %v, failed %v", src, in.value("a"), got, allow, deny, failed)
		}
	})
}

// plainOPA evaluates the package as `opa eval` does, from the input's JSON.
func plainOPA(t *rapid.T, src string, in *Input) (allow, deny, failed bool) {
	var input, data any
	if err := json.Unmarshal([]byte(in.value("a").String()), &input); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal([]byte(`{"n":[1,2,3],"users":{"k1":["x"],"k2":[]}}`), &data)
	rs, err := rego.New(rego.Module("a.rego", "package polygate.authz\n"+src), rego.Query("data.polygate.authz"), rego.Input(input),
		rego.Data(data.(map[string]any)), rego.StrictBuiltinErrors(true)).Eval(context.Background())
	if err != nil {
		return false, false, true
	}
	doc := rs[0].Expressions[0].Value.(map[string]any)
	list, _ := doc["deny"].([]any)
	return doc["allow"] == true, len(list) > 0, false
}

// rapidPolicy draws a policy of a few rules over helpers that use guarded functions, collections and `with`.
func rapidPolicy(t *rapid.T) string {
	conditions := []string{
		`input.role == "editor"`, `"g1" in input.groups`, `not "g2" in input.groups`, `input.action == concat(".", ["mcp", "call"])`,
		`count([x | some x in data.n; x > 1]) == 2`, `sum(data.n) * 2 == 12`, `helper(input.groups)`, `not helper(["g1"])`,
		`count(names) > 0`, `input.principal.id in object.keys(data.users)`, `data.users[input.principal.id] != []`,
		`startswith(sprintf("%s:%d", [input.role, count(input.groups)]), "editor:")`, `every g in input.groups { regex.match("^g[0-9]$", g) }`,
		`[a, b] = [input.role, input.action]; a != b`, `object.union({"a": 1}, {"b": input.role}).b == "viewer"`,
		`helper(input.groups) with input.groups as ["g1"]`, `to_number(input.principal.name) > 1`, `split(input.action, ".")[1] == "call"`,
		`some k, v in input.attributes; "x" in v`, `x := {y: z | some y, z in input.attributes}; count(x) == 1`,
		`{"g1", "g2"} & {g | some g in input.groups} != set()`, `h2("a") == "b" with h1 as "b"`, `json.unmarshal(json.marshal(input.role)) == "editor"`,
	}
	body := func() string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(conditions), 1, 3).Draw(t, "body"), "\n\t")
	}
	var b strings.Builder
	for range rapid.IntRange(1, 3).Draw(t, "allows") {
		fmt.Fprintf(&b, "allow if {\n\t%s\n}\n", scoped(body()))
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "denies") {
		fmt.Fprintf(&b, "deny contains sprintf(\"d%d %%s\", [input.role]) if {\n\t%s\n}\n", i, scoped(body()))
	}
	b.WriteString("helper(gs) if { some g in gs; g == \"g1\" }\nnames contains [n, n] if some n in input.groups\nh1(x) := x\nh2(x) := h1(x)\n")
	return b.String()
}

// scoped renames what conditions declare, so that two of them fit in one body.
func scoped(body string) string {
	lines := strings.Split(body, "\n\t")
	for i, l := range lines {
		for _, v := range []string{"a, b", "k, v", "y, z", "x :="} {
			if strings.Contains(l, v) {
				l = fmt.Sprintf("[1 | %s] != []", l)
				break
			}
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n\t")
}

func rapidInput(t *rapid.T) *Input {
	words := rapid.SampledFrom([]string{"", "g1", "g2", "x", "k1", "k2", "ü", "7"})
	return &Input{
		Role: rapid.SampledFrom([]tenant.Role{tenant.NoRole, tenant.Viewer, tenant.Editor, tenant.Admin}).Draw(t, "role"), Groups: rapid.SliceOfN(words, 0, 3).Draw(t, "groups"),
		Action:     rapid.SampledFrom([]string{"mcp.call", "mcp.read", "x"}).Draw(t, "action"),
		Principal:  Principal{ID: words.Draw(t, "id"), Name: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "name")},
		Attributes: rapid.MapOfN(words, rapid.SliceOfN(words, 0, 2), 0, 2).Draw(t, "attributes"),
	}
}

func FuzzDecode(f *testing.F) {
	good, _ := Encode(bundle("allow := true", `{"a":1}`))
	f.Add(good)
	f.Add([]byte{recordVersion})
	f.Fuzz(func(t *testing.T, p []byte) {
		if b, err := Decode(p); err == nil {
			_ = b.Digest()
			if _, err := Encode(b); err != nil && len(b.Data) == 0 {
				t.Errorf("what was read cannot be stored: %v", err)
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add("allow if input.role == \"editor\"", `{"a":[1]}`)
	f.Add("allow { x := [y | y = input.x[_]]; x[0] }\ndeny[msg] { msg := sprintf(\"%s\", [input]) }", "")
	f.Add("f(x) := [x, x]\nallow if f(f(1)) == 1 with input as 2\nelse := false if true", "{")
	f.Fuzz(func(t *testing.T, src, data string) {
		if len(src) > 4<<10 || len(data) > 4<<10 {
			return
		}
		l := NewLibrary(Limits{})
		e, err := l.Open(context.Background(), scope("a"), bundle(src, data))
		if err != nil {
			if len(err.Error()) > 8<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		defer e.Close()
		if d := decide(e); d.Failure == FailPanic || !d.Allow && d.Reason == "" {
			t.Errorf("got %+v", d)
		}
	})
}

func FuzzInput(f *testing.F) {
	f.Add("editor", "g", "x.y", "/p")
	f.Add("\xff\x00", "\"", "}", "\u2028")
	f.Fuzz(func(t *testing.T, id, group, action, path string) {
		in := &Input{Principal: Principal{ID: id}, Groups: []string{group}, Action: action, Request: Request{Path: path}, Attributes: map[string][]string{id: {group}}}
		v := in.value("a")
		var back struct{ Tenant, Action string }
		got, err := ast.JSON(v)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(got)
		if err != nil || json.Unmarshal(raw, &back) != nil || back.Tenant != "a" {
			t.Errorf("got %s, %v", raw, err)
		}
	})
}

func TestSmallNumber(t *testing.T) {
	for s, want := range map[string]bool{"1": true, "1e999": true, "1e1000": false, "-1.5E+0000012": true, strings.Repeat("1", 65): false, "editor": true, "1e99999999999999999999": false} {
		if smallNumber(s, 64) != want {
			t.Errorf("%q: got %v", s, !want)
		}
	}
	if mul(math.MaxInt32, 3) != math.MaxInt32 || mul(0, 5) != 0 || mul(3, 4) != 12 {
		t.Error("mul")
	}
}
