package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

// document is one of the two, as JSON and taken apart.
type document struct {
	name string
	text []byte
	root map[string]any
}

func documents(t *testing.T) []document {
	t.Helper()
	docs := []document{{name: "tenant", text: Tenant()}, {name: "admin", text: Admin()}}
	for i := range docs {
		if err := json.Unmarshal(docs[i].text, &docs[i].root); err != nil {
			t.Fatalf("%s: %v", docs[i].name, err)
		}
	}
	return docs
}

// at follows a JSON pointer without escapes, such as #/components/schemas/Key.
func (d *document) at(pointer string) (any, bool) {
	var v any = d.root
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "#/"), "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// object returns what v is, behind a reference if it is one.
func (d *document) object(v any) map[string]any {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok && len(m) == 1 {
		target, _ := d.at(ref)
		return d.object(target)
	}
	return m
}

// operation is one method of a path.
type operation struct {
	method, path string
	item, body   map[string]any
}

func (o operation) String() string { return strings.ToUpper(o.method) + " " + o.path }

func (d *document) operations() []operation {
	var all []operation
	paths, _ := d.root["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item, _ := paths[path].(map[string]any)
		for _, method := range []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"} {
			if body, ok := item[method].(map[string]any); ok {
				all = append(all, operation{method, path, item, body})
			}
		}
	}
	return all
}

// walk calls f with every value under v, and its place.
func walk(place string, v any, f func(place string, v any)) {
	f(place, v)
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			walk(place+"/"+name, v[name], f)
		}
	case []any:
		for i := range v {
			walk(fmt.Sprintf("%s/%d", place, i), v[i], f)
		}
	}
}

// TestReferences holds that every reference leads somewhere, and that every component is used.
func TestReferences(t *testing.T) {
	for _, d := range documents(t) {
		used := map[string]bool{}
		walk("#", d.root, func(place string, v any) {
			m, _ := v.(map[string]any)
			ref, ok := m["$ref"].(string)
			if !ok {
				return
			}
			used[ref] = true
			if _, ok := d.at(ref); !ok {
				t.Errorf("%s: %s: %s leads nowhere", d.name, place, ref)
			}
		})
		components, _ := d.root["components"].(map[string]any)
		for kind, list := range components {
			for name := range list.(map[string]any) {
				if kind != "securitySchemes" && !used["#/components/"+kind+"/"+name] {
					t.Errorf("%s: %s %s is not used", d.name, kind, name)
				}
			}
		}
	}
}

// TestOperations holds what every operation has to tell.
func TestOperations(t *testing.T) {
	parameter := regexp.MustCompile(`\{([a-z]+)\}`)
	for _, d := range documents(t) {
		ids := map[string]bool{}
		all := d.operations()
		if len(all) < 20 {
			t.Fatalf("%s: %d operations", d.name, len(all))
		}
		for _, o := range all {
			id, _ := o.body["operationId"].(string)
			if id == "" || ids[id] {
				t.Errorf("%s: operationId %q is missing or used twice", o, id)
			}
			ids[id] = true
			if summary, _ := o.body["summary"].(string); summary == "" || strings.HasSuffix(summary, ".") {
				t.Errorf("%s: summary %q", o, summary)
			}
			if (o.body["x-polygate-action"] == nil) != (o.body["x-polygate-role"] == nil) {
				t.Errorf("%s: an action without a role, or the other way round", o)
			}
			var want, got []string
			for _, m := range parameter.FindAllStringSubmatch(o.path, -1) {
				want = append(want, m[1])
			}
			params, _ := o.body["parameters"].([]any)
			for _, p := range params {
				if p := d.object(p); p["in"] == "path" {
					got = append(got, p["name"].(string))
				}
			}
			if slices.Sort(want); !slices.Equal(want, slices.Sorted(slices.Values(got))) {
				t.Errorf("%s: path parameters %v, want %v", o, got, want)
			}
			checkResponses(t, &d, o)
		}
	}
}

func checkResponses(t *testing.T, d *document, o operation) {
	t.Helper()
	responses, _ := o.body["responses"].(map[string]any)
	good := 0
	for status, r := range responses {
		r := d.object(r)
		if status < "400" {
			good++
		}
		headers, _ := r["headers"].(map[string]any)
		if desc, _ := r["description"].(string); desc == "" || headers["X-Request-Id"] == nil {
			t.Errorf("%s: %s has no description, or no X-Request-Id", o, status)
		}
		content, _ := r["content"].(map[string]any)
		if status >= "400" && status <= "599" && content["application/problem+json"] == nil {
			t.Errorf("%s: %s is no problem", o, status)
		}
	}
	if good == 0 || responses["500"] == nil {
		t.Errorf("%s: no success, or no 500: %v", o, slices.Sorted(maps.Keys(responses)))
	}
	if o.body["requestBody"] != nil && (responses["400"] == nil || responses["413"] == nil || responses["415"] == nil) {
		t.Errorf("%s: has a body, and not 400, 413 and 415", o)
	}
}

