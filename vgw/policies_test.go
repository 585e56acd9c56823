package vgw_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/policy"
	"github.com/polygate/polygate/internal/tenant"
)

const (
	noCalls = `package polygate.authz

import rego.v1

default allow := false

allow if input.action != "mcp.call"

allow if input.role == "admin"

deny contains "echo is closed today" if {
	input.action == "mcp.call"
	input.resource.name == "echo"
}
`
	noCallsTest = `package polygate.authz_test

import data.polygate.authz
import rego.v1

test_reads if authz.allow with input as {"action": "server.read", "role": "viewer"}

test_wrong if authz.allow with input as {"action": "mcp.call", "role": "viewer"}
`
)

// modules makes a bundle's JSON of files.
func modules(files ...string) string {
	b := policy.Bundle{Modules: map[string]string{}}
	for i := 0; i < len(files); i += 2 {
		b.Modules[files[i]] = files[i+1]
	}
	out, _ := json.Marshal(b)
	return string(out)
}

// C-2: an upload is in force for the next request; one that does not compile says where, and the last good one stays; an
// earlier one comes back; and without one everything is as the roles say.
func TestC2PolicyStory(t *testing.T) {
	w := owned(t)
	admin, editor := w.principal("team-a", tenant.Admin), w.principal("team-a", tenant.Editor)
	if !w.calls(t, editor, "hers", toolCall) {
		t.Fatal("an editor may not call without a policy")
	}
	dry := w.must(t, "team-a", admin, post("/api/v1/policies?dry_run=1", modules("a.rego", noCalls)), 200)
	if dry["active"] != false || w.store.entry("team-a").Record.Policy != nil {
		t.Errorf("a dry run: %v", dry)
	}
	first := w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", noCalls)), 201)
	if first["active"] != true || fmt.Sprint(first["packages"]) != "[polygate.authz]" {
		t.Errorf("uploaded %v", first)
	}
	if w.calls(t, editor, "hers", toolCall) || !w.calls(t, editor, "hers", toolList) {
		t.Error("the policy is not in force at the next request")
	}
	w.says(t, "team-a", editor, post("/servers/hers/mcp", toolCall), 403, "echo is closed today")
	for _, bad := range []string{modules("a.rego", "package polygate.authz\n\nallow if {"), modules("a.rego", "package polygate.authz\n\nallow := http.send({})")} {
		w.says(t, "team-a", admin, post("/api/v1/policies", bad), 400, "a.rego:3")
		if got := w.must(t, "team-a", admin, post("/api/v1/policies/check", bad), 200); got["ok"] != false || !strings.Contains(fmt.Sprint(got["problems"]), "line:3") {
			t.Errorf("check: %v", got)
		}
	}
	if w.calls(t, editor, "hers", toolCall) {
		t.Error("a bad bundle displaced the last good one")
	}
	second := w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", "package polygate.authz\n\nallow := true\n")), 201)
	if !w.calls(t, editor, "hers", toolCall) {
		t.Error("the second policy is not in force")
	}
	list := w.do("team-a", admin, get("/api/v1/policies"))
	if strings.Count(list.body, `"digest"`) != 2 || !strings.Contains(list.body, `"active":"`+second["digest"].(string)) {
		t.Errorf("versions: %s", list.body)
	}
	w.says(t, "team-a", admin, get("/api/v1/policies/"+first["digest"].(string)), 200, "echo is closed today")
	w.says(t, "team-a", admin, get("/api/v1/policies/active"), 200, second["digest"].(string))
	stale := post("/api/v1/policies/"+first["digest"].(string)+"/activate", "")
	stale.header = map[string]string{"If-Match": `"1"`}
	w.says(t, "team-a", admin, stale, 412, "")
	back := post("/api/v1/policies/"+first["digest"].(string)+"/activate", "")
	back.header = map[string]string{"If-Match": list.header.Get("Etag")}
	w.must(t, "team-a", admin, back, 200)
	if w.calls(t, editor, "hers", toolCall) {
		t.Error("the first policy is not in force again")
	}
	w.must(t, "team-a", admin, del("/api/v1/policies/active"), 204)
	w.says(t, "team-a", admin, del("/api/v1/policies/active"), 404, "")
	w.says(t, "team-a", admin, get("/api/v1/policies/active"), 404, "")
	if !w.calls(t, editor, "hers", toolCall) {
		t.Error("a policy that was taken out of force still denies")
	}
}

