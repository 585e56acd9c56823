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

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

func contextCause(c *registry.Claim) error { return context.Cause(c.Context()) }

func rangeOfNothing() registry.Range { return registry.Range{Key: "c/none"} }

// testClaim is the life of a claim.
func testClaim(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	if again := Claim(t, r1, e.Scope); again != c {
		t.Error("a second Claim is not the live one")
	}
	_, err := r2.Claim(t.Context(), e.Scope)
	WantKind(t, "claim of what another replica owns", err, fault.Unavailable)
	if f := fault.From(err); f.RetryAfter <= 0 {
		t.Errorf("no advice when to retry: %v", err)
	}
	Eventually(t, "both know the owner", func() bool {
		o1, ok1 := r1.Index().Owner("alpha")
		o2, ok2 := r2.Index().Owner("alpha")
		return ok1 && ok2 && o1 == o2 && o1 == registry.Owner{Replica: "r1", Epoch: c.Epoch()}
	})
	Write(t, c, "server", "b", `"1"`)
	Write(t, c, "server", "a", `"2"`)
	Write(t, c, "server", "b", `"3"`)
	err = c.Commit(t.Context(), Entry("alpha", "server.delete"),
		tenant.Write{Kind: "server", ID: "a"}, tenant.Write{Kind: "server", ID: "c", Value: []byte(`"4"`)}, tenant.Write{Kind: "key", ID: "c", Value: []byte(`"5"`)})
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	if got, want := Objects(t, c, "server"), []string{`b="3"`, `c="4"`}; !slices.Equal(got, want) {
		t.Errorf("objects: got %v, want %v", got, want)
	}
	if err := c.Release(t.Context()); err != nil {
		t.Fatalf("Release: %v", err)
	}
	if !errors.Is(contextCause(c), registry.ErrClaimLost) {
		t.Errorf("cause after Release: %v", contextCause(c))
	}
	err = c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "d", Value: []byte("{}")})
	if WantKind(t, "commit after Release", err, fault.Unavailable); !errors.Is(err, registry.ErrClaimLost) {
		t.Errorf("commit after Release: %v is not ErrClaimLost", err)
	}
	c2 := Claim(t, r2, e.Scope)
	if c2.Epoch() <= c.Epoch() {
		t.Errorf("epoch %d after %d", c2.Epoch(), c.Epoch())
	}
	if got, want := Objects(t, c2, "server"), []string{`b="3"`, `c="4"`}; !slices.Equal(got, want) {
		t.Errorf("objects at the next owner: got %v, want %v", got, want)
	}
	if err := c.Release(t.Context()); err != nil || c2.Context().Err() != nil {
		t.Errorf("a second Release: %v; the next owner's claim: %v", err, contextCause(c2))
	}
	many := make([]tenant.Write, 0, 90)
	for i := range 90 {
		many = append(many, tenant.Write{Kind: "many", ID: fmt.Sprintf("%04d", i), Value: fmt.Appendf(nil, "%d", i)})
	}
	if err := c2.Commit(t.Context(), Entry("alpha", "server.create"), many...); err != nil {
		t.Fatalf("a large commit: %v", err)
	}
	if got := Objects(t, c2, "many"); len(got) != 90 || got[89] != "0089=89" {
		t.Errorf("got %d objects", len(got))
	}
}

