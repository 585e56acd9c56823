package vgw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
)

// clock is a time that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// hostWorld is a world with team-a, and its admin.
func hostWorld(t *testing.T) (*world, *clock, tenant.Principal) {
	c := &clock{now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	w := full(t, func(cfg *vgw.Config) { cfg.Now = c.Now })
	w.store.add("team-a")
	return w, c, w.principal("team-a", tenant.Admin)
}

func ask(host string) request { return post("/api/v1/hosts", `{"host":"`+host+`"}`) }

func verify(host string) request { return post("/api/v1/hosts/"+host+"/verify", "") }

// outcomes returns how the recorded uses of an action ended, those committed with a change first.
func (w *world) outcomes(action string) (out []string) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, e := range slices.Concat(w.store.entriesA, w.rec.entries) {
		if e.Action == action {
			out = append(out, e.Resource+" "+e.Outcome)
		}
	}
	return out
}

// A host is asked for, proven, served and given up.
func TestHostsStory(t *testing.T) {
	w, clock, admin := hostWorld(t)
	const host = "mcp.example.com"
	asked := w.must(t, "team-a", admin, ask(host), 201)
	token, _ := asked["txt_value"].(string)
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(token) || asked["txt_name"] != "_polygate-challenge."+host || asked["state"] != "pending" {
		t.Errorf("asked: %v", asked)
	}
	if r := w.store.entry("team-a").Record; len(r.Hosts)+len(r.ProvenHosts) != 0 || len(r.PendingHosts) != 1 {
		t.Errorf("a host that is only asked for is served: %v %v %v", r.Hosts, r.ProvenHosts, r.PendingHosts)
	}
	if again := w.must(t, "team-a", admin, ask(host), 201); fmt.Sprint(again) != fmt.Sprint(asked) {
		t.Errorf("asked again: %v, at first %v", again, asked)
	}
	w.says(t, "team-a", admin, verify(host), 409, "there is no such record; make it so")
	w.dns.publish(host, "another", "v=spf1")
	clock.add(5 * time.Second)
	w.says(t, "team-a", admin, verify(host), 409, `it holds [\"another\" \"v=spf1\"]`)
	viewer := w.principal("team-a", tenant.Viewer)
	kept := w.must(t, "team-a", viewer, get("/api/v1/hosts/"+host), 200)
	if kept["last_check"] != "2026-03-04T05:06:12Z" || !strings.Contains(kept["last_error"].(string), `"another"`) || kept["txt_value"] != token {
		t.Errorf("kept of the look: %v", kept)
	}

	w.dns.publish(host, "another", token)
	if got := w.do("team-a", admin, verify(host)); got.status != 429 || got.header.Get("Retry-After") != "5" || w.dns.count() != 2 {
		t.Errorf("at once again: %d %v after %d looks", got.status, got.header, w.dns.count())
	}
	clock.add(5 * time.Second)
	proven := w.must(t, "team-a", admin, verify(host), 200)
	if proven["state"] != "active" || proven["declared_by"] != "tenant" || proven["txt_value"] != nil || proven["last_error"] != nil {
		t.Errorf("proven: %v", proven)
	}
	r := w.store.entry("team-a").Record
	if !slices.Equal(r.Hosts, []string{host}) || !slices.Equal(r.ProvenHosts, []string{host}) || len(r.PendingHosts) != 0 {
		t.Errorf("the record has %v %v %v", r.Hosts, r.ProvenHosts, r.PendingHosts)
	}
	if w.must(t, "team-a", admin, verify(host), 200); w.dns.count() != 3 {
		t.Errorf("what is proven was looked for again: %d looks", w.dns.count())
	}
	w.says(t, "team-a", admin, ask(host), 409, "already")
	list := w.as(tenant.Viewer, "team-a", get("/api/v1/hosts")).body
	if want := `{"items":[{"host":"mcp.example.com","state":"active","declared_by":"tenant","resource_version":"1"},{"host":"team-a.gw.test","state":"active","declared_by":"platform","resource_version":"1"}]}` + "\n"; list != want {
		t.Errorf("listed %s, want %s", list, want)
	}

	before := del("/api/v1/hosts/"+host).with("If-Match", `"`+kept["resource_version"].(string)+`"`)
	w.says(t, "team-a", admin, before, 412, "")
	w.must(t, "team-a", admin, del("/api/v1/hosts/"+host), 204)
	if r := w.store.entry("team-a").Record; len(r.Hosts)+len(r.ProvenHosts)+len(r.PendingHosts) != 0 {
		t.Errorf("deleted, but %v %v %v", r.Hosts, r.ProvenHosts, r.PendingHosts)
	}
	w.says(t, "team-a", admin, get("/api/v1/hosts/"+host), 404, "")
	if anew := w.must(t, "team-a", admin, ask(host), 201); anew["txt_value"] == token {
		t.Error("a token is good twice")
	}
	got, want := w.outcomes("host.verify"), []string{"conflict", "conflict", "ok", "rate-limited", "ok"}
	for i := range want {
		want[i] = "host/" + host + " " + want[i]
	}
	if !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
}

