package peer

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

// layTest makes a site for a test.
func layTest(t *testing.T, n, port int) *Site {
	t.Helper()
	s, err := Lay(t.TempDir(), "bench.test", n, port, "seed")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLay(t *testing.T) {
	s := layTest(t, 20, 1234)
	seen := map[string]string{}
	for i := range s.Tenants {
		tn := &s.Tenants[i]
		pair, err := tls.LoadX509KeyPair(tn.CertFile, tn.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: s.CA, DNSName: tn.Host}); err != nil {
			t.Errorf("%s: %v", tn.Host, err)
		}
		for _, unique := range []string{tn.Key, tn.Canary, tn.Upstream, tn.Host, pair.Leaf.SerialNumber.String(), string(pair.Leaf.RawSubjectPublicKeyInfo)} {
			if other, ok := seen[unique]; ok {
				t.Errorf("%s and %s have %q in common", other, tn.Name, unique)
			}
			seen[unique] = tn.Name
		}
	}
	again := layTest(t, 20, 1234)
	if got, want := again.Tenants[7].Canary, s.Tenants[7].Canary; got != want {
		t.Errorf("canary of the same seed = %q, want %q", got, want)
	}
	if again.Tenants[7].Key == s.Tenants[7].Key {
		t.Error("two sites have a key in common")
	}
}

func TestLayRefusesNumbers(t *testing.T) {
	for _, n := range []int{-1, 0, maxSite + 1} {
		if _, err := Lay(t.TempDir(), "bench.test", n, 1, ""); err == nil {
			t.Errorf("a site of %d tenants was laid out", n)
		}
	}
}

func BenchmarkLay1000(b *testing.B) {
	for b.Loop() {
		if _, err := Lay(b.TempDir(), "bench.test", 1000, 1, ""); err != nil {
			b.Fatal(err)
		}
	}
}
