package authn_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/internal/authn"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// begun is a hand-over up to its ticket: alice is logged in at A's main host and opens a page of its other host.
func begun(t *testing.T, s *site) (b *browser, accept string) {
	t.Helper()
	b = s.browser()
	b.login(hostA)
	_, handover := b.step(s.base(hostA2) + "/page?x=1")
	resp, accept := b.step(handover)
	if resp.StatusCode != http.StatusSeeOther || !strings.HasPrefix(accept, s.base(hostA2)+authn.AcceptPath+"?ticket=") {
		t.Fatalf("no ticket: %d %s", resp.StatusCode, accept)
	}
	return b, accept
}

func TestHandover(t *testing.T) {
	s := newSite(t, nil)
	b, accept := begun(t, s)
	resp, to := b.step(accept)
	if resp.StatusCode != http.StatusSeeOther || to != s.base(hostA2)+"/page?x=1" {
		t.Fatalf("got %d %s", resp.StatusCode, to)
	}
	own, handed := b.cookies(hostA)[authn.SessionCookie], b.cookies(hostA2)
	if len(handed) != 1 || handed[authn.SessionCookie] == own || own == "" {
		t.Errorf("cookies of the other host: %v", handed)
	}
	ask := func(host, cookie string) tenant.Principal {
		p, err := s.auth.Authenticate(context.Background(), s.entry(host), authn.Evidence{Cookie: cookie, Host: host})
		if err != nil {
			t.Error(err)
		}
		return p
	}
	p, q := ask(hostA, own), ask(hostA2, handed[authn.SessionCookie])
	if p.Ref() != q.Ref() || p.Claims.Session != q.Claims.Session || !p.Expires.Equal(q.Expires) || !p.Claims.Issued.Equal(q.Claims.Issued) {
		t.Errorf("the session became another: %+v, %+v", p, q)
	}
	if got := s.ask(hostA, handed[authn.SessionCookie]); got != "" {
		t.Errorf("the other host's cookie at the main host: got %s", got)
	}
}

// TestHandoverLogsInFirst opens a page of the other host without any session.
func TestHandoverLogsInFirst(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	status, body, at := b.get(s.base(hostA2) + "/page?x=1")
	if status != http.StatusOK || at.String() != s.base(hostA2)+"/page?x=1" || !strings.Contains(body, "dex/alice") {
		t.Errorf("got %d at %s: %s", status, at, body)
	}
}

func TestHandoverRefusesForeignTickets(t *testing.T) {
	for _, c := range []struct {
		name string
		at   func(s *site, b *browser, accept string) string // what is opened instead, after what happened meanwhile
	}{
		{"replayed", func(s *site, b *browser, accept string) string {
			before := b.cookies(hostA2)
			b.step(accept)
			b.Jar = s.browser().Jar
			for name, value := range before {
				b.plant(hostA2, name, value)
			}
			return accept
		}},
		{"stolen, without the nonce", func(s *site, b *browser, accept string) string {
			b.Jar = s.browser().Jar
			return accept
		}},
		{"stolen, with a nonce of the thief's", func(s *site, b *browser, accept string) string {
			b.Jar = s.browser().Jar
			b.step(s.base(hostA2) + "/page")
			return accept
		}},
		{"too late", func(s *site, _ *browser, accept string) string {
			s.wait(30 * time.Second)
			return accept
		}},
		{"at the main host", func(s *site, b *browser, accept string) string {
			for name, value := range b.cookies(hostA2) {
				b.plant(hostA, name, value)
			}
			return strings.Replace(accept, hostA2, hostA, 1)
		}},
		{"at another tenant", func(s *site, b *browser, accept string) string {
			for name, value := range b.cookies(hostA2) {
				b.plant(hostB, name, value)
			}
			return strings.Replace(accept, hostA2, hostB, 1)
		}},
		{"the session ended meanwhile", func(s *site, b *browser, accept string) string {
			s.change(hostA, func(r *tenant.Record) { r.Authenticators[0].Generation = "g2" })
			return accept
		}},
		{"the tenant was made again", func(s *site, _ *browser, accept string) string {
			s.change(hostA, func(r *tenant.Record) { r.UID = "uid-a2" })
			return accept
		}},
		{"a session's cookie for a ticket", func(s *site, b *browser, _ string) string {
			return s.base(hostA2) + authn.AcceptPath + "?ticket=" + b.cookies(hostA)[authn.SessionCookie]
		}},
		{"changed", func(s *site, _ *browser, accept string) string {
			i := len(accept) - 40
			return accept[:i] + string(accept[i]^1) + accept[i+1:]
		}},
		{"none", func(s *site, _ *browser, _ string) string { return s.base(hostA2) + authn.AcceptPath }},
		{"two", func(s *site, _ *browser, accept string) string { return accept + "&ticket=x" }},
	} {
		s := newSite(t, nil)
		b, accept := begun(t, s)
		at := c.at(s, b, accept)
		resp, body := b.step(at)
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got %d %s", c.name, resp.StatusCode, body)
		}
		for _, line := range resp.Header["Set-Cookie"] {
			if strings.HasPrefix(line, authn.SessionCookie+"=") {
				t.Errorf("%s: a session is set: %.60s", c.name, line)
			}
		}
	}
}

