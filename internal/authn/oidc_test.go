package authn

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// wantKind checks that an error has a kind; ok = none.
func wantKind(t *testing.T, name string, err error, want fault.Kind, ok bool) {
	t.Helper()
	switch {
	case ok && err != nil:
		t.Errorf("%s: %v, want no error", name, err)
	case !ok && err == nil:
		t.Errorf("%s: accepted, want %s", name, want)
	case !ok && !fault.Is(err, want):
		t.Errorf("%s: %v, want %s", name, err, want)
	}
}

func TestC6TokensCountAtTheirOwnTenantAlone(t *testing.T) {
	w, ia, ib := newWorld(t), newTestIssuer(t), newTestIssuer(t)
	a, b := entry("team-a", ia.authenticator("idp")), entry("team-b", ib.authenticator("idp"))
	of := func(i *testIssuer, id tenant.ID) string { return sign(t, i.key(0), nil, w.body(i, id)) }
	for _, c := range []struct {
		name  string
		at    *tenant.Entry
		token string
		ok    bool
	}{
		{"a's at a", a, of(ia, "team-a"), true},
		{"b's at b", b, of(ib, "team-b"), true},
		{"b's at a", a, of(ib, "team-b"), false},
		{"b's issuer for a's audience at a", a, of(ib, "team-a"), false},
		{"a's issuer for b's audience at a", a, of(ia, "team-b"), false},
		{"a's at b", b, of(ia, "team-a"), false},
		{"b's key under a's issuer", a, sign(t, ib.key(0), nil, w.body(ia, "team-a")), false},
		{"at a tenant without authenticators", entry("team-c"), of(ia, "team-c"), false},
	} {
		for range 2 { // the second time from the cache
			_, err := w.ask(c.at, c.token)
			wantKind(t, c.name, err, fault.Unauthenticated, c.ok)
		}
	}
}

func TestPrincipalOfAToken(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	auth := i.authenticator("idp", func(o *tenant.OIDC) {
		o.Claims = tenant.ClaimMapping{
			Subject: "user.id", Username: "user.name", Groups: `https://idp\.test/groups`, Scopes: "perms",
			Attributes: map[string]string{"teams": "teams", "namespaces": "k8s.groups", "none": "nothing"},
		}
	})
	e := entry("team-a", auth)
	e.Record.Members = []tenant.Member{{ID: "m1", Kind: tenant.MemberGroup, Authenticator: "idp", Name: "devs", Role: tenant.Editor}}
	body := with(w.body(i, "team-a"), "user", map[string]any{"id": "u-1", "name": "Ada"}, "https://idp.test/groups", []string{"devs", "system:masters"},
		"perms", "read  write", "teams", "red blue", "k8s", map[string]any{"groups": []string{"system:authenticated", "ns-1"}})
	p, err := w.ask(e, sign(t, i.key(0), nil, body))
	if err != nil {
		t.Fatal(err)
	}
	if p.Ref() != "user:idp/u-1" || p.Name != "Ada" || p.Tenant != "team-a" || p.Via != tenant.ViaOIDC || p.Role != tenant.Editor || p.Expires.Unix() != body["exp"] {
		t.Errorf("principal %+v", p)
	}
	c := p.Claims
	if c.Authenticator != "idp" || c.Generation != "idp-1" || c.Issuer != i.url || c.Subject != "u-1" || c.Issued.Unix() != body["iat"] {
		t.Errorf("claims %+v", c)
	}
	if !slices.Equal(c.Groups, []string{"devs", "system:masters"}) || !slices.Equal(c.Scopes, []string{"read", "write"}) {
		t.Errorf("groups %q, scopes %q", c.Groups, c.Scopes)
	}
	got, _ := json.Marshal(c.Attributes)
	if want := `{"namespaces":["ns-1"],"teams":["red","blue"]}`; string(got) != want {
		t.Errorf("attributes %s, want %s: no group of the system is an attribute", got, want)
	}
}

