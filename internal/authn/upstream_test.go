package authn_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

func upstream(edit func(*tenant.UpstreamUsers)) tenant.Authenticator {
	u := tenant.UpstreamUsers{
		Sources: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/64")},
		Header:  "X-MaaS-Username", Groups: "x-maas-role",
		Attributes: map[string]string{"X-MaaS-Group": "teams", "X-MaaS-Subscription": "namespaces", "X-More-Teams": "teams"},
	}
	if edit != nil {
		edit(&u)
	}
	return tenant.Authenticator{Name: "maas", Type: tenant.AuthnUpstream, Generation: "g1", DefaultRole: tenant.Viewer, Upstream: &u}
}

// names are those of the headers above as net/http writes them.
const (
	hUser  = "X-Maas-Username"
	hRole  = "X-Maas-Role"
	hGroup = "X-Maas-Group"
	hSub   = "X-Maas-Subscription"
)

type header = map[string][]string

func from(s *authn.Service, e *tenant.Entry, addr string, h header, chain ...*x509.Certificate) (tenant.Principal, error) {
	return s.Authenticate(context.Background(), e, authn.Evidence{Header: h, Remote: netip.MustParseAddr(addr), Peer: chain, Host: "team-a.example.com", Base: "https://team-a.example.com"})
}

// TestO1Upstream holds what a trusted upstream's headers say (O-1, OG-1, OG-4).
func TestO1Upstream(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	e.Record.Members = []tenant.Member{
		{Kind: tenant.MemberGroup, Authenticator: "maas", Name: "editors", Role: tenant.Editor},
		{Kind: tenant.MemberGroup, Authenticator: "maas", Name: "system:masters", Role: tenant.Admin},
		{Kind: tenant.MemberGroup, Authenticator: "other", Name: "system:authenticated", Role: tenant.Admin},
	}
	p, err := from(s, e, "10.1.2.3", header{
		hUser: {" alice "}, hRole: {`["editors","system:authenticated"]`, "[g1 g2]"},
		hGroup: {`["a","b","system:authenticated"]`, `"c"`}, "X-More-Teams": {"b", "d, e"}, hSub: {`system:anonymous`},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := tenant.Claims{
		Authenticator: "maas", Generation: "g1", Issuer: "upstream", Subject: "alice", Groups: []string{"editors", "g1", "g2"},
		Attributes: map[string][]string{"teams": {"a", "b", "c", "d, e"}, "namespaces": nil}, Issued: noon,
	}
	if !reflect.DeepEqual(*p.Claims, want) {
		t.Errorf("got claims %+v, want %+v", *p.Claims, want)
	}
	if p.ID != "maas/alice" || p.Via != tenant.ViaUpstream || p.Role != tenant.Editor || p.Kind != tenant.KindUser {
		t.Errorf("got %+v", p)
	}
	p, err = from(s, e, "10.1.2.3", header{hUser: {"root"}, hRole: {"system:masters"}})
	if err != nil || p.Role != tenant.Admin {
		t.Errorf("a system group that a member names: got %v, %v; want admin", p.Role, err)
	}
}

func TestO1UpstreamValues(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("g%d", i)
	}
	for _, c := range []struct {
		value string
		want  []string
		bad   string // part of the error
	}{
		{"a", []string{"a"}, ""},
		{" a ", []string{"a"}, ""},
		{"a, b", []string{"a, b"}, ""},
		{"CN=a,OU=b", []string{"CN=a,OU=b"}, ""},
		{`"a"`, []string{"a"}, ""},
		{`"a \"b\""`, []string{`a "b"`}, ""},
		{`["a","b"]`, []string{"a", "b"}, ""},
		{` [ "a" , "a" ] `, []string{"a"}, ""},
		{`["a",""]`, []string{"a"}, ""},
		{`[]`, nil, ""},
		{`""`, nil, ""},
		{``, nil, ""},
		{`[g1 g2]`, []string{"g1", "g2"}, ""},
		{`[g1]`, []string{"g1"}, ""},
		{`[ ]`, nil, ""},
		{`["\u0061"]`, []string{"a"}, ""},

		{`["a"`, nil, "begins like a JSON list"},
		{`["a",]`, nil, "begins like a JSON list"},
		{`[a, b]`, nil, "begins like a JSON list"},
		{`["a"] x`, nil, "begins like a JSON list"},
		{`[[g1] [g2]]`, nil, "begins like a JSON list"},
		{`[1]`, nil, "not a text"},
		{`[null]`, nil, "not a text"},
		{`[["a"]]`, nil, "not a text"},
		{`[{"a":"b"}]`, nil, "not a text"},
		{`"a`, nil, "JSON text"},
		{`"a" "b"`, nil, "JSON text"},
		{`{"teams":["a"]}`, nil, "JSON object"},
		{`["a\u0000"]`, nil, "control character"},
		{`["\ud800"]`, nil, "control character"},
		{"a\xff", nil, "control character"},
		{"a\u202eb", nil, "control character"},
		{strings.Repeat("a", 256), nil, "1 to 255"},
		{strings.Repeat("a", 9000), nil, "more than 8192 bytes"},
		{"[" + strings.Join(many, " ") + "]", nil, "more than 256 values"},
	} {
		p, err := from(s, e, "10.1.2.3", header{hUser: {"alice"}, hGroup: {c.value}})
		if c.bad != "" {
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.bad) || !strings.Contains(err.Error(), hGroup) {
				t.Errorf("%.40q: got %v, want %q and the header's name", c.value, err, c.bad)
			}
			continue
		}
		if err != nil || !slices.Equal(p.Claims.Attributes["teams"], c.want) {
			t.Errorf("%.40q: got %v, %v; want %v", c.value, p.Claims, err, c.want)
		}
	}
}

