package keeptest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/audit"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/vault"
)

// A record comes back as it was, on the other replica too, and goes.
func testHost(t *testing.T, w *World) {
	a, b := w.keepers()
	for _, o := range []vault.Owner{w.T1, {}} {
		_, err := b.Load(t.Context(), o, "a.test")
		wantKind(t, "Load of none", err, fault.NotFound)
		h := host("a.test", "the key")
		mustSave(t, a, o, h, keep.SaveOptions{IfRevision: new(int64)})
		got := mustLoad(t, b, o, "a.test")
		if got.V != 1 || got.Revision != h.Revision || h.Revision == 0 || time.Since(got.Modified) > time.Minute {
			t.Errorf("got version %d, revision %d, modified %v", got.V, got.Revision, got.Modified)
		}
		if !bytes.Equal(got.Chain, h.Chain) || string(got.Key) != "the key" || !got.NotAfter.Equal(h.NotAfter) || got.Order != h.Order || got.Issuer != h.Issuer || !bytes.Equal(got.OCSP, h.OCSP) || got.Source != h.Source {
			t.Errorf("got %+v, want %+v", got, h)
		}
		if err := b.Remove(t.Context(), o, "a.test", got.Revision, nil); err != nil {
			t.Errorf("Remove: %v", err)
		}
		_, err = a.Load(t.Context(), o, "a.test")
		wantKind(t, "Load after Remove", err, fault.NotFound)
		wantKind(t, "Remove of none", a.Remove(t.Context(), o, "a.test", 0, nil), fault.NotFound)
	}
}

func testHostConditions(t *testing.T, w *World) {
	a, b := w.keepers()
	h := host("*.a.test", "one")
	mustSave(t, a, w.T1, h, keep.SaveOptions{IfRevision: new(int64)})
	first := h.Revision
	wantKind(t, "a second creation", b.Save(t.Context(), w.T1, host("*.a.test", "two"), keep.SaveOptions{IfRevision: new(int64)}), fault.PreconditionFailed)
	mustSave(t, b, w.T1, host("*.a.test", "three"), keep.SaveOptions{IfRevision: &first})
	late := host("*.a.test", "four")
	wantKind(t, "a change of what has changed", a.Save(t.Context(), w.T1, late, keep.SaveOptions{IfRevision: &first}), fault.PreconditionFailed)
	if late.Revision != 0 {
		t.Errorf("a refused Save set the revision %d", late.Revision)
	}
	wantKind(t, "removal of what has changed", a.Remove(t.Context(), w.T1, "*.a.test", first, nil), fault.PreconditionFailed)
	if got := mustLoad(t, a, w.T1, "*.a.test"); string(got.Key) != "three" {
		t.Errorf("got key %q, want three", got.Key)
	}
	mustSave(t, a, w.T1, host("*.a.test", "five"), keep.SaveOptions{})
	if err := a.Remove(t.Context(), w.T1, "*.a.test", 0, nil); err != nil {
		t.Errorf("Remove of whatever is there: %v", err)
	}
}

// What a stopped holder of the lock wants to save is refused (X10: the other one's certificate stays).
func testHostFenced(t *testing.T, w *World) {
	a, b := w.keepers()
	l, ok, err := w.A.TryLock(t.Context(), "issue/t1/a.test")
	if !ok || err != nil {
		t.Fatalf("TryLock: %v, %v", ok, err)
	}
	mustSave(t, a, w.T1, host("a.test", "one"), keep.SaveOptions{Fences: []vault.Lock{l}})
	w.Pause()
	m, err := w.B.Lock(t.Context(), "issue/t1/a.test")
	if err != nil {
		t.Fatalf("Lock: %v", err)
	}
	mustSave(t, b, w.T1, host("a.test", "two"), keep.SaveOptions{Fences: []vault.Lock{m}})
	w.Resume()
	err = a.Save(t.Context(), w.T1, host("a.test", "late"), keep.SaveOptions{Fences: []vault.Lock{l}})
	wantIs(t, "Save by the stopped holder", err, vault.ErrFenced)
	if got := mustLoad(t, a, w.T1, "a.test"); string(got.Key) != "two" {
		t.Errorf("got key %q, want two", got.Key)
	}
}

func testHostDue(t *testing.T, w *World) {
	a, _ := w.keepers()
	at := time.UnixMilli(1_900_000_000_000)
	want := func(marks ...string) {
		t.Helper()
		if got := w.Due("t1"); !slices.Equal(got, marks) {
			t.Errorf("due: got %q, want %q", got, marks)
		}
	}
	h := host("a.test", "key")
	mustSave(t, a, w.T1, h, keep.SaveOptions{Due: at})
	want("a.test@1900000000000")
	mustSave(t, a, w.T1, h, keep.SaveOptions{WasDue: at, Due: at}) // stays
	want("a.test@1900000000000")
	mustSave(t, a, w.T1, h, keep.SaveOptions{WasDue: at, Due: at.Add(time.Second)})
	want("a.test@1900000001000")
	mustSave(t, a, w.T1, h, keep.SaveOptions{})
	want("a.test@1900000001000")
	wrong := int64(1)
	wantKind(t, "a refused Save", a.Save(t.Context(), w.T1, h, keep.SaveOptions{IfRevision: &wrong, WasDue: at.Add(time.Second)}), fault.PreconditionFailed)
	want("a.test@1900000001000")
	mustSave(t, a, w.T1, h, keep.SaveOptions{WasDue: at.Add(time.Second)})
	want()
}