// TestSecurity holds that schemes are defined, and that only what is meant to be open is.
func TestSecurity(t *testing.T) {
	for _, d := range documents(t) {
		schemes, _ := d.at("#/components/securitySchemes")
		check := func(where string, v any) (open bool) {
			list, ok := v.([]any)
			if !ok {
				t.Errorf("%s: security is no list", where)
			}
			open = len(list) == 0
			for _, need := range list {
				need := need.(map[string]any)
				open = open || len(need) == 0
				for name := range need {
					if _, ok := schemes.(map[string]any)[name]; !ok {
						t.Errorf("%s: no scheme %s", where, name)
					}
				}
			}
			return open
		}
		if check(d.name, d.root["security"]) {
			t.Errorf("%s is open", d.name)
		}
		for _, o := range d.operations() {
			own, ok := o.body["security"]
			outside := o.path == "/healthz" || strings.HasPrefix(o.path, "/.")
			if open := ok && check(o.String(), own); open != outside {
				t.Errorf("%s: open = %v", o, open)
			}
		}
	}
}

// compile compiles schemas of the document, by place: what comes back validates an object that holds at each place a value of
// its schema. One compilation of all is far cheaper than one of each.
func (d *document) compile(schemas map[string]any) (*jsonschema.Resolved, error) {
	text, err := json.Marshal(map[string]any{"$defs": d.root["components"].(map[string]any)["schemas"], "properties": schemas})
	if err != nil {
		return nil, err
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte("#/components/schemas/"), []byte("#/$defs/")), &s); err != nil {
		return nil, err
	}
	return s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
}

// TestSchemas holds that every schema compiles, and that its examples and defaults are valid.
func TestSchemas(t *testing.T) {
	for _, d := range documents(t) {
		all := map[string]any{}
		schemas, _ := d.at("#/components/schemas")
		for name, s := range schemas.(map[string]any) {
			all[name] = s
			properties, _ := s.(map[string]any)["properties"].(map[string]any)
			for field, p := range properties {
				all[name+"."+field] = p
			}
		}
		walk("#", d.root, func(place string, v any) {
			if m, ok := v.(map[string]any); ok && m["schema"] != nil {
				all[place] = m["schema"]
			}
		})
		compiled, err := d.compile(all)
		if err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
		n := 0
		for place, s := range all {
			m, _ := s.(map[string]any)
			examples, _ := m["examples"].([]any)
			for _, e := range examples {
				n++
				if err := compiled.Validate(map[string]any{place: e}); err != nil {
					t.Errorf("%s: %s: the example %v: %v", d.name, place, e, err)
				}
			}
		}
		t.Logf("%s: %d schemas, %d examples", d.name, len(all), n)
	}
}

// TestRequestsAreClosed holds that every object that a client sends says which fields it may have: the product refuses others.
func TestRequestsAreClosed(t *testing.T) {
	for _, d := range documents(t) {
		seen := map[string]bool{}
		var check func(place string, v any)
		check = func(place string, v any) {
			m, ok := v.(map[string]any)
			if !ok {
				return
			}
			if ref, ok := m["$ref"].(string); ok {
				if !seen[ref] {
					seen[ref] = true
					target, _ := d.at(ref)
					check(ref, target)
				}
				return
			}
			if _, closed := m["additionalProperties"]; m["properties"] != nil && !closed {
				t.Errorf("%s: %s: says nothing of other fields", d.name, place)
			}
			properties, _ := m["properties"].(map[string]any)
			for name, p := range properties {
				check(place+"."+name, p)
			}
			check(place+"[]", m["items"])
			check(place+".*", m["additionalProperties"])
		}
		for _, o := range d.operations() {
			request := d.object(o.body["requestBody"])
			content, _ := request["content"].(map[string]any)
			for _, c := range content {
				check(o.String(), c.(map[string]any)["schema"])
			}
		}
	}
}

// TestMetaSchema holds the documents against the OpenAPI Initiative's own schema of OpenAPI 3.1, which is not a part of this
// repository: https://spec.openapis.org/oas/3.1/schema/2022-10-07, saved to the file that POLYGATE_OPENAPI_SCHEMA names.
func TestMetaSchema(t *testing.T) {
	path := os.Getenv("POLYGATE_OPENAPI_SCHEMA")
	if path == "" {
		t.Skip("POLYGATE_OPENAPI_SCHEMA names no file")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	meta, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents(t) {
		if err := meta.Validate(d.root); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		d.root["pathz"] = true
		if meta.Validate(d.root) == nil {
			t.Errorf("%s: the schema refuses nothing", d.name)
		}
	}
}

// TestBrokenSource holds that a source that is no YAML gives no document.
func TestBrokenSource(t *testing.T) {
	if got := convert([]byte("a: [")); got != nil {
		t.Errorf("got %s", got)
	}
}

func BenchmarkTenant(b *testing.B) {
	for b.Loop() {
		Tenant()
	}
}
