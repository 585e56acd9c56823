package registry

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/google/uuid"

	"github.com/polygate/polygate/internal/tenant"
)

// testEntry is a tenant as it comes from the store, with what a usual one has: a host, two keys, quotas.
func testEntry(t testing.TB, i int, rev int64) *tenant.Entry {
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

// TestIndexMemory holds the bound on what a registered tenant costs: 2 KiB.
func TestIndexMemory(t *testing.T) {
	const n = 10000
	ix := NewIndex("example.net")
	before := heap()
	for i := range n {
		ix.Upsert(testEntry(t, i, int64(i+1)))
	}
	per := int64(heap()-before) / n
	t.Logf("%d bytes per tenant with a host and two keys", per)
	if per > 2048 {
		t.Errorf("a tenant costs %d bytes in the index, more than 2048", per)
	}
	runtime.KeepAlive(ix)
}

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