func TestAlgorithms(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	var keys []jose.JSONWebKey
	for _, alg := range tenant.Algorithms() {
		keys = append(keys, newKey(t, alg, jose.SignatureAlgorithm(alg)))
	}
	i.setKeys(keys...)
	byDefault := entry("team-a", i.authenticator("idp"))
	all := entry("team-b", i.authenticator("idp", func(o *tenant.OIDC) { o.Algorithms = tenant.Algorithms() }))
	for _, k := range keys {
		_, err := w.ask(byDefault, sign(t, k, nil, w.body(i, "team-a")))
		wantKind(t, k.Algorithm+" by default", err, fault.Unauthenticated, slices.Contains(tenant.DefaultAlgorithms(), k.Algorithm))
		_, err = w.ask(all, sign(t, k, nil, w.body(i, "team-b")))
		wantKind(t, k.Algorithm+" allowed", err, fault.Unauthenticated, true)
		only := entry("team-c", i.authenticator("idp", func(o *tenant.OIDC) { o.Algorithms = []string{"PS256", "ES384"} }))
		_, err = w.ask(only, sign(t, k, nil, w.body(i, "team-c")))
		wantKind(t, k.Algorithm+" where two are allowed", err, fault.Unauthenticated, k.Algorithm == "PS256" || k.Algorithm == "ES384")
	}
}

