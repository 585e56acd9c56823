package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/vgw/sandbox"
	"github.com/polygate/polygate/vgw/sandbox/sandboxtest"
)

// fate ends one owner at a point of its life: before or after a commit, before or after a call of the driver.
type fate struct {
	mu   sync.Mutex
	of   string        // the name of the point, such as "before commit"
	at   int           // how many points of that name it lives to see; 0 = it does not die
	n    int           // points of that name passed
	late time.Duration // so long after it was made a call of the dead one arrives; 0 = never
	died chan struct{}
	dead bool
}

// point passes a point, and says whether its owner is dead.
func (f *fate) point(name string) (dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name == f.of {
		f.n++
	}
	if name == f.of && f.n == f.at && !f.dead {
		f.dead = true
		close(f.died)
	}
	return f.dead
}

func (f *fate) String() string { return fmt.Sprintf("death %d, %s", f.at, f.of) }

// eachFate tells a story once for each point at which its first owner can die, which are counted by name: in which order those of one name
// come among the others is not the same in each life.
func eachFate(t *testing.T, story func(f *fate)) {
	t.Helper()
	deaths := map[string]int{}
	for _, name := range []string{"before commit", "after commit", "before create", "after create", "before remove", "after remove", "before release", "after release"} {
		for dead := true; dead; {
			f := &fate{of: name, at: deaths[name] + 1}
			story(f)
			if dead = f.dead; dead {
				deaths[name]++
			}
			if deaths[name] > 100 {
				t.Fatalf("a life has no end of points %s", name)
			}
		}
		if deaths[name] == 0 {
			t.Errorf("no owner died %s", name)
		}
	}
	t.Logf("deaths: %v", deaths)
}

// mortal is the driver of one owner. The dead one's calls return when it is buried.
type mortal struct {
	*sandboxtest.Staged
	fate *fate
}