func TestHostsThatCannotBeAskedFor(t *testing.T) {
	w, _, admin := hostWorld(t)
	for host, says := range map[string]string{
		"gw.test": "base domain", "team-b.gw.test": "base domain", "x.y.gw.test": "base domain", "shared.example.com": "platform's own",
		"Mcp.example.com": "lower-case", "192.0.2.1": "address", "::1": "address", "*.example.com": "holds", "localhost": "two labels",
		"a.example.com.": "bad label", "a.example.com:443": "holds", "a..com": "bad label", "": "two labels", "a_b.example.com": "holds",
		strings.Repeat("a.", 120) + "com": "too long", `a\u0000.com`: "holds",
	} {
		w.says(t, "team-a", admin, ask(host), 400, says)
	}
	w.store.edit("team-a", func(r *tenant.Record) { r.Hosts = []string{"filed.example.com"} })
	w.says(t, "team-a", admin, ask("filed.example.com"), 409, "already")
	w.says(t, "team-a", admin, get("/api/v1/hosts/filed.example.com"), 200, `"declared_by":"operator","file":"tenants.yaml"`)
	w.says(t, "team-a", admin, del("/api/v1/hosts/filed.example.com"), 409, "tenants.yaml: change it there")
	w.says(t, "team-a", admin, del("/api/v1/hosts/team-a.gw.test"), 409, "it stays")
	w.store.edit("team-a", func(r *tenant.Record) { r.Source, r.File = tenant.SourceAPI, "" })
	w.says(t, "team-a", admin, del("/api/v1/hosts/filed.example.com"), 409, "operator")
	if n := len(w.store.entry("team-a").Record.PendingHosts); n != 0 {
		t.Errorf("%d hosts are pending", n)
	}
}

func TestHostsAreFew(t *testing.T) {
	w, clock, admin := hostWorld(t)
	name := func(i int) string { return fmt.Sprintf("h%d.example.com", i) }
	for i := range tenant.MaxPendingHosts {
		w.must(t, "team-a", admin, ask(name(i)), 201)
	}
	w.says(t, "team-a", admin, ask("more.example.com"), 409, "prove or delete one")
	w.must(t, "team-a", admin, ask(name(3)), 201) // which waits already
	w.must(t, "team-a", admin, del("/api/v1/hosts/"+name(0)), 204)
	w.must(t, "team-a", admin, ask("more.example.com"), 201)
	// Those that nobody proved make room by themselves, and are no more from then on.
	clock.add(7 * 24 * time.Hour)
	w.says(t, "team-a", admin, get("/api/v1/hosts/"+name(1)), 404, "")
	w.says(t, "team-a", admin, verify(name(1)), 404, "")
	w.says(t, "team-a", admin, del("/api/v1/hosts/"+name(1)), 404, "")
	if list := w.as(tenant.Admin, "team-a", get("/api/v1/hosts")).body; strings.Contains(list, "example.com") {
		t.Errorf("listed: %s", list)
	}
	w.must(t, "team-a", admin, ask("late.example.com"), 201)
	if r := w.store.entry("team-a").Record; len(r.PendingHosts) != 1 {
		t.Errorf("kept: %v", r.PendingHosts)
	}
	// With as many hosts as a tenant may have, none is promised, and a proof that comes late does not give another.
	w.store.edit("team-a", func(r *tenant.Record) {
		for i := range tenant.MaxHosts {
			r.Hosts = append(r.Hosts, name(i))
		}
	})
	w.says(t, "team-a", admin, ask("x.example.com"), 409, "most that a tenant may have")
	w.dns.publish("late.example.com", w.store.entry("team-a").Record.PendingHosts[0].Token)
	w.says(t, "team-a", admin, verify("late.example.com"), 409, "most that a tenant may have")
	if n := len(w.store.entry("team-a").Record.Hosts); n != tenant.MaxHosts {
		t.Errorf("%d hosts", n)
	}
}

