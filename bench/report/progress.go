package report

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
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
	liveWidth  = 80         // of a terminal that does not tell
	eraseLine  = "\r\x1b[K" // to the begin of the line, and nothing behind it
)

// Progress shows how a measurement goes on: on a terminal as one line that is rewritten, elsewhere as plain lines each few seconds.
// Its methods may be called by several goroutines.
type Progress struct {
	terminal bool

	mu   sync.Mutex // guards what follows
	w    io.Writer
	sums []Live // since the last plain lines, one for each step, as several loads run at once
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
		fmt.Fprint(p.w, eraseLine+lineOf(l, columns(p.w)-1))
		p.live = true
		return
	}
	p.sums = add(p.sums, l)
	if time.Since(p.last) >= plainEvery {
		p.lines()
	}
}

// Note writes a line that stays, such as that a subject is skipped.
func (p *Progress) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(p.w, clean(fmt.Sprintf(format, args...)))
}

// Done takes the live line away, so that what is written to the terminal next begins on an empty line; elsewhere it writes what has
// happened since the last lines. Update may be called again after it.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.lines()
}

func (p *Progress) clear() {
	if p.live {
		fmt.Fprint(p.w, eraseLine)
		p.live = false
	}
}

// lines writes the sums and begins anew. A step of which nothing but the begin is known has no line.
func (p *Progress) lines() {
	for _, l := range p.sums {
		if l.Seconds > 0 {
			fmt.Fprintln(p.w, lineOf(l, math.MaxInt))
		}
	}
	p.sums, p.last = nil, time.Now()
}

// add puts a span behind those of the same step.
func add(sums []Live, l Live) []Live {
	i := slices.IndexFunc(sums, func(s Live) bool { return s.Step == l.Step })
	if i < 0 {
		return append(sums, l)
	}
	l.Seconds += sums[i].Seconds
	l.Requests += sums[i].Requests
	l.Errors += sums[i].Errors
	l.P99 = max(l.P99, sums[i].P99) // a moment that was slow is to be seen
	if l.P50 == 0 {                 // nothing was answered last
		l.P50 = sums[i].P50
	}
	sums[i] = l
	return sums
}

// lineOf returns the line for people, the step shortened so that it is no longer than width.
func lineOf(l Live, width int) string {
	share := ""
	if l.Done > 0 {
		share = fmt.Sprintf("%3.0f%%  ", 100*min(l.Done, 1))
	}
	step := clean(l.Step)
	tail := figures(l, true)
	if utf8.RuneCountInString(share+step+tail) > width {
		tail = figures(l, false)
	}
	return share + shorten(step, width-utf8.RuneCountInString(share+tail)) + tail
}

// columns is the width of a terminal. A line must be shorter: it would wrap, and could not be rewritten.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return liveWidth
}
