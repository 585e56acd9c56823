package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
)

// Keep commits a batch that puts values: key, value, key, value.
func Keep(t testing.TB, r *Replica, o vault.Owner, kvs ...string) int64 {
	t.Helper()
	var b vault.Batch
	for i := 0; i < len(kvs); i += 2 {
		b.Puts = append(b.Puts, vault.Put{Key: kvs[i], Value: []byte(kvs[i+1])})
	}
	rev, err := r.Vault().Commit(t.Context(), o, b)
	if err != nil {
		t.Fatalf("Commit(%q) of %s: %v", kvs, o.Segment(), err)
	}
	return rev
}

// Kept returns key=value of all that an owner has below a prefix.
func Kept(t testing.TB, r *Replica, o vault.Owner, prefix string) []string {
	t.Helper()
	items, more, err := r.Vault().List(t.Context(), o, prefix, "", 0)
	if err != nil || more {
		t.Fatalf("List(%q) of %s: more=%v, %v", prefix, o.Segment(), more, err)
	}
	out := make([]string, 0, len(items))
	for _, it := range items {
		out = append(out, it.Key+"="+string(it.Value))
	}
	return out
}

func wantKept(t *testing.T, what string, r *Replica, o vault.Owner, prefix string, want ...string) {
	t.Helper()
	if got := Kept(t, r, o, prefix); !slices.Equal(got, want) && len(got)+len(want) > 0 {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// testVault: what is put is read, by any replica, and changed under conditions.
func testVault(t *testing.T, b Backend) {
	r, other := Start(t, b, "r1"), Start(t, b, "r2")
	e := Create(t, r, "alpha")
	for _, o := range []vault.Owner{{}, vault.Of(e.Scope)} {
		_, err := r.Vault().Get(t.Context(), o, "host/a.example.com")
		WantKind(t, "Get of nothing", err, fault.NotFound)
		before := time.Now().Add(-time.Second)
		rev := Keep(t, r, o, "host/a.example.com", "one", "host/b.example.com", "two")
		it, err := other.Vault().Get(t.Context(), o, "host/a.example.com")
		if err != nil || string(it.Value) != "one" || it.Revision != rev || it.Key != "host/a.example.com" ||
			it.Modified.Before(before) || it.Modified.After(time.Now().Add(time.Second)) {
			t.Errorf("Get: %+v, %v; want the revision %d", it, err, rev)
		}
		it, also, err := other.Vault().GetWith(t.Context(), o, "host/b.example.com", "host/a.example.com")
		if err != nil || string(it.Value) != "two" || string(also.Value) != "one" || also.Revision != rev {
			t.Errorf("GetWith: %+v, %+v, %v", it, also, err)
		}
		it, also, err = other.Vault().GetWith(t.Context(), o, "host/b.example.com", "none")
		if err != nil || string(it.Value) != "two" || also.Revision != 0 {
			t.Errorf("GetWith nothing: %+v, %+v, %v", it, also, err)
		}
		swap := func(rev int64, value string) error {
			_, err := other.Vault().Commit(t.Context(), o, vault.Batch{
				If:   []vault.Compare{{Key: "host/a.example.com", Revision: rev}},
				Puts: []vault.Put{{Key: "host/a.example.com", Value: []byte(value)}},
			})
			return err
		}
		if err := swap(rev, "three"); err != nil {
			t.Errorf("swap: %v", err)
		}
		WantKind(t, "swap of an old revision", swap(rev, "four"), fault.PreconditionFailed)
		WantKind(t, "creation of what exists", swap(0, "four"), fault.PreconditionFailed)
		wantKept(t, "after the swaps", r, o, "", "host/a.example.com=three", "host/b.example.com=two")
		entry := Entry(e.Record.ID, "certificate.remove")
		if o.Platform() {
			entry.Tenant = ""
		}
		_, err = r.Vault().Commit(t.Context(), o, vault.Batch{Deletes: []string{"host/b.example.com", "none"}, Trees: []string{"none"},
			Puts: []vault.Put{{Key: "x", Value: nil}}, Audit: &entry})
		if err != nil {
			t.Errorf("Commit: %v", err)
		}
		wantKept(t, "after the deletion", r, o, "", "host/a.example.com=three", "x=")
		if kv, ok := Dump(t, b)["a/"+entry.Chain()+"/"+entry.ID]; !ok || !o.Platform() && !strings.Contains(string(kv.Value), e.Record.UID) {
			t.Errorf("the change has no record that names the tenant: %s", kv.Value)
		}
		_, err = r.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: "again"}}, Audit: &entry})
		WantKind(t, "an entry that is in use", err, fault.Internal)
	}
	if first, again := r.Vault(), r.Vault(); first != again {
		t.Error("a store has two vaults, whose locks do not know each other")
	}
}

