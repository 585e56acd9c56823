package gateway

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testBackup writes a small one.
func testBackup(t testing.TB, entries ...archived) []byte {
	t.Helper()
	var b bytes.Buffer
	a := newArchiver(&b, []byte(`{"v":1,"kind":"backup"}`))
	for _, e := range entries {
		a.put(e)
	}
	if err := a.close(map[string]any{"entries": 77, "keks": []string{"k"}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	in := []archived{{"a", []byte("1")}, {"b", nil}, {"c", bytes.Repeat([]byte("x"), 70_000)}}
	b, err := readBackup(testBackup(t, in...))
	if err != nil {
		t.Fatal(err)
	}
	if string(b.manifest) != `{"v":1,"kind":"backup"}` || len(b.entries) != len(in) {
		t.Fatalf("manifest %s, %d entries", b.manifest, len(b.entries))
	}
	for i, want := range in {
		if got := b.entries[i]; got.name != want.name || !bytes.Equal(got.value, want.value) {
			t.Errorf("entry %d = %q, %d bytes", i, got.name, len(got.value))
		}
	}
	if end, err := json.Marshal(b.end); err != nil || string(end) != `{"bytes":70004,"entries":3,"keks":["k"]}` {
		t.Errorf("end = %s, %v; want its own numbers and what else there was", end, err)
	}
}

func TestArchiveDamaged(t *testing.T) {
	whole := testBackup(t, archived{"name", []byte("value")})
	for i := range whole {
		if _, err := readBackup(whole[:i]); err == nil {
			t.Fatalf("cut off at %d it was taken for whole", i)
		}
		c := bytes.Clone(whole)
		c[i] ^= 1
		if _, err := readBackup(c); err == nil {
			t.Fatalf("with byte %d altered it was taken for whole", i)
		}
	}
}

func FuzzReadBackup(f *testing.F) {
	whole := testBackup(f, archived{"name", []byte("value")})
	f.Add(whole)
	f.Add([]byte(archiveMagic + "M\x02{}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := readBackup(in)
		if err != nil {
			return
		}
		var out bytes.Buffer
		a := newArchiver(&out, b.manifest)
		for _, e := range b.entries {
			a.put(e)
		}
		if err := a.close(b.end); err != nil {
			t.Fatal(err)
		}
		if again, err := readBackup(out.Bytes()); err != nil || len(again.entries) != len(b.entries) {
			t.Errorf("written again it is another: %v", err)
		}
	})
}

// testTemplate is what makeTemplate finds, made up.
func testTemplate(t *testing.T) *template {
	t.Helper()
	own := []string{templateID, "uid-0", "key-0", "hash-0", "server-0"}
	b, err := readBackup(testBackup(t,
		archived{"a/@r/_platform/1", []byte("on its way")}, archived{"c/ca/local", []byte("platform")},
		archived{"t/" + templateID + "/datakey/current", []byte("bound to the tenant")},
		archived{"t/" + templateID + "/server/bench", []byte(`{"id":"server-0","owner":"key:key-0"}`)},
		archived{"u/key/hash-0", []byte(`{"tenant":"` + templateID + `"}`)},
		archived{"x/" + templateID, []byte(`{"uid":"uid-0","id":"` + templateID + `","keys":[{"id":"key-0","hash":"sha256:hash-0"}]}`)},
	))
	if err != nil {
		t.Fatal(err)
	}
	return &template{backup: b, own: own}
}

func TestCopies(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "copies"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := testTemplate(t).copies(f, 2); err != nil {
		t.Fatal(err)
	}
	in, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	b, err := readBackup(in)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range b.entries {
		if seen[e.name] {
			t.Errorf("%s is there twice", e.name)
		}
		seen[e.name] = true
		for _, word := range append(testTemplate(t).own, "on its way", "bound") {
			if strings.Contains(e.name+string(e.value), word) {
				t.Errorf("%s = %s still has %q", e.name, e.value, word)
			}
		}
	}
	for _, want := range []string{"c/ca/local", "x/tenant-00000000", "x/tenant-00000001", "u/key/" + hexSum(capacityKey(1)), "t/tenant-00000001/server/bench"} {
		if !seen[want] {
			t.Errorf("%s is missing", want)
		}
	}
	if len(seen) != 7 {
		t.Errorf("%d entries, want one of the platform and three of each tenant", len(seen))
	}
	if len(capacityTenant(99_999_999)) != len(templateID) || len(uuidOf("x")) != 36 {
		t.Error("copies are longer or shorter than what the product makes")
	}
}

// TestConfigIsSound has the product check what is written for it.
func TestConfigIsSound(t *testing.T) {
	s := layTest(t, 3)
	for name, o := range map[string]Options{"dedicated": {}, "by TLS": {TLSPort: 4}, "virtual": {Virtual: true}} {
		r, err := newReplica(testBinary(), platform{dir: filepath.Join(s.Dir, name), domain: s.Domain, replica: "r", kek: filepath.Join(s.Dir, "kek")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.writeTenants(r.dir, s); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(testBinary(), "config", "check", filepath.Join(r.dir, "polygate.yaml"), filepath.Join(r.dir, "tenants.yaml")).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestSample(t *testing.T) {
	text := []byte("# HELP a b\na 1\nab 2\nabc{x=\"y\"} 3.5e+06\n")
	for name, want := range map[string]float64{"a": 1, "ab": 2, `abc{x="y"}`: 3.5e6} {
		if got, err := sample(text, name); err != nil || got != want {
			t.Errorf("sample(%s) = %v, %v; want %v", name, got, err, want)
		}
	}
	if _, err := sample(text, "abc"); err == nil {
		t.Error("a metric that is not there has a value")
	}
}
