package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/acme/acmetest"
)

func debugLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func TestIssueByTLSALPN(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, func(c *Config) { c.HTTP01 = false })
	o := r.order("a.polygate.test")
	chain := r.issue(o)
	if got := <-r.tlsHits; got != "a.polygate.test" {
		t.Errorf("the challenge was asked for at %q", got)
	}
	if len(r.httpHits) > 0 {
		t.Error("http-01 was used though it is not allowed")
	}
	list, err := parseChain(chain)
	if err != nil || len(list) < 2 || !isECDSA(list[0].SignatureAlgorithm) {
		t.Errorf("chain of %d certificates, %v; want an ECDSA leaf and its issuer", len(list), err)
	}
	if got := r.Orders("a.polygate.test"); got != 1 {
		t.Errorf("issued %d times, want once", got)
	}
}

func TestIssueByHTTP(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, func(c *Config) { c.TLSALPN01 = false })
	r.issue(r.order("b.polygate.test"))
	if len(r.tlsHits) > 0 || len(r.httpHits) == 0 {
		t.Errorf("%d tls-alpn and %d http challenges, want only http", len(r.tlsHits), len(r.httpHits))
	}
}

// One of the challenges cannot be met: the other one is tried in the same call.
func TestFallsBackToTheOtherChallenge(t *testing.T) {
	t.Parallel()
	for _, allowed := range []string{"tls-alpn-01", "http-01"} {
		t.Run("only "+allowed+" works", func(t *testing.T) {
			r := newRig(t, acmetest.Options{}, nil)
			// The listeners' engine answers one kind only, whatever was stored; the one that orders may use both.
			orders := r.e
			r.e = r.engine(func(c *Config) { c.TLSALPN01, c.HTTP01 = allowed == "tls-alpn-01", allowed == "http-01" })
			// The library begins with either kind: several orders meet the one that fails.
			for _, name := range []string{"a.polygate.test", "b.polygate.test", "c.polygate.test"} {
				o := r.order(name)
				chain, err := orders.Obtain(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				r.check(chain, o)
			}
		})
	}
}

func TestSeveralNamesInOneCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	r.issue(r.order("a.polygate.test", "b.polygate.test", "xn--bcher-kva.polygate.test"))
}

func TestWildcardByWebhook(t *testing.T) {
	t.Parallel()
	const token = "webhook-secret-token"
	var hook string
	r := newRig(t, acmetest.Options{WebhookToken: token}, nil)
	hook = r.WebhookURL
	withToken := func(token string) *Engine {
		return r.engine(func(c *Config) {
			c.DNS = &DNS{Provider: "webhook", Webhook: Webhook{URL: hook, Token: token}, Propagation: 20 * time.Second}
		})
	}
	r.e = withToken(token)
	r.issue(r.order("*.polygate.test", "polygate.test"))
	if got := r.TXT("_acme-challenge.polygate.test."); len(got) > 0 {
		t.Errorf("records left behind: %q", got)
	}

	r.FailWebhook(http.StatusBadGateway)
	r.refused(r.order("*.b.polygate.test"), CodeDNS)
	r.FailWebhook(0)

	r.e = withToken("another-secret-token")
	e := r.refused(r.order("*.b.polygate.test"), CodeDNS)
	if !e.Permanent || !strings.Contains(e.Detail, "token_file") || strings.Contains(e.Error(), "another-secret-token") {
		t.Errorf("error = %v (permanent %v), want it to name the token's setting and not the token", e, e.Permanent)
	}
}

func TestWildcardWantsDNS(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	if e := r.refused(r.order("*.polygate.test"), CodeDNS); !e.Permanent {
		t.Error("an order that a setting forbids is to be tried again")
	}
}

// X09: half of all nonces are refused. Each certificate comes within 60 s.
func TestX09HalfOfAllNoncesRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{NonceReject: 50}, nil)
	for _, name := range []string{"a.polygate.test", "b.polygate.test", "c.polygate.test", "d.polygate.test"} {
		start := time.Now()
		r.issue(r.order(name))
		took := time.Since(start)
		t.Logf("%s took %v", name, took.Round(10*time.Millisecond))
		if took > time.Minute {
			t.Errorf("%s took %v, want at most 60 s", name, took)
		}
		if got := r.Orders(name); got != 1 {
			t.Errorf("%s was issued %d times, want once", name, got)
		}
	}
}

