package seal_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/seal"
)

// TestKeyringChange tells how a platform goes from one key to the next.
func TestKeyringChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if _, err := seal.LoadKeyring(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a file: %v, want fs.ErrNotExist", err)
	}
	ring, err := seal.CreateKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	old := ring.ID()
	before, _ := ring.Wrap([]byte("data key"), "team-a")
	next, err := seal.AddKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v (%v), want 0600", st.Mode(), err)
	}
	if err := ring.Reload(); err != nil {
		t.Fatal(err)
	}
	if ring.ID() != old || ring.First() != next || !slices.Equal(ring.IDs(), []string{next, old}) {
		t.Fatalf("after a reload %v wraps with %s: want %s still, %s first", ring.IDs(), ring.ID(), old, next)
	}
	if err := ring.Use(next); err != nil {
		t.Fatal(err)
	}
	if got, err := ring.Unwrap(before, "team-a"); err != nil || string(got) != "data key" {
		t.Errorf("Unwrap of what the old key wrapped = %q, %v", got, err)
	}
	after, changed, err := ring.Rewrap(before, "team-a")
	if id, _ := seal.KeyOf(after); err != nil || !changed || id != next {
		t.Errorf("Rewrap = by %s, %v, %v: want by %s", id, changed, err, next)
	}
	if _, changed, err := ring.Rewrap(after, "team-a"); changed || err != nil {
		t.Errorf("a second Rewrap changed %v, %v", changed, err)
	}
	if _, _, err := ring.Rewrap(before, "team-b"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("Rewrap for another place: %v, want ErrOpen", err)
	}
	only, err := seal.LoadKeyring(path)
	if err != nil || only.ID() != next {
		t.Errorf("a fresh ring wraps with %v, %v: want the first line's", only, err)
	}
}

func TestKeyringReloadKeepsWhatIsInUse(t *testing.T) {
	path, other := filepath.Join(t.TempDir(), "kek"), filepath.Join(t.TempDir(), "kek")
	ring, err := seal.CreateKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.CreateKEK(other); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(other)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	was := ring.ID()
	if err := ring.Reload(); err == nil || !strings.Contains(err.Error(), was) {
		t.Errorf("Reload without the key in use: %v, want its id", err)
	}
	if ring.ID() != was {
		t.Errorf("the ring wraps with %s now, want %s", ring.ID(), was)
	}
	var wrong *seal.WrongKEKError
	if err := ring.Use("000000000000"); !errors.As(err, &wrong) {
		t.Errorf("Use of a key that is not there: %v", err)
	}
	foreign := newKEK(t)
	e, _ := foreign.Wrap([]byte("x"), "a")
	if _, err := ring.Unwrap(e, "a"); !errors.As(err, &wrong) || wrong.Sealed != foreign.ID() {
		t.Errorf("Unwrap of a foreign envelope: %v", err)
	}
	if _, err := ring.Unwrap([]byte("{}"), "a"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("Unwrap of no envelope: %v", err)
	}
}

func TestKeyringFileRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if _, err := seal.CreateKEK(path); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	line := string(b)
	for name, content := range map[string]string{
		"empty": "", "blank": "\n", "blank line": line + "\n", "same key twice": line + line, "half": line + line[:20],
		"long": strings.Repeat(line, 20), "carriage return": strings.TrimSuffix(line, "\n") + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := seal.LoadKeyring(path)
			if err == nil {
				t.Fatal("it was read")
			}
			if secret := strings.TrimSpace(line)[len("polygate-kek-v1:"):]; strings.Contains(err.Error(), secret) {
				t.Errorf("the error tells the key: %v", err)
			}
		})
	}
}

func TestAddKeyBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	if _, err := seal.AddKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("AddKey without a file: %v", err)
	}
	if _, err := seal.CreateKEK(path); err != nil {
		t.Fatal(err)
	}
	for range seal.MaxKeys - 1 {
		if _, err := seal.AddKey(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := seal.AddKey(path); err == nil {
		t.Error("a file with too many keys was made")
	}
	if ring, err := seal.LoadKeyring(path); err != nil || len(ring.IDs()) != seal.MaxKeys {
		t.Errorf("the file is left with %v, %v", ring, err)
	}
}

// TestKeyIDs finds envelopes in every form in which some part of the platform stores them.
func TestKeyIDs(t *testing.T) {
	a, b := newKEK(t), newKEK(t)
	ea, _ := a.Wrap([]byte("x"), "a")
	eb, _ := b.Wrap([]byte("x"), "b")
	enc := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	inVault := enc(map[string]any{"v": 1, "b": enc(map[string]any{"v": 1, "k": ea})})
	for name, test := range map[string]struct {
		value []byte
		want  []string
	}{
		"itself":         {ea, []string{a.ID()}},
		"in a member":    {enc(map[string]any{"v": 1, "secret": json.RawMessage(ea)}), []string{a.ID()}},
		"in base64":      {enc(map[string]any{"key": ea}), []string{a.ID()}},
		"in the vault":   {inVault, []string{a.ID()}},
		"two in a list":  {enc([]any{json.RawMessage(ea), []any{eb, ea}}), slices.Sorted(slices.Values([]string{a.ID(), b.ID()}))},
		"none":           {enc(map[string]any{"kek": "abcdefabcdef", "t": "eyJ2IjoxfQ=="}), nil},
		"not JSON":       {[]byte{1, 2, 3}, nil},
		"broken":         {ea[:len(ea)-1], nil},
		"deep":           {[]byte(strings.Repeat("[", 100) + strings.Repeat("]", 100)), nil},
		"text in base64": {enc(base64.StdEncoding.EncodeToString(ea)), nil}, // a value of ours is an object
	} {
		t.Run(name, func(t *testing.T) {
			if got := seal.KeyIDs(test.value); !slices.Equal(got, test.want) {
				t.Errorf("KeyIDs = %v, want %v", got, test.want)
			}
		})
	}
}

func FuzzKeyIDs(f *testing.F) {
	f.Add([]byte(`{"v":1,"kek":"abcdefabcdef","n":"AAAAAAAAAAAAAAAA","c":"AA=="}`))
	f.Add([]byte(`[{"b":"eyJ2IjoxfQ=="}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, id := range seal.KeyIDs(b) {
			if len(id) != 12 {
				t.Errorf("%q is no id", id)
			}
		}
	})
}
