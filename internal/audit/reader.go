package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of a reader.
const (
	defaultBytes = 128 << 20
	defaultTime  = time.Second
	maxOrphans   = 16      // indexes of files that were rotated and are not stored yet
	maxFirst     = 1 << 16 // segments of which is remembered with what they begin
)

// ReaderConfig is what a reader is made with.
type ReaderConfig struct {
	Dir    string           // the folder: every log in it is read, of all replicas, past and present; required
	Ext    string           // the extension of the logs; "" = ".jsonl"
	Bytes  int64            // read by one Query at most, but for a line or a directory of an index; 0 = 128 MiB
	Budget time.Duration    // that one Query takes; 0 = 1 s
	Now    func() time.Time // nil = time.Now
}

// Reader answers queries from the files of a folder, beside the drains that write them. It keeps an index of every file
// that is being written in memory, some 4 bytes a record, and of every segment in a file beside it. It is safe for
// concurrent use; indexes are made by one query at a time, so that many queries cannot take all processors for it.
type Reader struct {
	cfg ReaderConfig

	turn    chan struct{}         // held while the fields below are used
	open    map[string]*openIndex // of the active files, by path
	orphans []*openIndex          // of active files that are segments by now
	partial map[string]*fileIndex // of segments, not yet complete
	first   map[string]string     // whose chains a segment begins with, by path
}

// openIndex is the index of a file that is being written.
type openIndex struct {
	info  os.FileInfo // which file
	begin string      // what it begins with: an inode is used again
	x     *fileIndex
}

