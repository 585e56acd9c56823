package process

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A log is lines, each with its time, "F" for a whole line or "P" for a part that the next goes on with, and the text:
//
//	2026-01-02T15:04:05.000000000Z F hello
const (
	logTime   = "2006-01-02T15:04:05.000000000Z"
	logHead   = len(logTime) + 3
	logRecord = 16 << 10 // of text in one
	logRate   = 16 << 20 // bytes a second that are taken off a sandbox: who writes faster waits, and does not keep the disk busy
)

// logWriter writes a log of at most so many bytes, in two files: when one is full the older is let go.
type logWriter struct {
	dir  string
	most int64 // of each file
	now  func() time.Time
	file *os.File
	size int64
}

func newLogWriter(dir string, most int64, now func() time.Time) (*logWriter, error) {
	w := &logWriter{dir: dir, most: max(most/2, 4096), now: now}
	return w, w.open()
}

func (w *logWriter) open() (err error) {
	w.file, err = os.OpenFile(filepath.Join(w.dir, logFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	w.size = 0
	return err
}

// Write never fails for the sandbox's sake: what cannot be stored (a full disk) is lost, and the sandbox goes on.
func (w *logWriter) Write(p []byte) (int, error) {
	stamp := w.now().UTC().Format(logTime)
	var out bytes.Buffer
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		if len(line) > logRecord {
			line, after, whole = rest[:logRecord], rest[logRecord:], false
		}
		out.WriteString(stamp)
		if whole {
			out.WriteString(" F ")
		} else {
			out.WriteString(" P ")
		}
		out.Write(line)
		out.WriteByte('\n')
		rest = after
	}
	w.store(out.Bytes())
	return len(p), nil
}

func (w *logWriter) store(b []byte) {
	if w.size+int64(len(b)) > w.most && w.size > 0 {
		_ = w.file.Close()
		_ = os.Rename(filepath.Join(w.dir, logFile), filepath.Join(w.dir, logOldFile))
		if w.open() != nil {
			w.file = nil
		}
	}
	if w.file == nil && w.open() != nil {
		return
	}
	n, _ := w.file.Write(b)
	w.size += int64(n)
}

func (w *logWriter) Close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// drain copies what a sandbox prints, at most logRate.
func drain(w io.Writer, r io.Reader) {
	buf := make([]byte, chunk)
	begun, taken := time.Now(), 0
	for {
		n, err := r.Read(buf)
		if n > 0 {
			_, _ = w.Write(buf[:n])
		}
		if err != nil {
			return
		}
		passed := time.Since(begun)
		if passed > time.Second {
			begun, taken, passed = time.Now(), 0, 0
		}
		if taken += n; taken > logRate {
			time.Sleep(time.Second - passed)
			begun, taken = time.Now(), 0
		}
	}
}
