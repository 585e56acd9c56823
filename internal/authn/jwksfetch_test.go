package authn

import (
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/polygate/polygate/internal/egress"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func TestX30TenantsWithTheSameIssuerStringShareNoKeys(t *testing.T) {
	one, two := newTestIssuer(t, "idp.test"), newTestIssuer(t, "idp.test") // one name, one kid, two keys
	to := func(i *testIssuer) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, i.srv.Listener.Addr().String())
		}
	}
	w := newWorld(t, func(c *Config) {
		c.Dial = func(trusted bool) func(context.Context, string, string) (net.Conn, error) {
			if trusted {
				return to(one)
			}
			return to(two)
		}
	})
	trusted := one.authenticator("idp")
	trusted.Source = tenant.SourceFile
	a := entry("team-a", trusted)                  // reaches one
	b := entry("team-b", two.authenticator("idp")) // reaches two
	c := entry("team-c", one.authenticator("idp")) // reaches two, and believes one's certificate alone
	by := func(i *testIssuer, id tenant.ID) string { return sign(t, i.key(0), nil, w.body(i, id)) }
	for range 2 {
		for _, k := range []struct {
			name  string
			e     *tenant.Entry
			token string
			kind  fault.Kind
			ok    bool
		}{
			{"one's at a", a, by(one, "team-a"), 0, true},
			{"two's at a", a, by(two, "team-a"), fault.Unauthenticated, false},
			{"two's at b", b, by(two, "team-b"), 0, true},
			{"one's at b", b, by(one, "team-b"), fault.Unauthenticated, false},
			{"one's at c, whose CA is not the server's", c, by(one, "team-c"), fault.Unavailable, false},
			{"two's at c", c, by(two, "team-c"), fault.Unavailable, false},
		} {
			_, err := w.ask(k.e, k.token)
			wantKind(t, k.name, err, k.kind, k.ok)
		}
	}
	// The same token text at two tenants that share audience and issuer string is judged by each for itself.
	shared := sign(t, one.key(0), nil, with(w.body(one, "x"), "aud", "shared"))
	accept := func(o *tenant.OIDC) { o.Audiences = []string{"shared"} }
	a2, b2 := one.authenticator("idp", accept), two.authenticator("idp", accept)
	a2.Source = tenant.SourceFile
	for range 2 {
		_, err := w.ask(entry("team-a2", a2), shared)
		wantKind(t, "shared at a", err, 0, true)
		_, err = w.ask(entry("team-b2", b2), shared)
		wantKind(t, "shared at b", err, fault.Unauthenticated, false)
	}
}

func TestX30OneFetchServesTenantsThatTrustAlike(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	for n := range 5 {
		id := tenant.ID(fmt.Sprintf("team-%d", n))
		if _, err := w.ask(entry(id, i.authenticator("idp")), sign(t, i.key(0), nil, w.body(i, id))); err != nil {
			t.Fatal(err)
		}
	}
	if d, f := i.discoveries.Load(), i.fetches.Load(); d != 1 || f != 1 {
		t.Errorf("%d discoveries and %d fetches, want 1 and 1", d, f)
	}
}

// garbage is a token that is right in all but its key.
func garbage(w *world, i *testIssuer, id tenant.ID) string {
	var kid [8]byte
	rand.Read(kid[:])
	payload, _ := json.Marshal(w.body(i, id))
	return forge(`{"alg":"ES256","kid":"`+hex.EncodeToString(kid[:])+`"}`, string(payload), make([]byte, 64))
}

