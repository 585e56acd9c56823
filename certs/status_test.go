package certs_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/polygate/polygate/certs/acme"
	"github.com/polygate/polygate/internal/fault"
	"github.com/polygate/polygate/internal/tenant"
)

// TestStatusOfTheLocalAuthority: what it signs is kept in memory alone, and shown all the same; once somebody asks for another,
// the status does not go on about the one before, which nobody is served with any more.
func TestStatusOfTheLocalAuthority(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e, host := r.tenant("a", nil), "a."+base
	get := func() tenant.Certificate {
		t.Helper()
		c, err := r.Get(t.Context(), e, host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := get(); c.State != tenant.CertificatePending || c.Chain != "" {
		t.Errorf("before the first handshake: %+v", c)
	}
	first := r.served(host, "")
	if c := get(); c.State != tenant.CertificateReady || c.Serial != first || strings.Count(c.Chain, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("served %s: %+v", first, c)
	}
	list, err := r.List(t.Context(), e)
	if err != nil || len(list) != 1 || list[0].Chain != "" {
		t.Errorf("List: %+v, %v: want no chain", list, err)
	}
	for _, change := range []struct {
		name string
		do   func() (tenant.Certificate, error)
	}{
		{"renew", func() (tenant.Certificate, error) { return r.Renew(t.Context(), e, host, entry(e)) }},
		{"revoke", func() (tenant.Certificate, error) { return r.Revoke(t.Context(), e, host, 0, entry(e)) }},
	} {
		before := r.served(host, "")
		c, err := change.do()
		if err != nil || c.State != tenant.CertificatePending || c.Fingerprint != "" || c.Chain != "" {
			t.Errorf("%s: got %+v, %v, want pending and nothing of the one before", change.name, c, err)
		}
		if c := get(); c.State != tenant.CertificatePending || c.Serial != "" {
			t.Errorf("after %s: %+v", change.name, c)
		}
		after := r.served(host, before)
		if c := get(); c.State != tenant.CertificateReady || c.Serial != after {
			t.Errorf("served %s after %s: %+v", after, change.name, c)
		}
	}
}

// TestStatusUnderAWildcard that operators provided: it is shown as what it is, with no renewal that nobody will see to, and a
// tenant that asks for another one, or for its revocation, is told that it is not the tenant's.
func TestStatusUnderAWildcard(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e, host := r.tenant("a", nil), "a."+base
	chain, key, serial := s.issuer.provided(t, 24*time.Hour, "*."+base)
	if _, err := r.Import(t.Context(), nil, "*."+base, chain, key, 0, entry(nil)); err != nil {
		t.Fatal(err)
	}
	r.served(host, "")
	c, err := r.Get(t.Context(), e, host)
	if err != nil || c.State != tenant.CertificateReady || c.Source != tenant.SourceProvided || c.Serial != serial || !c.RenewAt.IsZero() || c.Chain != string(chain) {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := r.Renew(t.Context(), e, host, entry(e)); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "operators renew") {
		t.Errorf("Renew: %v", err)
	}
	if _, err := r.Revoke(t.Context(), e, host, 0, entry(e)); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "operators revoke") {
		t.Errorf("Revoke: %v", err)
	}
	if got := r.serial(host); got != serial {
		t.Errorf("served %s, want the wildcard %s", got, serial)
	}
}

// TestStatusAfterAChange: what is over, or of a source that was given up, is not told as if it were served or tried.
func TestStatusAfterAChange(t *testing.T) {
	s := newSite(t)
	r := s.newReplica(localPlatform)
	e, host := r.tenant("a", nil), "a."+base
	get := func() tenant.Certificate {
		t.Helper()
		c, err := r.Get(t.Context(), e, host)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	chain, key, _ := s.issuer.provided(t, 24*time.Hour, host)
	if _, err := r.Import(t.Context(), e, host, chain, key, 0, entry(e)); err != nil {
		t.Fatal(err)
	}
	c, err := r.Revoke(t.Context(), e, host, 0, entry(e))
	if err != nil || c.State != tenant.CertificatePending || c.Source != tenant.SourceLocalCA || c.Fingerprint != "" || c.Chain != "" || !c.NotAfter.IsZero() {
		t.Errorf("provided and revoked, before the local authority has signed: %+v, %v", c, err)
	}

	s.issuer.fails(func(context.Context, acme.Order) error {
		return &acme.Error{Code: acme.CodeCAA, Permanent: true, Detail: "forbidden"}
	})
	e = r.update("a", func(rec *tenant.Record) {
		rec.Certificates = &tenant.Certificates{Source: tenant.SourceACME, ACME: &tenant.ACME{Directory: platform}}
	})
	until(t, "the order fails", func() bool { return get().Attempts == 1 })
	e = r.update("a", func(rec *tenant.Record) { rec.Certificates = nil })
	serial := r.served(host, "")
	if c := get(); c.State != tenant.CertificateReady || c.Serial != serial || c.Error != "" || c.Attempts != 0 {
		t.Errorf("back at the local authority: %+v", c)
	}

	e, host = r.tenant("p", func(rec *tenant.Record) {
		rec.Mode, rec.Passthrough = tenant.ModePassthrough, &tenant.Passthrough{Upstream: "gw.example:443"}
	}), "p."+base
	if c := get(); c.State != tenant.CertificatePending || c.Code != "passthrough" || c.Serial != "" {
		t.Errorf("passthrough: %+v", c)
	}
	if _, err := r.Renew(t.Context(), e, host, entry(e)); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "own gateway") {
		t.Errorf("Renew for passthrough: %v", err)
	}
}