// testHandoff: the tenant goes to a chosen replica, with what was committed, and to no other.
func testHandoff(t *testing.T, b Backend) {
	r1, r2, r3 := Start(t, b, "r1"), Start(t, b, "r2"), Start(t, b, "r3")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	Write(t, c, "server", "s", `"1"`)
	WantKind(t, "hand-off to nobody", c.Handoff(t.Context(), "r9", nil), fault.NotFound)
	WantKind(t, "hand-off to itself", c.Handoff(t.Context(), "r1", nil), fault.Invalid)
	if c.Context().Err() != nil {
		t.Fatal("a refused hand-off ended the claim")
	}
	if err := c.Handoff(t.Context(), "r2", nil); err != nil {
		t.Fatalf("Handoff: %v", err)
	}
	if !errors.Is(contextCause(c), registry.ErrClaimLost) {
		t.Errorf("cause after Handoff: %v", contextCause(c))
	}
	_, err := r3.Claim(t.Context(), e.Scope)
	WantKind(t, "claim by a third", err, fault.Unavailable)
	_, err = r1.Claim(t.Context(), e.Scope)
	WantKind(t, "claim by the former owner", err, fault.Unavailable)
	Eventually(t, "all know the new owner", func() bool { o, _ := r3.Index().Owner("alpha"); return o.Replica == "r2" })
	c2 := Claim(t, r2, e.Scope)
	if got, want := Objects(t, c2, "server"), []string{`s="1"`}; !slices.Equal(got, want) {
		t.Errorf("objects at the new owner: got %v, want %v", got, want)
	}
	Write(t, c2, "server", "s", `"2"`)
	if err := c2.Handoff(t.Context(), "r1", nil); err != nil { // and back
		t.Fatalf("Handoff back: %v", err)
	}
	Write(t, Claim(t, r1, e.Scope), "server", "s", `"3"`)
}

// testShared: many callers at once share one acquisition and get one claim; on two replicas, one of them gets it.
func testShared(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	for i := range 5 {
		e := Create(t, r1, fmt.Sprint("alpha", i))
		mustByID(t, r2, e.Record.ID)
		var mu sync.Mutex
		got := map[*registry.Claim]int{}
		var wg sync.WaitGroup
		for j := range 40 {
			wg.Go(func() {
				c, err := []*Replica{r1, r2}[j%2].Claim(t.Context(), e.Scope)
				if err != nil && !fault.Is(err, fault.Unavailable) {
					t.Errorf("Claim: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				got[c]++
			})
		}
		wg.Wait()
		delete(got, nil)
		if len(got) != 1 {
			t.Errorf("%d claims on one tenant", len(got))
		}
	}
}

// testConcurrentCommits: commits of one claim run side by side, and none is lost.
func testConcurrentCommits(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	c := Claim(t, r, Create(t, r, "alpha").Scope)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			err := c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: fmt.Sprint("s", i), Value: []byte("{}")})
			if err != nil {
				t.Errorf("Commit: %v", err)
			}
		})
	}
	wg.Wait()
	if got := Objects(t, c, "server"); len(got) != 100 {
		t.Errorf("%d of 100 objects", len(got))
	}
}

// testBounds: what is too large is refused before the store sees it, and the claim goes on.
func testBounds(t *testing.T, b Backend) {
	r := Start(t, b, "r1")
	c := Claim(t, r, Create(t, r, "alpha").Scope)
	commit := func(ws ...tenant.Write) error {
		return c.Commit(t.Context(), Entry("alpha", "server.create"), ws...)
	}
	big := func(id string, n int) tenant.Write {
		return tenant.Write{Kind: "server", ID: id, Value: []byte(strings.Repeat("x", n))}
	}
	if err := commit(big("max", registry.MaxValue)); err != nil {
		t.Errorf("the largest value: %v", err)
	}
	WantKind(t, "a value too large", commit(big("over", registry.MaxValue+1)), fault.TooLarge)
	WantKind(t, "values too large together", commit(big("a", 800<<10), big("b", 800<<10)), fault.TooLarge)
	WantKind(t, "too many objects", commit(make([]tenant.Write, 101)...), fault.TooLarge)
	WantKind(t, "one object twice", commit(big("a", 1), big("a", 2)), fault.Invalid)
	WantKind(t, "a reserved kind", commit(tenant.Write{Kind: "_", ID: "0", Value: []byte("{}")}), fault.Invalid)
	WantKind(t, "platform data too large", r.Platform().Create(t.Context(), "big", make([]byte, registry.MaxValue+1)), fault.TooLarge)
	if _, err := c.Load(t.Context(), "a/b"); !fault.Is(err, fault.Invalid) {
		t.Errorf("Load of a bad kind: %v", err)
	}
	if got := Objects(t, c, "server"); len(got) != 1 || c.Context().Err() != nil {
		t.Errorf("after refusals: %d objects, claim %v", len(got), contextCause(c))
	}
}

