package credential

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func audiences(name string) func(int) []string {
	return func(n int) []string { return []string{name + string(rune('0'+n))} }
}

func TestKeysAreTheTenantsOwn(t *testing.T) {
	s := Keys([]string{"pk_a", "pk_b"})
	if got, err := s.Token(t.Context(), 1); err != nil || got != "pk_b" {
		t.Errorf("tenant 1: got %q, %v, want pk_b", got, err)
	}
	for _, n := range []int{-1, 2} {
		if got, err := s.Token(t.Context(), n); err == nil {
			t.Errorf("tenant %d: got %q, want an error", n, got)
		}
	}
}

func TestMinterSignsForEachTenant(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key crypto.Signer
		alg jose.SignatureAlgorithm
	}{
		"P-256": {ecKey(t, elliptic.P256()), jose.ES256},
		"P-384": {ecKey(t, elliptic.P384()), jose.ES384},
		"RSA":   {rsaKey, jose.RS256},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := NewMinter(MinterConfig{Key: c.key, KeyID: "k1", Issuer: "https://i", Audience: audiences("t")})
			if err != nil {
				t.Fatal(err)
			}
			text, err := m.Token(t.Context(), 3)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{c.alg})
			if err != nil {
				t.Fatal(err)
			}
			if got := parsed.Headers[0].KeyID; got != "k1" {
				t.Errorf("kid: got %q, want k1", got)
			}
			var claims jwt.Claims
			if err := parsed.Claims(c.key.Public(), &claims); err != nil {
				t.Fatal(err)
			}
			if err := claims.ValidateWithLeeway(jwt.Expected{Issuer: "https://i", Subject: "bench", AnyAudience: jwt.Audience{"t3"}, Time: time.Now()}, 0); err != nil {
				t.Error(err)
			}
			if err := claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{"t2"}}); err == nil {
				t.Error("the token is good for another tenant")
			}
			if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != time.Hour {
				t.Errorf("life: got %s, want 1h", life)
			}
		})
	}
}