func (d mortal) call(ctx context.Context, name string, act func(context.Context) error) error {
	if d.fate.point("before " + name) {
		if d.fate.late > 0 {
			time.AfterFunc(d.fate.late, func() { _ = act(context.Background()) })
		}
		<-ctx.Done()
		return ctx.Err()
	}
	err := act(context.WithoutCancel(ctx))
	if d.fate.point("after " + name) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (d mortal) Create(ctx context.Context, t sandbox.Task) (uid string, err error) {
	err = d.call(ctx, "create", func(ctx context.Context) (err error) {
		uid, err = d.Staged.Create(ctx, t)
		return err
	})
	return uid, err
}

func (d mortal) Remove(ctx context.Context, t sandbox.Task, grace time.Duration) error {
	return d.call(ctx, "remove", func(ctx context.Context) error { return d.Staged.Remove(ctx, t, grace) })
}

func (d mortal) Release(ctx context.Context, t sandbox.Task) error {
	return d.call(ctx, "release", func(ctx context.Context) error { return d.Staged.Release(ctx, t) })
}

var errDied = errors.New("the owner died")

// lineage is a story told by one owner after another.
type lineage struct {
	w    *world
	fate *fate
}

// succeed opens an owner with a fate.
func (l *lineage) succeed(f *fate) {
	l.w.t.Helper()
	f.died = make(chan struct{})
	l.fate = f
	if l.w.m != nil {
		l.w.m.Close()
		l.w.store = l.w.store.Heir()
	}
	mortally := func(when string) func(int, []tenant.Write) error {
		return func(int, []tenant.Write) error {
			if f.point(when + " commit") {
				return errDied
			}
			return nil
		}
	}
	l.w.store.Before, l.w.store.After = mortally("before"), mortally("after")
	c := l.w.config
	c.Driver, c.Store, c.Meter, c.Worked = mortal{l.w.driver, f}, l.w.store, l.w.meter(), l.w.isAwake()
	m, err := sandbox.Open(l.w.t.Context(), c)
	if err != nil {
		l.w.t.Fatalf("open: %v", err)
	}
	l.w.m = m
}

// do tries something until it succeeds, as a client does; a dead owner is followed by one that lives.
func (l *lineage) do(what string, try func(ctx context.Context) error) {
	l.w.t.Helper()
	for range 20 {
		ctx, cancel := context.WithTimeout(l.w.t.Context(), 20*time.Minute)
		died := l.fate.died
		stop := context.AfterFunc(ctx, func() {})
		go func() {
			select {
			case <-died:
				cancel()
			case <-ctx.Done():
			}
		}()
		err := try(ctx)
		stop()
		cancel()
		if err == nil {
			return
		}
		select {
		case <-died:
			l.succeed(&fate{})
		default:
			l.w.t.Fatalf("%s: %v", what, err)
		}
	}
	l.w.t.Fatalf("%s: tried too often", what)
}

func (l *lineage) ask(id string, want sandbox.Want) {
	l.w.t.Helper()
	l.do("ask to be "+string(want), func(ctx context.Context) error {
		_, err := l.w.m.Ask(ctx, id, want, nil, l.w.store.Write)
		if want == sandbox.WantDeleted && err != nil && len(l.w.m.Snapshot()) == 0 {
			return nil // it was asked before, and is gone
		}
		return err
	})
}

func (l *lineage) until(id string, what string, done func(*sandbox.Sandbox) bool) {
	l.w.t.Helper()
	l.do("wait until "+what, func(ctx context.Context) error {
		s, err := l.w.m.Wait(ctx, id, done)
		if err != nil {
			return fmt.Errorf("%w; it is %s", err, show(s))
		}
		return nil
	})
}

func is(state sandbox.State) func(*sandbox.Sandbox) bool {
	return func(s *sandbox.Sandbox) bool { return s != nil && s.State == state }
}

// wholeLife is a sandbox's life, from creation to deletion.
func (l *lineage) wholeLife() (id string) {
	s := request("one")
	s.Key, s.Request = "the-key", "the-request"
	l.do("create", func(ctx context.Context) error {
		_, _, err := l.w.m.Create(ctx, s, l.w.store.Write)
		return err
	})
	l.until(s.ID, "running", is(sandbox.Running))
	time.Sleep(time.Minute)
	l.ask(s.ID, sandbox.WantStopped)
	l.until(s.ID, "stopped", is(sandbox.Stopped))
	l.ask(s.ID, sandbox.WantRunning)
	l.until(s.ID, "running again", is(sandbox.Running))
	time.Sleep(time.Minute)
	l.ask(s.ID, sandbox.WantDeleted)
	l.until(s.ID, "gone", func(s *sandbox.Sandbox) bool { return s == nil })
	return s.ID
}

// TestCrashAtEveryPoint: an owner that dies at any point, the store and the driver as they are then, is followed by one that brings the
// story to the same end: each start makes one run, none is left behind, and nothing that was asked is lost.
func TestCrashAtEveryPoint(t *testing.T) {
	eachFate(t, func(f *fate) {
		inWorld(t, func(w *world) {
			l := &lineage{w: w}
			l.succeed(f)
			id := l.wholeLife()
			time.Sleep(10 * time.Minute)
			if n := w.driver.Made(id); n != 2 {
				t.Errorf("%v: %d runs were made, want one for each start", f, n)
			}
			if left := w.driver.Runs(); len(left) > 0 {
				t.Errorf("%v: left behind: %+v", f, left)
			}
			if billed, ran := w.billed(), w.driver.Ran(); billed != ran {
				t.Errorf("%v: %v were accounted for, and %v ran", f, billed, ran)
			}
			if w.isAwake() {
				t.Errorf("%v: the tenant is awake with nothing to do", f)
			}
		})
	})
}

// billed is how long runs were accounted for.
func (w *world) billed() (d time.Duration) {
	w.t.Helper()
	r, err := w.meter().Report(sandbox.Query{To: time.Now().Add(time.Hour)})
	if err != nil {
		w.t.Fatalf("report: %v", err)
	}
	for _, l := range r.Lines {
		d += time.Duration(l.Millis) * time.Millisecond
	}
	return d
}

// TestLateCall: a call of a dead owner that arrives when nobody waits for it any more leaves nothing behind: not while the run that it is for
// lives (30 s), and not when that run is over, and perhaps its sandbox gone (90 s: a run lives for a minute).
func TestLateCall(t *testing.T) {
	for _, late := range []time.Duration{30 * time.Second, 90 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			madeLate := 0
			eachFate(t, func(f *fate) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					l := &lineage{w: w}
					f.late = late
					l.succeed(f)
					id := l.wholeLife()
					time.Sleep(10 * time.Minute)
					if left := w.driver.Runs(); len(left) > 0 {
						t.Errorf("%v: left behind: %+v", f, left)
					}
					w.m.Close()
					madeLate += w.driver.Made(id) - 2
				})
			})
			if overtaken := late > time.Minute; overtaken != (madeLate > 0) {
				t.Errorf("%d runs were made by calls that came late", madeLate)
			}
		})
	}
}

