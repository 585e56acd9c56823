package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/authz"
	"github.com/polygate/polygate/internal/openapi"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/proxy/admin"
)

// apiDoc is an OpenAPI document to which requests and answers are held.
type apiDoc struct {
	t      *testing.T
	root   map[string]any
	places map[string]bool // where there is a schema
	valid  *jsonschema.Resolved
	called map[string][]int // the statuses seen, by operation

	elsewhere map[string]bool // operations whose success needs more than one replica: TestFleet has it
}

func newAPIDoc(t *testing.T, text []byte) *apiDoc {
	t.Helper()
	d := &apiDoc{t: t, places: map[string]bool{}, called: map[string][]int{}}
	if err := json.Unmarshal(text, &d.root); err != nil {
		t.Fatal(err)
	}
	schemas := map[string]any{}
	for _, name := range d.operations() {
		d.collect(name, schemas)
	}
	for place := range schemas {
		d.places[place] = true
	}
	root := map[string]any{"$defs": object(object(d.root["components"])["schemas"]), "properties": schemas}
	closeObjects(root)
	enc, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(bytes.ReplaceAll(enc, []byte("#/components/schemas/"), []byte("#/$defs/")), &s); err != nil {
		t.Fatal(err)
	}
	if d.valid, err = s.Resolve(nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func object(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// closeObjects makes every object that leaves it open refuse fields that it does not name: clients have to live with new ones,
// but there is none that the document may leave out.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, said := v["additionalProperties"]; v["type"] == "object" && v["properties"] != nil && !said {
			v["additionalProperties"] = false
		}
		for _, part := range v {
			closeObjects(part)
		}
	case []any:
		for _, part := range v {
			closeObjects(part)
		}
	}
}

// deref returns what v is, behind a reference if it is one.
func (d *apiDoc) deref(v any) map[string]any {
	ref, ok := object(v)["$ref"].(string)
	if !ok {
		return object(v)
	}
	var target any = d.root
	for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		target = object(target)[name]
	}
	return object(target)
}

// operations returns what the document describes, as "GET /path".
func (d *apiDoc) operations() []string {
	var all []string
	for path, item := range object(d.root["paths"]) {
		for method := range object(item) {
			if method != "servers" {
				all = append(all, strings.ToUpper(method)+" "+path)
			}
		}
	}
	slices.Sort(all)
	return all
}

func (d *apiDoc) operation(name string) map[string]any {
	method, path, _ := strings.Cut(name, " ")
	return object(object(object(d.root["paths"])[path])[strings.ToLower(method)])
}

// collect gathers the schemas of an operation by place.
func (d *apiDoc) collect(name string, schemas map[string]any) {
	op := d.operation(name)
	if c := object(object(d.deref(op["requestBody"])["content"])["application/json"]); c != nil {
		schemas[name+" request"] = c["schema"]
	}
	params, _ := op["parameters"].([]any)
	for _, p := range params {
		p := d.deref(p)
		schemas[fmt.Sprintf("%s %v %v", name, p["in"], p["name"])] = p["schema"]
	}
	for status, r := range object(op["responses"]) {
		r := d.deref(r)
		for header, h := range object(r["headers"]) {
			schemas[name+" "+status+" "+http.CanonicalHeaderKey(header)] = d.deref(h)["schema"]
		}
		for media, c := range object(r["content"]) {
			schemas[name+" "+status+" "+media] = object(c)["schema"]
		}
	}
}

// check holds a value to the schema of a place.
func (d *apiDoc) check(place string, v any) error {
	if !d.places[place] {
		return fmt.Errorf("the document has no %q", place)
	}
	return d.valid.Validate(map[string]any{place: v})
}

// scalar returns a text as the value that the schema of a place means by it.
func (d *apiDoc) scalar(place, text string) any {
	if n, err := strconv.Atoi(text); err == nil && d.check(place, float64(n)) == nil {
		return float64(n)
	}
	return text
}

// apiCall is one request to an operation.
type apiCall struct {
	op    string            // "GET /path", as the document names it
	args  map[string]string // of the path
	query url.Values
	body  any // JSON; a string as it is; nil = none
	head  []string
	want  int
	wrong bool // the request is not what the document asks for
}

// surface is a document with a place where the product serves it.
type surface struct {
	*apiDoc
	c    *http.Client
	base string
	head []string // the credential
}

// as returns the surface with another credential.
func (s surface) as(head ...string) surface { s.head = head; return s }

// send sends the request, and holds it and its answer to the document.
func (s surface) send(q apiCall) answer {
	s.t.Helper()
	method, path, _ := strings.Cut(q.op, " ")
	for name, v := range q.args {
		path = strings.ReplaceAll(path, "{"+name+"}", v)
	}
	if len(q.query) > 0 {
		path += "?" + q.query.Encode()
	}
	s.judgeRequest(q)
	a := do(s.c, method, s.base+path, q.body, append(slices.Clone(s.head), q.head...)...)
	if a.Err != nil {
		s.t.Fatalf("%s: %v", q.op, a.Err)
	}
	if a.Status != q.want {
		s.t.Errorf("%s: %d %s, want %d", q.op, a.Status, a.Body, q.want)
	}
	s.judgeAnswer(q.op, a)
	return a
}

