package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
	"github.com/polygate/polygate/registry"
)

func tryLock(t *testing.T, r *Replica, name string) (vault.Lock, bool) {
	t.Helper()
	l, ok, err := r.Vault().TryLock(t.Context(), name)
	if err != nil {
		t.Fatalf("TryLock(%s): %v", name, err)
	}
	return l, ok
}

func mustLock(t *testing.T, r *Replica, name string) vault.Lock {
	t.Helper()
	l, ok := tryLock(t, r, name)
	if !ok {
		t.Fatalf("the lock %s is held", name)
	}
	return l
}

func fencedPut(ctx context.Context, r *Replica, l vault.Lock, key, value string) error {
	_, err := r.Vault().Commit(ctx, vault.Owner{}, vault.Batch{Puts: []vault.Put{{Key: key, Value: []byte(value)}}, Fences: []vault.Lock{l}})
	return err
}

func wantFenced(t *testing.T, what string, err error) {
	t.Helper()
	if WantKind(t, what, err, fault.Conflict); !errors.Is(err, vault.ErrFenced) {
		t.Errorf("%s: %v is not ErrFenced", what, err)
	}
}

// testVaultLock: one holder at a time, of all replicas and within one; given back, it is the next one's.
func testVaultLock(t *testing.T, b Backend) {
	r1, r2 := Start(t, b, "r1"), Start(t, b, "r2")
	l := mustLock(t, r1, "issue/t1/a.example.com")
	for _, r := range []*Replica{r1, r2} {
		if _, ok := tryLock(t, r, "issue/t1/a.example.com"); ok {
			t.Error("a lock was taken twice")
		}
	}
	mustLock(t, r2, "issue/t10/a.example.com")
	mustLock(t, r2, "issue/t1/a.example")
	if err := fencedPut(t.Context(), r1, l, "k", "held"); err != nil {
		t.Errorf("a change under the lock: %v", err)
	}
	got := make(chan vault.Lock)
	go func() {
		l, err := r2.Vault().Lock(context.Background(), "issue/t1/a.example.com")
		if err != nil {
			t.Errorf("Lock: %v", err)
		}
		got <- l
	}()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r1.Vault().Lock(short, "issue/t1/a.example.com"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock of what is held, with a context that ends: %v", err)
	}
	if err := r1.Vault().Unlock(t.Context(), l); err != nil {
		t.Errorf("Unlock: %v", err)
	}
	l2 := <-got
	if l2.Revision <= l.Revision {
		t.Errorf("the second holding %+v does not differ from the first %+v", l2, l)
	}
	if err := r1.Vault().Unlock(t.Context(), l); err != nil {
		t.Errorf("Unlock of a lock that was lost: %v", err)
	}
	wantFenced(t, "a change under the first holding", fencedPut(t.Context(), r1, l, "k", "stale"))
	if err := fencedPut(t.Context(), r2, l2, "k", "second"); err != nil {
		t.Errorf("after the first holder gave back what it had lost: %v", err)
	}
	wantKept(t, "what is stored", r1, vault.Owner{}, "", "k=second")
	if err := r2.Vault().Unlock(t.Context(), vault.Lock{Name: "never"}); err != nil {
		t.Errorf("Unlock of nothing: %v", err)
	}
}

