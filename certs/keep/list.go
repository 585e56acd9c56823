package keep

import (
	"context"
	"strings"
)

// filePage is how many files are read at once.
const filePage = 100

// List implements certmagic.Storage: the names below path, files and directories, each once; those of all levels if recursive,
// else those of the first. The root is "". The error is fs.ErrNotExist if there is nothing of that name.
func (s *Storage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	key := dirFiles
	if path != "" {
		var err error
		if key, err = fileKey(path); err != nil {
			return nil, err
		}
	}
	w := walk{path: path, recursive: recursive, seen: make(map[string]bool)}
	for after, more := "", true; more; {
		if err := ended(ctx); err != nil {
			return nil, s.explain("list", path, err)
		}
		items, left, err := s.keeper.vault.List(ctx, s.owner, key, after, filePage)
		if err != nil {
			return nil, s.explain("list", path, err)
		}
		for _, it := range items {
			w.add(it.Key)
			after = it.Key
		}
		more = left && len(items) > 0
	}
	if path == "" || len(w.names) > 0 {
		return w.names, nil
	}
	_, err := s.keeper.vault.Get(ctx, s.owner, key) // a file: nothing is below it
	return nil, s.explain("list", path, err)
}

// walk collects the names of a listing.
type walk struct {
	path      string
	recursive bool
	names     []string
	seen      map[string]bool
}

// add takes the key of a file: its name, and the directories that lead to it from the path.
func (w *walk) add(key string) {
	name, ok := fileName(key)
	if !ok {
		return
	}
	rest := name
	if w.path != "" {
		if rest, ok = strings.CutPrefix(name, w.path+"/"); !ok {
			return // the path itself is a file
		}
	}
	at := w.path
	for i, part := range strings.Split(rest, "/") {
		if i > 0 || at != "" {
			at += "/"
		}
		at += part
		if !w.seen[at] {
			w.seen[at] = true
			w.names = append(w.names, at)
		}
		if !w.recursive {
			return
		}
	}
}