func (s surface) judgeRequest(q apiCall) {
	s.t.Helper()
	var wrong []error
	op := s.operation(q.op)
	for name, values := range q.query {
		place := q.op + " query " + name
		wrong = append(wrong, s.check(place, s.scalar(place, values[0])))
	}
	required, _ := s.deref(op["requestBody"])["required"].(bool)
	switch text, isText := q.body.(string); {
	case q.body == nil && required:
		wrong = append(wrong, fmt.Errorf("%s needs a body", q.op))
	case q.body != nil && op["requestBody"] == nil:
		wrong = append(wrong, fmt.Errorf("%s has no body", q.op))
	case q.body != nil && isText:
		wrong = append(wrong, s.checkJSON(q.op+" request", []byte(text)))
	case q.body != nil:
		enc, err := json.Marshal(q.body)
		wrong = append(wrong, err, s.checkJSON(q.op+" request", enc))
	}
	wrong = slices.DeleteFunc(wrong, func(err error) bool { return err == nil })
	if (len(wrong) > 0) != q.wrong {
		s.t.Errorf("%s: the request %v %v: wrong %v, by the document %v", q.op, q.body, q.query, q.wrong, wrong)
	}
}

func (d *apiDoc) checkJSON(place string, text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return d.check(place, v)
}

// judgeAnswer holds an answer to what the document says of its status.
func (d *apiDoc) judgeAnswer(op string, a answer) {
	d.t.Helper()
	d.called[op] = append(d.called[op], a.Status)
	responses := object(d.operation(op)["responses"])
	status := strconv.Itoa(a.Status)
	if responses[status] == nil && responses["default"] != nil {
		status = "default"
	}
	if responses[status] == nil {
		d.t.Errorf("%s: the document has no answer %d: %s", op, a.Status, a.Body)
		return
	}
	r := d.deref(responses[status])
	d.judgeHeaders(op+" "+status, object(r["headers"]), a.Header)
	content := object(r["content"])
	if content == nil {
		if len(a.Body) > 0 && status != "default" {
			d.t.Errorf("%s %s: a body where the document has none: %s", op, status, a.Body)
		}
		return
	}
	media, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if content[media] == nil && content["*/*"] != nil {
		return
	}
	if err != nil || content[media] == nil {
		d.t.Errorf("%s %s: Content-Type %q, want one of %v", op, status, a.Header.Get("Content-Type"), slices.Sorted(maps.Keys(content)))
		return
	}
	place := op + " " + status + " " + media
	if !strings.HasSuffix(media, "json") {
		err = d.check(place, string(a.Body))
	} else {
		err = d.checkJSON(place, a.Body)
	}
	if err != nil {
		d.t.Errorf("%s: %s\n%v", place, a.Body, err)
	}
	if media == "application/problem+json" && !bytes.Contains(a.Body, []byte(`"status":`+status+`,`)) && !bytes.Contains(a.Body, []byte(`"status":`+status+`}`)) {
		d.t.Errorf("%s: the problem has another status: %s", place, a.Body)
	}
}

// judgeHeaders holds the header of an answer to the document: what is required is there, and what is there is described.
func (d *apiDoc) judgeHeaders(place string, described map[string]any, got http.Header) {
	d.t.Helper()
	known := map[string]bool{"Content-Type": true, "Content-Length": true, "Date": true, "Alt-Svc": true, "Strict-Transport-Security": true, "Vary": true}
	for name, h := range described {
		name = http.CanonicalHeaderKey(name)
		known[name] = true
		if required, _ := d.deref(h)["required"].(bool); required && got.Get(name) == "" {
			d.t.Errorf("%s: no %s: %v", place, name, got)
		}
		values := got[name]
		if len(values) > 1 && name != "Set-Cookie" { // a list is one value (RFC 9110 §5.3)
			values = []string{strings.Join(values, ", ")}
		}
		for _, v := range values {
			if err := d.check(place+" "+name, d.scalar(place+" "+name, v)); err != nil {
				d.t.Errorf("%s: %s: %q: %v", place, name, v, err)
			}
		}
	}
	for name := range got {
		always := name == "X-Content-Type-Options" || name == "Cache-Control" || name == "Referrer-Policy" || name == "Content-Security-Policy"
		if !known[name] && !always {
			d.t.Errorf("%s: the document does not know the header %s", place, name)
		}
	}
}

// allCalled fails for every operation of which no success was seen.
func (d *apiDoc) allCalled() {
	d.t.Helper()
	answers := 0
	for _, op := range d.operations() {
		if d.elsewhere[op] {
			continue
		}
		if !slices.ContainsFunc(d.called[op], func(status int) bool { return status < 400 }) {
			d.t.Errorf("%s was never called with success: %v", op, d.called[op])
		}
		answers += len(d.called[op])
	}
	d.t.Logf("%d operations, %d answers", len(d.operations()), answers)
}