// testVaultMutex: of many that add to a number under a lock, on two replicas, each adds once.
func testVaultMutex(t *testing.T, b Backend) {
	rs := []*Replica{Start(t, b, "r1"), Start(t, b, "r2")}
	Keep(t, rs[0], vault.Owner{}, "n", "0")
	const workers, each = 8, 3
	add := func(r *Replica) error {
		v := r.Vault()
		l, err := v.Lock(t.Context(), "counter")
		if err != nil {
			return err
		}
		it, err := v.Get(t.Context(), vault.Owner{}, "n")
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(it.Value))
		if err := fencedPut(t.Context(), r, l, "n", strconv.Itoa(n+1)); err != nil {
			return err
		}
		return v.Unlock(t.Context(), l)
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range each {
				if err := add(rs[i%2]); err != nil {
					t.Errorf("worker %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	wantKept(t, "the number", rs[0], vault.Owner{}, "", "n="+strconv.Itoa(workers*each))
}

// testVaultFence: a holder that lost its lock without knowing changes nothing any more; with the comparison taken out of
// the transactions it would.
func testVaultFence(t *testing.T, b Backend) {
	bothSides(t, b, func(t *testing.T, stale, honest registry.Backend, id string) bool {
		r1, r2 := Start(t, stale, "r1-"+id), Start(t, honest, "r2-"+id)
		l := mustLock(t, r1, "lock-"+id)
		mustTxn(t, b, &registry.Txn{Deletes: []string{"c/lock/lock-" + id}}) // lost, however
		l2 := mustLock(t, r2, "lock-"+id)
		if err := fencedPut(t.Context(), r2, l2, id, "fresh"); err != nil {
			t.Errorf("the holder's change: %v", err)
		}
		err := fencedPut(t.Context(), r1, l, id, "stale")
		refused := slices.Equal(Kept(t, r2, vault.Owner{}, ""), []string{id + "=fresh"})
		if refused != (err != nil) {
			t.Errorf("the change returned %v, but refused is %v", err, refused)
		}
		if err != nil {
			wantFenced(t, "the stale holder's change", err)
		}
		mustTxn(t, b, &registry.Txn{DeletePrefixes: []string{"v/_/"}})
		return refused
	})
}

// testVaultExpiry: a holder whose lease has expired in the store, and which does not know, is fenced; one that knows is
// too, at once; and what was locked in the session before is free in the next one.
func testVaultExpiry(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	// An hour by its own clock, as a process that was stopped until a moment ago.
	r1, r2 := Start(t, faulty, "r1", TTL(time.Hour)), Start(t, b, "r2")
	if err := fencedPut(t.Context(), r1, mustLock(t, r1, "other"), "k", "0"); err != nil { // its lanes are in use
		t.Fatalf("a change under a lock: %v", err)
	}
	l := mustLock(t, r1, "issue/a")
	if err := b.Revoke(t.Context(), Dump(t, b)["c/lock/issue/a"].Lease); err != nil { // what etcd does at the end of the TTL
		t.Fatalf("Revoke: %v", err)
	}
	l2 := mustLock(t, r2, "issue/a")
	for range 20 { // on each lane
		wantFenced(t, "a change after the lease expired", fencedPut(t.Context(), r1, l, "k", "stale"))
	}
	if err := fencedPut(t.Context(), r2, l2, "k", "fresh"); err != nil {
		t.Errorf("the new holder's change: %v", err)
	}

	fr3 := &Faulty{Backend: b}
	r3 := Start(t, fr3, "r3", TTL(time.Second))
	l3 := mustLock(t, r3, "issue/b")
	fr3.Hang(true)
	Eventually(t, "the session is over", func() bool { return r3.Healthy() != nil && strings.Contains(r3.Healthy().Error(), "session") })
	wantFenced(t, "a change without a session", fencedPut(t.Context(), r3, l3, "k", "stale"))
	_, _, err := r3.Vault().TryLock(t.Context(), "issue/c")
	WantKind(t, "TryLock without a session", err, fault.Unavailable)
	_, err = r3.Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Deletes: []string{"k"}})
	WantKind(t, "Commit without a session", err, fault.Unavailable)
	fr3.Hang(false)
	again, err := r3.Vault().Lock(t.Context(), "issue/b")
	if err != nil || again.Revision <= l3.Revision {
		t.Fatalf("Lock in the next session: %+v, %v", again, err)
	}
	wantFenced(t, "a change under the old holding", fencedPut(t.Context(), r3, l3, "k", "stale"))
	if err := fencedPut(t.Context(), r3, again, "k", "third"); err != nil {
		t.Errorf("a change in the next session: %v", err)
	}
	wantKept(t, "what is stored", r2, vault.Owner{}, "", "k=third")
}

// testVaultDeadHolder: the lock of a replica that died is free when its lease is over, that of one that stops at once, and
// nothing of theirs stays in the store.
func testVaultDeadHolder(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	dead, polite, r := Start(t, faulty, "dead", TTL(time.Second)), Start(t, b, "polite"), Start(t, b, "r")
	for name, h := range map[string]*Replica{"dead": dead, "polite": polite} {
		if err := fencedPut(t.Context(), h, mustLock(t, h, "lock-"+name), name, "x"); err != nil {
			t.Errorf("a change of %s: %v", name, err)
		}
	}
	polite.Stop()
	mustLock(t, r, "lock-polite")
	faulty.Crash()
	dead.Stop()
	if _, ok := tryLock(t, r, "lock-dead"); ok {
		t.Error("the lock of a replica that died is free before its lease is over")
	}
	l, err := r.Vault().Lock(t.Context(), "lock-dead")
	if err != nil {
		t.Fatalf("Lock: %v", err)
	}
	lease := fmt.Sprintf("c/lane/%x/", int64(Dump(t, b)["c/lock/lock-dead"].Lease))
	for k := range Dump(t, b) {
		if strings.HasPrefix(k, "c/lane/") && !strings.HasPrefix(k, lease) {
			t.Errorf("%s is left of a replica that is gone", k)
		}
	}
	wantKept(t, "what they stored", r, vault.Owner{}, "", "dead=x", "polite=x")
	if err := r.Vault().Unlock(t.Context(), l); err != nil {
		t.Errorf("Unlock: %v", err)
	}
}

// testVaultLostAnswers: a change whose answer was lost is made once, also one that compares nothing, and does not undo
// what others did meanwhile; a lock whose answer was lost is held.
func testVaultLostAnswers(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1")
	o := vault.Of(Create(t, r, "alpha").Scope)
	for n := 1; n <= 2; n++ {
		for i := range 20 { // more than there are lanes
			faulty.LoseAnswers(n)
			entry := Entry("alpha", "certificate.import")
			key := fmt.Sprint("k", n, "-", i)
			rev, err := r.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: key}}, Audit: &entry})
			if err != nil {
				t.Fatalf("Commit: %v", err)
			}
			if kv := Dump(t, b)["v/alpha/"+key]; kv.ModRevision != rev || kv.CreateRevision != rev {
				t.Errorf("a change was answered with %d and made at %+v", rev, kv)
			}
		}
		faulty.LoseAnswers(n)
		l := mustLock(t, r, "x")
		if kv := Dump(t, b)["c/lock/x"]; kv.ModRevision != l.Revision {
			t.Errorf("the lock is %+v, its key %+v", l, kv)
		}
		faulty.LoseAnswers(n)
		if err := r.Vault().Unlock(t.Context(), l); err != nil {
			t.Errorf("Unlock: %v", err)
		}
	}
	trap := &Ambush{Backend: b}
	r2, other := Start(t, trap, "r2"), Start(t, b, "r3")
	for what, by := range map[string]func(){
		"written": func() { Keep(t, other, o, "k", "theirs") },
		"deleted": func() { mustTxn(t, b, &registry.Txn{Deletes: []string{"v/alpha/k"}}) },
	} {
		trap.Lay("v/alpha/k", func(_ context.Context, do func() error) error {
			if err := do(); err != nil {
				return err
			}
			by()
			drainAll(t, b)
			return errAnswerLost
		})
		entry := Entry("alpha", "certificate.import")
		if _, err := r2.Vault().Commit(t.Context(), o, vault.Batch{Puts: []vault.Put{{Key: "k", Value: []byte("ours")}}, Audit: &entry}); err != nil {
			t.Errorf("%s meanwhile: %v", what, err)
		}
		if slices.Contains(Kept(t, other, o, ""), "k=ours") {
			t.Errorf("%s meanwhile: the repeated attempt undid it", what)
		}
	}
}

