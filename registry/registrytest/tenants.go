package registrytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

func setName(name string) func(*tenant.Record) error {
	return func(r *tenant.Record) error { r.DisplayName = name; return nil }
}

// testTenants is the life of a tenant as the replica that changes it, and another one, see it.
func testTenants(t *testing.T, b Backend) {
	r, other := Start(t, b, "r1"), Start(t, b, "r2")
	e := Create(t, r, "alpha", Host("www.alpha.com"), Key("k1"))
	if e.Record.UID == "" || e.Record.V != tenant.RecordVersion || e.Record.Created.IsZero() || e.Record.Revision == 0 {
		t.Errorf("created: got %+v", e.Record)
	}
	for name, f := range map[string]func() (*tenant.Entry, bool){
		"own host":    func() (*tenant.Entry, bool) { return r.Index().ByHost("alpha." + BaseDomain) },
		"custom host": func() (*tenant.Entry, bool) { return r.Index().ByHost("www.alpha.com") },
		"id":          func() (*tenant.Entry, bool) { return r.Index().ByID("alpha") },
		"key": func() (*tenant.Entry, bool) {
			e, k, ok := r.Index().ByKey(tenant.HashKey("k1"))
			return e, ok && k.Name == "k1"
		},
	} {
		if got, ok := f(); !ok || got.Scope != e.Scope || got.Record.Revision != e.Record.Revision {
			t.Errorf("by %s after CreateTenant: got %v, %v", name, got, ok)
		}
	}
	u, err := r.UpdateTenant(t.Context(), "alpha", e.Record.Revision, func(rec *tenant.Record) error {
		rec.Hosts, rec.Keys, rec.UID, rec.ID = []string{"new.alpha.com"}, nil, "forged", "forged"
		return nil
	}, Entry("alpha", "tenant.update"))
	if err != nil || u.Scope != e.Scope || u.Record.Revision <= e.Record.Revision || !u.Record.Updated.After(u.Record.Created) {
		t.Fatalf("UpdateTenant: got %+v, %v", u, err)
	}
	if _, ok := r.Index().ByHost("www.alpha.com"); ok {
		t.Error("a host that was removed is still routed")
	}
	if _, _, ok := r.Index().ByKey(tenant.HashKey("k1")); ok {
		t.Error("a key that was removed is still known")
	}
	Create(t, r, "bolt", Host("www.alpha.com"), Key("k1")) // free again

	_, err = r.UpdateTenant(t.Context(), "alpha", e.Record.Revision, setName("x"), Entry("alpha", "tenant.update"))
	WantKind(t, "update of an old revision", err, fault.PreconditionFailed)
	before := Dump(t, b)
	same, err := r.UpdateTenant(t.Context(), "alpha", 0, func(*tenant.Record) error { return nil }, Entry("alpha", "tenant.update"))
	if err != nil || same.Record.Revision != u.Record.Revision || len(Dump(t, b)) != len(before) {
		t.Errorf("an edit that changes nothing: got %+v, %v", same, err)
	}
	sentinel := errors.New("no")
	if _, err = r.UpdateTenant(t.Context(), "alpha", 0, func(*tenant.Record) error { return sentinel }, Entry("alpha", "tenant.update")); !errors.Is(err, sentinel) {
		t.Errorf("an edit that fails: got %v", err)
	}
	_, err = r.UpdateTenant(t.Context(), "none", 0, setName("x"), Entry("none", "tenant.update"))
	WantKind(t, "update of nobody", err, fault.NotFound)
	WantKind(t, "delete of nobody", r.DeleteTenant(t.Context(), "none", 0, Entry("none", "tenant.delete")), fault.NotFound)
	WantKind(t, "delete of an old revision", r.DeleteTenant(t.Context(), "alpha", e.Record.Revision, Entry("alpha", "tenant.delete")), fault.PreconditionFailed)
	if err := r.DeleteTenant(t.Context(), "alpha", u.Record.Revision, Entry("alpha", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	if _, ok := r.Index().ByHost("new.alpha.com"); ok || r.Index().Len() != 1 {
		t.Error("a deleted tenant is still routed")
	}
	Eventually(t, "the other replica sees the same", func() bool {
		_, ok := other.Index().ByHost("www.alpha.com")
		return ok && other.Index().Len() == 1
	})
}

// testConflicts: a name in use is refused, and the refusal does not say by whom.
func testConflicts(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Create(t, r, "owner", Host("www.example.com"), Key("k1"))
	Create(t, r, "other")
	for _, c := range []struct {
		what string
		edit func(*tenant.Record)
	}{
		{"host", Host("www.example.com")},
		{"key", Key("k1")},
	} {
		_, err := r.CreateTenant(t.Context(), Record("third", c.edit), Entry("", "tenant.create"))
		WantKind(t, "create with a "+c.what+" in use", err, fault.Conflict)
		if strings.Contains(fmt.Sprint(err), "owner") {
			t.Errorf("%s: the refusal names the other tenant: %v", c.what, err)
		}
		_, err = r.UpdateTenant(t.Context(), "other", 0, func(rec *tenant.Record) error { c.edit(rec); return nil }, Entry("other", "tenant.update"))
		WantKind(t, "update to a "+c.what+" in use", err, fault.Conflict)
	}
	_, err := r.CreateTenant(t.Context(), Record("owner"), Entry("", "tenant.create"))
	WantKind(t, "create of an id in use", err, fault.Conflict)
	_, err = r.CreateTenant(t.Context(), Record("bad..id"), Entry("", "tenant.create"))
	WantKind(t, "create of a bad id", err, fault.Invalid)
	_, err = r.CreateTenant(t.Context(), Record("fine", Host("x."+BaseDomain)), Entry("", "tenant.create"))
	WantKind(t, "create with a host of the platform's", err, fault.Invalid)
	if n := r.Index().Len(); n != 2 {
		t.Errorf("after refusals there are %d tenants, want 2", n)
	}
}

// testRaces: of many that want one name, one gets it; of many updates, none is lost.
func testRaces(t *testing.T, b Backend) {
	replicas := []*Replica{Start(t, b, "r1"), Start(t, b, "r2")}
	const n = 16
	each := func(f func(i int, r *Replica) error) int {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				switch err := f(i, replicas[i%2]); {
				case err == nil:
					won.Add(1)
				case !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.PreconditionFailed):
					t.Errorf("race %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		return int(won.Load())
	}
	create := func(edit func(*tenant.Record), id func(i int) string) func(i int, r *Replica) error {
		return func(i int, r *Replica) error {
			_, err := r.CreateTenant(t.Context(), Record(id(i), edit), Entry("", "tenant.create"))
			return err
		}
	}
	if won := each(create(Host("one.example.com"), func(i int) string { return fmt.Sprint("h", i) })); won != 1 {
		t.Errorf("%d tenants got one host", won)
	}
	if won := each(create(Key("one"), func(i int) string { return fmt.Sprint("k", i) })); won != 1 {
		t.Errorf("%d tenants got one key", won)
	}
	if won := each(create(func(*tenant.Record) {}, func(int) string { return "same" })); won != 1 {
		t.Errorf("%d tenants got one id", won)
	}
	if won := each(func(i int, r *Replica) error {
		_, err := r.UpdateTenant(t.Context(), "same", 0, func(rec *tenant.Record) error {
			rec.Hosts = append(rec.Hosts, fmt.Sprintf("h%d.example.org", i))
			return nil
		}, Entry("same", "tenant.update"))
		return err
	}); won != n {
		t.Errorf("%d of %d updates won", won, n)
	}
	e, _ := replicas[0].Index().ByID("same")
	Eventually(t, "no update is lost", func() bool {
		e, _ = replicas[0].Index().ByID("same")
		return len(e.Record.Hosts) == n
	})
	if won := each(func(i int, r *Replica) error {
		_, err := r.UpdateTenant(t.Context(), "same", e.Record.Revision, setName(fmt.Sprint("n", i)), Entry("same", "tenant.update"))
		return err
	}); won != 1 {
		t.Errorf("%d updates of one revision won", won)
	}
}

// testVersions: two versions of the program run side by side.
func testVersions(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Create(t, r, "alpha", Key("k1"), Key("k2"))
	kv := Dump(t, b)["x/alpha"]
	if !bytes.HasPrefix(kv.Value, []byte(`{"v":1,`)) {
		t.Errorf("a record does not begin with its version: %s", kv.Value)
	}
	var next map[string]any
	if err := json.Unmarshal(kv.Value, &next); err != nil {
		t.Fatal(err)
	}
	next["v"], next["colour"], next["quotas"] = tenant.RecordVersion+1, "blue", map[string]any{"bytes_per_day": 12345678901234567}
	next["keys"].([]any)[1].(map[string]any)["expires"] = "2030-01-01T00:00:00Z"
	val, _ := json.Marshal(next)
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "x/alpha", Value: val}}})
	e, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error {
		rec.Keys = rec.Keys[1:]
		rec.Quotas.MaxServers = 3
		return nil
	}, Entry("alpha", "tenant.update"))
	if err != nil || len(e.Record.Keys) != 1 || e.Record.V != tenant.RecordVersion+1 {
		t.Fatalf("update of a newer record: got %+v, %v", e, err)
	}
	got := string(Dump(t, b)["x/alpha"].Value)
	for _, want := range []string{`{"v":2,`, `"colour":"blue"`, `"bytes_per_day":12345678901234567`, `"max_servers":3`, `"expires":"2030-01-01T00:00:00Z"`} {
		if !strings.Contains(got, want) {
			t.Errorf("after an update by this version, %s is missing from %s", want, got)
		}
	}
	next["v"] = tenant.RecordVersion + 2
	val, _ = json.Marshal(next)
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: "x/alpha", Value: val}}})
	Eventually(t, "a record that is too new is not served", func() bool { _, ok := r.Index().ByID("alpha"); return !ok })
	if _, err := r.UpdateTenant(t.Context(), "alpha", 0, setName("x"), Entry("alpha", "tenant.update")); err == nil {
		t.Error("a record that is too new was changed")
	}
}