// shape is an answer without what differs between any two requests for a host.
func shape(a answer, host string) string {
	text := strings.ReplaceAll(a.bytes(), host, "HOST")
	text = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(text, "TOKEN")
	return regexp.MustCompile(`"\d{6,}"`).ReplaceAllString(text, "VERSION")
}

// X36: that another tenant has a host, or asked for it, is told to nobody who has not proven to own it; and what proves it for
// one proves nothing for another.
func TestX36HostOfAnotherTenant(t *testing.T) {
	w, clock, admin := hostWorld(t)
	w.store.add("team-b")
	theirs := w.haveHost(t, "team-b", "theirs.example.com")
	wanted := w.must(t, "team-b", w.principal("team-b", tenant.Admin), ask("wanted.example.com"), 201)
	for _, host := range []string{theirs, "wanted.example.com"} {
		for _, q := range []func(string) request{
			ask, verify, func(h string) request { return get("/api/v1/hosts/" + h) }, func(h string) request { return get("/api/v1/certificates/" + h) },
			func(h string) request { return pair("CHAIN", "KEY").to(h) }, func(h string) request { return post("/api/v1/certificates/"+h+"/renew", "") },
			func(h string) request { return del("/api/v1/hosts/" + h) }, verify, func(h string) request { return del("/api/v1/hosts/" + h) },
		} {
			nowhere := strings.Replace(host, "e", "x", 1)
			w.dns.publish(nowhere, w.dns.txt[tenant.HostChallenge+"."+host]...)
			if got, want := shape(w.do("team-a", admin, q(host)), host), shape(w.do("team-a", admin, q(nowhere)), nowhere); got != want {
				t.Errorf("%s %s: %s\nbut for what is nowhere: %s", q(host).method, q(host).path, got, want)
			}
		}
	}
	// B's token, which is in the DNS for all to see, gives A nothing.
	mine := w.must(t, "team-a", admin, ask("wanted.example.com"), 201)
	w.dns.publish("wanted.example.com", wanted["txt_value"].(string))
	clock.add(time.Minute)
	w.says(t, "team-a", admin, verify("wanted.example.com"), 409, "does not hold txt_value")
	if mine["txt_value"] == wanted["txt_value"] {
		t.Error("two tenants have one token")
	}
	// Who proves to own what B has is told that somebody has it, and not who.
	mine = w.must(t, "team-a", admin, ask(theirs), 201)
	w.dns.publish(theirs, mine["txt_value"].(string))
	clock.add(time.Minute)
	got := w.do("team-a", admin, verify(theirs))
	if got.status != 409 || !strings.Contains(got.body, "ask a platform operator") || strings.Contains(got.body, "team-b") {
		t.Errorf("verified what B has: %d %s", got.status, got.body)
	}
	if r := w.store.entry("team-a").Record; slices.Contains(r.Hosts, theirs) || !strings.Contains(r.PendingHosts[0].LastError+r.PendingHosts[1].LastError, "holds the host") {
		t.Errorf("A has %v, %v", r.Hosts, r.PendingHosts)
	}
	w.must(t, "team-b", w.principal("team-b", tenant.Admin), del("/api/v1/hosts/"+theirs), 204)
	clock.add(time.Minute)
	w.must(t, "team-a", admin, verify(theirs), 200)
}