// fronts are the operations that the front answers by itself, which has no table of them, with what they need.
func fronts() map[string]authz.Action {
	return map[string]authz.Action{
		"GET /healthz": "", "GET " + authn.MetadataPath: "", "GET " + authn.MetadataPath + "/{resource}": "",
		"GET " + authn.LoginPath: "", "GET " + authn.CallbackPath: authz.SessionCreate, "POST " + authn.LogoutPath: authz.SessionDelete,
		"GET " + authn.HandoverPath: authz.SessionCreate, "GET " + authn.AcceptPath: authz.SessionCreate,
	}
}

// Parts of the operators' listener that its table needs to be there, and not to work.
type (
	absentTenants struct{ admin.Tenants }
	absentIndex   struct{ admin.Index }
	absentGuards  struct{ admin.Guards }
	absentCounts  struct{ admin.Counts }
	absentHeads   struct{}
)

func (absentHeads) Heads(context.Context) (map[string]audit.Head, error) { return nil, nil }

// TestDocumentsFollowRoutes compares the documents with the tables of routes, one to one: paths, methods, actions and roles.
func TestDocumentsFollowRoutes(t *testing.T) {
	want := fronts()
	for _, r := range routes(t) {
		for _, method := range methods(r) {
			action := r.Action
			if strings.HasSuffix(r.Pattern, "/mcp") && method != http.MethodPost {
				action = authz.MCPRead
			}
			want[method+" "+r.Pattern] = action
		}
	}
	compareOperations(t, "tenant", newAPIDoc(t, openapi.Tenant()), want, func(a authz.Action) string {
		if authz.AnyPrincipal(a) {
			return "any"
		}
		return authz.Needs(a).String()
	})

	server, err := admin.New(admin.Config{
		Listen: "unused", GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }, Token: func() (h tenant.Hash) { return h }, Hosts: []string{"localhost"},
		Tenants: absentTenants{}, Index: absentIndex{}, Guards: absentGuards{}, Counts: absentCounts{}, Heads: absentHeads{},
	})
	if err != nil {
		t.Fatal(err)
	}
	want = map[string]authz.Action{}
	for _, r := range server.Routes() {
		want[r.Method+" "+r.Pattern] = r.Action
	}
	compareOperations(t, "admin", newAPIDoc(t, openapi.Admin()), want, func(a authz.Action) string {
		if authz.Authorize(tenant.Principal{Kind: tenant.KindAuditor}, a, "").Allow {
			return "auditor"
		}
		return "operator"
	})
}

func compareOperations(t *testing.T, name string, d *apiDoc, want map[string]authz.Action, role func(authz.Action) string) {
	t.Helper()
	for _, op := range d.operations() {
		action, ok := want[op]
		if !ok {
			t.Errorf("%s: the document has %s, the product has not", name, op)
			continue
		}
		got := d.operation(op)
		needs := ""
		if action != "" {
			needs = role(action)
		}
		if said, _ := got["x-polygate-action"].(string); said != string(action) {
			t.Errorf("%s: %s: x-polygate-action %q, want %q", name, op, said, action)
		}
		if said, _ := got["x-polygate-role"].(string); said != needs {
			t.Errorf("%s: %s: x-polygate-role %q, want %q", name, op, said, needs)
		}
		delete(want, op)
	}
	for op := range want {
		t.Errorf("%s: the product has %s, the document has not", name, op)
	}
}

// served returns the document that the product serves, which is the one that is compared.
func (s surface) served(t *testing.T, text []byte) {
	t.Helper()
	var want any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(s.send(apiCall{op: "GET /api/v1/openapi.json", want: 200}).Body, &got); err != nil {
		t.Fatal(err)
	}
	a, b := must(json.Marshal(got)), must(json.Marshal(want))
	if !bytes.Equal(a, b) {
		t.Errorf("the document served is another: %d bytes, want %d", len(a), len(b))
	}
}

// raw sends a request that do cannot, as its headers are set and not added.
func (s surface) raw(op, path, body string, head map[string]string, want int) answer {
	s.t.Helper()
	method, _, _ := strings.Cut(op, " ")
	r, err := http.NewRequest(method, s.base+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(s.head); i += 2 {
		r.Header.Set(s.head[i], s.head[i+1])
	}
	for name, v := range head {
		r.Header.Set(name, v)
	}
	if host := head["Host"]; host != "" {
		r.Host = host
	}
	resp, err := s.c.Do(r)
	if err != nil {
		s.t.Fatalf("%s: %v", op, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a := answer{Status: resp.StatusCode, Header: resp.Header, Body: text, Err: err}
	if a.Status != want || err != nil {
		s.t.Errorf("%s: %d %s %v, want %d", op, a.Status, a.Body, err, want)
	}
	s.judgeAnswer(op, a)
	return a
}
