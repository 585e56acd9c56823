package keeptest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/seal"
	"github.com/polygate/polygate/internal/vault"
)

// Nothing secret is in the store in the clear, also not in base64 at any alignment.
func testSealed(t *testing.T, w *World) {
	a, _ := w.keepers()
	const secret = "this is a private key that nobody may read" //nolint:gosec // no real one
	mustSave(t, a, w.T1, host("a.test", secret), keep.SaveOptions{})
	store(t, a.Storage(w.T1), "acme/users/me.key", secret)
	keys := tickets(t, a, start, day)
	for _, needle := range append(forms([]byte(secret)), forms(keys[0][:])...) {
		for _, v := range w.Raw() {
			for _, layer := range layers(v) {
				if bytes.Contains(layer, needle) {
					t.Fatalf("the store holds %q in the clear", needle)
				}
			}
		}
	}
}

// layers returns a value, and what its base64 strings hold.
func layers(v []byte) [][]byte {
	out := [][]byte{v}
	for _, s := range strings.FieldsFunc(string(v), func(r rune) bool { return r == '"' }) {
		if b, err := base64.StdEncoding.DecodeString(s); err == nil && len(b) > 16 {
			out = append(out, layers(b)...)
		}
	}
	return out
}

func forms(secret []byte) [][]byte {
	out := [][]byte{secret}
	for pad := range 3 {
		e := base64.StdEncoding.EncodeToString(append(make([]byte, pad), secret...))
		out = append(out, []byte(e[4:len(e)-4]))
	}
	return out
}

// A value that somebody moved to another owner or another name does not open there.
func testMoved(t *testing.T, w *World) {
	a, _ := w.keepers()
	mustSave(t, a, w.T1, host("a.test", "key"), keep.SaveOptions{})
	mustSave(t, a, w.T1, host("b.test", "key"), keep.SaveOptions{})
	mustSave(t, a, w.T10, host("a.test", "key"), keep.SaveOptions{})
	s, ten := a.Storage(w.T1), a.Storage(w.T10)
	store(t, s, "f", "value")
	store(t, ten, "f", "value")
	record := w.raw(t, w.T1, "h/a.test").Value
	w.plant(t, w.T1, "h/b.test", bytes.Replace(record, []byte(`"host":"a.test"`), []byte(`"host":"b.test"`), 1))
	w.plant(t, w.T10, "h/a.test", record)
	w.plant(t, w.T1, "h/c.test", record)
	for what, f := range map[string]func() error{
		"another host":           func() error { _, err := a.Load(t.Context(), w.T1, "b.test"); return err },
		"another owner":          func() error { _, err := a.Load(t.Context(), w.T10, "a.test"); return err },
		"another host as it was": func() error { _, err := a.Load(t.Context(), w.T1, "c.test"); return err },
		"another name of a file": func() error {
			w.plant(t, w.T1, "s/g", w.raw(t, w.T1, "s/f").Value)
			_, err := s.Load(t.Context(), "g")
			return err
		},
		"another owner's file": func() error {
			w.plant(t, w.T10, "s/f", w.raw(t, w.T1, "s/f").Value)
			_, err := ten.Load(t.Context(), "f")
			return err
		},
		"the data key of another": func() error { return w.foreignKey(t) },
	} {
		wantIs(t, "a value moved to "+what, f(), vault.ErrDamaged)
	}
	wantFile(t, s, "f", "value")
}

// foreignKey gives t10 the data key of t1, and all that it sealed.
func (w *World) foreignKey(t *testing.T) error {
	t.Helper()
	w.plant(t, w.T10, "dek", w.raw(t, w.T1, "dek").Value)
	_, fresh := w.keepers()
	_, err := fresh.Storage(w.T10).Load(t.Context(), "f")
	return err
}

// A damaged value is said to be one, is left as it is, and can be replaced or removed.
func testDamaged(t *testing.T, w *World) {
	a, b := w.keepers()
	mustSave(t, a, w.T1, host("a.test", "key"), keep.SaveOptions{})
	s := a.Storage(w.T1)
	store(t, s, "f", "value")
	good := w.raw(t, w.T1, "h/a.test").Value
	for i, v := range [][]byte{{}, []byte("x"), []byte("{}"), []byte("null"), []byte(`{"v":0}`), good[:len(good)/2], flip(good, `"key":"`)} {
		w.plant(t, w.T1, "h/a.test", v)
		_, err := b.Load(t.Context(), w.T1, "a.test")
		wantIs(t, fmt.Sprintf("Load of damage %d", i), err, vault.ErrDamaged)
	}
	mustSave(t, a, w.T1, host("a.test", "new"), keep.SaveOptions{})
	mustLoad(t, b, w.T1, "a.test")
	w.plant(t, w.T1, "h/a.test", []byte("x"))
	if err := b.Remove(t.Context(), w.T1, "a.test", 0, nil); err != nil {
		t.Errorf("Remove of what is damaged: %v", err)
	}
	file := w.raw(t, w.T1, "s/f").Value
	for i, v := range [][]byte{{}, []byte("x"), []byte("{}"), []byte(`{"v":1}`), flip(file, `"s":"`)} {
		w.plant(t, w.T1, "s/f", v)
		if _, err := s.Load(t.Context(), "f"); !errors.Is(err, vault.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load of a damaged file %d: got %v, want ErrDamaged", i, err)
		}
	}
	store(t, s, "f", "again")
	wantFile(t, b.Storage(w.T1), "f", "again")
	dek := w.raw(t, w.T1, "dek").Value
	for _, v := range [][]byte{[]byte("x"), []byte(`{"v":1}`), flip(dek, `"k":"`)} {
		w.plant(t, w.T1, "dek", v)
		w.wantUnopened(t, keep.New(w.B, w.KEK), vault.ErrDamaged)
		if got := w.raw(t, w.T1, "dek").Value; !bytes.Equal(got, v) {
			t.Error("the damaged data key was replaced")
		}
	}
	w.plant(t, w.T1, "dek", dek)
	wantFile(t, keep.New(w.B, w.KEK).Storage(w.T1), "f", "again")
}

