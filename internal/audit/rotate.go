package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Rotation says when the file is closed as a segment and a new one is begun. A zero field is no bound; the zero Rotation
// never rotates.
type Rotation struct {
	MaxBytes int64         // once it is longer
	MaxAge   time.Duration // once it was begun longer ago
}

// DefaultRotation returns what fits most: 64 MiB or a day, whichever comes first.
func DefaultRotation() Rotation { return Rotation{MaxBytes: 64 << 20, MaxAge: 24 * time.Hour} }

// due says whether a file of that size, begun at that time, is to be closed.
func (r Rotation) due(size int64, begun, now time.Time) bool {
	return r.MaxBytes > 0 && size >= r.MaxBytes || r.MaxAge > 0 && now.Sub(begun) >= r.MaxAge
}

// Retention says which segments are removed, oldest first and only wholly; the file that is being written never is. A
// zero field is no bound; the zero Retention keeps everything.
type Retention struct {
	MaxAge   time.Duration // closed longer ago than this
	MaxBytes int64         // of all segments of this log and its active file together
}

// DefaultRetention returns 400 days and no bound in size.
func DefaultRetention() Retention { return Retention{MaxAge: 400 * 24 * time.Hour} }

// Rotator is a Sink that can begin a new file; *File is one.
type Rotator interface {
	Sink
	// NextSegment returns the name, without its folder, that the file gets if it is closed now.
	NextSegment(now time.Time) (string, error)
	// Rotate closes the file as that segment and begins a new one with header, whole lines, durably. After an error the new
	// file may have been begun or not: the caller looks at size and content, and nothing is appended before it did.
	Rotate(segment string, header []byte) error
	// Expired returns the segments that the policy does not keep, oldest first.
	Expired(keep Retention, now time.Time) ([]string, error)
	// Remove removes segments that Expired returned. What is gone already is no error.
	Remove(segments []string) error
}

var _ Rotator = (*File)(nil)

const (
	nextSuffix  = ".new" // the file that takes over at the end of a rotation
	indexSuffix = ".idx" // beside a segment: see fileIndex
	stampLayout = "20060102T150405Z"
)

// segment is a closed file of a log. Its name is the active file's with a number and the time of its end before the
// extension, audit.00000012.20260801T100000Z.jsonl: the names sort in the order of the chains.
type segment struct {
	path   string
	number uint64
	closed time.Time
	size   int64
}

// splitLog returns what the names of a log's segments begin and end with.
func splitLog(path string) (stem, ext string) {
	base := filepath.Base(path)
	ext = filepath.Ext(base)
	return strings.TrimSuffix(base, ext), ext
}

func segmentName(path string, number uint64, closed time.Time) string {
	stem, ext := splitLog(path)
	return fmt.Sprintf("%s.%08d.%s%s", stem, number, closed.UTC().Format(stampLayout), ext)
}

