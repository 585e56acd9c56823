package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetMark([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + markSuffix} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v; want 0600", p, info.Mode().Perm(), err)
		}
	}
}

func TestOpenFileSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	inUse := filepath.Join(dir, "in-use")
	f, err := OpenFile(inUse)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for path, want := range map[string]string{
		filepath.Join(dir, "no", "such", "audit.log"): "its folder does not exist: make it",
		dir:         "configure another path",
		"/dev/null": "not a regular file: repair it, or configure another path",
		inUse:       "another process writes it: stop that one",
	} {
		f, err := OpenFile(path)
		if err == nil {
			_ = f.Close()
			t.Errorf("%s: opened", path)
			continue
		}
		if got := err.Error(); !strings.Contains(got, want) || !strings.Contains(got, path) || strings.Contains(got, "\n") {
			t.Errorf("%s: %q; want one line with %q", path, got, want)
		}
	}
}

func TestFileIsReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for range 2 {
		f, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Append([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "line\nline\n" {
		t.Errorf("file is %q", b)
	}
}