func TestServerThatTakesItsTimeToValidate(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{Sleep: 5 * time.Second}, nil)
	r.issue(r.order("a.polygate.test"))
}

func TestExternalAccount(t *testing.T) {
	t.Parallel()
	const id, key = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	r := newRig(t, acmetest.Options{EAB: map[string]string{id: key}}, nil)

	if e := r.refused(r.order("a.polygate.test"), CodeEABRequired); !e.Permanent || !strings.Contains(e.Detail, "eab_key_id") {
		t.Errorf("error = %v, want it to name the setting", e)
	}
	r.account.EABKeyID, r.account.EABKey = id, "AAAA"+key[4:]
	if e := r.refused(r.order("a.polygate.test"), CodeAccount); !e.Permanent || !strings.Contains(e.Detail, id) {
		t.Errorf("error = %v, want it to name the external account", e)
	}
	r.account.EABKey = "this is no base64!"
	r.refused(r.order("a.polygate.test"), CodeAccount)
	r.account.EABKeyID, r.account.EABKey = "kid-unknown", key
	r.refused(r.order("a.polygate.test"), CodeAccount)

	r.account.EABKeyID, r.account.EABKey = id, key+"==" // as some servers print it
	r.issue(r.order("a.polygate.test"))
	r.secretsHidden("")
}

// The server has lost its accounts: the next order registers again, with the same key.
func TestAccountForgottenByTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	r.issue(r.order("a.polygate.test"))
	before := r.stored()
	r.Restart()
	r.issue(r.order("a.polygate.test"))
	after := r.stored()
	if before.url == after.url {
		t.Error("the account's URL is the forgotten one")
	}
	if !before.key.Equal(after.key) {
		t.Error("the account got another key, though it is the same account")
	}
	if got := r.Orders("a.polygate.test"); got != 2 {
		t.Errorf("issued %d times, want twice", got)
	}
}

