package certs_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/acme"
)

// TestX41OrderInFlight: a tenant is deleted and made again while its order hangs. The next one's order does not wait for that, nor
// for a handshake, and what comes of the former one changes nothing.
func TestX41OrderInFlight(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	host := "a." + base
	began, end := make(chan struct{}), make(chan struct{})
	var first sync.Once
	s.issuer.fails(func(ctx context.Context, _ acme.Order) error {
		former := false
		first.Do(func() { former = true })
		if former {
			close(began)
			select {
			case <-end:
			case <-ctx.Done():
			}
		}
		return nil
	})
	r.tenant("a", nil)
	<-began
	if err := r.store.DeleteTenant(t.Context(), "a", 0, entryOf(nil, "tenant.delete", "tenant/a", "ok")); err != nil {
		t.Fatal(err)
	}
	e := r.tenant("a", nil)
	serial := func() string {
		c, err := r.Get(t.Context(), e, host)
		if err != nil {
			t.Fatal(err)
		}
		return c.Serial
	}
	until(t, "the next tenant has its certificate", func() bool { return serial() != "" })
	got := serial()
	close(end)
	until(t, "the former order ends", func() bool { return r.Stats().Ordering == 0 })
	if now := r.serial(host); s.issuer.issued(host) != 2 || now != got || serial() != got {
		t.Errorf("%d certificates were issued; served is %s, want %s", s.issuer.issued(host), now, got)
	}
}

// TestStatusTellsOfAFullStore: while the store takes no changes, the status says why nothing is renewed, though that cannot be
// written down; when there is room again, the certificate is renewed and the status is clean.
func TestStatusTellsOfAFullStore(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(nil)
	e, host := r.tenant("a", nil), "a."+base
	first := r.served(host, "")
	s.issuer.fails(func(context.Context, acme.Order) error { return &acme.Error{Code: acme.CodeServer, Detail: "not now"} })
	s.pass(s.issuer.life * 2 / 3)
	status := func(code, says string) func() bool {
		return func() bool {
			c, err := r.Get(t.Context(), e, host)
			return err == nil && c.Code == code && strings.Contains(c.Error, says)
		}
	}
	until(t, "the order fails", status(acme.CodeServer, "not now"))
	r.vault.full(true)
	s.issuer.fails(nil)
	s.pass(time.Hour)
	until(t, "the status tells", status(acme.CodeStorageFull, "compact it"))
	if r.serial(host) != first {
		t.Error("the old certificate is not served")
	}
	if at, ok := r.Expiries(10)["a"]; !ok || at.Before(s.now()) {
		t.Errorf("the certificate ends on %s, by the metrics", at)
	}
	r.vault.full(false)
	s.pass(time.Hour)
	r.served(host, first)
	until(t, "the status is clean", status("", ""))
}
