package registrytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/registry"
)

// wantOwner checks that an error names the replica that owns the tenant in this one's place.
func wantOwner(t *testing.T, what string, err, sentinel error, replica string) {
	t.Helper()
	var owner *registry.OwnerError
	if !errors.Is(err, sentinel) || !errors.As(err, &owner) || owner.Replica != replica {
		t.Errorf("%s: got %v, want %v by %s", what, err, sentinel, replica)
	}
}

// handedKeys returns what lies in the store for whoever adopts.
func handedKeys(t *testing.T, b Backend) (keys []string) {
	t.Helper()
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "c/handed/") {
			keys = append(keys, k)
		}
	}
	return keys
}

// testHandoffState: what goes along reaches the one who adopts, once, and stays nowhere; who is asked meanwhile says who
// owns the tenant, and the cause of the end tells that it was planned.
func testHandoffState(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	if c.Handed() != nil {
		t.Errorf("a first claim has %q", c.Handed())
	}
	WantKind(t, "too much along", c.Handoff(t.Context(), "r2", make([]byte, registry.MaxHanded+1)), fault.TooLarge)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Handoff(ended, "r2", nil); err == nil || c.Context().Err() != nil {
		t.Errorf("a hand-off for nobody: %v, claim %v", err, contextCause(c))
	}
	state := bytes.Repeat([]byte{0, 0xff}, registry.MaxHanded/2)
	if err := c.Handoff(t.Context(), "r2", state); err != nil {
		t.Fatalf("Handoff: %v", err)
	}
	wantOwner(t, "the cause", contextCause(c), registry.ErrHandedOff, "r2")
	if !errors.Is(contextCause(c), registry.ErrClaimLost) {
		t.Errorf("the cause %v is no ErrClaimLost", contextCause(c))
	}
	err := c.Commit(t.Context(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: "s", Value: []byte("{}")})
	WantKind(t, "a commit afterwards", err, fault.Unavailable)
	wantOwner(t, "a commit afterwards", err, registry.ErrHandedOff, "r2")
	_, err = r1.Claim(t.Context(), e.Scope)
	WantKind(t, "a claim by the former owner", err, fault.Unavailable)
	wantOwner(t, "a claim by the former owner", err, registry.ErrOwnedElsewhere, "r2")
	c2 := Claim(t, r2, e.Scope)
	if got := c2.Handed(); !bytes.Equal(got, state) {
		t.Errorf("handed: %d bytes, want %d", len(got), len(state))
	}
	if got := c2.Handed(); got != nil {
		t.Errorf("handed a second time: %d bytes", len(got))
	}
	if keys := handedKeys(t, b); len(keys) != 0 {
		t.Errorf("after the adoption there is still %v", keys)
	}
	if err := c2.Handoff(t.Context(), "r1", nil); err != nil {
		t.Fatalf("Handoff back: %v", err)
	}
	if got := Claim(t, r1, e.Scope).Handed(); got != nil {
		t.Errorf("handed nothing, got %d bytes", len(got))
	}
}

