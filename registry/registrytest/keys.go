package registrytest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// BotKey adds a bot and a key of it. The ids are the names.
func BotKey(bot, key string) func(*tenant.Record) {
	return func(r *tenant.Record) {
		now := time.Now().UTC().Truncate(time.Second)
		if _, ok := r.BotByName(bot); !ok {
			r.Bots = append(r.Bots, tenant.Bot{ID: bot, Name: bot, Role: tenant.Viewer, Source: tenant.SourceAPI, Created: now})
		}
		r.Keys = append(r.Keys, tenant.Key{
			ID: key, Name: key, Hash: tenant.HashKey(key), Role: tenant.Viewer, Bot: bot, Source: tenant.SourceAPI,
			Created: now, Expires: now.Add(time.Hour),
		})
	}
}

// testRead: a replica reads single objects of a tenant that another serves, and nothing of any other tenant.
func testRead(t *testing.T, b Backend) {
	owner, r := Start(t, b, "r1"), Start(t, b, "r2")
	t1, t10 := Create(t, owner, "t1").Scope, Create(t, owner, "t10").Scope
	c := Claim(t, owner, t1)
	Write(t, c, "server", "s", `"1"`)
	Write(t, c, "server", "s", `"2"`)
	Write(t, Claim(t, owner, t10), "server", "ten", `"10"`)
	got, err := r.Read(t.Context(), t1, "server", "s")
	if err != nil || got.Kind != "server" || got.ID != "s" || string(got.Value) != `"2"` {
		t.Errorf("Read: got %+v, %v", got, err)
	}
	if objs, err := c.Load(t.Context(), "server"); err != nil || len(objs) != 1 || objs[0].Revision != got.Revision {
		t.Errorf("revision: got %d, Load says %+v, %v", got.Revision, objs, err)
	}
	for _, tc := range []struct {
		what     string
		scope    tenant.Scope
		kind, id string
		want     fault.Kind
	}{
		{"an object that is not there", t1, "server", "none", fault.NotFound},
		{"another tenant's object", t1, "server", "ten", fault.NotFound},
		{"an object of a kind that is not there", t1, "grant", "s", fault.NotFound},
		{"a marker", t1, "_", "0", fault.Invalid},
		{"a path to another tenant", t1, "server", "../../t10/server/ten", fault.Invalid},
		{"a kind with a path", t1, "../t10/server", "ten", fault.Invalid},
		{"no id", t1, "server", "", fault.Invalid},
		{"no tenant", tenant.Scope{}, "server", "s", fault.NotFound},
	} {
		_, err := r.Read(t.Context(), tc.scope, tc.kind, tc.id)
		WantKind(t, "Read of "+tc.what, err, tc.want)
	}
	erase(t, owner, "t1")
	_, err = r.Read(t.Context(), t1, "server", "s")
	WantKind(t, "Read of a deleted tenant", err, fault.NotFound)
	reborn := Create(t, owner, "t1").Scope
	Write(t, Claim(t, owner, reborn), "server", "s", `"new"`)
	_, err = r.Read(t.Context(), t1, "server", "s")
	WantKind(t, "Read with the scope of an earlier tenant of this id", err, fault.NotFound)
	if got, err := r.Read(t.Context(), reborn, "server", "s"); err != nil || string(got.Value) != `"new"` {
		t.Errorf("Read of the new tenant: got %+v, %v", got, err)
	}
}

func erase(t *testing.T, r *Replica, id tenant.ID) {
	t.Helper()
	if err := r.DeleteTenant(t.Context(), id, 0, Entry(id, "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant(%s): %v", id, err)
	}
}

// used is what MarkUsed takes, of one tenant.
func used(scope tenant.Scope, at time.Time, keys ...string) map[tenant.Scope]map[string]time.Time {
	m := make(map[string]time.Time, len(keys))
	for _, k := range keys {
		m[k] = at
	}
	return map[tenant.Scope]map[string]time.Time{scope: m}
}

