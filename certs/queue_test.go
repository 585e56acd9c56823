package certs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/certs"
	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// TestX09NoHandshakeWaitsForAnIssuer: it hangs, and handshakes are refused at once; what is served meanwhile stays.
func TestX09NoHandshakeWaitsForAnIssuer(t *testing.T) {
	s := newSite(t)
	hang := make(chan struct{})
	s.issuer.fails(func(context.Context, acme.Order) error { <-hang; return nil })
	r := s.newReplica(nil)
	r.tenant("a", nil)
	until(t, "the order began", func() bool { return s.issuer.attempts("a."+base) == 1 })
	begin := time.Now()
	if _, err := r.GetCertificate(hello("a." + base)); !errors.Is(err, certs.ErrPending) {
		t.Errorf("got %v, want ErrPending", err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the handshake waited for %s", d)
	}
	close(hang)
	r.served("a."+base, "")
	if n := s.issuer.issued("a." + base); n != 1 {
		t.Errorf("ordered %d times", n)
	}
}

// TestTwoReplicasOrderOnce has handshakes for 100 names on two replicas at once.
func TestTwoReplicasOrderOnce(t *testing.T) {
	s := newSite(t)
	a, b := s.newReplica(nil), s.newReplica(nil)
	const n = 100
	for i := range n {
		a.tenant(tenant.ID(fmt.Sprintf("t%d", i)), nil)
	}
	var wg sync.WaitGroup
	for i := range n {
		for _, r := range []*replica{a, b} {
			wg.Go(func() { r.served(fmt.Sprintf("t%d.%s", i, base), "") })
		}
	}
	wg.Wait()
	for i := range n {
		host := fmt.Sprintf("t%d.%s", i, base)
		if got := s.issuer.issued(host); got != 1 {
			t.Errorf("%s was ordered %d times", host, got)
		}
		if x, y := a.serial(host), b.serial(host); x != y {
			t.Errorf("%s: the replicas serve %s and %s", host, x, y)
		}
	}
}

// TestRenewal: at a third of the life, without one refused handshake, and once for two replicas.
func TestACMERenewal(t *testing.T) {
	s := newSite(t)
	a, b := s.newReplica(nil), s.newReplica(nil)
	a.tenant("a", nil)
	host := "a." + base
	first := a.served(host, "")
	s.pass(s.issuer.life/2 + 24*time.Hour)
	if a.serial(host) != first {
		t.Error("renewed with half its life left")
	}
	s.pass(s.issuer.life / 6)
	until(t, "renewed", func() bool {
		got := a.serial(host)
		if got == "" {
			t.Fatal("a handshake was refused")
		}
		return got != first
	})
	b.served(host, first)
	s.issuer.note(func() {
		if s.issuer.orders[host] != 2 || s.issuer.replaced != 1 {
			t.Errorf("%d orders, %d of which replace another; want 2 and 1", s.issuer.orders[host], s.issuer.replaced)
		}
	})
}

// TestRenewalInfo: the issuer wants it back early (RFC 9773).
func TestRenewalInfo(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	r.tenant("a", nil)
	first := r.served("a."+base, "")
	s.issuer.window.Store(&[2]time.Time{s.now().Add(-time.Hour), s.now()})
	s.pass(2 * time.Hour)
	r.served("a."+base, first)
	if n := s.issuer.infos.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestBackoffSurvivesRestart: a failure is written down, with its words, and a new process waits too.
func TestBackoffSurvivesRestart(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(context.Context, acme.Order) error {
		return &acme.Error{Code: acme.CodeRateLimited, Detail: "too many orders", RetryAfter: 3 * time.Hour}
	})
	r := s.newReplica(nil)
	e, host := r.tenant("a", nil), "a."+base
	status := func(r *replica) tenant.Certificate {
		c, err := r.Get(t.Context(), e, host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	until(t, "the failure is written", func() bool { return status(r).Attempts == 1 })
	c := status(r)
	if c.State != tenant.CertificateFailing || c.Code != "rate_limited" || c.Error != "too many orders" || c.NextAttempt.Sub(s.now()) < 2*time.Hour {
		t.Errorf("got %+v", c)
	}
	if _, err := r.Renew(t.Context(), e, host, entry(e)); !fault.Is(err, fault.RateLimited) || fault.From(err).RetryAfter < time.Hour {
		t.Errorf("Renew while the issuer wants patience: %v", err)
	}
	r.stop()
	s.issuer.fails(nil)
	again := s.newReplica(nil)
	again.knows(e.Record)
	again.tenant("b", nil) // is ordered by the new process: so its queue works
	again.served("b."+base, "")
	_, _ = again.GetCertificate(hello(host))
	if n := s.issuer.attempts(host); n != 1 {
		t.Errorf("%d attempts before the time the issuer asked for", n)
	}
	s.pass(3 * time.Hour)
	again.served(host, "")
	if c := status(again); c.State != tenant.CertificateReady || c.Attempts != 0 || c.Error != "" {
		t.Errorf("after a success: %+v", c)
	}
}

// TestMendedSettings: who corrects the settings under which an order failed need not wait for the end of its back-off: a
// tenant's account by its new record, the platform's by the next handshake after a restart.
func TestMendedSettings(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(_ context.Context, o acme.Order) error {
		if o.Account.Email == "right@example.org" {
			return nil
		}
		return &acme.Error{Code: acme.CodeEABRequired, Detail: "an account is wanted", Permanent: true}
	})
	account := func(email string) *tenant.ACME {
		return &tenant.ACME{Directory: "https://own.test/", Email: email}
	}
	r := s.newReplica(nil)
	own := r.tenant("own", func(rec *tenant.Record) {
		rec.Certificates = &tenant.Certificates{Source: tenant.SourceACME, ACME: account("wrong@example.org")}
	})
	other := r.tenant("other", nil)
	failed := func(e *tenant.Entry) {
		t.Helper()
		until(t, "the failure is written", func() bool {
			c, err := r.Get(t.Context(), e, string(e.Record.ID)+"."+base)
			return err == nil && c.Attempts == 1
		})
	}
	failed(own)
	failed(other)
	r.update("own", func(rec *tenant.Record) { rec.DisplayName = "another name" })
	r.update("own", func(rec *tenant.Record) { rec.Certificates.ACME = account("right@example.org") })
	until(t, "the next attempt is soon", func() bool {
		c, err := r.Get(t.Context(), own, "own."+base)
		return err == nil && c.NextAttempt.Sub(s.now()) < time.Minute
	})
	s.pass(30 * time.Second)
	r.served("own."+base, "")
	if n := s.issuer.attempts("own." + base); n != 2 {
		t.Errorf("%d attempts, want 2: another name is no other setting", n)
	}
	r.stop()
	s.newReplica(nil).knows(other.Record)
	again := s.newReplica(func(c *certs.Config) { c.Default.ACME = &tenant.ACME{Directory: platform, Email: "right@example.org"} })
	again.knows(other.Record)
	again.served("other."+base, "")
}

// TestPanicFailsOneOrder alone.
func TestPanicFailsOneOrder(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(_ context.Context, o acme.Order) error {
		if o.Names[0] == "bad."+base {
			panic("boom")
		}
		return nil
	})
	r := s.newReplica(nil)
	bad := r.tenant("bad", nil)
	r.tenant("good", nil)
	r.served("good."+base, "")
	until(t, "the failure is written", func() bool {
		c, err := r.Get(t.Context(), bad, "bad."+base)
		return err == nil && c.State == tenant.CertificateFailing && c.Code == "internal" && !strings.Contains(c.Error, "boom")
	})
}

// TestFailingIssuerBlocksNobody: 20 hosts of an issuer that hangs, and more of one that refuses, are before the good one.
func TestFailingIssuerBlocksNobody(t *testing.T) {
	s := newSite(t)
	s.issuer.fails(func(ctx context.Context, o acme.Order) error {
		switch o.Account.Directory {
		case "https://hangs.test/":
			<-ctx.Done()
			return ctx.Err()
		case "https://refuses.test/":
			return &acme.Error{Code: acme.CodeDirectoryUnreachable, Detail: "down"}
		}
		return nil
	})
	r := s.newReplica(func(c *certs.Config) { c.Limits = certs.Limits{Concurrent: 8, PerIssuer: 3, OrdersPerMinute: 1000} })
	of := func(directory string) func(*tenant.Record) {
		return func(rec *tenant.Record) {
			rec.Certificates = &tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: directory}}
		}
	}
	for i := range 20 {
		r.tenant(tenant.ID(fmt.Sprintf("h%d", i)), of("https://hangs.test/"))
		r.tenant(tenant.ID(fmt.Sprintf("r%d", i)), of("https://refuses.test/"))
	}
	until(t, "the bad ones are at it", func() bool { return s.issuer.attempts("r3."+base) > 0 })
	r.tenant("good", nil)
	r.served("good."+base, "")
}