// bothSides runs a story with the fence and with the planted defect. want says whether the stale commit must be refused.
func bothSides(t *testing.T, b Backend, story func(t *testing.T, stale, honest registry.Backend, id string) (refused bool)) {
	for _, c := range []struct {
		name   string
		stale  registry.Backend
		refuse bool
	}{
		{"fenced", b, true},
		{"unfenced", Unfenced{b}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := story(t, c.stale, b, c.name); got != c.refuse {
				t.Errorf("the stale commit was refused: got %v, want %v", got, c.refuse)
			}
		})
	}
}

// testFenceHandoff: a commit that was under way when the tenant was handed off does not land after it. Without the
// comparison of the epoch, it does.
func testFenceHandoff(t *testing.T, b Backend) {
	bothSides(t, b, func(t *testing.T, stale, honest registry.Backend, id string) bool {
		faulty := &Faulty{Backend: stale}
		r1, r2 := Start(t, faulty, "r1-"+id), Start(t, honest, "r2-"+id)
		e := Create(t, r1, id)
		c := Claim(t, r1, e.Scope)
		arrived, release := faulty.Hold("t/" + id + "/server/")
		done := make(chan error)
		go func() {
			done <- c.Commit(context.Background(), Entry(e.Record.ID, "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte(`"stale"`)})
		}()
		<-arrived
		if err := c.Handoff(t.Context(), "r2-"+id, nil); err != nil {
			t.Fatalf("Handoff: %v", err)
		}
		c2 := Claim(t, r2, e.Scope)
		if got := Objects(t, c2, "server"); len(got) != 0 {
			t.Fatalf("the new owner loads %v", got)
		}
		release()
		err := <-done
		applied := Dump(t, b)["t/"+id+"/server/s"].ModRevision != 0
		if refused := err != nil; refused == applied {
			t.Errorf("the commit returned %v, but applied is %v", err, applied)
		}
		if err != nil && !errors.Is(err, registry.ErrClaimLost) {
			t.Errorf("the refused commit: %v is not ErrClaimLost", err)
		}
		return !applied
	})
}

// testFenceExpiry: an owner whose lease has expired, and that does not know (it was stopped, or its clock is wrong),
// cannot write any more (X44). Without the comparison of the epoch, it can.
func testFenceExpiry(t *testing.T, b Backend) {
	bothSides(t, b, func(t *testing.T, stale, honest registry.Backend, id string) bool {
		faulty := &Faulty{Backend: stale}
		// An hour by its own clock, and nothing is heard of the store: as sure of its claim as a replica can be.
		r1, r2 := Start(t, faulty, "r1-"+id, TTL(time.Hour)), Start(t, honest, "r2-"+id)
		e := Create(t, r1, id)
		c := Claim(t, r1, e.Scope)
		lease := Dump(t, b)["o/"+id].Lease
		faulty.Deafen(true)
		if err := b.Revoke(t.Context(), lease); err != nil { // what etcd does at the end of the TTL
			t.Fatalf("Revoke: %v", err)
		}
		c2 := Claim(t, r2, e.Scope)
		if c.Context().Err() != nil {
			t.Fatal("the stale owner knows; the test proves nothing")
		}
		err := c.Commit(t.Context(), Entry(e.Record.ID, "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte(`"stale"`)})
		applied := Dump(t, b)["t/"+id+"/server/s"].ModRevision != 0
		if refused := err != nil; refused == applied {
			t.Errorf("the commit returned %v, but applied is %v", err, applied)
		}
		if err != nil {
			WantKind(t, "the refused commit", err, fault.Unavailable)
			if !errors.Is(err, registry.ErrClaimLost) || !errors.Is(contextCause(c), registry.ErrClaimLost) {
				t.Errorf("the refused commit: %v, the claim's cause: %v", err, contextCause(c))
			}
			Write(t, c2, "server", "s2", `"fresh"`)
		}
		return !applied
	})
}

// testSessionLost: a replica that cannot reach the store stops before its lease can have expired there, by its own
// clock, and goes on by itself when the store answers again (X45).
func testSessionLost(t *testing.T, b Backend) {
	const ttl = 2 * time.Second
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1", TTL(ttl))
	e := Create(t, r, "alpha")
	c := Claim(t, r, e.Scope)
	if err := r.Healthy(); err != nil {
		t.Fatalf("Healthy: %v", err)
	}
	faulty.Hang(true)
	cut := time.Now()
	select {
	case <-c.Context().Done():
	case <-time.After(2 * ttl):
		t.Fatal("the claim outlived its lease")
	}
	if took := time.Since(cut); took >= ttl {
		t.Errorf("the claim ended %v after the store was cut off: not before the TTL of %v", took, ttl)
	}
	if cause := contextCause(c); !errors.Is(cause, registry.ErrSessionLost) || !errors.Is(cause, registry.ErrClaimLost) {
		t.Errorf("cause: %v", cause)
	}
	WantKind(t, "Healthy without a session", r.Healthy(), fault.Unavailable)
	_, err := r.Claim(t.Context(), e.Scope)
	WantKind(t, "Claim without a session", err, fault.Unavailable)
	err = c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
	WantKind(t, "Commit without a session", err, fault.Unavailable)
	if _, ok := r.Index().ByID("alpha"); !ok {
		t.Error("the index is gone with the session")
	}
	faulty.Hang(false)
	Eventually(t, "there is a new session", func() bool { return r.Healthy() == nil })
	c2 := Claim(t, r, e.Scope)
	Write(t, c2, "server", "s", "{}")
}

// testTakeOver: after a crash, the same replica serves at once if it may end its predecessor's session, and else when
// the lease has expired.
func testTakeOver(t *testing.T, b Backend) {
	const ttl = 3 * time.Second
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1", TTL(ttl))
	e := Create(t, r, "alpha")
	Write(t, Claim(t, r, e.Scope), "server", "s", `"1"`)
	faulty.Crash()
	r.Stop()

	start := time.Now()
	r = Start(t, faulty.Backend, "r1", TTL(ttl), TakeOver)
	c := Claim(t, r, e.Scope)
	if took := time.Since(start); took > ttl/2 {
		t.Errorf("after a crash the tenant is served after %v", took)
	}
	if got, want := Objects(t, c, "server"), []string{`s="1"`}; !slices.Equal(got, want) {
		t.Errorf("objects: got %v, want %v", got, want)
	}

	second := Launch(t, b, "r1", TTL(ttl)) // same name, no right to take over
	Eventually(t, "the second process of one name is told so", func() bool {
		err := second.Healthy()
		return err != nil && strings.Contains(err.Error(), "another process is registered as replica r1")
	})
	if c.Context().Err() != nil {
		t.Error("the second process ended the first one's claim")
	}
	select {
	case <-second.Ready():
		t.Error("the second process is ready")
	default:
	}
	r.Stop()
	<-second.Ready()
	Claim(t, second, e.Scope)
}

// testStopReleases: a replica that stops in good order releases its tenants at once.
func testStopReleases(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1", TTL(time.Minute)), Start(t, b, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	r1.Stop()
	if !errors.Is(contextCause(c), registry.ErrClaimLost) {
		t.Errorf("cause after the stop: %v", contextCause(c))
	}
	Write(t, Claim(t, r2, e.Scope), "server", "s", "{}")
	Eventually(t, "the replica is gone from the index", func() bool { _, ok := r2.Index().Replica("r1"); return !ok })
	if rep, ok := r2.Index().Replica("r2"); !ok || rep.Address != "r2:7443" || rep.Lease == 0 {
		t.Errorf("the other replica: %+v, %v", rep, ok)
	}
}
