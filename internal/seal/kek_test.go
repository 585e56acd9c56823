package seal_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/polygate/polygate/internal/seal"
)

func newKEK(t testing.TB) *seal.KEK {
	t.Helper()
	k, err := seal.CreateKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKEKFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kek")
	made, err := seal.CreateKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v; want 0600", st.Mode(), err)
	}
	loaded, err := seal.LoadKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	if loaded.ID() != made.ID() || len(loaded.ID()) != 12 {
		t.Errorf("id is %q after loading, %q when made", loaded.ID(), made.ID())
	}
	e, err := made.Wrap([]byte("data key"), "team-a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.Unwrap(e, "team-a"); err != nil || string(got) != "data key" {
		t.Errorf("Unwrap = %q, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".kek-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCreateKEKNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.CreateKEK(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file now holds %q", b)
	}
}

// TestCreateKEKRace lets many make one file: exactly one may win, and the others must see its key.
func TestCreateKEKRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	ids := make([]string, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			k, err := seal.CreateKEK(path)
			if errors.Is(err, fs.ErrExist) {
				k, err = seal.LoadKEK(path)
			} else if err == nil {
				ids[i] = "made "
			}
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] += k.ID()
		})
	}
	wg.Wait()
	made := 0
	for _, id := range ids {
		if _, ok := strings.CutPrefix(id, "made "); ok {
			made++
		}
		if want := strings.TrimPrefix(ids[0], "made "); strings.TrimPrefix(id, "made ") != want {
			t.Errorf("two keys: %q and %q", id, want)
		}
	}
	if made != 1 {
		t.Errorf("%d made the file, want 1", made)
	}
}

func TestLoadKEKRefuses(t *testing.T) {
	good, err := os.ReadFile(keyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		mode       fs.FileMode
		want       string
	}{
		{"group-readable", string(good), 0o640, "chmod 600"},
		{"world-readable", string(good), 0o604, "chmod 600"},
		{"world-writable", string(good), 0o602, "chmod 600"},
		{"empty", "", 0o600, "is not one line"},
		{"another version", "polygate-kek-v2:AAAA\n", 0o600, "is not one line"},
		{"two lines", string(good) + string(good), 0o600, "is not one line"},
		{"short", "polygate-kek-v1:AAAA\n", 0o600, "damaged"},
		{"no base64", "polygate-kek-v1:" + strings.Repeat("!", 44) + "\n", 0o600, "damaged"},
		{"huge", strings.TrimSpace(string(good)) + strings.Repeat(" ", 1<<20), 0o600, "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "kek")
			if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
				t.Fatal(err)
			}
			_, err := seal.LoadKEK(path)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want the path and %q", err, c.want)
			}
			if secret := strings.TrimPrefix(strings.TrimSpace(string(good)), "polygate-kek-v1:"); strings.Contains(err.Error(), secret) {
				t.Error("the message holds the key")
			}
		})
	}
	if _, err := seal.LoadKEK(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: got %v, want fs.ErrNotExist", err)
	}
	if _, err := seal.LoadKEK(t.TempDir()); err == nil {
		t.Error("a directory is accepted")
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if _, err := seal.CreateKEK(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUnwrapTellsTheWrongKEK(t *testing.T) {
	a, b := newKEK(t), newKEK(t)
	e, err := a.Wrap([]byte("data key"), "team-a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Unwrap(e, "team-a")
	var wrong *seal.WrongKEKError
	if !errors.As(err, &wrong) || wrong.Sealed != a.ID() || wrong.Have != b.ID() {
		t.Fatalf("got %v, want a WrongKEKError of %s and %s", err, a.ID(), b.ID())
	}
	forged := strings.Replace(string(e), a.ID(), b.ID(), 1)
	if _, err := b.Unwrap([]byte(forged), "team-a"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("the id exchanged: got %v, want ErrOpen", err)
	}
	if _, err := a.Unwrap(e, "team-b"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("foreign context: got %v, want ErrOpen", err)
	}
}

func TestEnvelopeBitFlips(t *testing.T) {
	k := newKEK(t)
	e, _ := k.Wrap([]byte("data key"), "team-a")
	eachFlip(e, func(i int, b []byte) {
		if got, err := k.Unwrap(b, "team-a"); err == nil {
			t.Errorf("bit %d flipped (%q): opens as %q", i, b, got)
		}
	})
	for _, other := range []string{" " + string(e), string(e) + "\n", strings.Replace(string(e), `"v"`, `"V"`, 1), strings.Replace(string(e), "{", `{"x":1,`, 1)} {
		if _, err := k.Unwrap([]byte(other), "team-a"); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("another spelling %q: got %v, want ErrOpen", other, err)
		}
	}
}

func TestWrapIsBounded(t *testing.T) {
	k := newKEK(t)
	if _, err := k.Wrap(make([]byte, seal.MaxEnvelope), "a"); err == nil {
		t.Error("an envelope that Unwrap refuses is made")
	}
}

func FuzzUnwrap(f *testing.F) {
	k := newKEK(f)
	e, _ := k.Wrap([]byte("other"), "b")
	f.Add(e)
	f.Add([]byte(`{"v":1,"kek":"","n":"","c":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := k.Unwrap(b, "a"); err == nil {
			t.Errorf("Unwrap(%q): forged", b)
		}
	})
}