// TestOrdersOfATenantAreBounded: it has more hosts than orders in an hour; the others' go on.
func TestOrdersOfATenantAreBounded(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(func(c *certs.Config) { c.Limits.OrdersPerTenantPerHour = 2 })
	r.tenant("greedy", func(rec *tenant.Record) { rec.Hosts = []string{"1.example", "2.example", "3.example", "4.example"} })
	r.tenant("modest", nil)
	r.served("modest."+base, "")
	all := func() (n int) {
		for _, h := range []string{"greedy." + base, "1.example", "2.example", "3.example", "4.example"} {
			n += s.issuer.attempts(h)
		}
		return n
	}
	until(t, "two orders", func() bool { return all() == 2 })
	r.tenant("last", nil)
	r.served("last."+base, "")
	if n := all(); n != 2 {
		t.Errorf("%d orders at once, want 2", n)
	}
	s.pass(31 * time.Minute)
	until(t, "another order", func() bool { return all() == 3 })
}

// TestCrashBetweenOrderAndSave is healed by the mark, which only the save moves.
func TestCrashBetweenOrderAndSave(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	s.issuer.fails(func(context.Context, acme.Order) error { r.vault.away(true); return nil }) // the store goes away in the middle
	r.tenant("a", nil)
	until(t, "the save fails", func() bool { return r.vault.refused.Load() > 0 })
	r.stop() // with the certificate in memory alone
	r.vault.away(false)
	s.issuer.fails(nil)
	again := s.newReplica(nil)
	again.served("a."+base, "")
}

