package registrytest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// view is what an index answers, in a form that can be compared.
func view(ix indexer, hosts, keys []string) map[string]string {
	out := map[string]string{}
	var ids []string
	for after := tenant.ID(""); ; {
		page := ix.List(after, 3)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			ids = append(ids, fmt.Sprintf("%s@%d", e.Record.ID, e.Record.Revision))
			after = e.Record.ID
		}
	}
	out["ids"] = strings.Join(ids, " ")
	for _, h := range hosts {
		if e, ok := ix.ByHost(h); ok {
			out["host "+h] = string(e.Record.ID)
		}
	}
	for _, k := range keys {
		if e, _, ok := ix.ByKey(tenant.HashKey(k)); ok {
			out["key "+k] = string(e.Record.ID)
		}
	}
	return out
}

type indexer interface {
	List(after tenant.ID, limit int) []*tenant.Entry
	ByHost(host string) (*tenant.Entry, bool)
	ByKey(h tenant.Hash) (*tenant.Entry, *tenant.Key, bool)
}

// randomTime bounds the part of testRandom that waits for the store.
const randomTime = 20 * time.Second

// testRandom: after random operations, with broken watches and compactions among them, the index of every replica is
// what a model of the operations says, and so is that of a replica that starts afresh.
func testRandom(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, far := Start(t, b, "r1"), Start(t, faulty, "r2")
	ids := []string{"t1", "t10", "t2", "t3"}
	hosts, keys := []string{"a.example.com", "b.example.com", "c.example.com"}, []string{"k1", "k2", "k3"}
	model := map[string]*tenant.Record{}
	used := func(r *tenant.Record, but string) bool {
		for id, m := range model {
			if id == but {
				continue
			}
			for _, h := range r.Hosts {
				if slices.Contains(m.Hosts, h) {
					return true
				}
			}
			for _, k := range r.Keys {
				if _, ok := m.KeyByHash(k.Hash); ok {
					return true
				}
			}
		}
		return false
	}
	// Where the disk is slow or the processor busy, so many operations take minutes: after a while the rest do nothing.
	enough := time.Now().Add(randomTime)
	changes := func(f func(rt *rapid.T)) func(rt *rapid.T) {
		return func(rt *rapid.T) {
			if time.Now().Before(enough) {
				f(rt)
			}
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(rec *tenant.Record) {
			rec.Hosts, rec.Keys = nil, nil
			for _, h := range rapid.SliceOfNDistinct(rapid.SampledFrom(hosts), 0, 2, rapid.ID[string]).Draw(rt, "hosts") {
				Host(h)(rec)
			}
			for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 2, rapid.ID[string]).Draw(rt, "keys") {
				Key(k)(rec)
			}
		}
		id := func() string { return rapid.SampledFrom(ids).Draw(rt, "id") }
		rt.Repeat(map[string]func(*rapid.T){
			"create": changes(func(rt *rapid.T) {
				rec := Record(id(), draw)
				e, err := r.CreateTenant(t.Context(), rec, Entry("", "tenant.create"))
				_, exists := model[string(rec.ID)]
				if clash := exists || used(rec, ""); clash != fault.Is(err, fault.Conflict) || !clash && err != nil {
					rt.Fatalf("create %s: clash=%v, got %v", rec.ID, clash, err)
				}
				if err == nil {
					model[string(rec.ID)] = e.Record
				}
			}),
			"update": changes(func(rt *rapid.T) {
				id := id()
				want := Record(id, draw)
				e, err := r.UpdateTenant(t.Context(), tenant.ID(id), 0, func(rec *tenant.Record) error {
					rec.Hosts, rec.Keys = want.Hosts, want.Keys
					return nil
				}, Entry(tenant.ID(id), "tenant.update"))
				_, exists := model[id]
				switch {
				case !exists:
					if !fault.Is(err, fault.NotFound) {
						rt.Fatalf("update of nobody: %v", err)
					}
				case used(want, id):
					if !fault.Is(err, fault.Conflict) {
						rt.Fatalf("update with a clash: %v", err)
					}
				case err != nil:
					rt.Fatalf("update: %v", err)
				default:
					model[id] = e.Record
				}
			}),
			"delete": changes(func(rt *rapid.T) {
				id := id()
				err := r.DeleteTenant(t.Context(), tenant.ID(id), 0, Entry(tenant.ID(id), "tenant.delete"))
				if _, exists := model[id]; exists != (err == nil) || !exists && !fault.Is(err, fault.NotFound) {
					rt.Fatalf("delete: %v", err)
				}
				delete(model, id)
			}),
			"cut": changes(func(*rapid.T) { faulty.CutWatch() }),
			"compact": changes(func(rt *rapid.T) {
				if err := b.Compact(t.Context(), revision(t, b)); err != nil && !strings.Contains(err.Error(), "compacted") {
					rt.Fatalf("compact: %v", err)
				}
			}),
			"": func(rt *rapid.T) {
				want := viewOf(model)
				if got := view(r.Index(), hosts, keys); !maps.Equal(got, want) {
					rt.Fatalf("the index is %v, want %v", got, want)
				}
			},
		})
	})
	want := viewOf(model)
	Eventually(t, "the far replica's index is right", func() bool { return maps.Equal(view(far.Index(), hosts, keys), want) })
	fresh := Start(t, b, "r3")
	if got := view(fresh.Index(), hosts, keys); !maps.Equal(got, want) {
		t.Errorf("the index of a new replica is %v, want %v", got, want)
	}
}

