package certs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
	"github.com/polygate/polygate/internal/vault"
)

// hosts names n custom hosts of a tenant.
func hosts(prefix string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("%s%d.example", prefix, i))
	}
	return list
}

// TestHangingRespondersHoldUpNoOrder: a tenant brings certificates whose OCSP responder hangs, more of them than an issuer has
// places. Another tenant's order, at the issuer that both have, goes on.
func TestHangingRespondersHoldUpNoOrder(t *testing.T) {
	s := newSite(t)
	over := make(chan struct{})
	asked := make(chan struct{}, 100)
	responder := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		asked <- struct{}{}
		select {
		case <-over:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(responder.Close)
	t.Cleanup(func() { close(over) })
	r := s.newReplica(func(c *certs.Config) { c.OCSP, c.Limits.Concurrent, c.Limits.PerIssuer = true, 4, 2 })
	e := r.tenant("rude", func(rec *tenant.Record) { rec.Hosts = hosts("rude", 8) })
	s.issuer.note(func() { s.issuer.responder = responder.URL })
	for _, host := range e.Record.Hosts {
		chain, key, _ := s.issuer.provided(t, 90*24*time.Hour, host)
		if _, err := r.Import(t.Context(), e, host, chain, key, 0, entry(e)); err != nil {
			t.Fatal(err)
		}
	}
	<-asked
	s.issuer.note(func() { s.issuer.responder = "" })
	begin := time.Now()
	r.tenant("other", nil)
	r.served("other."+base, "")
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("another tenant's order took %s", d)
	}
	if n := len(asked); n > 0 {
		t.Errorf("%d responders of one tenant are asked at once, want 1", n+1)
	}
}

// TestIssuersThatHangHaveFewPlaces: one whose order failed by its own fault does not take as many places again.
func TestIssuersThatHangHaveFewPlaces(t *testing.T) {
	s := newSite(t)
	at := make(chan string, 100)
	s.issuer.fails(func(ctx context.Context, o acme.Order) error {
		if o.Names[0] == "first.example" {
			return &acme.Error{Code: acme.CodeTimeout, Detail: "it hung"}
		}
		at <- o.Names[0]
		<-ctx.Done()
		return ctx.Err()
	})
	r := s.newReplica(func(c *certs.Config) {
		c.Limits.Concurrent, c.Limits.PerIssuer = 16, 8
	})
	own := &tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: "https://hangs.test/"}}
	e := r.tenant("first", func(rec *tenant.Record) { rec.Hosts, rec.Certificates = []string{"first.example"}, own })
	until(t, "the first failure", func() bool {
		c, err := r.Get(t.Context(), e, "first.example")
		return err == nil && c.Attempts > 0
	})
	for i := range 8 {
		r.tenant(tenant.ID(fmt.Sprintf("h%d", i)), func(rec *tenant.Record) { rec.Certificates = own })
	}
	<-at
	<-at
	r.tenant("good", nil) // is looked at by a poll that has seen all of them
	for name := range at {
		if name == "good."+base {
			return
		}
		if strings.HasPrefix(name, "h") || strings.HasPrefix(name, "first") {
			t.Fatalf("%s is at it too: an issuer that failed has more than 2 places of 8", name)
		}
	}
}

