package main

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	start := time.Unix(0, 0)
	p := patience{limit: 10 * time.Second, since: start}
	for _, c := range []struct {
		after int
		done  int64
		over  bool
	}{
		{9, 0, false},
		{9, 1, false}, // it goes on: from here it may stand still again
		{18, 1, false},
		{18, 2, false},
		{27, 2, false},
		{28, 2, true},
	} {
		if got := p.over(start.Add(time.Duration(c.after)*time.Second), c.done); got != c.over {
			t.Errorf("after %d s, %d done: over %v, want %v", c.after, c.done, got, c.over)
		}
	}
	if never := (patience{limit: time.Second, since: start}); !never.over(start.Add(time.Second), 0) {
		t.Error("what never began is waited for without end")
	}
}
