package report

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"
)

// Live is how it goes, over the time since the last one.
type Live struct {
	Step     string        // what runs, such as "throughput http1: nginx, turn 2 of 3, warm-up"
	Done     float64       // share of the whole that is done, 0 to 1; 0 = not known
	Left     time.Duration // until the end of the whole; 0 = not known
	Seconds  float64       // that Requests and Errors were counted over
	Requests int64         // answered rightly
	Errors   int64
	P50, P99 float64 // microseconds; 0 = no answer yet
	InFlight int
}

const (
	plainEvery = 5 * time.Second
	liveWidth  = 79 // a longer line would wrap, and could not be rewritten
)

// Progress shows how a measurement goes on: on a terminal as one line that is rewritten, elsewhere as a plain line each few seconds.
// Its methods may be called by several goroutines.
type Progress struct {
	terminal bool

	mu   sync.Mutex // guards what follows
	w    io.Writer
	sum  Live // since the last plain line
	last time.Time
	live bool // a rewritten line stands on the terminal
}

// NewProgress returns a progress view on w, which is standard error as a rule.
func NewProgress(w io.Writer, terminal bool) *Progress {
	return &Progress{w: w, terminal: terminal, last: time.Now()}
}

// Update shows how it goes. On a terminal it shows each one, so call it some times a second.
func (p *Progress) Update(l Live) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		p.rewrite(l)
		return
	}
	p.sum = add(p.sum, l)
	if time.Since(p.last) >= plainEvery {
		fmt.Fprintln(p.w, lineOf(p.sum, math.MaxInt))
		p.sum, p.last = Live{}, time.Now()
	}
}

func (p *Progress) rewrite(l Live) {
	fmt.Fprint(p.w, "\r\x1b[K"+lineOf(l, liveWidth))
	p.live = true
}

// Note writes a line that stays, such as that a subject is skipped.
func (p *Progress) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.w, clean(fmt.Sprintf(format, args...)))
}

// Done takes the live line away: what is written to the terminal next begins on an empty line. Update may be called again after it.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *Progress) clear() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.live = false
	}
}

// add puts two spans behind each other. A change of the step begins anew: a line tells of one step only.
func add(sum, l Live) Live {
	if sum.Step != l.Step {
		return l
	}
	l.Seconds += sum.Seconds
	l.Requests += sum.Requests
	l.Errors += sum.Errors
	l.P99 = max(l.P99, sum.P99) // a moment that was slow is to be seen
	return l
}

// lineOf returns the line for people, the step shortened so that it is no longer than width.
func lineOf(l Live, width int) string {
	var b strings.Builder
	if l.Done > 0 {
		fmt.Fprintf(&b, "%3.0f%%  ", 100*min(l.Done, 1))
	}
	tail := figures(l)
	room := width - b.Len() - len([]rune(tail))
	b.WriteString(shorten(clean(l.Step), room))
	return b.String() + tail
}