// late is a backend whose transactions that put a key beginning with prefix are lost, until the first of them arrives after
// all.
type late struct {
	registry.Backend
	mu     sync.Mutex // guards what follows
	prefix string     // "" = nothing is lost
	first  *registry.Txn
}

func (l *late) lose(prefix string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prefix = prefix
}

func (l *late) Txn(ctx context.Context, t *registry.Txn) (*registry.TxnResult, error) {
	l.mu.Lock()
	lost := l.prefix != "" && slices.ContainsFunc(t.Puts, func(p registry.Put) bool { return strings.HasPrefix(p.Key, l.prefix) })
	if lost && l.first == nil {
		l.first = t
	}
	l.mu.Unlock()
	if lost {
		return nil, errAnswerLost
	}
	return l.Backend.Txn(ctx, t)
}

// testVaultLateChange: a change that was reported as unknown, and repeated, cannot land later and undo what came after it.
func testVaultLateChange(t *testing.T, b Backend) {
	slow := &late{Backend: b}
	r := Start(t, slow, "r1", TTL(time.Minute))
	var wg sync.WaitGroup
	slow.lose("v/_/k")
	for range 3 { // several lanes
		wg.Go(func() {
			_, err := r.Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Puts: []vault.Put{{Key: "k", Value: []byte("old")}}})
			if !errors.Is(err, registry.ErrUnknown) {
				t.Errorf("a change that is lost: %v", err)
			}
		})
	}
	wg.Wait()
	slow.lose("")
	Keep(t, r, vault.Owner{}, "k", "new") // on another lane
	mustTxn(t, b, slow.first)
	wantKept(t, "after the first arrived", r, vault.Owner{}, "", "k=new")
	for range 20 { // on each lane, those in doubt too
		Keep(t, r, vault.Owner{}, "k", "newer")
	}
}