func TestMinterKeepsATokenUntilShortlyBeforeItsEnd(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMinter(MinterConfig{Key: key, Issuer: "https://i", Audience: audiences("t"), TTL: 10 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() string {
			text, err := m.Token(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		first := ask()
		time.Sleep(9*time.Minute - time.Second)
		if ask() != first {
			t.Error("another token came before it was time")
		}
		time.Sleep(2 * time.Second)
		if ask() == first {
			t.Error("the old token came in its last minute")
		}
	})
}

func TestMinterRefuses(t *testing.T) {
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("this build makes no short keys: ", err)
	}
	good := ecKey(t, elliptic.P256())
	for name, c := range map[string]struct {
		config MinterConfig
		want   string
	}{
		"no key":      {MinterConfig{Issuer: "i", Audience: audiences("t")}, "ECDSA or RSA"},
		"short RSA":   {MinterConfig{Key: short, Issuer: "i", Audience: audiences("t")}, "1024 bits"},
		"P-224":       {MinterConfig{Key: ecKey(t, elliptic.P224()), Issuer: "i", Audience: audiences("t")}, "P-224"},
		"no issuer":   {MinterConfig{Key: good, Audience: audiences("t")}, "issuer"},
		"no audience": {MinterConfig{Key: good, Issuer: "i"}, "audience"},
		"no life":     {MinterConfig{Key: good, Issuer: "i", Audience: audiences("t"), TTL: time.Millisecond}, "a second"},
	} {
		if _, err := NewMinter(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestLoadKey(t *testing.T) {
	ec := ecKey(t, elliptic.P256())
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	params := block("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}) // as openssl ecparam -genkey writes before the key
	for name, c := range map[string]struct{ pem, want string }{
		"PKCS 8":            {block("PRIVATE KEY", pkcs8), ""},
		"SEC 1":             {params + block("EC PRIVATE KEY", sec1), ""},
		"a public key":      {block("PUBLIC KEY", pkcs8), "no private key"},
		"encrypted":         {block("ENCRYPTED PRIVATE KEY", pkcs8), "decrypt it"},
		"broken":            {block("PRIVATE KEY", pkcs8[:20]), "signing key"},
		"nothing":           {"", "no private key"},
		"the other's label": {block("RSA PRIVATE KEY", sec1), "signing key"},
	} {
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, []byte(c.pem), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := LoadKey(path)
		switch {
		case c.want == "" && (err != nil || !ec.Equal(got)):
			t.Errorf("%s: got %v, %v, want the key", name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func startIssuer(t *testing.T) (*Issuer, *x509.CertPool) {
	t.Helper()
	i, err := StartIssuer(t.TempDir(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := os.ReadFile(i.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b)
	return i, roots
}

func newOIDC(t *testing.T, c OIDCConfig) *oidcSource {
	t.Helper()
	s, err := NewOIDC(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.(*oidcSource).http.CloseIdleConnections)
	return s.(*oidcSource)
}

// TestOIDCTokensAreWhatTheIssuerSigns gets tokens over the wire and has another library check them by discovery.
func TestOIDCTokensAreWhatTheIssuerSigns(t *testing.T) {
	i, roots := startIssuer(t)
	id, secret := i.Client()
	s := newOIDC(t, OIDCConfig{Issuer: i.URL(), ClientID: id, ClientSecret: secret, Roots: roots, Audience: func(n int) string { return audiences("t")(n)[0] }})
	ctx := oidc.ClientContext(t.Context(), s.http)
	provider, err := oidc.NewProvider(ctx, i.URL())
	if err != nil {
		t.Fatal(err)
	}
	minter, err := i.Minter(audiences("t"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]Source{"fetched": s, "minted": minter} {
		for n, audience := range []string{"t0", "t1"} {
			text, err := source.Token(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, text); err != nil {
				t.Errorf("%s: tenant %d: %v", name, n, err)
			}
			if _, err := provider.Verifier(&oidc.Config{ClientID: "t2"}).Verify(ctx, text); err == nil {
				t.Errorf("%s: tenant %d: its token is good for another", name, n)
			}
		}
	}
	again, err := s.Token(t.Context(), 0)
	if first, _ := s.Token(t.Context(), 0); err != nil || again != first {
		t.Errorf("a second token came: %v", err)
	}
}

func TestOIDCSaysWhatIsWrong(t *testing.T) {
	i, roots := startIssuer(t)
	id, secret := i.Client()
	audience := func(int) string { return "t" }
	for name, c := range map[string]struct {
		config OIDCConfig
		want   string
	}{
		"secret":    {OIDCConfig{Issuer: i.URL(), ClientID: id, ClientSecret: "wrong", Roots: roots, Audience: audience}, "invalid_client"},
		"audience":  {OIDCConfig{Issuer: i.URL(), ClientID: id, ClientSecret: secret, Roots: roots}, "invalid_target"},
		"untrusted": {OIDCConfig{Issuer: i.URL(), ClientID: id, ClientSecret: secret, Audience: audience}, "give the CA"},
		"other":     {OIDCConfig{Issuer: i.URL() + "/", ClientID: id, ClientSecret: secret, Roots: roots, Audience: audience}, "give the issuer in that form"},
		"down":      {OIDCConfig{Issuer: "https://127.0.0.1:1", ClientID: id, ClientSecret: secret, Roots: roots, Audience: audience}, "refused"},
	} {
		_, err := newOIDC(t, c.config).Token(t.Context(), 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error quotes the secret", name)
		}
	}
	for name, c := range map[string]OIDCConfig{"http": {Issuer: "http://i", ClientID: id, ClientSecret: secret}, "no secret": {Issuer: "https://i", ClientID: id}, "no host": {Issuer: "https://", ClientID: id, ClientSecret: secret}} {
		if _, err := NewOIDC(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestIssuerStaysOnLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "10.0.0.1:0", "localhost:0", ""} {
		if i, err := StartIssuer(t.TempDir(), addr); err == nil {
			i.Close()
			t.Errorf("%q: no error", addr)
		}
	}
}

func TestIssuerAsksForItsClient(t *testing.T) {
	i, roots := startIssuer(t)
	s := newOIDC(t, OIDCConfig{Issuer: i.URL(), ClientID: "x", ClientSecret: "y", Roots: roots})
	resp, err := s.http.Post(i.URL()+"/token", "application/x-www-form-urlencoded", strings.NewReader("grant_type=client_credentials&audience=t"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a credential: got status %d, want 401", resp.StatusCode)
	}
}

// TestCacheGetsEachTokenOnce has many callers want the same token at the same moment.
func TestCacheGetsEachTokenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		var fetched atomic.Int64
		fetch := func(context.Context, int) (token, error) {
			fetched.Add(1)
			time.Sleep(time.Second)
			return token{text: "x", renew: time.Now().Add(time.Minute)}, nil
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, err := c.get(t.Context(), 7, fetch); err != nil || got != "x" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		all.Wait()
		if n := fetched.Load(); n != 1 {
			t.Errorf("got the token %d times, want once", n)
		}
	})
}

func TestCacheKeepsNoErrorForLongAndWaitsNoLongerThanItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		bad := errors.New("down")
		if _, err := c.get(t.Context(), 1, func(context.Context, int) (token, error) { return token{}, bad }); !errors.Is(err, bad) {
			t.Errorf("got %v, want %v", err, bad)
		}
		time.Sleep(pause)
		go c.get(t.Context(), 1, func(ctx context.Context, _ int) (token, error) {
			time.Sleep(time.Hour)
			return token{text: "late", renew: time.Now().Add(time.Hour)}, nil
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.get(ctx, 1, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want its deadline", err)
		}
		time.Sleep(2 * time.Hour)
	})
}

func TestRenewal(t *testing.T) {
	from := time.Unix(1000, 0)
	for life, want := range map[time.Duration]time.Duration{time.Hour: 59 * time.Minute, 10 * time.Second: 9 * time.Second, 0: 0} {
		if got := renewal(from, from.Add(life)).Sub(from); got != want {
			t.Errorf("life %s: renewed after %s, want %s", life, got, want)
		}
	}
}

func FuzzLoadKey(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n"))
	path := filepath.Join(f.TempDir(), "key.pem")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if key, err := LoadKey(path); err == nil && key == nil {
			t.Error("neither a key nor an error")
		}
	})
}
