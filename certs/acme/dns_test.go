package acme

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libdns/libdns"
	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"github.com/polygate/polygate/certs/acme/acmetest"
)

func testChallenge(token string) acme.Challenge {
	return acme.Challenge{Type: "http-01", Token: token, KeyAuthorization: token + ".thumb", Identifier: acme.Identifier{Type: "dns", Value: "a.polygate.test"}}
}

const tsigName = "polygate."

func tsigKey() string {
	return base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
}

// zone is a DNS server that takes signed updates of TXT records for polygate.test and gives them to the ACME server's DNS.
type zone struct {
	r        *rig
	mu       sync.Mutex
	adds     int
	removes  int
	unsigned bool // answer without a signature
	drop     bool // take no notice of updates, but say that all is well
}

// ServeDNS takes one update.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	t := q.IsTsig()
	switch {
	case q.Opcode != dns.OpcodeUpdate:
		m.Rcode = dns.RcodeNotImplemented
	case t == nil:
		m.Rcode = dns.RcodeRefused
	case errors.Is(w.TsigStatus(), dns.ErrTime): // RFC 8945 §5.2.3: signed, and saying so
		m.Rcode = dns.RcodeNotAuth
		m.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
		m.IsTsig().Error = dns.RcodeBadTime
	case w.TsigStatus() != nil:
		m.Rcode = dns.RcodeNotAuth
	case q.Question[0].Name != "polygate.test.":
		m.Rcode = dns.RcodeNotZone
	default:
		for _, rr := range q.Ns {
			z.apply(rr)
		}
	}
	if t != nil && w.TsigStatus() == nil && !z.unsigned {
		m.SetTsig(t.Hdr.Name, t.Algorithm, 300, time.Now().Unix())
	}
	_ = w.WriteMsg(m)
}

func (z *zone) apply(rr dns.RR) {
	txt, ok := rr.(*dns.TXT)
	if !ok || z.drop {
		return
	}
	value := strings.Join(txt.Txt, "")
	switch rr.Header().Class {
	case dns.ClassINET:
		z.adds++
		z.r.SetTXT(txt.Hdr.Name, value)
	case dns.ClassNONE:
		z.removes++
		z.r.ClearTXT(txt.Hdr.Name)
	}
}

func (z *zone) set(unsigned, drop bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.unsigned, z.drop = unsigned, drop
}

func (z *zone) counts() (adds, removes int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.adds, z.removes
}

func TestWildcardByRFC2136(t *testing.T) {
	t.Parallel()
	r := newRig(t, acmetest.Options{}, nil)
	z := &zone{r: r}
	addr, _ := acmetest.ServeDNS(t, z, map[string]string{tsigName: tsigKey()})
	with := func(wait time.Duration, edit func(*RFC2136)) *Engine {
		return r.engine(func(c *Config) {
			c.DNS = &DNS{Provider: "rfc2136", Propagation: wait, RFC2136: RFC2136{Server: addr, KeyName: "polygate", Algorithm: "hmac-sha256", Key: tsigKey()}}
			edit(&c.DNS.RFC2136)
		})
	}
	for name, edit := range map[string]func(*RFC2136){
		"*.a.polygate.test": func(*RFC2136) {},
		"*.b.polygate.test": func(c *RFC2136) { c.TCP, c.Algorithm = true, "hmac-sha512." },
	} {
		r.e = with(20*time.Second, edit)
		r.issue(r.order(name))
	}
	if adds, removes := z.counts(); adds != 2 || removes != 2 {
		t.Errorf("%d records set and %d removed, want 2 and 2", adds, removes)
	}

	wrong := base64.StdEncoding.EncodeToString([]byte("another key than the server's is"))
	for _, tt := range []struct {
		name           string
		edit           func(*RFC2136)
		unsigned, drop bool
		want           string
	}{
		{"wrong key", func(c *RFC2136) { c.Key = wrong }, false, false, "key_name"},
		{"unknown key", func(c *RFC2136) { c.KeyName = "other" }, false, false, "key_name"},
		{"no key", func(c *RFC2136) { c.KeyName, c.Key = "", "" }, false, false, "refuses the update"},
		{"answer that is not signed", func(*RFC2136) {}, true, false, "without a signature"},
		{"record that never shows", func(*RFC2136) {}, false, true, "not seen"},
		{"server away", func(c *RFC2136) { c.Server = "127.0.0.1:1" }, false, false, "does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.t = t
			z.set(tt.unsigned, tt.drop)
			r.e = with(3*time.Second, tt.edit)
			e := r.refused(r.order("*.polygate.test"), CodeDNS)
			if !strings.Contains(e.Detail, tt.want) || strings.Contains(e.Error(), wrong) || strings.Contains(e.Error(), tsigKey()) {
				t.Errorf("error = %v, want %q in it and no key", e, tt.want)
			}
		})
	}
}