// Five versions are kept: the one in force and one's own upload among them.
func TestC2VersionsAreBounded(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	var digests []string
	for i := range 8 {
		made := w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", fmt.Sprintf("package polygate.authz\n\nallow := true\n\nn := %d\n", i))), 201)
		digests = append(digests, made["digest"].(string))
		if i == 4 { // the oldest in force does not make room
			w.must(t, "team-a", admin, post("/api/v1/policies/"+digests[0]+"/activate", ""), 200)
			w.must(t, "team-a", admin, post("/api/v1/policies?dry_run=1", modules("a.rego", noCalls)), 200)
		}
		if i == 5 {
			w.must(t, "team-a", admin, get("/api/v1/policies/"+digests[0]), 200)
			w.must(t, "team-a", admin, get("/api/v1/policies/"+digests[1]), 404)
		}
	}
	list := w.do("team-a", admin, get("/api/v1/policies")).body
	if n := strings.Count(list, `"digest"`); n != 5 || !strings.Contains(list, digests[7]) {
		t.Errorf("%d versions: %s", n, list)
	}
	if n := strings.Count(w.store.dump(), "/policy/"); n != 5 {
		t.Errorf("%d bundles are stored", n)
	}
}

func TestC2PolicyTests(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	bundle := modules("a.rego", noCalls, "a_test.rego", noCallsTest)
	got := w.must(t, "team-a", admin, post("/api/v1/policies/test", `{"bundle":`+bundle+`}`), 200)
	if got["ok"] != false || got["passed"] != 1.0 || got["failed"] != 1.0 || !strings.Contains(fmt.Sprint(got["results"]), "name:test_wrong") {
		t.Errorf("tests: %v", got)
	}
	w.must(t, "team-a", admin, post("/api/v1/policies", bundle), 201)
	if again := w.must(t, "team-a", admin, post("/api/v1/policies/test", `{}`), 200); again["failed"] != 1.0 {
		t.Errorf("of the one in force: %v", again)
	}
	w.says(t, "team-a", admin, post("/api/v1/policies/test", `{"digest":"x","bundle":`+bundle+`}`), 400, "use one")
	w.says(t, "team-a", admin, post("/api/v1/policies/test", `{"digest":"x"}`), 404, "")
}

// "Why was I denied": one learns it for oneself; an admin for everybody, with the rules and their lines.
func TestC2Explain(t *testing.T) {
	w := owned(t)
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	const ask = `"action":"mcp.call","resource":"server/hers/tool/echo"}`
	got := w.must(t, "team-a", bob, post("/api/v1/policies/explain", "{"+ask), 200)
	if got["allow"] != false || got["principal"] != "user:corp/bob" || got["needs"] != "editor" || got["policy"] != nil {
		t.Errorf("without a policy: %v", got)
	}
	w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	if got := w.must(t, "team-a", bob, post("/api/v1/policies/explain", "{"+ask), 200); got["allow"] != true || !strings.HasPrefix(fmt.Sprint(got["rule"]), "grant ") {
		t.Errorf("with a delegation: %v", got)
	}
	up := w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", noCalls)), 201)
	got = w.must(t, "team-a", bob, post("/api/v1/policies/explain", "{"+ask), 200)
	p, _ := got["policy"].(map[string]any)
	if got["allow"] != false || p["digest"] != up["digest"] || fmt.Sprint(p["denies"]) != "[echo is closed today]" || p["input"] != nil || p["rules"] != nil {
		t.Errorf("for oneself: %v", got)
	}
	w.says(t, "team-a", bob, post("/api/v1/policies/explain", `{"principal":{"ref":"user:corp/alice"},`+ask), 403, "")
	got = w.must(t, "team-a", admin, post("/api/v1/policies/explain", `{"principal":{"ref":"user:corp/alice","groups":["ops"]},`+ask), 200)
	p, _ = got["policy"].(map[string]any)
	if got["role"] != "editor" || !strings.Contains(fmt.Sprint(p["rules"]), "file:a.rego line:") || !strings.Contains(fmt.Sprint(p["input"]), "ops") {
		t.Errorf("for another: %v", got)
	}
	if got := w.must(t, "team-a", admin, post("/api/v1/policies/explain", `{"principal":{"role":"admin"},"action":"key.create","resource":"key/x"}`), 200); got["allow"] != true {
		t.Errorf("for a described one: %v", got)
	}
	w.says(t, "team-a", admin, post("/api/v1/policies/explain", `{"principal":{"ref":"operator:root"},`+ask), 400, "user, bot or key")
	if n := len(w.rec.entries); w.rec.entries[n-1].Action != "policy.check" {
		t.Errorf("the last record is %+v", w.rec.entries[n-1])
	}
}

