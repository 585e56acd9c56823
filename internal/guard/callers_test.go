package guard

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/quota"
	"github.com/polygate/polygate/internal/tenant"
)

func user(i int) tenant.Principal {
	return tenant.Principal{Tenant: "team-a", Kind: tenant.KindUser, ID: fmt.Sprintf("corp/user-%d", i), Role: tenant.Editor, Via: tenant.ViaOIDC}
}

// refusedBy tries to enter and says what refused: "" = nothing. The visit is left at once unless it is to be kept.
func (w *world) refusedBy(e *tenant.Entry, p tenant.Principal) string {
	g := w.For(e)
	before := g.counts()
	v, err := g.Enter(p, Request{ID: "r"})
	if err == nil {
		v.Leave()
		return ""
	}
	after := g.counts()
	for i := range after {
		if after[i] != before[i] {
			return quota.Reason(i).String()
		}
	}
	return "unknown: " + err.Error()
}

func (g *Guard) counts() (n [quota.NumReasons]uint64) {
	for i := range n {
		n[i] = g.refused[i].Load()
	}
	return n
}

// TestM5PrincipalsHaveTheirOwnBudgets: one user at its limit takes nothing from the others, nor from the tenant.
func TestM5PrincipalsHaveTheirOwnBudgets(t *testing.T) {
	w := newWorld(Limits{})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{RequestsPerSecond: 1, Burst: 10, PerPrincipal: tenant.Share{RequestsPerSecond: 1, Burst: 2}})
	for i := range 100 {
		want := ""
		if i >= 2 {
			want = "principal-rate"
		}
		if got := w.refusedBy(e, user(1)); got != want {
			t.Fatalf("request %d: refused by %q, want %q", i, got, want)
		}
	}
	for i := 2; i <= 5; i++ { // 98 refusals cost the tenant nothing: 8 of its burst are left
		for range 2 {
			if got := w.refusedBy(e, user(i)); got != "" {
				t.Errorf("user %d: refused by %q", i, got)
			}
		}
	}
	// What the tenant as a whole refuses costs the caller nothing.
	for range 5 {
		if got := w.refusedBy(e, user(6)); got != "rate" {
			t.Errorf("over the tenant's rate: refused by %q", got)
		}
	}
	w.now = w.now.Add(2 * time.Second)
	for i := range 2 {
		if got := w.refusedBy(e, user(6)); got != "" {
			t.Errorf("request %d after the tenant's refusals: refused by %q", i, got)
		}
	}
}

// TestM5KeysHaveTheirOwnBudgets: two keys of one bot have a budget each, and one together as the bot.
func TestM5KeysHaveTheirOwnBudgets(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 1, Burst: 5}}, PerKey: Share{Rate: quota.Limit{PerSecond: 1, Burst: 3}}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	bot := func(key string) tenant.Principal {
		return tenant.Principal{Tenant: "team-a", Kind: tenant.KindBot, ID: "b1", KeyID: key, Role: tenant.Editor}
	}
	for i, c := range []struct{ key, want string }{
		{"k1", ""}, {"k1", ""}, {"k1", ""}, {"k1", "key-rate"}, {"k2", ""}, {"k2", ""}, {"k2", "principal-rate"}, {"k1", "key-rate"},
	} {
		if got := w.refusedBy(e, bot(c.key)); got != c.want {
			t.Errorf("request %d, by %s: refused by %q, want %q", i, c.key, got, c.want)
		}
	}
	if got := w.refusedBy(e, tenant.Principal{Tenant: "team-a", Kind: tenant.KindBot, ID: "b2", KeyID: "k3"}); got != "" {
		t.Errorf("another bot: refused by %q", got)
	}
}

