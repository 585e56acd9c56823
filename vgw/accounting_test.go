package vgw_test

import (
	"encoding/csv"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw"
	"github.com/polygate/polygate/vgw/sandbox"
)

// counted is a SandboxMetrics in memory.
type counted struct {
	mu     sync.Mutex
	used   map[string]sandbox.Amounts
	states []func() map[string]int // that are read now
}

func (c *counted) SandboxUsed(owner string, a sandbox.Amounts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sum := c.used[owner]
	sum.Millis += a.Millis
	c.used[owner] = sum
}

func (c *counted) SandboxStates(count func() map[string]int) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = append(c.states, count)
	i := len(c.states) - 1
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.states[i] = nil
	}
}

// running is how many sandboxes run, as all who are read say together.
func (c *counted) running() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, count := range c.states {
		if count != nil {
			n += count()["Running"]
		}
	}
	return n
}

func withMetrics(c *counted) func(*vgw.Config) {
	return func(cfg *vgw.Config) { cfg.SandboxMetrics = func(tenant.ID) vgw.SandboxMetrics { return c } }
}

// took returns how long the last run of a sandbox took, as its owner sees it, in seconds.
func took(t *testing.T, s map[string]any) float64 {
	t.Helper()
	run, _ := s["run"].(map[string]any)
	var at [2]time.Time
	for i, field := range []string{"started", "ended"} {
		text, _ := run[field].(string)
		var err error
		if at[i], err = time.Parse(time.RFC3339, text); err != nil {
			t.Fatalf("%s of %v: %v", field, run, err)
		}
	}
	return float64(at[1].UnixMilli()-at[0].UnixMilli()) / 1000
}

// usedBy returns the lines of a report by owner.
func (w *world) usedBy(t *testing.T, p tenant.Principal, query string) map[string]map[string]any {
	t.Helper()
	lines := map[string]map[string]any{}
	for _, item := range w.must(t, "team-a", p, get("/api/v1/usage?"+query), 200)["items"].([]any) {
		line := item.(map[string]any)
		owner, _ := line["owner"].(string)
		lines[owner] = line
	}
	return lines
}

func near(a any, b float64) bool {
	v, ok := a.(float64)
	return ok && math.Abs(v-b) < 1e-6
}

