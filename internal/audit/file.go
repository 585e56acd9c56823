package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// markSuffix names the small file beside the log that remembers from where a start has to read it.
const markSuffix = ".mark"

// File is the log on disk: JSON lines, appended and synced, all chains interleaved. It holds an advisory lock, since
// two writers would break every chain. It rotates into segments beside it; a file that is moved away while in use is
// replaced by a new one, so it can be rotated by hand too. The parts, in order, verify as one.
type File struct {
	path string
	step func(name string) // called around each effect of a rotation; nil but in tests

	mu    sync.Mutex
	f     *os.File // guarded by mu; nil after Close, or while the file cannot be opened again
	size  int64    // guarded by mu: where the next line goes; what is behind it is the rest of a failed write
	dirty bool     // guarded by mu: the file may be longer than size by our own failed write

	closed  bool // guarded by mu
	unclear bool // guarded by mu: a rotation failed half way, and nobody has asked for the size since
}

// OpenFile opens the log for appending and makes it, readable by its owner only, if it is missing. The error is one
// line that says what to do.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	if err := f.finishRotation(); err != nil {
		return f.explain(err)
	}
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return f.explain(err)
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		err = lock(file)
	}
	if err == nil {
		err = f.redo(file)
	}
	if err == nil {
		info, err = file.Stat()
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return errors.Join(f.explain(err), release(file))
	}
	f.f, f.size, f.dirty = file, info.Size(), false
	return nil
}

// explain makes an error of the file system one line that says what to do.
func (f *File) explain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("audit log %s: its folder does not exist: make it, or configure another path: %w", f.path, err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("audit log %s: not writable: let this user write it, or configure another path: %w", f.path, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("audit log %s: the disk is full: free space; changes wait in the registry until then: %w", f.path, err)
	}
	return fmt.Errorf("audit log %s: %w: repair it, or configure another path", f.path, err)
}

// syncDir makes a new file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Append writes lines and returns once they are durable. After an error nothing of them will remain: the next Append
// begins where this one did.
func (f *File) Append(lines []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ready(); err != nil {
		return err
	}
	_, err := f.f.WriteAt(lines, f.size)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		// A failed fsync may have dropped the pages and cleared the error, so the whole batch is written anew later.
		f.dirty = f.f.Truncate(f.size) != nil
		return f.explain(err)
	}
	f.size += int64(len(lines))
	return nil
}

// ready makes sure that the open file is the one at the path and ends where we left it. What somebody else did to it
// is an error once, and from then on the state to go on from: the verifier will tell.
func (f *File) ready() error {
	if f.unclear {
		return fmt.Errorf("audit log %s: a rotation failed half way", f.path)
	}
	if f.f == nil {
		return f.open()
	}
	have, err := f.f.Stat()
	if err != nil {
		return f.explain(err)
	}
	if at, err := os.Stat(f.path); err != nil || !os.SameFile(at, have) {
		_ = release(f.f) // every append to it was synced
		f.f = nil
		if err := f.open(); err != nil {
			return err
		}
		return fmt.Errorf("audit log %s was moved or removed: a new file is begun", f.path)
	}
	if f.dirty && have.Size() >= f.size {
		if err := f.f.Truncate(f.size); err != nil {
			return f.explain(err)
		}
		f.dirty = false
		return nil
	}
	if have.Size() != f.size {
		return f.changed(have.Size())
	}
	return nil
}

// changed goes on at the end of a file that somebody else cut or added to, on a line of its own.
func (f *File) changed(size int64) error {
	was := f.size
	f.size, f.dirty = size, false
	var last [1]byte
	if size > 0 {
		if _, err := f.f.ReadAt(last[:], size-1); err != nil {
			return f.explain(err)
		}
		if last[0] != '\n' {
			if _, err := f.f.WriteAt([]byte("\n"), size); err != nil {
				return f.explain(err)
			}
			f.size++
		}
	}
	return fmt.Errorf("audit log %s was changed by another process: it is %d bytes long, and we wrote %d", f.path, size, was)
}

// Size returns the length of what was appended, in bytes.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unclear && !f.closed && f.open() == nil { // what is there now counts
		f.unclear = false
	}
	return f.size
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	file := f.f
	f.mu.Unlock()
	if file == nil {
		return 0, os.ErrClosed
	}
	return file.ReadAt(p, off)
}

// Truncate cuts the log at size, durably.
func (f *File) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return os.ErrClosed
	}
	if err := errors.Join(f.f.Truncate(size), f.f.Sync()); err != nil {
		return f.explain(err)
	}
	f.size = size
	return nil
}

// Mark returns what SetMark stored last; nothing if that is lost.
func (f *File) Mark() []byte {
	file, err := os.Open(f.path + markSuffix)
	if err != nil {
		return nil
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, 4096))
	if err != nil {
		return nil
	}
	return b
}

// SetMark stores a small value beside the log. It is not synced: a reader must check it against the log.
func (f *File) SetMark(mark []byte) error {
	next := f.path + markSuffix + ".new"
	if err := os.WriteFile(next, mark, 0o600); err != nil {
		return err
	}
	return os.Rename(next, f.path+markSuffix)
}

// Close lets go of the log.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.f == nil {
		return nil
	}
	err := release(f.f)
	f.f = nil
	return err
}
