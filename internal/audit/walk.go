package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// errSpent ends a query whose budget is spent.
var errSpent = errors.New("budget spent")

// budget bounds the work of one query.
type budget struct {
	bytes int64
	until time.Time
	now   func() time.Time
	count int
}

// spend takes n bytes and says whether the budget is at its end. It looks at the clock now and then.
func (b *budget) spend(n int64) bool {
	b.bytes -= n
	if b.count++; b.count%64 == 0 && !b.now().Before(b.until) {
		b.bytes = min(b.bytes, 0)
	}
	return b.bytes <= 0
}

// walker goes through one chain of one log from the newest record to the oldest.
type walker struct {
	r       *Reader
	log     *logFiles
	f       *filter
	budget  *budget
	damaged *int
	chain   string // with the name of its writer
	id      logID

	at    logPosition // what is not looked at yet
	found *Record     // the next record that matches
	done  bool

	opened  bool     // file is the one that at stands for
	file    *os.File // nil if it has nothing for us
	offsets []int64  // of the lines that are left in it, oldest first
	window  window
	rebuilt bool // the file's index was made anew
}

// find looks for the next record that matches, if there is none yet. The error is errSpent if the budget ended before;
// whatever it looked at is then behind it.
func (w *walker) find(ctx context.Context) error {
	for w.found == nil && !w.done {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !w.opened {
			if err := w.open(ctx); err != nil {
				return err
			}
		}
		if len(w.offsets) == 0 {
			w.nextFile()
		} else if err := w.line(ctx); err != nil {
			return err
		}
		if w.found == nil && w.budget.bytes <= 0 {
			return errSpent
		}
	}
	return nil
}

// nextFile moves on to the next older segment.
func (w *walker) nextFile() {
	w.closeFile()
	for _, s := range w.log.segments {
		if w.at.segment == 0 || s.number < w.at.segment {
			w.at.segment = s.number
			return
		}
	}
	w.done = true
}

// open finds the lines of the chain in the file that at stands for, which may be none.
func (w *walker) open(ctx context.Context) error {
	file, c, err := w.lookup(ctx)
	if err != nil {
		return err
	}
	w.opened, w.rebuilt = true, false
	if c != nil && (c.max < w.f.from || c.min >= w.f.to || c.first >= w.at.bound && c.consecutive()) {
		c = nil
	}
	w.file = file
	if c == nil || file == nil {
		return nil
	}
	return w.take(c)
}

// lookup returns the file and what its index holds of the chain; nothing if the file is gone.
func (w *walker) lookup(ctx context.Context) (*os.File, *chainIndex, error) {
	if w.at.segment == 0 {
		if w.log.active == nil {
			return nil, nil, nil
		}
		c, err := w.r.activeChain(ctx, w.log, w.chain, w.budget)
		return w.log.active, c, err
	}
	for _, s := range w.log.segments {
		if s.number != w.at.segment {
			continue
		}
		f, err := os.Open(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil // its time has come
		}
		if err != nil {
			return nil, nil, err
		}
		c, err := w.r.segmentChain(ctx, s, f, w.f, w.chain, w.budget)
		if err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		return f, c, nil
	}
	return nil, nil, nil
}

// take makes the lines of the index below the bound those to look at.
func (w *walker) take(c *chainIndex) error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	w.offsets = c.offsets(info.Size())
	if c.consecutive() && w.at.bound < c.last+1 {
		w.offsets = w.offsets[:min(uint64(len(w.offsets)), w.at.bound-min(c.first, w.at.bound))]
	}
	w.window.reset(w.file)
	return nil
}

// line looks at the last of the lines that are left.
func (w *walker) line(ctx context.Context) error {
	n := len(w.offsets) - 1
	offset, near := w.offsets[n], n > 0 && w.offsets[n]-w.offsets[n-1] < windowGap
	text, read, err := w.window.line(offset, near)
	w.budget.spend(read + 256)
	if err != nil {
		return err
	}
	if chain, _, _, ok := glance(text); !ok || string(chain) != w.chain {
		return w.stale(ctx)
	}
	w.offsets = w.offsets[:n]
	l, err := ParseLine(text)
	if err != nil || !l.Intact() {
		*w.damaged++
		return nil
	}
	if l.Seq >= w.at.bound {
		return nil // looked at before
	}
	w.at.bound = l.Seq
	if !w.f.may(l.Entry) {
		return nil
	}
	e, err := l.Decode()
	if err != nil || !isPlatforms(l.Chain) && e.Chain() != baseOf(l.Chain) {
		*w.damaged++
		return nil
	}
	if w.f.matches(&e) {
		w.found = &Record{Entry: e, Seq: l.Seq}
	}
	return nil
}

// stale makes an index anew that leads to no line of the chain. Once it was, what is there counts as damage.
func (w *walker) stale(ctx context.Context) error {
	if w.rebuilt {
		*w.damaged++
		w.offsets = w.offsets[:len(w.offsets)-1]
		return nil
	}
	if w.at.segment == 0 { // it was cut and has grown again
		if err := w.r.forgetActive(ctx, w.log.path); err != nil {
			return err
		}
	}
	for _, s := range w.log.segments {
		if s.number == w.at.segment {
			w.r.forget(s)
		}
	}
	w.closeFile()
	if err := w.open(ctx); err != nil {
		return err
	}
	w.rebuilt = true
	return nil
}

func (w *walker) closeFile() {
	if w.file != nil && w.file != w.log.active {
		_ = w.file.Close()
	}
	w.file, w.offsets, w.opened = nil, nil, false
}

// window reads lines by their offsets, from high to low: many at a time where they are close together.
type window struct {
	r    io.ReaderAt
	at   int64 // have begins here
	have []byte
}

const (
	windowSize = 128 << 10
	windowGap  = 8 << 10 // lines farther apart are read one by one
	shortLine  = 2 << 10
)

func (w *window) reset(r io.ReaderAt) { *w = window{r: r} }

// line returns the line at offset without its newline, and how many bytes it read. What is too long or has no end comes
// out cut, and is no record.
func (w *window) line(offset int64, near bool) (text []byte, read int64, err error) {
	if text, ok := w.find(offset); ok {
		return text, 0, nil
	}
	from, size := offset, int64(shortLine)
	if near {
		from, size = max(offset-windowSize+MaxLine, 0), windowSize
	}
	for {
		n, err := w.load(from, size)
		read += n
		if err != nil {
			return nil, read, err
		}
		if text, ok := w.find(offset); ok {
			return text, read, nil
		}
		if n < size || from+size >= offset+MaxLine {
			return nil, read, nil
		}
		from, size = offset, MaxLine
	}
}

func (w *window) load(from, size int64) (int64, error) {
	b := make([]byte, size)
	n, err := w.r.ReadAt(b, from)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	w.at, w.have = from, b[:n]
	return int64(n), err
}

// find returns the line at offset if all of it is there.
func (w *window) find(offset int64) ([]byte, bool) {
	if offset < w.at || offset >= w.at+int64(len(w.have)) {
		return nil, false
	}
	rest := w.have[offset-w.at:]
	n := bytes.IndexByte(rest, '\n')
	if n < 0 {
		return nil, false
	}
	return rest[:n], true
}
