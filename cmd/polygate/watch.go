package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A change on disk is reported once nothing more has changed for settleTime, since an editor or a copy writes in steps, but
// at the latest settleLimit after it began, so that a busy folder cannot put it off for ever.
const (
	settleTime  = 25 * time.Millisecond
	settleLimit = 500 * time.Millisecond
)

// lookAgain is how often files are looked at without a report. None comes of a folder that was not there, that was replaced
// by another, or to which another link leads now, nor beyond the system's bound of watched folders.
const lookAgain = 5 * time.Second

// watcher reports changes in a set of files. It watches their folders, since editors and Kubernetes replace a file, or the
// link that leads to it, rather than write into it.
type watcher struct {
	fs      *fsnotify.Watcher
	dirs    map[string]bool
	changed chan struct{} // buffered 1
}

func newWatcher() (*watcher, error) {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch files: %w", err)
	}
	return &watcher{fs: fs, dirs: make(map[string]bool), changed: make(chan struct{}, 1)}, nil
}

// follow makes files the ones to watch. It is called before run, or by whoever receives from changed.
func (w *watcher) follow(files []string) error {
	want := make(map[string]bool, len(files))
	for _, f := range files {
		want[filepath.Dir(f)] = true
	}
	for dir := range w.dirs {
		if !want[dir] {
			_ = w.fs.Remove(dir) // it may be gone already
			delete(w.dirs, dir)
		}
	}
	return w.add(files)
}

// add watches files beside those that are watched. It is called as follow is.
func (w *watcher) add(files []string) error {
	var errs []error
	tried := make(map[string]bool)
	for _, f := range files {
		dir := filepath.Dir(f)
		if w.dirs[dir] || tried[dir] {
			continue
		}
		tried[dir] = true
		if err := w.fs.Add(dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot watch %s: %w", dir, err))
			continue
		}
		w.dirs[dir] = true
	}
	return errors.Join(errs...)
}

// stamps is what files were at a moment, by path. A nil one was not there, or not looked at.
type stamps map[string]os.FileInfo

// now returns what the same files are now.
func (s stamps) now() stamps {
	next := make(stamps, len(s))
	for f := range s {
		if info, err := os.Stat(f); err == nil {
			next[f] = info
		}
	}
	return next
}

// of returns the stamps of files alone. One that s lacks counts as changed, if it is there: it may have been written since
// it was read.
func (s stamps) of(files []string) stamps {
	next := make(stamps, len(files))
	for _, f := range files {
		next[f] = s[f]
	}
	return next
}

// changed says whether a file is another than it was: replaced, written, removed or back.
func (s stamps) changed() bool {
	now := s.now()
	for f, was := range s {
		is := now[f]
		if (is == nil) != (was == nil) {
			return true
		}
		if is != nil && (!os.SameFile(was, is) || is.Size() != was.Size() || !is.ModTime().Equal(was.ModTime()) || access(is) != access(was)) {
			return true
		}
	}
	return false
}

// sameFiles says whether s and other are of the same paths.
func (s stamps) sameFiles(other stamps) bool {
	for f := range s {
		if _, ok := other[f]; !ok {
			return false
		}
	}
	return len(s) == len(other)
}

// rights say who may read a file.
type rights struct {
	mode     os.FileMode
	uid, gid uint32
}

// access returns a file's rights: one that could not be read is mended by them alone, and stays the same otherwise.
func access(info os.FileInfo) rights {
	r := rights{mode: info.Mode()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		r.uid, r.gid = sys.Uid, sys.Gid
	}
	return r
}

// run reports on changed until ctx ends, and then releases the watches.
func (w *watcher) run(ctx context.Context) error {
	defer w.fs.Close()
	settle := time.NewTimer(0)
	defer settle.Stop()
	<-settle.C
	var began time.Time // of the change that is settling; zero = none
	touch := func() {
		if began.IsZero() {
			began = time.Now()
		}
		settle.Reset(max(0, min(settleTime, settleLimit-time.Since(began))))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.fs.Events:
			touch()
		case <-w.fs.Errors: // an overflow: something changed that we were not told of
			touch()
		case <-settle.C:
			began = time.Time{}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}