func TestO1UpstreamSubject(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	for _, c := range []struct {
		values []string
		bad    string
	}{
		{[]string{"alice", "bob"}, "exactly once"},
		{[]string{"alice", "alice"}, "exactly once"},
		{[]string{"alice, bob"}, "comma"},
		{[]string{""}, "1 to 255"},
		{[]string{" \t"}, "1 to 255"},
		{[]string{"a\x00b"}, "control character"},
		{[]string{strings.Repeat("a", 256)}, "1 to 255"},
	} {
		p, err := from(s, e, "10.1.2.3", header{hUser: c.values})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.bad) || !strings.Contains(err.Error(), hUser) {
			t.Errorf("%q: got %v, %v; want %q", c.values, p.ID, err, c.bad)
		}
	}
	if _, err := from(s, e, "10.1.2.3", header{hGroup: {"a"}}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("groups of nobody: got %v, want no identity", err)
	}
	if _, err := from(s, e, "10.1.2.3", header{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("no headers: got %v, want no identity", err)
	}
}

// TestX25IdentityFromOutside sends identity headers from anybody but the upstream, in every spelling: 400.
func TestX25IdentityFromOutside(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	for _, h := range []header{
		{hUser: {"alice"}},
		{hUser: {""}},
		{hUser: nil},
		{hRole: {"editors"}},
		{hGroup: {"a"}},
		{hSub: {"a"}},
		{"X-More-Teams": {"a"}},
		{"X-MAAS-USERNAME": {"alice"}},
		{"x-maas-username": {"alice"}},
		{"X_Maas_Username": {"alice"}},
		{"X_maas-username": {"alice"}},
		{"X.Maas.Username": {"alice"}},
		{"X Maas Username": {"alice"}},
		{"Connection": {"close, x-maas-group"}},
		{"Connection": {"close", "\tX_MaaS_Group "}},
		{"Trailer": {"X-Maas-Username"}},
	} {
		for _, addr := range []string{"10.2.0.1", "192.0.2.7", "127.0.0.1", "::1", "2001:db8:0:1::1", "::ffff:10.2.0.1"} {
			h["X-Forwarded-For"] = []string{"10.1.2.3"} // X24: no header moves a peer into the trusted network
			h["Authorization"] = []string{"Bearer x"}
			if p, err := from(s, e, addr, h); !fault.Is(err, fault.Invalid) {
				t.Errorf("%v from %s: got %v, %v; want 400", h, addr, p.ID, err)
			}
		}
	}
	if _, err := from(s, e, "192.0.2.7", header{"X-Maas-User": {"a"}, "X-Maas-Usernames": {"a"}, "Connection": {"close"}}); fault.Is(err, fault.Invalid) {
		t.Errorf("headers that only resemble: %v", err)
	}
}

