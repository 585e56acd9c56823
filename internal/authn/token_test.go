package authn

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func TestARememberedTokenIsJudgedByTheRecordOfNow(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	token := sign(t, i.key(0), nil, with(w.body(i, "team-a"), "groups", []string{"devs"}))
	if _, err := w.ask(e, token); err != nil {
		t.Fatal(err)
	}
	member := func(name string, kind tenant.MemberKind, role tenant.Role) func(*tenant.Record) {
		return func(r *tenant.Record) {
			r.Members = []tenant.Member{{ID: "m", Kind: kind, Authenticator: "idp", Name: name, Role: role}}
		}
	}
	revoked := func(v tenant.Revocation) func(*tenant.Record) {
		return func(r *tenant.Record) { r.Revoked = []tenant.Revocation{v} }
	}
	now := w.clock.now()
	for _, c := range []struct {
		name string
		edit func(*tenant.Record)
		role tenant.Role
		ok   bool
	}{
		{"unchanged", func(*tenant.Record) {}, tenant.Viewer, true},
		{"made an admin", member("alice", tenant.MemberUser, tenant.Admin), tenant.Admin, true},
		{"by a group", member("devs", tenant.MemberGroup, tenant.Editor), tenant.Editor, true},
		{"of another group", member("ops", tenant.MemberGroup, tenant.Editor), tenant.Viewer, true},
		{"no default role", func(r *tenant.Record) { r.Authenticators[0].DefaultRole = tenant.NoRole }, tenant.NoRole, true},
		{"revoked", revoked(tenant.Revocation{Principal: "user:idp/alice", Before: now.Add(time.Second), Until: now.Add(time.Hour)}), 0, false},
		{"another revoked", revoked(tenant.Revocation{Principal: "user:idp/bob", Before: now.Add(time.Second), Until: now.Add(time.Hour)}), tenant.Viewer, true},
		{"all revoked", func(r *tenant.Record) { r.NotBefore = now.Add(time.Second) }, 0, false},
		{"authenticator removed", func(r *tenant.Record) { r.Authenticators = nil }, 0, false},
		{"authenticator renamed", func(r *tenant.Record) { r.Authenticators[0].Name = "other" }, tenant.Viewer, true},
		{"audience changed", func(r *tenant.Record) {
			r.Authenticators[0].OIDC.Audiences, r.Authenticators[0].Generation = []string{"x"}, "idp-2"
		}, 0, false},
		{"unchanged again", func(*tenant.Record) {}, tenant.Viewer, true},
	} {
		at := changed(e, c.edit)
		for range 2 {
			p, err := w.ask(at, token)
			wantKind(t, c.name, err, fault.Unauthenticated, c.ok)
			if err == nil && p.Role != c.role {
				t.Errorf("%s: role %s, want %s", c.name, p.Role, c.role)
			}
		}
	}
}

func TestARememberedTokenEnds(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	token := sign(t, i.key(0), nil, w.body(i, "team-a")) // for 10 minutes
	for _, step := range []struct {
		wait time.Duration
		ok   bool
	}{{0, true}, {5 * time.Minute, true}, {4*time.Minute + 58*time.Second, true}, {2 * time.Second, false}, {time.Hour, false}} {
		w.clock.add(step.wait)
		_, err := w.ask(e, token)
		wantKind(t, "after "+step.wait.String(), err, fault.Unauthenticated, step.ok)
	}
	if n := w.cache.total.Load(); n != 0 {
		t.Errorf("%d bytes of a dead token are kept", n)
	}
}

func TestATenantMadeAnewRemembersNothing(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	token := sign(t, i.key(0), nil, w.body(i, "team-a"))
	if _, err := w.ask(e, token); err != nil {
		t.Fatal(err)
	}
	anew := &tenant.Entry{Record: e.Record, Scope: tenant.Confine("team-a", "uid-2")}
	if v, _, _ := w.cache.get(anew, cacheKey("uid-team-a", baseOf("team-a"), token), w.clock.now()); v != nil {
		t.Error("the new tenant sees the old one's tokens")
	}
	w.Changed("team-a", anew)
	if n := w.cache.total.Load(); n != 0 || len(w.cache.of) != 0 {
		t.Errorf("%d bytes, %d tenants after the change", n, len(w.cache.of))
	}
	if _, err := w.ask(anew, token); err != nil {
		t.Fatal(err)
	}
	w.Changed("team-a", nil)
	if n := w.cache.total.Load(); n != 0 || len(w.cache.of) != 0 {
		t.Errorf("%d bytes, %d tenants after the tenant is gone", n, len(w.cache.of))
	}
}