func TestM5ConcurrencyOfPrincipalsAndKeys(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{MaxConcurrent: 2}, PerKey: Share{MaxConcurrent: 1}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	key := func(id, k string) tenant.Principal {
		return tenant.Principal{Tenant: "team-a", Kind: tenant.KindBot, ID: id, KeyID: k}
	}
	first := w.visit(t, e, key("b1", "k1"))
	if got := w.refusedBy(e, key("b1", "k1")); got != "key-concurrency" {
		t.Errorf("refused by %q", got)
	}
	w.visit(t, e, key("b1", "k2"))
	if got := w.refusedBy(e, key("b1", "k3")); got != "principal-concurrency" {
		t.Errorf("refused by %q", got)
	}
	first.Leave()
	w.visit(t, e, key("b1", "k3"))
	if got := w.refusedBy(e, key("b2", "k4")); got != "" {
		t.Errorf("another bot: refused by %q", got)
	}
}

// TestAnonymousHaveNoBudgetOfTheirOwn: they are not one principal, and must not share a limit that is meant for one.
func TestAnonymousHaveNoBudgetOfTheirOwn(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 1, Burst: 1}, MaxConcurrent: 1}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	for range 10 {
		w.visit(t, e, tenant.Principal{Tenant: "team-a", Kind: tenant.KindAnonymous})
	}
}

// TestMillionUsersDoNotGrowMemory: the table of one tenant, and of all, stays within its bound; those who are idle make room;
// those who are not keep their budgets; newcomers without room share one.
func TestMillionUsersDoNotGrowMemory(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 10, Burst: 2}}})
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	users := 200_000
	if testing.Short() {
		users = 20_000
	}
	for i := range users {
		if got := w.refusedBy(e, user(i)); got != "" && i < 1000 {
			t.Fatalf("user %d: refused by %q", i, got)
		}
		w.now = w.now.Add(50 * time.Microsecond) // 20,000 a second: 2,000 have less than a full budget at a time
	}
	u := w.For(e).Usage()
	if u.TableBytes > defaultTableBytes || u.Known < 2000 || w.Stats().TableBytes != u.TableBytes {
		t.Errorf("%d bytes of %d, %d known, %d in all", u.TableBytes, defaultTableBytes, u.Known, w.Stats().TableBytes)
	}
	if refused := u.Refused[quota.CallerRate]; refused > 0 {
		t.Errorf("%d refused though the idle could make room", refused)
	}
	w.now = w.now.Add(time.Hour)
	w.Sweep()
	if got := w.Stats().TableBytes; got != 0 {
		t.Errorf("%d bytes after an idle hour", got)
	}
}

// TestFullTableKeepsLimits: whoever comes while the table is full of callers that are not idle shares a budget: no one gets more
// than its own, however many come in turns, and nobody is evicted in order to be let in anew.
func TestFullTableKeepsLimits(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 0.001, Burst: 2}}})
	w.cfg.TableBytes = 50 * (callerOverhead + 20)
	e := tenantEntry("team-a", "u", 1, tenant.Quotas{})
	passed := make(map[int]int)
	for range 20 {
		for i := range 500 {
			if w.refusedBy(e, user(i)) == "" {
				passed[i]++
			}
		}
	}
	known := w.For(e).Usage().Known
	total := 0
	for i, n := range passed {
		if total += n; n > 2 {
			t.Errorf("user %d passed %d times, of a burst of 2", i, n)
		}
	}
	if known < 30 || known > 60 || total != 2*known+2 {
		t.Errorf("%d passed; want two for each of the %d in the table, and two for all others", total, known)
	}
	w.now = w.now.Add(3000 * time.Second)
	if got := w.refusedBy(e, user(499)); got != "" {
		t.Errorf("when others are idle again: refused by %q", got)
	}
}

// TestTablesTogetherAreBounded: where all tables together are at their bound, every tenant still keeps some callers apart.
func TestTablesTogetherAreBounded(t *testing.T) {
	w := newWorld(Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 0.001, Burst: 1}}})
	w.cfg.TablesMax = 100 * callerOverhead
	for n := range 20 {
		id := tenant.ID(fmt.Sprintf("team-%d", n))
		e := tenantEntry(id, "u", 1, tenant.Quotas{})
		for i := range 100 {
			p := user(i)
			p.Tenant = id
			w.refusedBy(e, p)
		}
		if known := w.For(e).Usage().Known; known < keptCallers {
			t.Errorf("tenant %d keeps %d callers apart, want %d", n, known, keptCallers)
		}
	}
	if got, most := w.Stats().TableBytes, 100*(callerOverhead+30)+20*keptCallers*(callerOverhead+30); got > most {
		t.Errorf("%d bytes, want at most %d", got, most)
	}
	for n := range 20 {
		w.Forget(tenant.ID(fmt.Sprintf("team-%d", n)))
	}
	if got := w.Stats().TableBytes; got != 0 {
		t.Errorf("%d bytes after all tenants are gone", got)
	}
}

