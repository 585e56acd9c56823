package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
	"github.com/polygate/polygate/registry/memory"
	"github.com/polygate/polygate/registry/registrytest"
)

// budget bounds every tenant to so many bytes.
func budget(n int64, edits ...func(*registry.Budgets)) registrytest.Option {
	return func(c *registry.Config) {
		c.Budgets = registry.Budgets{Stored: func(tenant.Quotas) int64 { return n }, Window: time.Hour}
		for _, e := range edits {
			e(&c.Budgets)
		}
	}
}

// often lets tenants write as often as they like.
func often(b *registry.Budgets) { b.Window = time.Millisecond }

func value(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }

func write(t *testing.T, c *registry.Claim, id string, val []byte) error {
	t.Helper()
	return c.Commit(t.Context(), registrytest.Entry(c.Scope().ID(), "server.create"), tenant.Write{Kind: "server", ID: id, Value: val})
}

func wantStored(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, registry.ErrStored) || !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "max_stored_bytes is") {
		t.Errorf("%s: got %v, want the quota of stored bytes", what, err)
	}
}

// TestX47Budget: a tenant is refused what would take it over its budget, and never what makes it smaller.
func TestX47Budget(t *testing.T) {
	b := memory.New()
	r := registrytest.Start(t, b, "r1", budget(10_000, often))
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	if _, known := r.TenantBytes("alpha"); known {
		t.Error("its bytes are known before they are counted")
	}
	for i := range 2 {
		if err := write(t, c, fmt.Sprint("s", i), value(4000)); err != nil {
			t.Fatalf("within the budget: %v", err)
		}
	}
	wantStored(t, "a third", write(t, c, "s2", value(4000)))
	wantStored(t, "a larger one", write(t, c, "s0", value(7000)))
	if err := write(t, c, "s0", value(3999)); err != nil {
		t.Errorf("a smaller one: %v", err)
	}
	if err := write(t, c, "s1", nil); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	if err := write(t, c, "s2", value(4000)); err != nil {
		t.Errorf("in its place: %v", err)
	}
	if n, known := r.TenantBytes("alpha"); !known || n < 8000 || n > 10_000 || r.Storage().Tenants["alpha"] != n {
		t.Errorf("bytes: %d, %v; %v", n, known, r.Storage().Tenants)
	}
	other := registrytest.Claim(t, r, registrytest.Create(t, r, "beta").Scope)
	if err := write(t, other, "s0", value(8000)); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	testNextOwner(t, b, r, c)
}

// testNextOwner: the next owner counts what the one before it left, and the first counts anew when it comes back.
func testNextOwner(t *testing.T, b *memory.Backend, r1 *registrytest.Replica, c *registry.Claim) {
	r2 := registrytest.Start(t, b, "r2", budget(10_000, often))
	if err := c.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	c2 := registrytest.Claim(t, r2, c.Scope())
	wantStored(t, "at the next owner", write(t, c2, "s3", value(4000)))
	if err := errors.Join(write(t, c2, "s0", nil), write(t, c2, "s2", nil)); err != nil {
		t.Fatal(err)
	}
	if err := c2.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := write(t, registrytest.Claim(t, r1, c.Scope()), "s9", value(9000)); err != nil {
		t.Errorf("back at the first owner: %v", err)
	}
}

// TestX47Writes: to write the same again and again fills the store too, as what is superseded is kept for a while.
func TestX47Writes(t *testing.T) {
	r := registrytest.Start(t, memory.New(), "r1", budget(10_000))
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = write(t, c, "s0", value(4000))
	}
	if !fault.Is(err, fault.RateLimited) || fault.From(err).RetryAfter <= 0 || n > 12 {
		t.Fatalf("after %d writes of 4000 bytes: %v", n, err)
	}
	if err := write(t, c, "s0", nil); err != nil {
		t.Errorf("a deletion: %v", err)
	}
}

// TestX47Vault: certificates have a budget beside that of objects, which the watch keeps true over replicas.
func TestX47Vault(t *testing.T) {
	b := memory.New()
	r1, r2 := registrytest.Start(t, b, "r1", budget(10_000, often)), registrytest.Start(t, b, "r2", budget(10_000, often))
	e := registrytest.Create(t, r1, "alpha")
	registrytest.Eventually(t, "both know it", func() bool { _, ok := r2.Index().ByID("alpha"); return ok })
	put := func(r *registrytest.Replica, key string, n int) error {
		_, err := r.Vault().Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Puts: []vault.Put{{Key: key, Value: make([]byte, n)}}})
		return err
	}
	if err := errors.Join(put(r1, "a", 100), put(r2, "b", 100), put(r1, "a", 1500)); err != nil {
		t.Fatal(err)
	}
	if err := write(t, registrytest.Claim(t, r1, e.Scope), "s", value(9500)); err != nil {
		t.Errorf("objects beside certificates: %v", err)
	}
	registrytest.Eventually(t, "too large a certificate is refused, once the watch has counted the others", func() bool {
		err := put(r1, "b", 7000)
		if err == nil { // too early
			err = put(r1, "b", 100)
		}
		return errors.Is(err, registry.ErrStored)
	})
	registrytest.Eventually(t, "what the other wrote counts", func() bool {
		err := put(r2, "c", 6000)
		if err == nil { // too early
			_, err = r2.Vault().Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Deletes: []string{"c"}})
		}
		return errors.Is(err, registry.ErrStored)
	})
}