// What comes of a look that finds nothing out is told as it is, and costs the host nothing.
func TestHostLookFails(t *testing.T) {
	w, clock, admin := hostWorld(t)
	const host = "mcp.example.com"
	token := w.must(t, "team-a", admin, ask(host), 201)["txt_value"].(string)
	w.dns.publish(host, token)
	for _, tc := range []struct {
		err    error
		status int
		says   string
		kept   string
	}{
		{fault.New(fault.Unavailable, "no resolver answers"), 503, "no resolver", "no resolver"},
		{fault.New(fault.UpstreamTimeout, "ns1 is slow"), 504, "ns1", "ns1"},
		{fmt.Errorf("read udp: %w", context.DeadlineExceeded), 504, "in time", "in time"},
		{errors.New("socket 17 of resolver 10.1.2.3"), 502, "could not be asked", "could not be asked"},
		{fault.New(fault.Invalid, "it holds \x1b[31m%s", strings.Repeat("ü", 4000)), 409, "it holds  [31m", "it holds"},
	} {
		w.dns.onLook = func(context.Context, string) error { return tc.err }
		clock.add(time.Minute)
		got := w.do("team-a", admin, verify(host))
		p := w.store.entry("team-a").Record.PendingHosts[0]
		if got.status != tc.status || !strings.Contains(got.body, tc.says) || !strings.Contains(p.LastError, tc.kept) {
			t.Errorf("%v: %d %s, kept %q; want %d and %q", tc.err, got.status, got.body, p.LastError, tc.status, tc.says)
		}
		if all := got.body + p.LastError; strings.Contains(all, "10.1.2.3") || strings.Contains(all, "\x1b") || len(p.LastError) > 512 {
			t.Errorf("%v: shown as %s", tc.err, all)
		}
		if !p.LastCheck.Equal(clock.Now()) || p.Token != token {
			t.Errorf("kept %+v", p)
		}
	}
	w.dns.onLook = nil
	clock.add(time.Minute)
	w.must(t, "team-a", admin, verify(host), 200)
}

// While the DNS is asked, the world goes on: a proof is of the host that it was looked for, by who may have it.
func TestHostChangesDuringTheLook(t *testing.T) {
	const host = "mcp.example.com"
	for name, tc := range map[string]struct {
		meanwhile func(w *world, admin tenant.Principal)
		status    int
	}{
		"deleted": {func(w *world, admin tenant.Principal) { w.do("team-a", admin, del("/api/v1/hosts/"+host)) }, 404},
		"asked for anew": {func(w *world, admin tenant.Principal) {
			w.do("team-a", admin, del("/api/v1/hosts/"+host))
			w.do("team-a", admin, ask(host))
		}, 404},
		"the key is revoked": {func(w *world, admin tenant.Principal) {
			w.store.edit("team-a", func(r *tenant.Record) {
				r.Keys = slices.DeleteFunc(r.Keys, func(k tenant.Key) bool { return k.ID == admin.ID })
			})
		}, 401},
		"the tenant is another": {func(w *world, _ tenant.Principal) { w.store.erase("team-a"); w.store.add("team-a") }, 404},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, admin := hostWorld(t)
			w.dns.publish(host, w.must(t, "team-a", admin, ask(host), 201)["txt_value"].(string))
			w.dns.onLook = func(context.Context, string) error { tc.meanwhile(w, admin); return nil }
			got := w.do("team-a", admin, verify(host))
			// That of the erased tenant may end with its claim instead.
			if got.status != tc.status && (name != "the tenant is another" || got.status != 503) {
				t.Errorf("%d %s, want %d", got.status, got.body, tc.status)
			}
			if r := w.store.entry("team-a").Record; len(r.Hosts) != 0 || len(r.PendingHosts) > 0 && r.PendingHosts[0].LastError != "" {
				t.Errorf("the record has %v %v", r.Hosts, r.PendingHosts)
			}
		})
	}
}

// A caller who leaves ends the look, and nothing is kept of it.
func TestHostCallerLeaves(t *testing.T) {
	w, _, admin := hostWorld(t)
	const host = "mcp.example.com"
	w.must(t, "team-a", admin, ask(host), 201)
	ctx, leave := context.WithCancel(t.Context())
	w.dns.onLook = func(ctx context.Context, _ string) error {
		leave()
		<-ctx.Done()
		return fmt.Errorf("lookup: %w", ctx.Err())
	}
	if _, err := w.decide(ctx, "team-a", admin, verify(host)); fault.KindOf(err) != fault.Canceled {
		t.Errorf("got %v", err)
	}
	if p := w.store.entry("team-a").Record.PendingHosts[0]; !p.LastCheck.IsZero() {
		t.Errorf("kept %+v", p)
	}
}