// testVaultList: prefixes are whole segments; pages are of one moment each, and none reaches beyond its owner.
func testVaultList(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	o := vault.Of(Create(t, r, "alpha").Scope)
	Keep(t, r, vault.Owner{}, "a/platform", "p")
	Keep(t, r, o, "a/1", "", "a/2", "", "a/b/3", "", "a", "", "a-b", "", "ab/4", "", "b", "")
	list := func(prefix, after string, limit int) string {
		items, more, err := r.Vault().List(t.Context(), o, prefix, after, limit)
		if err != nil {
			t.Fatalf("List(%q, %q): %v", prefix, after, err)
		}
		var keys []string
		for _, it := range items {
			keys = append(keys, it.Key)
		}
		if more {
			keys = append(keys, "…")
		}
		return strings.Join(keys, " ")
	}
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 0, "a a-b a/1 a/2 a/b/3 ab/4 b"},
		{"", "", 2, "a a-b …"},
		{"", "a-b", 2, "a/1 a/2 …"},
		{"", "ab/4", 2, "b"},
		{"", "b", 2, ""},
		{"a", "", 0, "a/1 a/2 a/b/3"},
		{"a", "", 3, "a/1 a/2 a/b/3"},
		{"a", "a/1", 1, "a/2 …"},
		{"a", "a", 0, "a/1 a/2 a/b/3"},
		{"a", "a-b", 0, "a/1 a/2 a/b/3"},
		{"a", "ab/4", 0, ""},
		{"a/b", "", 0, "a/b/3"},
		{"a/b", "a/1", 0, "a/b/3"},
		{"ab", "a/1", 0, "ab/4"},
		{"z", "", 0, ""},
		{"z", "a", 0, ""},
	} {
		if got := list(c.prefix, c.after, c.limit); got != c.want {
			t.Errorf("List(%q, %q, %d): got %q, want %q", c.prefix, c.after, c.limit, got, c.want)
		}
	}
	if _, err := r.Vault().Commit(t.Context(), o, vault.Batch{Trees: []string{"a"}}); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	if got, want := list("", "", 0), "a-b ab/4 b"; got != want {
		t.Errorf("after the tree a is gone: got %q, want %q", got, want)
	}
	wantKept(t, "the platform's", r, vault.Owner{}, "", "a/platform=p")
}