// TestX47Record: settings count, but to suspend a tenant always works, and so does what operators do.
func TestX47Record(t *testing.T) {
	r := registrytest.Start(t, memory.New(), "r1", budget(1_000))
	registrytest.Create(t, r, "alpha")
	update := func(action string, edit func(*tenant.Record)) error {
		_, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error { edit(rec); return nil }, registrytest.Entry("alpha", action))
		return err
	}
	long := func(n int) func(*tenant.Record) {
		return func(rec *tenant.Record) {
			for i := range n {
				rec.Hosts = append(rec.Hosts, fmt.Sprintf("host-%d-%d.%s.example.org", n, i, strings.Repeat("x", 60)))
			}
		}
	}
	wantStored(t, "many hosts", update("tenant.update", long(15)))
	var err error
	n := 0
	for ; err == nil && n < 50; n++ {
		err = update("tenant.update", func(rec *tenant.Record) { rec.DisplayName = fmt.Sprintf("name %03d", n) })
	}
	if !fault.Is(err, fault.RateLimited) {
		t.Errorf("after %d changes of a name: %v", n, err)
	}
	if err := update("tenant.suspend", func(rec *tenant.Record) { rec.State = tenant.StateSuspended }); err != nil {
		t.Errorf("suspend: %v", err)
	}
	entry := registrytest.Entry("", "tenant.update")
	if _, err := r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error { long(15)(rec); return nil }, entry); err != nil {
		t.Errorf("by an operator: %v", err)
	}
	if err := r.DeleteTenant(t.Context(), "alpha", 0, registrytest.Entry("", "tenant.delete")); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// filling is a store that says how full it is.
type filling struct {
	*memory.Backend
	status atomic.Pointer[registry.Status]
}

func (f *filling) Status(context.Context) (registry.Status, error) { return *f.status.Load(), nil }

// TestX47Reserve: when the store is full but for its reserve, tenants are refused what adds or overwrites, and the platform
// goes on: claims, hand-offs, deletions, suspensions, and with half of the reserve certificates.
func TestX47Reserve(t *testing.T) {
	f := &filling{Backend: memory.New()}
	set := func(inUse, size int64, alarms ...string) {
		f.status.Store(&registry.Status{DBSize: size, DBInUse: inUse, Quota: 1000 << 20, Alarms: alarms})
	}
	set(1<<20, 1<<20)
	r := registrytest.Start(t, f, "r1", budget(1<<20, func(b *registry.Budgets) { b.Reserve, b.Sample = 20, 2*time.Millisecond }))
	e := registrytest.Create(t, r, "alpha")
	c := registrytest.Claim(t, r, e.Scope)
	small := 1 << 16
	if err := write(t, c, "s", value(small)); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		registrytest.Write(t, c, "server", fmt.Sprint("d", i), `"1"`)
	}
	for i, cs := range []struct {
		name          string
		inUse, size   int64
		alarms        []string
		objects, cert bool
		problem       string
	}{
		{"much room", 700 << 20, 800 << 20, nil, true, true, ""},
		{"into the reserve", 810 << 20, 820 << 20, nil, false, true, "tenants' changes are refused"},
		{"half of the reserve", 910 << 20, 910 << 20, nil, false, false, "tenants' changes are refused"},
		{"a file that was large", 100 << 20, 940 << 20, nil, true, true, ""},
		{"a file at the quota", 100 << 20, 990 << 20, nil, false, false, "defragment"},
		{"full", 990 << 20, 1000 << 20, []string{"NOSPACE"}, false, false, "etcdctl alarm disarm"},
	} {
		set(cs.inUse, cs.size, cs.alarms...)
		registrytest.Eventually(t, cs.name+" is sampled", func() bool { return r.Storage().Status.DBSize == cs.size })
		check := func(what string, err error, ok bool) {
			t.Helper()
			if got := err == nil; got != ok || !ok && (!errors.Is(err, registry.ErrStoreFull) || !fault.Is(err, fault.Unavailable)) {
				t.Errorf("%s: %s: got %v, want ok = %v", cs.name, what, err, ok)
			}
		}
		check("a write", write(t, c, "w", []byte(`"23456"`)), cs.objects)
		_, err := r.Vault().Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Puts: []vault.Put{{Key: "cert", Value: []byte("1")}}})
		check("a certificate", err, cs.cert)
		small /= 3
		check("a smaller object", write(t, c, "s", value(small)), true)
		check("a deletion", write(t, c, fmt.Sprint("d", i), nil), true)
		_, err = r.UpdateTenant(t.Context(), "alpha", 0, func(rec *tenant.Record) error { rec.SuspendReason += "x"; return nil }, registrytest.Entry("alpha", "tenant.suspend"))
		check("a suspension", err, true)
		if got := strings.Join(r.Storage().Problems, "\n"); (cs.problem == "") != (got == "") || !strings.Contains(got, cs.problem) {
			t.Errorf("%s: problems %q, want %q", cs.name, got, cs.problem)
		}
	}
	if err := c.Release(t.Context()); err != nil {
		t.Errorf("release: %v", err)
	}
	registrytest.Claim(t, r, e.Scope)
}