// wantUnopened checks that a keeper neither reads nor writes for t1, which has the file f.
func (w *World) wantUnopened(t *testing.T, k *keep.Keeper, want error) {
	t.Helper()
	_, err := k.Storage(w.T1).Load(t.Context(), "f")
	wantIs(t, "Load", err, want)
	wantIs(t, "Store", k.Storage(w.T1).Store(t.Context(), "g", nil), want)
	wantIs(t, "Save", k.Save(t.Context(), w.T1, host("g.test", "key"), keep.SaveOptions{}), want)
}

// With another key-encryption key nothing opens, nothing is made, and the error says which one is missing.
func testWrongKEK(t *testing.T, w *World) {
	a, _ := w.keepers()
	store(t, a.Storage(w.T1), "f", "value")
	dek := w.raw(t, w.T1, "dek").Value
	tickets(t, a, start, day)
	wrong := keep.New(w.B, w.Other)
	_, err := wrong.Storage(w.T1).Load(t.Context(), "f")
	var e *seal.WrongKEKError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "kek_file") {
		t.Errorf("Load: got %v, want it to say which kek_file is needed", err)
	}
	if err := wrong.Storage(w.T1).Store(t.Context(), "f", nil); !errors.As(err, &e) {
		t.Errorf("Store: got %v, want a WrongKEKError", err)
	}
	if _, err := wrong.TicketKeys(t.Context(), start, day); !errors.As(err, &e) {
		t.Errorf("TicketKeys: got %v, want a WrongKEKError", err)
	}
	if !bytes.Equal(w.raw(t, w.T1, "dek").Value, dek) {
		t.Error("the data key was replaced")
	}
	wantFile(t, a.Storage(w.T1), "f", "value")
}

// Where the data key is gone but what it sealed is not, no new key hides that.
func testLostKey(t *testing.T, w *World) {
	a, _ := w.keepers()
	store(t, a.Storage(w.T1), "f", "value")
	w.plant(t, w.T1, "dek", nil)
	w.wantUnopened(t, keep.New(w.B, w.KEK), keep.ErrKeyLost)
	wantIs(t, "Store with the key in memory", a.Storage(w.T1).Store(t.Context(), "g", nil), keep.ErrKeyLost)
	if err := a.Storage(w.T1).Delete(t.Context(), "f"); err != nil {
		t.Errorf("Delete: %v", err)
	}
	store(t, a.Storage(w.T1), "f", "after all was removed")
}

// Replicas that make an owner's data key at once agree on one.
func testKeyRace(t *testing.T, w *World) {
	m := meet(w.A, "", 8)
	keepers := make([]*keep.Keeper, 8)
	var wg sync.WaitGroup
	for i := range keepers {
		keepers[i] = keep.New(m, w.KEK)
		wg.Go(func() {
			if err := keepers[i].Storage(w.T1).Store(t.Context(), fmt.Sprint(i), []byte("value")); err != nil {
				t.Errorf("Store: %v", err)
			}
		})
	}
	wg.Wait()
	for i := range keepers {
		for _, k := range keepers {
			wantFile(t, k.Storage(w.T1), fmt.Sprint(i), "value")
		}
	}
}

// A data key that was replaced while a replica has the old one in memory, as by a restore, seals nothing more.
func testKeyReplaced(t *testing.T, w *World) {
	a, b := w.keepers()
	s := a.Storage(w.T1)
	store(t, s, "f", "old")
	w.plant(t, w.T1, "s/f", nil)
	w.plant(t, w.T1, "dek", nil)
	store(t, b.Storage(w.T1), "g", "new")
	wantFile(t, s, "g", "new") // reads the key again
	store(t, s, "h", "of a")
	wantFile(t, b.Storage(w.T1), "h", "of a")

	c := keep.New(w.A, w.KEK) // knows the key, then it is replaced, then it writes first
	store(t, c.Storage(w.T1), "i", "x")
	for _, f := range []string{"s/g", "s/h", "s/i", "dek"} {
		w.plant(t, w.T1, f, nil)
	}
	store(t, b.Storage(w.T10), "other", "x")
	store(t, keep.New(w.B, w.KEK).Storage(w.T1), "j", "x")
	store(t, c.Storage(w.T1), "k", "of c")
	wantFile(t, keep.New(w.B, w.KEK).Storage(w.T1), "k", "of c")
}