// S-R5: use is attributed to its owner, exactly once, across runs, owners of the tenant and delegates; and everybody sees their own.
func TestSR5UseIsAttributed(t *testing.T) {
	c := &counted{used: map[string]sandbox.Amounts{}}
	w, _ := sandboxed(t, withMetrics(c))
	alice, bob, carol, admin := w.user("team-a", "corp", "alice"), w.user("team-a", "corp", "bob"), w.user("team-a", "corp", "carol"), w.principal("team-a", tenant.Admin)
	if n := c.running(); n != 2 {
		t.Errorf("%d sandboxes run as the metrics say, want 2", n)
	}
	w.must(t, "team-a", alice, post("/api/v1/grants", `{"to":"user:corp/carol","action":"sandbox.exec","object":"sandbox/hers","expires_in_seconds":600}`), 201)
	for _, who := range []tenant.Principal{alice, carol} {
		w.must(t, "team-a", who, post(hers+"/exec", `{"command":["echo","hello"]}`), 200)
	}
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	sum := took(t, w.awaits(t, alice, "hers", "stopped"))

	w.store.lose(w.store.entry("team-a").Scope) // whoever owns the tenant next goes on with the books
	w.must(t, "team-a", alice, post(hers+"/start", ""), 202)
	w.awaits(t, alice, "hers", "running")
	if n := c.running(); n != 2 {
		t.Errorf("%d sandboxes run after a hand-over as the metrics say, want 2: one owner of the tenant tells of them", n)
	}
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	sum += took(t, w.awaits(t, alice, "hers", "stopped"))
	w.must(t, "team-a", admin, post("/api/v1/sandboxes/other/stop", ""), 202)
	others := took(t, w.awaits(t, admin, "other", "stopped"))

	lines := w.usedBy(t, admin, "group_by=owner")
	mine := lines["user:corp/alice"]
	if len(lines) != 2 || !near(mine["sandbox_seconds"], sum) || !near(lines[admin.Ref()]["sandbox_seconds"], others) {
		t.Errorf("hers took %g s and the other %g s; the report says %v", sum, others, lines)
	}
	if !near(mine["cpu_core_seconds_requested"], sum/2) || !near(mine["memory_gib_seconds_requested"], sum/2) || !near(mine["storage_gib_seconds"], sum) || mine["sessions"] != 2.0 {
		t.Errorf("of %g s with half a core, 512 MiB and 1 GiB, and 2 sessions, the report says %v", sum, mine)
	}
	if total := w.usedBy(t, admin, "group_by=none")[""]; !near(total["sandbox_seconds"], sum+others) {
		t.Errorf("all together is %v", total)
	}
	if own := w.usedBy(t, alice, "group_by=owner"); len(own) != 1 || !near(own["user:corp/alice"]["sandbox_seconds"], sum) {
		t.Errorf("alice sees %v", own)
	}
	for _, p := range []tenant.Principal{bob, carol} {
		if own := w.usedBy(t, p, "group_by=owner,hour"); len(own) != 0 {
			t.Errorf("%s sees %v", p.Ref(), own)
		}
	}
	if got := float64(c.used["user:corp/alice"].Millis) / 1000; !near(got, sum) {
		t.Errorf("the metrics were told of %g s, want %g", got, sum)
	}
	w.must(t, "team-a", alice, del(hers), 202)
	w.awaitsGone(t, alice, "hers")
	if mine := w.usedBy(t, alice, "group_by=owner")["user:corp/alice"]; !near(mine["sandbox_seconds"], sum) {
		t.Errorf("after the sandbox is deleted its use is %v", mine)
	}
}

// runsAWhile lets what runs use something: what takes less than a millisecond is not billed.
func (w *world) runsAWhile() { time.Sleep(5 * time.Millisecond) }

func (w *world) awaitsGone(t *testing.T, p tenant.Principal, name string) {
	t.Helper()
	eventually(t, name+" is gone", func() bool { return w.do("team-a", p, get("/api/v1/sandboxes/"+name)).status == 404 })
}

// Who comes to own a name is not who was there before, and another tenant has books of its own.
func TestSR5UseIsNobodyElses(t *testing.T) {
	w, _ := sandboxed(t)
	w.store.add("team-b")
	alice := w.user("team-a", "corp", "alice")
	w.runsAWhile()
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	w.awaits(t, alice, "hers", "stopped")
	if got := w.usedBy(t, alice, "group_by=owner"); len(got) != 1 {
		t.Fatalf("alice sees %v", got)
	}
	w.says(t, "team-b", w.principal("team-b", tenant.Admin), get("/api/v1/usage?group_by=owner"), 200, `"items":[]`)
	w.store.edit("team-a", func(r *tenant.Record) {
		for i := range r.Authenticators {
			r.Authenticators[i].Created = r.Authenticators[i].Created.Add(time.Hour) // deleted, and made anew
		}
	})
	heir := w.user("team-a", "corp", "alice")
	if got := w.usedBy(t, heir, "group_by=owner"); len(got) != 0 {
		t.Errorf("another user of the name sees %v", got)
	}
	line := w.usedBy(t, w.principal("team-a", tenant.Admin), "group_by=owner")["user:corp/alice"]
	if line["authenticator_created"] == nil {
		t.Errorf("an admin is not told which alice it is: %v", line)
	}
}