func viewOf(model map[string]*tenant.Record) map[string]string {
	out := map[string]string{}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(model)) {
		m := model[id]
		ids = append(ids, fmt.Sprintf("%s@%d", id, m.Revision))
		for _, h := range m.Hosts {
			out["host "+h] = id
		}
		for _, k := range m.Keys {
			out["key "+k.Name] = id
		}
	}
	out["ids"] = strings.Join(ids, " ")
	return out
}

func revision(t *testing.T, b Backend) int64 {
	_, res := keysOf(t, b, rangeOfNothing())
	return res.Revision
}

// log collects what a subscriber hears.
type log struct {
	mu    sync.Mutex
	heard []string
}

func (l *log) hear(id tenant.ID, e *tenant.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e == nil {
		l.heard = append(l.heard, string(id)+" gone")
		return
	}
	l.heard = append(l.heard, string(id)+" "+e.Record.DisplayName)
}

func (l *log) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.heard, ", ")
}

// testGap: a replica whose watch was broken over a compaction lists anew, and misses no deletion (X48).
func testGap(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, far := Start(t, b, "r1"), Start(t, faulty, "r2")
	for _, id := range []string{"dies", "lives", "reborn"} {
		Create(t, r, id, Host(id+".example.com"))
	}
	mustByID(t, far, "reborn")
	c := Claim(t, far, mustByID(t, far, "dies").Scope)
	var heard log
	defer far.Index().Subscribe(heard.hear)()
	faulty.Hang(true)
	faulty.CutWatch()
	for _, id := range []tenant.ID{"dies", "reborn"} {
		if err := r.DeleteTenant(t.Context(), id, 0, Entry(id, "tenant.delete")); err != nil {
			t.Fatalf("DeleteTenant: %v", err)
		}
	}
	Create(t, r, "reborn", func(rec *tenant.Record) { rec.DisplayName = "second" })
	Create(t, r, "young", func(rec *tenant.Record) { rec.DisplayName = "first" })
	if err := b.Compact(t.Context(), revision(t, b)); err != nil {
		t.Fatalf("Compact: %v", err)
	}
	faulty.Hang(false)
	Eventually(t, "the index has caught up", func() bool { return far.Index().Len() == 3 && strings.Contains(heard.all(), "dies gone") })
	if _, ok := far.Index().ByHost("dies.example.com"); ok {
		t.Error("the deletion was missed")
	}
	WaitLost(t, c)
	if want := "reborn gone, reborn second, young first, dies gone"; heard.all() != want {
		t.Errorf("the subscriber heard %q, want %q", heard.all(), want)
	}
}

func mustByID(t *testing.T, r *Replica, id tenant.ID) (e *tenant.Entry) {
	t.Helper()
	Eventually(t, "the index knows "+string(id), func() (ok bool) { e, ok = r.Index().ByID(id); return ok })
	return e
}

// testResume: a watch that breaks without a compaction goes on where it was, and the subscriber hears each change once.
func testResume(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, far := Start(t, b, "r1"), Start(t, faulty, "r2")
	Create(t, r, "alpha")
	mustByID(t, far, "alpha")
	var heard log
	cancel := far.Index().Subscribe(heard.hear)
	var want []string
	for i := range 6 {
		name := fmt.Sprint("n", i)
		want = append(want, "alpha "+name)
		if _, err := r.UpdateTenant(t.Context(), "alpha", 0, setName(name), Entry("alpha", "tenant.update")); err != nil {
			t.Fatalf("UpdateTenant: %v", err)
		}
		if i%2 == 0 {
			faulty.CutWatch()
		}
	}
	Eventually(t, "all is heard", func() bool { return heard.all() == strings.Join(want, ", ") })
	cancel()
	Create(t, r, "beta")
	mustByID(t, far, "beta")
	if heard.all() != strings.Join(want, ", ") {
		t.Errorf("after cancel: heard %q", heard.all())
	}
}