// TestStoreAwayOrFullDuringOrder: what was obtained is served from memory, said in the status, and saved once it can be, by
// the same order.
func TestStoreAwayOrFullDuringOrder(t *testing.T) {
	for _, full := range []bool{true, false} {
		t.Run(fmt.Sprint("full ", full), func(t *testing.T) {
			s := newSite(t)
			r := s.newReplica(nil)
			fails := r.vault.away
			if full {
				fails = r.vault.full
			}
			s.issuer.fails(func(context.Context, acme.Order) error { fails(true); return nil })
			e := r.tenant("a", nil)
			serial := r.served("a."+base, "")
			if full {
				until(t, "the status tells", func() bool {
					c, err := r.Get(t.Context(), e, "a."+base)
					return err == nil && c.Code == "storage_full" && strings.Contains(c.Error, "compact it")
				})
			}
			fails(false)
			until(t, "it is saved", func() bool {
				c, err := r.Get(t.Context(), e, "a."+base)
				return err == nil && c.State == tenant.CertificateReady && c.Serial == serial && c.Error == "" && c.Revision != 0
			})
			if n := s.issuer.issued("a." + base); n != 1 || r.serial("a."+base) != serial {
				t.Errorf("%d orders, or another certificate", n)
			}
		})
	}
}

// TestWildcardSparesOrders: one for all tenants but those with a source of their own, and custom hosts.
func TestWildcardSparesOrders(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(func(c *certs.Config) { c.Wildcard = true })
	for _, id := range []tenant.ID{"a", "b", "c"} {
		r.tenant(id, nil)
	}
	own := r.tenant("own", func(rec *tenant.Record) {
		rec.Hosts = []string{"shop.example"}
		rec.Certificates = &tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: "https://own.test/"}}
	})
	r.tenant("custom", func(rec *tenant.Record) { rec.Hosts = []string{"custom.example"} })
	w := r.served("a."+base, "")
	for _, h := range []string{"b." + base, "c." + base, "custom." + base} {
		if got := r.served(h, ""); got != w {
			t.Errorf("%s is not served with the wildcard", h)
		}
	}
	for _, h := range []string{"own." + base, "shop.example", "custom.example"} {
		if got := r.served(h, ""); got == w {
			t.Errorf("%s is served with the wildcard", h)
		}
	}
	if n := s.issuer.attempts("a." + base); n != 0 {
		t.Error("a tenant's own host was ordered besides")
	}
	list, err := r.List(t.Context(), own)
	if err != nil || len(list) != 2 || list[0].State != tenant.CertificateReady || list[1].Host != "shop.example" {
		t.Errorf("List: %+v, %v", list, err)
	}
	s.pass(s.issuer.life * 7 / 10)
	next := r.served("a."+base, w) // renewed: all follow
	if got := r.served("b."+base, w); got != next {
		t.Error("another wildcard")
	}
}

// TestOverdueIsPutBackOnce: handshakes for a host whose renewal is long overdue must not change its record over and over, each
// change making the next handshake read and change it anew.
func TestOverdueIsPutBackOnce(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	e, host := r.tenant("a", nil), "a."+base
	r.served(host, "")
	r.stop()
	s.pass(s.issuer.life * 3 / 4)
	hang := make(chan struct{})
	s.issuer.fails(func(ctx context.Context, _ acme.Order) error {
		select {
		case <-hang:
		case <-ctx.Done():
		}
		return ctx.Err()
	})
	again := s.newReplica(nil)
	again.knows(e.Record)
	revision := func() int64 {
		c, err := again.Get(t.Context(), e, host)
		if err != nil {
			t.Fatal(err)
		}
		return c.Revision
	}
	until(t, "the renewal began", func() bool { again.serial(host); return s.issuer.attempts(host) == 2 })
	seen := map[int64]bool{}
	for range 100 {
		again.Changed("", "")
		if again.serial(host) == "" {
			t.Fatal("refused")
		}
		seen[revision()] = true
	}
	if len(seen) > 2 {
		t.Errorf("the record was changed %d times", len(seen)-1)
	}
	close(hang)
}
