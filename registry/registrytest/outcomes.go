package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// testLostAnswers: a change that was applied, though the answer was lost, is reported as made and made once (X49), even
// if its record has left the outbox in between.
func testLostAnswers(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1")
	for n := 1; n <= 2; n++ {
		id := tenant.ID(fmt.Sprint("alpha", n))
		faulty.LoseAnswers(n)
		e, err := r.CreateTenant(t.Context(), Record(string(id), Host(string(id)+".example.com")), Entry(id, "tenant.create"))
		if err != nil {
			t.Fatalf("CreateTenant: %v", err)
		}
		if got := mustByID(t, r, id); got.Scope != e.Scope || got.Record.Revision != e.Record.Revision {
			t.Errorf("created %+v, stored %+v", e.Record, got.Record)
		}
		faulty.LoseAnswers(n)
		calls := 0
		e, err = r.UpdateTenant(t.Context(), id, 0, func(rec *tenant.Record) error {
			calls++
			rec.DisplayName += "x"
			return nil
		}, Entry(id, "tenant.update"))
		if err != nil || e.Record.DisplayName != "x" || calls != 1 {
			t.Fatalf("UpdateTenant: %+v, %v after %d edits", e, err, calls)
		}
		c := Claim(t, r, e.Scope)
		for i := range 10 { // more than there are lanes
			faulty.LoseAnswers(n)
			Write(t, c, "server", fmt.Sprint("s", i), fmt.Sprint(i))
		}
		if got := Objects(t, c, "server"); len(got) != 10 {
			t.Errorf("objects: %v", got)
		}
		if d := Dump(t, b)["t/"+string(id)+"/server/s3"]; d.CreateRevision != d.ModRevision {
			t.Errorf("a commit was applied twice: %+v", d)
		}
		testDrainedInBetween(t, b, faulty, c)
		faulty.LoseAnswers(n)
		if err := r.DeleteTenant(t.Context(), id, 0, Entry(id, "tenant.delete")); err != nil {
			t.Fatalf("DeleteTenant: %v", err)
		}
	}
	faulty.LoseAnswers(1)
	if err := r.Platform().Create(t.Context(), "once", []byte("1")); err != nil {
		t.Errorf("Platform.Create: %v", err)
	}
}

func testDrainedInBetween(t *testing.T, b Backend, faulty *Faulty, c *registry.Claim) {
	entry := Entry(c.Scope().ID(), "server.create")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var drain sync.WaitGroup
	drain.Go(func() { // a drain that is as fast as can be
		for ctx.Err() == nil {
			_, _ = b.Txn(ctx, &registry.Txn{Deletes: []string{"a/" + string(c.Scope().ID()) + "/" + entry.ID}})
		}
	})
	faulty.LoseAnswers(1)
	if err := c.Commit(t.Context(), entry, tenant.Write{Kind: "drained", ID: "d", Value: []byte("{}")}); err != nil {
		t.Errorf("a commit whose record was drained before its outcome was known: %v", err)
	}
	cancel()
	drain.Wait()
	if d := Dump(t, b)["t/"+string(c.Scope().ID())+"/drained/d"]; d.CreateRevision == 0 || d.CreateRevision != d.ModRevision {
		t.Errorf("a commit whose record was drained was not applied once: %+v", d)
	}
}

// testNeverAnswered: what was not applied and never answered is Unavailable, within a bound, and the claim is given up.
func testNeverAnswered(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1")
	e := Create(t, r, "alpha")
	c := Claim(t, r, e.Scope)
	faulty.Drop(1)
	Write(t, c, "server", "once", "{}") // the second attempt gets through
	faulty.Drop(1 << 20)
	start := time.Now()
	err := c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "never", Value: []byte("{}")})
	WantKind(t, "a commit that is never answered", err, fault.Unavailable)
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the answer took %v", took)
	}
	if !errors.Is(contextCause(c), registry.ErrClaimLost) {
		t.Errorf("a commit of unknown outcome left the claim: %v", contextCause(c))
	}
	faulty.Drop(0)
	c2 := Claim(t, r, e.Scope)
	if c2.Epoch() <= c.Epoch() {
		t.Errorf("epoch %d after %d", c2.Epoch(), c.Epoch())
	}
	if got, want := Objects(t, c2, "server"), []string{"once={}"}; !slices.Equal(got, want) {
		t.Errorf("objects: got %v, want %v", got, want)
	}
}