// NewReader checks cfg and makes a reader. It reads nothing until asked.
func NewReader(cfg ReaderConfig) (*Reader, error) {
	if cfg.Dir == "" {
		return nil, errors.New("audit: Dir is required: name the folder of the audit log")
	}
	if cfg.Bytes < 0 || cfg.Budget < 0 {
		return nil, errors.New("audit: Bytes and Budget: use 0 or more")
	}
	if cfg.Ext == "" {
		cfg.Ext = ".jsonl"
	}
	if cfg.Bytes == 0 {
		cfg.Bytes = defaultBytes
	}
	if cfg.Budget == 0 {
		cfg.Budget = defaultTime
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Reader{cfg: cfg, turn: make(chan struct{}, 1), open: make(map[string]*openIndex), partial: make(map[string]*fileIndex), first: make(map[string]string)}, nil
}

func (r *Reader) budget() *budget {
	return &budget{bytes: r.cfg.Bytes, until: r.cfg.Now().Add(r.cfg.Budget), now: r.cfg.Now}
}

// logFiles is one log of the folder, as it was at one moment.
type logFiles struct {
	name     string // of the active file, without extension
	path     string // of the active file
	active   *os.File
	segments []segment // newest first
}

func (l *logFiles) close() {
	if l.active != nil {
		_ = l.active.Close()
		l.active = nil
	}
}

// list opens the active files and then lists the segments: so no rotation in between can hide a file.
func (r *Reader) list() ([]*logFiles, error) {
	byName := make(map[string]*logFiles)
	all, err := os.ReadDir(r.cfg.Dir)
	for _, e := range all {
		name, ok := strings.CutSuffix(e.Name(), r.cfg.Ext)
		if _, _, closed := parseSegment(e.Name(), r.cfg.Ext); !ok || closed || name == "" || !e.Type().IsRegular() {
			continue
		}
		l := &logFiles{name: name, path: filepath.Join(r.cfg.Dir, e.Name())}
		if l.active, err = os.Open(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		byName[name], err = l, nil
	}
	if err == nil {
		all, err = os.ReadDir(r.cfg.Dir)
	}
	if err != nil {
		for _, l := range byName {
			l.close()
		}
		return nil, fmt.Errorf("audit log: %w: make the folder and its files readable", err)
	}
	r.addSegments(byName, all)
	out := make([]*logFiles, 0, len(byName))
	for _, l := range byName {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *logFiles) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// addSegments gives each log its segments. One that is the active file of a moment ago is left out: it is open as that.
func (r *Reader) addSegments(byName map[string]*logFiles, all []os.DirEntry) {
	for _, e := range all {
		stem, s, ok := parseSegment(e.Name(), r.cfg.Ext)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		l := byName[stem]
		if l == nil {
			l = &logFiles{name: stem, path: filepath.Join(r.cfg.Dir, stem+r.cfg.Ext)}
			byName[stem] = l
		}
		s.path = filepath.Join(r.cfg.Dir, e.Name())
		l.segments = append(l.segments, s)
	}
	for _, l := range byName {
		slices.SortFunc(l.segments, func(a, b segment) int { return b.order(a) })
		if l.active == nil || len(l.segments) == 0 {
			continue
		}
		was, err := os.Stat(l.segments[0].path)
		if is, bad := l.active.Stat(); err == nil && bad == nil && os.SameFile(was, is) {
			l.segments = l.segments[1:]
		}
	}
}

// use waits for the turn to use the indexes.
func (r *Reader) use(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Reader) done() { <-r.turn }

// activeChain brings the index of a file that is being written up to date and returns a chain's part as it is now. The
// error is errSpent if the budget ended before; the next query goes on from there.
func (r *Reader) activeChain(ctx context.Context, l *logFiles, chain string, b *budget) (*chainIndex, error) {
	if err := r.use(ctx); err != nil {
		return nil, err
	}
	defer r.done()
	info, err := l.active.Stat()
	if err != nil {
		return nil, err
	}
	o := r.current(l, info)
	if err := o.x.extend(l.active, info.Size(), b.spend); err != nil {
		return nil, err
	}
	if b.bytes <= 0 && o.x.covered < info.Size() && !tornRest(l.active, o.x.covered, info.Size()) {
		return nil, errSpent
	}
	if c := o.x.chains[chain]; c != nil {
		now := *c // the slice below is only added to
		return &now, nil
	}
	return nil, nil
}

// tornRest says whether what is behind an offset holds no whole line.
func tornRest(f *os.File, from, size int64) bool {
	b := make([]byte, min(size-from, MaxLine))
	n, _ := f.ReadAt(b, from)
	return !strings.Contains(string(b[:n]), "\n")
}

// current returns the index of an active file; that of another file which had its name before becomes an orphan.
func (r *Reader) current(l *logFiles, info os.FileInfo) *openIndex {
	var head [128]byte
	n, _ := l.active.ReadAt(head[:], 0)
	begin := string(head[:n])
	o := r.open[l.path]
	if o != nil && os.SameFile(o.info, info) && info.Size() >= o.x.covered && strings.HasPrefix(begin, o.begin) {
		o.begin = begin // it may have been shorter
		return o
	}
	for _, old := range r.orphans { // a listing that is older than the rotation
		if os.SameFile(old.info, info) && info.Size() >= old.x.covered && strings.HasPrefix(begin, old.begin) {
			return old
		}
	}
	if o != nil {
		r.orphans = append(r.orphans, o)
		r.orphans = r.orphans[max(len(r.orphans)-maxOrphans, 0):]
	}
	o = &openIndex{info: info, begin: begin, x: newIndex()}
	r.open[l.path] = o
	return o
}

// segmentChain returns a chain's part of a segment's index, nil if the segment has nothing that f wants. The index is
// made and stored if there is none.
func (r *Reader) segmentChain(ctx context.Context, s segment, file *os.File, f *filter, chain string, b *budget) (*chainIndex, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	c, err := r.storedChain(s, info.Size(), f, chain, b)
	if !errors.Is(err, errIndex) {
		return c, err
	}
	if err := r.use(ctx); err != nil {
		return nil, err
	}
	defer r.done()
	x, err := r.build(s, file, info, b)
	if err != nil {
		return nil, err
	}
	return x.chains[chain], nil
}

func (r *Reader) storedChain(s segment, size int64, f *filter, chain string, b *budget) (*chainIndex, error) {
	stored, err := os.Open(s.path + indexSuffix)
	if err != nil {
		return nil, errIndex
	}
	defer func() { _ = stored.Close() }()
	side, err := openSidecar(stored, size)
	if err != nil {
		return nil, err
	}
	b.spend(indexHead)
	if side.max < f.from || side.min >= f.to {
		return nil, nil
	}
	c, read, err := side.chain(chain)
	b.spend(read)
	return c, err
}

// build makes the index of a segment, or a part of it if the budget ends: then the error is errSpent, and the next goes on.
func (r *Reader) build(s segment, file *os.File, info os.FileInfo, b *budget) (*fileIndex, error) {
	x := r.partial[s.path]
	if x == nil {
		x = r.adopted(info)
	}
	if x == nil {
		x = newIndex()
	}
	r.partial[s.path] = x
	if err := x.extend(file, info.Size(), b.spend); err != nil {
		return nil, err
	}
	if b.bytes <= 0 && x.covered < info.Size() && !tornRest(file, x.covered, info.Size()) {
		return nil, errSpent
	}
	delete(r.partial, s.path)
	x.covered = info.Size() // a torn line at the end is in no chain
	if err := storeIndex(s.path, x); err != nil {
		return x, nil // a folder that we may not write: it is made each time
	}
	return x, nil
}

// adopted returns the index that a segment had while it was the active file.
func (r *Reader) adopted(info os.FileInfo) *fileIndex {
	for _, o := range r.open {
		if os.SameFile(o.info, info) {
			r.orphans = append(r.orphans, o)
		}
	}
	for i, o := range r.orphans {
		if os.SameFile(o.info, info) && info.Size() >= o.x.covered {
			r.orphans = slices.Delete(r.orphans, i, i+1)
			return o.x
		}
	}
	return nil
}

// writers returns the replicas whose chains a log holds; "" is for those without a name. A drain closes a file soon in which the
// kind of names changes, so what the files begin with, and what is in the active one, is all.
func (r *Reader) writers(ctx context.Context, l *logFiles, b *budget) ([]string, error) {
	found := make(map[string]bool)
	if l.active != nil {
		if _, err := r.activeChain(ctx, l, PlatformChain, b); err != nil && !errors.Is(err, errSpent) {
			return nil, err
		}
	}
	if err := r.use(ctx); err != nil {
		return nil, err
	}
	defer r.done()
	if l.active != nil {
		info, err := l.active.Stat()
		if err != nil {
			return nil, err
		}
		maps.Copy(found, r.current(l, info).x.writers)
	}
	for _, s := range l.segments {
		writer, known := r.first[s.path]
		if !known {
			var ok bool
			if writer, ok = firstWriter(s.path); !ok {
				continue // gone, or damaged from its first line on
			}
			b.spend(shortLine)
			if len(r.first) >= maxFirst {
				clear(r.first)
			}
			r.first[s.path] = writer
		}
		found[writer] = true
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// firstWriter returns whose chain the first line of a file is of.
func firstWriter(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, shortLine)
	n, _ := f.ReadAt(b, 0)
	chain, _, _, ok := glance(b[:n])
	_, writer := SplitChain(string(chain))
	return writer, ok
}

// forget removes the stored index of a segment.
func (r *Reader) forget(s segment) { _ = os.Remove(s.path + indexSuffix) }

// forgetActive drops the index of a file that is being written.
func (r *Reader) forgetActive(ctx context.Context, path string) error {
	if err := r.use(ctx); err != nil {
		return err
	}
	defer r.done()
	delete(r.open, path)
	return nil
}

// Warm makes the indexes of segments that have none, and brings those in memory up to date, so that no query has to.
func (r *Reader) Warm(ctx context.Context) error {
	f := &filter{chain: PlatformChain}
	logs, err := r.list()
	if err != nil {
		return err
	}
	all := &merge{page: new(Page)}
	defer all.close()
	for _, l := range logs {
		all.logs = append(all.logs, l)
		all.walkers = append(all.walkers, &walker{r: r, log: l, f: f, chain: f.chain, damaged: new(int), at: logPosition{}})
	}
	for _, w := range all.walkers {
		for !w.done {
			if err := ctx.Err(); err != nil {
				return err
			}
			w.budget = r.budget() // the turn is given away after each
			file, _, err := w.lookup(ctx)
			if err != nil && !errors.Is(err, errSpent) {
				return err
			}
			if w.file = file; err == nil {
				w.nextFile()
			}
		}
	}
	return nil
}

// dirOf returns the folder of a file.
func dirOf(path string) string { return filepath.Dir(path) }
