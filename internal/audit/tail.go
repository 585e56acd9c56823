package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"time"
)

// maxTail bounds how many lines Tail keeps in memory.
const maxTail = 10000

// TailConfig says what Tail returns.
type TailConfig struct {
	Path   string        // the log
	Lines  int           // how many of the last lines to begin with, at most 10,000
	Chain  string        // only this chain's; "" = all
	Follow bool          // go on with what is added, until the context ends
	Poll   time.Duration // how often to look; 0 = 200 ms
}

// Tail returns the last lines of the log, oldest first, and then, if asked, what is added. It can run beside the daemon:
// it takes no lock and never returns a line before all of it is there. A line that is no record comes as an error that
// wraps ErrMalformed, and the lines go on; any other error is the last.
func Tail(ctx context.Context, cfg TailConfig) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		t := follower{cfg: cfg, yield: yield}
		if err := t.run(ctx); err != nil && !errors.Is(err, errStop) && ctx.Err() == nil {
			yield(Line{}, err)
		}
	}
}

// errStop ends a follower whose reader wants no more.
var errStop = errors.New("stop")

type follower struct {
	cfg    TailConfig
	yield  func(Line, error) bool
	file   *os.File
	offset int64 // of the first line that is not yielded
}

func (t *follower) run(ctx context.Context) error {
	if err := t.open(); err != nil {
		return err
	}
	defer func() { _ = t.file.Close() }()
	end, last, err := lastLines(t.file, min(t.cfg.Lines, maxTail), t.cfg.Chain)
	if err != nil {
		return err
	}
	for _, text := range last {
		if err := t.emit(text); err != nil {
			return err
		}
	}
	t.offset = end
	if !t.cfg.Follow {
		return nil
	}
	poll := t.cfg.Poll
	if poll <= 0 {
		poll = 200 * time.Millisecond
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := t.catchUp(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (t *follower) open() error {
	f, err := os.Open(t.cfg.Path)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	t.file, t.offset = f, 0
	return nil
}

// catchUp yields the whole lines from the offset on. A file that was moved away is read to its end first.
func (t *follower) catchUp() error {
	if err := t.drain(); err != nil {
		return err
	}
	have, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	at, err := os.Stat(t.cfg.Path)
	if err != nil { // moved away; the daemon makes a new one with its next line
		return nil
	}
	if os.SameFile(have, at) {
		if at.Size() < t.offset { // cut: a crash's rest was removed, or worse; the verifier tells
			t.offset = at.Size()
		}
		return nil
	}
	_ = t.file.Close()
	if err := t.open(); err != nil {
		return err
	}
	return t.drain()
}

func (t *follower) drain() error {
	sc := newScanner(io.NewSectionReader(t.file, t.offset, 1<<62), t.offset)
	for {
		err := sc.next()
		if errors.Is(err, io.EOF) || err == nil && !sc.whole {
			return nil
		}
		if err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		if err := t.emit(sc.text); err != nil {
			return err
		}
		t.offset = sc.end
	}
}

// emit yields the record in text, which is nil for a line that is too long.
func (t *follower) emit(text []byte) error {
	var l Line
	err := errTooLong
	if text != nil {
		l, err = ParseLine(text)
	}
	if err == nil && t.cfg.Chain != "" && l.Chain != t.cfg.Chain {
		return nil
	}
	l.Entry = bytes.Clone(l.Entry)
	if !t.yield(l, err) {
		return errStop
	}
	return nil
}

// lastLines reads backwards until it has n lines of a chain (or of all), and returns them with the offset behind the
// last whole line.
func lastLines(f *os.File, n int, chain string) (end int64, lines [][]byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, nil, fmt.Errorf("audit log: %w", err)
	}
	b := backward{f: f, at: info.Size()}
	end = -1
	for end < 0 || len(lines) < n {
		text, at, err := b.previous()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, nil, fmt.Errorf("audit log: %w", err)
		}
		if end < 0 { // what is behind the last newline is being written
			end = at
			continue
		}
		if chain == "" || bytes.HasPrefix(text, []byte(partChain+chain+`"`)) {
			lines = append(lines, bytes.Clone(text))
		}
	}
	slices.Reverse(lines)
	return max(end, 0), lines, nil
}

// backward reads a file's lines from the last to the first. The first one that it returns is what stands behind the
// last newline, which may be nothing.
type backward struct {
	f    *os.File
	at   int64  // the file from here on is in have or was returned
	have []byte // read and not returned
	done bool
}

// previous returns the line before, its offset, and io.EOF when there is none. It cuts a line that is too long short.
func (b *backward) previous() (line []byte, offset int64, err error) {
	for {
		if i := bytes.LastIndexByte(b.have, '\n'); i >= 0 {
			line, b.have = b.have[i+1:], b.have[:i]
			return line, b.at + int64(i) + 1, nil
		}
		if b.at == 0 {
			if b.done {
				return nil, 0, io.EOF
			}
			b.done = true
			return b.have, 0, nil
		}
		if err := b.fill(); err != nil {
			return nil, 0, err
		}
	}
}

func (b *backward) fill() error {
	n := min(b.at, MaxLine)
	block := make([]byte, n, int(n)+min(len(b.have), MaxLine))
	if _, err := b.f.ReadAt(block, b.at-n); err != nil {
		return err
	}
	b.at -= n
	b.have = append(block, b.have[:min(len(b.have), MaxLine)]...)
	return nil
}