// lastUsed returns what LastUsed says, as key=seconds since base.
func lastUsed(t *testing.T, r *Replica, scope tenant.Scope, base time.Time) map[string]int {
	t.Helper()
	got, err := r.LastUsed(t.Context(), scope)
	if err != nil {
		t.Fatalf("LastUsed(%s): %v", scope, err)
	}
	out := make(map[string]int, len(got))
	for k, at := range got {
		out[k] = int(at.Sub(base) / time.Second)
	}
	return out
}

// testUsed: the last use of keys is kept, of known keys alone, goes with the tenant and never comes back.
func testUsed(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, other := Start(t, b, "r1"), Start(t, faulty, "r2")
	scope := Create(t, r, "phoenix", Key("k1"), Key("k2"), BotKey("bot", "k3")).Scope
	Create(t, r, "quiet", Key("q"))
	base := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	mark := func(r *Replica, m map[tenant.Scope]map[string]time.Time) {
		t.Helper()
		if err := r.MarkUsed(t.Context(), m); err != nil {
			t.Errorf("MarkUsed: %v", err)
		}
	}
	want := func(what string, scope tenant.Scope, want string) {
		t.Helper()
		if got := fmt.Sprint(lastUsed(t, r, scope, base)); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	want("before any use", scope, "map[]")
	mark(r, used(scope, base.Add(5*time.Second+time.Millisecond), "k1", "k3", "never-a-key"))
	mark(other, used(scope, base.Add(3*time.Second), "k1", "k2"))
	want("the later time stays, a key that is unknown is passed over", scope, "map[k1:5 k2:3 k3:5]")
	before := Dump(t, b)["c/used/phoenix"].ModRevision
	mark(other, used(scope, base.Add(5*time.Second), "k1"))
	if after := Dump(t, b)["c/used/phoenix"].ModRevision; after != before {
		t.Error("marks that bring nothing new were written")
	}
	mark(r, used(scope, base.Add(1000*time.Hour), "k2"))
	if got := lastUsed(t, r, scope, base)["k2"]; got < 3600 || got > 4000 {
		t.Errorf("a use in the future counts as %d s after the start, want now", got)
	}
	if _, err := r.UpdateTenant(t.Context(), "phoenix", 0, func(rec *tenant.Record) error { rec.Keys = rec.Keys[:1]; return nil }, Entry("phoenix", "key.revoke")); err != nil {
		t.Fatal(err)
	}
	mark(r, used(scope, base.Add(6*time.Second), "k1"))
	want("after two keys were revoked", scope, "map[k1:6]")

	faulty.LoseAnswers(1)
	mark(other, used(scope, base.Add(7*time.Second), "k1"))
	want("after an answer was lost", scope, "map[k1:7]")

	// late marks k1 by a transaction that reaches the store after what f does.
	late := func(at time.Duration, scope tenant.Scope, f func()) {
		t.Helper()
		arrived, release := faulty.Hold("c/used/")
		done := make(chan error, 1)
		go func() { done <- other.MarkUsed(context.Background(), used(scope, base.Add(at), "k1")) }()
		<-arrived
		f()
		release()
		if err := <-done; err != nil {
			t.Errorf("MarkUsed, late: %v", err)
		}
	}
	if _, err := r.UpdateTenant(t.Context(), "phoenix", 0, func(rec *tenant.Record) error { Key("k4")(rec); return nil }, Entry("phoenix", "key.create")); err != nil {
		t.Fatal(err)
	}
	late(8*time.Second, scope, func() { mark(r, used(scope, base.Add(4*time.Second), "k4")) })
	want("two replicas at once", scope, "map[k1:8 k4:4]")
	late(9*time.Second, scope, func() { erase(t, r, "phoenix") })
	fresh := Create(t, r, "phoenix", Key("k1")).Scope
	var reborn tenant.Scope
	late(9*time.Second, fresh, func() { // of a tenant that no use was recorded of
		erase(t, r, "phoenix")
		reborn = Create(t, r, "phoenix", Key("k1")).Scope
	})
	if kv, ok := Dump(t, b)["c/used/phoenix"]; ok {
		t.Errorf("a late mark left %s", kv.Value)
	}
	want("of a tenant made again", reborn, "map[]")
	_, err := r.LastUsed(t.Context(), scope)
	WantKind(t, "LastUsed of a deleted tenant", err, fault.NotFound)
	both := used(scope, base.Add(9*time.Second), "k1")
	both[reborn] = map[string]time.Time{"k1": base.Add(4 * time.Second)}
	mark(r, both)
	want("marked together with its predecessor", reborn, "map[k1:4]")
	erase(t, r, "phoenix")
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "c/used/") {
			t.Errorf("%s is left of a deleted tenant", k)
		}
	}
}