func TestUsageReportAsCSV(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	w.runsAWhile()
	w.must(t, "team-a", alice, post(hers+"/stop", ""), 202)
	sum := took(t, w.awaits(t, alice, "hers", "stopped"))
	for _, q := range []request{get("/api/v1/usage?format=csv&group_by=day,owner"), {method: "GET", path: "/api/v1/usage?group_by=owner", header: map[string]string{"Accept": "text/csv"}}} {
		got := w.do("team-a", alice, q)
		rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
		if err != nil || got.status != 200 || len(rows) != 2 || got.header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" {
			t.Fatalf("%d %v %q: %v", got.status, got.header, got.body, err)
		}
		if rows[0][4] != "sandbox_seconds" || rows[1][2] != "user:corp/alice" || rows[1][4] != fmt.Sprint(sum) {
			t.Errorf("of %g s: %v", sum, rows)
		}
	}
	if got := w.do("team-a", alice, request{method: "GET", path: "/api/v1/usage", header: map[string]string{"Accept": "text/csv"}}); !strings.HasPrefix(got.body, "from,to,owner,") {
		t.Errorf("CSV without a query: %d %s", got.status, got.body)
	}
}

func TestUsageReportQueries(t *testing.T) {
	w, _ := sandboxed(t)
	alice := w.user("team-a", "corp", "alice")
	w.says(t, "team-a", alice, get("/api/v1/usage"), 200, `"rate_left"`)
	for query, says := range map[string]string{
		"since=x": "unknown", "from=yesterday": "from", "to=2026-01-01": "to", "from=2026-02-01T00:00:00Z&to=2026-02-01T00:00:00Z": "before", "from=": "empty",
		"group_by=sandbox": "group_by", "group_by=hour,day": "group_by", "group_by=owner,owner": "group_by", "group_by=owner,": "group_by", "group_by=none,owner": "group_by",
		"format=xml": "format", "format=csv&format=csv": "2 times", "group_by=" + strings.Repeat("x", 5000): "too long", "%zz=1": "malformed",
	} {
		w.says(t, "team-a", alice, get("/api/v1/usage?"+query), 400, says)
	}
	w.says(t, "team-a", alice, request{method: "GET", path: "/api/v1/usage?group_by=owner", header: map[string]string{"Accept": "application/jsonl"}}, 406, "Accept")
	got := w.must(t, "team-a", alice, get("/api/v1/usage?from=2026-01-01T00:00:00%2B01:00&to=2026-01-02T00:00:00Z&group_by=hour"), 200)
	if got["from"] != "2025-12-31T23:00:00Z" || got["own"] != true || got["accounted_until"] == nil || len(got["items"].([]any)) != 0 {
		t.Errorf("a time before anything was: %v", got)
	}
	plain := full(t)
	plain.run(t)
	plain.store.add("team-a")
	plain.says(t, "team-a", plain.principal("team-a", tenant.Admin), get("/api/v1/usage?group_by=owner"), 503, "sandboxes.driver")
	plain.says(t, "team-a", plain.principal("team-a", tenant.Admin), get("/api/v1/usage"), 200, `"limits"`)
}

// A viewer's metrics do not tell who else has sandboxes.
func TestMetricsOfOthersOwnersAreForAdmins(t *testing.T) {
	text := "polygate_sandbox_seconds_total{tenant=\"team-a\"} 5\npolygate_sandbox_owner_seconds_total{owner=\"user:corp/alice\",tenant=\"team-a\"} 3\n" +
		"polygate_sandbox_owner_seconds_total{owner=\"user:corp/bob\",tenant=\"team-a\"} 2\n"
	w, _ := sandboxed(t, func(c *vgw.Config) { c.Telemetry = fixedText(text) })
	if got := w.do("team-a", w.principal("team-a", tenant.Admin), get("/metrics")).body; got != text {
		t.Errorf("an admin sees %q", got)
	}
	got := w.do("team-a", w.user("team-a", "corp", "alice"), get("/metrics")).body
	if strings.Contains(got, "bob") || !strings.Contains(got, "alice") || !strings.Contains(got, `seconds_total{tenant="team-a"} 5`) {
		t.Errorf("alice sees %q", got)
	}
}

type fixedText string

func (f fixedText) TenantText(tenant.ID) []byte { return []byte(f) }