// X41: a tenant that is made again under the same id has nothing of the old one, and what still works for the old one neither
// reads nor writes anything of the new one, whatever it has in memory.
func testX41(t *testing.T, w *World) {
	a, b := w.keepers()
	old := a.Storage(w.T1)
	mustSave(t, a, w.T1, host("a.test", "key"), keep.SaveOptions{})
	store(t, old, "f", "of the old one")
	record, file, dek := w.raw(t, w.T1, "h/a.test").Value, w.raw(t, w.T1, "s/f").Value, w.raw(t, w.T1, "dek").Value
	reborn := w.Reborn()

	_, err := b.Load(t.Context(), reborn, "a.test")
	wantKind(t, "the new tenant's Load", err, fault.NotFound)
	mustSave(t, b, reborn, host("b.test", "new key"), keep.SaveOptions{})
	_, err = a.Load(t.Context(), w.T1, "b.test")
	wantKind(t, "the old tenant's Load", err, fault.NotFound)
	wantKind(t, "the old tenant's Save", a.Save(t.Context(), w.T1, host("b.test", "key"), keep.SaveOptions{}), fault.NotFound)
	wantKind(t, "the old tenant's Store", old.Store(t.Context(), "f", nil), fault.NotFound)
	if err := old.Delete(t.Context(), "f"); err != nil {
		t.Errorf("the old tenant's Delete: %v", err)
	}
	if got := mustLoad(t, a, reborn, "b.test"); string(got.Key) != "new key" {
		t.Errorf("got key %q", got.Key)
	}

	w.plant(t, reborn, "h/a.test", record)
	w.plant(t, reborn, "s/f", file)
	_, err = a.Load(t.Context(), reborn, "a.test")
	wantIs(t, "Load of the old one's record", err, vault.ErrDamaged)
	_, err = a.Storage(reborn).Load(t.Context(), "f")
	wantIs(t, "Load of the old one's file", err, vault.ErrDamaged)
	w.plant(t, reborn, "dek", dek)
	_, err = keep.New(w.B, w.KEK).Storage(reborn).Load(t.Context(), "f")
	wantIs(t, "Load with the old one's data key", err, vault.ErrDamaged)
}

// The next version is read, and what it wrote is kept by a change of this one; the one after that is neither read nor lost.
func testVersions(t *testing.T, w *World) {
	a, b := w.keepers()
	mustSave(t, a, w.T1, host("a.test", "key"), keep.SaveOptions{})
	v := w.raw(t, w.T1, "h/a.test").Value
	v2 := bytes.Replace(v, []byte(`{"v":1,`), []byte(`{"v":2,"transparency":{"logs":[1,2]},`), 1)
	v2 = bytes.Replace(v2, []byte(`"order":{`), []byte(`"order":{"url":"https://ca.test/1",`), 1)
	w.plant(t, w.T1, "h/a.test", v2)
	h := mustLoad(t, b, w.T1, "a.test")
	if h.V != 2 || string(h.Key) != "key" || h.Issuer != "Test CA" {
		t.Errorf("the next version: got %+v", h)
	}
	h.Issuer = "Another CA"
	mustSave(t, b, w.T1, h, keep.SaveOptions{IfRevision: &h.Revision})
	got := w.raw(t, w.T1, "h/a.test").Value
	for _, want := range []string{`{"v":2,`, `"transparency":{"logs":[1,2]}`, `"url":"https://ca.test/1"`, `"issuer":"Another CA"`} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("after a change by this version: got %s, want %s in it", got, want)
		}
	}
	mustLoad(t, a, w.T1, "a.test")
	w.plant(t, w.T1, "h/a.test", bytes.Replace(v, []byte(`{"v":1,`), []byte(`{"v":3,`), 1))
	_, err := a.Load(t.Context(), w.T1, "a.test")
	wantIs(t, "Load of the version after the next", err, vault.ErrNewer)

	store(t, a.Storage(w.T1), "f", "value")
	f, dek := w.raw(t, w.T1, "s/f").Value, w.raw(t, w.T1, "dek").Value
	newer := func(b []byte, v string) []byte {
		return bytes.Replace(b, []byte(`{"v":1,`), []byte(`{"v":`+v+`,"new":1,`), 1)
	}
	w.plant(t, w.T1, "s/f", newer(f, "2"))
	w.plant(t, w.T1, "dek", newer(dek, "2"))
	wantFile(t, keep.New(w.B, w.KEK).Storage(w.T1), "f", "value")
	w.plant(t, w.T1, "s/f", newer(f, "3"))
	_, err = a.Storage(w.T1).Load(t.Context(), "f")
	wantIs(t, "Load of a file of the version after the next", err, vault.ErrNewer)
	w.plant(t, w.T1, "dek", newer(dek, "3"))
	wantIs(t, "Store with a data key of the version after the next", keep.New(w.B, w.KEK).Storage(w.T1).Store(t.Context(), "f", nil), vault.ErrNewer)
}