// testUsedForeign: a value that was left by a tenant of this id, or that cannot be read, counts as nothing and is replaced;
// what a newer version wrote beside ours stays.
func testUsedForeign(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	e := Create(t, r, "alpha", Key("k1"))
	base := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	for _, stored := range []string{`{"v":1,"uid":"another","used":{"k1":"2026-01-01T00:00:00Z"}}`, `nonsense`, `{"v":99,"uid":"` + e.Record.UID + `","used":{}}`, ``} {
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "c/used/alpha", Value: []byte(stored)}}})
		if got := lastUsed(t, r, e.Scope, base); len(got) != 0 {
			t.Errorf("%s counts as %v", stored, got)
		}
		if err := r.MarkUsed(t.Context(), used(e.Scope, base.Add(time.Second), "k1")); err != nil {
			t.Errorf("MarkUsed over %s: %v", stored, err)
		}
		if got := lastUsed(t, r, e.Scope, base); got["k1"] != 1 {
			t.Errorf("MarkUsed over %s: %v", stored, got)
		}
	}
	newer := `{"v":2,"uid":"` + e.Record.UID + `","used":{},"from":{"k1":"192.0.2.1"}}`
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "c/used/alpha", Value: []byte(newer)}}})
	if err := r.MarkUsed(t.Context(), used(e.Scope, base, "k1")); err != nil {
		t.Fatal(err)
	}
	if got := string(Dump(t, b)["c/used/alpha"].Value); !strings.HasPrefix(got, `{"v":2,`) || !strings.Contains(got, "192.0.2.1") {
		t.Errorf("what a newer version wrote is lost: %s", got)
	}
}