func TestCachedPathChecksNoSignatureAndAllocatesNothing(t *testing.T) {
	w, i := newWorld(t), newTestIssuer(t)
	e := entry("team-a", i.authenticator("idp"))
	ev := bearerAt(e, sign(t, i.key(0), nil, w.body(i, "team-a")))
	if _, err := w.Authenticate(t.Context(), e, ev); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Authenticate(t.Context(), e, ev); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations, want at most 2", n) // a signature check makes dozens
	}
}

// tokens of a cache test: entries without a proof.
func fill(c *cache, e *tenant.Entry, from, to int, now time.Time) {
	for n := from; n < to; n++ {
		u := &user{claims: &tenant.Claims{Authenticator: "idp", Generation: "g", Subject: fmt.Sprint("u", n)}, expires: now.Add(time.Hour)}
		c.put(e, cacheKey(e.Scope.UID(), "", fmt.Sprint(n)), &verified{user: u, via: tenant.ViaOIDC, until: u.expires}, now)
	}
}

func kept(c *cache, e *tenant.Entry, to int, now time.Time) (n int) {
	for k := range to {
		if v, _, _ := c.get(e, cacheKey(e.Scope.UID(), "", fmt.Sprint(k)), now); v != nil {
			n++
		}
	}
	return n
}

func TestNoTenantTakesTheCacheFromAnother(t *testing.T) {
	now := time.Now()
	auth := tenant.Authenticator{Name: "idp", Type: tenant.AuthnOIDC, Generation: "g", OIDC: &tenant.OIDC{}}
	c := newCache(256 * entryBytes)
	alone := entry("alone", auth)
	fill(c, alone, 0, 1000, now)
	if n := kept(c, alone, 1000, now); n == 0 || n > 256/tenantShare {
		t.Errorf("a tenant alone keeps %d tokens, want at most %d", n, 256/tenantShare)
	}
	c.changed("alone", nil)
	var small []*tenant.Entry
	for n := range 3 {
		e := entry(tenant.ID(fmt.Sprint("small-", n)), auth)
		fill(c, e, 0, 5, now)
		small = append(small, e)
	}
	for n := range 20 { // tenants that fill all they can
		fill(c, entry(tenant.ID(fmt.Sprint("big-", n)), auth), 0, 1000, now)
	}
	if got := c.total.Load(); got > c.limit {
		t.Errorf("%d bytes, want at most %d", got, c.limit)
	}
	for _, e := range small {
		if n := kept(c, e, 5, now); n != 5 {
			t.Errorf("%s keeps %d of 5 tokens", e.Record.ID, n)
		}
	}
	var sum int64
	for id, s := range c.of {
		sum += s.bytes
		if s.bytes > c.limit/tenantShare {
			t.Errorf("%s has %d bytes, want at most %d", id, s.bytes, c.limit/tenantShare)
		}
	}
	if sum != c.total.Load() {
		t.Errorf("the total is %d and the sum %d", c.total.Load(), sum)
	}
}

func TestDepth(t *testing.T) {
	for s, want := range map[string]int{
		`{}`: 1, `{"a":[{}]}`: 3, `{"a":"[[[["}`: 1, `{"a":"\"[[["}`: 1, `[[]`: 2, ``: 0, `"\\"[`: 1,
	} {
		if got := depth([]byte(s)); got != want {
			t.Errorf("%s: %d, want %d", s, got, want)
		}
	}
}