// TestStorageProblems: what is wrong is said with the way out.
func TestStorageProblems(t *testing.T) {
	f := &filling{Backend: memory.New()}
	f.status.Store(&registry.Status{Quota: 100 << 20, Alarms: []string{"CORRUPT"}, Members: []registry.Member{
		{Name: "a", Healthy: true}, {Name: "b", Healthy: true}, {Name: "c", Error: "it does not answer"},
	}})
	r := registrytest.Start(t, f, "r1")
	registrytest.Eventually(t, "it is sampled", func() bool { return len(r.Storage().Problems) == 3 })
	got := strings.Join(r.Storage().Problems, "\n")
	for _, want := range []string{"alarm CORRUPT", "member c is not well: it does not answer", "2 of its 3 members are well"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestX47Owed: what a change that was let in brings with it is stored whatever the budget is, and half of the store's reserve is for it;
// a change that does more besides is not let in with it.
func TestX47Owed(t *testing.T) {
	f := &filling{Backend: memory.New()}
	f.status.Store(&registry.Status{DBSize: 1 << 20, DBInUse: 1 << 20, Quota: 1000 << 20})
	r := registrytest.Start(t, f, "r1", budget(10_000, func(b *registry.Budgets) { b.Reserve, b.Sample = 20, 2*time.Millisecond }))
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	owed := func(id string, more ...tenant.Write) error {
		w := append([]tenant.Write{{Kind: "server", ID: id, Value: value(12_000), Owed: true}}, more...)
		return c.Commit(t.Context(), registrytest.Entry("alpha", "server.create"), w...)
	}
	if err := write(t, c, "s0", value(9500)); err != nil {
		t.Fatal(err)
	}
	wantStored(t, "a larger one", write(t, c, "s0", value(12_000)))
	wantStored(t, "one of two that is not owed", owed("s0", tenant.Write{Kind: "server", ID: "s1", Value: value(500)}))
	for range 10 { // of which the writes alone are more than four times the budget
		if err := owed("s0"); err != nil {
			t.Fatalf("what is owed: %v", err)
		}
	}
	if err := write(t, c, "s0", value(11_990)); !fault.Is(err, fault.RateLimited) {
		t.Errorf("the same that is not: got %v, want that too much was written", err)
	}
	for _, full := range []struct {
		inUse int64
		taken bool
	}{{810 << 20, true}, {910 << 20, false}} {
		f.status.Store(&registry.Status{DBSize: full.inUse, DBInUse: full.inUse, Quota: 1000 << 20})
		registrytest.Eventually(t, "it is sampled", func() bool { return r.Storage().Status.DBSize == full.inUse })
		if err := owed("s0"); (err == nil) != full.taken || err != nil && !errors.Is(err, registry.ErrStoreFull) {
			t.Errorf("with %d bytes in the store: got %v, want ok = %t", full.inUse, err, full.taken)
		}
	}
}

// TestX47OwedIsNoDebt: who had much written that is owed waits no longer for it than for writes of its own.
func TestX47OwedIsNoDebt(t *testing.T) {
	r := registrytest.Start(t, memory.New(), "r1", budget(10_000, func(b *registry.Budgets) { b.Window = time.Second }))
	c := registrytest.Claim(t, r, registrytest.Create(t, r, "alpha").Scope)
	for range 200 { // some 160 windows' worth
		if err := c.Commit(t.Context(), registrytest.Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s0", Value: value(12_000), Owed: true}); err != nil {
			t.Fatal(err)
		}
	}
	registrytest.Eventually(t, "a write is taken again", func() bool { return write(t, c, "s0", value(11_990)) == nil })
}