// testUsedRaces: replicas that mark the keys of many tenants at once lose nothing.
func testUsedRaces(t *testing.T, b Backend) {
	replicas := []*Replica{Start(t, b, "r1"), Start(t, b, "r2"), Start(t, b, "r3")}
	const tenants, rounds = 60, 8 // more than one transaction's worth
	var scopes []tenant.Scope
	for i := range tenants {
		scopes = append(scopes, Create(t, replicas[0], fmt.Sprint("t", i), Key(fmt.Sprint("a", i)), Key(fmt.Sprint("b", i))).Scope)
	}
	base := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	var wg sync.WaitGroup
	for n, r := range replicas {
		wg.Go(func() {
			for round := range rounds {
				m := make(map[tenant.Scope]map[string]time.Time)
				for i, scope := range scopes {
					m[scope] = map[string]time.Time{fmt.Sprint("a", i): base.Add(time.Duration(round*3+n) * time.Second), fmt.Sprint("b", i): base.Add(time.Duration(100-round*3-n) * time.Second)}
				}
				if err := r.MarkUsed(t.Context(), m); err != nil {
					t.Errorf("MarkUsed: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for i, scope := range scopes {
		got := lastUsed(t, replicas[0], scope, base)
		if a, b := got[fmt.Sprint("a", i)], got[fmt.Sprint("b", i)]; a != rounds*3-1 || b != 100 {
			t.Fatalf("%s: the keys were last used at %d and %d, want %d and 100", scope, a, b, rounds*3-1)
		}
	}
}

// testOnce: a ticket is good once, over all replicas, whatever becomes of an answer; what is over is forgotten.
func testOnce(t *testing.T, b Backend) {
	var ahead [2]atomic.Int64 // how far the clock of each replica has gone
	clock := func(i int) Option {
		return func(c *registry.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead[i].Load())) }
		}
	}
	faulty := &Faulty{Backend: b}
	replicas := []*Replica{Start(t, b, "r1", clock(0)), Start(t, faulty, "r2", clock(1))}
	until := time.Now().Add(time.Minute)
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			first, err := replicas[i%2].Once(t.Context(), "ticket/../x\n", until)
			if err != nil {
				t.Errorf("Once: %v", err)
			}
			if first {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("one ticket was good %d times", won.Load())
	}
	once := func(what, id string, until time.Time, want bool) {
		t.Helper()
		if got, err := replicas[1].Once(t.Context(), id, until); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
		}
	}
	faulty.LoseAnswers(1)
	once("the answer to the first use is lost", "second", until, true)
	once("with another time", "second", until.Add(time.Minute), false)
	faulty.LoseAnswers(1)
	once("the answer to the second use is lost", "second", until, false)
	faulty.Drop(1)
	once("the request is lost", "third", until, true)
	once("one that is over", "fourth", time.Now().Add(-time.Second), false)
	for _, bad := range []struct {
		id    string
		until time.Time
	}{{"", until}, {"far", time.Now().Add(100 * time.Hour)}} {
		_, err := replicas[0].Once(t.Context(), bad.id, bad.until)
		WantKind(t, fmt.Sprintf("Once(%q, %v)", bad.id, bad.until), err, fault.Invalid)
	}
	for k, kv := range Dump(t, b) {
		if strings.Contains(k, "ticket") || strings.Contains(string(kv.Value), "ticket") {
			t.Errorf("%s holds the ticket", k)
		}
	}
	ahead[1].Store(int64(5 * time.Minute))
	once("over, but not for long", "second", until, false)
	for i := range 5 { // they sweep
		once("with a clock ahead", fmt.Sprint("ahead", i), until.Add(time.Hour), true)
	}
	if first, err := replicas[0].Once(t.Context(), "second", until); err != nil || first {
		t.Errorf("a replica with a clock behind takes a ticket again: %v, %v", first, err)
	}
	ahead[1].Store(0)
	for i := range 100 {
		once("many", fmt.Sprint("m", i), until, true)
	}
	ahead[0].Store(int64(3 * time.Hour))
	ahead[1].Store(int64(3 * time.Hour))
	until = until.Add(3 * time.Hour)
	left := func() (n int) {
		for k := range Dump(t, b) {
			if strings.HasPrefix(k, "c/once/") {
				n++
			}
		}
		return n
	}
	calls := 0
	for ; left() > calls && calls < 50; calls++ {
		once("later", fmt.Sprint("later", calls), until, true)
	}
	if n := left(); n != calls || calls > 20 {
		t.Errorf("after %d calls, %d ids are kept", calls, n)
	}
}

// testPlatformOwn: what the store keeps under c/ by itself is not to be had as platform data.
func testPlatformOwn(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	for _, key := range []string{"used/alpha", "once/0", "audit/alpha", "audit"} {
		WantKind(t, "Create of "+key, r.Platform().Create(t.Context(), key, []byte("{}")), fault.Invalid)
		WantKind(t, "Put of "+key, r.Platform().Put(t.Context(), key, []byte("{}"), 0), fault.Invalid)
		_, _, err := r.Platform().Get(t.Context(), key)
		WantKind(t, "Get of "+key, err, fault.Invalid)
	}
}

// testBotKeys: a bot's key is found like any other, and is nobody else's.
func testBotKeys(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	e := Create(t, r, "alpha", BotKey("bot", "one"), BotKey("bot", "two"))
	got, k, ok := r.Index().ByKey(tenant.HashKey("two"))
	if !ok || got.Scope != e.Scope || k.Bot != "bot" || k.Name != "two" || k.Expires.IsZero() {
		t.Fatalf("ByKey: got %v, %+v, %v", got, k, ok)
	}
	if p := got.Record.KeyPrincipal(k); p.Kind != tenant.KindBot || p.ID != "bot" || p.KeyID != "two" {
		t.Errorf("principal: %+v", p)
	}
	for what, edit := range map[string]func(*tenant.Record){"an API key": Key("one"), "another bot's key": BotKey("robot", "one")} {
		_, err := r.CreateTenant(t.Context(), Record("beta", edit), Entry("", "tenant.create"))
		WantKind(t, what+" with the hash of a bot's key", err, fault.Conflict)
	}
	if _, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error { rec.Bots, rec.Keys = nil, rec.Keys[:0]; return nil }, Entry("alpha", "bot.delete")); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := r.Index().ByKey(tenant.HashKey("one")); ok {
		t.Error("the key of a deleted bot is known")
	}
	Create(t, r, "beta", Key("one")) // free again
}