// testLateCommit: a commit that was reported as unknown cannot land later, behind the back of a gateway that has loaded
// anew.
func testLateCommit(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1")
	e := Create(t, r, "alpha")
	c := Claim(t, r, e.Scope)
	arrived, release := faulty.Hold("t/alpha/server/")
	done := make(chan error)
	go func() {
		done <- c.Commit(context.Background(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "late", Value: []byte("{}")})
	}()
	<-arrived
	if err := c.Release(t.Context()); err != nil { // whatever ends the claim
		t.Fatalf("Release: %v", err)
	}
	c2 := Claim(t, r, e.Scope)
	if got := Objects(t, c2, "server"); len(got) != 0 {
		t.Fatalf("objects: %v", got)
	}
	release()
	err := <-done
	if WantKind(t, "the late commit", err, fault.Unavailable); len(Objects(t, c2, "server")) != 0 {
		t.Error("the late commit landed")
	}
	if c2.Context().Err() != nil {
		t.Error("the late commit ended the new claim")
	}
}

// testHang: when the store hangs, everything says so within a bound, and the index goes on.
func testHang(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1", TTL(time.Minute))
	e, free := Create(t, r, "alpha"), Create(t, r, "free")
	c := Claim(t, r, e.Scope)
	faulty.Hang(true)
	start := time.Now()
	var wg sync.WaitGroup
	for name, f := range map[string]func() error{
		"create": func() error {
			_, err := r.CreateTenant(t.Context(), Record("new"), Entry("", "tenant.create"))
			return err
		},
		"update": func() error {
			_, err := r.UpdateTenant(t.Context(), "alpha", 0, setName("x"), Entry("alpha", "tenant.update"))
			return err
		},
		"delete":  func() error { return r.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")) },
		"claim":   func() error { _, err := r.Claim(t.Context(), free.Scope); return err },
		"load":    func() error { _, err := c.Load(t.Context(), "server"); return err },
		"get":     func() error { _, _, err := r.Platform().Get(t.Context(), "x"); return err },
		"put":     func() error { return r.Platform().Put(t.Context(), "x", nil, 0) },
		"pending": func() error { _, err := r.Outbox().Pending(t.Context(), 1); return err },
		"heads":   func() error { _, err := r.Outbox().Heads(t.Context()); return err },
		"settle": func() error {
			return r.Outbox().Settle(t.Context(), map[string]audit.Head{"alpha": {Seq: 1}}, nil)
		},
		"commit": func() error {
			return c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
		},
	} {
		wg.Go(func() { WantKind(t, name+" on a store that hangs", f(), fault.Unavailable) })
	}
	wg.Wait()
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("the answers took %v", took)
	}
	if _, ok := r.Index().ByHost("alpha." + BaseDomain); !ok {
		t.Error("the index does not answer")
	}
	Eventually(t, "Healthy says so", func() bool { return fault.Is(r.Healthy(), fault.Unavailable) })
	faulty.Hang(false)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.CreateTenant(ended, Record("new"), Entry("", "tenant.create")); err == nil {
		t.Error("CreateTenant with a context that has ended")
	}
}