func TestUpstreamPeer(t *testing.T) {
	s, ca, other := newTestService(t, nil), newAuthority(t, nil, nil), newAuthority(t, nil, nil)
	named := func(dns string, uri ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = uris(uri...)
			if dns != "" {
				c.DNSNames = []string{dns}
			}
		}
	}
	both := upstream(func(u *tenant.UpstreamUsers) {
		u.CA, u.Names = ca.pem(), []string{"gw.example", "spiffe://maas/gw", "*.example"}
	})
	certOnly := upstream(func(u *tenant.UpstreamUsers) { u.Sources, u.CA, u.Names = nil, ca.pem(), []string{"gw.example"} })
	certOnly.Generation = "g2"
	for _, c := range []struct {
		name string
		a    tenant.Authenticator
		addr string
		cert *x509.Certificate
		want bool
	}{
		{"source", both, "10.1.255.255", nil, true},
		{"source of IPv6", both, "2001:db8::7", nil, true},
		{"source, mapped", both, "::ffff:10.1.2.3", nil, true},
		{"source with a zone", both, "2001:db8::7%eth0", nil, true},
		{"certificate by DNS name", both, "192.0.2.7", ca.client(named("GW.example")), true},
		{"certificate by URI", both, "192.0.2.7", ca.client(named("", "spiffe://maas/gw")), true},
		{"certificate alone", certOnly, "192.0.2.7", ca.client(named("gw.example")), true},

		{"neither", both, "192.0.2.7", nil, false},
		{"another name", both, "192.0.2.7", ca.client(named("evil.example")), false},
		{"the name as a URI only", both, "192.0.2.7", ca.client(named("", "gw.example")), true},
		{"wildcard", both, "192.0.2.7", ca.client(named("*.example")), false},
		{"another authority", both, "192.0.2.7", other.client(named("gw.example")), false},
		{"a source that is not asked for", certOnly, "10.1.2.3", nil, false},
		{"expired", both, "192.0.2.7", ca.client(func(c *x509.Certificate) { named("gw.example")(c); c.NotAfter = noon.Add(-time.Hour) }), false},
	} {
		var chain []*x509.Certificate
		if c.cert != nil {
			chain = append(chain, c.cert)
		}
		p, err := from(s, entryOf("team-a", "uid-a", c.a), c.addr, header{hUser: {"alice"}}, chain...)
		if c.want && (err != nil || p.ID != "maas/alice") || !c.want && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, %v; want trusted=%v", c.name, p.ID, err, c.want)
		}
		if c.want && c.cert != nil && !p.Expires.Equal(c.cert.NotAfter) {
			t.Errorf("%s: ends %v, want with the certificate", c.name, p.Expires)
		}
	}
}

// TestUpstreamOddSpellingFromTrusted: what a trusted upstream passed on from its client must not look like its own word.
func TestUpstreamOddSpellingFromTrusted(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	for _, h := range []header{
		{hUser: {"alice"}, "X_Maas_Username": {"root"}},
		{hUser: {"alice"}, "X_Maas_Group": {"admins"}},
		{hUser: {"alice"}, "Connection": {"X-Maas-Group"}},
		{"x-maas-username": {"alice"}},
	} {
		if p, err := from(s, e, "10.1.2.3", h); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: got %v, %v; want 400", h, p.ID, err)
		}
	}
}

func TestUpstreamRevoked(t *testing.T) {
	s, e := newTestService(t, nil), entryOf("team-a", "uid-a", upstream(nil))
	p, err := from(s, e, "10.1.2.3", header{hUser: {"alice"}})
	if err != nil {
		t.Fatal(err)
	}
	e.Record.Revoke(tenant.Revocation{Principal: p.Ref(), Before: noon.Add(time.Second), Until: noon.Add(time.Hour)}, noon)
	if _, ok := e.Record.Standing(p, noon); ok {
		t.Error("what was in flight at the revocation goes on")
	}
}

func TestIdentityHeaders(t *testing.T) {
	got := authn.IdentityHeaders(entryOf("team-a", "uid-a", mtls(tenant.MTLS{}), upstream(nil)))
	if want := []string{hUser, hGroup, hRole, hSub, "X-More-Teams"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := authn.IdentityHeaders(entryOf("team-a", "uid-a")); len(got) > 0 {
		t.Errorf("without an upstream: %q", got)
	}
}

func FuzzUpstreamValues(f *testing.F) {
	for _, v := range []string{`["a","b"]`, `"a"`, "a", "[g1 g2]", `["\ud800"]`, "[", `{"a":1}`} {
		f.Add("alice", v)
	}
	s, e := newTestService(f, nil), entryOf("team-a", "uid-a", upstream(nil))
	f.Fuzz(func(t *testing.T, user, v string) {
		p, err := from(s, e, "10.1.2.3", header{hUser: {user}, hGroup: {v}, hRole: {v}})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q, %q: got %v", user, v, err)
			}
			return
		}
		if tenant.CheckSubject("subject", p.Claims.Subject) != nil || strings.Contains(p.Claims.Subject, ",") {
			t.Errorf("subject %q", p.Claims.Subject)
		}
		for _, list := range [][]string{p.Claims.Groups, p.Claims.Attributes["teams"]} {
			if len(list) > 256 || len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
				t.Errorf("%q: %d values, not bounded or not unique", v, len(list))
			}
			for _, g := range list {
				if tenant.CheckSubject("value", g) != nil || strings.HasPrefix(g, "system:") {
					t.Errorf("%q gives the value %q", v, g)
				}
			}
		}
	})
}
