package registry

import (
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
)

// testEntry is a tenant as it comes from the store, with what a usual one has: a host, two keys, quotas, and what edits add.
func testEntry(t testing.TB, i int, rev int64, edits ...func(*tenant.Record)) *tenant.Entry {
	t.Helper()
	id := tenant.ID(fmt.Sprintf("tenant-%05d", i))
	r := &tenant.Record{
		V: 1, UID: uuid.NewString(), ID: id, DisplayName: "The tenant of number " + string(id), State: tenant.StateActive,
		Mode: tenant.ModeVirtual, Source: tenant.SourceAPI, Hosts: []string{string(id) + ".example.com"},
		Quotas: tenant.Quotas{MaxServers: 10, RequestsPerSecond: 100},
	}
	for k := range 2 {
		name := fmt.Sprintf("%s-key-%d", id, k)
		r.Keys = append(r.Keys, tenant.Key{ID: uuid.NewString(), Name: name, Hash: tenant.HashKey(name), Role: tenant.Admin, Source: tenant.SourceAPI})
	}
	r.Created = time.Now().UTC()
	r.Updated = r.Created
	for _, edit := range edits {
		edit(r)
	}
	val, err := encodeRecord(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := decodeRecord(KV{Key: recordKey(id), Value: val, ModRevision: rev})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// identity adds an OpenID Connect issuer with a browser login, and three groups.
func identity(r *tenant.Record) {
	now := r.Created
	r.Authenticators = []tenant.Authenticator{{
		Name: "sso", Type: tenant.AuthnOIDC, DefaultRole: tenant.Viewer, Generation: uuid.NewString(), Source: tenant.SourceAPI, Created: now, Updated: now,
		OIDC: &tenant.OIDC{
			Issuer: "https://login.example.com/realms/staff", Audiences: []string{"polygate"}, ClientIDs: []string{"polygate"},
			Login: &tenant.Login{ClientID: "polygate", Scopes: []string{"openid", "groups"}},
		},
	}}
	for i, group := range []string{"readers", "developers", "administrators"} {
		r.Members = append(r.Members, tenant.Member{
			ID: uuid.NewString(), Kind: tenant.MemberGroup, Authenticator: "sso", Name: "team-" + group, Role: tenant.Role(i + 1),
			Source: tenant.SourceAPI, Created: now, By: "user:sso/alice@example.com",
		})
	}
}

// ownIssuer makes the issuer one that no other tenant has.
func ownIssuer(r *tenant.Record) {
	r.Authenticators[0].OIDC.Issuer += "/" + string(r.ID)
	r.Authenticators[0].OIDC.Login.ClientSecret = fmt.Sprintf("%080s", r.ID)
}

// TestIndexMemory holds the bounds on what a registered tenant costs, by what it has.
func TestIndexMemory(t *testing.T) {
	const n = 10000
	for _, c := range []struct {
		what  string
		edits []func(*tenant.Record)
		bound int64
	}{
		{"a host, two keys and quotas", nil, 1536},
		{"two keys, an issuer that others have too, and three groups", []func(*tenant.Record){identity, bare}, 2304},
		{"all of that", []func(*tenant.Record){identity}, 2432},
		{"all of that, with an issuer of its own", []func(*tenant.Record){identity, ownIssuer}, 3072},
	} {
		ix := NewIndex("example.net")
		var com compactor
		before := heap()
		for i := range n {
			ix.Upsert(com.compact(testEntry(t, i, int64(i+1), c.edits...)))
		}
		per := int64(heap()-before) / n
		t.Logf("%d bytes per tenant with %s", per, c.what)
		if per > c.bound {
			t.Errorf("a tenant with %s costs %d bytes in the index, more than %d", c.what, per, c.bound)
		}
		runtime.KeepAlive(ix)
	}
}

// bare takes away what a tenant can do without.
func bare(r *tenant.Record) { r.Hosts, r.DisplayName = nil, "" }

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestIndexAllocs: a lookup, found or not, allocates nothing.
func TestIndexAllocs(t *testing.T) {
	ix := NewIndex("example.net")
	for i := range 100 {
		ix.Upsert(testEntry(t, i, 1))
	}
	hash, none := tenant.HashKey("tenant-00050-key-1"), tenant.HashKey("none")
	for name, f := range map[string]func() bool{
		"own host":    func() bool { _, ok := ix.ByHost("tenant-00050.example.net"); return ok },
		"custom host": func() bool { _, ok := ix.ByHost("tenant-00050.example.com"); return ok },
		"key":         func() bool { _, _, ok := ix.ByKey(hash); return ok },
		"id":          func() bool { _, ok := ix.ByID("tenant-00050"); return ok },
		"no host":     func() bool { _, ok := ix.ByHost("none.example.net"); return !ok },
		"no key":      func() bool { _, _, ok := ix.ByKey(none); return !ok },
		"no id":       func() bool { _, ok := ix.ByID("none"); return !ok },
		"no owner":    func() bool { _, ok := ix.Owner("none"); return !ok },
	} {
		if !f() {
			t.Errorf("%s: wrong answer", name)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestIndexHosts: only the exact host of a tenant is its own.
func TestIndexHosts(t *testing.T) {
	ix := NewIndex("example.net")
	ix.Upsert(testEntry(t, 1, 1))
	for _, h := range []string{"", "example.net", ".example.net", "x.tenant-00001.example.net", "tenant-00001.example.net.", "tenant-00001xexample.net",
		"tenant-00001", "TENANT-00001.example.net", "tenant-0000.example.net", "tenant-00001.example.net.example.net"} {
		if e, ok := ix.ByHost(h); ok {
			t.Errorf("ByHost(%q) = %s", h, e.Scope)
		}
	}
}

// TestIndexMove: a host or key that moved to another tenant stays with it when its former tenant changes or goes, in
// whatever order the index hears of it.
func TestIndexMove(t *testing.T) {
	ix := NewIndex("example.net")
	a, b := testEntry(t, 1, 1), testEntry(t, 2, 2)
	ix.Upsert(a)
	stolen := &tenant.Entry{Record: b.Record.Clone(), Scope: b.Scope}
	stolen.Record.Hosts, stolen.Record.Keys = a.Record.Hosts, a.Record.Keys
	ix.Upsert(stolen)
	ix.Delete(a.Scope.ID())
	if e, ok := ix.ByHost("tenant-00001.example.com"); !ok || e != stolen {
		t.Errorf("the host went with its former tenant: %v, %v", e, ok)
	}
	if e, _, ok := ix.ByKey(a.Record.Keys[0].Hash); !ok || e != stolen {
		t.Errorf("the key went with its former tenant: %v, %v", e, ok)
	}
}

// TestIndexSums: keys whose short hashes are alike are told apart, as they come and go.
func TestIndexSums(t *testing.T) {
	ix := NewIndex("example.net")
	ix.sum = func(tenant.Hash) uint64 { return 7 }
	a, b, c := testEntry(t, 1, 1), testEntry(t, 2, 2), testEntry(t, 3, 3)
	want := func(what string, there ...*tenant.Entry) {
		t.Helper()
		for _, e := range []*tenant.Entry{a, b, c} {
			for i := range e.Record.Keys {
				got, k, ok := ix.ByKey(e.Record.Keys[i].Hash)
				if want := slices.Contains(there, e); ok != want || ok && (got != e || k.Hash != e.Record.Keys[i].Hash) {
					t.Errorf("%s: key %d of %s: got %v, want %v", what, i, e.Scope, ok, want)
				}
			}
		}
	}
	ix.Upsert(a)
	ix.Upsert(b)
	want("two tenants", a, b)
	ix.Delete(a.Scope.ID())
	want("the first is gone", b)
	ix.Upsert(c)
	ix.Upsert(a)
	want("three tenants", a, b, c)
	a = testEntry(t, 1, 4)
	ix.Upsert(a)
	want("one has changed", a, b, c)
	for _, e := range []*tenant.Entry{b, a, c} {
		ix.Delete(e.Scope.ID())
	}
	want("all are gone")
	if len(ix.byKey)+len(ix.byKeyToo) != 0 {
		t.Errorf("left: %v, %v", ix.byKey, ix.byKeyToo)
	}
}

// TestCompact: what the index holds says the same as what was decoded, shares what is equal with other tenants, and lets
// go of what nobody has any more.
func TestCompact(t *testing.T) {
	var c compactor
	full := func(i int, edits ...func(*tenant.Record)) *tenant.Entry {
		return testEntry(t, i, 7, append([]func(*tenant.Record){identity, func(r *tenant.Record) {
			r.Dedicated = &tenant.Dedicated{Upstream: "https://up.example.com", Identity: "X-User"}
			r.Policy, r.AllowedOrigins = &tenant.PolicyRef{Digest: "d"}, []string{"https://a.example.com"}
			r.Revoked = []tenant.Revocation{{Session: "s", Until: r.Created}}
			r.Authenticators = append(r.Authenticators, tenant.Authenticator{
				Name: "up", Type: tenant.AuthnUpstream, Upstream: &tenant.UpstreamUsers{
					Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Header: "X-User", Attributes: map[string]string{"X-Team": "team"}}})
		}}, edits...)...)
	}
	plain := full(1)
	got := c.compact(&tenant.Entry{Record: plain.Record.Clone(), Scope: plain.Scope})
	if !reflect.DeepEqual(got, plain) {
		t.Errorf("got %+v\nwant %+v", got.Record, plain.Record)
	}
	same, other := c.compact(full(2)), c.compact(full(3, ownIssuer))
	g, s, o := got.Record.Authenticators, same.Record.Authenticators, other.Record.Authenticators
	if g[0].OIDC != s[0].OIDC || g[1].Upstream != s[1].Upstream || g[0].OIDC == o[0].OIDC {
		t.Error("what is shared is not what is equal")
	}
	if n := known(&c.oidc); n != 2 {
		t.Errorf("%d settings are known, want 2", n)
	}
	g, s, o, got, same, other = nil, nil, nil, nil, nil, nil //nolint:ineffassign,wastedassign // the last references go
	for range 100 {
		if runtime.GC(); known(&c.oidc) == 0 {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("%d settings are kept that nobody has", known(&c.oidc))
}

func known[T any](s *shared[T]) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.of)
}

func TestIndexList(t *testing.T) {
	ix := NewIndex("example.net")
	for _, i := range []int{5, 1, 4, 2, 3} {
		ix.Upsert(testEntry(t, i, 1))
	}
	ix.Delete("tenant-00003")
	ix.Delete("tenant-00009")
	for _, c := range []struct {
		after tenant.ID
		limit int
		want  string
	}{
		{"", 10, "1 2 4 5 "},
		{"", 2, "1 2 "},
		{"tenant-00002", 2, "4 5 "},
		{"tenant-00003", 1, "4 "},
		{"tenant-00005", 5, ""},
		{"", 0, ""},
		{"", -1, ""},
	} {
		got := ""
		for _, e := range ix.List(c.after, c.limit) {
			got += string(e.Scope.ID()[len("tenant-0000"):]) + " "
		}
		if got != c.want {
			t.Errorf("List(%q, %d) = %q, want %q", c.after, c.limit, got, c.want)
		}
	}
}

func BenchmarkIndexByHost(b *testing.B) {
	ix := NewIndex("example.net")
	for i := range 10000 {
		ix.Upsert(testEntry(b, i, 1))
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ix.ByHost("tenant-05000.example.net")
		}
	})
}

// BenchmarkEntry is what a start costs for each tenant, beside the reading.
func BenchmarkEntry(b *testing.B) {
	e := testEntry(b, 1, 1, identity)
	val, err := encodeRecord(e.Record, nil)
	if err != nil {
		b.Fatal(err)
	}
	kv := KV{Key: recordKey(e.Record.ID), Value: val, ModRevision: 1}
	var c compactor
	for _, compact := range []bool{false, true} {
		b.Run(fmt.Sprintf("compact=%v", compact), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e, err := decodeRecord(kv)
				if err != nil {
					b.Fatal(err)
				}
				if compact {
					c.compact(e)
				}
			}
		})
	}
}
