package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/seal"
)

func TestSealOpens(t *testing.T) {
	d := seal.NewDataKey()
	for _, plain := range []string{"", "x", strings.Repeat("long ", 1000)} {
		sealed, err := d.Seal([]byte(plain), "team-a", "server", "everything")
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Open(sealed, "team-a", "server", "everything")
		if err != nil || string(got) != plain {
			t.Errorf("Open = %.20q, %v; want %.20q", got, err, plain)
		}
		if len(plain) > 8 && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("the sealed value holds its plain text")
		}
	}
}

func TestSealTwiceDiffers(t *testing.T) {
	d := seal.NewDataKey()
	a, _ := d.Seal([]byte("same"), "c")
	b, _ := d.Seal([]byte("same"), "c")
	if bytes.Equal(a, b) {
		t.Error("two seals of one value are equal: the nonce repeats")
	}
}

// TestContextBinds is a table of contexts that must not open what ("a", "bc") sealed.
func TestContextBinds(t *testing.T) {
	d := seal.NewDataKey()
	sealed, _ := d.Seal([]byte("secret"), "a", "bc")
	token := d.SealToken([]byte("secret"), "a", "bc")
	for _, other := range [][]string{nil, {"a"}, {"abc"}, {"ab", "c"}, {"bc", "a"}, {"a", "bc", ""}, {"", "a", "bc"}, {"a\x00\x00\x00\x02bc"}} {
		if _, err := d.Open(sealed, other...); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("Open with %q: got %v, want ErrOpen", other, err)
		}
		if _, err := d.OpenToken(token, other...); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("OpenToken with %q: got %v, want ErrOpen", other, err)
		}
	}
}

func TestEveryBitFlipIsRefused(t *testing.T) {
	d := seal.NewDataKey()
	sealed, _ := d.Seal([]byte("secret"), "a")
	eachFlip(sealed, func(i int, b []byte) {
		if _, err := d.Open(b, "a"); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("bit %d flipped: got %v, want ErrOpen", i, err)
		}
	})
	for _, plain := range []string{"secret", "secret1", "secret12"} { // each remainder of base64
		eachFlip([]byte(d.SealToken([]byte(plain), "a")), func(i int, b []byte) {
			if _, err := d.OpenToken(string(b), "a"); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("token of %q, bit %d flipped: got %v, want ErrOpen", plain, i, err)
			}
		})
	}
}

// eachFlip calls f with b once for each of its bits, that bit flipped.
func eachFlip(b []byte, f func(i int, flipped []byte)) {
	for i := range 8 * len(b) {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		f(i, c)
	}
}

func TestEveryCutIsRefused(t *testing.T) {
	d := seal.NewDataKey()
	sealed, _ := d.Seal([]byte("secret"), "a")
	for n := range sealed {
		if _, err := d.Open(sealed[:n], "a"); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("cut to %d bytes: got %v, want ErrOpen", n, err)
		}
	}
	if _, err := d.Open(append(sealed, 0), "a"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("one byte more: got %v, want ErrOpen", err)
	}
}

func TestUsesAreApart(t *testing.T) {
	d := seal.NewDataKey()
	sealed, _ := d.Seal([]byte("secret"), "a")
	if _, err := d.OpenToken(base64.RawURLEncoding.EncodeToString(sealed), "a"); err == nil {
		t.Error("a sealed value opens as a token")
	}
	token, _ := base64.RawURLEncoding.DecodeString(d.SealToken([]byte("secret"), "a"))
	if _, err := d.Open(token, "a"); err == nil {
		t.Error("a token opens as a sealed value")
	}
}

func TestDerive(t *testing.T) {
	d := seal.NewDataKey()
	if !bytes.Equal(d.Derive("sessions").Bytes(), d.Derive("sessions").Bytes()) {
		t.Error("one purpose has two keys")
	}
	keys := map[string]string{string(d.Bytes()): "the data key"}
	for _, p := range []string{"", "sessions", "session", "cursors"} {
		k := string(d.Derive(p).Bytes())
		if was, ok := keys[k]; ok {
			t.Errorf("purpose %q has the key of %s", p, was)
		}
		keys[k] = p
	}
	token := d.Derive("sessions").SealToken([]byte("x"), "a")
	if _, err := d.Derive("cursors").OpenToken(token, "a"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("a token of another purpose: got %v, want ErrOpen", err)
	}
}

func TestDataKeyFrom(t *testing.T) {
	d := seal.NewDataKey()
	again, err := seal.DataKeyFrom(d.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.OpenToken(d.SealToken([]byte("x"), "a"), "a"); err != nil || string(got) != "x" {
		t.Errorf("OpenToken = %q, %v; want x", got, err)
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := seal.DataKeyFrom(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is accepted", n)
		}
	}
	d.Bytes()[0] ^= 1
	if !bytes.Equal(d.Bytes(), again.Bytes()) {
		t.Error("Bytes hands out the key itself")
	}
}

func TestTokenBounds(t *testing.T) {
	d := seal.NewDataKey()
	fits := d.SealToken(make([]byte, seal.MaxTokenPlain), "a")
	if got, err := d.OpenToken(fits, "a"); err != nil || len(got) != seal.MaxTokenPlain {
		t.Errorf("MaxTokenPlain bytes: got %d, %v", len(got), err)
	}
	if _, err := d.OpenToken(d.SealToken(make([]byte, seal.MaxTokenPlain+1), "a"), "a"); !errors.Is(err, seal.ErrOpen) {
		t.Errorf("one byte more: got %v, want ErrOpen", err)
	}
	huge := strings.Repeat("A", 64<<20)
	if n := testing.AllocsPerRun(10, func() { _, _ = d.OpenToken(huge, "a") }); n != 0 {
		t.Errorf("a huge token costs %v allocations, want 0", n)
	}
}

func TestTokenHasOneText(t *testing.T) {
	d := seal.NewDataKey()
	token := d.SealToken([]byte("x"), "a")
	for _, other := range []string{token + "\n", "\r\n" + token, token[:8] + "\n" + token[8:], token + "=", token + "==", " " + token} {
		if _, err := d.OpenToken(other, "a"); !errors.Is(err, seal.ErrOpen) {
			t.Errorf("%q: got %v, want ErrOpen", other, err)
		}
	}
}

func TestKeysStayOutOfLogs(t *testing.T) {
	d := seal.NewDataKey()
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(f, d); !strings.Contains(got, "hidden") {
			t.Errorf("%s of a data key is %q", f, got)
		}
	}
}

func FuzzOpenToken(f *testing.F) {
	d, err := seal.DataKeyFrom(make([]byte, seal.KeySize))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("")
	f.Add("AQ")
	f.Add(d.SealToken([]byte("other"), "b"))
	f.Fuzz(func(t *testing.T, token string) {
		if got, err := d.OpenToken(token, "a"); err == nil {
			t.Errorf("OpenToken(%q) = %q: forged", token, got)
		} else if !errors.Is(err, seal.ErrOpen) {
			t.Errorf("OpenToken(%q): %v, want ErrOpen", token, err)
		}
	})
}

func BenchmarkOpenToken(b *testing.B) {
	d := seal.NewDataKey()
	token := d.SealToken(make([]byte, 64), "team-a", "key:1", "everything")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.OpenToken(token, "team-a", "key:1", "everything"); err != nil {
			b.Fatal(err)
		}
	}
}