func TestX28TokensThatChooseTheirOwnKeyAreRefused(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	var asked atomic.Int64 // of what the attacker's tokens name
	evil := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer evil.Close()
	rs, es, enc, ops := newKey(t, "rs", jose.RS256), newKey(t, "es", jose.ES256), newKey(t, "enc", jose.ES256), newKey(t, "ops", jose.ES256)
	enc.Use = "enc"
	i.setKeys(rs, es)
	i.setJWKS(func(w http.ResponseWriter, _ *http.Request) {
		var list []any
		for _, k := range []jose.JSONWebKey{rs, es, enc, ops} {
			var m map[string]any
			b, _ := k.Public().MarshalJSON()
			_ = json.Unmarshal(b, &m)
			if k.KeyID == "ops" {
				delete(m, "use")
				m["key_ops"] = []string{"sign", "wrapKey"}
			}
			list = append(list, m)
		}
		list = append(list, map[string]any{"kty": "oct", "kid": "shared", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"})
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": list})
	})
	e := entry("team-a", i.authenticator("idp", func(o *tenant.OIDC) { o.Algorithms = tenant.Algorithms() }))
	body := w.body(i, "team-a")
	good := sign(t, es, nil, body)
	payload, _ := json.Marshal(body)
	stranger := newKey(t, "es", jose.ES256)
	if _, err := w.ask(e, sign(t, rs, nil, body)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ask(e, sign(t, es, map[string]any{"kid": nil, "typ": nil}, body)); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"alg none":                     forge(`{"alg":"none","typ":"JWT"}`, string(payload), nil),
		"alg none with a signature":    forge(`{"alg":"none","kid":"es"}`, string(payload), []byte("x")),
		"alg NoNe":                     forge(`{"alg":"NoNe","kid":"es"}`, string(payload), []byte("x")),
		"no alg":                       forge(`{"kid":"es"}`, string(payload), []byte("x")),
		"two algs":                     forge(`{"alg":"ES256","alg":"none","kid":"es"}`, string(payload), []byte("x")),
		"unsigned":                     good[:strings.LastIndexByte(good, '.')+1],
		"two parts":                    good[:strings.LastIndexByte(good, '.')],
		"another's key":                sign(t, stranger, nil, body),
		"embedded jwk":                 sign(t, stranger, map[string]any{"jwk": stranger.Public()}, body),
		"jku":                          sign(t, stranger, map[string]any{"jku": evil.URL + "/keys"}, body),
		"x5u":                          sign(t, stranger, map[string]any{"x5u": evil.URL + "/cert"}, body),
		"kid a path":                   sign(t, rekeyed(stranger, "../../../../dev/null"), nil, body),
		"kid a URL":                    sign(t, rekeyed(stranger, evil.URL+"/keys"), nil, body),
		"kid with quotes":              sign(t, rekeyed(stranger, `es' UNION SELECT 'x`), nil, body),
		"kid of a key to encrypt":      sign(t, enc, nil, body),
		"kid of a key to sign with":    sign(t, ops, nil, body),
		"kid of another algorithm":     sign(t, rekeyed(es, "rs"), nil, body),
		"kid a number":                 forge(`{"alg":"ES256","kid":5}`, string(payload), []byte("x")),
		"crit":                         sign(t, es, map[string]any{"crit": []string{"exp"}, "exp": 1}, body),
		"b64 false":                    sign(t, es, map[string]any{"b64": false}, body),
		"zip":                          sign(t, es, map[string]any{"zip": "DEF"}, body),
		"logout token":                 sign(t, es, map[string]any{"typ": "logout+jwt"}, body),
		"security event":               sign(t, es, map[string]any{"typ": "secevent+jwt"}, body),
		"DPoP proof":                   sign(t, es, map[string]any{"typ": "dpop+jwt"}, body),
		"stray bits":                   strayBits(good),
		"a line end":                   good[:20] + "\n" + good[20:],
		"padding":                      good + "=",
		"JSON form":                    `{"payload":"x"}`,
		"duplicated claim":             signRaw(t, es, strings.Replace(string(payload), `{`, `{"sub":"root",`, 1)),
		"claims in an array":           signRaw(t, es, `[`+string(payload)+`]`),
		"nested too deeply":            signRaw(t, es, strings.Replace(string(payload), `{`, `{"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`,`, 1)),
		"not UTF-8":                    signRaw(t, es, strings.Replace(string(payload), "alice", "al\xffce", 1)),
		"two JSON values":              signRaw(t, es, string(payload)+string(payload)),
		"longer than any token may":    sign(t, es, nil, with(body, "x", strings.Repeat("x", MaxCredential))),
		"encrypted":                    encrypt(t, rs, payload),
		"HS256 by the shared key":      signHMAC(t, []byte("secret-secret-secret-secret-secret"), "shared", payload),
		"HS256 without a kid":          signHMAC(t, []byte("secret-secret-secret-secret-secret"), "", payload),
		"a control character in sub":   sign(t, es, nil, with(body, "sub", "al\nice")),
		"sub not a text":               sign(t, es, nil, with(body, "sub", 5)),
		"a sub that is far too long":   sign(t, es, nil, with(body, "sub", strings.Repeat("x", 256))),
		"too many groups":              sign(t, es, nil, with(body, "groups", slices.Repeat([]string{"g"}, 201))),
		"a group that is far too long": sign(t, es, nil, with(body, "groups", []string{strings.Repeat("x", 256)})),
	}
	for form, secret := range publicForms(t, rs) {
		cases["HS256 by the RSA key's "+form] = signHMAC(t, secret, "rs", payload)
	}
	for name, token := range cases {
		for range 2 {
			_, err := w.ask(e, token)
			wantKind(t, name, err, fault.Unauthenticated, false)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests to what a token named", n)
	}
	if _, err := w.ask(e, good); err != nil {
		t.Errorf("the good token: %v", err)
	}
}

func TestX28AKeyThatCouldBeEitherOfTwoIsNone(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	one, two, other := newKey(t, "same", jose.ES256), newKey(t, "same", jose.ES256), newKey(t, "same", jose.RS256)
	i.setKeys(one, other)
	e := entry("team-a", i.authenticator("idp"))
	body := w.body(i, "team-a")
	for name, token := range map[string]string{
		"the ES256 key": sign(t, one, nil, body), "the RS256 key": sign(t, other, nil, body), "the ES256 key without kid": sign(t, rekeyed(one, ""), nil, body),
	} {
		_, err := w.ask(e, token)
		wantKind(t, "one key of an algorithm: "+name, err, 0, true)
	}
	w, i = newWorld(t), newTestIssuer(t)
	i.setKeys(one, two)
	e = entry("team-a", i.authenticator("idp"))
	body = w.body(i, "team-a")
	for name, token := range map[string]string{
		"the first": sign(t, one, nil, body), "the second": sign(t, two, nil, body), "the first without kid": sign(t, rekeyed(one, ""), nil, body),
	} {
		_, err := w.ask(e, token)
		wantKind(t, "two keys of one name: "+name, err, fault.Unauthenticated, false)
	}
}

func rekeyed(k jose.JSONWebKey, kid string) jose.JSONWebKey {
	k.KeyID = kid
	return k
}

// strayBits sets bits of the last character of the signature that decode to nothing.
func strayBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

func signRaw(t *testing.T, k jose.JSONWebKey, payload string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return serialize(t, signer, []byte(payload))
}

func signHMAC(t *testing.T, secret []byte, kid string, payload []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: secret, KeyID: kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return serialize(t, signer, payload)
}

func encrypt(t *testing.T, k jose.JSONWebKey, payload []byte) string {
	t.Helper()
	pub := k.Public()
	enc, err := jose.NewEncrypter(jose.A128GCM, jose.Recipient{Algorithm: jose.RSA_OAEP, Key: pub.Key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := enc.Encrypt(payload)
	if err != nil {
		t.Fatal(err)
	}
	s, err := obj.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// publicForms are the spellings of a public key that careless verifiers took for a shared secret.
func publicForms(t *testing.T, k jose.JSONWebKey) map[string][]byte {
	t.Helper()
	pub := k.Key.(*rsa.PrivateKey).Public().(*rsa.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	j, _ := k.Public().MarshalJSON()
	return map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "modulus": pub.N.Bytes(), "JWK": j,
	}
}

func TestX29ClaimsThatAreNotThisTenants(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	body := w.body(i, "team-a")
	now := w.clock.now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	base := baseOf("team-a")
	for _, c := range []struct {
		name string
		body map[string]any
		ok   bool
	}{
		{"good", body, true},
		{"aud a list", with(body, "aud", []string{"other", base}), true},
		{"aud below the base", with(body, "aud", base+"/servers/x/mcp"), true},
		{"aud with a final slash", with(body, "aud", base+"/"), true},
		{"nbf within the leeway", with(body, "nbf", at(50*time.Second)), true},
		{"iat within the leeway", with(body, "iat", at(50*time.Second)), true},
		{"no iat", with(body, "iat", nil), true},
		{"exp with a fraction", with(body, "exp", float64(at(time.Minute))+0.5), true},

		{"other issuer", with(body, "iss", "https://idp.example"), false},
		{"iss with a final slash", with(body, "iss", i.url+"/"), false},
		{"iss in upper case", with(body, "iss", strings.ToUpper(i.url)), false},
		{"iss with another scheme", with(body, "iss", strings.Replace(i.url, "https", "http", 1)), false},
		{"iss a list", with(body, "iss", []string{i.url}), false},
		{"no iss", with(body, "iss", nil), false},
		{"other aud", with(body, "aud", "https://team-b.gw.test"), false},
		{"aud that only begins like the base", with(body, "aud", base+".evil.test"), false},
		{"aud with a longer name", with(body, "aud", base+"b"), false},
		{"aud with a query", with(body, "aud", base+"?x"), false},
		{"aud with the base among its words", with(body, "aud", "x "+base), false},
		{"aud an object", with(body, "aud", map[string]any{"x": base}), false},
		{"aud with a number", with(body, "aud", []any{base, 5}), false},
		{"aud empty", with(body, "aud", []string{}), false},
		{"no aud", with(body, "aud", nil), false},
		{"no exp", with(body, "exp", nil), false},
		{"exp now", with(body, "exp", at(0)), false},
		{"exp a minute ago", with(body, "exp", at(-time.Minute)), false},
		{"exp a text", with(body, "exp", "2999-01-01"), false},
		{"exp a number in a text", with(body, "exp", "99999999999"), false},
		{"exp negative", with(body, "exp", -1), false},
		{"exp at the end of time", with(body, "exp", 1e300), false},
		{"exp null", with(body, "exp", json.RawMessage("null")), false},
		{"longer than any token may live", with(body, "exp", at(tenant.MaxTokenLife+time.Minute)), false},
		{"longer, without iat", with(body, "exp", at(tenant.MaxTokenLife+time.Minute), "iat", nil), false},
		{"nbf in 10 minutes", with(body, "nbf", at(10*time.Minute)), false},
		{"iat in 2 minutes", with(body, "iat", at(2*time.Minute)), false},
		{"iat a text", with(body, "iat", "now"), false},
		{"no sub", with(body, "sub", nil), false},
		{"empty sub", with(body, "sub", ""), false},
		{"EXP in place of exp", with(body, "exp", nil, "EXP", at(time.Minute)), false},
	} {
		_, err := w.ask(e, sign(t, i.key(0), nil, c.body))
		wantKind(t, c.name, err, fault.Unauthenticated, c.ok)
	}
}

func TestRefusalsTellNothing(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	body, want := w.body(i, "team-a"), fault.Problem{}
	for n, token := range []string{
		"", "x", "pgk_unknown", sign(t, newKey(t, "k1", jose.ES256), nil, body), sign(t, newKey(t, "k9", jose.ES256), nil, body),
		sign(t, i.key(0), nil, with(body, "aud", "x")), sign(t, i.key(0), nil, with(body, "exp", 1)), sign(t, i.key(0), nil, with(body, "iss", "x")),
	} {
		_, err := w.ask(e, token)
		got := fault.From(err).Problem("id")
		if n == 0 {
			want = got
		}
		if got != want || got.Status != 401 {
			t.Errorf("token %d: %+v, want %+v", n, got, want)
		}
	}
}

func TestF3AudienceIsThisTenantsResource(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t) // one issuer for both tenants, as on a platform
	a, b := entry("team-a", i.authenticator("idp")), entry("team-ab", i.authenticator("idp"))
	ta, tb := sign(t, i.key(0), nil, w.body(i, "team-a")), sign(t, i.key(0), nil, w.body(i, "team-ab"))
	for range 2 {
		for _, c := range []struct {
			e     *tenant.Entry
			token string
			ok    bool
		}{{a, ta, true}, {b, tb, true}, {a, tb, false}, {b, ta, false}} {
			_, err := w.ask(c.e, c.token)
			wantKind(t, string(c.e.Record.ID), err, fault.Unauthenticated, c.ok)
		}
	}
	// Tenants that lie under one host are told apart by path; and what is good at one base is not remembered for another.
	ev := func(base, token string) Evidence { return Evidence{Bearer: token, HasBearer: true, Base: base} }
	token := sign(t, i.key(0), nil, with(w.body(i, "team-a"), "aud", "https://gw.test/tenant/team-a/servers/x/mcp"))
	for _, c := range []struct {
		base string
		ok   bool
	}{
		{"https://gw.test/tenant/team-a", true}, {"https://gw.test/tenant/team", false}, {"https://gw.test/tenant/team-ab", false},
		{"https://team-a.gw.test", false}, {"", false},
	} {
		_, err := w.Authenticate(t.Context(), a, ev(c.base, token))
		wantKind(t, "base "+c.base, err, fault.Unauthenticated, c.ok)
	}
}

func TestF4InsufficientScope(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp", func(o *tenant.OIDC) { o.RequiredScopes = []string{"mcp", "tools", "read"} }))
	body := w.body(i, "team-a")
	for name, claim := range map[string]map[string]any{
		"scope": with(body, "scope", "read mcp tools openid"), "scp": with(body, "scp", []string{"mcp", "tools", "read"}),
	} {
		_, err := w.ask(e, sign(t, i.key(0), nil, claim))
		wantKind(t, name, err, fault.Forbidden, true)
	}
	for name, claim := range map[string]any{"one missing": "mcp read", "none": nil, "empty": "", "glued": "mcptoolsread"} {
		_, err := w.ask(e, sign(t, i.key(0), nil, with(body, "scope", claim)))
		wantKind(t, name, err, fault.Forbidden, false)
		var missing *ScopeError
		if !errors.As(err, &missing) || missing.Code() != "insufficient_scope" || strings.Join(missing.Scopes, " ") != "mcp tools read" {
			t.Errorf("%s: %v, want all scopes at once", name, err)
		}
	}
	_, err := w.ask(e, sign(t, newKey(t, "k1", jose.ES256), nil, body))
	wantKind(t, "a forged token without scopes is told nothing of them", err, fault.Unauthenticated, false)
}

func TestF6OneSubjectOfTwoIssuersIsTwoPrincipals(t *testing.T) {
	w, one, two := newWorld(t), newTestIssuer(t), newTestIssuer(t)
	e := entry("team-a", one.authenticator("one"), two.authenticator("two"))
	e.Record.Members = []tenant.Member{{ID: "m", Kind: tenant.MemberUser, Authenticator: "one", Name: "alice", Role: tenant.Admin}}
	p1, err1 := w.ask(e, sign(t, one.key(0), nil, w.body(one, "team-a")))
	p2, err2 := w.ask(e, sign(t, two.key(0), nil, w.body(two, "team-a")))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if p1.Ref() != "user:one/alice" || p2.Ref() != "user:two/alice" || p1.Role != tenant.Admin || p2.Role != tenant.Viewer {
		t.Errorf("%s %s, %s %s", p1.Ref(), p1.Role, p2.Ref(), p2.Role)
	}
}

func TestSeveralAuthenticatorsOfOneIssuer(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	audience := func(aud string) func(*tenant.OIDC) { return func(o *tenant.OIDC) { o.Audiences = []string{aud} } }
	e := entry("team-a", i.authenticator("web", audience("web")), i.authenticator("cli", audience("cli")))
	for aud, want := range map[string]string{"web": "user:web/alice", "cli": "user:cli/alice", "x": ""} {
		p, err := w.ask(e, sign(t, i.key(0), nil, with(w.body(i, "team-a"), "aud", aud)))
		wantKind(t, aud, err, fault.Unauthenticated, want != "")
		if err == nil && p.Ref() != want {
			t.Errorf("%s: %s, want %s", aud, p.Ref(), want)
		}
	}
}

func TestClientsAndRequiredClaims(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp", func(o *tenant.OIDC) {
		o.ClientIDs = []string{"app", "cli"}
		o.RequiredClaims = map[string]string{"org.id": "o-1", "verified": "true", "level": "3"}
	}))
	body := with(w.body(i, "team-a"), "azp", "app", "org", map[string]any{"id": "o-1"}, "verified", true, "level", 3)
	for _, c := range []struct {
		name string
		body map[string]any
		ok   bool
	}{
		{"azp", body, true},
		{"client_id", with(body, "azp", nil, "client_id", "cli"), true},
		{"both", with(body, "client_id", "cli"), true},
		{"one of them foreign", with(body, "client_id", "evil"), false},
		{"foreign", with(body, "azp", "evil"), false},
		{"a list", with(body, "azp", []string{"app"}), false},
		{"none", with(body, "azp", nil), false},
		{"claim in a list", with(body, "org", map[string]any{"id": []string{"o-2", "o-1"}}), true},
		{"claim missing", with(body, "org", nil), false},
		{"claim another", with(body, "org", map[string]any{"id": "o-12"}), false},
		{"claim false", with(body, "verified", false), false},
		{"claim an object", with(body, "level", map[string]any{"x": 3}), false},
	} {
		_, err := w.ask(e, sign(t, i.key(0), nil, c.body))
		wantKind(t, c.name, err, fault.Unauthenticated, c.ok)
	}
}

// TestRequiredNumbersAreExact: JSON numbers are read as floating point, where great neighbours are one.
func TestRequiredNumbersAreExact(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp", func(o *tenant.OIDC) { o.RequiredClaims = map[string]string{"org": "9007199254740992"} }))
	for n, ok := range map[any]bool{"9007199254740992": true, json.Number("9007199254740993"): false, json.Number("9007199254740992"): false} {
		_, err := w.ask(e, sign(t, i.key(0), nil, with(w.body(i, "team-a"), "org", n)))
		wantKind(t, fmt.Sprintf("%T %v", n, n), err, fault.Unauthenticated, ok)
	}
}

func TestEmailAsSubjectMustBeVerified(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp", func(o *tenant.OIDC) { o.Claims.Subject = "email" }))
	body := with(w.body(i, "team-a"), "email", "a@x.test")
	for name, c := range map[string]struct {
		verified any
		ok       bool
	}{"unsaid": {nil, true}, "yes": {true, true}, "no": {false, false}, "a text": {"true", false}} {
		_, err := w.ask(e, sign(t, i.key(0), nil, with(body, "email_verified", c.verified)))
		wantKind(t, name, err, fault.Unauthenticated, c.ok)
	}
}

func TestTwoCredentialsOfTwoPrincipals(t *testing.T) {
	p, q := tenant.Principal{Kind: tenant.KindUser, ID: "idp/alice"}, tenant.Principal{Kind: tenant.KindUser, ID: "idp/bob"}
	if got, err := same(p, p); err != nil || got.ID != p.ID {
		t.Errorf("the same twice: %v, %v", got, err)
	}
	_, err := same(p, q)
	wantKind(t, "two", err, fault.Unauthenticated, false)
	_, err = newWorld(t).Authenticate(t.Context(), entry("team-a"), Evidence{})
	wantKind(t, "none", err, fault.Unauthenticated, false)
}

func TestVerifyOIDCForOperators(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	o := &tenant.OIDC{Issuer: i.url, CA: i.ca, Audiences: []string{"polygate"}, RequiredScopes: []string{"operate"}}
	body := with(w.body(i, "x"), "aud", "polygate", "scope", "operate", "preferred_username", "Op", "groups", []string{"ops"})
	c, name, expires, err := w.VerifyOIDC(t.Context(), true, o, "", sign(t, i.key(0), nil, body))
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject != "alice" || name != "Op" || !slices.Equal(c.Groups, []string{"ops"}) || expires.Unix() != body["exp"] || c.Issuer != i.url {
		t.Errorf("%+v %q %v", c, name, expires)
	}
	for what, bad := range map[string]struct {
		body map[string]any
		kind fault.Kind
	}{
		"aud": {with(body, "aud", "x"), fault.Unauthenticated}, "iss": {with(body, "iss", "x"), fault.Unauthenticated}, "iss with a slash": {with(body, "iss", i.url+"/"), fault.Unauthenticated}, "scope": {with(body, "scope", nil), fault.Forbidden}, "exp": {with(body, "exp", w.clock.now().Unix()), fault.Unauthenticated},
	} {
		_, _, _, err := w.VerifyOIDC(t.Context(), true, o, "", sign(t, i.key(0), nil, bad.body))
		wantKind(t, what, err, bad.kind, false)
	}
}
