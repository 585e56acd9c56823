package credential

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// provider starts one whose token endpoint is a handler.
func provider(t *testing.T, h http.HandlerFunc) OIDCConfig {
	t.Helper()
	mux := http.NewServeMux()
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, s.URL, s.URL+"/token")
	})
	mux.HandleFunc("/token", h)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return OIDCConfig{Issuer: s.URL, ClientID: "bench", ClientSecret: "a secret/of some length", Roots: roots}
}

func TestAllow(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.1.2.3": true, "192.168.0.1": true, "172.16.0.1": true, "fd00::1": true, "::ffff:10.0.0.1": true,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1%lo": false, "8.8.8.8": false, "0.0.0.0": false, "::": false, "100.64.0.1": false,
	} {
		if err := Allow(netip.MustParseAddr(addr), false); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed %v", addr, err, want)
		}
		if err := Allow(netip.MustParseAddr(addr), true); err != nil {
			t.Errorf("%s, own: got %v", addr, err)
		}
	}
}

// TestOIDCRefusesAStrangersAddress is of the issuer, and of the token endpoint that it names.
func TestOIDCRefusesAStrangersAddress(t *testing.T) {
	c := OIDCConfig{Issuer: "https://192.0.2.1", ClientID: "bench", ClientSecret: "s"}
	var refused *Refused
	if _, err := newOIDC(t, c).Token(t.Context(), 0); !errors.As(err, &refused) || !strings.Contains(err.Error(), "--i-own-this-target") {
		t.Errorf("issuer: got %v, want it refused", err)
	}
	s := newOIDC(t, c)
	s.endpoint = "https://169.254.169.254/token" // as discovery may name it
	if _, err := s.Token(t.Context(), 0); !errors.As(err, &refused) || !refused.StopsRun() {
		t.Errorf("token endpoint: got %v, want it refused", err)
	}
	c.Own = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newOIDC(t, c).Token(ctx, 0); err == nil || errors.As(err, &refused) {
		t.Errorf("own: got %v, want another error than that", err)
	}
}

// TestOIDCRefusesAUserInTheIssuer, without quoting the password.
func TestOIDCRefusesAUserInTheIssuer(t *testing.T) {
	for _, issuer := range []string{"https://user:hunter2@id.example.com", "https://hunter2@id.example.com", "https://user:hunter2%@id.example.com"} {
		if _, err := NewOIDC(OIDCConfig{Issuer: issuer, ClientID: "bench", ClientSecret: "s"}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error that does not quote it", issuer, err)
		}
	}
}

// TestOIDCTakesASignInTheIssuersPath: only what stands before the host is a user.
func TestOIDCTakesASignInTheIssuersPath(t *testing.T) {
	newOIDC(t, OIDCConfig{Issuer: "https://id.example.com/@team", ClientID: "bench", ClientSecret: "s"})
}

// TestOIDCAsksAFailingProviderOnceASecond has each tenant of many want a token while the provider is down.
func TestOIDCAsksAFailingProviderOnceASecond(t *testing.T) {
	for status, want := range map[int]int64{http.StatusServiceUnavailable: 1, http.StatusTooManyRequests: 1, http.StatusBadRequest: 5} {
		var asked atomic.Int64
		c := provider(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
		})
		c.Audience = func(n int) string { return fmt.Sprint(n) }
		s := newOIDC(t, c)
		begun := time.Now()
		for n := range 100 {
			if _, err := s.Token(t.Context(), n%5); err == nil {
				t.Fatal("no error")
			}
		}
		if got := asked.Load(); got != want && time.Since(begun) < pause {
			t.Errorf("status %d: the provider was asked %d times for 5 tenants, want %d", status, got, want)
		}
	}
}

// TestCacheAsksAgainAfterAPause: a failure is remembered for a second, one of a caller that went away not at all.
func TestCacheAsksAgainAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, asked := newCache(), 0
		get := func(ctx context.Context) {
			_, err := c.get(ctx, 1, func(context.Context, int) (token, error) {
				asked++
				return token{}, errors.New("down")
			})
			if err == nil {
				t.Error("no error")
			}
		}
		for step, want := range []int{1, 2} {
			for range 1000 {
				get(t.Context())
			}
			if asked != want {
				t.Errorf("step %d: asked %d times, want %d", step, asked, want)
			}
			time.Sleep(pause)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		c.slot(1).failed.begin(gone, errors.New("gone"))
		if err := c.slot(1).failed.err(); err != nil {
			t.Errorf("got %v, which is nobody's failure", err)
		}
	})
}

// TestOIDCErrorsKeepTheSecret has a provider echo what it was sent.
func TestOIDCErrorsKeepTheSecret(t *testing.T) {
	c := provider(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, secret, _ := r.BasicAuth()
		io.WriteString(w, "your header was "+r.Header.Get("Authorization")+", so "+secret)
	})
	_, err := newOIDC(t, c).Token(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), "your header was Basic "+masked+", so "+masked) {
		t.Errorf("got %v, want the echo masked", err)
	}
}

func TestMask(t *testing.T) {
	const secret = "eyJhbGciOiJFUzI1NiJ9.payload.signature"
	for in, want := range map[string]string{
		"":                               "",
		"no secret":                      "no secret",
		"<" + secret + ">":               "<" + masked + ">",
		"cut: " + secret[:20]:            "cut: " + masked,
		secret[12:] + " was cut":         masked + " was cut",
		"a piece of " + secret[:7]:       "a piece of " + secret[:7],
		secret + secret + " and ünicode": masked + masked + " and ünicode",
	} {
		if got := Mask(in, secret); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := Mask("key pk_a here", "", "pk_a"); got != "key "+masked+" here" {
		t.Errorf("a short one: got %q", got)
	}
}

func FuzzMask(f *testing.F) {
	f.Add("a secret of length in a text", "secret of length")
	f.Fuzz(func(t *testing.T, text, secret string) {
		if len(secret) < 2*piece || strings.Contains(masked, secret) { // what is put in its place may else make a short one
			return
		}
		if got := Mask(text+secret+text, secret); strings.Contains(got, secret) {
			t.Errorf("%q is in %q", secret, got)
		}
	})
}
