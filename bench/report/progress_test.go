package report

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestProgressPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		p := NewProgress(&b, false)
		for i := range 12 { // a load each half second, two of them at once
			p.Update(Live{Step: "steady, all", Done: 0.25, Seconds: 0.5, Requests: 100, Errors: 1, P50: 400, P99: float64(1000 + 10*i), Left: 42 * time.Second, InFlight: 7})
			p.Update(Live{Step: "steady, streams", Seconds: 0.5, Requests: 5})
			time.Sleep(500 * time.Millisecond)
		}
		want := " 25%  steady, all  200/s  11 errors  p50 400 µs  p99 1.10 ms  7 in flight  42s left\nsteady, streams  10.0/s  0 errors\n"
		if got := b.String(); got != want {
			t.Errorf("after 6 s: got\n%s\nwant\n%s", got, want)
		}
		b.Reset()
		p.Note("nginx: %s\x1b[2J", "skipped")
		p.Done()
		want = "nginx: skipped [2J\nsteady, streams  10.0/s  0 errors\n 25%  steady, all  200/s  1 errors  p50 400 µs  p99 1.11 ms  7 in flight  42s left\n"
		if got := b.String(); got != want {
			t.Errorf("at the end: got\n%s\nwant\n%s", got, want)
		}
		b.Reset()
		p.Done()
		if b.Len() > 0 {
			t.Errorf("a second Done wrote %q", b.String())
		}
	})
}

// TestProgressStandstill: when nothing is answered, the percentiles are those of what was.
func TestProgressStandstill(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, false)
	p.Update(Live{Step: "steady", Seconds: 1, Requests: 100, P50: 400, P99: 1000})
	p.Update(Live{Step: "steady", Seconds: 1})
	p.Done()
	if want := "steady  50.0/s  0 errors  p50 400 µs  p99 1.00 ms\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestProgressTerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, true)
	p.Update(Live{Step: "a"})
	p.Note("kept")
	p.Update(Live{Step: "b\r\n\x1b[31m"})
	p.Done()
	p.Done()
	want := eraseLine + "a  0/s  0 errors" + eraseLine + "kept\n" + eraseLine + "b   [31m  0/s  0 errors" + eraseLine
	if got := b.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestProgressFits holds that no line is as wide as the terminal: it would wrap, and each update would leave one behind.
func TestProgressFits(t *testing.T) {
	for _, step := range []string{"", "short", strings.Repeat("throughput http1 über nginx ", 10)} {
		l := Live{Step: step, Done: 1.5, Seconds: 1, Requests: 1234567, Errors: 54321, P50: 123456, P99: 9876543, InFlight: 1024, Left: 90 * time.Minute}
		for width := 72; width < 200; width += 7 {
			if n := utf8.RuneCountInString(lineOf(l, width)); n > width {
				t.Errorf("%d runes in %d: %q", n, width, lineOf(l, width))
			}
		}
	}
}

func TestProgressConcurrent(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var b bytes.Buffer
		p := NewProgress(&b, terminal)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 100 {
					p.Update(Live{Step: "s", Seconds: 1, Requests: 1})
					p.Note("n")
				}
			})
		}
		wg.Wait()
		p.Done()
		if got := strings.Count(b.String(), "n\n"); got != 400 {
			t.Errorf("%d notes, want 400", got)
		}
	}
}