// testOutbox: the entries of all chains come in the order of their commits, and stay until they are settled.
func testOutbox(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	var want []string
	add := func(e audit.Entry) audit.Entry { want = append(want, e.Chain()+" "+e.ID); return e }
	select {
	case <-r.Outbox().Committed():
		t.Error("something was committed")
	default:
	}
	for i := range 3 {
		id := tenant.ID(fmt.Sprint("z", 9-i)) // commit order is not key order
		e, err := r.CreateTenant(t.Context(), Record(string(id)), add(Entry("", "tenant.create")))
		if err != nil {
			t.Fatalf("CreateTenant: %v", err)
		}
		c := Claim(t, r, e.Scope)
		for range 3 {
			if err := c.Commit(t.Context(), add(Entry(id, "server.create")), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")}); err != nil {
				t.Fatalf("Commit: %v", err)
			}
		}
		if _, err := r.UpdateTenant(t.Context(), id, 0, setName("x"), add(Entry(id, "tenant.update"))); err != nil {
			t.Fatalf("UpdateTenant: %v", err)
		}
	}
	if err := r.DeleteTenant(t.Context(), "z9", 0, add(Entry("z9", "tenant.delete"))); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	<-r.Outbox().Committed()
	pending := func(limit int) (out []string) {
		ps, err := r.Outbox().Pending(t.Context(), limit)
		if err != nil {
			t.Fatalf("Pending: %v", err)
		}
		for _, p := range ps {
			out = append(out, p.Entry.Chain()+" "+p.Entry.ID)
			if p.Entry.Chain() == "z9" && p.Entry.Action != "tenant.update" && p.Entry.TenantUID == "" {
				t.Errorf("the entry of %s does not say which tenant of this id", p.Entry.Action)
			}
		}
		return out
	}
	if got := pending(100); !slices.Equal(got, want) {
		t.Errorf("pending: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := pending(4); !slices.Equal(got, want[:4]) {
		t.Errorf("the first 4: got %v", got)
	}
}

// testSettle: heads and removals go together, in transactions of bounded size; a chain is never set back.
func testSettle(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	c := Claim(t, r, Create(t, r, "alpha").Scope)
	for i := range 250 {
		Write(t, c, "server", fmt.Sprint("s", i%5), "{}")
	}
	o := r.Outbox()
	if heads, err := o.Heads(t.Context()); err != nil || len(heads) != 0 {
		t.Fatalf("Heads of new chains: %v, %v", heads, err)
	}
	ps, err := o.Pending(t.Context(), 1000)
	if err != nil || len(ps) != 251 {
		t.Fatalf("Pending: %d, %v", len(ps), err)
	}
	heads := map[string]audit.Head{"alpha": {Seq: 250, Hash: [32]byte{1}}, audit.PlatformChain: {Seq: 1, Hash: [32]byte{2}}, "quiet": {Seq: 7}}
	for range 2 { // again, as after an answer that was lost
		if err := o.Settle(t.Context(), heads, ps); err != nil {
			t.Fatalf("Settle: %v", err)
		}
	}
	got, err := r.Outbox().Heads(t.Context())
	if err != nil || len(got) != 3 || got["alpha"] != heads["alpha"] || got["quiet"] != heads["quiet"] {
		t.Errorf("Heads: %v, %v", got, err)
	}
	if left, err := o.Pending(t.Context(), 10); err != nil || len(left) != 0 {
		t.Errorf("after Settle %v are pending, %v", left, err)
	}
	WantKind(t, "an older head", r.Outbox().Settle(t.Context(), map[string]audit.Head{"alpha": {Seq: 249}}, nil), fault.Conflict)
	WantKind(t, "another head", r.Outbox().Settle(t.Context(), map[string]audit.Head{"alpha": {Seq: 250, Hash: [32]byte{9}}}, nil), fault.Conflict)
	if err := r.Outbox().Settle(t.Context(), map[string]audit.Head{"alpha": {Seq: 251}}, nil); err != nil {
		t.Errorf("the next head, by a drain that has not read the heads: %v", err)
	}
	if err := o.Settle(t.Context(), nil, nil); err != nil {
		t.Errorf("Settle of nothing: %v", err)
	}
}

func testPlatform(t *testing.T, b Backend) {
	p := Start(t, b, "r1").Platform()
	_, _, err := p.Get(t.Context(), "certs/ca")
	WantKind(t, "Get of nothing", err, fault.NotFound)
	if err := p.Create(t.Context(), "certs/ca", []byte("1")); err != nil {
		t.Fatalf("Create: %v", err)
	}
	WantKind(t, "Create again", p.Create(t.Context(), "certs/ca", []byte("2")), fault.Conflict)
	v, rev, err := p.Get(t.Context(), "certs/ca")
	if err != nil || string(v) != "1" || rev == 0 {
		t.Errorf("Get: %s, %d, %v", v, rev, err)
	}
	if err := p.Put(t.Context(), "certs/ca", []byte("3"), rev); err != nil {
		t.Errorf("Put: %v", err)
	}
	WantKind(t, "Put of an old revision", p.Put(t.Context(), "certs/ca", []byte("4"), rev), fault.PreconditionFailed)
	for _, k := range []string{"any", "certs/ca"} {
		if err := p.Put(t.Context(), k, []byte("5"), 0); err != nil {
			t.Errorf("Put of any revision: %v", err)
		}
	}
	for _, k := range []string{"", "/", "a//b", "a b", "audit/alpha", "audit"} {
		WantKind(t, fmt.Sprintf("Put(%q)", k), p.Put(t.Context(), k, []byte("x"), 0), fault.Invalid)
	}
}