func TestX31GarbageTokensCannotHammerTheIssuer(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	tenants := []*tenant.Entry{entry("team-a", i.authenticator("idp")), entry("team-b", i.authenticator("idp"))}
	var known, cached []string
	for _, e := range tenants {
		known = append(known, sign(t, i.key(0), nil, with(w.body(i, e.Record.ID), "exp", w.clock.now().Add(time.Hour).Unix())))
		cached = append(cached, sign(t, i.key(0), nil, with(w.body(i, e.Record.ID), "sub", "bob")))
	}
	if _, err := w.ask(tenants[0], cached[0]); err != nil {
		t.Fatal(err)
	}
	before := i.fetches.Load()
	const tokens, workers = 10000, 8
	start := w.clock.now()
	var wg sync.WaitGroup
	var n atomic.Int64
	for worker := range workers {
		wg.Go(func() {
			for n.Add(1) <= tokens {
				e := tenants[int(n.Load())%2]
				if _, err := w.ask(e, garbage(w, i, e.Record.ID)); !fault.Is(err, fault.Unauthenticated) {
					t.Errorf("garbage: %v", err)
				}
				if worker == 0 { // known tokens, cached or not, pass all the while
					if _, err := w.ask(tenants[0], cached[0]); err != nil {
						t.Errorf("a cached token: %v", err)
					}
					fresh := sign(t, i.key(0), nil, with(w.body(i, "team-b"), "jti", n.Load()))
					if _, err := w.ask(tenants[1], fresh); err != nil {
						t.Errorf("a new token of a known key: %v", err)
					}
				}
				w.clock.add(time.Minute / tokens)
			}
		})
	}
	wg.Wait()
	w.fetches.Wait()
	if d := w.clock.now().Sub(start); d > 61*time.Second {
		t.Fatalf("the clock went on by %s", d)
	}
	if got := i.fetches.Load() - before; got > 2 {
		t.Errorf("%d fetches of keys in a minute, want at most 2", got)
	}
	if _, err := w.ask(tenants[0], known[0]); err != nil {
		t.Errorf("a known key: %v", err)
	}
}