// testNewerWords: what a newer version wrote breaks no reader of this one and grants nothing that this one cannot judge,
// and an update by this one leaves it as it was.
func testNewerWords(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Create(t, r, "alpha", Key("plain"), BotKey("bot", "botkey"), func(rec *tenant.Record) {
		rec.Authenticators = []tenant.Authenticator{
			{Name: "sso", Type: tenant.AuthnOIDC, DefaultRole: tenant.Viewer, OIDC: &tenant.OIDC{Issuer: "https://sso.example.com"}},
			{Name: "two", Type: tenant.AuthnOIDC, OIDC: &tenant.OIDC{Issuer: "https://two.example.com"}}}
		rec.Members = []tenant.Member{{ID: "m", Kind: tenant.MemberGroup, Authenticator: "sso", Name: "ops", Role: tenant.Admin}}
	})
	var next map[string]any
	if err := json.Unmarshal(Dump(t, b)["x/alpha"].Value, &next); err != nil {
		t.Fatal(err)
	}
	one := func(list string, i int) map[string]any { return next[list].([]any)[i].(map[string]any) }
	one("keys", 0)["role"], one("bots", 0)["role"], one("keys", 1)["role"] = "auditor", "steward", "steward"
	one("members", 0)["role"], one("authenticators", 0)["default_role"], one("authenticators", 1)["colour"] = 7, "guest", "blue"
	next["share"] = map[string]any{"of": 3}
	put := func() {
		t.Helper()
		val, err := json.Marshal(next)
		if err != nil {
			t.Fatal(err)
		}
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "x/alpha", Value: val}}})
	}
	put()
	var e *tenant.Entry
	Eventually(t, "the record is read", func() bool {
		e, _ = r.Index().ByID("alpha")
		return e != nil && e.Record.Members[0].Role != tenant.Admin
	})
	rec := e.Record
	for what, role := range map[string]tenant.Role{
		"key": rec.Keys[0].Role, "bot": rec.Bots[0].Role, "bot's key": rec.Keys[1].Role, "member": rec.Members[0].Role,
		"default": rec.Authenticators[0].DefaultRole, "group": rec.RoleOf("sso", "x", []string{"ops"}),
	} {
		if role != tenant.NoRole {
			t.Errorf("an unknown role of a %s is %v, want none", what, role)
		}
	}
	_, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error {
		rec.DisplayName, rec.Authenticators[0].OIDC.Issuer = "A", "https://sso2.example.com"
		return nil
	}, Entry("alpha", "tenant.update"))
	if err != nil {
		t.Fatalf("an update of a record with roles that are not known: %v", err)
	}
	got := string(Dump(t, b)["x/alpha"].Value)
	for _, want := range []string{`"role":"auditor"`, `"role":"steward"`, `"role":7`, `"default_role":"guest"`, `"colour":"blue"`, `"share":{"of":3}`, `"display_name":"A"`, "sso2"} {
		if !strings.Contains(got, want) {
			t.Errorf("after an update %s is missing from %s", want, got)
		}
	}
	if strings.Contains(got, `"none"`) {
		t.Errorf("an update wrote a role of none: %s", got)
	}
	_, err = r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error {
		rec.Keys = append(rec.Keys, tenant.Key{ID: "x", Name: "x", Hash: tenant.HashKey("x"), Source: tenant.SourceAPI})
		return nil
	}, Entry("alpha", "key.create"))
	WantKind(t, "a new key without a role", err, fault.Invalid)
	e, err = r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error { rec.Members[0].Role = tenant.Editor; return nil }, Entry("alpha", "member.update"))
	if err != nil || e.Record.Members[0].Role != tenant.Editor {
		t.Errorf("a role that is not known cannot be replaced: %v", err)
	}

	for field, word := range map[string]any{"state": "frozen", "mode": "mirrored", "tls": map[string]any{"min_version": "1.4"}} {
		was := next[field]
		next[field] = word
		put()
		Eventually(t, "a tenant whose "+field+" is not known is not served", func() bool {
			e, _ := r.Index().ByID("alpha")
			return e != nil && e.Record.State == tenant.StateSuspended && e.Record.SuspendReason != ""
		})
		next[field] = was
		put()
		Eventually(t, "it is served again", func() bool { e, _ := r.Index().ByID("alpha"); return e != nil && e.Record.State == tenant.StateActive })
	}
	for field, word := range map[string]any{
		"state": "frozen", "mode": "mirrored", "tls": map[string]any{"min_version": "1.4"}, "certificates": map[string]any{"source": "moon"},
	} {
		was := next[field]
		next[field] = word
		put()
		if _, err := r.UpdateTenant(t.Context(), "alpha", 0, setName("B "+field), Entry("alpha", "tenant.update")); err != nil {
			t.Errorf("update of a tenant whose %s is not known: %v", field, err)
		}
		want, _ := json.Marshal(map[string]any{field: word})
		if got := string(Dump(t, b)["x/alpha"].Value); !strings.Contains(got, strings.Trim(string(want), "{}")) || strings.Contains(got, "suspend_reason") {
			t.Errorf("an update changed a %s that is not known: %s", field, got)
		}
		next[field] = was
	}
	put()
	bad := func(rec *tenant.Record) error { rec.Mode = "mirrored"; return nil }
	_, err = r.UpdateTenant(t.Context(), "alpha", 0, bad, Entry("alpha", "tenant.update"))
	WantKind(t, "a mode that is not known and was not there", err, fault.Invalid)
}