// A change and its audit entry are there both, or neither.
func testHostAudit(t *testing.T, w *World) {
	a, _ := w.keepers()
	entry := func(action string) *audit.Entry {
		return &audit.Entry{ID: audit.NewID(), Time: time.Now().UTC(), Tenant: "t1", Principal: "system:certs", Action: action, Decision: audit.Allow}
	}
	mustSave(t, a, w.T1, host("a.test", "key"), keep.SaveOptions{Audit: entry("certificate.issue")})
	wrong := int64(1)
	wantKind(t, "a refused Save", a.Save(t.Context(), w.T1, host("a.test", "key"), keep.SaveOptions{IfRevision: &wrong, Audit: entry("certificate.update")}), fault.PreconditionFailed)
	if err := a.Remove(t.Context(), w.T1, "a.test", 0, entry("certificate.delete")); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	got := w.Audits()
	if !slices.Contains(got, "certificate.issue") || !slices.Contains(got, "certificate.delete") || slices.Contains(got, "certificate.update") {
		t.Errorf("audit: got %q, want certificate.issue and certificate.delete", got)
	}
}

// Lists come in pages, in order, without keys, and one bad record does not hide the others.
func testHostList(t *testing.T, w *World) {
	a, b := w.keepers()
	var want []string
	for i := range 7 {
		h := host(fmt.Sprintf("h%d.test", i), "key")
		mustSave(t, a, w.T1, h, keep.SaveOptions{})
		want = append(want, h.Host)
	}
	mustSave(t, a, w.T10, host("h9.test", "key"), keep.SaveOptions{})
	store(t, a.Storage(w.T1), "h/h8.test", "a file")
	w.plant(t, w.T1, "h/h3.test", []byte(`{"v":`))
	var got []string
	for after, more := "", true; more; {
		page, m, err := b.List(t.Context(), w.T1, after, 3)
		if err != nil || len(page) == 0 {
			t.Fatalf("List: %d, %v", len(page), err)
		}
		for _, h := range page {
			got = append(got, h.Host)
			if h.Key != nil || h.Revision == 0 || (h.Order.Code == keep.CodeDamaged) != (h.Host == "h3.test") {
				t.Errorf("%s: got a key of %d bytes, revision %d, code %q", h.Host, len(h.Key), h.Revision, h.Order.Code)
			}
		}
		after, more = page[len(page)-1].Host, m
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	listed, _, err := b.List(t.Context(), w.T1, "", 1)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, "Save of what came from List, which would lose the key", b.Save(t.Context(), w.T1, listed[0], keep.SaveOptions{}), fault.Invalid)
	if got := mustLoad(t, b, w.T1, "h0.test"); string(got.Key) != "key" {
		t.Errorf("got key %q", got.Key)
	}
}

func testHostBad(t *testing.T, w *World) {
	a, _ := w.keepers()
	for _, name := range []string{"", "a/b", "A.test", "a b", "a\n", strings.Repeat("x", 254), `a\b`} {
		wantKind(t, "Save of "+name, a.Save(t.Context(), w.T1, host(name, "key"), keep.SaveOptions{}), fault.Invalid)
		_, err := a.Load(t.Context(), w.T1, name)
		wantKind(t, "Load of "+name, err, fault.Invalid)
		wantKind(t, "Remove of "+name, a.Remove(t.Context(), w.T1, name, 0, nil), fault.Invalid)
	}
	big := host("a.test", "key")
	big.Chain = make([]byte, keep.MaxChain+1)
	wantKind(t, "Save of too large a chain", a.Save(t.Context(), w.T1, big, keep.SaveOptions{}), fault.TooLarge)
	big = host("a.test", "key")
	big.Order.Error = strings.Repeat("e", 300<<10)
	wantKind(t, "Save of too large a record", a.Save(t.Context(), w.T1, big, keep.SaveOptions{}), fault.TooLarge)
	newer := host("a.test", "key")
	newer.V = 3
	wantIs(t, "Save of a version after the next", a.Save(t.Context(), w.T1, newer, keep.SaveOptions{}), vault.ErrNewer)
	_, err := a.Load(t.Context(), w.T1, "a.test")
	wantKind(t, "Load after refused Saves", err, fault.NotFound)
}
