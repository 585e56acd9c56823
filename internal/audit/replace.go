package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// tailSuffix names the file beside the log that holds its new end while that is being replaced.
const tailSuffix = ".tail"

// Replace makes lines what the log holds from an offset on, durably: after a crash at any moment the log is as before, or the next
// OpenFile makes it so.
func (f *File) Replace(at int64, lines []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.f == nil {
		return os.ErrClosed
	}
	if len(lines) == 0 { // to cut is one act
		if err := errors.Join(f.f.Truncate(at), f.f.Sync()); err != nil {
			return f.explain(err)
		}
		f.size = at
		return nil
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(at))
	b = append(b, lines...)
	sum := sha256.Sum256(b)
	f.at("before the new end")
	if err := writeSynced(f.path+tailSuffix, append(sum[:], b...)); err != nil {
		return f.explain(err)
	}
	f.at("after the new end")
	if err := f.redo(f.f); err != nil {
		return f.explain(err)
	}
	info, err := f.f.Stat()
	if err != nil {
		return f.explain(err)
	}
	f.size = info.Size()
	return nil
}

// redo finishes a Replace, if one was begun. One that was done already is not done again: lines may have come behind it.
func (f *File) redo(file *os.File) error {
	path := f.path + tailSuffix
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(b) >= sha256.Size+8 {
		sum, rest := b[:sha256.Size], b[sha256.Size:]
		at, lines := int64(binary.BigEndian.Uint64(rest)), rest[8:]
		if is := sha256.Sum256(rest); bytes.Equal(sum, is[:]) && !holds(file, at, lines) {
			f.at("before the end is cut")
			if err := file.Truncate(at); err != nil {
				return err
			}
			f.at("after the end is cut")
			if _, err := file.WriteAt(lines, at); err != nil {
				return err
			}
			if err := file.Sync(); err != nil {
				return err
			}
		}
	} // else it was torn: the log was not touched
	f.at("before the new end goes")
	return errors.Join(os.Remove(path), syncDir(filepath.Dir(path)))
}

// holds says whether a file has lines at an offset.
func holds(file *os.File, at int64, lines []byte) bool {
	have := make([]byte, len(lines))
	n, _ := file.ReadAt(have, at)
	return n == len(lines) && bytes.Equal(have, lines)
}

func writeSynced(path string, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	return errors.Join(err, file.Sync(), file.Close(), syncDir(filepath.Dir(path)))
}