func TestX31GarbageAtAHungIssuerWaitsOnceAndTogether(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	good := sign(t, i.key(0), nil, w.body(i, "team-a"))
	if _, err := w.ask(e, good); err != nil {
		t.Fatal(err)
	}
	w.clock.add(fetchEvery)
	before, hung := i.fetches.Load(), make(chan struct{})
	i.setJWKS(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := w.ask(e, garbage(w, i, "team-a"))
			wantKind(t, "garbage", err, fault.Unavailable, false)
		})
	}
	for range 20 { // while they wait, or before
		if _, err := w.ask(e, sign(t, i.key(0), nil, w.body(i, "team-a"))); err != nil {
			t.Errorf("a known key: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Authenticate(ctx, e, bearerAt(e, garbage(w, i, "team-a"))); err == nil {
		t.Error("a caller who went away waited to the end")
	}
	close(hung)
	wg.Wait()
	w.fetches.Wait()
	if got := i.fetches.Load() - before; got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
}

func TestX31TokensThatAreWrongAnyhowCauseNoFetch(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	body, k := w.body(i, "team-a"), newKey(t, "k9", jose.ES256)
	for name, token := range map[string]string{
		"alg":     sign(t, newKey(t, "k9", jose.ES384), nil, body),
		"iss":     sign(t, k, nil, with(body, "iss", "https://x.test")),
		"aud":     sign(t, k, nil, with(body, "aud", "x")),
		"exp":     sign(t, k, nil, with(body, "exp", 1)),
		"sub":     sign(t, k, nil, with(body, "sub", nil)),
		"form":    "a.b.c",
		"jwk":     sign(t, k, map[string]any{"jwk": k.Public()}, body),
		"revoked": sign(t, k, nil, with(body, "sub", "mallory", "iat", w.clock.now().Add(-time.Minute).Unix())),
	} {
		at := changed(e, func(r *tenant.Record) {
			r.Revoked = []tenant.Revocation{{Principal: "user:idp/mallory", Before: w.clock.now(), Until: w.clock.now().Add(time.Hour)}}
		})
		_, err := w.ask(at, token)
		wantKind(t, name, err, fault.Unauthenticated, false)
	}
	if d, f := i.discoveries.Load(), i.fetches.Load(); d+f != 0 {
		t.Errorf("%d discoveries and %d fetches, want none", d, f)
	}
}

func TestX32KeysRotateAndTheIssuerGoesDown(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	life := func() map[string]any { return with(w.body(i, "team-a"), "exp", w.clock.now().Add(24*time.Hour).Unix()) }
	k1, k2 := i.key(0), newKey(t, "k2", jose.ES256)
	old, other := sign(t, k1, nil, life()), sign(t, k1, nil, with(life(), "sub", "bob"))
	check := func(when, token string, kind fault.Kind, ok bool) {
		t.Helper()
		_, err := w.ask(e, token)
		wantKind(t, when, err, kind, ok)
		w.fetches.Wait()
	}
	check("at first", old, 0, true)

	// A new key is accepted at once, or, if the issuer was asked just now, within 30 s.
	i.setKeys(k1, k2)
	check("a new key, just asked", sign(t, k2, nil, life()), fault.Unauthenticated, false)
	w.clock.add(fetchEvery)
	check("a new key", sign(t, k2, nil, life()), 0, true)
	check("the old key beside it", other, 0, true)

	// A key that the issuer took back is refused within 5 minutes, also for tokens that were verified and remembered.
	i.setKeys(k2)
	w.clock.add(keysStale)
	check("the removed key, remembered token", old, fault.Unauthenticated, false)
	check("the removed key, new token", sign(t, k1, nil, with(life(), "sub", "carol")), fault.Unauthenticated, false)
	kept := sign(t, k2, nil, life())
	check("the kept key", kept, 0, true)

	// The issuer goes down: known keys serve for an hour, others are not known.
	i.down.Store(true)
	for range 11 {
		w.clock.add(keysStale)
		check("known key, issuer down", kept, 0, true)
		check("known key, new token", sign(t, k2, nil, life()), 0, true)
	}
	_, err := w.ask(e, garbage(w, i, "team-a"))
	wantKind(t, "unknown key, issuer down", err, fault.Unavailable, false)
	if f := fault.From(err); f == nil || f.RetryAfter <= 0 || f.RetryAfter > fetchEvery {
		t.Errorf("retry after %v, want up to %s", f, fetchEvery)
	}
	w.clock.add(keysStale)
	check("after an hour", kept, fault.Unavailable, false)
	check("after an hour, new token", sign(t, k2, nil, life()), fault.Unavailable, false)

	// It comes back.
	i.down.Store(false)
	w.clock.add(fetchEvery)
	check("up again", kept, 0, true)
}

// TestX32AnOldFailureIsNoReasonToBelieveOldKeys: an issuer that failed once, and was not asked since, is asked before a key of
// more than 5 minutes is believed.
func TestX32AnOldFailureIsNoReasonToBelieveOldKeys(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	k1, k2 := i.key(0), newKey(t, "k2", jose.ES256)
	token := sign(t, k1, nil, with(w.body(i, "team-a"), "exp", w.clock.now().Add(time.Hour).Unix()))
	ask := func(when string, ok bool) {
		t.Helper()
		_, err := w.ask(e, token)
		wantKind(t, when, err, fault.Unauthenticated, ok)
		w.fetches.Wait()
	}
	ask("at first", true)
	i.down.Store(true)
	w.clock.add(keysRefresh)
	ask("while it fails", true)
	i.down.Store(false)
	i.setKeys(k2)
	w.clock.add(50 * time.Minute)
	ask("up again for long, without that key", false)
}

// TestX34WhatIsKeptOfAnIssuerIsSmall: an issuer may answer a megabyte, and none of it may stay: as a cause it would be in the log
// of every refusal, as a name in memory.
func TestX34WhatIsKeptOfAnIssuerIsSmall(t *testing.T) {
	w, long := newWorld(t), strings.Repeat("x", 900<<10)
	for name, jwks := range map[string]string{
		"kid": fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":%q}]}`, long),
		"alg": fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","alg":%q}]}`, long),
	} {
		if s, err := parseKeys([]byte(jwks)); err != nil || len(s.keys) > 0 {
			t.Errorf("a key with a long %s: %d keys, %v", name, len(s.keys), err)
		}
	}
	for name, answer := range map[string]map[string]any{
		"an error":       nil,
		"another issuer": {"issuer": long},
		"an address":     {"authorization_endpoint": "https://idp.test/" + long},
		"a method":       {"code_challenge_methods_supported": []string{long}},
	} {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			doc := map[string]any{"issuer": "https://" + r.Host, "jwks_uri": "https://" + r.Host + "/keys", "keys": []any{}}
			if maps.Copy(doc, answer); answer == nil {
				http.Error(rw, long, http.StatusForbidden)
				return
			}
			_ = json.NewEncoder(rw).Encode(doc)
		}))
		defer srv.Close()
		i := &testIssuer{url: srv.URL, ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))}
		e := entry("team-a", i.authenticator("idp"))
		_, err := w.ask(e, sign(t, newKey(t, "k1", jose.ES256), nil, w.body(i, "team-a")))
		wantKind(t, name, err, fault.Unavailable, false)
		for cause := err; cause != nil; cause = errors.Unwrap(cause) {
			if n := len(cause.Error()); n > 1000 {
				t.Errorf("%s: a cause of %d bytes", name, n)
			}
		}
	}
}

