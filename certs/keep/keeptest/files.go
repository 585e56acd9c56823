package keeptest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// Storage is the contract in question.
type Storage = certmagic.Storage

// Files runs the part of the contract that is about files, on two replicas' views of one storage. It holds for any
// certmagic.Storage, so that the suite itself can be tried on certmagic's own.
func Files(t *testing.T, open func(t *testing.T) (a, b Storage)) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Storage, Storage)
	}{
		{"files/values", testValues},
		{"files/absent", testAbsent},
		{"files/atomic", testAtomic},
		{"files/prefix", testPrefix},
		{"files/delete", testDelete},
		{"files/list", testList},
		{"files/many", testMany},
		{"files/stat", testStat},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := open(t)
			c.f(t, a, b)
		})
	}
}

func store(t *testing.T, s Storage, name, value string) {
	t.Helper()
	if err := s.Store(t.Context(), name, []byte(value)); err != nil {
		t.Fatalf("Store(%q): %v", name, err)
	}
}

func wantFile(t *testing.T, s Storage, name, want string) {
	t.Helper()
	got, err := s.Load(t.Context(), name)
	if err != nil || string(got) != want {
		t.Errorf("Load(%q): got %q, %v, want %q", name, got, err, want)
	}
}

func wantList(t *testing.T, s Storage, path string, recursive bool, want ...string) {
	t.Helper()
	got, err := s.List(t.Context(), path, recursive)
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("List(%q, %v): got %q, %v, want %q", path, recursive, got, err, want)
	}
}

// "Load() should always return the value from the last call to Store() for a given key"; "it creates the key if it does not
// exist and overwrites any existing value".
func testValues(t *testing.T, a, b Storage) {
	for i, v := range []string{"one", "", "two\x00\xff\n", strings.Repeat("long ", 20_000), "one"} {
		w, r := a, b
		if i%2 == 1 {
			w, r = b, a
		}
		store(t, w, "acme/users/me/me.json", v)
		wantFile(t, r, "acme/users/me/me.json", v)
		wantFile(t, w, "acme/users/me/me.json", v)
	}
}

// "The Load, List, and Stat methods should return fs.ErrNotExist if the key does not exist"; a directory is no file.
func testAbsent(t *testing.T, a, b Storage) {
	check := func(name string) {
		t.Helper()
		if v, err := b.Load(t.Context(), name); !errors.Is(err, fs.ErrNotExist) || v != nil {
			t.Errorf("Load(%q): got %q, %v, want fs.ErrNotExist", name, v, err)
		}
		if _, err := b.Stat(t.Context(), name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Stat(%q): got %v, want fs.ErrNotExist", name, err)
		}
		for _, recursive := range []bool{false, true} {
			if _, err := b.List(t.Context(), name, recursive); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("List(%q): got %v, want fs.ErrNotExist", name, err)
			}
		}
		if b.Exists(t.Context(), name) {
			t.Errorf("Exists(%q): got true", name)
		}
	}
	check("nothing")
	check("nothing/at/all")
	store(t, a, "dir/file", "x")
	check("dir/fil")
	check("di")
	check("dir/file2")
	if err := a.Delete(t.Context(), "dir/file"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	check("dir/file")
}