// TestX49: a creation whose answer was lost, by the store or by the cluster, and which is asked for again with the same key, makes one run.
func TestX49RetriedCreationMakesOneRun(t *testing.T) {
	timeout := errors.New("context deadline exceeded")
	for name, fail := range map[string]func(w *world){
		"the commit's answer is lost": func(w *world) {
			w.store.After = func(n int, _ []tenant.Write) error {
				if n == 1 {
					return timeout
				}
				return nil
			}
		},
		"the creation's answer is lost": func(w *world) {
			w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
				if c.Name == "create" && c.N <= 3 {
					return sandboxtest.Outcome{Err: timeout, Done: true}
				}
				return sandboxtest.Outcome{}
			}
		},
		"the UID's commit is lost": func(w *world) {
			w.store.Before = func(n int, _ []tenant.Write) error {
				if n == 2 {
					return timeout
				}
				return nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				fail(w)
				w.open()
				s := request("one")
				s.Key, s.Request = "digest-of-key", "digest-of-key-and-body"
				made := 0
				for range 5 {
					stored, created, err := w.m.Create(w.t.Context(), s, w.store.Write)
					if created {
						made++
					}
					if err == nil && stored.ID != s.ID {
						t.Errorf("another sandbox: %s", stored.ID)
					}
				}
				w.until(s.ID, sandbox.Running)
				time.Sleep(5 * time.Minute)
				if n := w.driver.Made(s.ID); n != 1 || len(w.driver.Runs()) != 1 || len(w.m.Snapshot()) != 1 || made > 1 {
					t.Errorf("%d runs made, %d there, %d records, created %d times", n, len(w.driver.Runs()), len(w.m.Snapshot()), made)
				}
				other := *s
				other.Request = "another body"
				if _, _, err := w.m.Create(w.t.Context(), &other, w.store.Write); err == nil {
					t.Error("the key was taken for another request")
				}
			})
		})
	}
}

// TestX55: while the cluster fails in every way 1,000 creations are asked for; the quota holds, attempts are paced, and 60 s after the gateway
// was killed every run has a record and every record at most one run.
func TestX55QuotaHoldsAndNoOrphans(t *testing.T) {
	inWorld(t, func(w *world) {
		outcomes := []sandboxtest.Outcome{
			{Err: errors.New("429 too many requests")}, {Err: errors.New("500 internal error"), Done: true},
			{Err: context.DeadlineExceeded, Done: true, Delay: 10 * time.Second}, {Err: context.DeadlineExceeded, Delay: 10 * time.Second}, {},
		}
		w.driver.Fail = func(c sandboxtest.Call) sandboxtest.Outcome {
			if c.Name == "create" || c.Name == "remove" || c.Name == "release" {
				return outcomes[c.N%len(outcomes)]
			}
			return sandboxtest.Outcome{}
		}
		w.open()
		var mu sync.Mutex
		var ids []string
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				s := request(fmt.Sprintf("s%d", i))
				if _, created, err := w.m.Create(w.t.Context(), s, w.store.Write); err == nil && created {
					mu.Lock()
					ids = append(ids, s.ID)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(ids) != 16 { // 8 cores of 500m each
			t.Errorf("%d sandboxes were made, the quota allows 16", len(ids))
		}
		time.Sleep(2 * time.Second)
		w.crash()
		time.Sleep(60 * time.Second)
		w.agree()
		if n := w.driver.Calls("create"); n > 16*12 {
			t.Errorf("%d attempts within a minute", n)
		}
		for _, id := range ids[:8] {
			w.ask(id, sandbox.WantDeleted)
		}
		for _, id := range ids[8:] {
			w.until(id, sandbox.Running)
		}
		for _, id := range ids[:8] {
			w.untilGone(id)
		}
		time.Sleep(5 * time.Minute)
		w.agree()
		if w.driver.Live() != 8 {
			t.Errorf("%d live, want 8", w.driver.Live())
		}
	})
}

// agree says where records and runs differ.
func (w *world) agree() {
	w.t.Helper()
	runs := map[string]int{}
	for _, o := range w.driver.Runs() {
		runs[o.Sandbox]++
		known := slices.ContainsFunc(w.m.Snapshot(), func(s *sandbox.Sandbox) bool { return s.ID == o.Sandbox && s.Run.Nonce == o.Nonce })
		if !known {
			w.t.Errorf("an orphan: %+v", o)
		}
	}
	for id, n := range runs {
		if n > 1 {
			w.t.Errorf("%d runs of %s", n, id)
		}
	}
}