// What a file declares is changed in the file only, and the same again writes nothing.
func TestC2PolicyOfAFile(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	apply := func(b *policy.Bundle) error {
		v, err := w.guards.Platform().Enter(tenant.System("reload"), guard.Request{})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Leave()
		return w.mux.ApplyPolicy(context.Background(), v, w.store.entry("team-a"), "policies/a", b)
	}
	good := &policy.Bundle{Modules: map[string]string{"a.rego": noCalls}}
	if err := apply(good); err != nil {
		t.Fatal(err)
	}
	if p := w.store.entry("team-a").Record.Policy; p == nil || p.Source != tenant.SourceFile || p.File != "policies/a" || p.Digest != good.Digest() {
		t.Fatalf("in force: %+v", p)
	}
	if w.calls(t, w.principal("team-a", tenant.Editor), "hers", toolCall) {
		t.Error("a declared policy is not in force")
	}
	before := w.store.dump()
	if err := apply(good); err != nil || w.store.dump() != before {
		t.Errorf("the same again: %v", err)
	}
	if err := apply(&policy.Bundle{Modules: map[string]string{"a.rego": "package polygate.authz\nallow if {"}}); !fault.Is(err, fault.Invalid) || w.store.dump() != before {
		t.Errorf("a bad one: %v", err)
	}
	for _, q := range []request{
		post("/api/v1/policies", modules("b.rego", noCalls)), del("/api/v1/policies/active"), post("/api/v1/policies/"+good.Digest()+"/activate", ""),
	} {
		w.says(t, "team-a", admin, q, 409, "policies/a")
	}
	if err := apply(nil); err != nil || w.store.entry("team-a").Record.Policy != nil {
		t.Errorf("taken out of the file: %v", err)
	}
	w.must(t, "team-a", admin, post("/api/v1/policies", modules("b.rego", noCalls)), 201)
	if err := apply(good); !fault.Is(err, fault.Conflict) {
		t.Errorf("over the API's: %v", err)
	}
	if err := apply(nil); err != nil || w.store.entry("team-a").Record.Policy == nil {
		t.Errorf("a file without a policy took the API's out of force: %v", err)
	}
}

// Nobody locks the tenant out of its own policy.
func TestC2NoLockOut(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	for _, src := range []string{
		"package polygate.authz\n\nallow := false\n", "package polygate.authz\n\nimport rego.v1\n\nallow := true\n\ndeny contains \"no\" if startswith(input.action, \"policy.\")\n",
		"package polygate.authz\n\nimport rego.v1\n\nallow if input.principal.id == \"somebody-else\"\n",
	} {
		w.says(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", src)), 409, "out of force again")
		w.says(t, "team-a", admin, post("/api/v1/policies?dry_run=1", modules("a.rego", src)), 409, "out of force again")
	}
	if w.store.entry("team-a").Record.Policy != nil {
		t.Error("a policy that locks its admins out is in force")
	}
}

// A bundle is bounded, and a refused one gives its turn back.
func TestC2UploadsAreBounded(t *testing.T) {
	w := full(t)
	w.store.add("team-a")
	big := request{method: "POST", path: "/api/v1/policies", body: `{"modules":{"a.rego":"` + strings.Repeat("x", 5<<20) + `"}}`}
	w.says(t, "team-a", w.principal("team-a", tenant.Admin), big, 413, "")
	w.says(t, "team-a", w.principal("team-a", tenant.Viewer), big, 403, "")
	done := time.Now()
	w.says(t, "team-a", w.principal("team-a", tenant.Admin), post("/api/v1/policies", modules("a.rego", noCalls)), 201, "")
	if d := time.Since(done); d > 4*time.Second {
		t.Errorf("a refused upload kept the turn: %s", d)
	}
}