// TestRevocationIsNoWayAroundPatience: neither are orders made before the time that the issuer asked for, nor is it asked to
// revoke the same again without an end.
func TestRevocationIsNoWayAroundPatience(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(func(c *certs.Config) { c.Limits.OrdersPerTenantPerHour = 5 })
	e, host := r.tenant("a", nil), "a."+base
	r.served(host, "")
	s.issuer.fails(func(context.Context, acme.Order) error {
		return &acme.Error{Code: acme.CodeRateLimited, Detail: "too many orders", RetryAfter: 3 * time.Hour}
	})
	if _, err := r.Revoke(t.Context(), e, host, 4, entry(e)); err != nil {
		t.Fatal(err)
	}
	until(t, "the issuer asks for patience", func() bool {
		c, err := r.Get(t.Context(), e, host)
		return err == nil && c.Code == acme.CodeRateLimited
	})
	refused := 0
	for range 20 {
		if _, err := r.Revoke(t.Context(), e, host, 4, entry(e)); fault.Is(err, fault.RateLimited) {
			refused++
		} else if err != nil && !fault.Is(err, fault.Conflict) {
			t.Fatal(err)
		}
	}
	if c, err := r.Get(t.Context(), e, host); err != nil || c.Code != acme.CodeRateLimited || c.NextAttempt.Sub(s.now()) < 2*time.Hour || c.State != tenant.CertificateRevoked {
		t.Errorf("got %+v, %v", c, err)
	}
	s.issuer.note(func() {
		if n := len(s.issuer.revoked); n > 5 || refused == 0 {
			t.Errorf("the issuer was asked %d times to revoke one certificate", n)
		}
	})
	if n := s.issuer.attempts(host); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

// TestProvidingIsNoWayAroundPatience: who provides a certificate and removes it has a new record, and the issuer its time.
func TestProvidingIsNoWayAroundPatience(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(context.Context, acme.Order) error {
		return &acme.Error{Code: acme.CodeRateLimited, Detail: "too many orders", RetryAfter: 3 * time.Hour}
	})
	r := s.newReplica(nil)
	e, host := r.tenant("a", nil), "a."+base
	until(t, "the issuer asks for patience", func() bool {
		c, err := r.Get(t.Context(), e, host)
		return err == nil && c.Code == acme.CodeRateLimited
	})
	for range 3 {
		chain, key, _ := s.issuer.provided(t, 24*time.Hour, host)
		if _, err := r.Import(t.Context(), e, host, chain, key, 0, entry(e)); err != nil {
			t.Fatal(err)
		}
		if err := r.Remove(t.Context(), e, host, 0, entry(e)); err != nil {
			t.Fatal(err)
		}
		until(t, "the queue has looked", func() bool {
			s.pass(50 * time.Millisecond) // a look that met the change is held back for seconds, by the site's clock
			c, err := r.Get(t.Context(), e, host)
			return err == nil && (c.NextAttempt.Sub(s.now()) > 2*time.Hour || s.issuer.attempts(host) > 1)
		})
	}
	if n := s.issuer.attempts(host); n != 1 {
		t.Errorf("%d orders before the time that the issuer asked for", n)
	}
	s.issuer.fails(nil)
	s.pass(4 * time.Hour)
	r.served(host, "")
}