func TestRFC2136ClockSkew(t *testing.T) {
	t.Parallel()
	z := &zone{}
	addr, _ := acmetest.ServeDNS(t, z, map[string]string{tsigName: tsigKey()})
	u, err := newRFC2136(RFC2136{Server: addr, KeyName: "polygate", Key: tsigKey()}, func() time.Time { return time.Now().Add(-time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if err := u.add(t.Context(), "polygate.test.", "_acme-challenge.polygate.test.", "v"); !errors.As(err, &e) || e.Code != CodeClock {
		t.Errorf("error = %v, want clock", err)
	}
}

// The webhook set the record and then failed: nobody would remember it, so it is taken back at once.
func TestRecordOfUnknownOutcomeIsTakenBack(t *testing.T) {
	t.Parallel()
	var paths []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if paths = append(paths, q.URL.Path); q.URL.Path == "/dns/present" {
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	}))
	defer srv.Close()
	h, err := newWebhook(Webhook{URL: srv.URL + "/dns/"})
	if err != nil {
		t.Fatal(err)
	}
	rr := libdns.RR{Type: "TXT", Name: "_acme-challenge", Data: "v"}
	if _, err := (records{h}).AppendRecords(t.Context(), "polygate.test.", []libdns.Record{rr}); err == nil {
		t.Error("no error")
	}
	if want := []string{"/dns/present", "/dns/cleanup"}; !slices.Equal(paths, want) {
		t.Errorf("requests = %q, want %q", paths, want)
	}
}

// The token is for the webhook alone: it does not follow a redirect.
func TestWebhookTokenFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var seen []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { seen = append(seen, q.Header.Get("Authorization")) }))
	defer other.Close()
	srv := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	h, err := newWebhook(Webhook{URL: srv.URL, Token: "secret-token"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.add(t.Context(), "", "_acme-challenge.polygate.test.", "v"); err == nil || len(seen) > 0 {
		t.Errorf("error = %v, the other server saw %q; want an error and nothing", err, seen)
	}
}

func TestNewRefuses(t *testing.T) {
	dnsWith := func(d DNS) Config { return Config{DNS: &d} }
	ok := RFC2136{Server: "127.0.0.1:53", KeyName: "k", Key: tsigKey()}
	edit := func(f func(*RFC2136)) Config { c := ok; f(&c); return dnsWith(DNS{Provider: "rfc2136", RFC2136: c}) }
	for name, cfg := range map[string]Config{
		"unknown provider":   dnsWith(DNS{Provider: "magic"}),
		"server":             edit(func(c *RFC2136) { c.Server = "nowhere" }),
		"key without a name": edit(func(c *RFC2136) { c.KeyName = "" }),
		"name without a key": edit(func(c *RFC2136) { c.Key = "" }),
		"algorithm":          edit(func(c *RFC2136) { c.Algorithm = "md5" }),
		"key":                edit(func(c *RFC2136) { c.Key = "%%" }),
		"webhook URL":        dnsWith(DNS{Provider: "webhook", Webhook: Webhook{URL: "ftp://x"}}),
		"webhook user":       dnsWith(DNS{Provider: "webhook", Webhook: Webhook{URL: "https://u:secret@x"}}),
		"webhook token":      dnsWith(DNS{Provider: "webhook", Webhook: Webhook{URL: "https://x", Token: "secret\r\nX: y"}}),
		"webhook CA":         dnsWith(DNS{Provider: "webhook", Webhook: Webhook{URL: "https://x", CA: "x"}}),
		"resolver":           {TLSALPN01: true, Resolvers: []string{"1.1.1.1"}, DNS: &DNS{Provider: "webhook", Webhook: Webhook{URL: "https://x"}}},
	} {
		if _, err := New(cfg); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error = %v, want one without a secret", name, err)
		}
	}
	if _, err := New(dnsWith(DNS{Provider: "rfc2136", RFC2136: ok})); err != nil {
		t.Error(err)
	}
}

func TestOrderIsChecked(t *testing.T) {
	e, err := New(Config{TLSALPN01: true})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	for _, names := range [][]string{nil, {""}, {"a"}, {"A.polygate.test"}, {"a.polygate.test", "a.polygate.test"}, {"*.*.polygate.test"}, {"127.0.0.1"}, slices.Repeat([]string{"x"}, 101)} {
		_, err := e.Obtain(t.Context(), Order{Accounts: newMemory(), Tokens: newMemory(), Key: key, Names: names})
		if e, ok := err.(*Error); !ok || e.Code != CodeRejectedIdentifier || !e.Permanent { //nolint:errorlint // it is returned as it is
			t.Errorf("%q: %v, want rejected_identifier", names, err)
		}
	}
}

// A gateway whose settings leave no challenge starts all the same: perhaps nobody wants a certificate of an ACME server.
func TestNoChallengeIsLeft(t *testing.T) {
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Obtain(t.Context(), Order{Accounts: newMemory(), Tokens: newMemory(), Key: newKey(t), Names: []string{"a.polygate.test"}})
	if e, ok := err.(*Error); !ok || e.Code != CodeChallengeFailed || !strings.Contains(e.Detail, "listen.plain") { //nolint:errorlint // it is returned as it is
		t.Errorf("got %v, want challenge_failed and what to set", err)
	}
}