// testHandoffSeen: also where the watch brings word of the hand-off before the store's answer is here, or where the answer
// is lost, the end is a planned one, and what goes along arrives.
func testHandoffSeen(t *testing.T, b Backend) {
	trap, lossy := &Ambush{Backend: b}, &Faulty{Backend: b}
	r1, r2 := Start(t, trap, "r1"), Start(t, lossy, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	trap.Lay("o/alpha", func(_ context.Context, do func() error) error {
		if err := do(); err != nil {
			return err
		}
		WaitLost(t, c) // by the watch
		return errAnswerLost
	})
	if err := c.Handoff(t.Context(), "r2", []byte("limits")); err != nil {
		t.Errorf("Handoff: %v", err)
	}
	wantOwner(t, "the cause", contextCause(c), registry.ErrHandedOff, "r2")
	lossy.LoseAnswers(1) // of the adoption
	if got := string(Claim(t, r2, e.Scope).Handed()); got != "limits" {
		t.Errorf("handed: %q", got)
	}
}

// testHandoffWaits: a hand-off waits for the commits that are under way, so that none is refused for it. One that hangs
// for longer is left to the fence (fence/handoff).
func testHandoffWaits(t *testing.T, b Backend) {
	slow := &Faulty{Backend: b}
	r1, r2 := Start(t, slow, "r1"), Start(t, b, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	arrived, release := slow.Hold("t/alpha/server/")
	write := func(id string) chan error {
		done := make(chan error, 1)
		go func() {
			done <- c.Commit(context.Background(), Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: id, Value: []byte("{}")})
		}()
		return done
	}
	under := write("under-way")
	<-arrived
	moved := make(chan error, 1)
	go func() { moved <- c.Handoff(context.Background(), "r2", nil) }()
	select {
	case err := <-moved:
		t.Fatalf("the hand-off did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	WantKind(t, "a second hand-off", c.Handoff(t.Context(), "r2", nil), fault.Conflict)
	late := write("late")
	release()
	if err := <-under; err != nil {
		t.Errorf("the commit that was under way: %v", err)
	}
	if err := <-moved; err != nil {
		t.Errorf("Handoff: %v", err)
	}
	wantOwner(t, "the commit that came late", <-late, registry.ErrHandedOff, "r2")
	if got, want := strings.Join(Objects(t, Claim(t, r2, e.Scope), "server"), " "), "under-way={}"; got != want {
		t.Errorf("objects at the new owner: got %s, want %s", got, want)
	}
}

// testHandoffForeign: what was left for another tenant of the id, or another session, is not taken for this one's.
func testHandoffForeign(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	for _, what := range []string{`"uid":`, `"lease":`} {
		e := Create(t, r1, "alpha")
		c := Claim(t, r1, e.Scope)
		mustByID(t, r2, "alpha")
		if err := c.Handoff(t.Context(), "r2", []byte("limits")); err != nil {
			t.Fatalf("Handoff: %v", err)
		}
		along := Dump(t, b)["c/handed/alpha"]
		foreign := strings.Replace(string(along.Value), what, `"former":`, 1)
		mustTxn(t, b, &registry.Txn{Puts: []registry.Put{{Key: along.Key, Value: []byte(foreign), Lease: along.Lease}}})
		if got := Claim(t, r2, e.Scope).Handed(); got != nil {
			t.Errorf("without %s it was handed %q", what, got)
		}
		if err := r1.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")); err != nil {
			t.Fatalf("DeleteTenant: %v", err)
		}
	}
}

// testHandoffDead: a tenant that was handed to a replica which dies before it adopts is anybody's when the lease is over,
// without what went along; and a tenant made again under its id finds nothing of it either.
func testHandoffDead(t *testing.T, b Backend) {
	dying := NewProcess(b)
	r1, r2 := Start(t, b, "r1"), Start(t, dying, "r2", TTL(time.Second))
	var claims []*registry.Claim
	for i := range 2 {
		claims = append(claims, Claim(t, r1, Create(t, r1, fmt.Sprint("alpha", i)).Scope))
	}
	Write(t, claims[0], "server", "s", "{}")
	for _, c := range claims {
		if err := c.Handoff(t.Context(), "r2", []byte("limits")); err != nil {
			t.Fatalf("Handoff: %v", err)
		}
	}
	if err := r1.DeleteTenant(t.Context(), "alpha1", 0, Entry("alpha1", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	again := Create(t, r1, "alpha1")
	mustByID(t, r2, "alpha1")
	if got := Claim(t, r2, again.Scope).Handed(); got != nil {
		t.Errorf("a tenant made again was handed %q", got)
	}
	dying.Kill()
	var c *registry.Claim
	Eventually(t, "another replica has the tenant", func() (ok bool) {
		var err error
		c, err = r1.Claim(t.Context(), claims[0].Scope())
		return err == nil
	})
	if got := c.Handed(); got != nil {
		t.Errorf("who did not adopt was handed %q", got)
	}
	if got := Objects(t, c, "server"); len(got) != 1 {
		t.Errorf("objects: %v", got)
	}
	r2.Stop()
	Eventually(t, "nothing is left of the hand-off", func() bool { return len(handedKeys(t, b)) == 0 })
}

// testCommitIf: a commit that was allowed by a record which has changed since is refused, and the claim goes on; where the
// answer is lost it is made once all the same.
func testCommitIf(t *testing.T, b Backend) {
	lossy := &Faulty{Backend: b}
	r1, r2 := Start(t, lossy, "r1"), Start(t, b, "r2")
	e := Create(t, r1, "alpha")
	c := Claim(t, r1, e.Scope)
	write := func(record int64, id string) error {
		return c.CommitIf(t.Context(), record, Entry("alpha", "server.create"), tenant.Write{Kind: "server", ID: id, Value: []byte("{}")})
	}
	if err := write(e.Record.Revision, "first"); err != nil {
		t.Fatalf("CommitIf: %v", err)
	}
	changed, err := r2.UpdateTenant(t.Context(), "alpha", 0, setName("x"), Entry("alpha", "tenant.update"))
	if err != nil {
		t.Fatalf("UpdateTenant: %v", err)
	}
	err = write(e.Record.Revision, "stale")
	if WantKind(t, "by an old record", err, fault.PreconditionFailed); !errors.Is(err, registry.ErrRecordChanged) {
		t.Errorf("by an old record: %v is not ErrRecordChanged", err)
	}
	if c.Context().Err() != nil {
		t.Fatalf("the refusal ended the claim: %v", contextCause(c))
	}
	lossy.LoseAnswers(1)
	if err := write(changed.Record.Revision, "second"); err != nil {
		t.Errorf("by the record as it is: %v", err)
	}
	if err := write(0, "third"); err != nil {
		t.Errorf("by no record: %v", err)
	}
	if got, want := strings.Join(Objects(t, c, "server"), " "), "first={} second={} third={}"; got != want {
		t.Errorf("objects: got %s, want %s", got, want)
	}
	if err := r2.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	WaitLost(t, c) // one that is under way then is broken off, and its outcome unknown
	err = write(changed.Record.Revision, "none")
	if WantKind(t, "of a tenant that is gone", err, fault.Unavailable); !errors.Is(err, registry.ErrClaimLost) {
		t.Errorf("of a tenant that is gone: %v is not ErrClaimLost", err)
	}
}
