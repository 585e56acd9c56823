package authn_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
)

func newSecrets(t testing.TB, fill byte) *authn.Secrets {
	t.Helper()
	s, err := authn.NewSecrets(bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSecrets(t *testing.T) {
	s := newSecrets(t, 1)
	for _, plain := range []string{"x", "a client secret", strings.Repeat("s", 1024), "ünïcode"} {
		sealed := s.Seal("team-a", "dex", plain)
		if again := newSecrets(t, 1).Seal("team-a", "dex", plain); again != sealed {
			t.Errorf("sealing %.20q again gives another text: each reload would write", plain)
		}
		if strings.Contains(sealed, plain) && len(plain) > 1 {
			t.Errorf("%q shows the secret", sealed)
		}
		if got, err := s.Open("team-a", "dex", sealed); err != nil || got != plain {
			t.Errorf("Open = %.20q, %v; want %.20q", got, err, plain)
		}
	}
	if s.Seal("team-a", "dex", "one") == s.Seal("team-a", "dex", "two") {
		t.Error("two secrets have one text")
	}
	if s.Seal("team-a", "dex", "one")[:20] == s.Seal("team-b", "dex", "one")[:20] {
		t.Error("equal secrets of two tenants can be told")
	}
	if got := s.Seal("team-a", "dex", ""); got != "" {
		t.Errorf("no secret is sealed as %q", got)
	}
	if got, err := s.Open("team-a", "dex", ""); got != "" || err != nil {
		t.Errorf("Open of none = %q, %v", got, err)
	}
}

func TestSecretsOpenNowhereElse(t *testing.T) {
	s := newSecrets(t, 1)
	sealed := s.Seal("team-a", "dex", "a client secret")
	flip := func(i int) string { return sealed[:i] + string(sealed[i]^1) + sealed[i+1:] }
	for name, open := range map[string]func() (string, error){
		"another tenant":        func() (string, error) { return s.Open("team-b", "dex", sealed) },
		"another authenticator": func() (string, error) { return s.Open("team-a", "okta", sealed) },
		"parts moved":           func() (string, error) { return s.Open("team-ad", "ex", sealed) },
		"another platform":      func() (string, error) { return newSecrets(t, 2).Open("team-a", "dex", sealed) },
		"cut":                   func() (string, error) { return s.Open("team-a", "dex", sealed[:len(sealed)-4]) },
		"in plain":              func() (string, error) { return s.Open("team-a", "dex", "a client secret") },
		"only the prefix":       func() (string, error) { return s.Open("team-a", "dex", "pgs1.") },
		"line end":              func() (string, error) { return s.Open("team-a", "dex", sealed+"\n") },
		"huge":                  func() (string, error) { return s.Open("team-a", "dex", "pgs1."+strings.Repeat("A", 1<<20)) },
	} {
		if got, err := open(); err == nil || got != "" || !fault.Is(err, fault.Internal) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	for i := range sealed {
		if got, err := s.Open("team-a", "dex", flip(i)); err == nil {
			t.Errorf("byte %d changed: opens as %q", i, got)
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	s := newSecrets(t, 'k')
	if text := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(text, "kkk") || strings.Contains(text, "107") {
		t.Errorf("the key is in %q", text)
	}
	if _, err := authn.NewSecrets(nil); err == nil {
		t.Error("no platform secret is enough")
	}
}

func TestCheckSecret(t *testing.T) {
	for secret, want := range map[string]string{
		"fine": "", "": "", strings.Repeat("x", 1025): "at most 1024", "topsecret\n": "control character",
	} {
		err := authn.CheckSecret("client_secret", secret)
		if want == "" && err != nil || want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.20q: got %v, want %q", secret, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Error("the message holds the secret")
		}
	}
}

func FuzzSecretsOpen(f *testing.F) {
	s := newSecrets(f, 1)
	f.Add(s.Seal("team-b", "dex", "x"))
	f.Add("pgs1.AAAA")
	f.Fuzz(func(t *testing.T, sealed string) {
		if got, err := s.Open("team-a", "dex", sealed); err == nil && sealed != "" && s.Seal("team-a", "dex", got) != sealed {
			t.Errorf("%q opens as %q: forged", sealed, got)
		}
	})
}
