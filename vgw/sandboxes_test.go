package vgw_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
)

const hers = "/api/v1/sandboxes/hers"

// S-S1: from its creation to its end, as its owner sees it.
func TestSandboxStory(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	body := `{"name":"chore","command":["sleep","1h"],"args":["x"],"env":[{"name":"B","value":"2"},{"name":"A","value":"1"}],"working_dir":"/workspace",
		"resources":{"cpu":"1","memory":"1Gi"},"ports":[{"name":"web","port":8080}],"lifetime_seconds":3600,"idle_timeout_seconds":600,"labels":{"team":"red"}}`
	made := w.do("team-a", alice, post("/api/v1/sandboxes", body))
	if made.status != 201 || made.header.Get("Location") != "https://t.test/api/v1/sandboxes/chore" || made.header.Get("Etag") == "" {
		t.Fatalf("%d %v %s", made.status, made.header, made.body)
	}
	s := w.awaits(t, alice, "chore", "running")
	for field, want := range map[string]string{
		"name": `"chore"`, "owner": `"user:corp/alice"`, "state": `"Running"`, "want": `"running"`, "command": `["sleep","1h"]`, "args": `["x"]`,
		"env": `[{"name":"A","value":"1"},{"name":"B","value":"2"}]`, "working_dir": `"/workspace"`,
		"resources": `{"cpu":"1","memory":"1Gi","storage":"1Gi"}`, "ports": `[{"name":"web","port":8080}]`, "lifetime_seconds": "3600",
		"idle_timeout_seconds": "600", "labels": `{"team":"red"}`,
	} {
		if got, _ := json.Marshal(s[field]); string(got) != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
	run, _ := s["run"].(map[string]any)
	if run["number"] != 1.0 || run["started"] == nil || s["expires"] == nil {
		t.Errorf("run %v, expires %v", run, s["expires"])
	}
	byID := w.must(t, "team-a", alice, get("/api/v1/sandboxes/"+s["id"].(string)), 200)
	if byID["name"] != "chore" {
		t.Errorf("by its id: %v", byID)
	}
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/chore/events"), 200, `"reason":"Started"`)
	w.says(t, "team-a", alice, post("/api/v1/sandboxes/chore/stop", ""), 202, `"want":"stopped"`)
	if s := w.awaits(t, alice, "chore", "stopped"); s["state"] != "Stopped" || s["expires"] != nil {
		t.Errorf("stopped: %v", s)
	}
	w.says(t, "team-a", alice, post("/api/v1/sandboxes/chore/stop", ""), 202, `"state":"Stopped"`)
	w.says(t, "team-a", alice, post("/api/v1/sandboxes/chore/exec", `{"command":["echo"]}`), 409, "start it")
	w.says(t, "team-a", alice, request{method: "GET", path: "/api/v1/sandboxes/chore/exec?command=echo", header: map[string]string{"Upgrade": "websocket"}}, 409, "Stopped")
	w.says(t, "team-a", alice, post("/api/v1/sandboxes/chore/start", ""), 202, `"want":"running"`)
	if s := w.awaits(t, alice, "chore", "running"); s["run"].(map[string]any)["number"] != 2.0 {
		t.Errorf("started again: %v", s)
	}
	w.says(t, "team-a", alice, del("/api/v1/sandboxes/chore"), 202, `"want":"deleted"`)
	if got := w.do("team-a", alice, get("/api/v1/sandboxes/chore/wait?for=deleted")); got.status != 404 && got.body != `{"reached":true}`+"\n" {
		t.Errorf("deleted: %d %s", got.status, got.body)
	}
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/chore"), 404, "")
}

func TestSandboxWaits(t *testing.T) {
	w, stage := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	stage.tenant(w, "team-a").Hold = true
	failed := w.must(t, "team-a", alice, post("/api/v1/sandboxes", `{"name":"slow","command":["exit","3"]}`), 201)["id"].(string)
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/slow/wait?timeout=1s"), 200, `"reached":false,"sandbox":{`)
	done := make(chan answer)
	go func() { done <- w.do("team-a", alice, get("/api/v1/sandboxes/slow/wait?for=running&timeout=20")) }()
	eventually(t, "it is made", func() bool { return stage.tenant(w, "team-a").Made(failed) == 1 })
	stage.tenant(w, "team-a").Start(failed)
	if got := <-done; got.status != 200 || !strings.Contains(got.body, `"reached":false`) && !strings.Contains(got.body, `"Running"`) {
		t.Errorf("a wait for what fails: %d %s", got.status, got.body)
	}
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/slow/wait?for=settled"), 200, `"exit_code":3`)
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/slow/wait?for=running"), 200, `"reached":false`)
	for query, says := range map[string]string{"for=ready": "settled", "timeout=0": "1s", "timeout=2h": "1h", "timeout=x": "timeout", "to=x": "to", "for=a&for=b": "2 times"} {
		w.says(t, "team-a", alice, get("/api/v1/sandboxes/slow/wait?"+query), 400, says)
	}
}

func TestSandboxRefusals(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	for body, says := range map[string]string{
		`{"name":"hers"}`: "hers", `{"name":"a--b"}`: "name", `{"name":"3b241101-e2bb-4255-8caf-4136c566a962"}`: "name", `{"image":"nginx"}`: "image",
		`{"resources":{"cpu":"lots"}}`: "resources.cpu", `{"resources":{"memory":"0"}}`: "resources.memory", `{"namespace":"kube-system"}`: "namespace",
		`{"lifetime_seconds":-1}`: "lifetime_seconds", `{"lifetime_seconds":9999999999999}`: "lifetime_seconds", `{"lifetime_seconds":90000}`: "lifetime",
		`{"idle_timeout_seconds":-5}`: "idle_timeout", `{"env":[{"name":"A=B","value":""}]}`: "env", `{"env":[{"name":"A","value":""},{"name":"A","value":""}]}`: "env",
		`{"resources":{"gpus":{"nvidia.com/gpu":1}}}`: "gpu", `{"labels":{"polygate.dev/tenant":"x"}}`: "labels", `{"id":"x"}`: "id", `{"session":"x"}`: "session",
	} {
		got := w.do("team-a", alice, post("/api/v1/sandboxes", body))
		if got.status != 400 && got.status != 409 || !strings.Contains(got.body, says) {
			t.Errorf("%s: %d %s, want %q", body, got.status, got.body, says)
		}
	}
	w.says(t, "team-a", alice, del(hers+"?force=1"), 400, "query")
	if got := w.must(t, "team-a", alice, get("/api/v1/sandboxes"), 200); len(got["items"].([]any)) != 1 {
		t.Errorf("what was refused is there: %v", got)
	}
}

// Who may do what with a sandbox, and that who may not is told the same of one that there is and one that there is not.
func TestSR3SandboxMatrix(t *testing.T) {
	w, _ := sandboxed(t)
	w.store.add("team-b")
	alice, bob, carol, eve := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob"), w.user("team-a", "corp", "carol"), w.user("team-a", "corp", "eve")
	admin, stranger := w.principal("team-a", tenant.Admin), w.principal("team-b", tenant.Admin)
	attach := request{method: "GET", query: "?command=echo", header: map[string]string{"Upgrade": "websocket"}}
	uses := []struct {
		name   string
		q      request
		at     string
		action string
		read   bool
	}{
		{"get", request{method: "GET"}, "", "sandbox.read", true},
		{"events", request{method: "GET"}, "/events", "sandbox.read", true},
		{"wait", request{method: "GET"}, "/wait", "sandbox.read", true},
		{"logs", request{method: "GET"}, "/logs", "sandbox.logs.read", true},
		{"exec", request{method: "POST", body: `{"command":["echo","x"]}`}, "/exec", "sandbox.exec", false},
		{"attach", attach, "/exec", "sandbox.exec", false},
		{"stop", request{method: "POST"}, "/stop", "sandbox.stop", false},
		{"start", request{method: "POST"}, "/start", "sandbox.start", false},
		{"delete", request{method: "DELETE"}, "", "sandbox.delete", false},
	}
	private := map[string]bool{"logs": true, "exec": true, "attach": true}
	for _, u := range uses {
		for who, p := range map[string]tenant.Principal{"alice": alice, "bob": bob, "carol": carol, "eve": eve, "admin": admin, "stranger": stranger} {
			present, absent := u.q, u.q
			present.path, absent.path = hers+u.at, "/api/v1/sandboxes/none"+u.at
			got, none := w.do("team-a", p, present), w.do("team-a", p, absent)
			switch may := who == "alice" || who == "admin" && !private[u.name]; {
			case may && got.status >= 300:
				t.Errorf("%s by %s: %d %s", u.name, who, got.status, got.body)
			case may && none.status != 404 && (who == "admin" || u.read || none.status != 403): // of nobody's, only admins may
				t.Errorf("%s of none by %s: %d", u.name, who, none.status)
			case !may && got.bytes() != none.bytes():
				t.Errorf("%s by %s tells what there is:\n%s\n%s", u.name, who, got.bytes(), none.bytes())
			case !may && got.status != map[bool]int{true: 404, false: 403}[u.read]:
				t.Errorf("%s by %s: %d", u.name, who, got.status)
			}
			if u.name == "stop" && got.status == 202 {
				w.awaits(t, alice, "hers", "stopped")
				w.must(t, "team-a", alice, post(hers+"/start", ""), 202)
				w.awaits(t, alice, "hers", "running")
			}
			if u.name == "delete" && got.status < 300 {
				eventually(t, "it is gone", func() bool { return w.do("team-a", alice, get(hers)).status == 404 })
				w.makeSandbox(t, alice, `{"name":"hers","command":["sleep","1h"]}`)
			}
		}
	}
	// With a delegation of exactly the action, bob, eve and the admin may do it, and see it; and nothing else.
	for _, u := range uses[:8] {
		for who, p := range map[string]tenant.Principal{"bob": bob, "eve": eve, "admin": admin} {
			g := w.must(t, "team-a", alice, delegate(p.Ref(), u.action, "sandbox/hers", ""), 201)
			if g["object"] != "sandbox/hers" {
				t.Errorf("delegated %v", g)
			}
			for _, other := range uses[:6] {
				q := other.q
				q.path = hers + other.at
				may := other.action == u.action || other.action == "sandbox.read" || who == "admin" && !private[other.name]
				if got := w.do("team-a", p, q); got.status < 300 != may {
					t.Errorf("%s by %s with %s: %d %s", other.name, who, u.action, got.status, got.body)
				}
			}
			q := u.q
			q.path = hers + u.at
			if got := w.do("team-a", p, q); got.status >= 300 {
				t.Errorf("%s by %s: %d %s", u.name, who, got.status, got.body)
			}
			if u.name == "stop" {
				w.awaits(t, alice, "hers", "stopped")
				w.must(t, "team-a", alice, post(hers+"/start", ""), 202)
				w.awaits(t, alice, "hers", "running")
			}
			if got := w.do("team-a", p, get("/api/v1/sandboxes")); !strings.Contains(got.body, `"name":"hers"`) || strings.Contains(got.body, "of alice") {
				t.Errorf("%s sees in the list: %s", who, got.body)
			}
			w.must(t, "team-a", alice, del("/api/v1/grants/"+g["id"].(string)), 204)
		}
	}
	for _, p := range []tenant.Principal{bob, eve, stranger} {
		w.says(t, "team-a", p, get("/api/v1/sandboxes"), 200, `{"items":[]}`)
	}
	// One cannot hand on what one was given, nor delegate what is another's or no action on a sandbox.
	w.must(t, "team-a", alice, delegate("user:corp/carol", "sandbox.exec", "sandbox/hers", ""), 201)
	w.says(t, "team-a", carol, delegate("user:corp/bob", "sandbox.exec", "sandbox/hers", ""), 403, "")
	w.says(t, "team-a", carol, delegate("user:corp/bob", "sandbox.exec", "sandbox/other", ""), 403, "")
	for _, action := range []string{"mcp.call", "sandbox.create", "sandbox.list", "server.read"} {
		w.says(t, "team-a", alice, delegate("user:corp/bob", action, "sandbox/hers", ""), 400, "sandbox.exec")
	}
	w.says(t, "team-a", admin, delegate("user:corp/bob", "sandbox.exec", "server/hers", ""), 400, "mcp.call")
}

// A variable's value is its owner's to see.
func TestSandboxEnvIsTheOwners(t *testing.T) {
	w, _ := sandboxed(t)
	alice, admin := w.user("team-a", "corp", "alice"), w.principal("team-a", tenant.Admin)
	w.must(t, "team-a", alice, delegate("user:corp/bob", "sandbox.read", "sandbox/hers", ""), 201)
	for _, p := range []tenant.Principal{admin, w.user("team-a", "corp", "bob")} {
		for _, path := range []string{hers, "/api/v1/sandboxes", hers + "/wait"} {
			if got := w.do("team-a", p, get(path)); !strings.Contains(got.body, `"env":[{"name":"TOKEN"}]`) || strings.Contains(got.body, "of alice") {
				t.Errorf("%s as %s: %s", path, p.Ref(), got.body)
			}
		}
	}
	w.says(t, "team-a", alice, get(hers), 200, `"env":[{"name":"TOKEN","value":"of alice"}]`)
	// An authenticator of the same name is another, and its alice another person.
	w.store.edit("team-a", func(r *tenant.Record) { r.Authenticators[0].Created = r.Authenticators[0].Created.Add(time.Second) })
	again := w.user("team-a", "corp", "alice")
	w.says(t, "team-a", again, get(hers), 404, "")
	w.says(t, "team-a", again, get("/api/v1/sandboxes"), 200, `{"items":[]}`)
	w.says(t, "team-a", admin, get(hers), 200, `"owner":""`)
}

// X49: the same request under the same key makes one sandbox, however often and at how many places it comes; another request under it
// is refused.
func TestX49IdempotentCreate(t *testing.T) {
	w, stage := sandboxed(t)
	alice, carol := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "carol")
	keyed := func(key, body string) request {
		return request{method: "POST", path: "/api/v1/sandboxes", body: body, header: map[string]string{"Idempotency-Key": key}}
	}
	var mu sync.Mutex
	ids, status := map[string]int{}, map[int]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			got := w.do("team-a", alice, keyed("k1", `{"command":["sleep","1h"],"labels":{"a":"1","b":"2"}}`))
			var s struct{ ID, Name string }
			if err := json.Unmarshal([]byte(got.body), &s); err != nil || s.Name != "sb-"+s.ID[:8] {
				t.Errorf("%d %s", got.status, got.body)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[s.ID]++
			status[got.status]++
		})
	}
	wg.Wait()
	if len(ids) != 1 || status[201] != 1 || status[200] != 19 {
		t.Fatalf("made %v, answered %v", ids, status)
	}
	var id string
	for id = range ids {
		w.awaits(t, alice, id, "running")
		if n := stage.tenant(w, "team-a").Made(id); n != 1 {
			t.Errorf("%d runs were made", n)
		}
	}
	same := w.must(t, "team-a", alice, keyed("k1", `{ "labels":{"b":"2","a":"1"}, "command":["sleep","1h"] }`), 200)
	if same["id"] != id {
		t.Errorf("in other words: %v", same["id"])
	}
	w.says(t, "team-a", alice, keyed("k1", `{"command":["sleep","2h"]}`), 409, "idempotency key")
	others := w.must(t, "team-a", carol, keyed("k1", `{"command":["sleep","1h"],"labels":{"a":"1","b":"2"}}`), 201)
	if others["id"] == id {
		t.Error("a key is another's too")
	}
	// Another replica, which knows nothing but what is stored, and after a commit whose outcome nobody knew.
	w.store.lose(w.store.entry("team-a").Scope)
	if again := w.must(t, "team-a", alice, keyed("k1", `{"command":["sleep","1h"],"labels":{"a":"1","b":"2"}}`), 200); again["id"] != id {
		t.Errorf("after a move: %v", again["id"])
	}
	once := true
	all := w.must(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/sandboxes"), 200)
	known := fmt.Sprint(all["items"])
	w.store.mu.Lock()
	w.store.onCommit = func(_ tenant.Scope, writes []tenant.Write) (before, after error) {
		if once && len(writes) > 0 && writes[0].Kind == sandbox.Kind && !strings.Contains(known, writes[0].ID) {
			once = false
			return nil, fmt.Errorf("the store broke off")
		}
		return nil, nil
	}
	w.store.mu.Unlock()
	if got := w.do("team-a", alice, keyed("k2", `{"name":"unsure","command":["sleep","1h"]}`)); got.status < 500 {
		t.Errorf("an unknown outcome: %d %s", got.status, got.body)
	}
	w.must(t, "team-a", alice, keyed("k2", `{"name":"unsure","command":["sleep","1h"]}`), 200)
	w.must(t, "team-a", alice, del("/api/v1/sandboxes/"+id), 202)
	eventually(t, "the first is gone", func() bool {
		return w.do("team-a", w.principal("team-a", tenant.Admin), get("/api/v1/sandboxes/"+id)).status == 404
	})
	if anew := w.must(t, "team-a", alice, keyed("k1", `{"command":["sleep","1h"],"labels":{"a":"1","b":"2"}}`), 201); anew["id"] == id {
		t.Error("the id of what was deleted is given again")
	}
	for _, key := range []string{"", strings.Repeat("k", 129), "k\tx", "ü"} {
		w.says(t, "team-a", alice, keyed(key, `{}`), 400, "Idempotency-Key")
	}
}