// testPrefixBleed: the keys of t1 are not those of t10 (X37).
func testPrefixBleed(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	claims := map[string]*registry.Claim{}
	for _, id := range []string{"t1", "t10", "t1-0", "t"} {
		claims[id] = Claim(t, r, Create(t, r, id, Host(id+".example.com")).Scope)
		Write(t, claims[id], "server", "s", `"`+id+`"`)
		Write(t, claims[id], "servers", "s", `"`+id+`"`)
	}
	for id, c := range claims {
		if got, want := Objects(t, c, "server"), []string{`s="` + id + `"`}; !slices.Equal(got, want) {
			t.Errorf("state of %s: got %v, want %v", id, got, want)
		}
	}
	if err := r.DeleteTenant(t.Context(), "t1", 0, Entry("t1", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	for _, id := range []string{"t10", "t1-0", "t"} {
		if got := Objects(t, claims[id], "server"); len(got) != 1 {
			t.Errorf("after t1 was deleted, the state of %s is %v", id, got)
		}
		if _, ok := r.Index().ByHost(id + ".example.com"); !ok {
			t.Errorf("after t1 was deleted, %s has no host", id)
		}
	}
	for _, id := range []string{"a/../b", "a%2fb", "tenänt", strings.Repeat("a", 253), "", "x/", "../x"} {
		_, err := r.CreateTenant(t.Context(), Record(id), Entry("", "tenant.create"))
		WantKind(t, fmt.Sprintf("create %q", id), err, fault.Invalid)
		err = claims["t10"].Commit(t.Context(), Entry("t10", "server.create"), tenant.Write{Kind: "server", ID: "../../t1/server/" + id, Value: []byte("{}")})
		WantKind(t, fmt.Sprintf("write of %q", id), err, fault.Invalid)
		err = claims["t10"].Commit(t.Context(), Entry("t10", "server.create"), tenant.Write{Kind: "../t1/server", ID: "s", Value: []byte("{}")})
		WantKind(t, "write of a foreign kind", err, fault.Invalid)
	}
}

// testErased: after a deletion nothing in the store names the tenant, but its audit chain.
func testErased(t *testing.T, b Backend) {
	r, other := Start(t, b, "r1"), Start(t, b, "r2")
	e := Create(t, r, "gone", Host("www.gone.com"), Key("secret"))
	Create(t, r, "stays", Host("www.stays.com"))
	c := Claim(t, other, e.Scope)
	for i := range 30 {
		Write(t, c, fmt.Sprintf("kind%c", 'a'+i%3), fmt.Sprint("o", i), `{"v":1,"of":"gone"}`)
	}
	if err := r.DeleteTenant(t.Context(), "gone", 0, Entry("gone", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	hash := strings.TrimPrefix(tenant.HashKey("secret").String(), "sha256:")
	audits := 0
	for k, kv := range Dump(t, b) {
		if strings.HasPrefix(k, "a/gone/") {
			audits++
			continue
		}
		for _, trace := range []string{"gone", hash, e.Record.UID} {
			if !strings.HasPrefix(k, "a/") && (strings.Contains(k, trace) || bytes.Contains(kv.Value, []byte(trace))) {
				t.Errorf("after the deletion %s = %s holds %q", k, kv.Value, trace)
			}
		}
	}
	if audits != 31 {
		t.Errorf("%d audit entries of the tenant remain, want 31", audits)
	}
	WaitLost(t, c)
	WantKind(t, "commit to a deleted tenant", c.Commit(t.Context(), Entry("gone", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")}), fault.Unavailable)
	_, err := other.Claim(t.Context(), e.Scope)
	WantKind(t, "claim of a deleted tenant", err, fault.NotFound)
}

// testReborn: a tenant that is made again under an old id is another one (X41).
func testReborn(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, other := Start(t, b, "r1"), Start(t, faulty, "r2")
	old := Create(t, r, "phoenix", Key("old"))
	Eventually(t, "the other replica knows the tenant", func() bool { _, ok := other.Index().ByID("phoenix"); return ok })
	c := Claim(t, other, old.Scope)
	Write(t, c, "server", "s", `"old"`)
	faulty.Deafen(true) // so that it does not hear of the end
	if err := r.DeleteTenant(t.Context(), "phoenix", 0, Entry("phoenix", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	reborn := Create(t, r, "phoenix", Key("new"))
	if reborn.Record.UID == old.Record.UID || reborn.Scope == old.Scope {
		t.Error("the new tenant is the old one")
	}
	nc := Claim(t, r, reborn.Scope)
	if got := Objects(t, nc, "server"); len(got) != 0 {
		t.Errorf("the new tenant finds %v of the old one", got)
	}
	Write(t, nc, "server", "s", `"new"`)
	if objs, err := c.Load(t.Context(), "server"); err == nil {
		t.Errorf("the old claim reads %v", objs)
	}
	if _, _, ok := r.Index().ByKey(tenant.HashKey("old")); ok {
		t.Error("the old tenant's key is known")
	}
	_, err := r.Claim(t.Context(), old.Scope)
	WantKind(t, "claim with the old scope", err, fault.NotFound)
	if got, want := Objects(t, nc, "server"), []string{`s="new"`}; !slices.Equal(got, want) {
		t.Errorf("state of the new tenant: got %v, want %v", got, want)
	}
}

// testNoRecord: no record, no change; and a change's record is committed with it.
func testNoRecord(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	e := Create(t, r, "alpha")
	c := Claim(t, r, e.Scope)
	before := Dump(t, b)
	foreign := Entry("other", "tenant.update")
	for name, entry := range map[string]audit.Entry{"empty": {}, "no action": {ID: "x"}, "no id": {Action: "x"}, "bad id": {ID: "a/b", Action: "x"}, "foreign": foreign} {
		_, err := r.CreateTenant(t.Context(), Record("beta"), entry)
		WantKind(t, name+": create", err, fault.Internal)
		_, err = r.UpdateTenant(t.Context(), "alpha", 0, setName("x"), entry)
		WantKind(t, name+": update", err, fault.Internal)
		WantKind(t, name+": delete", r.DeleteTenant(t.Context(), "alpha", 0, entry), fault.Internal)
		WantKind(t, name+": commit", c.Commit(t.Context(), entry, tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")}), fault.Internal)
	}
	after := Dump(t, b)
	for k, kv := range after {
		if before[k].ModRevision != kv.ModRevision && !strings.HasPrefix(k, "n/") {
			t.Errorf("a change without a record changed %s", k)
		}
	}
	entry := Entry("alpha", "server.create")
	if err := c.Commit(t.Context(), entry, tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")}); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	d := Dump(t, b)
	a, s := d["a/alpha/"+entry.ID], d["t/alpha/server/s"]
	if a.ModRevision == 0 || a.ModRevision != s.ModRevision {
		t.Errorf("the record is of revision %d, its change of %d", a.ModRevision, s.ModRevision)
	}
	err := c.Commit(t.Context(), entry, tenant.Write{Kind: "server", ID: "s2", Value: []byte("{}")})
	WantKind(t, "a record used for a second change", err, fault.Internal)
	if c.Context().Err() != nil {
		t.Error("a refused commit ended the claim")
	}
}