// testVaultRefused: what cannot be is said before anything is done.
func testVaultRefused(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	o := vault.Of(Create(t, r, "alpha").Scope)
	put := func(k string) []vault.Put { return []vault.Put{{Key: k, Value: []byte("x")}} }
	var names []string
	for _, k := range []string{"", "/", "a/", "/a", "a//b", "a\x00b", "a\n", "\xff", strings.Repeat("k", 2000)} {
		names = append(names, k)
		_, err := r.Vault().Get(t.Context(), o, k)
		WantKind(t, fmt.Sprintf("Get(%.20q)", k), err, fault.Invalid)
		if _, _, err = r.Vault().TryLock(t.Context(), k); err == nil {
			t.Errorf("TryLock(%.20q) succeeds", k)
		}
	}
	batches := map[string]vault.Batch{
		"the same twice":      {Puts: append(put("a"), put("a")...)},
		"put and deleted":     {Puts: put("a"), Deletes: []string{"a"}},
		"put in a dead tree":  {Puts: put("a/b"), Trees: []string{"a"}},
		"put on a dead tree":  {Puts: put("a"), Trees: []string{"a"}},
		"moved twice":         {Moves: []vault.Move{{Name: "a", To: time.Now()}, {Name: "a", To: time.Now()}}},
		"a name of two parts": {Moves: []vault.Move{{Name: "a/b", To: time.Now()}}},
		"a lock never taken":  {Fences: []vault.Lock{{Name: "a"}}, Puts: put("a")},
	}
	for _, k := range names {
		batches[fmt.Sprintf("put %.20q", k)] = vault.Batch{Puts: put(k)}
		batches[fmt.Sprintf("delete %.20q", k)] = vault.Batch{Deletes: []string{k}}
		batches[fmt.Sprintf("tree %.20q", k)] = vault.Batch{Trees: []string{k}}
		batches[fmt.Sprintf("if %.20q", k)] = vault.Batch{If: []vault.Compare{{Key: k}}}
	}
	for what, batch := range batches {
		_, err := r.Vault().Commit(t.Context(), o, batch)
		WantKind(t, what, err, fault.Invalid)
	}
	var many vault.Batch
	for i := range 130 {
		many.Deletes = append(many.Deletes, fmt.Sprint("k", i))
	}
	_, err := r.Vault().Commit(t.Context(), o, many)
	WantKind(t, "more than etcd takes", err, fault.TooLarge)
	_, err = r.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: "a", Value: make([]byte, registry.MaxValue)}}})
	WantKind(t, "a value that is too large", err, fault.TooLarge)
	foreign := Entry("beta", "certificate.import")
	_, err = r.Vault().Commit(t.Context(), o, vault.Batch{Puts: put("a"), Audit: &foreign})
	WantKind(t, "a record of another tenant", err, fault.Internal)
	_, err = r.Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Puts: put("a"), Audit: &foreign})
	WantKind(t, "a tenant's record of a change of the platform's", err, fault.Internal)
	for _, id := range []tenant.ID{"", "_", "a/b"} {
		_, err := r.Vault().Commit(t.Context(), vault.Of(tenant.Confine(id, "uid")), vault.Batch{Puts: put("a")})
		WantKind(t, fmt.Sprintf("a tenant %q", id), err, fault.Invalid)
	}
	for _, scope := range []tenant.Scope{{}, tenant.Confine("alpha", "")} { // one that somebody forgot is not the platform
		o := vault.Of(scope)
		_, err := r.Vault().Commit(t.Context(), o, vault.Batch{Puts: put("a")})
		WantKind(t, "Commit for a scope that nobody confined", err, fault.Invalid)
		_, err = r.Vault().Get(t.Context(), o, "a")
		WantKind(t, "Get for a scope that nobody confined", err, fault.Invalid)
		_, _, err = r.Vault().List(t.Context(), o, "", "", 0)
		WantKind(t, "List for a scope that nobody confined", err, fault.Invalid)
	}
	wantKept(t, "after all that", r, o, "")
	wantKept(t, "the platform's", r, vault.Owner{}, "")
	for _, k := range []string{"lock/x", "due/x", "lane/x"} {
		WantKind(t, "platform data "+k, r.Platform().Put(t.Context(), k, []byte("x"), 0), fault.Invalid)
	}
}

// testVaultPrefix: what is of t1 is not of t10, in listings, in trees and when a tenant goes (X37).
func testVaultPrefix(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	owners := map[string]vault.Owner{"_": {}}
	for _, id := range []string{"t1", "t10", "t1-0", "t"} {
		owners[id] = vault.Of(Create(t, r, id).Scope)
	}
	for id, o := range owners {
		Keep(t, r, o, "host/x", id, "host/xy", id, "hosts/x", id)
	}
	for id, o := range owners {
		wantKept(t, "host of "+id, r, o, "host", "host/x="+id, "host/xy="+id)
	}
	if _, err := r.Vault().Commit(t.Context(), owners["t1"], vault.Batch{Trees: []string{"host/x"}}); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantKept(t, "t1 without host/x", r, owners["t1"], "", "host/xy=t1", "hosts/x=t1")
	if err := r.DeleteTenant(t.Context(), "t1", 0, Entry("t1", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	for id, o := range owners {
		if id != "t1" {
			wantKept(t, "after t1 is gone, "+id, r, o, "", "host/x="+id, "host/xy="+id, "hosts/x="+id)
		}
	}
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "v/t1/") {
			t.Errorf("after t1 is gone there is %s", k)
		}
	}
}