// A host is looked for once at a time and once in 5 s, also after another replica did.
func TestHostLooksAreBounded(t *testing.T) {
	w, clock, admin := hostWorld(t)
	const host = "mcp.example.com"
	w.must(t, "team-a", admin, ask(host), 201)
	w.must(t, "team-a", admin, ask("other.example.com"), 201)
	w.dns.onLook = func(_ context.Context, h string) error {
		if h == host {
			if got := w.do("team-a", admin, verify(host)); got.status != 429 {
				t.Errorf("a second look beside the first: %d %s", got.status, got.body)
			}
			if got := w.do("team-a", admin, verify("other.example.com")); got.status != 409 {
				t.Errorf("a look at another host: %d %s", got.status, got.body)
			}
		}
		return nil
	}
	w.says(t, "team-a", admin, verify(host), 409, "")
	w.dns.onLook = nil
	clock.add(time.Minute)
	w.store.edit("team-a", func(r *tenant.Record) { r.PendingHosts[0].LastCheck = clock.Now().Add(-2 * time.Second) })
	if got := w.do("team-a", admin, verify(host)); got.status != 429 || got.header.Get("Retry-After") != "3" {
		t.Errorf("after another replica's look: %d %v", got.status, got.header)
	}
	w.store.edit("team-a", func(r *tenant.Record) { r.PendingHosts[0].LastCheck = clock.Now().Add(time.Hour) })
	if got := w.do("team-a", admin, verify(host)); got.status != 429 || got.header.Get("Retry-After") != "5" {
		t.Errorf("after one whose clock is ahead: %d %v", got.status, got.header)
	}
}

// A tenant's viewers see, its admins change; nobody else does either.
func TestHostAndCertificateRoles(t *testing.T) {
	w := twoTenants(t)
	before := w.state(t, "team-a")
	nobody := w.user("team-a", "idp-of-a", "mallory")
	n := 0
	for _, r := range w.mux.Routes() {
		if !strings.HasPrefix(r.Pattern, "/api/v1/hosts") && !strings.HasPrefix(r.Pattern, "/api/v1/certificates") {
			continue
		}
		for _, q := range uses(t, r) {
			n++
			q.path = fill(r.Pattern, w.ids["team-a"])
			for _, p := range []tenant.Principal{w.principal("team-a", tenant.Viewer), w.principal("team-a", tenant.Editor), nobody} {
				want := 403
				switch {
				case r.Method == "GET" && (p.Role > tenant.NoRole || !strings.Contains(r.Pattern, "{")):
					want = 200
				case r.Method == "GET":
					want = 404
				}
				got := w.do("team-a", p, q)
				if got.status != want || want == 200 && p.Role == tenant.NoRole && got.body != `{"items":[]}`+"\n" {
					t.Errorf("%s %s as %s: %d %s, want %d", r.Method, r.Pattern, p.Role, got.status, got.body, want)
				}
				if strings.Contains(got.body, "KEY") {
					t.Errorf("%s %s shows a key: %s", r.Method, r.Pattern, got.body)
				}
			}
		}
	}
	if n != 15 {
		t.Errorf("%d uses were tried", n)
	}
	if w.state(t, "team-a") != before {
		t.Error("a role too small changed something")
	}
}

// What is not configured says so, to whoever may use it.
func TestHostsAndCertificatesNotConfigured(t *testing.T) {
	w := full(t, func(c *vgw.Config) { c.Certificates, c.HostProof = nil, nil })
	w.store.add("team-a")
	w.store.edit("team-a", func(r *tenant.Record) {
		r.PendingHosts = []tenant.PendingHost{{Host: "a.example.com", Token: "x", Created: time.Now()}}
	})
	const path = "/api/v1/certificates/team-a.gw.test"
	for _, q := range []request{
		get("/api/v1/certificates"), get(path), del(path), pair("CHAIN", "KEY").to("team-a.gw.test"), post(path+"/renew", ""), post(path+"/revoke", ""),
		ask("b.example.com"), verify("a.example.com"),
	} {
		w.says(t, "team-a", w.principal("team-a", tenant.Admin), q, 503, "not configured")
		if got := w.as(tenant.Viewer, "team-a", q); q.method != "GET" && got.status != 403 {
			t.Errorf("%s %s as viewer: %d", q.method, q.path, got.status)
		}
	}
	var list struct{ Items []struct{ Host string } }
	if err := json.Unmarshal([]byte(w.as(tenant.Viewer, "team-a", get("/api/v1/hosts")).body), &list); err != nil || len(list.Items) != 2 {
		t.Errorf("listed %v, %v", list, err)
	}
}