// "concurrent calls to Store() should not corrupt a file": what is loaded meanwhile is one of the values, whole.
func testAtomic(t *testing.T, a, b Storage) {
	value := func(c int) []byte { return bytes.Repeat([]byte{byte('a' + c)}, 5000+c) }
	store(t, a, "f", string(value(0)))
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for range 5 {
				if err := []Storage{a, b}[c%2].Store(t.Context(), "f", value(c)); err != nil {
					t.Errorf("Store: %v", err)
				}
				got, err := []Storage{b, a}[c%2].Load(t.Context(), "f")
				if err != nil || len(got) < 5000 || !bytes.Equal(got, value(int(got[0]-'a'))) {
					t.Errorf("Load: got %d bytes, %v: not one whole value", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	last := string(value(3))
	store(t, b, "f", last)
	wantFile(t, a, "f", last)
}

// "a" is a prefix of "a/b" but not "ab/c".
func testPrefix(t *testing.T, a, b Storage) {
	for _, name := range []string{"a/b", "ab/c", "a-/d", "a0/e"} { // '-' sorts before '/', '0' after it
		store(t, a, name, name)
	}
	wantList(t, b, "a", true, "a/b")
	wantList(t, b, "a", false, "a/b")
	if err := a.Delete(t.Context(), "a"); err != nil {
		t.Errorf("Delete(a): %v", err)
	}
	if b.Exists(t.Context(), "a") || b.Exists(t.Context(), "a/b") {
		t.Error("a is there after it was deleted")
	}
	for _, name := range []string{"ab/c", "a-/d", "a0/e"} {
		wantFile(t, b, name, name)
	}
}

// "If the name is a directory, all keys prefixed by this key should be deleted. It is not an error if the key does not exist".
func testDelete(t *testing.T, a, b Storage) {
	for _, name := range []string{"d/1", "d/2/3", "d/2/4/5", "e/1"} {
		store(t, a, name, name)
	}
	for _, name := range []string{"absent", "absent/too", "d/absent", "d/2", "d/2", "d/1", "d/1", "d"} {
		if err := b.Delete(t.Context(), name); err != nil {
			t.Errorf("Delete(%q): %v", name, err)
		}
	}
	for _, name := range []string{"d/1", "d/2/3", "d/2/4/5", "d/2"} {
		if a.Exists(t.Context(), name) {
			t.Errorf("%q is there after it was deleted", name)
		}
	}
	wantFile(t, a, "e/1", "e/1")
}

// "If recursive is true, non-terminal keys will be enumerated; otherwise, only keys prefixed exactly by prefix will be
// listed": the names are whole, directories among them.
func testList(t *testing.T, a, b Storage) {
	for _, name := range []string{"certificates/ca1/a.com/a.com.crt", "certificates/ca1/a.com/a.com.key", "certificates/ca2/b.com/b.com.crt", "acme/u.json"} {
		store(t, a, name, name)
	}
	wantList(t, b, "", false, "certificates", "acme")
	wantList(t, b, "certificates", false, "certificates/ca1", "certificates/ca2")
	wantList(t, b, "certificates/ca1", false, "certificates/ca1/a.com")
	wantList(t, b, "certificates/ca1/a.com", false, "certificates/ca1/a.com/a.com.crt", "certificates/ca1/a.com/a.com.key")
	wantList(t, b, "certificates/ca1", true, "certificates/ca1/a.com", "certificates/ca1/a.com/a.com.crt", "certificates/ca1/a.com/a.com.key")
	wantList(t, b, "acme/u.json", true)
	wantList(t, b, "", true, "acme", "acme/u.json", "certificates", "certificates/ca1", "certificates/ca1/a.com",
		"certificates/ca1/a.com/a.com.crt", "certificates/ca1/a.com/a.com.key", "certificates/ca2", "certificates/ca2/b.com",
		"certificates/ca2/b.com/b.com.crt")
}

// A listing of more than is read at once.
func testMany(t *testing.T, a, b Storage) {
	var want []string
	for i := range 230 {
		name := fmt.Sprintf("ocsp/%03d", i)
		store(t, a, name, "x")
		want = append(want, name)
	}
	wantList(t, b, "ocsp", true, want...)
	wantList(t, b, "ocsp", false, want...)
	wantList(t, b, "", false, "ocsp")
}

// Stat's Key and IsTerminal are required; size and time are right where they are given.
func testStat(t *testing.T, a, b Storage) {
	start := time.Now().Add(-2 * time.Second)
	store(t, a, "dir/sub/file", "12345")
	store(t, a, "dir/sub/empty", "")
	for name, size := range map[string]int64{"dir/sub/file": 5, "dir/sub/empty": 0} {
		got, err := b.Stat(t.Context(), name)
		if err != nil || got.Key != name || !got.IsTerminal || got.Size != size || got.Modified.Before(start) || time.Since(got.Modified) < -2*time.Second {
			t.Errorf("Stat(%q): got %+v, %v", name, got, err)
		}
		if !b.Exists(t.Context(), name) {
			t.Errorf("Exists(%q): got false", name)
		}
	}
	for _, name := range []string{"dir", "dir/sub"} {
		got, err := b.Stat(t.Context(), name)
		if err != nil || got.Key != name || got.IsTerminal {
			t.Errorf("Stat(%q): got %+v, %v", name, got, err)
		}
		if !b.Exists(t.Context(), name) {
			t.Errorf("Exists(%q): got false", name)
		}
	}
}