// testVaultReborn: nothing of a tenant that is gone is read, written or comes back under its id (X41).
func testVaultReborn(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r, other := Start(t, trap, "r1"), Start(t, b, "r2")
	old := vault.Of(Create(t, r, "phoenix").Scope)
	Keep(t, r, old, "dek", "old")
	again := func() vault.Owner {
		if err := other.DeleteTenant(t.Context(), "phoenix", 0, Entry("", "tenant.delete")); err != nil {
			t.Errorf("DeleteTenant: %v", err)
		}
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("v/phoenix/left", "by something else than DeleteTenant")}})
		return vault.Of(Create(t, other, "phoenix").Scope)
	}
	reborn := again()
	wantKept(t, "what the new tenant finds", r, reborn, "")
	Keep(t, r, reborn, "dek", "new")
	commit := func(o vault.Owner) error {
		_, err := r.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: "dek", Value: []byte("old")}}})
		return err
	}
	_, err := r.Vault().Get(t.Context(), old, "dek")
	WantKind(t, "Get of the old tenant", err, fault.NotFound)
	_, _, err = r.Vault().List(t.Context(), old, "", "", 0)
	WantKind(t, "List of the old tenant", err, fault.NotFound)
	WantKind(t, "Commit of the old tenant", commit(old), fault.NotFound)
	wantKept(t, "the new tenant's", r, reborn, "", "dek=new")

	var next vault.Owner
	trap.Lay("v/phoenix/", func(_ context.Context, do func() error) error { next = again(); return do() })
	WantKind(t, "a commit in a race with its tenant's end", commit(reborn), fault.NotFound)
	wantKept(t, "the newest tenant's", r, next, "")
	if err := other.DeleteTenant(t.Context(), "phoenix", 0, Entry("", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	WantKind(t, "Commit of a tenant that is gone", commit(next), fault.NotFound)
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "v/") {
			t.Errorf("after the deletion there is %s", k)
		}
	}
}

// testVaultNewer: a value of the next version is read, one of a later version is not taken for what it is not.
func testVaultNewer(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	Keep(t, r, vault.Owner{}, "k", "one")
	val := string(Dump(t, b)["v/_/k"].Value)
	if !strings.HasPrefix(val, `{"v":1,"m":"`) {
		t.Errorf("a value does not begin with its version: %s", val)
	}
	for v, ok := range map[string]bool{"2": true, "3": false, "0": false} {
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("v/_/k", strings.Replace(val, `"v":1`, `"new":true,"v":`+v, 1))}})
		it, err := r.Vault().Get(t.Context(), vault.Owner{}, "k")
		if (err == nil) != ok || ok && string(it.Value) != "one" {
			t.Errorf("version %s: %q, %v", v, it.Value, err)
		}
	}
}