func TestSplitPath(t *testing.T) {
	for path, want := range map[string]string{
		"a": "a", "a.b": "a|b", `a\.b.c`: "a.b|c", `a\\.b`: `a\|b`, "": "", ".": "|", `a\`: `a\`, `https://x\.y/z.roles`: "https://x.y/z|roles",
	} {
		if got := strings.Join(splitPath(path), "|"); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	k := newKey(f, "k1", jose.ES256)
	now := time.Now()
	body := map[string]any{"iss": "https://i.test", "sub": "s", "aud": "a", "exp": now.Add(time.Minute).Unix(), "groups": []string{"g"}, "scope": "a b"}
	seed := sign(f, k, nil, body)
	f.Add(seed)
	f.Add(forge(`{"alg":"none"}`, `{"sub":"x"}`, nil))
	f.Add(forge(`{"alg":"ES256","kid":"k1"}`, `{"iss":"https://i.test","sub":"s","aud":["a"],"exp":1e10,"a":{"b":[1,true,null]}}`, []byte("x")))
	f.Add("..")
	o := &tenant.OIDC{Issuer: "https://i.test", Audiences: []string{"a"}, RequiredClaims: map[string]string{}, Claims: tenant.ClaimMapping{Attributes: map[string]string{"x": "a.b"}}}
	f.Fuzz(func(t *testing.T, token string) {
		c, said, err := parseToken(token)
		if err != nil {
			return
		}
		u, err := (&terms{o: o, now: now}).judge(&c.header, said)
		if err != nil {
			return
		}
		if tenant.CheckSubject("subject", u.claims.Subject) != nil || u.username == "" || !u.expires.After(now) || len(u.claims.Groups) > maxGroups {
			t.Errorf("accepted %+v", u.claims)
		}
		if pub := (&key{id: "k1", pub: k.Public().Key}); pub.verify(c, tenant.Algorithms()) == nil && token != seed {
			t.Errorf("a signature nobody made: %q", token)
		}
	})
}

func FuzzClaimPath(f *testing.F) {
	f.Add("a.b", `{"a":{"b":["x"]}}`)
	f.Add(`a\.b`, `{"a.b":"x y"}`)
	f.Add(`\`, `{"\\":null}`)
	f.Add("", `{"":{"":1}}`)
	f.Fuzz(func(t *testing.T, path, doc string) {
		parts := splitPath(path)
		escape := strings.NewReplacer(`\`, `\\`, `.`, `\.`)
		var again []string
		for _, p := range parts {
			again = append(again, escape.Replace(p))
		}
		if got := splitPath(strings.Join(again, ".")); strings.Join(got, "\x00") != strings.Join(parts, "\x00") {
			t.Errorf("%q: %q, and written again %q", path, parts, got)
		}
		c, err := parseClaims([]byte(doc))
		if err != nil {
			return
		}
		list, ok := c.list(path)
		if !ok && len(list) > 0 {
			t.Errorf("not a list, yet %q", list)
		}
		c.holds(path, "x")
		_, _ = c.names(path, "groups")
	})
}

func FuzzParseKeys(f *testing.F) {
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA} {
		k := newKey(f, "k", alg)
		b, _ := k.Public().MarshalJSON()
		f.Add([]byte(`{"keys":[` + string(b) + `]}`))
	}
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseKeys(b)
		if err != nil {
			return
		}
		for _, k := range s.keys {
			if k.fits("none") || k.fits("HS256") || k.fits("") {
				t.Errorf("a key that fits %v", k)
			}
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		w, i := newWorld(b), newTestIssuer(b)
		i.setKeys(newKey(b, "k", alg))
		e := entry("team-a", i.authenticator("idp"))
		for n := range 100 {
			e.Record.Members = append(e.Record.Members, tenant.Member{Kind: tenant.MemberGroup, Authenticator: "idp", Name: fmt.Sprint("g", n), Role: tenant.Viewer})
		}
		body := with(w.body(i, "team-a"), "groups", []string{"developers", "operators", "everybody"}, "preferred_username", "Alice", "exp", w.clock.now().Add(time.Hour).Unix())
		ev := bearerAt(e, sign(b, i.key(0), nil, body))
		if _, err := w.Authenticate(b.Context(), e, ev); err != nil {
			b.Fatal(err)
		}
		b.Run(string(alg)+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Authenticate(b.Context(), e, ev); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(alg)+"/uncached", func(b *testing.B) {
			k := cacheKey(e.Scope.UID(), ev.Base, ev.Bearer)
			b.ReportAllocs()
			for b.Loop() {
				w.cache.drop(e, k)
				if _, err := w.Authenticate(b.Context(), e, ev); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