// TestTableDoesNotHoldTheRequest: what the table keeps is a copy, not a part of a request's header.
func TestTableDoesNotHoldTheRequest(t *testing.T) {
	var total atomic.Int64
	c := callers{max: 1 << 20, most: 1 << 20, total: &total}
	header := []byte(strings.Repeat("x", 100) + "corp/ann")
	p := tenant.Principal{Kind: tenant.KindUser, ID: string(header)[100:]}
	var k ticket
	c.enter(&k, 1, &p, netip.Addr{}, &Limits{})
	if k.who.key.id != "corp/ann" || k.ref != "user:corp/ann" || p.Ref() != k.ref {
		t.Errorf("kept %+v as %q", k.who.key, k.ref)
	}
	if k.who.size() != callerOverhead+int64(len("user:corp/ann")) {
		t.Errorf("counted %d bytes", k.who.size())
	}
}

func TestCallersAreCountedInFull(t *testing.T) {
	slot := 2 * (unsafe.Sizeof(callerKey{}) + unsafe.Sizeof(&caller{})) // a map is at least half full, about
	if n := int64(unsafe.Sizeof(caller{})+slot) + 48; n > callerOverhead {
		t.Errorf("a caller takes %d bytes, %d are counted", n, callerOverhead)
	}
}

// TestTableProperties: in whatever order callers come, go and are swept, the table counts its bytes exactly, forgets nobody who
// is not idle, and gives nobody more than its limit.
func TestTableProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var total atomic.Int64
		c := callers{max: rapid.Int64Range(0, 10*callerOverhead).Draw(t, "max"), most: 8 * callerOverhead, total: &total}
		l := Limits{PerPrincipal: Share{Rate: quota.Limit{PerSecond: 1, Burst: 3}, MaxConcurrent: 2}, PerKey: Share{MaxConcurrent: 3}}
		now, began := int64(1e18), int64(1e18)
		var held []*ticket
		passed := make(map[string]int)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += rapid.Int64Range(0, 3e9).Draw(t, "gap")
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				c.sweep(now)
			case 1, 2, 3:
				if len(held) > 0 {
					c.leave(held[0])
					held = held[1:]
				}
			case 4:
				if len(held) > 0 {
					c.undo(held[0])
					passed[held[0].ref]--
					held = held[1:]
				}
			default:
				k := new(ticket)
				p := tenant.Principal{Kind: tenant.KindBot, ID: rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "who"), KeyID: rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(t, "key")}
				if no, _ := c.enter(k, now, &p, netip.Addr{}, &l); !no.refused {
					held = append(held, k)
					passed[k.ref]++
				}
			}
			bytes, n := int64(0), 0
			for x := c.root.next; c.of != nil && x != &c.root; x = x.next {
				bytes, n = bytes+x.size(), n+1
			}
			if bytes != c.bytes || bytes != total.Load() || n != len(c.of) {
				t.Fatalf("%d bytes in %d callers; counted %d and %d, in %d", bytes, n, c.bytes, total.Load(), len(c.of))
			}
			for _, k := range held {
				if k.ref != "" && c.of[k.who.key] != k.who {
					t.Fatalf("%s was forgotten while in flight", k.ref)
				}
			}
		}
		for ref, n := range passed {
			if may := 3 + (now-began)/1e9; ref != "" && int64(n) > may {
				t.Fatalf("%s passed %d times, of %d", ref, n, may)
			}
		}
	})
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	l := benchLimits()
	for r := range quota.NumReasons {
		e := refusalOf(quota.Reason(r), &l)
		if e.Kind != fault.RateLimited || !strings.HasPrefix(e.Detail, "over ") {
			t.Errorf("%s: %v", quota.Reason(r), e)
		}
	}
}
