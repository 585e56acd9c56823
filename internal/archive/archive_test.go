package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/archive"
)

func write(t testing.TB, entries int) ([]byte, archive.Manifest) {
	t.Helper()
	var b bytes.Buffer
	w, err := archive.NewWriter(&b, archive.Manifest{Kind: archive.Backup, Created: time.Unix(1, 0).UTC(), Revision: 7})
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if err := w.Put(fmt.Sprintf("x/t%d", i), bytes.Repeat([]byte{byte(i)}, i*100)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close([]string{"abc"}, []string{"nothing"})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

func TestArchive(t *testing.T) {
	b, m := write(t, 10)
	r, err := archive.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		name, value, err := r.Next()
		if err != nil || name != fmt.Sprintf("x/t%d", i) || len(value) != i*100 {
			t.Fatalf("entry %d = %q, %d bytes, %v", i, name, len(value), err)
		}
	}
	for range 2 {
		if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last: %v, want EOF", err)
		}
	}
	got := r.Manifest()
	if got.End.Sum != m.End.Sum || got.End.Entries != 10 || got.Revision != 7 || got.V != archive.Version || strings.Join(got.End.KEKs, "") != "abc" {
		t.Errorf("manifest = %+v, want %+v", got, m)
	}
}

// TestArchiveDamaged alters each byte, and cuts at each: never is what remains taken for whole.
func TestArchiveDamaged(t *testing.T) {
	b, _ := write(t, 3)
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if m, err := archive.Verify(bytes.NewReader(c)); err == nil {
			t.Fatalf("byte %d altered: taken for whole: %+v", i, m)
		}
		if _, err := archive.Verify(bytes.NewReader(b[:i])); !errors.Is(err, archive.ErrDamaged) {
			t.Fatalf("cut off at %d: %v, want ErrDamaged", i, err)
		}
	}
	if _, err := archive.Verify(bytes.NewReader(append(bytes.Clone(b), 0))); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("with a byte behind it: %v", err)
	}
}

func TestArchiveNewer(t *testing.T) {
	b, _ := write(t, 0)
	next := bytes.Replace(b, []byte(`"v":1`), []byte(`"v":2`), 1)
	if _, err := archive.NewReader(bytes.NewReader(next)); err != nil {
		t.Errorf("the next version: %v", err)
	}
	after := bytes.Replace(b, []byte(`"v":1`), []byte(`"v":3`), 1)
	if _, err := archive.NewReader(bytes.NewReader(after)); !errors.Is(err, archive.ErrNewer) {
		t.Errorf("the version after the next: %v, want ErrNewer", err)
	}
}

func TestArchiveBounds(t *testing.T) {
	w, err := archive.NewWriter(io.Discard, archive.Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		value []byte
	}{{"", nil}, {strings.Repeat("n", archive.MaxName+1), nil}, {"a", make([]byte, archive.MaxValue+1)}} {
		if err := w.Put(test.name, test.value); err == nil {
			t.Errorf("an entry of %d bytes named by %d was taken", len(test.value), len(test.name))
		}
	}
}

func FuzzRead(f *testing.F) {
	b, _ := write(f, 3)
	f.Add(b)
	f.Add([]byte("polygate-archive\nM\x02{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := archive.Verify(bytes.NewReader(b))
		if err == nil && m.End.Sum == "" {
			t.Error("whole, and without a sum")
		}
	})
}