// Two replicas find out at once that the account is forgotten: one registers it again.
func TestForgottenAccountIsRegisteredOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	r.issue(r.order("a.polygate.test"))
	r.Restart()
	var wg sync.WaitGroup
	for _, name := range []string{"a.polygate.test", "b.polygate.test", "c.polygate.test"} {
		wg.Go(func() {
			if _, err := r.engine(nil).Obtain(t.Context(), r.order(name)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(r.Log(), "POST /sign-me-up -> calling handler()"); n != 1 {
		t.Errorf("%d accounts were registered, want 1", n)
	}
}

type account struct {
	url string
	key *ecdsa.PrivateKey
}

func (r *rig) stored() account {
	r.t.Helper()
	data, err := r.accounts.Load(context.Background(), accountKey(r.account))
	if err != nil {
		r.t.Fatal(err)
	}
	url, key, err := parseAccount(data)
	if err != nil {
		r.t.Fatal(err)
	}
	return account{url, key.(*ecdsa.PrivateKey)}
}

// Two replicas order for the first time at once: they share one account.
func TestTwoEnginesRegisterOneAccount(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	engines := []*Engine{r.engine(nil), r.engine(nil), r.engine(nil), r.engine(nil)}
	var wg sync.WaitGroup
	for i, e := range engines {
		wg.Go(func() {
			if _, err := e.Obtain(t.Context(), r.order(string(rune('a'+i))+".polygate.test")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := strings.Count(r.Log(), "POST /sign-me-up -> calling handler()"); n != 1 {
		t.Errorf("%d accounts were registered, want 1", n)
	}
	// Stored before the server heard of it, and after.
	if got := r.accounts.stores[accountKey(r.account)]; got != 2 {
		t.Errorf("the account was stored %d times, want 2", got)
	}
}

// A replica died between the server's answer and the store: the account is found by its key.
func TestAccountWhoseURLWasNotStored(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	stores := 0
	r.accounts.breaks(func(op, _ string) error {
		if op == "store" {
			if stores++; stores == 2 {
				return errors.New("etcd is away")
			}
		}
		return nil
	})
	r.refused(r.order("a.polygate.test"), CodeStorage)
	r.accounts.breaks(nil)
	r.issue(r.order("a.polygate.test"))
	if n := strings.Count(r.Log(), "There are now 2 accounts in memory"); n != 0 {
		t.Error("a second account was registered")
	}
}

func TestAccountsApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	r.issue(r.order("a.polygate.test"))
	one := r.stored()
	r.account.Email = "other@polygate.test"
	r.issue(r.order("a.polygate.test"))
	if two := r.stored(); one.url == two.url || one.key.Equal(two.key) {
		t.Error("another contact uses the same account")
	}
}

func TestProfile(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{Profiles: map[string]time.Duration{"shortlived": 6 * 24 * time.Hour}}, nil)
	r.account.Profile = "shortlived"
	list, err := parseChain(r.issue(r.order("a.polygate.test")))
	if err != nil {
		t.Fatal(err)
	}
	if life := list[0].NotAfter.Sub(list[0].NotBefore); life > 7*24*time.Hour {
		t.Errorf("life = %v, want the profile's 6 days", life)
	}
	r.account.Profile = "unheard-of"
	if e := r.refused(r.order("a.polygate.test"), CodeProfile); !e.Permanent {
		t.Error("an order with an unknown profile is to be tried again")
	}
}

func TestRenewsAndNamesThePredecessor(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	first, err := parseChain(r.issue(r.order("a.polygate.test")))
	if err != nil {
		t.Fatal(err)
	}
	o := r.order("a.polygate.test")
	o.Replaces = first[0]
	r.issue(o)
	if !strings.Contains(r.Log(), "is a replacement of") {
		t.Error("the server was not told of the predecessor")
	}
	// Replaced already, and of a server that does not know it: ordered all the same.
	o = r.order("a.polygate.test")
	o.Replaces = first[0]
	r.issue(o)
	r.Restart()
	r.issue(o)
}

func TestRenewalInfo(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	chain := r.issue(r.order("a.polygate.test"))
	list, err := parseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	start, end, again, err := r.e.RenewalInfo(t.Context(), r.account, list[0])
	if err != nil || !start.Before(end) || !again.After(time.Now()) || start.After(list[0].NotAfter) {
		t.Errorf("window %v to %v, again %v, %v", start, end, again, err)
	}
	want := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	r.SetRenewalWindow(chain, want, want.Add(30*time.Minute))
	if start, _, _, err = r.e.RenewalInfo(t.Context(), r.account, list[0]); err != nil || !start.Equal(want) {
		t.Errorf("window begins %v, %v, want %v: the server wants it renewed at once", start, err, want)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true}, nil)
	chain := r.issue(r.order("a.polygate.test"))
	list, err := parseChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is revoked already
		if err := r.e.Revoke(t.Context(), r.account, r.accounts, chain, 4); err != nil {
			t.Fatal(err)
		}
	}
	if reason, ok := r.Revoked(list[0]); !ok || reason != 4 {
		t.Errorf("revoked = %v for %d, want superseded (4)", ok, reason)
	}
	r.is(r.e.Revoke(t.Context(), r.account, newMemory(), chain, 4), CodeAccount)
	r.is(r.e.Revoke(t.Context(), r.account, r.accounts, chain, 7), CodeUnsupported)
	r.is(r.e.Revoke(t.Context(), r.account, r.accounts, []byte("x"), 4), CodeInternal)
}

func TestPicksTheChainThatECDSASigned(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{AlwaysValid: true, Alternates: 2}, nil)
	r.issue(r.order("a.polygate.test"))
	rsa := newRig(t, acmetest.Options{AlwaysValid: true, RSA: true, Alternates: 1}, nil)
	rsa.issue(rsa.order("a.polygate.test")) // there is none: the first offered
}

// The challenge certificate is what RFC 8737 §3 wants, and there is none without an open challenge.
func TestChallengeCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	if _, err := r.e.ChallengeCertificate(t.Context(), r.tokens, "a.polygate.test"); err == nil {
		t.Error("a challenge is answered that nobody opened")
	}
	var seen *tls.Certificate
	r.tokens.breaks(func(op, key string) error {
		if op == "delete" && seen == nil {
			r.tokens.mu.Lock()
			data := slices.Clone(r.tokens.values[key])
			r.tokens.mu.Unlock()
			other := newMemory()
			other.values[key] = data
			seen, _ = r.e.ChallengeCertificate(context.Background(), other, "A.polygate.test")
		}
		return nil
	})
	o := r.order("a.polygate.test")
	e := r.engine(func(c *Config) { c.HTTP01 = false })
	if _, err := e.Obtain(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if seen == nil {
		t.Fatal("no certificate for the open challenge")
	}
	leaf, err := x509.ParseCertificate(seen.Certificate[0])
	if err != nil || !slices.Equal(leaf.DNSNames, []string{"a.polygate.test"}) {
		t.Errorf("names = %q, %v", leaf.DNSNames, err)
	}
}