// parseSegment reads the name of a segment: that of the log's active file without extension, and where the segment is
// in the log.
func parseSegment(name, ext string) (stem string, s segment, ok bool) {
	rest, ok := strings.CutSuffix(name, ext)
	if !ok {
		return "", s, false
	}
	rest, stamp, _ := cutLast(rest, ".")
	stem, digits, ok := cutLast(rest, ".")
	if !ok || stem == "" || len(digits) < 8 || len(digits) > 8 && digits[0] == '0' {
		return "", s, false
	}
	var err, bad error
	s.number, err = strconv.ParseUint(digits, 10, 64)
	s.closed, bad = time.Parse(stampLayout, stamp)
	return stem, s, err == nil && bad == nil && s.number > 0
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// segments returns the segments of the log at path, oldest first.
func segments(path string) ([]segment, error) {
	all, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	stem, ext := splitLog(path)
	var out []segment
	for _, e := range all {
		of, s, ok := parseSegment(e.Name(), ext)
		if !ok || of != stem || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.path, s.size = filepath.Join(filepath.Dir(path), e.Name()), info.Size()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int { return a.order(b) })
	return out, nil
}

func (s segment) order(other segment) int {
	switch {
	case s.number != other.number:
		return int(min(max(int64(s.number)-int64(other.number), -1), 1))
	default:
		return strings.Compare(s.path, other.path)
	}
}

// expired returns the segments that keep does not keep. The bound in size is met by removing the oldest.
func expired(all []segment, active int64, keep Retention, now time.Time) []string {
	total := active
	for _, s := range all {
		total += s.size
	}
	var out []string
	for _, s := range all {
		old := keep.MaxAge > 0 && now.Sub(s.closed) > keep.MaxAge
		if !old && (keep.MaxBytes <= 0 || total <= keep.MaxBytes) {
			break // only from the front: a hole in the middle could not be verified
		}
		out, total = append(out, s.path), total-s.size
	}
	return out
}

// Rotate implements Rotator. The new file is complete and durable under another name before the active one is renamed,
// and OpenFile finishes a rotation that a crash cut short: so the log is never without the heads that it goes on from.
func (f *File) Rotate(segment string, header []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.ready(); err != nil {
		return err
	}
	next, err := f.prepare(header)
	if err != nil {
		_ = os.Remove(f.path + nextSuffix)
		return f.explain(err)
	}
	old := next // the one to let go of
	defer func() { _ = release(old) }()
	f.at("new file written")
	if err := f.swap(filepath.Join(filepath.Dir(f.path), segment)); err != nil {
		_ = release(f.f)
		f.f, f.unclear = nil, true
		return f.explain(err)
	}
	old, f.f, f.size, f.dirty = f.f, next, int64(len(header)), false
	return nil
}

// NextSegment implements Rotator.
func (f *File) NextSegment(now time.Time) (string, error) {
	all, err := segments(f.path)
	if err != nil {
		return "", f.explain(err)
	}
	number := uint64(1)
	if n := len(all); n > 0 {
		number = all[n-1].number + 1
	}
	return segmentName(f.path, number, now), nil
}

// prepare writes the file that takes over, and locks it as the active one is.
func (f *File) prepare(header []byte) (*os.File, error) {
	next, err := os.OpenFile(f.path+nextSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err = lock(next); err == nil {
		_, err = next.Write(header)
	}
	if err == nil {
		err = next.Sync()
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return nil, errors.Join(err, release(next))
	}
	return next, nil
}

// swap renames the active file to name and the prepared one to the active. The folder is synced between the two, or a
// power cut could keep the second and lose the first, and with it the segment.
func (f *File) swap(name string) error {
	dir := filepath.Dir(f.path)
	if err := os.Rename(f.path, name); err != nil {
		return err
	}
	f.at("segment named")
	if err := syncDir(dir); err != nil {
		return err
	}
	if err := os.Rename(f.path+nextSuffix, f.path); err != nil {
		return err
	}
	f.at("new file in place")
	return syncDir(dir)
}

// at marks a step for the crash test.
func (f *File) at(step string) {
	if f.step != nil {
		f.step(step)
	}
}

// finishRotation brings a rotation that a crash cut short to its end, or takes it back if the active file is still there.
func (f *File) finishRotation() error {
	next, err := os.OpenFile(f.path+nextSuffix, os.O_RDWR, 0)
	if err != nil {
		return nil // the usual case: there is none
	}
	defer func() { _ = release(next) }()
	if err := lock(next); err != nil {
		return err // another process is rotating at this moment
	}
	if _, err := os.Lstat(f.path); !errors.Is(err, fs.ErrNotExist) {
		return os.Remove(f.path + nextSuffix)
	}
	return os.Rename(f.path+nextSuffix, f.path)
}

// lockPatience is how long lock waits: a process that was killed, or a child that was just forked, may hold the lock for
// a moment after it is gone.
const lockPatience = time.Second

// lock takes the lock of a file that is written.
func lock(file *os.File) error {
	for end := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 50) {
		if !errors.Is(syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("another process writes it: stop that one")
		}
	}
}

// release unlocks and closes a file that was locked. It unlocks by itself, since a close lets go of the lock only once
// nothing else refers to the open file, such as a child between fork and exec.
func release(file *os.File) error {
	_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	return file.Close()
}

// Expired implements Rotator.
func (f *File) Expired(keep Retention, now time.Time) ([]string, error) {
	all, err := segments(f.path)
	if err != nil {
		return nil, f.explain(err)
	}
	return expired(all, f.Size(), keep, now), nil
}

// Remove implements Rotator.
func (f *File) Remove(paths []string) error {
	for _, p := range paths {
		_, ext := splitLog(f.path)
		if _, _, ok := parseSegment(filepath.Base(p), ext); !ok {
			return fmt.Errorf("audit log: %s is no segment and is not removed", p)
		}
		_ = os.Remove(p + indexSuffix)
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return f.explain(err)
		}
		f.at("segment removed")
	}
	return syncDir(filepath.Dir(f.path))
}
