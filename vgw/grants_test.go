package vgw_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/exchange"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/guard"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

const (
	toolCall = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`
	toolList = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
)

// owned is a world in which alice, an editor, owns the server "hers", and "other" belongs to an admin.
func owned(t testing.TB, edit ...func(*vgw.Config)) *world {
	w := full(t, edit...)
	url := "https://mcp.test/"
	w.store.add("team-a")
	w.corp("team-a", map[string]tenant.Role{"user:alice": tenant.Admin, "user:bob": tenant.Viewer})
	w.must(t, "team-a", w.user("team-a", "corp", "alice"), post("/api/v1/servers", `{"name":"hers","url":"`+url+`"}`), 201)
	w.store.edit("team-a", func(r *tenant.Record) { r.Members[memberNamed(r, "alice")].Role = tenant.Editor })
	w.addServer(t, "team-a", "other", url)
	return w
}

func memberNamed(r *tenant.Record, name string) int {
	for i := range r.Members {
		if r.Members[i].Name == name {
			return i
		}
	}
	return -1
}

// calls says whether a principal may call a tool of a server, or only list them.
func (w *world) calls(t testing.TB, p tenant.Principal, server, body string) bool {
	t.Helper()
	d, err := w.decide(context.Background(), "team-a", p, post("/servers/"+server+"/mcp", body))
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := d.(*exchange.Relay); ok {
		r.Done(exchange.Outcome{Status: 200})
		return true
	}
	return false
}

func delegate(to, action, object, more string) request {
	return post("/api/v1/grants", fmt.Sprintf(`{"to":%q,"action":%q,"object":%q%s}`, to, action, object, more))
}

// S-R3: the owner of an object, or an admin, lets somebody do one thing with it for a time, and nobody else does.
func TestSR3GrantsStory(t *testing.T) {
	w := owned(t)
	alice, bob, eve := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob"), w.user("team-a", "corp", "eve")
	if w.calls(t, bob, "hers", toolCall) || w.calls(t, eve, "hers", toolList) {
		t.Fatal("a viewer or a stranger may call already")
	}
	w.says(t, "team-a", alice, delegate("user:corp/bob", "mcp.call", "server/other", ""), 403, "")
	w.says(t, "team-a", w.principal("team-a", tenant.Editor), delegate("user:corp/bob", "mcp.call", "server/hers", ""), 403, "")
	w.says(t, "team-a", bob, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 403, "")
	toBob := w.must(t, "team-a", alice, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	toEve := w.must(t, "team-a", alice, delegate("user:corp/eve", "mcp.call", "server/hers", `,"expires_in_seconds":60`), 201)
	for _, p := range []tenant.Principal{bob, eve} {
		if !w.calls(t, p, "hers", toolCall) || !w.calls(t, p, "hers", toolList) {
			t.Errorf("%s may not call what was delegated", p.Name)
		}
		if w.calls(t, p, "other", toolCall) {
			t.Errorf("%s may call what was not delegated", p.Name)
		}
	}
	// Somebody without a role sees what it was given, and nothing else; of the configuration nothing.
	w.says(t, "team-a", eve, get("/servers"), 200, `{"items":[{"name":"hers",`)
	w.says(t, "team-a", eve, get("/api/v1/servers"), 200, `{"items":[]}`)
	w.says(t, "team-a", eve, get("/api/v1/servers/hers"), 404, "")
	w.must(t, "team-a", alice, delegate("user:corp/eve", "server.read", "server/hers", ""), 201)
	w.says(t, "team-a", eve, get("/api/v1/servers/hers"), 200, `"owner":"user:corp/alice"`)
	w.says(t, "team-a", eve, get("/api/v1/servers/other"), 404, "")
	// Of delegations one sees one's own.
	w.says(t, "team-a", bob, get("/api/v1/grants"), 200, toBob["id"].(string))
	if got := w.do("team-a", bob, get("/api/v1/grants")); strings.Contains(got.body, toEve["id"].(string)) {
		t.Errorf("bob sees another's: %s", got.body)
	}
	for _, p := range []tenant.Principal{alice, w.principal("team-a", tenant.Admin)} {
		if got := w.do("team-a", p, get("/api/v1/grants")); strings.Count(got.body, `"id"`) != 3 {
			t.Errorf("%s sees %s", p.Ref(), got.body)
		}
	}
	// The same again is the same, with another end.
	if again := w.must(t, "team-a", alice, delegate("user:corp/bob", "mcp.call", "server/hers", `,"expires_in_seconds":7776000`), 201); again["id"] != toBob["id"] || again["until"] == toBob["until"] {
		t.Errorf("again: %v", again)
	}
	w.says(t, "team-a", bob, del("/api/v1/grants/"+toBob["id"].(string)), 403, "")
	w.must(t, "team-a", alice, del("/api/v1/grants/"+toBob["id"].(string)), 204)
	if w.calls(t, bob, "hers", toolCall) {
		t.Error("after its revocation a delegation still allows")
	}
	if !w.calls(t, eve, "hers", toolCall) {
		t.Error("the revocation of one delegation ended another")
	}
}

func TestSR3GrantRefusals(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	for _, tc := range []struct {
		q      request
		status int
		says   string
	}{
		{delegate("user:corp/bob", "server.delete", "server/hers", ""), 400, "delegated"},
		{delegate("user:corp/bob", "grant.create", "server/hers", ""), 400, "delegated"},
		{delegate("user:crop/bob", "mcp.call", "server/hers", ""), 400, "crop"},
		{delegate("user:corp", "mcp.call", "server/hers", ""), 400, "user:"},
		{delegate("bot:x", "mcp.call", "server/hers", ""), 400, "bot:x"},
		{delegate("key:file-viewer", "mcp.call", "server/hers", ""), 400, "key:"},
		{delegate("group:corp/ops", "mcp.call", "server/hers", ""), 400, "group"},
		{delegate("user:corp/bob", "mcp.call", "server/absent", ""), 404, ""},
		{delegate("user:corp/bob", "mcp.call", "hers", ""), 404, ""},
		{delegate("user:corp/bob", "mcp.call", "server/hers", `,"expires_in_seconds":59`), 400, "60"},
		{delegate("user:corp/bob", "mcp.call", "server/hers", `,"expires_in_seconds":7776001`), 400, "7776000"},
		{delegate("user:corp/bob", "mcp.call", "server/hers", `,"until":"2001-01-01T00:00:00Z"`), 400, "until"},
		{del("/api/v1/grants/absent"), 404, ""},
	} {
		before := w.store.dump()
		w.says(t, "team-a", admin, tc.q, tc.status, tc.says)
		if w.store.dump() != before {
			t.Errorf("%s changed the store", tc.q.body)
		}
	}
	for i := range 64 {
		w.must(t, "team-a", admin, delegate(fmt.Sprintf("user:corp/u%d", i), "mcp.read", "server/hers", ""), 201)
	}
	w.says(t, "team-a", admin, delegate("user:corp/u64", "mcp.read", "server/hers", ""), 409, "64")
	w.must(t, "team-a", admin, del("/api/v1/servers/hers"), 204)
	if n := w.grants(t); n != 0 {
		t.Errorf("%d grants of a deleted server are kept", n)
	}
}

// grants counts what is stored.
func (w *world) grants(t testing.TB) (n int) {
	t.Helper()
	for _, line := range strings.Split(w.store.dump(), "\n") {
		if strings.Contains(line, "/grant/") {
			n++
		}
	}
	return n
}

// A delegation is of the object, not of its name; to the person, not to a name that may come to mean another.
func TestSR3GrantsDieWithWhatTheyName(t *testing.T) {
	var ahead time.Duration
	w := owned(t, func(c *vgw.Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	w.must(t, "team-a", admin, del("/api/v1/servers/hers"), 204)
	w.addServer(t, "team-a", "hers", "https://mcp.test/")
	if w.calls(t, bob, "hers", toolCall) {
		t.Error("a server of the same name inherits delegations")
	}
	w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	if !w.calls(t, bob, "hers", toolCall) {
		t.Fatal("not delegated")
	}
	w.must(t, "team-a", admin, del("/api/v1/authenticators/corp"), 204)
	w.corp("team-a", map[string]tenant.Role{"user:bob": tenant.Viewer})
	if w.calls(t, w.user("team-a", "corp", "bob"), "hers", toolCall) {
		t.Error("the bob of another issuer inherits what was delegated")
	}
	ahead = 15 * time.Minute
	w.must(t, "team-a", admin, delegate("user:corp/eve", "mcp.call", "server/hers", ""), 201) // sweeps
	if n := w.grants(t); n != 1 {
		t.Errorf("%d grants are stored, want 1", n)
	}
}

// Delegations survive a move, and those of a server that its file no longer declares go with it.
func TestSR3GrantsAreDurable(t *testing.T) {
	w := owned(t)
	if err := w.apply("team-a", "c.yaml", decl("filed", "https://x.test/")); err != nil {
		t.Fatal(err)
	}
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	for _, s := range []string{"hers", "filed"} {
		w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/"+s, ""), 201)
	}
	w.store.lose(w.store.entry("team-a").Scope)
	if !w.calls(t, bob, "hers", toolCall) || !w.calls(t, bob, "filed", toolCall) {
		t.Error("delegations did not survive a move")
	}
	if err := w.apply("team-a", "c.yaml"); err != nil {
		t.Fatal(err)
	}
	if n := w.grants(t); n != 1 || w.calls(t, bob, "filed", toolCall) {
		t.Errorf("%d grants are left", n)
	}
}

// hangOn opens a stream that hangs on a delegation, and returns the relay.
func (w *world) hangOn(t testing.TB, p tenant.Principal, server string) *exchange.Relay {
	t.Helper()
	d, err := w.decide(context.Background(), "team-a", p, post("/servers/"+server+"/mcp", toolCall))
	r, ok := d.(*exchange.Relay)
	if err != nil || !ok {
		t.Fatalf("%s may not call %s: %v %v", p.Name, server, d, err)
	}
	return r
}

// S-R3: a stream ends with the delegation that allows it: at once where it is revoked, on time where it expires; one that
// its role allows goes on.
func TestSR3StreamsEndWithTheDelegation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := owned(t)
		admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
		bob.Expires = time.Time{}
		grant := w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
		w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/other", `,"expires_in_seconds":600`), 201)
		w.must(t, "team-a", admin, delegate(w.principal("team-a", tenant.Editor).Ref(), "mcp.call", "server/hers", ""), 201)
		revoked, expiring, byRole := w.hangOn(t, bob, "hers"), w.hangOn(t, bob, "other"), w.hangOn(t, w.principal("team-a", tenant.Editor), "hers")
		streams := []*exchange.Relay{revoked, expiring, byRole}
		alive := func(want string) {
			t.Helper()
			synctest.Wait()
			got := ""
			for _, r := range streams {
				if !ends(r.Live) {
					got += "alive "
				} else {
					got += "ended "
				}
			}
			if strings.TrimSpace(got) != want {
				t.Errorf("streams: %s, want %s", got, want)
			}
		}
		alive("alive alive alive")
		w.must(t, "team-a", admin, delegate("user:corp/eve", "mcp.call", "server/hers", ""), 201) // another's changes nothing
		alive("alive alive alive")
		w.must(t, "team-a", admin, del("/api/v1/grants/"+grant["id"].(string)), 204)
		alive("ended alive alive")
		if cause := context.Cause(revoked.Live); !fault.Is(cause, fault.Forbidden) {
			t.Errorf("it ended since %v", cause)
		}
		w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/other", `,"expires_in_seconds":900`), 201)
		time.Sleep(800 * time.Second) // of the bubble: past the first end
		alive("ended alive alive")
		time.Sleep(101 * time.Second)
		alive("ended ended alive")
		if w.calls(t, bob, "other", toolCall) {
			t.Error("after its end a delegation still allows")
		}
		for _, r := range streams {
			r.Done(exchange.Outcome{Status: 200})
		}
		w.store.lose(w.store.entry("team-a").Scope)
		alive("ended ended ended")
		synctest.Wait()
	})
}

// A request that is under way while its delegation is revoked is refused or ended, never left running. Run under the race
// detector as well.
func TestSR3RevocationAgainstRequests(t *testing.T) {
	w := owned(t)
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	for range 30 {
		grant := w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
		var mu sync.Mutex
		var streams []*exchange.Relay
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				e := w.store.entry("team-a")
				v, err := w.guards.For(e).Enter(bob, guard.Request{ID: "r"})
				if err != nil {
					t.Error(err)
					return
				}
				defer v.Leave()
				d, err := w.mux.Decide(context.Background(), e, post("/servers/hers/mcp", toolCall).exchange(v))
				if err != nil {
					t.Error(err)
				}
				if r, ok := d.(*exchange.Relay); ok {
					mu.Lock()
					streams = append(streams, r)
					mu.Unlock()
				}
			})
		}
		wg.Go(func() { w.must(t, "team-a", admin, del("/api/v1/grants/"+grant["id"].(string)), 204) })
		wg.Wait()
		for _, r := range streams {
			if !ends(r.Live) {
				t.Fatal("a stream goes on after its delegation was revoked")
			}
			r.Done(exchange.Outcome{Status: 200, Err: errors.New("cut")})
		}
	}
}

// A stream through the front, whole: the client's connection is cut within a second of the revocation.
func TestSR3StreamIsCutWithinASecond(t *testing.T) {
	began := make(chan struct{})
	url := upstream(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(rw, "data: {}\n\n")
		_ = http.NewResponseController(rw).Flush()
		close(began)
		<-r.Context().Done()
	}))
	w := owned(t)
	w.addServer(t, "team-a", "live", url)
	admin, bob := w.principal("team-a", tenant.Admin), w.user("team-a", "corp", "bob")
	grant := w.must(t, "team-a", admin, delegate("user:corp/bob", "mcp.call", "server/live", ""), 201)
	host := w.serve(t, "team-a", bob)
	ended := make(chan time.Time, 1)
	go func() {
		res, err := http.Post(host+"/servers/live/mcp", "application/json", strings.NewReader(toolCall))
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		ended <- time.Now()
	}()
	<-began
	w.must(t, "team-a", admin, del("/api/v1/grants/"+grant["id"].(string)), 204)
	revoked := time.Now()
	select {
	case at := <-ended:
		if d := at.Sub(revoked); d > time.Second {
			t.Errorf("the stream went on for %s", d)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the stream goes on after the revocation")
	}
	w.says(t, "team-a", bob, post("/servers/live/mcp", toolCall), 403, "")
}

// S-R3: who owns a server is who made it, for good: neither its file nor a body says otherwise.
func TestSR3OwnerIsStamped(t *testing.T) {
	w := owned(t)
	if got := w.must(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/servers/hers"), 200); got["owner"] != "user:corp/alice" {
		t.Errorf("owner %v", got["owner"])
	}
	w.store.lose(w.store.entry("team-a").Scope)
	if got := w.must(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/servers/hers"), 200); got["owner"] != "user:corp/alice" {
		t.Errorf("after a move: owner %v", got["owner"])
	}
	if err := w.apply("team-a", "c.yaml", decl("filed", "https://x.test/")); err != nil {
		t.Fatal(err)
	}
	if got := w.must(t, "team-a", w.principal("team-a", tenant.Admin), get("/api/v1/servers/filed"), 200); got["owner"] != nil {
		t.Errorf("a declared server is owned by %v", got["owner"])
	}
}

// a list leaves out what the tenant's policy does not let the caller read; and one that denies the list leaves nothing.
func TestA8ListsAreFiltered(t *testing.T) {
	w := owned(t)
	admin := w.principal("team-a", tenant.Admin)
	const hide = "package polygate.authz\n\nimport rego.v1\n\nallow := true\n\ndeny contains \"hidden\" if {\n\tinput.resource.name == \"hers\"\n\tinput.role != \"admin\"\n}\n"
	w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", hide)), 201)
	for _, path := range []string{"/servers", "/api/v1/servers"} {
		got := w.as(tenant.Editor, "team-a", get(path))
		if got.status != 200 || strings.Contains(got.body, "hers") || !strings.Contains(got.body, "other") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	w.says(t, "team-a", w.principal("team-a", tenant.Editor), get("/api/v1/servers/hers"), 404, "")
	w.must(t, "team-a", admin, post("/api/v1/policies", modules("a.rego", strings.ReplaceAll(hide, `input.resource.name == "hers"`, `input.action == "server.list"`))), 201)
	w.says(t, "team-a", w.principal("team-a", tenant.Editor), get("/servers"), 200, `{"items":[]}`)
}

// Commit first, then memory: a delegation whose commit failed allows nothing, and one that committed though the answer was
// lost is found.
func TestGrantsFailedCommit(t *testing.T) {
	for _, applied := range []bool{false, true} {
		w := owned(t)
		w.store.onCommit = func(tenant.Scope, []tenant.Write) (before, after error) {
			if applied {
				return nil, errors.New("connection lost")
			}
			return errors.New("connection refused"), nil
		}
		w.says(t, "team-a", w.principal("team-a", tenant.Admin), delegate("user:corp/bob", "mcp.call", "server/hers", ""), 500, "")
		w.store.onCommit = nil
		if got := w.calls(t, w.user("team-a", "corp", "bob"), "hers", toolCall); got != applied {
			t.Errorf("applied %v: allowed %v", applied, got)
		}
	}
}

// What was admitted by a delegation that has ended since is asked again before it becomes a stream: the clock that holds
// streams is ahead of the guard's here.
func TestSR3AskedAgainAfterTheAdmission(t *testing.T) {
	var ahead time.Duration
	w := owned(t, func(c *vgw.Config) { c.Now = func() time.Time { return time.Now().Add(ahead) } })
	bob := w.user("team-a", "corp", "bob")
	w.must(t, "team-a", w.principal("team-a", tenant.Admin), delegate("user:corp/bob", "mcp.call", "server/hers", ""), 201)
	ahead = 25 * time.Hour
	w.says(t, "team-a", bob, post("/servers/hers/mcp", toolCall), 403, "")
}
