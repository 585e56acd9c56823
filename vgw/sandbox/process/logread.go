package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/vgw/sandbox"
)

// followEvery is how often a log that is followed is looked at.
const followEvery = 100 * time.Millisecond

// Logs implements sandbox.Driver. The files are read by the gateway itself, while the shim goes on writing.
func (d *driver) Logs(ctx context.Context, t sandbox.Task, q sandbox.LogQuery) (io.ReadCloser, error) {
	path, _, _, err := d.find(t)
	if err != nil {
		return nil, err
	}
	r := &logReader{ctx: ctx, dir: path, query: q, left: q.Limit, closed: make(chan struct{}), begin: true}
	if q.Tail >= 0 {
		lines, err := r.count()
		if err != nil {
			return nil, fault.Wrap(fault.Unavailable, err, "the log cannot be read")
		}
		r.skip = max(lines-q.Tail, 0)
	}
	return r, nil
}

// logReader reads the older file and then the newer, and goes on with the next when the writer does. It has no goroutine: whoever reads
// it waits.
type logReader struct {
	ctx    context.Context //nolint:containedctx // of the stream
	dir    string
	query  sandbox.LogQuery
	closed chan struct{}

	mu    sync.Mutex // held by a Read
	file  *os.File
	lines *bufio.Reader
	old   bool   // file is the older of the two
	part  []byte // of a record that is not whole yet
	skip  int64  // lines that are not wanted, for Tail
	begin bool   // the next record begins a line
	late  bool   // the line that is being read is within Since
	out   bytes.Buffer
	left  int64 // of Limit
	done  bool
}

// count returns how many lines Since leaves.
func (r *logReader) count() (int64, error) {
	var n int64
	for _, name := range []string{logOldFile, logFile} {
		f, err := openRegular(filepath.Join(r.dir, name))
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		begin, rd := true, bufio.NewReaderSize(f, maxFrame)
		for {
			b, err := rd.ReadSlice('\n')
			rec, ok := parseRecord(b)
			if err != nil {
				break
			}
			if ok && begin && !rec.at.Before(r.query.Since) {
				n++
			}
			if ok {
				begin = rec.whole
			}
		}
		_ = f.Close()
	}
	return n, nil
}

// record is one line of a log's file.
type record struct {
	at    time.Time
	stamp []byte
	whole bool // it ends the line
	text  []byte
}

// parseRecord reads a line of a log's file; ok is false for what is none.
func parseRecord(b []byte) (r record, ok bool) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	if len(b) < logHead || b[logHead-1] != ' ' || b[logHead-3] != ' ' {
		return r, false
	}
	at, err := time.Parse(logTime, string(b[:len(logTime)]))
	if err != nil || b[logHead-2] != 'F' && b[logHead-2] != 'P' {
		return r, false
	}
	return record{at: at, stamp: b[:len(logTime)], whole: b[logHead-2] == 'F', text: b[logHead:]}, true
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.out.Len() == 0 {
		if r.done {
			return 0, io.EOF
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	return r.out.Read(p)
}

// Close implements io.Closer. A Read that waits returns.
func (r *logReader) Close() error {
	select {
	case <-r.closed:
	default:
		close(r.closed)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.finish()
	return nil
}

// more reads one record, or waits for one.
func (r *logReader) more() error {
	if r.file == nil && !r.open() {
		return r.wait()
	}
	b, err := r.lines.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) { // no record of ours is so long
		r.part = r.part[:0]
		return nil
	}
	if err != nil {
		r.part = append(r.part, b...)
		if !errors.Is(err, io.EOF) || len(r.part) > maxFrame {
			return r.fail(err)
		}
		return r.next()
	}
	if len(r.part) > 0 {
		b = append(r.part, b...)
		r.part = nil
	}
	if rec, ok := parseRecord(b); ok {
		r.take(rec)
	}
	return nil
}

func (r *logReader) fail(err error) error {
	r.shut()
	return fault.Wrap(fault.Unavailable, err, "the log cannot be read")
}

func (r *logReader) shut() {
	if r.file != nil {
		_ = r.file.Close()
	}
	r.file, r.part = nil, nil
}

// open opens the file that is read first, or next.
func (r *logReader) open() bool {
	names := []string{logOldFile, logFile}
	if r.old || r.lines != nil {
		names = names[1:]
	}
	for i, name := range names {
		f, err := openRegular(filepath.Join(r.dir, name))
		if err == nil {
			r.file, r.lines, r.old = f, bufio.NewReaderSize(f, maxFrame), len(names) == 2 && i == 0
			return true
		}
	}
	return false
}

// next is what comes at the end of a file: the other file, or a wait for more.
func (r *logReader) next() error {
	if r.old || r.replaced() {
		r.shut()
		if r.open() {
			return nil
		}
	}
	return r.wait()
}

// replaced says whether the file that is read is not the newer one any more, and all of it has been read.
func (r *logReader) replaced() bool {
	if r.file == nil {
		return false
	}
	have, err1 := r.file.Stat()
	now, err2 := os.Lstat(filepath.Join(r.dir, logFile))
	if err1 != nil || err2 != nil || os.SameFile(have, now) {
		return false
	}
	at, err := r.file.Seek(0, io.SeekCurrent)
	return err == nil && at >= have.Size()
}

// wait waits for more, or ends the stream if there can be none.
func (r *logReader) wait() error {
	if !r.query.Follow || r.done {
		r.finish()
		return nil
	}
	st, err := readStatus(r.dir)
	over := err != nil || st != nil && st.Phase == sandbox.PhaseEnded
	if _, e := os.Lstat(filepath.Join(r.dir, taskFile)); over || e != nil {
		r.query.Follow = false // once more to the end: the last words came before the end was told
		return nil
	}
	t := time.NewTimer(followEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-r.closed:
		r.finish()
		return nil
	case <-r.ctx.Done():
		r.shut()
		return r.ctx.Err()
	}
}

func (r *logReader) finish() {
	r.done = true
	r.shut()
}

// take passes one record on, if it is wanted.
func (r *logReader) take(rec record) {
	begins := r.begin
	r.begin = rec.whole
	if begins {
		r.late = !rec.at.Before(r.query.Since)
		if r.late && r.skip > 0 {
			r.skip--
			r.late = false
		}
	}
	if !r.late {
		return
	}
	if begins && r.query.Timestamps {
		r.put(rec.stamp)
		r.put([]byte{' '})
	}
	r.put(rec.text)
	if rec.whole {
		r.put([]byte{'\n'})
	}
}

// put adds to what is read next, within the limit.
func (r *logReader) put(b []byte) {
	if r.query.Limit > 0 {
		b = b[:min(int64(len(b)), r.left)]
		if r.left -= int64(len(b)); r.left == 0 {
			defer r.finish()
		}
	}
	r.out.Write(b)
}