// testVaultFormer: a version that knows no vault deletes a tenant and makes it again. Nothing of the former one is seen, and
// it is not in the way (X41).
func testVaultFormer(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	former, near := vault.Of(Create(t, r, "alpha").Scope), vault.Of(Create(t, r, "alpha1").Scope)
	Keep(t, r, near, "dek", "near")
	const n = 150
	for i := 0; i < n; i += 50 {
		var c vault.Batch
		for j := range 50 {
			c.Puts = append(c.Puts, vault.Put{Key: fmt.Sprint("h/", i+j), Value: []byte("former")})
		}
		if _, err := r.Vault().Commit(t.Context(), former, c); err != nil {
			t.Fatal(err)
		}
	}
	Keep(t, r, former, "dek", "former")
	record := string(Dump(t, b)["x/alpha"].Value)
	anew := func(uid string) vault.Owner {
		mustTxn(t, b, &registry.Txn{Deletes: []string{"x/alpha"}})
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("x/alpha", strings.Replace(record, former.Scope().UID(), uid, 1))}})
		return vault.Of(tenant.Confine("alpha", uid))
	}
	o := anew("second")
	wantKept(t, "of the second tenant", r, o, "")
	_, err := r.Vault().Get(t.Context(), o, "dek")
	WantKind(t, "Get of the former one's", err, fault.NotFound)
	o = anew("between")
	Keep(t, r, o, "h/a", "between")
	o = anew("second")
	_, also, err := r.Vault().GetWith(t.Context(), o, "none", "h/a")
	if WantKind(t, "GetWith of nothing", err, fault.NotFound); also.Revision != 0 {
		t.Errorf("GetWith: a former tenant's %+v", also)
	}
	_, also, err = r.Vault().GetWith(t.Context(), o, "h/a", "h/a")
	if WantKind(t, "GetWith of the former one's", err, fault.NotFound); also.Revision != 0 {
		t.Errorf("GetWith: a former tenant's %+v", also)
	}
	_, err = r.Vault().Commit(t.Context(), o, vault.Batch{If: []vault.Compare{{Key: "dek"}}, Puts: []vault.Put{{Key: "dek", Value: []byte("second")}}})
	if err != nil {
		t.Errorf("the second tenant makes its own: %v", err)
	}
	o = anew("third")
	_, err = r.Vault().Get(t.Context(), o, "dek") // without a listing before
	WantKind(t, "Get of the second one's", err, fault.NotFound)
	Keep(t, r, o, "dek", "third")
	wantKept(t, "of the third tenant", r, o, "", "dek=third")
	anew("third") // a copy of the store holds the record with another revision than the original
	wantKept(t, "of the third tenant in a copy of the store", r, o, "", "dek=third")
	wantKept(t, "of another tenant", r, near, "", "dek=near")
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "v/alpha/h/") {
			t.Fatalf("%s is left of the former tenant", k)
		}
	}
}

// testVaultDamaged: a value that cannot be read harms itself alone. It is listed beside the others, and can be replaced and
// removed.
func testVaultDamaged(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	o := vault.Of(Create(t, r, "alpha").Scope)
	for value, want := range map[string]error{
		"": vault.ErrDamaged, "{": vault.ErrDamaged, `{"v":1,"m":7}`: vault.ErrDamaged, `{"b":""}`: vault.ErrDamaged,
		`{"v":3,"m":7}`: vault.ErrNewer,
	} {
		Keep(t, r, o, "h/a", "one")
		Keep(t, r, o, "h/c", "three")
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("v/alpha/h/b", value)}})
		items, _, err := r.Vault().List(t.Context(), o, "h", "", 0)
		if err != nil || len(items) != 3 || string(items[0].Value) != "one" || string(items[2].Value) != "three" || items[0].Err != nil {
			t.Fatalf("List beside %q: %+v, %v", value, items, err)
		}
		if bad := items[1]; !errors.Is(bad.Err, want) || bad.Key != "h/b" || bad.Value != nil || bad.Revision == 0 {
			t.Errorf("List of %q: %+v", value, bad)
		}
		it, err := r.Vault().Get(t.Context(), o, "h/b")
		if !errors.Is(err, want) || it.Key != "h/b" || it.Revision != items[1].Revision {
			t.Errorf("Get of %q: %+v, %v", value, it, err)
		}
		_, err = r.Vault().Commit(t.Context(), o, vault.Batch{If: []vault.Compare{{Key: "h/b", Revision: it.Revision}}, Deletes: []string{"h/b"}})
		if err != nil {
			t.Errorf("removal of %q: %v", value, err)
		}
	}
}