// testVaultContendedLock: of those who find a lock free at once one gets it, also where the first attempt of another was lost.
func testVaultContendedLock(t *testing.T, b Backend) {
	trap := &Ambush{Backend: b}
	r, other := Start(t, trap, "r1", TTL(time.Minute)), Start(t, b, "r2")
	for name, lost := range map[string]error{"raced": nil, "lost": errAnswerLost} {
		var l vault.Lock
		trap.Lay("c/lock/", func(_ context.Context, do func() error) error {
			l = mustLock(t, other, name)
			if lost != nil {
				return lost
			}
			return do()
		})
		if got, ok := tryLock(t, r, name); ok {
			t.Errorf("%s: two hold the lock: %+v and %+v", name, got, l)
		}
		if err := fencedPut(t.Context(), other, l, name, "x"); err != nil {
			t.Errorf("%s: the holder's change: %v", name, err)
		}
	}
}

// testVaultOrphans: a lock that was taken, or given back, without an answer to tell of it does not stay taken for as long
// as the replica lives; and an answer that never comes is said to be one.
func testVaultOrphans(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, other := Start(t, faulty, "r1", TTL(time.Minute)), Start(t, b, "r2")
	kept := mustLock(t, r, "kept")
	faulty.LoseAnswers(1 << 20)
	var wg sync.WaitGroup
	for what, f := range map[string]func() error{
		"TryLock": func() error { _, _, err := r.Vault().TryLock(t.Context(), "orphan"); return err },
		"Commit": func() error {
			_, err := r.Vault().Commit(t.Context(), vault.Owner{}, vault.Batch{Puts: []vault.Put{{Key: "k"}}})
			return err
		},
	} {
		wg.Go(func() {
			err := f()
			if WantKind(t, what+" without an answer", err, fault.Unavailable); !errors.Is(err, registry.ErrUnknown) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	wg.Wait()
	faulty.LoseAnswers(0)
	faulty.Drop(1 << 20)
	WantKind(t, "Unlock without an answer", r.Vault().Unlock(t.Context(), kept), fault.Unavailable)
	if _, ok := tryLock(t, other, "kept"); ok {
		t.Fatal("the lock is free already; the test proves nothing")
	}
	faulty.Drop(0)
	for _, name := range []string{"orphan", "kept"} {
		Eventually(t, name+" is free", func() bool { _, ok := tryLock(t, other, name); return ok })
	}
	Keep(t, r, vault.Owner{}, "k", "goes on")
}

// testVaultHang: when the store hangs, everything says so within a bound.
func testVaultHang(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r := Start(t, faulty, "r1", TTL(time.Minute))
	o := vault.Of(Create(t, r, "alpha").Scope)
	l := mustLock(t, r, "held")
	v := r.Vault()
	faulty.Hang(true)
	start := time.Now()
	var wg sync.WaitGroup
	for name, f := range map[string]func() error{
		"get":    func() error { _, err := v.Get(t.Context(), o, "k"); return err },
		"list":   func() error { _, _, err := v.List(t.Context(), o, "", "", 0); return err },
		"commit": func() error { _, err := v.Commit(t.Context(), o, vault.Batch{Deletes: []string{"k"}}); return err },
		"platform": func() error {
			_, err := v.Commit(t.Context(), vault.Owner{}, vault.Batch{Deletes: []string{"k"}})
			return err
		},
		"trylock": func() error { _, _, err := v.TryLock(t.Context(), "free"); return err },
		"unlock":  func() error { return v.Unlock(t.Context(), l) },
		"due":     func() error { _, _, err := v.Due(t.Context(), time.Now(), "", 0); return err },
		"forget":  func() error { return v.Forget(t.Context(), vault.Due{Owner: "gone", Name: "x"}) },
	} {
		wg.Go(func() { WantKind(t, name+" on a store that hangs", f(), fault.Unavailable) })
	}
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := v.Lock(ctx, "free"); err == nil || ctx.Err() == nil {
			t.Errorf("Lock on a store that hangs: %v", err)
		}
	})
	wg.Wait()
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("the answers took %v", took)
	}
	faulty.Hang(false)
}

