package policy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestC2LaneServesWhoHadLeast: tenants that take all they get do not keep one waiting that needs a little, however many they are and
// however long they have waited.
func TestC2LaneServesWhoHadLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, order := &lane{free: 1}, make(chan string, 16)
		if !l.take(context.Background(), new(member), time.NewTimer(time.Second)) {
			t.Fatal("a free turn is refused")
		}
		wait := func(name string, had time.Duration, limit time.Duration) {
			m := &member{usage: usage{had, time.Now()}}
			go func() {
				if l.take(context.Background(), m, time.NewTimer(limit)) {
					order <- name
					time.Sleep(quantum)
					l.give(m, quantum)
				}
			}()
			synctest.Wait()
		}
		wait("heavy 1", time.Second, time.Hour)
		wait("heavy 2", time.Second/2, time.Hour)
		wait("impatient", 0, time.Millisecond)
		wait("light", 2*time.Millisecond, time.Hour)
		time.Sleep(2 * time.Millisecond)
		l.give(new(member), quantum)
		time.Sleep(time.Minute)
		synctest.Wait()
		close(order)
		var got []string
		for name := range order {
			got = append(got, name)
		}
		if want := []string{"light", "heavy 2", "heavy 1"}; len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
			t.Errorf("turns went to %q, want %q", got, want)
		}
		if l.free != 1 || len(l.waiting) != 0 {
			t.Errorf("%d turns are free and %d wait, want 1 and 0", l.free, len(l.waiting))
		}
	})
}

// TestLaneGivesBackWhatComesTooLate: a turn that is given at the moment at which its waiter gives up is not lost.
func TestLaneGivesBackWhatComesTooLate(t *testing.T) {
	l, m := &lane{}, new(member)
	w := l.enter(m)
	l.give(new(member), 0)
	if l.leave(w) {
		t.Error("it was given a turn and is still in the queue")
	}
	l.give(m, 0)
	if l.free != 1 {
		t.Errorf("%d turns are free, want 1", l.free)
	}
}

// TestC2BusyTenantHasLittleUnasked: while one evaluation of a tenant is long, its others may not take 2 ms each beside the lane.
func TestC2BusyTenantHasLittleUnasked(t *testing.T) {
	now := time.Now()
	for _, busy := range []bool{false, true} {
		m := &member{long: make(chan struct{}, 1)}
		if busy {
			m.long <- struct{}{}
		}
		l := &long{turns: &lane{free: 1}, m: m, begun: now}
		if got := l.turn(context.Background(), now.Add(time.Millisecond), now.Add(2*time.Millisecond)); got == busy {
			t.Errorf("busy %v: it may go on: %v", busy, got)
		}
		if l.inTurn {
			t.Errorf("busy %v: it has a turn", busy)
		}
	}
}