func TestSandboxPreconditions(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	tag := func() string { return w.do("team-a", alice, get(hers)).header.Get("Etag") }
	with := func(q request, tag string) request {
		q.header = map[string]string{"If-Match": tag}
		return q
	}
	old := tag()
	w.must(t, "team-a", alice, with(post(hers+"/stop", ""), old), 202)
	w.awaits(t, alice, "hers", "stopped")
	for _, q := range []request{post(hers+"/start", ""), del(hers), post(hers+"/stop", "")} {
		w.says(t, "team-a", alice, with(q, old), 412, "If-Match")
		w.says(t, "team-a", alice, with(q, "12"), 400, "If-Match")
	}
	if now := tag(); now == old {
		t.Errorf("still %s", now)
	}
	w.must(t, "team-a", alice, with(post(hers+"/start", ""), tag()), 202)
}

func TestSandboxListsAndPages(t *testing.T) {
	w, _ := sandboxed(t)
	alice, admin := w.user("team-a", "corp", "alice"), w.principal("team-a", tenant.Admin)
	for i := range 5 {
		w.makeSandbox(t, alice, fmt.Sprintf(`{"name":"n%d","command":["sleep","1h"],"labels":{"n":"%d","odd":"%t"}}`, i, i, i%2 == 1))
	}
	w.must(t, "team-a", alice, post("/api/v1/sandboxes/n4/stop", ""), 202)
	w.awaits(t, alice, "n4", "stopped")
	names := func(p tenant.Principal, query string) string {
		t.Helper()
		var all []string
		for next := ""; ; {
			got := w.must(t, "team-a", p, get("/api/v1/sandboxes?"+query+next), 200)
			for _, s := range got["items"].([]any) {
				all = append(all, s.(map[string]any)["name"].(string))
			}
			cursor, ok := got["next_cursor"].(string)
			if !ok {
				return strings.Join(all, " ")
			}
			next = "&cursor=" + cursor
		}
	}
	for query, want := range map[string]string{
		"limit=2": "hers n0 n1 n2 n3 n4", "selector=odd%3Dtrue&limit=1": "n1 n3", "selector=n+in+(0,3),odd%21%3Dtrue": "n0", "selector=!n": "hers",
		"state=Stopped": "n4", "state=Stopped,Running&selector=n": "n0 n1 n2 n3 n4", "owner=me&limit=3": "hers n0 n1 n2 n3 n4", "owner=user:corp/bob": "",
	} {
		if got := names(alice, query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if got := names(admin, "limit=3"); got != "hers n0 n1 n2 n3 n4 other" {
		t.Errorf("an admin sees %s", got)
	}
	if got := names(admin, "owner=me"); got != "other" {
		t.Errorf("an admin's own: %s", got)
	}
	if got := names(admin, "owner=user:corp/alice&state=Stopped"); got != "n4" {
		t.Errorf("of alice: %s", got)
	}
	for query, says := range map[string]string{
		"selector=a%3D%3D%3Db": "selector", "selector=": "selector", "state=running": "Running", "owner=alice": "me", "limit=0": "500", "cursor=x": "cursor",
		"label=x": "selector", "watch=2": "watch", "watch=1&limit=1": "pages", "state=Running&state=Failed": "2 times",
	} {
		w.says(t, "team-a", alice, get("/api/v1/sandboxes?"+query), 400, says)
	}
}

// Where no sandboxes are run, it says so; the rest is served.
func TestNoSandboxes(t *testing.T) {
	w := owned(t)
	alice := w.user("team-a", "corp", "alice")
	w.says(t, "team-a", alice, post("/api/v1/sandboxes", `{}`), 503, "runs no sandboxes")
	w.says(t, "team-a", alice, get("/api/v1/sandboxes"), 503, "runs no sandboxes")
	w.says(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/sandboxes/x"), 503, "runs no sandboxes")
	w.says(t, "team-a", alice, get("/api/v1/sandboxes/x"), 404, "")
	w.says(t, "team-a", alice, delegate("user:corp/bob", "sandbox.exec", "sandbox/x", ""), 403, "")
	w.must(t, "team-a", alice, get("/api/v1/servers"), 200)
}