func TestX32AnIssuerThatIsDownAtFirst(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	token := sign(t, i.key(0), nil, w.body(i, "team-a"))
	i.down.Store(true)
	for range 5 {
		_, err := w.ask(e, token)
		wantKind(t, "down", err, fault.Unavailable, false)
	}
	if n := i.discoveries.Load(); n != 1 {
		t.Errorf("asked %d times in 30 s, want once", n)
	}
	i.down.Store(false)
	w.clock.add(fetchEvery)
	if _, err := w.ask(e, token); err != nil {
		t.Error(err)
	}
}

func TestX32KeysAreRefreshedBeforeAnybodyMustWait(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	token := sign(t, i.key(0), nil, with(w.body(i, "team-a"), "exp", w.clock.now().Add(time.Hour).Unix()))
	if _, err := w.ask(e, token); err != nil {
		t.Fatal(err)
	}
	hung := make(chan struct{})
	i.setJWKS(func(rw http.ResponseWriter, r *http.Request) {
		<-hung
		i.setJWKS(nil)
		i.serveKeys(rw, r)
	})
	w.clock.add(keysRefresh)
	if _, err := w.ask(e, token); err != nil { // would hang if it waited
		t.Fatal(err)
	}
	close(hung)
	w.fetches.Wait()
	before := i.fetches.Load()
	w.clock.add(keysRefresh - time.Second)
	if _, err := w.ask(e, token); err != nil {
		t.Fatal(err)
	}
	if w.fetches.Wait(); i.fetches.Load() != before {
		t.Error("fetched although the keys are fresh")
	}
}

func TestX32AKeyReplacedUnderItsOldName(t *testing.T) {
	for name, header := range map[string]map[string]any{"same kid": nil, "no kid": {"kid": nil}} {
		w, i := newWorld(t), newTestIssuer(t)
		e := entry("team-a", i.authenticator("idp"))
		first := i.key(0)
		if header != nil {
			first.KeyID = ""
		}
		if _, err := w.ask(e, sign(t, first, nil, w.body(i, "team-a"))); err != nil {
			t.Fatal(name, err)
		}
		second := newKey(t, "k1", jose.ES256)
		i.setKeys(second)
		if header != nil {
			second.KeyID = ""
		}
		w.clock.add(fetchEvery)
		_, err := w.ask(e, sign(t, second, nil, w.body(i, "team-a")))
		wantKind(t, name, err, 0, true)
	}
}