// TestHandoverTargets: a ticket goes to hosts of the tenant alone.
func TestHandoverTargets(t *testing.T) {
	s := newSite(t, nil)
	b := s.browser()
	b.login(hostA)
	_, handover := b.step(s.base(hostA2) + "/page")
	u, _ := url.Parse(handover)
	good := u.Query()
	for _, c := range []struct{ name, param, value string }{
		{"another tenant", "to", hostB},
		{"a stranger", "to", "evil.example"},
		{"itself", "to", hostA},
		{"with a port", "to", hostA2 + ":8443"},
		{"with a path", "to", hostA2 + "/x"},
		{"with a user", "to", "x@" + hostA2},
		{"upper case", "to", "WWW.custom.test"},
		{"final dot", "to", hostA2 + "."},
		{"first dot", "to", "." + hostA2},
		{"an address", "to", "[::1]"},
		{"empty", "to", ""},
		{"backslash", "to", hostA2 + `\evil.example`},
		{"no challenge", "challenge", ""},
		{"short challenge", "challenge", "AAAA"},
		{"long challenge", "challenge", strings.Repeat("A", 44)},
		{"challenge with a line end", "challenge", good.Get("challenge") + "\n"},
	} {
		q := url.Values{"to": {good.Get("to")}, "challenge": {good.Get("challenge")}}
		q.Set(c.param, c.value)
		if resp, body := b.step(s.base(hostA) + authn.HandoverPath + "?" + q.Encode()); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got %d %s", c.name, resp.StatusCode, body)
		}
	}
	if resp, to := b.step(handover); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("the good one: got %d %s", resp.StatusCode, to)
	}
	e := s.entry(hostA)
	r := authn.LoginRequest{Method: "GET", Host: hostA, Base: s.base(hostA)}
	if _, err := s.auth.HandoverStart(e, r, s.base(hostA)); !fault.Is(err, fault.Invalid) {
		t.Errorf("from a host to itself: %v", err)
	}
}

// TestHandoverOfTheLargestSession: what fits into a cookie fits into a ticket.
func TestHandoverOfTheLargestSession(t *testing.T) {
	for n := 120; n >= 0; n-- {
		s := newSite(t, nil)
		s.idp.edit(func() {
			s.idp.claims = func(c map[string]any) {
				var groups []string
				for i := range n {
					groups = append(groups, fmt.Sprintf("/department/team-%03d-xxx", i))
				}
				c["groups"] = groups
			}
		})
		b := s.browser()
		if status, _, _ := b.get(s.base(hostA) + authn.LoginPath + "?return_to=/whoami"); status == http.StatusBadGateway {
			continue
		}
		if size := len(authn.SessionCookie) + 1 + len(b.cookies(hostA)[authn.SessionCookie]); size > 4096 || size < 3000 {
			t.Errorf("the cookie has %d bytes", size)
		}
		if status, body, _ := b.get(s.base(hostA2) + "/whoami"); status != http.StatusOK {
			t.Errorf("hand-over with %d groups: got %d %s", n, status, body)
		}
		return
	}
	t.Error("no session fits")
}

// once counts and may fail.
type once struct {
	mu   sync.Mutex
	seen map[string]bool
	err  error
}

func (o *once) First(_ context.Context, scope tenant.Scope, id string, _ time.Time) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := !o.seen[scope.UID()+id]
	o.seen[scope.UID()+id] = true
	return first, o.err
}

// TestHandoverAtTwoReplicas opens one ticket many times at once at replicas that share their OnceStore: one may win.
func TestHandoverAtTwoReplicas(t *testing.T) {
	shared := &once{seen: make(map[string]bool)}
	s := newSite(t, func(c *authn.Config) { c.Once = shared })
	b, accept := begun(t, s)
	u, _ := url.Parse(accept)
	var cookies []string
	for name, value := range b.cookies(hostA2) {
		cookies = append(cookies, name+"="+value)
	}
	other := newTestService(t, func(c *authn.Config) {
		c.Once, c.Secret, c.Now = shared, []byte("a platform's secret of 32 bytes."), s.now
	})
	r := authn.LoginRequest{Method: "GET", Host: hostA2, Base: s.base(hostA2), Query: u.RawQuery, Cookies: cookies}
	var mu sync.Mutex
	won := 0
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			auth := []*authn.Service{s.auth, other}[i%2]
			if _, err := auth.HandoverAccept(context.Background(), s.entry(hostA2), r); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			} else if !fault.Is(err, fault.Invalid) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d were accepted, want 1", won)
	}
	shared.err = errors.New("the store is down")
	b, accept = begun(t, s)
	if resp, _ := b.step(accept); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("with the store down: got %d", resp.StatusCode)
	}
}

func FuzzTicket(f *testing.F) {
	s := newSite(f, nil)
	b := s.browser()
	b.login(hostA)
	_, handover := b.step(s.base(hostA2) + "/page")
	_, accept := b.step(handover)
	f.Add(strings.TrimPrefix(accept, s.base(hostA2)+authn.AcceptPath+"?ticket="))
	f.Add("AQ")
	e := s.entry(hostB)
	f.Fuzz(func(t *testing.T, ticket string) {
		_, err := s.auth.HandoverAccept(context.Background(), e, authn.LoginRequest{Method: "GET", Host: hostB, Base: s.base(hostB), Query: url.Values{"ticket": {ticket}}.Encode()})
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v", ticket, err)
		}
	})
}

// TestTicketEnds uses a ticket late, with a store that does not look at the time.
func TestTicketEnds(t *testing.T) {
	s := newSite(t, func(c *authn.Config) { c.Once = &once{seen: make(map[string]bool)} })
	b, accept := begun(t, s)
	s.wait(30 * time.Second)
	if resp, body := b.step(accept); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
}
