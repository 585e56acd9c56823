package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/polygate/polygate/certs/acme/acmetest"
	"github.com/polygate/polygate/internal/fault"
)

// The name leads elsewhere: the server does not find the proof. Nothing stays, and the error does not tell the token.
func TestChallengeFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	spy := &tokenSpy{memory: r.tokens}
	orders := r.e
	r.e = r.engine(func(c *Config) {
		c.TLSALPN01, c.HTTP01, c.DNS = false, false, &DNS{Provider: "webhook", Webhook: Webhook{URL: "http://127.0.0.1:1"}}
	})
	o := r.order("a.polygate.test")
	o.Tokens = spy
	_, err := orders.Obtain(t.Context(), o)
	e := r.is(err, CodeChallengeFailed)
	if e.Permanent || !strings.Contains(e.Detail, "a.polygate.test") {
		t.Errorf("error = %v, want the name, and another try", e)
	}
	spy.check(t, e.Error()+r.log.String())
}

// tokenSpy remembers the tokens that were stored.
type tokenSpy struct {
	*memory
	tokens []string
}

func (s *tokenSpy) Store(ctx context.Context, key string, value []byte) error {
	var v storedChallenge
	if err := decodeStored(value, &v); err == nil && v.Token != "" {
		s.tokens = append(s.tokens, v.Token, strings.TrimPrefix(v.KeyAuth, v.Token+"."))
	}
	return s.memory.Store(ctx, key, value)
}

func (s *tokenSpy) check(t *testing.T, text string) {
	t.Helper()
	if len(s.tokens) == 0 {
		t.Error("no challenge was stored")
	}
	for _, token := range s.tokens {
		if strings.Contains(text, token) {
			t.Errorf("a token or thumbprint is told: %s", text)
		}
	}
}

// A proof that is wrong: the server quotes what it expected, which must not be shown.
func TestWrongProofTellsNoToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, func(c *Config) { c.TLSALPN01 = false })
	spy := &tokenSpy{memory: newMemory()}
	liar := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, q.URL.Path[strings.LastIndex(q.URL.Path, "/")+1:]+".wrong")
	}))
	_ = liar.Listener.Close()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.3:%d", r.HTTPPort))
	if err != nil {
		t.Skip("this system has no 127.0.0.3")
	}
	liar.Listener = l
	liar.Start()
	defer liar.Close()
	r.SetA("a.polygate.test", "127.0.0.3")
	o := r.order("a.polygate.test")
	o.Tokens = spy
	_, err = r.e.Obtain(t.Context(), o)
	e := r.is(err, CodeChallengeFailed)
	if !strings.Contains(e.Detail, "[hidden]") {
		t.Errorf("error = %v: the test is to meet a server that quotes the token", e)
	}
	spy.check(t, e.Error()+r.log.String())
}

func TestNameThatCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, func(c *Config) { c.HTTP01 = false })
	r.ServFail("a.polygate.test", true)
	_, err := r.e.Obtain(t.Context(), r.order("a.polygate.test"))
	r.is(err, CodeChallengeFailed) // this server does not call it "dns"; see TestRefusals for one that does
}

// The caller gives up in the middle of a challenge: what was stored for it goes, and with it the record in the DNS.
func TestCancelledOrderCleansUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{Sleep: 30 * time.Second}, nil)
	r.e = r.engine(func(c *Config) {
		c.DNS = &DNS{Provider: "webhook", Webhook: Webhook{URL: r.WebhookURL}, Propagation: -1}
	})
	for _, name := range []string{"a.polygate.test", "*.polygate.test"} {
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := r.e.Obtain(ctx, r.order(name))
			failed <- err
		}()
		await(t, "the challenge to be open", func() bool {
			return len(r.tokens.keys())+len(r.TXT("_acme-challenge.polygate.test.")) > 0
		})
		cancel()
		e := r.is(<-failed, CodeCanceled)
		if !errors.Is(e, context.Canceled) {
			t.Errorf("error = %v, want context.Canceled within", e)
		}
		if got := r.TXT("_acme-challenge.polygate.test."); len(got) > 0 {
			t.Errorf("records left behind: %q", got)
		}
	}
}

// A token that would leave its place, or run in a browser, is not stored.
func TestTokenThatIsNone(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	stage := acmetest.NewStage(t, r.Server)
	r.account.Directory = stage.Directory()
	stage.Play(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/authZ/") {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"status":"pending","identifier":{"type":"dns","value":"a.polygate.test"},"challenges":[{"type":"http-01","url":"https://`+q.Host+`/chalZ/1","status":"pending","token":"../<script>"}]}`)
		}
	})
	r.refused(r.order("a.polygate.test"), CodeServer)
}

