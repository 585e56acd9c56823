package policy

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/polygate/polygate/internal/fault"
)

// maxEntries bounds how much of a folder ReadDir looks at: a policy folder that is somebody's home is a mistake.
const maxEntries = 2000

// ReadDir reads a bundle from a folder: every *.rego below it, and data.json or data.yaml at its top. Folders and files
// whose names begin with a dot are left out. It returns the files that it read as well, and the folders that it looked into, to be watched.
// It refuses what a symbolic link leads out of the folder to, what is no regular file, and what is over the bounds of l.
func ReadDir(dir string, l Limits) (*Bundle, []string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err, "the policy folder cannot be opened: %v", err)
	}
	defer func() { _ = root.Close() }()
	r := &reader{root: root, dir: dir, l: l.or(Defaults()), b: &Bundle{Modules: make(map[string]string)}}
	if err := fs.WalkDir(root.FS(), ".", r.visit); err != nil {
		return nil, nil, fault.Wrap(fault.Invalid, err, "the policy folder cannot be read: %v", err)
	}
	return r.b, r.files, nil
}

type reader struct {
	root    *os.Root
	dir     string
	l       Limits
	b       *Bundle
	files   []string
	entries int
	left    int
}

func (r *reader) visit(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if r.entries++; r.entries > maxEntries {
		return errors.New("it holds more than 2000 files: give the policy a folder of its own")
	}
	hidden := path != "." && strings.HasPrefix(d.Name(), ".")
	switch {
	case hidden && d.IsDir():
		return fs.SkipDir
	case hidden:
		return nil
	case d.IsDir():
		r.files = append(r.files, filepath.Join(r.dir, path))
		return nil
	case strings.HasSuffix(path, ".rego"):
		text, err := r.read(path)
		r.b.Modules[filepath.ToSlash(path)] = string(text)
		return err
	case path == "data.json" || path == "data.yaml" || path == "data.yml":
		return r.data(path)
	}
	return nil
}

// read reads one file within what is left of the bundle's bytes. os.Root keeps a link inside the folder; a Kubernetes
// ConfigMap, whose files are links into ..data, reads as it should.
func (r *reader) read(path string) ([]byte, error) {
	if len(r.b.Modules) >= r.l.Modules && strings.HasSuffix(path, ".rego") {
		return nil, errors.New(path + ": there are more modules than are allowed")
	}
	info, err := r.root.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would hold up the reload for ever
		return nil, errors.New(path + " is no regular file")
	}
	f, err := r.root.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, int64(r.l.BundleBytes-r.left)+1))
	if err != nil {
		return nil, err
	}
	if r.left += len(text); r.left > r.l.BundleBytes {
		return nil, errors.New(path + ": the files together are larger than a policy may be")
	}
	r.files = append(r.files, filepath.Join(r.dir, path))
	return text, nil
}

func (r *reader) data(path string) error {
	if r.b.Data != nil {
		return errors.New(path + ": there is data.json beside data.yaml: keep one")
	}
	text, err := r.read(path)
	if err != nil {
		return err
	}
	if r.b.Data = text; path == "data.json" {
		return nil
	}
	if strings.ContainsAny(string(text), "&*") && strings.Count(string(text), "*") > 100 {
		return errors.New(path + ": it holds more than 100 aliases: write them out, or use data.json")
	}
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		return errors.New(path + ": " + clip(err.Error(), maxMessage))
	}
	if r.b.Data, err = json.Marshal(v); err != nil {
		return errors.New(path + ": " + clip(err.Error(), maxMessage))
	}
	return nil
}