// guarded returns a configuration whose untrusted dials go through the real guard, which makes exceptions for allow.
func guarded(allow ...string) func(*Config) {
	var prefixes []netip.Prefix
	for _, p := range allow {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	return func(c *Config) { c.Dial = egress.New(egress.Config{Allow: prefixes}).DialContext }
}

func TestX33IssuersOfATenantCannotLeadInside(t *testing.T) {
	w, i := newWorld(t, guarded()), newTestIssuer(t)
	port := i.srv.URL[strings.LastIndexByte(i.srv.URL, ':'):]
	for _, url := range []string{
		i.url, "https://localhost" + port, "https://[::1]" + port, "https://[::ffff:127.0.0.1]" + port, "https://0.0.0.0" + port,
		"https://127.0.0.1:2379", "https://169.254.169.254", "https://10.0.0.1:6443", "https://[fd00:ec2::254]", "https://2130706433" + port,
	} {
		a := i.authenticator("idp", func(o *tenant.OIDC) { o.Issuer = url })
		_, err := w.ask(entry("team-a", a), sign(t, i.key(0), nil, with(w.body(i, "team-a"), "iss", url)))
		wantKind(t, url, err, fault.Unavailable, false)
	}
	if n := i.discoveries.Load(); n != 0 {
		t.Errorf("%d requests reached the inside", n)
	}
	a := i.authenticator("idp")
	a.Source = tenant.SourceFile
	_, err := w.ask(entry("team-b", a), sign(t, i.key(0), nil, w.body(i, "team-b")))
	wantKind(t, "an operator's issuer may be inside", err, 0, true)
}

func TestX33AnOuterIssuerCannotPointInside(t *testing.T) {
	var inside atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.2:0") // stands for the inside; 127.0.0.1 is allowed, and so for the outside
	if err != nil {
		t.Skip(err)
	}
	secret := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Add(1) }))
	secret.Listener.Close()
	secret.Listener = l
	secret.StartTLS()
	defer secret.Close()
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for name, edit := range map[string]func(*testIssuer){
		"jwks_uri":             func(i *testIssuer) { i.url2 = secret.URL + "/keys" },
		"jwks_uri of metadata": func(i *testIssuer) { i.url2 = "https://169.254.169.254/latest/meta-data" },
		"jwks_uri of http":     func(i *testIssuer) { i.url2 = "http://" + l.Addr().String() },
		"jwks_uri of a file":   func(i *testIssuer) { i.url2 = "file:///etc/passwd" },
		"redirect":             func(i *testIssuer) { i.jwks = redirect(secret.URL) },
		"redirect to metadata": func(i *testIssuer) { i.jwks = redirect("https://169.254.169.254/") },
		"redirect to http":     func(i *testIssuer) { i.jwks = redirect("http://" + l.Addr().String()) },
	} {
		w, i := newWorld(t, guarded("127.0.0.1/32")), newTestIssuer(t)
		edit(i)
		_, err := w.ask(entry("team-a", i.authenticator("idp")), sign(t, i.key(0), nil, w.body(i, "team-a")))
		wantKind(t, name, err, fault.Unavailable, false)
	}
	if n := inside.Load(); n != 0 {
		t.Errorf("%d requests reached the inside", n)
	}
}

