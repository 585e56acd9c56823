package certs

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/polygate/polygate/certs/keep"
	"github.com/polygate/polygate/internal/tenant"
)

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 2 * time.Second, 1: 2 * time.Second, 2: 5 * time.Second, 4: time.Minute, 8: 6 * time.Hour, 1000: 6 * time.Hour} {
		if got := backoff(n, 0.5); got != want {
			t.Errorf("after %d failures: %s, want %s", n, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n, r := rapid.IntRange(-1, 1000).Draw(t, "n"), rapid.Float64Range(0, 0.999).Draw(t, "r")
		asked := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "asked"))
		wait := retryIn(n, rapid.Bool().Draw(t, "permanent"), asked, r)
		if wait < min(asked, maxRetryAfter) || wait > max(maxRetryAfter, 8*time.Hour) || wait < time.Second {
			t.Errorf("waits %s, asked for %s", wait, asked)
		}
	})
}

// TestNextLook: a host with a certificate is looked at again before its end, whatever its record says; nothing is looked at
// without a reason, and a look leaves no mark in the past but for an order.
func TestNextLook(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(t *rapid.T, name string) time.Time {
		if rapid.Bool().Draw(t, name+" unset") {
			return time.Time{}
		}
		return now.Add(time.Duration(rapid.Int64Range(-1000, 1000).Draw(t, name)) * time.Hour)
	}
	rapid.Check(t, func(t *rapid.T) {
		h := &keep.Host{
			Source:    rapid.SampledFrom([]tenant.CertificateSource{tenant.SourceACME, tenant.SourceProvided, tenant.SourceLocalCA}).Draw(t, "source"),
			NotBefore: now.Add(-2000 * time.Hour), NotAfter: at(t, "end"), RenewAt: at(t, "renew"), Revoked: at(t, "revoked"), InfoAt: at(t, "info"),
			Order: keep.Order{Attempts: rapid.IntRange(0, 3).Draw(t, "attempts"), Next: at(t, "next"), Forced: rapid.Bool().Draw(t, "forced"), Last: at(t, "last")},
		}
		if rapid.Bool().Draw(t, "chain") {
			h.Chain = []byte("x")
		}
		p := plan{source: tenant.SourceACME, ordered: rapid.Bool().Draw(t, "ordered")}
		if h.Order.Attempts > 0 {
			h.Order.Under = p.under()
		}
		next := nextLook(h, p, now)
		switch ok := usable(h, now); {
		case ok && (next.IsZero() || next.After(h.NotAfter)) && !(h.Order.Attempts > 0 && h.Order.Next.Equal(next)):
			t.Errorf("served until %s and looked at on %s", h.NotAfter, next)
		case !ok && p.ordered && next.IsZero():
			t.Error("without a certificate, and never looked at")
		case !ok && !p.ordered && !next.IsZero():
			t.Errorf("nothing to do, and looked at on %s", next)
		case h.Order.Attempts > 0 && due(orderAt(h, p, now), now) && h.Order.Next.After(now):
			t.Error("ordered before its time")
		}
	})
}

func TestRenewTimes(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(90 * 24 * time.Hour)
	for _, r := range []float64{0, 0.5, 0.999} {
		at := renewAt(from, to, r)
		if left := to.Sub(at); left < 30*24*time.Hour || left > 33*24*time.Hour {
			t.Errorf("renewed with %s left", left)
		}
		if got := pickWindow(to.Add(-time.Hour), to.Add(time.Hour), from, to, r); to.Sub(got) < 15*24*time.Hour {
			t.Errorf("the issuer's window puts it at %s", got)
		}
	}
}

func TestIsChild(t *testing.T) {
	for host, want := range map[string]bool{"a.gate.test": true, "b.a.gate.test": false, "gate.test": false, ".gate.test": false, "*.gate.test": false, "a.gate.test.": false, "a.other.test": false} {
		if got := isChild(host, "gate.test"); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
	if isChild("a.", "") {
		t.Error("a child of no base")
	}
}

// TestRates: total, per tenant, shared by replicas; an issuer that fails leaves half to the others.
func TestRates(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	replicas := 2
	r := newRates(Limits{OrdersPerMinute: 20, OrdersPerTenantPerHour: 4}, func() int { return replicas })
	take := func(owner string, failing bool) (n int) {
		for r.take(owner, owner == "_", failing, now) {
			n++
		}
		return n
	}
	if n := take("a", false); n != 2 {
		t.Errorf("a tenant begins %d of 4 orders on one of 2 replicas", n)
	}
	if n := take("_", true); n != 3 {
		t.Errorf("a failing issuer takes %d of the 8 that are left, want 3", n)
	}
	if n := take("_", false); n != 5 {
		t.Errorf("the others have %d, want 5", n)
	}
	if got := r.may("b", false, now); got != notAny {
		t.Errorf("over the total: %v", got)
	}
	now = now.Add(time.Minute)
	if got := r.may("a", false, now); got != notThis {
		t.Errorf("a tenant's rate came back within a minute: %v", got)
	}
	now = now.Add(30 * time.Minute)
	if n := take("a", false); n != 1 {
		t.Errorf("after half an hour: %d", n)
	}
	now = now.Add(-time.Hour) // the clock goes back
	if take("c", false) == 0 {
		t.Error("a clock that goes back stops orders")
	}
}
