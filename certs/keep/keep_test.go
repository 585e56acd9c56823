package keep

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

func sample(chain int) *Host {
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	line := strings.Repeat("MIIB", 16) + "\n"
	return &Host{
		Host: "a.test", Source: tenant.SourceACME, Key: make([]byte, 138), NotBefore: at, NotAfter: at.AddDate(0, 3, 0),
		Chain:   []byte("-----BEGIN CERTIFICATE-----\n" + strings.Repeat(line, chain/len(line)) + "-----END CERTIFICATE-----\n"),
		RenewAt: at.AddDate(0, 2, 0), Issuer: "Test CA", Serial: "04af", Fingerprint: strings.Repeat("0f", 32),
		Directory: "https://ca.test/directory", OCSP: make([]byte, 300),
	}
}

func TestFileNames(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{"a", "a/b", "a%2Fb", "a b", "a%20b", "\xff", "%FF", "é", "a\\b", "*", "+", "a+b"} {
		key, err := fileKey(name)
		if err != nil {
			t.Errorf("fileKey(%q): %v", name, err)
		}
		if was, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key %q", was, name, key)
		}
		seen[key] = name
		if got, ok := fileName(key); !ok || got != name {
			t.Errorf("fileName(%q): got %q, want %q", key, got, name)
		}
	}
}

func FuzzFileKey(f *testing.F) {
	f.Add("acme/users/me@a.test/me.json")
	f.Add("a%2F/\xff")
	f.Fuzz(func(t *testing.T, name string) {
		key, err := fileKey(name)
		if err != nil {
			return
		}
		if got, ok := fileName(key); !ok || got != name {
			t.Fatalf("%q became %q", name, got)
		}
		if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || strings.Contains(key, "//") {
			t.Fatalf("%q gives the key %q", name, key)
		}
		if l := lockName("t1", name); len(l) > 256 || strings.Count(l, "/") != 2 {
			t.Fatalf("%q gives the lock %q", name, l)
		}
	})
}

func TestHostOf(t *testing.T) {
	for key, want := range map[string]string{
		"h/a.test": "a.test", "h/*.a.test": "*.a.test", "h/": "", "h": "", "h/a/b": "", "s/h/a.test": "", "dek": "", "tickets": "", "": "", "h/A.test": "",
	} {
		if got, ok := HostOf(key); ok != (want != "") || ok && got != want {
			t.Errorf("HostOf(%q): got %q, %v, want %q", key, got, ok, want)
		}
	}
	if !IsTickets("_", "tickets") || IsTickets("t1", "tickets") || IsTickets("_", "dek") || IsTickets("", "") {
		t.Error("IsTickets is wrong")
	}
}

// What cannot be read is an error, never a panic; what can be read is written as it was.
func FuzzDecodeHost(f *testing.F) {
	b, err := sample(1000).encode([]byte("sealed"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(bytes.Replace(b, []byte(`{"v":1,`), []byte(`{"v":2,"new":{},`), 1))
	f.Add([]byte(`{"v":2,"host":"a.test","order":null,"chain":null}`))
	f.Add([]byte(`{"v":2,"host":"a.test","order":{"x":1}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, sealed, err := decodeHost("a.test", b)
		if err != nil {
			if !errors.Is(err, vault.ErrDamaged) && !errors.Is(err, vault.ErrNewer) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		out, err := h.encode(sealed)
		if err != nil {
			return // too large
		}
		again, s, err := decodeHost("a.test", out)
		if err != nil || !bytes.Equal(s, sealed) || again.V != h.V || !bytes.Equal(again.Chain, h.Chain) || len(again.unknown) != len(h.unknown) {
			t.Fatalf("%s became %s: %v", b, out, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range []struct {
		name  string
		chain int
	}{{"leaf+intermediate", 2800}, {"long", 8000}} {
		b.Run(c.name, func(b *testing.B) {
			v, err := sample(c.chain).encode(make([]byte, 167))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(v)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := decodeHost("a.test", v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
