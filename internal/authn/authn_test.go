package authn_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func TestNewKey(t *testing.T) {
	form := regexp.MustCompile(`^pgk_[0-9A-Za-z]{49}$`)
	seen := make(map[string]bool)
	for range 1000 {
		key, hash := authn.NewKey()
		if !form.MatchString(key) {
			t.Fatalf("key %q has a bad form", key)
		}
		if seen[key] {
			t.Fatal("a key repeats")
		}
		seen[key] = true
		if hash != tenant.HashKey(key) {
			t.Fatal("the hash is not the key's")
		}
		if err := authn.CheckKey(key); err != nil {
			t.Fatal(err)
		}
		if got, ok := authn.Credential(map[string][]string{"Authorization": {"Bearer " + key}}); !ok || got != key {
			t.Fatalf("Credential = %q, %v", got, ok)
		}
	}
}

func TestCheckKey(t *testing.T) {
	key, _ := authn.NewKey()
	swapped := []byte(key)
	for i := 10; swapped[i] == swapped[9]; i++ {
		swapped[10] = key[i+1]
	}
	swapped[9], swapped[10] = swapped[10], swapped[9]
	for _, c := range []struct{ name, key, want string }{
		{"empty", "", "begins with pgk_"},
		{"another kind", "ghp_" + key[4:], "begins with pgk_"},
		{"cut", key[:len(key)-1], "was it cut"},
		{"with a line end", key + "\n", "was it cut"},
		{"a bad character", key[:20] + "-" + key[21:], "only letters and digits"},
		{"two characters swapped", string(swapped), "checksum"},
	} {
		err := authn.CheckKey(c.key)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
			continue
		}
		if strings.Contains(err.Error(), key[4:20]) {
			t.Errorf("%s: the message holds the key", c.name)
		}
	}
}

func TestCheckKeyFindsEveryTypo(t *testing.T) {
	key, _ := authn.NewKey()
	for i := range key {
		for _, c := range []byte("0aZ_") {
			if c == key[i] {
				continue
			}
			if typo := key[:i] + string(c) + key[i+1:]; authn.CheckKey(typo) == nil {
				t.Errorf("%q instead of %q at %d passes", c, key[i], i)
			}
		}
	}
}

func TestCredential(t *testing.T) {
	long := strings.Repeat("k", authn.MaxCredential)
	for _, c := range []struct {
		name string
		auth []string
		keys []string
		want string // "" = no credential
	}{
		{"bearer", []string{"Bearer k1"}, nil, "k1"},
		{"scheme in lower case", []string{"bearer k1"}, nil, "k1"},
		{"scheme in upper case", []string{"BEARER k1"}, nil, "k1"},
		{"more blanks", []string{"Bearer   k1"}, nil, "k1"},
		{"b64token", []string{"Bearer a-._~+/9=="}, nil, "a-._~+/9=="},
		{"api key", nil, []string{"k1"}, "k1"},
		{"api key of any text", nil, []string{"my old: key é!"}, "my old: key é!"},
		{"both alike", []string{"Bearer k1"}, []string{"k1"}, "k1"},
		{"the longest", nil, []string{long}, long},

		{"none", nil, nil, ""},
		{"empty", []string{""}, nil, ""},
		{"empty token", []string{"Bearer "}, nil, ""},
		{"no token", []string{"Bearer"}, nil, ""},
		{"only padding", []string{"Bearer =="}, nil, ""},
		{"padding inside", []string{"Bearer a=b"}, nil, ""},
		{"two tokens", []string{"Bearer k1 k2"}, nil, ""},
		{"trailing blank", []string{"Bearer k1 "}, nil, ""},
		{"tab", []string{"Bearer\tk1"}, nil, ""},
		{"list", []string{"Bearer k1, Bearer k2"}, nil, ""},
		{"another scheme", []string{"Basic azE6"}, nil, ""},
		{"no scheme", []string{"k1"}, nil, ""},
		{"a longer scheme", []string{"Bearerx k1"}, nil, ""},
		{"control byte", []string{"Bearer k1\x00"}, nil, ""},
		{"duplicated", []string{"Bearer k1", "Bearer k1"}, nil, ""},
		{"two", []string{"Bearer k1", "Bearer k2"}, nil, ""},
		{"api key empty", nil, []string{""}, ""},
		{"api key duplicated", nil, []string{"k1", "k1"}, ""},
		{"api key list", nil, []string{"k1, k2"}, ""},
		{"api key with a line end", nil, []string{"k1\n"}, ""},
		{"api key with blanks around", nil, []string{" k1"}, ""},
		{"both, disagreeing", []string{"Bearer k1"}, []string{"k2"}, ""},
		{"both, one malformed", []string{"Basic azE6"}, []string{"k1"}, ""},
		{"both, one empty", []string{""}, []string{"k1"}, ""},
		{"too long", nil, []string{long + "k"}, ""},
		{"bearer too long", []string{"Bearer " + long + "k"}, nil, ""},
	} {
		h := map[string][]string{"X-Other": {"Bearer k9"}}
		if c.auth != nil {
			h["Authorization"] = c.auth
		}
		if c.keys != nil {
			h["X-Api-Key"] = c.keys
		}
		got, ok := authn.Credential(h)
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: got %.40q, %v; want %.40q", c.name, got, ok, c.want)
		}
	}
}

func FuzzCredential(f *testing.F) {
	f.Add("Bearer k1", "")
	f.Add("Bearer k1", "k1")
	f.Add("", "k1")
	f.Fuzz(func(t *testing.T, auth, key string) {
		h := map[string][]string{}
		if auth != "" {
			h["Authorization"] = []string{auth}
		}
		if key != "" {
			h["X-Api-Key"] = []string{key}
		}
		got, ok := authn.Credential(h)
		if !ok {
			if got != "" {
				t.Errorf("refused, yet %q returned", got)
			}
			return
		}
		if got == "" || len(got) > authn.MaxCredential || strings.ContainsAny(got, "\x00\r\n\t,") {
			t.Errorf("credential %q is out of bounds", got)
		}
		if auth != "" && !strings.HasSuffix(auth, " "+got) || key != "" && key != got {
			t.Errorf("%q is not in %q, %q", got, auth, key)
		}
	})
}

func FuzzCheckKey(f *testing.F) {
	key, _ := authn.NewKey()
	f.Add(key)
	f.Add("pgk_")
	f.Fuzz(func(t *testing.T, s string) { _ = authn.CheckKey(s) })
}

func BenchmarkCredential(b *testing.B) {
	key, _ := authn.NewKey()
	h := map[string][]string{"Authorization": {"Bearer " + key}}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := authn.Credential(h); !ok {
			b.Fatal("refused")
		}
	}
}