// testVaultDue: what is due is found oldest first, of all owners, and moves with the change that moves it.
func testVaultDue(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	base := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	owners := map[string]vault.Owner{"_": {}}
	for _, id := range []string{"t1", "t10"} {
		owners[id] = vault.Of(Create(t, r, id).Scope)
	}
	move := func(owner, name string, from, to int) {
		t.Helper()
		m := vault.Move{Name: name}
		if from > 0 {
			m.From = base.Add(time.Duration(from) * time.Minute)
		}
		if to > 0 {
			m.To = base.Add(time.Duration(to) * time.Minute)
		}
		if _, err := r.Vault().Commit(t.Context(), owners[owner], vault.Batch{Moves: []vault.Move{m}}); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	due := func(until, limit int) string {
		t.Helper()
		var out []string
		after := ""
		for {
			list, next, err := r.Vault().Due(t.Context(), base.Add(time.Duration(until)*time.Minute), after, limit)
			if err != nil || limit > 0 && len(list) > limit {
				t.Fatalf("Due: %d, %v", len(list), err)
			}
			for _, d := range list {
				out = append(out, fmt.Sprintf("%s/%s@%d", d.Owner, d.Name, d.At.Sub(base)/time.Minute))
			}
			if next == "" {
				return strings.Join(out, " ")
			}
			after = next
		}
	}
	move("t1", "b.example.com", 0, 3)
	move("t10", "a.example.com", 0, 2)
	move("_", "*.example.com", 0, 1)
	move("t1", "c.example.com", 0, 9)
	const all = "_/*.example.com@1 t10/a.example.com@2 t1/b.example.com@3"
	for limit := range 5 {
		if got := due(3, limit); got != all {
			t.Errorf("Due by %d: got %q, want %q", limit, got, all)
		}
	}
	if got := due(0, 0); got != "" {
		t.Errorf("before the first: %q", got)
	}
	move("t1", "b.example.com", 3, 1)
	move("t10", "a.example.com", 2, 2)
	move("_", "*.example.com", 1, 0)
	if got, want := due(5, 0), "t1/b.example.com@1 t10/a.example.com@2"; got != want {
		t.Errorf("after the moves: got %q, want %q", got, want)
	}
	mustTxn(t, b, &registry.Txn{Puts: []registry.Put{put("c/due/00000000000000000009", "no mark"), put("c/due/00000000000000000010/t1/a/b", "none either")}})
	for limit := range 3 { // what cannot be read is passed over, and the list goes on after it
		if got, want := due(5, limit), "t1/b.example.com@1 t10/a.example.com@2"; got != want {
			t.Errorf("with marks that cannot be read, by %d: got %q, want %q", limit, got, want)
		}
	}
	_, _, err := r.Vault().Due(t.Context(), base, "nonsense", 0)
	WantKind(t, "a cursor that is none", err, fault.Invalid)

	list, _, err := r.Vault().Due(t.Context(), base.Add(time.Hour), "", 0)
	if err != nil || len(list) != 3 {
		t.Fatalf("Due: %v, %v", list, err)
	}
	if err := r.DeleteTenant(t.Context(), "t10", 0, Entry("t10", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	for _, d := range list {
		err := r.Vault().Forget(t.Context(), d)
		if gone := d.Owner == "t10"; gone == (err != nil) || !gone && !fault.Is(err, fault.Conflict) {
			t.Errorf("Forget of %+v: %v", d, err)
		}
	}
	WantKind(t, "Forget of the platform's", r.Vault().Forget(t.Context(), vault.Due{Owner: "_", Name: "a", At: base}), fault.Conflict)
	if got, want := due(60, 0), "t1/b.example.com@1 t1/c.example.com@9"; got != want {
		t.Errorf("after t10 is forgotten: got %q, want %q", got, want)
	}
}

// testVaultFull: a store that is full says so, and nothing is changed.
func testVaultFull(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r := Start(t, trap, "r1")
	full := func(context.Context, func() error) error {
		return fault.Wrap(fault.Unavailable, registry.ErrRejected, "the database is full: make room")
	}
	trap.Lay("v/", full)
	_, err := r.Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Puts: []vault.Put{{Key: "a"}}})
	WantKind(t, "Commit", err, fault.Unavailable)
	if !errors.Is(err, registry.ErrRejected) || errors.Is(err, registry.ErrUnknown) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("Commit: %v", err)
	}
	trap.Lay("c/lock/", full)
	if _, err = r.Vault().Lock(t.Context(), "a"); !errors.Is(err, registry.ErrRejected) { // it does not wait for ever
		t.Errorf("Lock: %v", err)
	}
	Keep(t, r, vault.Owner{}, "a", "x")
}