// TestHostsInTurnsFillNoStore: a tenant takes up and gives back hosts, with a certificate for each.
func TestHostsInTurnsFillNoStore(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e := r.tenant("a", nil)
	kept := func() int {
		list, _, err := r.keeper.List(t.Context(), vault.Of(e.Scope), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	turn := func(i int) (refused error) {
		list := hosts(fmt.Sprintf("t%d-", i), tenant.MaxHosts)
		e = r.update("a", func(rec *tenant.Record) { rec.Hosts = list })
		for _, host := range list {
			chain, key, _ := s.issuer.provided(t, 10*365*24*time.Hour, host)
			if _, err := r.Import(t.Context(), e, host, chain, key, 0, entry(e)); err != nil {
				refused = err
			}
		}
		return refused
	}
	var refused error
	for i := range 5 {
		refused = turn(i)
	}
	if n := kept(); n > 3*tenant.MaxHosts || !fault.Is(refused, fault.RateLimited) {
		t.Fatalf("%d records are kept of a tenant with %d hosts; the last import: %v", n, tenant.MaxHosts, refused)
	}
	until(t, "they are found", func() bool {
		list, _, _ := r.keeper.List(t.Context(), vault.Of(e.Scope), "", 0)
		n := 0
		for _, h := range list {
			if h.Order.Code == "not_owned" {
				n++
			}
		}
		return n >= 2*tenant.MaxHosts
	})
	s.pass(2 * time.Hour)
	until(t, "they are removed", func() bool { return kept() <= tenant.MaxHosts+1 })
	if err := turn(9); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

// TestHandshakesSendNobodyBack: while orders wait for places and rates, a host that is asked for keeps its turn, before one
// that came later and that nobody asks for.
func TestHandshakesSendNobodyBack(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(ctx context.Context, _ acme.Order) error { <-ctx.Done(); return ctx.Err() })
	r := s.newReplica(func(c *certs.Config) { c.Limits.Concurrent = 1 })
	r.tenant("hangs", nil)
	until(t, "the only place is taken", func() bool { return s.issuer.attempts("hangs."+base) == 1 })
	queue := func() (list []string) {
		due, _, err := r.vault.Due(t.Context(), s.now(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range due {
			if d.Owner != "hangs" {
				list = append(list, d.Owner)
			}
		}
		return list
	}
	r.tenant("asked", nil)
	until(t, "it is on the queue", func() bool { return len(queue()) == 1 })
	s.pass(time.Second)
	r.tenant("quiet", nil)
	until(t, "both are", func() bool { return len(queue()) == 2 })
	s.pass(6 * time.Minute)
	for range 3 {
		s.pass(time.Minute) // what is in memory is looked at again
		if _, err := r.GetCertificate(hello("asked." + base)); !errors.Is(err, certs.ErrPending) {
			t.Fatal(err)
		}
	}
	until(t, "the queue has seen it", func() bool { return r.Stats().Waiting == 0 })
	r.tenant("last", nil)
	until(t, "one more is on it", func() bool { return len(queue()) == 3 })
	if list := queue(); len(list) != 3 || list[0] != "asked" {
		t.Errorf("the queue is %v", list)
	}
}

// TestMarkLeftBehind: a mark that stands where the record says that nothing is due is moved to where it should be, and costs
// neither an order nor a change of the record.
func TestMarkLeftBehind(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	e, host := r.tenant("a", nil), "a."+base
	serial := r.served(host, "")
	marks := func() (past, future int) {
		due, _, err := r.vault.Due(t.Context(), s.now().Add(10*365*24*time.Hour), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range due {
			if d.At.After(s.now()) {
				future++
			} else {
				past++
			}
		}
		return past, future
	}
	until(t, "its mark stands", func() bool { past, future := marks(); return past == 0 && future == 1 })
	before, err := r.Get(t.Context(), e, host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.vault.Commit(t.Context(), vault.Of(e.Scope), vault.Batch{Moves: []vault.Move{{Name: host, To: s.now().Add(-time.Minute)}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is gone", func() bool { past, _ := marks(); return past == 0 })
	after, err := r.Get(t.Context(), e, host)
	if _, future := marks(); err != nil || future != 1 || s.issuer.attempts(host) != 1 || r.serial(host) != serial || after.Revision != before.Revision {
		t.Errorf("%d marks, %d orders, revisions %d and %d, %v", future, s.issuer.attempts(host), before.Revision, after.Revision, err)
	}
}

// TestColdNameCostsOneRead of the store: the record, and the key that opens it.
func TestColdNameCostsOneRead(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	e := r.tenant("a", nil)
	serial := r.served("a."+base, "")
	cold := s.stopped(nil)
	cold.knows(e.Record)
	before := cold.vault.reads.Load()
	if got := cold.serial("a." + base); got != serial {
		t.Errorf("served with %q", got)
	}
	if n := cold.vault.reads.Load() - before; n != 1 {
		t.Errorf("%d reads", n)
	}
}

// TestRenewalDespiteItsQuestion: an answer about renewal that makes the library panic keeps no certificate from being renewed.
func TestRenewalDespiteItsQuestion(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	r.tenant("a", nil)
	first := r.served("a."+base, "")
	s.issuer.infoPanics.Store(true)
	s.pass(s.issuer.life * 3 / 4)
	r.served("a."+base, first)
	if s.issuer.infos.Load() == 0 {
		t.Error("the issuer was not asked")
	}
}