// changes notes what a subscriber hears.
type changes struct {
	mu    sync.Mutex
	heard []string
}

func (c *changes) hear(owner, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, owner+":"+key)
}

func (c *changes) has(want ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range want {
		if !slices.Contains(c.heard, w) {
			return false
		}
	}
	return true
}

func (c *changes) reset() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	heard := c.heard
	c.heard = nil
	return heard
}

// testVaultEvents: every replica hears of every change, once, in order, also over a broken watch, until it cancels.
func testVaultEvents(t *testing.T, b Backend) {
	faulty := &Faulty{Backend: b}
	r, far := Start(t, b, "r1"), Start(t, faulty, "r2")
	o := vault.Of(Create(t, r, "alpha").Scope)
	var own, heard changes
	defer r.Vault().Subscribe(own.hear)()
	cancel := far.Vault().Subscribe(heard.hear)
	Keep(t, r, o, "first", "x")
	Eventually(t, "the first is heard", func() bool { return heard.has("alpha:first") && own.has("alpha:first") })
	heard.reset()
	own.reset()
	var want []string
	for i := range 6 {
		Keep(t, r, o, fmt.Sprint("host/", i), "x")
		want = append(want, fmt.Sprint("alpha:host/", i))
		if i%2 == 0 {
			faulty.CutWatch()
		}
	}
	Keep(t, r, vault.Owner{}, "tickets", "x")
	if err := r.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	Eventually(t, "all is heard", func() bool { return heard.has("_:tickets", "alpha:first", "alpha:host/5") })
	want = append(want, "_:tickets", "alpha:first", "alpha:host/0", "alpha:host/1", "alpha:host/2", "alpha:host/3", "alpha:host/4", "alpha:host/5")
	Eventually(t, "the deletions are heard, too", func() bool { heard.mu.Lock(); defer heard.mu.Unlock(); return len(heard.heard) >= len(want) })
	got := heard.reset()
	slices.Sort(got[7:])
	if !slices.Equal(got, want) {
		t.Errorf("heard\n%v\nwant\n%v", got, want)
	}
	Eventually(t, "its own are heard, too", func() bool { return own.has(want...) })
	cancel()
	Keep(t, r, vault.Owner{}, "late", "x")
	Eventually(t, "the others hear", func() bool { return own.has("_:late") })
	mustByID(t, far, Create(t, r, "beta").Record.ID)
	if got := heard.reset(); len(got) > 0 {
		t.Errorf("after cancel: heard %v", got)
	}
}