func TestX34KeysOfAnySizeAreBounded(t *testing.T) {
	var sent atomic.Int64
	flood := func(limit int64) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[`))
			for block := []byte(strings.Repeat(" ", 64<<10)); sent.Load() < limit && r.Context().Err() == nil; {
				n, err := w.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
			_, _ = w.Write([]byte(`]}`))
		}
	}
	for name, serve := range map[string]http.HandlerFunc{
		"64 MiB":      flood(64 << 20),
		"without end": flood(1 << 50),
		"gzip bomb":   bomb,
		"loop":        func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"65 keys": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"keys":[{}%s]}`, strings.Repeat(",{}", 64))
		},
		"not JSON":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no keys":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"nested":       func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(`{"keys":[`, 10000)) },
		"closed":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"long headers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			w, i := newWorld(t), newTestIssuer(t)
			e := entry("team-a", i.authenticator("idp"))
			good := sign(t, i.key(0), nil, w.body(i, "team-a"))
			if _, err := w.ask(e, good); err != nil {
				t.Fatal(err)
			}
			w.clock.add(fetchEvery)
			sent.Store(0)
			i.setJWKS(serve)
			before, began := i.fetches.Load(), time.Now()
			_, err := w.ask(e, garbage(w, i, "team-a"))
			wantKind(t, "unknown key", err, fault.Unavailable, false)
			if d := time.Since(began); d > fetchTime+time.Second {
				t.Errorf("took %s", d)
			}
			if n := sent.Load(); n > 16<<20 { // one is read; buffers of the kernel take the rest
				t.Errorf("%d MiB were taken", n>>20)
			}
			if n := i.fetches.Load() - before; n > maxRedirects+1 {
				t.Errorf("%d requests", n)
			}
			_, err = w.ask(e, sign(t, i.key(0), nil, with(w.body(i, "team-a"), "sub", "bob")))
			wantKind(t, "known key", err, 0, true)
		})
	}
}

// bomb answers with 64 MiB of blanks in some KiB, compressed whether asked for or not.
func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write([]byte(`{"keys":[`))
	for block := []byte(strings.Repeat(" ", 1<<20)); len(block) > 0; block = block[:len(block)-1<<14] {
		_, _ = z.Write(block)
	}
	_ = z.Close()
}

func TestX34AnIssuerThatDripsIsCut(t *testing.T) {
	t.Parallel() // takes the whole time of a fetch
	w, i := newWorld(t), newTestIssuer(t)
	ended := make(chan struct{})
	i.setJWKS(func(rw http.ResponseWriter, r *http.Request) {
		defer close(ended)
		for tick := time.NewTicker(100 * time.Millisecond); r.Context().Err() == nil; {
			fmt.Fprint(rw, " ")
			rw.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
			}
		}
	})
	began := time.Now()
	_, err := w.ask(entry("team-a", i.authenticator("idp")), sign(t, i.key(0), nil, w.body(i, "team-a")))
	wantKind(t, "dripping", err, fault.Unavailable, false)
	if d := time.Since(began); d > fetchTime+2*time.Second {
		t.Errorf("took %s", d)
	}
	if i.fetches.Load() == 0 {
		return // the discovery alone took all the time: a busy machine
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestDiscoveryMustNameTheIssuer(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	other := i.authenticator("idp", func(o *tenant.OIDC) { o.Issuer = i.url + "/" }) // the same document, which says otherwise
	_, err := w.ask(entry("team-a", other), sign(t, i.key(0), nil, with(w.body(i, "team-a"), "iss", other.OIDC.Issuer)))
	wantKind(t, "a document of another issuer", err, fault.Unavailable, false)
	bad := i.authenticator("idp", func(o *tenant.OIDC) { o.CA = "no PEM" })
	_, err = w.ask(entry("team-b", bad), sign(t, i.key(0), nil, w.body(i, "team-b")))
	wantKind(t, "a CA that is none", err, fault.Unavailable, false)
}

func TestIssuersAreBounded(t *testing.T) {
	w := newWorld(t)
	first, err := w.issuers.of(false, &tenant.OIDC{Issuer: "https://first.test"})
	if err != nil {
		t.Fatal(err)
	}
	for n := range maxIssuers {
		if _, err := w.issuers.of(false, &tenant.OIDC{Issuer: fmt.Sprintf("https://%d.test", n)}); err != nil {
			t.Fatal(err)
		}
	}
	if w.issuers.lru.Len() != maxIssuers || !first.dropped.Load() {
		t.Errorf("%d issuers are kept, the first is dropped: %v", w.issuers.lru.Len(), first.dropped.Load())
	}
}