// testLeftSettings: a version that does not know passthrough changes the mode away and keeps its settings. They mean nothing
// then, and do not keep anybody from changing the tenant, nor from making it passthrough again.
func testLeftSettings(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Create(t, r, "alpha", func(rec *tenant.Record) {
		rec.Mode, rec.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: "192.0.2.1:443"}
	})
	val := string(Dump(t, b)["x/alpha"].Value)
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("x/alpha", strings.Replace(val, `"mode":"passthrough"`, `"mode":"virtual"`, 1))}})
	Eventually(t, "the settings mean nothing", func() bool {
		e, _ := r.Index().ByID("alpha")
		return e != nil && e.Record.Mode == tenant.ModeVirtual && e.Record.Passthrough == nil
	})
	if _, err := r.UpdateTenant(t.Context(), "alpha", 0, setName("B"), Entry("alpha", "tenant.update")); err != nil {
		t.Errorf("an update beside settings that an older version left: %v", err)
	}
	e, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error {
		rec.Mode, rec.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: "192.0.2.2:443"}
		return nil
	}, Entry("alpha", "tenant.update"))
	if err != nil || e.Record.Passthrough == nil || !strings.Contains(string(Dump(t, b)["x/alpha"].Value), "192.0.2.2:443") {
		t.Errorf("passthrough again: %+v, %v", e, err)
	}
}