// testVaultMissed: at the start, and where the watch fell behind a compaction, subscribers hear that anything may have
// changed; and no snapshot of the vault is taken.
func testVaultMissed(t *testing.T, b Backend) {
	before := Start(t, b, "r1")
	for i := range 5 {
		Keep(t, before, vault.Owner{}, fmt.Sprint("k", i), "x")
	}
	counted := &counting{Backend: b}
	faulty := &Faulty{Backend: counted}
	cfg := registry.Config{Backend: faulty, Replica: "r2", BaseDomain: BaseDomain}
	s, err := registry.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	var heard changes
	defer s.Vault().Subscribe(heard.hear)()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-s.Ready()
	Eventually(t, "the start is heard", func() bool { return heard.has(":") })
	heard.reset()
	faulty.Deafen(true)
	Keep(t, before, vault.Owner{}, "missed", "x")
	rev := Keep(t, before, vault.Owner{}, "missed-too", "x") // what is compacted lies before where the watch goes on
	if err := b.Compact(t.Context(), rev); err != nil {
		t.Fatalf("Compact: %v", err)
	}
	faulty.CutWatch()
	faulty.Deafen(false)
	Eventually(t, "the gap is heard", func() bool { return heard.has(":") })
	Keep(t, before, vault.Owner{}, "next", "x")
	Eventually(t, "it goes on", func() bool { return heard.has("_:next") })
	if n := counted.of("v/"); n > 0 {
		t.Errorf("%d ranges of the vault were read to start and to start anew", n)
	}
}

// counting counts ranges by their prefix.
type counting struct {
	registry.Backend
	mu     sync.Mutex
	ranges map[string]int
}

func (c *counting) Range(ctx context.Context, q registry.Range) (*registry.RangeResult, error) {
	c.mu.Lock()
	if c.ranges == nil {
		c.ranges = make(map[string]int)
	}
	c.ranges[q.Prefix]++
	c.mu.Unlock()
	return c.Backend.Range(ctx, q)
}

func (c *counting) of(prefix string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges[prefix]
}

// testVaultSlowSubscriber: one that blocks holds up neither the index nor the ends of claims; when it goes on it hears of
// all that it missed, or that anything may have changed.
func testVaultSlowSubscriber(t *testing.T, b Backend) {
	r, other := Start(t, b, "r1"), Start(t, b, "r2")
	gate, blocked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var heard changes
	defer r.Vault().Subscribe(func(owner, key string) {
		once.Do(func() { close(blocked); <-gate })
		heard.hear(owner, key)
	})()
	Keep(t, other, vault.Owner{}, "first", "x")
	<-blocked
	Keep(t, other, vault.Owner{}, "second", "x")
	c := Claim(t, r, Create(t, other, "alpha").Scope)
	mustByID(t, r, "alpha")
	if err := other.DeleteTenant(t.Context(), "alpha", 0, Entry("alpha", "tenant.delete")); err != nil {
		t.Fatalf("DeleteTenant: %v", err)
	}
	WaitLost(t, c)
	if heard.has("_:second") {
		t.Error("the subscriber did not block; the test proves nothing")
	}
	close(gate)
	Eventually(t, "it hears the rest", func() bool { return heard.has("_:second") })
}