func TestHTTPChallengeAnswersNothingElse(t *testing.T) {
	t.Parallel()
	e, err := New(Config{HTTP01: true})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newMemory()
	key := challengeKey("http-01", "a.polygate.test")
	value := func(until time.Time) []byte {
		return []byte(`{"v":1,"type":"http-01","host":"a.polygate.test","token":"tok","key_auth":"tok.thumb","until":"` + until.UTC().Format(time.RFC3339) + `"}`)
	}
	if err := tokens.Store(t.Context(), key, value(time.Now().Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	owned := func(host string) (certmagic.Storage, bool) { return tokens, host == "a.polygate.test" }
	get := func(method, host, path string) (int, string) {
		w := httptest.NewRecorder()
		q := httptest.NewRequest(method, "/", nil)
		q.Host, q.URL.Path = host, path
		e.HTTPChallenge(owned, w, q)
		return w.Code, w.Body.String()
	}
	const base = "/.well-known/acme-challenge/"
	for _, host := range []string{"a.polygate.test", "A.Polygate.Test:80"} {
		if code, body := get("GET", host, base+"tok"); code != 200 || body != "tok.thumb" {
			t.Errorf("%s: %d %q, want the proof", host, code, body)
		}
	}
	for _, tt := range [][3]string{
		{"GET", "a.polygate.test", base + "other"}, {"GET", "b.polygate.test", base + "tok"}, {"POST", "a.polygate.test", base + "tok"},
		{"GET", "a.polygate.test", base}, {"GET", "a.polygate.test", base + "../tok"}, {"GET", "a.polygate.test", base + "tok/"},
		{"GET", "..", base + "tok"}, {"GET", "127.0.0.1", base + "tok"}, {"GET", "", base + "tok"}, {"GET", "a.polygate.test", "/tok"},
	} {
		if code, body := get(tt[0], tt[1], tt[2]); code != 404 || strings.Contains(body, "thumb") {
			t.Errorf("%q: %d %q, want 404", tt, code, body)
		}
	}
	if err := tokens.Store(t.Context(), key, value(time.Now().Add(-time.Second))); err != nil {
		t.Fatal(err)
	}
	if code, _ := get("GET", "a.polygate.test", base+"tok"); code != 404 {
		t.Errorf("a challenge of an order long gone: %d, want 404", code)
	}
	tokens.breaks(func(string, string) error { return errors.New("etcd is away") })
	if code, body := get("GET", "a.polygate.test", base+"tok"); code != 503 || strings.Contains(body, "etcd") {
		t.Errorf("storage away: %d %q, want 503", code, body)
	}
}

// A challenge that is not allowed is not answered, whatever lies in the storage.
func TestChallengeThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	all, err := New(Config{HTTP01: true, TLSALPN01: true})
	if err != nil {
		t.Fatal(err)
	}
	web, err := New(Config{HTTP01: true})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newMemory()
	ch := testChallenge("a-token-that-is-long")
	ch.Type = "tls-alpn-01"
	if err := (&tokenSolver{call: &call{e: all}, storage: tokens}).Present(t.Context(), ch); err != nil {
		t.Fatal(err)
	}
	if _, err := all.ChallengeCertificate(t.Context(), tokens, "a.polygate.test"); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"b.polygate.test", "", "..", "127.0.0.1"} {
		if _, err := all.ChallengeCertificate(t.Context(), tokens, host); fault.From(err).Kind != fault.NotFound {
			t.Errorf("%q: %v, want not found", host, err)
		}
	}
	if _, err := web.ChallengeCertificate(t.Context(), tokens, "a.polygate.test"); fault.From(err).Kind != fault.NotFound {
		t.Errorf("error = %v, want not found: tls-alpn-01 is off", err)
	}
}

// An order that was overtaken does not remove the challenge of the one that overtook it.
func TestCleanUpLeavesTheLaterChallenge(t *testing.T) {
	t.Parallel()
	e, err := New(Config{HTTP01: true})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newMemory()
	s := &tokenSolver{call: &call{e: e}, storage: tokens}
	first, second := testChallenge("first-token-of-all"), testChallenge("second-token-of-all")
	for _, err := range []error{s.Present(t.Context(), first), s.Present(t.Context(), second), s.CleanUp(t.Context(), first)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(tokens.keys()) != 1 {
		t.Error("the later challenge is gone")
	}
	if err := s.CleanUp(t.Context(), second); err != nil || len(tokens.keys()) != 0 {
		t.Errorf("clean up: %v, left %q", err, tokens.keys())
	}
}
